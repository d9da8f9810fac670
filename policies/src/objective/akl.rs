//! The adaptive mix of forward and reverse KL (AKL): forward KL fits the teacher's head first, reverse
//! KL its tail; each gets the weight of the gap that is left there.
//!
//! ```text
//! g_head, g_tail = sum of |p - q| over the head, over the tail
//! AKL = (g_head KL(p || q) + g_tail KL(q || p)) / (g_head + g_tail)      0 where p = q
//! ```
//!
//! The weights carry no gradient. The vocabulary is sorted by p, ties by index. Which words are the head
//! is a choice that one rounding can tip, so a block of AKL is computed in float64.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::divergence::{Told, forward_kl, reverse_kl};
use super::pair::Pair;
use crate::error::Result;

/// A mass this near to a half is a half: two words of one probability each hold it, whatever the last
/// bit of their softmax says.
const HALF_BIT: f64 = 1e-12;

/// Which of the words, sorted by the teacher's probability, are the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// As printed: the smallest set that holds at least half of the mass.
    #[default]
    Paper,
    /// As the reference code has it: the largest set that holds at most half, one word at least.
    Code,
}

/// AKL at a block of tokens.
pub(crate) fn akl(pair: &Pair, head: Head, slope: bool) -> Result<Told> {
    let forward = forward_kl(pair, slope)?;
    let reverse = reverse_kl(pair, slope)?;
    let (q, p) = pair.both()?;
    let gap_cv = p.prob_cv.f_sub(&q.prob_cv)?.f_abs_()?;
    let (head_c, all_c) = gaps(&p.prob_cv, &gap_cv, head)?;
    let tail_c = all_c.f_sub(&head_c)?.f_clamp_min(0.0)?;
    // Equal distributions have no gap at all: 0/1, not 0/0.
    let total_c = all_c.f_masked_fill(&all_c.f_eq(0.0)?, 1.0)?;
    let (head_c, tail_c) = (head_c.f_div(&total_c)?, tail_c.f_div(&total_c)?);
    let value_c = part(&head_c, &forward.value_c)?.f_add(&part(&tail_c, &reverse.value_c)?)?;
    let slope_cv = match (forward.slope_cv, reverse.slope_cv) {
        (Some(mut forward_cv), Some(mut reverse_cv)) => {
            let reverse_cv = reverse_cv.f_mul_(&tail_c.f_unsqueeze(-1)?)?;
            Some(forward_cv.f_mul_(&head_c.f_unsqueeze(-1)?)?.f_add_(&reverse_cv)?)
        }
        _ => None,
    };
    Ok(Told { value_c, slope_cv })
}

/// The gap over the head and the gap over all, token by token.
fn gaps(p_cv: &Tensor, gap_cv: &Tensor, head: Head) -> Result<(Tensor, Tensor)> {
    let (sorted_cv, order_cv) = p_cv.f_sort_stable(true, -1, true)?;
    let mass_cv = sorted_cv.f_cumsum(-1, None::<Kind>)?;
    let in_head_cv = match head {
        // A word belongs to it as long as the words before it hold less than half.
        Head::Paper => mass_cv.f_sub(&sorted_cv)?.f_lt(0.5 - HALF_BIT)?,
        Head::Code => mass_cv.f_le(0.5 + HALF_BIT)?,
    };
    let _first = in_head_cv.f_narrow(-1, 0, 1)?.f_fill_(1.0)?;
    let in_order_cv = gap_cv.f_gather(-1, &order_cv, false)?;
    let over_head = in_order_cv.f_mul(&in_head_cv)?.f_sum_dim_intlist(-1i64, false, None::<Kind>)?;
    Ok((over_head, gap_cv.f_sum_dim_intlist(-1i64, false, None::<Kind>)?))
}

/// `share * value`, 0 where the share is 0 though the value be infinite.
fn part(share_c: &Tensor, value_c: &Tensor) -> Result<Tensor> {
    Ok(share_c.f_mul(value_c)?.f_masked_fill(&share_c.f_eq(0.0)?, 0.0)?)
}
