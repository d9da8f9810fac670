//! From logits to tokens: the filters, the draw, and the log-probability of what was drawn.
//!
//! Filters in transformers' order: cut to the vocabulary, replies that may not end yet, repeated n-grams,
//! temperature, top-k (ties kept), top-p (the token that crosses it kept). On the CPU the draw walks
//! memory itself (`masses`); elsewhere it is made of tensor operations that do not wait for the host.

use tch::{Device, Kind, Tensor};

use super::masses::{Masses, argmax, find};
use super::rules::Rules;
use super::settings::{Sampling, Scores};
use crate::error::{Error, Result};
use crate::native::{host, parallel};

/// So many logits are worth a thread.
const WORTH_A_THREAD: usize = 1 << 15;
/// Candidates that are looked at before a top-p sorts everything.
const CANDIDATES: i64 = 512;

/// The distribution of the next token of each row, filtered, with what its draws need.
#[derive(Debug)]
pub(super) struct Distribution {
    /// What is drawn from: [b, at least v].
    allowed: Tensor,
    /// What a token's own log-probability is of: [b, at least v].
    own: Tensor,
    /// How many columns of `allowed` count.
    width: i64,
    totals: Totals,
}

/// The logarithms of the sums of exponentials.
#[derive(Debug)]
enum Totals {
    Host { drawn: Vec<Masses>, own: Vec<f64> },
    Device { drawn_b1: Tensor, own_b1: Tensor },
}

/// Tokens and their log-probabilities, one a row: int64 and float32.
#[derive(Debug)]
pub(super) struct Scored {
    /// At temperature 1 without filters.
    pub own_b: Tensor,
    /// Under the filtered distribution.
    pub drawn_b: Tensor,
}

impl Distribution {
    /// Of logits [b, w] in any float type.
    pub fn of(logits: &Tensor, s: &Sampling, rules: &Rules) -> Result<Self> {
        let raw = logits.f_to_kind(Kind::Float)?.f_contiguous()?;
        let all = raw.size2()?.1;
        let width = all.min(i64::try_from(s.vocabulary).unwrap_or(i64::MAX));
        // A view with gaps is never handed on: the rows of `raw` are used up to `width` instead.
        let cut = || -> Result<Tensor> { Ok(raw.f_narrow(1, 0, width)?) };
        let barred = match &rules.young_b1 {
            None => None,
            Some(young_b1) => Some(bar(&cut()?, young_b1, s)?),
        };
        let own = match s.scores {
            Scores::Whole => raw.shallow_clone(),
            Scores::Vocabulary => barred.as_ref().unwrap_or(&raw).shallow_clone(),
        };
        let own_width = if s.scores == Scores::Whole { all } else { width };
        let mut allowed = barred;
        if let Some((rows, ids)) = &rules.bans {
            let x = allowed.map_or_else(cut, Ok)?;
            let index = [Some(rows), Some(ids)];
            allowed = Some(x.f_index_put(
                &index,
                &Tensor::from(f32::NEG_INFINITY).f_to_device(x.device())?,
                false,
            )?);
        }
        let few = s.top_k > 0 && (s.top_k as u64) < width as u64;
        if !s.greedy && (s.temperature != 1.0 || few || s.top_p < 1.0) {
            allowed = Some(narrow_down(allowed.map_or_else(cut, Ok)?, s)?);
        }
        let same =
            allowed.is_none() && own_width == width || s.scores == Scores::Vocabulary && !s.is_filtered();
        let allowed = allowed.unwrap_or(raw);
        let totals = Totals::of((&allowed, width), (!same).then_some((&own, own_width)))?;
        Ok(Distribution { allowed, own, width, totals })
    }

    /// The same as it is on a GPU, where nothing may be looked at by the host.
    #[cfg(test)]
    pub fn with_device_totals(self) -> Result<Self> {
        let own = Some((&self.own, self.own.size()[1]));
        let totals = Totals::on_device((&self.allowed, self.width), own)?;
        Ok(Distribution { totals, ..self })
    }

    /// The most probable token of each row: [b].
    pub fn most_probable(&self) -> Result<Tensor> {
        match &self.totals {
            Totals::Host { .. } => {
                let rows = Rows::of(&self.allowed, self.width)?;
                on_rows(rows.n, self.width, &|i| argmax(rows.row(i)) as i64)
            }
            Totals::Device { .. } => Ok(self.allowed.f_narrow(1, 0, self.width)?.f_argmax(Some(1), false)?),
        }
    }

