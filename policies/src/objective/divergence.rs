//! Divergences between teacher `p` and student `q`, exact over the vocabulary: a value for each token,
//! and its derivative by the student's logits z, written by hand.
//!
//! With h = dD/dq the derivative by the logits is `q (h - sum q h)`; constants in h fall out. Each
//! function below names its h. No term divides by q, so a token that the student holds impossible
//! makes no NaN.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::akl::{Head, akl};
use super::pair::{Pair, dot, infinite_at};
use crate::error::{Error, Result};

/// Below this, and above one minus it, a normalised JSD is taken as the KL that it tends to: at the
/// very end it would be 0/0, and next to it the difference is of the order of beta.
const END: f64 = 1e-3;

/// A normalised JSD divides by beta (1-beta); beyond this its float32 rounding would show.
const NEAR_END: f64 = 0.1;

/// How teacher and student are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Divergence {
    /// `KL(p || q)`.
    ForwardKl,
    /// `KL(q || p)`.
    ReverseKl,
    /// Generalised Jensen-Shannon, `m = beta p + (1-beta) q`: `beta KL(p || m) + (1-beta) KL(q || m)`.
    Jsd {
        /// The teacher's weight in the mixture, 0 to 1.
        beta: f64,
        /// Divided by beta (1-beta): forward KL at beta = 0, reverse KL at 1, without a jump.
        normalised: bool,
    },
    /// `KL(p || a p + (1-a) q)`.
    SkewForwardKl {
        /// a.
        skew: f64,
    },
    /// `KL(q || a q + (1-a) p)`.
    SkewReverseKl {
        /// a.
        skew: f64,
    },
    /// Total variation, `1/2 sum |p - q|`.
    Tvd,
    /// The adaptive mix of forward and reverse KL (see [`super::akl`]).
    Akl {
        /// Which words are the head.
        head: Head,
    },
}

/// A value for each token, and its derivative by the student's logits where it was asked for.
#[derive(Debug)]
pub struct Told {
    /// The value, token by token.
    pub value_c: Tensor,
    /// Its derivative.
    pub slope_cv: Option<Tensor>,
}

/// The names a config can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// [`Divergence::ForwardKl`]
    ForwardKl,
    /// [`Divergence::ReverseKl`]
    ReverseKl,
    /// [`Divergence::Jsd`]
    Jsd,
    /// [`Divergence::SkewForwardKl`]
    SkewForwardKl,
    /// [`Divergence::SkewReverseKl`]
    SkewReverseKl,
    /// [`Divergence::Tvd`]
    Tvd,
    /// [`Divergence::Akl`]
    Akl,
}

impl Divergence {
    /// Its name, as configs and logs have it.
    pub fn name(self) -> &'static str {
        match self {
            Divergence::ForwardKl => "forward-kl",
            Divergence::ReverseKl => "reverse-kl",
            Divergence::Jsd { .. } => "jsd",
            Divergence::SkewForwardKl { .. } => "skew-forward-kl",
            Divergence::SkewReverseKl { .. } => "skew-reverse-kl",
            Divergence::Tvd => "tvd",
            Divergence::Akl { .. } => "akl",
        }
    }

    /// The same, or an error where a parameter is out of range.
    pub fn checked(self) -> Result<Self> {
        match self {
            Divergence::Jsd { beta, .. } if !(0.0..=1.0).contains(&beta) => {
                Err(Error::setting("beta", "0 to 1", beta))
            }
            Divergence::SkewForwardKl { skew } | Divergence::SkewReverseKl { skew }
                if !(0.0..1.0).contains(&skew) =>
            {
                Err(Error::setting("skew", "0 or more and less than 1", skew))
            }
            _ => Ok(self),
        }
    }

    /// Whether its block is computed in float64: a quotient that float32 cannot hold, or a choice that
    /// its rounding would tip.
    pub(crate) fn wide(self) -> bool {
        match self {
            Divergence::Jsd { beta, normalised } => normalised && beta.min(1.0 - beta) < NEAR_END,
            Divergence::Akl { .. } => true,
            _ => false,
        }
    }

    /// Its value and derivative at a block of tokens.
    pub fn at(self, pair: &Pair, slope: bool) -> Result<Told> {
        match self {
            Divergence::ForwardKl | Divergence::SkewForwardKl { skew: 0.0 } => forward_kl(pair, slope),
            Divergence::ReverseKl | Divergence::SkewReverseKl { skew: 0.0 } => reverse_kl(pair, slope),
            Divergence::Jsd { beta, normalised } => jsd_to_its_ends(pair, beta, normalised, slope),
            Divergence::SkewForwardKl { skew } => skew_forward_kl(pair, skew, slope),
            Divergence::SkewReverseKl { skew } => skew_reverse_kl(pair, skew, slope),
            Divergence::Tvd => tvd(pair, slope),
            Divergence::Akl { head } => akl(pair, head, slope),
        }
    }
}

