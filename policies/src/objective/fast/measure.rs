//! The terms that the loops know: their values and derivatives at one token, from the sums of its rows.

use tch::{Kind, Tensor};

use super::super::divergence::Divergence;
use super::super::term::{Loss, Surrogate, Term};
use super::row::{Both, Slope};
use crate::error::Result;

/// A term with its numbers read.
#[derive(Debug)]
pub(super) struct Measured {
    measure: Measure,
    /// Its weight at each token; none where it is measured and not trained on.
    pub weight_n: Option<Vec<f64>>,
}

#[derive(Debug)]
enum Measure {
    CrossEntropy,
    TeacherCrossEntropy,
    ForwardKl,
    ReverseKl,
    Surrogate { advantage_n: Vec<f64>, log_old_n: Vec<f64>, weight_n: Vec<f64>, clip: Option<f64> },
}

impl Measured {
    /// A term over this many tokens, where the loops know it.
    pub(super) fn of(term: &Term, count: usize) -> Result<Option<Self>> {
        let measure = match &term.loss {
            Loss::CrossEntropy => Measure::CrossEntropy,
            Loss::TeacherCrossEntropy => Measure::TeacherCrossEntropy,
            Loss::Divergence(Divergence::ForwardKl) => Measure::ForwardKl,
            Loss::Divergence(Divergence::ReverseKl) => Measure::ReverseKl,
            Loss::Divergence(_) => return Ok(None),
            Loss::Surrogate(Surrogate { advantage_n, log_old_n, weight_n, clip }) => Measure::Surrogate {
                advantage_n: numbers(advantage_n, count)?,
                log_old_n: numbers(log_old_n, count)?,
                weight_n: numbers(weight_n, count)?,
                clip: *clip,
            },
        };
        let weight_n = match &term.each_n {
            _ if term.weight == 0.0 => None,
            Some(each_n) => {
                Some(numbers(each_n, count)?.into_iter().map(|each| each * term.weight).collect())
            }
            None => Some(vec![term.weight; count]),
        };
        Ok(Some(Measured { measure, weight_n }))
    }

    /// Its value and derivative at a token, unweighted. `log_q` is the target's.
    pub(super) fn at(&self, n: usize, log_q: f64, both: Option<&Both>) -> (f64, Slope) {
        // g (onehot - q), q - p and q (mean of the gap - gap).
        let sampled = |g: f64| Slope { of_q: -g, of_target: g, ..Slope::default() };
        let apart = Slope { of_q: 1.0, of_p: -1.0, ..Slope::default() };
        match (&self.measure, both) {
            (Measure::CrossEntropy, _) => (-log_q, sampled(-1.0)),
            (Measure::Surrogate { advantage_n, log_old_n, weight_n, clip }, _) => {
                let rho = (log_q - log_old_n[n]).exp() * weight_n[n];
                let (value, g) = surrogate(advantage_n[n], rho, *clip);
                (value, sampled(g))
            }
            (Measure::TeacherCrossEntropy, Some(both)) => (both.cross_entropy(), apart),
            (Measure::ForwardKl, Some(both)) => (both.forward_kl(), apart),
            (Measure::ReverseKl, Some(both)) => {
                (both.reverse_kl(), Slope { of_gap: 1.0, ..Slope::default() })
            }
            // `checked` has seen to it that there is a teacher.
            (_, None) => (f64::NAN, Slope::default()),
        }
    }
}

/// `max(-A rho, -A clip(rho, 1-eps, 1+eps))` and its derivative by lq, which is 0 where the clipped one is larger.
fn surrogate(advantage: f64, rho: f64, clip: Option<f64>) -> (f64, f64) {
    let plain = -advantage * rho;
    // A rho that is not a number stays one: it is larger than nothing.
    match clip.map(|eps| -advantage * rho.max(1.0 - eps).min(1.0 + eps)) {
        Some(clipped) if clipped > plain => (clipped, 0.0),
        _ => (plain, plain),
    }
}

/// The numbers of some tokens.
pub(super) fn numbers(x_n: &Tensor, count: usize) -> Result<Vec<f64>> {
    Ok(Vec::try_from(&x_n.f_narrow(0, 0, count as i64)?.f_to_kind(Kind::Double)?)?)
}
