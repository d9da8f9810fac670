//! The common terms in float32 on the CPU, by loops of our own: what libtorch's operations do in a dozen
//! passes over a block is done in three over a row (`row`; docs/adr/0010). Cross-entropy, the teacher's cross-entropy,
//! forward and reverse KL and the policy gradient, in any sum, with temperature and bars; all else, and
//! every other type and device, is computed by the operations of [`super::term`].
//!
//! Rows know nothing of each other, so neither chunks nor threads change a bit.

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::input::{Barred, Head, Input, Side};
use super::term::Term;
use crate::error::{Error, Result};
use measure::{Measured, numbers};
use row::{Both, Cold, Slope, Soft};

mod measure;
mod memory;
mod row;
#[cfg(test)]
mod tests;

/// A loss whose terms these loops know.
#[derive(Debug)]
pub(super) struct Fast<'a> {
    barred: Option<Barred<'a>>,
    width: usize,
    /// Whether a term compares with the teacher.
    compares: bool,
    tokens: Tokens,
}

/// What the loops know of each token, as plain numbers that threads may share.
#[derive(Debug)]
struct Tokens {
    terms: Vec<Measured>,
    targets_n: Vec<i64>,
    scale_n: Option<Vec<f64>>,
    /// One over the teacher's temperature.
    cold: Cold,
    /// Whether a logit may be -inf.
    look: bool,
    /// Whether the derivative is asked for.
    slope: bool,
}

impl<'a> Fast<'a> {
    /// The loops for this loss, where they know it.
    pub(super) fn of(
        input: &Input<'a>,
        terms: &[Term],
        scale_n: Option<&Tensor>,
        look: bool,
        slope: bool,
    ) -> Result<Option<Self>> {
        let plain = |side: &Side| {
            let capped = matches!(side, Side::Hidden { head: Head { softcap: Some(_), .. }, .. });
            side.tensor().device() == Device::Cpu && side.kind() == Kind::Float && !capped
        };
        let sides = [Some(&input.student), input.teacher.as_ref()];
        let drawn = matches!(input.teacher, Some(Side::Draws(_)));
        if terms.is_empty() || drawn || !sides.into_iter().flatten().all(plain) {
            return Ok(None);
        }
        let targets_n = Vec::<i64>::try_from(input.targets_n)?;
        let count = targets_n.len();
        let known: Option<Vec<Measured>> = terms
            .iter()
            .map(|term| Measured::of(term, count).transpose())
            .collect::<Option<Result<_>>>()
            .transpose()?;
        let Some(known) = known else { return Ok(None) };
        if let Some(wrong) = targets_n.iter().find(|id| !(0..input.vocabulary).contains(id)) {
            return Err(Error::handed("a target", format!("0 to {}", input.vocabulary - 1), wrong));
        }
        let scale_n = scale_n.map(|scale_n| numbers(scale_n, count)).transpose()?;
        let cold = Cold::of(input.teacher_temperature);
        Ok(Some(Fast {
            barred: input.barred,
            width: input.vocabulary as usize,
            compares: terms.iter().any(|t| t.loss.needs_teacher()),
            tokens: Tokens { terms: known, targets_n, scale_n, cold, look, slope },
        }))
    }

    /// One chunk: each term at each of its tokens into `values_kn`, the derivative where the student's logits
    /// lie. Both sides' logits are overwritten.
    pub(super) fn chunk(
        &self,
        z_cv: &mut Tensor,
        teacher_cv: Option<&mut Tensor>,
        from: i64,
        values_kn: &Tensor,
    ) -> Result<()> {
        let (length, width, terms) = (z_cv.size()[0], self.width, self.tokens.terms.len());
        let mut made = vec![0f32; length as usize * terms];
        if let Some(barred) = &self.barred {
            barred.bar(z_cv, from)?;
        }
        let t = match teacher_cv.filter(|_| self.compares) {
            Some(t_cv) => {
                if let Some(barred) = &self.barred {
                    barred.bar(t_cv, from)?;
                }
                Some(&*memory::numbers(t_cv)?)
            }
            None => None,
        };
        let (z, tokens) = (memory::numbers(z_cv)?, &self.tokens);
        let one = |(row, (z, made)): (usize, (&mut [f32], &mut [f32]))| {
            tokens.row(from as usize + row, z, t.map(|t| &t[row * width..][..width]), made);
        };
        match tch::get_num_threads() as usize {
            0 | 1 => z.chunks_mut(width).zip(made.chunks_mut(terms)).enumerate().for_each(one),
            threads => {
                let rows = z.par_chunks_mut(width).zip(made.par_chunks_mut(terms)).enumerate();
                rows.with_min_len((length as usize).div_ceil(threads)).for_each(one);
            }
        }
        let made_kc = Tensor::f_from_slice(&made)?.f_view([length, terms as i64])?.f_transpose(0, 1)?;
        values_kn.f_narrow(1, from, length)?.f_copy_(&made_kc)?;
        Ok(())
    }
}

impl Tokens {
    fn row(&self, n: usize, z: &mut [f32], t: Option<&[f32]>, made: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has what the function is compiled for.
            return unsafe { self.row_avx2(n, z, t, made) };
        }
        self.row_anywhere(n, z, t, made);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn row_avx2(&self, n: usize, z: &mut [f32], t: Option<&[f32]>, made: &mut [f32]) {
        self.row_anywhere(n, z, t, made);
    }

    /// One token: the passes over its rows, and the terms between them. Compiled once for every machine and once
    /// for wider ones; both give the same bits.
    #[inline(always)]
    fn row_anywhere(&self, n: usize, z: &mut [f32], t: Option<&[f32]>, made: &mut [f32]) {
        let target = self.targets_n[n] as usize;
        let both = t.map(|t| Both::of(z, t, self.cold, self.look));
        let q = both.map_or_else(|| Soft::of(z), |both| both.q);
        let slope = self.terms_at(n, q.log_of(z[target]), both.as_ref(), made);
        if self.slope {
            slope.put(target, &q, z, both.as_ref().zip(t).map(|(both, t)| (both, t, self.cold)));
        }
    }

    /// The value of each term at a token, and the derivative of them all.
    fn terms_at(&self, n: usize, log_q: f64, both: Option<&Both>, made: &mut [f32]) -> Slope {
        let scale = self.scale_n.as_ref().map_or(1.0, |scale_n| scale_n[n]);
        let mut sum = Slope::default();
        for (term, made) in self.terms.iter().zip(made) {
            let (value, slope) = term.at(n, log_q, both);
            *made = value as f32;
            if let Some(weight_n) = &term.weight_n {
                let weight = weight_n[n] * scale;
                sum.of_q += weight * slope.of_q;
                sum.of_p += weight * slope.of_p;
                sum.of_gap += weight * slope.of_gap;
                sum.of_target += weight * slope.of_target;
            }
        }
        sum
    }
}
