//! One Gaussian fitted to a mixture of two, by each objective: the divergences of the library on a grid of
//! places that stand for a vocabulary, and MiniLLM's policy gradient on samples.

use rand_distr::{Distribution, Normal};
use retort::error::{Error, Result};
use retort::report::draw::{Axis, Chart, Drawing, Series};
use retort::seed::{Stream, generator};
use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::pair::{Pair, Soft};
use tch::{Kind, Tensor};

/// The teacher: weight, mean, deviation.
const TEACHER: [(f64, f64, f64); 2] = [(0.6, -2.0, 0.7), (0.4, 2.2, 0.9)];

/// The places.
const EDGE: f64 = 8.0;
const PLACES: i64 = 321;

/// Samples of a gradient, gradients, and how far one goes.
const SAMPLES: usize = 64;
const UPDATES: u64 = 4000;
const RATE: f64 = 0.02;

/// Where its student starts: mean, and logarithm of the deviation. It has learnt something already. From a wide start
/// the gradient of the reverse KL ends in a local minimum that covers both modes, at mean 0.15 and deviation 1.97.
const START: (f64, f64) = (-1.0, 0.0);

/// What an objective came to.
#[derive(Debug, Clone)]
pub struct Fit {
    pub name: &'static str,
    pub mean: f64,
    pub deviation: f64,
}

impl Fit {
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({"objective": self.name, "mean": self.mean, "deviation": self.deviation})
    }
}

/// The objectives of both halves, by their names.
pub const DIVERGENCES: [(&str, Divergence); 6] = [
    ("forward KL", Divergence::ForwardKl),
    ("skew forward KL", Divergence::SkewForwardKl { skew: 0.1 }),
    ("JSD", Divergence::Jsd { beta: 0.5, normalised: false }),
    ("TVD", Divergence::Tvd),
    ("skew reverse KL", Divergence::SkewReverseKl { skew: 0.1 }),
    ("reverse KL", Divergence::ReverseKl),
];

/// The best Gaussian by each of them, and where MiniLLM's samples lead.
pub fn fits() -> Result<Vec<Fit>> {
    let mut fits = Vec::new();
    for (name, divergence) in DIVERGENCES {
        let (mean, deviation) = smallest(divergence)?;
        fits.push(Fit { name, mean, deviation });
    }
    let (mean, deviation) = sampled()?;
    fits.push(Fit { name: "MiniLLM", mean, deviation });
    Ok(fits)
}

/// The density of the teacher.
fn teacher(x: f64) -> f64 {
    TEACHER.iter().map(|(weight, mean, deviation)| weight * gaussian(x, *mean, *deviation)).sum()
}

fn gaussian(x: f64, mean: f64, deviation: f64) -> f64 {
    let z = (x - mean) / deviation;
    (-0.5 * z * z).exp() / (deviation * std::f64::consts::TAU.sqrt())
}

fn places() -> Tensor {
    Tensor::linspace(-EDGE, EDGE, PLACES, (Kind::Double, tch::Device::Cpu))
}

/// The mean and deviation with the smallest divergence: all on a coarse grid, then finer around the best.
fn smallest(divergence: Divergence) -> Result<(f64, f64)> {
    let x_v = places();
    let p_v = TEACHER.iter().fold(x_v.zeros_like(), |sum, (weight, mean, deviation)| {
        let z_v = (&x_v - *mean) / *deviation;
        sum + (&z_v * &z_v * -0.5).exp() * (*weight / *deviation)
    });
    let (mut mean, mut deviation, mut reach) = (0.0, 2.5, (5.0, 2.3));
    for _ in 0..6 {
        let along = |middle: f64, reach: f64| (-24..=24).map(move |n| middle + reach * f64::from(n) / 24.0);
        let all: Vec<(f64, f64)> = along(mean, reach.0)
            .flat_map(|m| along(deviation, reach.1).map(move |d| (m, d)))
            .filter(|(_, d)| *d > 0.05)
            .collect();
        let column = |values: Vec<f64>| Tensor::from_slice(&values).unsqueeze(-1);
        let means_c1 = column(all.iter().map(|(m, _)| *m).collect());
        let deviations_c1 = column(all.iter().map(|(_, d)| *d).collect());
        let z_cv = (&x_v - &means_c1) / &deviations_c1;
        let q = Soft::of(&(&z_cv * &z_cv * -0.5), false).map_err(bad)?;
        let p = Soft::of(&p_v.log().expand_as(&q.log_cv), false).map_err(bad)?;
        let values_c = divergence.at(&Pair { q, p: Some(p), drawn: None }, false).map_err(bad)?.value_c;
        (mean, deviation) = all[values_c.argmin(None, false).int64_value(&[]) as usize];
        reach = (reach.0 / 6.0, reach.1 / 6.0);
    }
    Ok((mean, deviation))
}

fn bad(e: retort_policies::Error) -> Error {
    Error::bug("a divergence could not be computed").found(e)
}

/// Policy gradient on the reverse KL with samples of the student: the reward of a sample is log p - log q.
fn sampled() -> Result<(f64, f64)> {
    let (mut mean, mut log_deviation) = START;
    for step in 0..UPDATES {
        let deviation = log_deviation.exp();
        let q = Normal::new(mean, deviation).map_err(|e| Error::bug("no Gaussian").found(e))?;
        let mut draws = generator(1, Stream::Sample, step, 0);
        let drawn: Vec<f64> = (0..SAMPLES).map(|_| q.sample(&mut draws)).collect();
        let rewards: Vec<f64> =
            drawn.iter().map(|x| (teacher(*x) / gaussian(*x, mean, deviation)).ln()).collect();
        let middle = rewards.iter().sum::<f64>() / SAMPLES as f64;
        let (mut to_mean, mut to_deviation) = (0.0, 0.0);
        for (x, reward) in drawn.iter().zip(&rewards) {
            let z = (x - mean) / deviation;
            let advantage = (reward - middle) / SAMPLES as f64;
            to_mean += advantage * z / deviation;
            to_deviation += advantage * (z * z - 1.0);
        }
        mean += RATE * to_mean;
        log_deviation += RATE * to_deviation;
    }
    Ok((mean, log_deviation.exp()))
}

/// For a terminal.
pub fn table(fits: &[Fit]) -> String {
    let mut text = format!("{:<16}  {:>6}  {:>9}\n", "objective", "mean", "deviation");
    for fit in fits {
        text += &format!("{:<16}  {:>6.2}  {:>9.2}\n", fit.name, fit.mean, fit.deviation);
    }
    text
}

/// The densities.
pub fn chart(fits: &[Fit]) -> Drawing {
    let xs = || (0..=160).map(|n| -EDGE + f64::from(n) * EDGE / 80.0);
    let mut chart = Chart::new(
        "A mixture of two, and one Gaussian by each objective",
        Axis::new("x"),
        Axis::new("density"),
    )
    .sized(900, 320)
    .with(Series::curve("teacher", xs().map(|x| (x, teacher(x)))));
    for fit in fits {
        let density = |x| (x, gaussian(x, fit.mean, fit.deviation));
        chart = chart.with(Series::curve(fit.name, xs().map(density)));
    }
    chart.draw()
}