    /// The log-probabilities of these tokens, one a row.
    pub fn score(&self, ids_b: &Tensor) -> Result<Scored> {
        let ids_b1 = ids_b.f_unsqueeze(1)?;
        let (drawn, own) = (self.allowed.f_gather(1, &ids_b1, false)?, self.own.f_gather(1, &ids_b1, false)?);
        match &self.totals {
            Totals::Device { drawn_b1, own_b1 } => Ok(Scored {
                own_b: own.f_sub(own_b1)?.f_squeeze_dim(1)?,
                drawn_b: drawn.f_sub(drawn_b1)?.f_squeeze_dim(1)?,
            }),
            Totals::Host { drawn: masses, own: totals } => {
                let less = |x: &Tensor, total: &dyn Fn(usize) -> f64| -> Result<Tensor> {
                    let x = host::slice::<f32>(x)?;
                    let p: Vec<f32> =
                        x.iter().enumerate().map(|(i, &x)| (f64::from(x) - total(i)) as f32).collect();
                    Ok(Tensor::f_from_slice(&p)?)
                };
                let of_drawn = |i: usize| masses[i].log_total();
                let of_own = |i: usize| totals.get(i).copied().unwrap_or_else(|| of_drawn(i));
                Ok(Scored { own_b: less(&own, &of_own)?, drawn_b: less(&drawn, &of_drawn)? })
            }
        }
    }
}

/// Draws a token a row from a mixture of distributions with these weights; `uniforms_b` is float64.
pub(super) fn draw(parts: &[(&Distribution, f64)], uniforms_b: &Tensor) -> Result<Tensor> {
    let width = parts.first().map_or(0, |p| p.0.width);
    if parts.iter().any(|p| p.0.width != width) {
        return Err(Error::bug("the parts of a mixture have vocabularies of their own"));
    }
    if parts.iter().any(|p| matches!(p.0.totals, Totals::Device { .. })) {
        return draw_on_device(parts, width, uniforms_b);
    }
    let uniforms = host::slice::<f64>(uniforms_b)?;
    let mut rows = Vec::new();
    for (part, weight) in parts {
        let Totals::Host { drawn, .. } = &part.totals else {
            return Err(Error::bug("a distribution is not where its draws are"));
        };
        rows.push((Rows::of(&part.allowed, width)?, drawn, *weight));
    }
    on_rows(uniforms.len(), width, &|i| {
        let parts: Vec<_> = rows.iter().map(|(rows, masses, w)| (rows.row(i), &masses[i], *w)).collect();
        find(&parts, uniforms[i]) as i64
    })
}

/// The same by tensor operations alone.
fn draw_on_device(parts: &[(&Distribution, f64)], width: i64, uniforms_b: &Tensor) -> Result<Tensor> {
    let mut shares: Option<Tensor> = None;
    for (part, weight) in parts {
        let Totals::Device { drawn_b1, .. } = &part.totals else {
            return Err(Error::bug("a distribution is not where its draws are"));
        };
        let of_part = part.allowed.f_narrow(1, 0, width)?.f_sub(drawn_b1)?.f_exp()?;
        let weighted = if parts.len() == 1 { of_part } else { of_part.f_mul_scalar(*weight)? };
        shares = Some(match shares {
            None => weighted,
            Some(sum) => sum.f_add(&weighted)?,
        });
    }
    let shares = shares.ok_or_else(|| Error::bug("a draw from nothing"))?;
    let sums_bv = shares.f_cumsum(1, Kind::Double)?;
    let targets_b1 = sums_bv.f_narrow(1, width - 1, 1)?.f_mul(&uniforms_b.f_unsqueeze(1)?)?;
    let none: Option<Tensor> = None;
    // tch takes the sorted sums as the argument, and the numbers to be found as the receiver.
    let ids = targets_b1.f_searchsorted(&sums_bv, false, true, "right", none)?;
    Ok(ids.f_clamp_max(width - 1)?.f_squeeze_dim(1)?)
}

impl Totals {
    /// Of what is drawn from, and of what tokens are scored by where that is something else.
    fn of(allowed: (&Tensor, i64), own: Option<(&Tensor, i64)>) -> Result<Self> {
        if allowed.0.device() != Device::Cpu {
            return Self::on_device(allowed, own);
        }
        let masses = |(x, width): (&Tensor, i64)| -> Result<Vec<Masses>> {
            let rows = Rows::of(x, width)?;
            let mut all: Vec<std::sync::OnceLock<Masses>> = Vec::new();
            all.resize_with(rows.n, Default::default);
            parallel::for_each(rows.n, grain(width), &|range| {
                for i in range {
                    let _ = all[i].set(Masses::of(rows.row(i)));
                }
            })?;
            Ok(all.into_iter().filter_map(std::sync::OnceLock::into_inner).collect())
        };
        let drawn = masses(allowed)?;
        let own = own.map(masses).transpose()?.unwrap_or_default();
        Ok(Totals::Host { drawn, own: own.iter().map(Masses::log_total).collect() })
    }
}