/// `KL(p || q) = sum p (log p - log q)`; h = -p/q, so the derivative is `q - p`.
pub(crate) fn forward_kl(pair: &Pair, slope: bool) -> Result<Told> {
    let (q, p) = pair.both()?;
    let value_c = dot(&p.log_cv.f_sub(&q.log_cv)?, &p.prob_cv)?;
    let value_c = infinite_at(value_c, pair.teacher_alone()?)?;
    let slope_cv = if slope { Some(q.prob_cv.f_sub(&p.prob_cv)?) } else { None };
    Ok(Told { value_c, slope_cv })
}

/// `CE(p, q) = -sum p log q`: forward KL plus the teacher's entropy, so the derivative is the same.
pub(crate) fn teacher_cross_entropy(pair: &Pair, slope: bool) -> Result<Told> {
    let (q, p) = pair.both()?;
    let value_c = infinite_at(dot(&q.log_cv, &p.prob_cv)?.f_neg()?, pair.teacher_alone()?)?;
    let slope_cv = if slope { Some(q.prob_cv.f_sub(&p.prob_cv)?) } else { None };
    Ok(Told { value_c, slope_cv })
}

/// `D = KL(q || p) = sum q (log q - log p)`; h = log q - log p, so the derivative is
/// `q (log q - log p - D)`.
pub(crate) fn reverse_kl(pair: &Pair, slope: bool) -> Result<Told> {
    let (q, p) = pair.both()?;
    let mut h_cv = q.log_cv.f_sub(&p.log_cv)?;
    let value_c = dot(&h_cv, &q.prob_cv)?;
    let slope_cv =
        if slope { Some(h_cv.f_sub_(&value_c.f_unsqueeze(-1)?)?.f_mul_(&q.prob_cv)?) } else { None };
    Ok(Told { value_c: infinite_at(value_c, pair.student_alone()?)?, slope_cv })
}

/// JSD with its two ends. The plain form is beta (1-beta) times the normalised one, there as well.
fn jsd_to_its_ends(pair: &Pair, beta: f64, normalised: bool, slope: bool) -> Result<Told> {
    let product = beta * (1.0 - beta);
    let (told, factor) = if beta <= END {
        (forward_kl(pair, slope)?, if normalised { 1.0 } else { product })
    } else if beta >= 1.0 - END {
        (reverse_kl(pair, slope)?, if normalised { 1.0 } else { product })
    } else {
        (jsd(pair, beta, slope)?, if normalised { 1.0 / product } else { 1.0 })
    };
    // At the very ends the plain form is 0, where the KL beside it may be infinite.
    if factor == 0.0 {
        let slope_cv = told.slope_cv.map(|s_cv| s_cv.f_zeros_like()).transpose()?;
        return Ok(Told { value_c: told.value_c.f_zeros_like()?, slope_cv });
    }
    scaled(told, factor)
}

