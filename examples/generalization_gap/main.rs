//! The generalisation gap of large batches, and what closes it, on real images: the five columns of Hoffer, Hubara and
//! Soudry's table ("Train longer, generalize better", 2017) with a small network on Fashion-MNIST.
//!
//!     scripts/fashion-mnist data/fashion-mnist
//!     cargo run --release --example generalization_gap -- data/fashion-mnist runs/generalization-gap
//!
//! prints a table and writes it to `gap.md`, and everything measured to `gap.json`. Each run is kept in a file of its
//! own, so that what was stopped goes on where it was. `-- DATA DIR ROWS EPOCHS SEEDS HELD` takes other numbers than
//! 2,000 images, 15 epochs of the small batch, 3 seeds and all 10,000 held-out images.

mod images;
mod network;

use std::path::Path;
use std::time::Instant;

use images::Images;
use network::{Network, Sgd};
use retort::config::{Noise, Rules};
use retort::data::Sampler;
use retort::error::{Error, Result};
use retort::optim::diffusion::{self, Fit};
use retort::optim::regime::Recipe;
use retort::store::{Folder, read_file};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Images of a small batch, and of a ghost.
const SMALL: usize = 32;
/// Images of a large one.
const LARGE: usize = 256;
/// The small batch's learning rate; a tenth of it after each of these shares of the updates, the paper's.
const LR: f64 = 0.05;
const DROPS: [f64; 3] = [81.0 / 200.0, 122.0 / 200.0, 164.0 / 200.0];
/// The largest norm of a gradient where the learning rate is scaled.
const CLIP: f64 = 1.0;
/// Student's t, 97.5 %, by degrees of freedom from 1.
const T: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

/// A column of the table. Each has what the ones before it have.
#[derive(Clone, Copy)]
struct Arm {
    name: &'static str,
    batch: usize,
    /// The learning rate times the root of the batches' ratio, and gradients clipped.
    rate: bool,
    ghosts: bool,
    /// As many updates as the small batch has, with its drops after as many.
    updates: bool,
}

const ARMS: [Arm; 5] = [
    Arm { name: "small batch", batch: SMALL, rate: false, ghosts: false, updates: true },
    Arm { name: "large batch", batch: LARGE, rate: false, ghosts: false, updates: false },
    Arm { name: "+ learning rate", batch: LARGE, rate: true, ghosts: false, updates: false },
    Arm { name: "+ ghost batch norm", batch: LARGE, rate: true, ghosts: true, updates: false },
    Arm { name: "+ regime adaptation", batch: LARGE, rate: true, ghosts: true, updates: true },
];

/// What came of a run.
#[derive(Clone, Serialize, Deserialize)]
struct Cell {
    arm: String,
    seed: u64,
    updates: u64,
    /// In percent, of held-out and of learnt images.
    accuracy: f64,
    learnt: f64,
    seconds: f64,
    /// The distance of the weights from where they began, after some updates, and laws of it up to the first drop.
    distance: Vec<(u64, f64)>,
    diffusion: Option<Fit>,
}

fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default: usize| match given.get(n) {
        None => Ok(default),
        Some(text) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
            Error::user("not a number from 1 on").found(text).expected("DATA DIR ROWS EPOCHS SEEDS HELD")
        }),
    };
    let path = |n: usize, default: &str| given.get(n).map_or(default, String::as_str).to_string();
    let (rows, epochs, seeds) = (number(2, 2_000)?, number(3, 15)?, number(4, 3)?);
    let (data, out) = (path(0, "data/fashion-mnist"), path(1, "runs/generalization-gap"));
    let (learnt, held) = images::load(Path::new(&data), rows, number(5, usize::MAX)?)?;
    let folder = Folder::create(out)?;
    tch::set_num_threads(1);
    let mut cells = Vec::new();
    for seed in 1..=seeds as u64 {
        for arm in &ARMS {
            let name =
                format!("{}-{seed}-{rows}-{epochs}.json", arm.name.replace("+ ", "").replace(' ', "-"));
            let kept = read_file(&folder.path(&name)?, 1 << 20)?;
            let cell = match kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                Some(cell) => cell,
                None => {
                    let cell = train(arm, seed, epochs, &learnt, &held)?;
                    folder.write_bytes(&name, &json(&cell)?)?;
                    cell
                }
            };
            println!("{} {seed}: {:.2} % in {:.0} s", arm.name, cell.accuracy, cell.seconds);
            cells.push(cell);
        }
    }
    let table = table(&cells);
    println!("\n{table}");
    folder.write_bytes("gap.md", table.as_bytes())?;
    folder.write_bytes("gap.json", &json(&cells)?)
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::bug("JSON cannot be written").found(e))
}

