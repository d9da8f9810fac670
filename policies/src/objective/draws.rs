//! A teacher known by a few tokens that were drawn from it (Anshumann et al., 2025, "Sparse logit sampling"):
//! what a cache of many epochs keeps in place of the teacher.
//!
//! K tokens are drawn at each position, each with the teacher's own probability. Their shares p̂(v) = n_v / K
//! have the mean p(v), so
//!
//! ```text
//! CE = -sum p̂ log q                          has the mean  -sum p log q
//! KL = 1/K sum_k (log p(v_k) - log q(v_k))   has the mean  KL(p || q), and is 0 where q = p
//! q - p̂                                      has the mean  q - p, the derivative of both
//! ```
//!
//! whatever the student is. Of the k most probable tokens none of this holds. Other divergences are not
//! linear in p, and a temperature would ask for another p: these want the whole teacher.

use tch::{Kind, Tensor};

use super::divergence::Divergence;
use super::head::logits;
use super::input::Side;
use super::pair::{Soft, infinite_at};
use super::term::Loss;
use crate::error::{Error, Result};

/// The tokens that were drawn, at each token of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Draws<'a> {
    /// The ids, `[n, K]` (int64); one that was drawn twice stands twice.
    pub ids_nk: &'a Tensor,
    /// The mean of `log p` of them, `[n]`.
    pub log_n: &'a Tensor,
}

/// The same at a block of tokens.
#[derive(Debug)]
pub struct Drawn {
    ids_ck: Tensor,
    log_c: Tensor,
}

/// Whether drawn tokens are enough for a term.
pub(crate) fn enough(loss: &Loss) -> bool {
    match loss {
        Loss::CrossEntropy | Loss::Surrogate(_) | Loss::TeacherCrossEntropy => true,
        Loss::Divergence(d) => *d == Divergence::ForwardKl,
    }
}

impl Draws<'_> {
    /// That there are as many as tokens, at least one each.
    pub(crate) fn checked(&self, count: i64) -> Result<()> {
        let (ids, logs) = (self.ids_nk.size(), self.log_n.size());
        if ids.len() != 2 || ids[0] != count || ids[1] < 1 || self.ids_nk.kind() != Kind::Int64 {
            let found = format!("{ids:?} of {:?}", self.ids_nk.kind());
            return Err(Error::handed("drawn tokens", format!("[{count}, 1 or more] of Int64"), found));
        }
        if logs != [count] {
            return Err(Error::handed("their log-probabilities", format!("[{count}]"), format!("{logs:?}")));
        }
        Ok(())
    }

    /// Those of the tokens `from..from + count`.
    pub(crate) fn at(&self, from: i64, count: i64) -> Result<Drawn> {
        Ok(Drawn {
            ids_ck: self.ids_nk.f_narrow(0, from, count)?,
            log_c: self.log_n.f_narrow(0, from, count)?,
        })
    }
}

impl Drawn {
    /// `-sum p̂ log q`.
    pub(crate) fn cross_entropy(&self, q: &Soft) -> Result<Tensor> {
        Ok(self.log_of(q)?.f_neg()?)
    }

    /// The estimate of `KL(p || q)`.
    pub(crate) fn forward_kl(&self, q: &Soft) -> Result<Tensor> {
        let log_c = self.log_of(q)?;
        Ok(self.log_c.f_to_kind(log_c.kind())?.f_sub(&log_c)?)
    }

    /// `sum p̂ log q`, minus infinity where the student has one of the tokens barred.
    fn log_of(&self, q: &Soft) -> Result<Tensor> {
        let mean_c = q.log_cv.f_gather(-1, &self.ids_ck, false)?.f_mean_dim(-1i64, false, None::<Kind>)?;
        let barred_c = match q.barred() {
            Some(barred_cv) => Some(barred_cv.f_gather(-1, &self.ids_ck, false)?.f_any_dim(-1, false)?),
            None => None,
        };
        Ok(infinite_at(mean_c.f_neg()?, barred_c)?.f_neg()?)
    }

    /// Adds `g p̂` to a derivative.
    pub(crate) fn spread(&self, slope_cv: &mut Tensor, g_c: &Tensor) -> Result<()> {
        let share_c1 = g_c.f_div_scalar(self.ids_ck.size()[1])?.f_unsqueeze(-1)?;
        let _sum = slope_cv.f_scatter_add_(-1, &self.ids_ck, &share_c1.f_expand_as(&self.ids_ck)?)?;
        Ok(())
    }
}

/// Rows whose distributions lie in memory together.
const ROWS: i64 = 32;

/// Tokens drawn from a model at each token of a batch: their ids, and the mean of their log-probabilities.
///
/// `points_nk` are numbers from [0, 1) (float64): at each, the token is drawn at which the sum of the
/// probabilities before it passes it. The shares are unbiased where each point of a row is even in
/// `[k/K, (k+1)/K)`, which spreads less than points that are even in [0, 1).
pub fn draw(side: &Side, vocabulary: i64, points_nk: &Tensor) -> Result<(Tensor, Tensor)> {
    let _off = tch::no_grad_guard();
    let count = points_nk.size().first().copied().unwrap_or(0);
    if side.tensor().size().first() != Some(&count) {
        return Err(Error::handed("points to draw at", format!("{:?}", side.tensor().size()), count));
    }
    let (mut ids, mut logs) = (Vec::new(), Vec::new());
    for from in (0..count).step_by(ROWS as usize) {
        let rows = ROWS.min(count - from);
        let buffer_cv = match side {
            Side::Hidden { .. } => {
                Some(Tensor::f_empty([rows, vocabulary], (side.kind(), points_nk.device()))?)
            }
            _ => None,
        };
        let log_cv =
            logits(side, from, rows, vocabulary, buffer_cv.as_ref())?.f_log_softmax(-1, None::<Kind>)?;
        let mut sums_cv = log_cv.f_to_kind(Kind::Double)?.f_exp()?.f_cumsum(-1, None::<Kind>)?;
        // What rounding left of 1 belongs to nobody: the last sum is 1, and no point reaches it.
        let whole_c1 = sums_cv.f_narrow(-1, vocabulary - 1, 1)?.f_detach_copy()?;
        sums_cv = sums_cv.f_div_(&whole_c1)?;
        let points_ck = points_nk.f_narrow(0, from, rows)?.f_clamp_max(1.0 - f64::EPSILON / 2.0)?;
        // tch has the sorted sums as the argument, and what is looked for as the one it is called on.
        let points_ck = points_ck.f_contiguous()?;
        let ids_ck = points_ck.f_searchsorted(&sums_cv, false, true, "right", None::<&Tensor>)?;
        logs.push(log_cv.f_gather(-1, &ids_ck, false)?.f_mean_dim(-1i64, false, None::<Kind>)?);
        ids.push(ids_ck);
    }
    Ok((Tensor::f_cat(&ids, 0)?, Tensor::f_cat(&logs, 0)?))
}
