//! The terms of a loss, and what a block of tokens makes of them: a value for each term and token, and
//! one derivative by the student's logits for all of them together.

use tch::{Kind, Tensor};

use super::divergence::{Divergence, Told, teacher_cross_entropy};
use super::pair::{Pair, at_targets};
use crate::error::Result;

/// What one term measures at a token.
#[derive(Debug)]
pub enum Loss {
    /// `-log q(target)`.
    CrossEntropy,
    /// `-sum p log q`, the teacher's cross-entropy. Not a divergence: larger by the teacher's entropy.
    TeacherCrossEntropy,
    /// A divergence over the whole vocabulary.
    Divergence(Divergence),
    /// The policy gradient of the sampled token.
    Surrogate(Surrogate),
}

impl Loss {
    /// Whether it compares with a teacher.
    pub fn needs_teacher(&self) -> bool {
        matches!(self, Loss::TeacherCrossEntropy | Loss::Divergence(_))
    }

    fn wide(&self) -> bool {
        matches!(self, Loss::Divergence(d) if d.wide())
    }
}

/// `max(-A rho, -A clip(rho, 1-eps, 1+eps))`, with `rho = w exp(lq - lq_old)`. The gradient flows through
/// lq alone: A, w and lq_old are numbers of the rollout.
#[derive(Debug)]
pub struct Surrogate {
    /// A.
    pub advantage_n: Tensor,
    /// lq_old.
    pub log_old_n: Tensor,
    /// w.
    pub weight_n: Tensor,
    /// eps, or no clipping.
    pub clip: Option<f64>,
}

/// One term of a loss: `weight * each_n * loss`.
#[derive(Debug)]
pub struct Term {
    /// What it is called in the log.
    pub name: &'static str,
    /// What it measures.
    pub loss: Loss,
    /// Its weight. A term of weight 0 is measured and not trained on.
    pub weight: f64,
    /// A weight for each token; 1 where there is none. Carries no gradient.
    pub each_n: Option<Tensor>,
}

impl Term {
    /// A term that weighs every token alike.
    pub fn new(name: &'static str, loss: Loss, weight: f64) -> Self {
        Term { name, loss, weight, each_n: None }
    }
}

/// Whether a block with these terms is computed in float64.
pub(crate) fn wide(terms: &[Term]) -> bool {
    terms.iter().any(|t| t.loss.wide())
}

/// What the terms make of a block.
pub(crate) struct Block {
    /// The value of each term, unweighted.
    pub values_c: Vec<Tensor>,
    /// The derivative of the weighted sum by the student's logits.
    pub slope_cv: Option<Tensor>,
}

/// Computes every term at the tokens `from..from + targets`, and their derivative together.
pub(crate) fn block(
    terms: &[Term],
    pair: &Pair,
    targets_c: &Tensor,
    from: i64,
    slope: bool,
) -> Result<Block> {
    let count = targets_c.size()[0];
    let targets_c1 = targets_c.f_unsqueeze(-1)?;
    let mut made = Block { values_c: Vec::with_capacity(terms.len()), slope_cv: None };
    // Of all terms that look at the target alone, the derivative is g (onehot - q): one g for them all.
    let mut sampled_c: Option<Tensor> = None;
    // And of those that look at drawn tokens, g (p̂ - q).
    let mut drawn_c: Option<Tensor> = None;
    for term in terms {
        let slope = slope && term.weight != 0.0;
        let each_c = term.each_n.as_ref().map(|e| e.f_narrow(0, from, count)).transpose()?;
        let told = match (&term.loss, &pair.drawn) {
            (Loss::CrossEntropy, _) => cross_entropy(pair, &targets_c1, slope)?,
            (Loss::Surrogate(s), _) => surrogate(s, pair, &targets_c1, from, slope)?,
            (Loss::TeacherCrossEntropy, Some(drawn)) => estimate(drawn.cross_entropy(&pair.q)?, slope)?,
            (Loss::TeacherCrossEntropy, None) => full(teacher_cross_entropy(pair, slope)?),
            // No other divergence comes here with drawn tokens.
            (Loss::Divergence(_), Some(drawn)) => estimate(drawn.forward_kl(&pair.q)?, slope)?,
            (Loss::Divergence(d), None) => full(d.at(pair, slope)?),
        };
        match told.slope {
            Slope::Full(slope_cv) => add_full(&mut made.slope_cv, slope_cv, term.weight, each_c)?,
            Slope::Sampled(g_c) => plus(&mut sampled_c, weighted(g_c, term.weight, each_c.as_ref())?)?,
            Slope::Drawn(g_c) => plus(&mut drawn_c, weighted(g_c, term.weight, each_c.as_ref())?)?,
            Slope::None => {}
        }
        made.values_c.push(told.value_c);
    }
    let mut all_c = sampled_c.as_ref().map(Tensor::shallow_clone);
    if let Some(g_c) = &drawn_c {
        plus(&mut all_c, g_c.shallow_clone())?;
    }
    let Some(all_c) = all_c else { return Ok(made) };
    let (q_cv, less_c1) = (&pair.q.prob_cv, all_c.f_unsqueeze(-1)?.f_neg()?);
    let mut slope_cv = match made.slope_cv.take() {
        Some(mut slope_cv) => slope_cv.f_addcmul_(q_cv, &less_c1)?,
        None => q_cv.f_mul(&less_c1)?,
    };
    if let Some(g_c) = sampled_c {
        slope_cv = slope_cv.f_scatter_add_(-1, &targets_c1, &g_c.f_unsqueeze(-1)?)?;
    }
    if let (Some(g_c), Some(drawn)) = (drawn_c, &pair.drawn) {
        drawn.spread(&mut slope_cv, &g_c)?;
    }
    made.slope_cv = Some(slope_cv);
    Ok(made)
}

