//! The softmax pair: both models' distributions at a block of tokens, computed once for every term.
//!
//! A logit of -inf is allowed (EOS is barred so until a reply is long enough). Its probability is 0,
//! its log-probability is kept at a finite floor: 0 times the floor is 0, where 0 times -inf would be
//! NaN, in values and in gradients. Where one model alone has a token barred, a KL can be infinite;
//! the pair remembers these tokens, so that the value says infinity and not some large number.

use tch::{Kind, Tensor};

use super::draws::Drawn;
use crate::error::{Error, Result};

/// Stands for the logarithm of zero. Finite in float32, and far below any log-probability.
const FLOOR: f64 = -1e30;

/// One model's distribution at each token of a block.
#[derive(Debug)]
pub struct Soft {
    /// Log-probabilities, -inf raised to a finite floor.
    pub log_cv: Tensor,
    /// Probabilities.
    pub prob_cv: Tensor,
    /// Which logits were -inf, where any was.
    barred_cv: Option<Tensor>,
}

impl Soft {
    /// Which logits were -inf, where any was.
    pub(crate) fn barred(&self) -> Option<&Tensor> {
        self.barred_cv.as_ref()
    }

    /// The softmax of logits. `look` says whether a logit may be -inf, so that one pass over them is
    /// saved where none can be.
    pub fn of(logits_cv: &Tensor, look: bool) -> Result<Self> {
        let mut log_cv = logits_cv.f_log_softmax(-1, None::<Kind>)?;
        let mut barred_cv = None;
        if look {
            let mask_cv = logits_cv.f_isneginf()?;
            if mask_cv.f_any()?.f_int64_value(&[])? != 0 {
                let _floored = log_cv.f_clamp_min_(FLOOR)?;
                barred_cv = Some(mask_cv);
            }
        }
        let prob_cv = log_cv.f_exp()?;
        Ok(Soft { log_cv, prob_cv, barred_cv })
    }
}

/// The distributions of the student (`q`) and, where there is one, of the teacher (`p`).
#[derive(Debug)]
pub struct Pair {
    /// The student's.
    pub q: Soft,
    /// The teacher's.
    pub p: Option<Soft>,
    /// Tokens that were drawn from it, where that is all there is of it.
    pub drawn: Option<Drawn>,
}

impl Pair {
    /// Both, or an error where no teacher was handed over.
    pub fn both(&self) -> Result<(&Soft, &Soft)> {
        match &self.p {
            Some(p) => Ok((&self.q, p)),
            None => Err(Error::handed("a divergence", "a teacher", "none")),
        }
    }

    /// The tokens at which the teacher can say something that the student cannot, if there are any:
    /// KL(p || q) is infinite there.
    pub fn teacher_alone(&self) -> Result<Option<Tensor>> {
        let (q, p) = self.both()?;
        alone(p, q)
    }

    /// The tokens at which KL(q || p) is infinite.
    pub fn student_alone(&self) -> Result<Option<Tensor>> {
        let (q, p) = self.both()?;
        alone(q, p)
    }
}

/// Tokens at which `one` has a word that `other` has barred.
fn alone(one: &Soft, other: &Soft) -> Result<Option<Tensor>> {
    let Some(other_cv) = &other.barred_cv else { return Ok(None) };
    let words_cv = match &one.barred_cv {
        Some(one_cv) => other_cv.f_logical_and(&one_cv.f_logical_not()?)?,
        None => other_cv.shallow_clone(),
    };
    Ok(Some(words_cv.f_any_dim(-1, false)?))
}

/// `value_c`, infinite at the marked tokens.
pub(crate) fn infinite_at(value_c: Tensor, marked_c: Option<Tensor>) -> Result<Tensor> {
    Ok(match marked_c {
        Some(marked_c) => value_c.f_masked_fill(&marked_c, f64::INFINITY)?,
        None => value_c,
    })
}

/// Log-probabilities of the target tokens, -inf where they are barred.
pub(crate) fn at_targets(soft: &Soft, targets_c1: &Tensor) -> Result<Tensor> {
    let log_c = soft.log_cv.f_gather(-1, targets_c1, false)?.f_squeeze_dim(-1)?;
    Ok(match &soft.barred_cv {
        Some(barred_cv) => {
            let barred_c = barred_cv.f_gather(-1, targets_c1, false)?.f_squeeze_dim(-1)?;
            log_c.f_masked_fill(&barred_c, f64::NEG_INFINITY)?
        }
        None => log_c,
    })
}

/// The sum over the vocabulary of a product, token by token.
pub(crate) fn dot(a_cv: &Tensor, b_cv: &Tensor) -> Result<Tensor> {
    Ok(a_cv.f_mul(b_cv)?.f_sum_dim_intlist(-1i64, false, None::<Kind>)?)
}