/// `m = beta p + (1-beta) q`; h = (1-beta) (log q - log m): the derivatives through m cancel.
fn jsd(pair: &Pair, beta: f64, slope: bool) -> Result<Told> {
    let (q, p) = pair.both()?;
    let log_m_cv = log_of(q.prob_cv.f_lerp(&p.prob_cv, beta)?)?;
    let of_p_c = dot(&p.log_cv.f_sub(&log_m_cv)?, &p.prob_cv)?;
    let mut h_cv = q.log_cv.f_sub(&log_m_cv)?;
    let of_q_c = dot(&h_cv, &q.prob_cv)?;
    let value_c = of_p_c.f_mul_scalar(beta)?.f_add(&of_q_c.f_mul_scalar(1.0 - beta)?)?;
    let slope_cv = if slope {
        let centred_cv = h_cv.f_sub_(&of_q_c.f_unsqueeze(-1)?)?.f_mul_(&q.prob_cv)?;
        Some(centred_cv.f_mul_scalar(1.0 - beta)?)
    } else {
        None
    };
    Ok(Told { value_c, slope_cv })
}

/// `m = a p + (1-a) q`, `KL(p || m)`; h = -(1-a) p/m, at most 1/a in size.
fn skew_forward_kl(pair: &Pair, skew: f64, slope: bool) -> Result<Told> {
    let (q, p) = pair.both()?;
    let m_cv = q.prob_cv.f_lerp(&p.prob_cv, skew)?;
    let log_m_cv = log_of(m_cv)?;
    let mut log_ratio_cv = p.log_cv.f_sub(&log_m_cv)?;
    let value_c = dot(&log_ratio_cv, &p.prob_cv)?;
    let slope_cv = if slope {
        let h_cv = log_ratio_cv.f_exp_()?.f_mul_scalar_(-(1.0 - skew))?;
        Some(centred(h_cv, &q.prob_cv)?)
    } else {
        None
    };
    Ok(Told { value_c, slope_cv })
}

/// `m = a q + (1-a) p`, `KL(q || m)`; h = log q - log m - a q/m.
fn skew_reverse_kl(pair: &Pair, skew: f64, slope: bool) -> Result<Told> {
    let (q, p) = pair.both()?;
    let m_cv = p.prob_cv.f_lerp(&q.prob_cv, skew)?;
    let log_m_cv = log_of(m_cv)?;
    let mut h_cv = q.log_cv.f_sub(&log_m_cv)?;
    let value_c = dot(&h_cv, &q.prob_cv)?;
    let slope_cv = if slope {
        let share_cv = h_cv.f_exp()?.f_mul_scalar_(skew)?;
        Some(centred(h_cv.f_sub_(&share_cv)?, &q.prob_cv)?)
    } else {
        None
    };
    Ok(Told { value_c, slope_cv })
}

/// `1/2 sum |q - p|`; h = 1/2 sign(q - p), 0 where they are equal.
fn tvd(pair: &Pair, slope: bool) -> Result<Told> {
    let (q, p) = pair.both()?;
    let mut difference_cv = q.prob_cv.f_sub(&p.prob_cv)?;
    let value_c = difference_cv.f_abs()?.f_sum_dim_intlist(-1i64, false, None::<Kind>)?.f_mul_scalar(0.5)?;
    let slope_cv = if slope {
        let h_cv = difference_cv.f_sign_()?.f_mul_scalar_(0.5)?;
        Some(centred(h_cv, &q.prob_cv)?)
    } else {
        None
    };
    Ok(Told { value_c, slope_cv })
}

/// `q (h - sum q h)`, in h's memory.
fn centred(mut h_cv: Tensor, q_cv: &Tensor) -> Result<Tensor> {
    let mean_c1 = dot(&h_cv, q_cv)?.f_unsqueeze(-1)?;
    Ok(h_cv.f_sub_(&mean_c1)?.f_mul_(q_cv)?)
}

/// The logarithm of a mixture, in its memory. Where both parts underflowed to 0 it only needs to be
/// finite: it is multiplied by 0.
fn log_of(mut m_cv: Tensor) -> Result<Tensor> {
    let least = if m_cv.kind() == Kind::Double { 1e-300 } else { 1e-37 };
    Ok(m_cv.f_clamp_min_(least)?.f_log_()?)
}

/// Value and derivative times a number.
pub(crate) fn scaled(told: Told, factor: f64) -> Result<Told> {
    let slope_cv = told.slope_cv.map(|mut s_cv| s_cv.f_mul_scalar_(factor)).transpose()?;
    Ok(Told { value_c: told.value_c.f_mul_scalar(factor)?, slope_cv })
}