/// Adds to a sum that may not have begun.
fn plus(sum_c: &mut Option<Tensor>, more_c: Tensor) -> Result<()> {
    *sum_c = Some(match sum_c.take() {
        Some(sum_c) => sum_c.f_add(&more_c)?,
        None => more_c,
    });
    Ok(())
}

/// A term's value and the form its derivative has.
struct Made {
    value_c: Tensor,
    slope: Slope,
}

enum Slope {
    None,
    /// Over the vocabulary.
    Full(Tensor),
    /// g of `g (onehot - q)`.
    Sampled(Tensor),
    /// g of `g (p̂ - q)`.
    Drawn(Tensor),
}

fn full(told: Told) -> Made {
    Made { value_c: told.value_c, slope: told.slope_cv.map_or(Slope::None, Slope::Full) }
}

/// A value from drawn tokens; its derivative is `q - p̂`.
fn estimate(value_c: Tensor, slope: bool) -> Result<Made> {
    let slope = if slope { Slope::Drawn(value_c.f_ones_like()?.f_neg()?) } else { Slope::None };
    Ok(Made { value_c, slope })
}

fn cross_entropy(pair: &Pair, targets_c1: &Tensor, slope: bool) -> Result<Made> {
    let value_c = at_targets(&pair.q, targets_c1)?.f_neg()?;
    let slope = if slope { Slope::Sampled(value_c.f_ones_like()?.f_neg()?) } else { Slope::None };
    Ok(Made { value_c, slope })
}

/// The derivative by lq is `-A rho`, and 0 where the clipped branch is the larger one.
fn surrogate(s: &Surrogate, pair: &Pair, targets_c1: &Tensor, from: i64, slope: bool) -> Result<Made> {
    let log_c = at_targets(&pair.q, targets_c1)?;
    let (kind, count) = (log_c.kind(), targets_c1.size()[0]);
    // The quotient of two probabilities in float64: their logarithms may be large and near each other.
    let of = |t_n: &Tensor| -> Result<Tensor> { Ok(t_n.f_narrow(0, from, count)?.f_to_kind(Kind::Double)?) };
    let advantage_c = of(&s.advantage_n)?;
    let rho_c =
        log_c.f_to_kind(Kind::Double)?.f_sub(&of(&s.log_old_n)?)?.f_exp()?.f_mul(&of(&s.weight_n)?)?;
    let plain_c = advantage_c.f_mul(&rho_c)?.f_neg()?;
    let (value_c, g_c) = match s.clip {
        Some(eps) => {
            let clipped_c = advantage_c.f_mul(&rho_c.f_clamp(1.0 - eps, 1.0 + eps)?)?.f_neg()?;
            let stopped_c = clipped_c.f_gt_tensor(&plain_c)?;
            (plain_c.f_maximum(&clipped_c)?, plain_c.f_masked_fill(&stopped_c, 0.0)?)
        }
        None => (plain_c.shallow_clone(), plain_c),
    };
    let slope = if slope { Slope::Sampled(g_c.f_to_kind(kind)?) } else { Slope::None };
    Ok(Made { value_c: value_c.f_to_kind(kind)?, slope })
}

/// `value * weight * each`.
pub(crate) fn weighted(value_c: Tensor, weight: f64, each_c: Option<&Tensor>) -> Result<Tensor> {
    let value_c = value_c.f_mul_scalar(weight)?;
    Ok(match each_c {
        Some(each_c) => value_c.f_mul(&each_c.f_to_kind(value_c.kind())?)?,
        None => value_c,
    })
}

/// Adds `weight * each * slope` to a sum that may not have begun.
fn add_full(
    sum_cv: &mut Option<Tensor>,
    mut slope_cv: Tensor,
    weight: f64,
    each_c: Option<Tensor>,
) -> Result<()> {
    let each_c1 = match each_c {
        Some(each_c) => Some(each_c.f_to_kind(slope_cv.kind())?.f_mul_scalar(weight)?.f_unsqueeze(-1)?),
        None => None,
    };
    match (sum_cv.as_mut(), each_c1) {
        (None, Some(each_c1)) => *sum_cv = Some(slope_cv.f_mul_(&each_c1)?),
        (None, None) if weight == 1.0 => *sum_cv = Some(slope_cv),
        (None, None) => *sum_cv = Some(slope_cv.f_mul_scalar_(weight)?),
        (Some(sum_cv), Some(each_c1)) => {
            let _added = sum_cv.f_addcmul_(&slope_cv, &each_c1)?;
        }
        (Some(sum_cv), None) => {
            let _added = sum_cv.f_add_(&slope_cv.f_mul_scalar_(weight)?)?;
        }
    }
    Ok(())
}