impl Totals {
    /// The same by tensor operations alone.
    fn on_device(allowed: (&Tensor, i64), own: Option<(&Tensor, i64)>) -> Result<Self> {
        let total = |(x, width): (&Tensor, i64)| x.f_narrow(1, 0, width)?.f_logsumexp([1i64], true);
        let drawn_b1 = total(allowed)?;
        let own_b1 = own.map_or_else(|| Ok(drawn_b1.shallow_clone()), total)?;
        Ok(Totals::Device { drawn_b1, own_b1 })
    }
}

/// The first columns of a tensor's rows, in memory.
struct Rows<'a> {
    all: &'a [f32],
    stride: usize,
    width: usize,
    n: usize,
}

impl<'a> Rows<'a> {
    fn of(x: &'a Tensor, width: i64) -> Result<Self> {
        let (n, stride) = x.size2()?;
        Ok(Rows { all: host::slice(x)?, stride: stride as usize, width: width as usize, n: n as usize })
    }

    fn row(&self, i: usize) -> &'a [f32] {
        &self.all[i * self.stride..i * self.stride + self.width]
    }
}

fn grain(width: i64) -> usize {
    (WORTH_A_THREAD / width.max(1) as usize).max(1)
}

/// One number for each row, as a tensor.
fn on_rows(n: usize, width: i64, number: &(dyn Fn(usize) -> i64 + Sync)) -> Result<Tensor> {
    let found: Vec<std::sync::atomic::AtomicI64> = (0..n).map(|_| 0.into()).collect();
    parallel::for_each(n, grain(width), &|range| {
        for i in range {
            found[i].store(number(i), std::sync::atomic::Ordering::Relaxed);
        }
    })?;
    let found: Vec<i64> = found.into_iter().map(std::sync::atomic::AtomicI64::into_inner).collect();
    Ok(Tensor::f_from_slice(&found)?)
}

/// The tokens that end replies at -inf in the rows that may not end yet.
fn bar(cut: &Tensor, young_b1: &Tensor, s: &Sampling) -> Result<Tensor> {
    let width = cut.size()[1];
    let eos: Vec<i64> = s.eos.iter().map(|&id| i64::from(id)).filter(|&id| id < width).collect();
    let eos = Tensor::f_from_slice(&eos)?.f_to_device(cut.device())?;
    let barred = cut.f_index_fill(1, &eos, f64::NEG_INFINITY)?;
    Ok(barred.f_where_self(young_b1, cut)?)
}

/// Temperature, top-k and top-p.
fn narrow_down(x: Tensor, s: &Sampling) -> Result<Tensor> {
    let width = x.size()[1];
    let mut x = if s.temperature == 1.0 { x } else { x.f_div_scalar(s.temperature)? };
    if s.top_k > 0 && (s.top_k as u64) < width as u64 {
        let least = x.f_topk(s.top_k as i64, 1, true, true)?.0.f_narrow(1, s.top_k as i64 - 1, 1)?;
        x = x.f_masked_fill(&x.f_lt_tensor(&least)?, f64::NEG_INFINITY)?;
    }
    if s.top_p < 1.0 {
        x = nucleus(&x, s.top_p)?;
    }
    Ok(x)
}

/// Keeps the most probable tokens of each row until they reach `share`; of equally probable ones those
/// with the lower ids.
fn nucleus(x: &Tensor, share: f64) -> Result<Tensor> {
    let total_b1 = x.f_logsumexp([1i64], true)?;
    // Most often few tokens are enough, and finding them is far cheaper than sorting all. (Elsewhere the
    // host would have to wait for the answer, and sorting is fast.)
    if x.device() == Device::Cpu && x.size()[1] > 2 * CANDIDATES {
        let (top, ids) = x.f_topk(CANDIDATES, 1, true, true)?;
        let least_b1 = top.f_narrow(1, CANDIDATES - 1, 1)?;
        // Of those that equal the last one, others may be outside with lower ids: they must not matter.
        let above = top.f_masked_fill(&top.f_le_tensor(&least_b1)?, f64::NEG_INFINITY)?;
        let reached =
            above.f_sub(&total_b1)?.f_exp()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        if f64::try_from(reached.f_min()?)? > share + 1e-6 {
            let (ids, by_id) = ids.f_sort(1, false)?;
            let few = keep_share(&above.f_gather(1, &by_id, false)?, &total_b1, share)?;
            return Ok(x.f_full_like(f64::NEG_INFINITY)?.f_scatter(1, &ids, &few)?);
        }
    }
    keep_share(x, &total_b1, share)
}

fn keep_share(x: &Tensor, total_b1: &Tensor, share: f64) -> Result<Tensor> {
    let (sorted, order) = x.f_sort_stable(true, 1, true)?;
    let p = sorted.f_sub(total_b1)?.f_exp()?.f_to_kind(Kind::Double)?;
    let before = p.f_cumsum(1, Kind::Double)?.f_sub(&p)?;
    let dropped = before.f_ge(share)?;
    Ok(x.f_masked_fill(&dropped.f_scatter(1, &order, &dropped)?, f64::NEG_INFINITY)?)
}