/// One run.
fn train(arm: &Arm, seed: u64, epochs: usize, learnt: &Images, held: &Images) -> Result<Cell> {
    let begun = Instant::now();
    let updates = |batch: usize| (epochs * learnt.rows()).div_ceil(batch) as u64;
    let small = Recipe {
        steps: updates(SMALL),
        warmup: 0,
        lr: LR,
        min_lr: 0.0,
        // SGD has neither.
        betas: [0.9, 0.9],
        eps: 1e-8,
        noise: 0.0,
    };
    let hoffer = small.scaled(Rules::Hoffer, Noise::None, arm.batch as u64, SMALL as u64)?;
    let steps = if arm.updates { hoffer.steps } else { updates(arm.batch) };
    let lr = if arm.rate { hoffer.lr } else { small.lr };
    let ghost = if arm.ghosts { SMALL } else { arm.batch };
    let network = Network::new(seed, ghost as i64)?;
    let parameters = network.parameters();
    let start: Vec<Tensor> = parameters.iter().map(|p| p.detach().copy()).collect();
    let mut sgd = Sgd::new(parameters, if arm.rate { CLIP } else { 0.0 })?;
    let mut sampler = Sampler::new(seed, learnt.rows(), arm.batch);
    let mut distance = Vec::new();
    let drops = DROPS.map(|share| (share * steps as f64).round() as u64);
    for step in 1..=steps {
        let rows: Vec<i64> = sampler.next_batch().into_iter().map(|row| row as i64).collect();
        let rows = Tensor::f_from_slice(&rows)?;
        let of = |t: &Tensor| t.f_index_select(0, &rows);
        network.loss(&of(&learnt.pixels)?, &of(&learnt.classes)?, true)?.f_backward()?;
        let passed = drops.iter().filter(|drop| step > **drop).count();
        sgd.step(lr * 0.1f64.powi(passed as i32))?;
        if diffusion::due(step) {
            distance.push((step, far(&network.parameters(), &start)?));
        }
    }
    Ok(Cell {
        arm: arm.name.into(),
        seed,
        updates: steps,
        accuracy: network.accuracy(&held.pixels, &held.classes)?,
        learnt: network.accuracy(&learnt.pixels, &learnt.classes)?,
        seconds: begun.elapsed().as_secs_f64(),
        diffusion: Fit::of(&distance, 1, drops[0]),
        distance,
    })
}

/// The distance between two lists of tensors.
fn far(now: &[Tensor], start: &[Tensor]) -> Result<f64> {
    let _off = tch::no_grad_guard();
    let mut sum = 0.0;
    for (a, b) in now.iter().zip(start) {
        sum += a.f_sub(b)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    Ok(sum.sqrt())
}

/// The mean and half the width of its interval of 95 %, over seeds.
fn spread(values: &[f64]) -> String {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    match T.get(values.len().wrapping_sub(2)) {
        Some(t) => format!("{mean:.2} ± {:.2}", t * (variance / n).sqrt()),
        None => format!("{mean:.2}"),
    }
}

fn table(cells: &[Cell]) -> String {
    let mut out = String::from(
        "| | updates | held-out accuracy, % | minus small batch | learnt images, % | time, s | R² of log t | R² of a power |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let of = |name: &str| cells.iter().filter(move |cell| cell.arm == name).collect::<Vec<&Cell>>();
    let base = of(ARMS[0].name);
    for arm in &ARMS {
        let own = of(arm.name);
        let all = |pick: &dyn Fn(&Cell) -> f64| own.iter().map(|cell| pick(cell)).collect::<Vec<f64>>();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let less: Vec<f64> = own.iter().zip(&base).map(|(a, b)| a.accuracy - b.accuracy).collect();
        let r2 = |pick: &dyn Fn(&Fit) -> f64| {
            let found: Vec<f64> = own.iter().filter_map(|cell| cell.diffusion.as_ref().map(pick)).collect();
            if found.is_empty() { "-".to_string() } else { format!("{:.3}", mean(found)) }
        };
        out += &format!(
            "| {} | {} | {} | {} | {} | {:.0} | {} | {} |\n",
            arm.name,
            own.first().map_or(0, |cell| cell.updates),
            spread(&all(&|cell| cell.accuracy)),
            if arm.name == ARMS[0].name { "-".into() } else { spread(&less) },
            spread(&all(&|cell| cell.learnt)),
            mean(all(&|cell| cell.seconds)),
            r2(&|fit| fit.r2),
            r2(&|fit| fit.power_r2),
        );
    }
    out
}
