//! The divergences a second time: float64, ndarray, straight from their definitions, a token at a time,
//! with derivatives by finite differences. Each knows how to be wrong, for the tests of the tests.

use ndarray::{Array1, Array2, ArrayView1};
use retort_policies::objective::akl::Head;
use retort_policies::objective::divergence::Divergence;

/// A way to be wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wrong {
    /// p and q exchanged.
    Swapped,
    /// The sign.
    Negated,
    /// The mixture's weights exchanged.
    OtherMixture,
    /// Not normalised where it should be, or the other way round.
    OtherScale,
    /// The other head of AKL.
    OtherHead,
    /// The weights of AKL carry gradient.
    WeightsNotDetached,
    /// The teacher held fixed in the mixture is the student: m without gradient.
    MixtureDetached,
    /// The soft cross-entropy in place of the divergence.
    SoftCrossEntropy,
    /// The temperature divides the student's logits too.
    StudentHeated,
    /// The value times T^2.
    SquaredTemperature,
}

pub fn log_softmax(z: ArrayView1<f64>) -> Array1<f64> {
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = z.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
    z.mapv(|x| x - top - sum)
}

/// `sum a (log a - log b)` with 0 log 0 = 0.
pub fn kl(log_a: &Array1<f64>, log_b: &Array1<f64>) -> f64 {
    let one = |(a, b): (&f64, &f64)| if *a == f64::NEG_INFINITY { 0.0 } else { a.exp() * (a - b) };
    log_a.iter().zip(log_b).map(one).sum()
}

fn log_mix(log_a: &Array1<f64>, log_b: &Array1<f64>, of_a: f64) -> Array1<f64> {
    let one = |(a, b): (&f64, &f64)| (of_a * a.exp() + (1.0 - of_a) * b.exp()).ln();
    log_a.iter().zip(log_b).map(one).collect()
}

/// One token. `held` are the student's logits where no derivative is taken.
pub fn divergence(
    which: Divergence,
    z_q: ArrayView1<f64>,
    z_p: ArrayView1<f64>,
    held: ArrayView1<f64>,
    wrong: Option<Wrong>,
) -> f64 {
    let (mut lq, mut lp) = (log_softmax(z_q), log_softmax(z_p));
    let held = log_softmax(held);
    if wrong == Some(Wrong::Swapped) {
        std::mem::swap(&mut lq, &mut lp);
    }
    let in_mixture = if wrong == Some(Wrong::MixtureDetached) { &held } else { &lq };
    let other = wrong == Some(Wrong::OtherMixture);
    let weight = |x: f64| if other { 1.0 - x } else { x };
    let value = match which {
        Divergence::ForwardKl if wrong == Some(Wrong::SoftCrossEntropy) => {
            -lp.iter().zip(&lq).map(|(p, q)| p.exp() * q).sum::<f64>()
        }
        Divergence::ForwardKl => kl(&lp, &lq),
        Divergence::ReverseKl => kl(&lq, &lp),
        Divergence::Jsd { beta, normalised } => {
            let m = log_mix(&lp, in_mixture, weight(beta));
            let plain = beta * kl(&lp, &m) + (1.0 - beta) * kl(&lq, &m);
            let product = beta * (1.0 - beta);
            let as_kl = if beta <= 1e-3 { Some(kl(&lp, &lq)) } else { None };
            let as_kl = if beta >= 1.0 - 1e-3 { Some(kl(&lq, &lp)) } else { as_kl };
            match (as_kl, normalised != (wrong == Some(Wrong::OtherScale))) {
                (Some(kl), true) => kl,
                (Some(kl), false) => product * kl,
                (None, true) => plain / product,
                (None, false) => plain,
            }
        }
        Divergence::SkewForwardKl { skew } => kl(&lp, &log_mix(&lp, in_mixture, weight(skew))),
        Divergence::SkewReverseKl { skew } => kl(&lq, &log_mix(in_mixture, &lp, weight(skew))),
        Divergence::Tvd => 0.5 * lq.iter().zip(&lp).map(|(q, p)| (q.exp() - p.exp()).abs()).sum::<f64>(),
        Divergence::Akl { head } => akl(&lq, &lp, &held, head, wrong),
    };
    if wrong == Some(Wrong::Negated) { -value } else { value }
}

fn akl(lq: &Array1<f64>, lp: &Array1<f64>, held: &Array1<f64>, head: Head, wrong: Option<Wrong>) -> f64 {
    let weights_from = if wrong == Some(Wrong::WeightsNotDetached) { lq } else { held };
    let code = (head == Head::Code) != (wrong == Some(Wrong::OtherHead));
    let mut order: Vec<usize> = (0..lp.len()).collect();
    order.sort_by(|a, b| lp[*b].total_cmp(&lp[*a]));
    let (mut mass, mut gaps) = (0.0, [0.0, 0.0]);
    for (rank, v) in order.into_iter().enumerate() {
        let p = lp[v].exp();
        let in_head = rank == 0 || if code { mass + p <= 0.5 + 1e-12 } else { mass < 0.5 - 1e-12 };
        gaps[usize::from(!in_head)] += (p - weights_from[v].exp()).abs();
        mass += p;
    }
    let total = gaps[0] + gaps[1];
    if total == 0.0 {
        return 0.0;
    }
    let part = |g: f64, kl: f64| if g == 0.0 { 0.0 } else { g / total * kl };
    part(gaps[0], kl(lp, lq)) + part(gaps[1], kl(lq, lp))
}

/// The derivative of `f` by every finite entry, one row at a time, by central differences over five points
/// of this distance.
pub fn derivative_at(z: &Array2<f64>, step: f64, f: impl Fn(usize, ArrayView1<f64>) -> f64) -> Array2<f64> {
    let mut made = Array2::zeros(z.dim());
    for (row, z_row) in z.rows().into_iter().enumerate() {
        let mut moved = z_row.to_owned();
        for v in (0..z.ncols()).filter(|v| z_row[*v].is_finite()) {
            let mut at = |by: f64| {
                moved[v] = z_row[v] + by * step;
                let value = f(row, moved.view());
                moved[v] = z_row[v];
                value
            };
            made[[row, v]] = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * step);
        }
    }
    made
}

/// [`derivative_at`] at a distance that suits smooth functions.
pub fn derivative(z: &Array2<f64>, f: impl Fn(usize, ArrayView1<f64>) -> f64) -> Array2<f64> {
    derivative_at(z, 1e-3, f)
}
