//! How far a student is from its teacher on given tokens: the divergences of `retort_policies` at every
//! response token, exact over the tokenizer's vocabulary. Rows are batched by length, and the heads are
//! applied to a few positions at a time, so that [tokens, vocabulary] is never held whole.
//!
//! Both models' logits are widened to float64 before their softmax: the log-softmax of float32 alone is
//! off by more than the divergence of two models that are near each other.

use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::head::{Chunks, Want, fused};
use retort_policies::objective::input::{Input, Side};
use retort_policies::objective::rows::Rows;
use retort_policies::objective::term::{Loss, Term};
use tch::{Kind, Tensor};

use super::layers::Head;
use super::score::{by_length, right_padded};
use super::{CausalLm, Padding};
use crate::error::{Error, Result};

/// Positions whose logits are held in float64 at once.
const WIDENED: i64 = 32;

/// A row's tokens, and how many of them are the prompt.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// All tokens.
    pub ids: &'a [u32],
    /// The prompt's, which are not compared.
    pub prompt_len: usize,
}

impl Given<'_> {
    /// How many tokens are compared.
    pub fn compared(&self) -> usize {
        self.span().1
    }

    /// The position that predicts the first compared token, and how many are compared. What comes first of
    /// all is predicted by nothing.
    fn span(&self) -> (usize, usize) {
        let first = self.prompt_len.max(1);
        (first - 1, self.ids.len().saturating_sub(first))
    }
}

/// What was measured, summed over tokens: nats, and for `top1` a count.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gap {
    /// In the order of [`Gap::NAMES`].
    pub sums: [f64; 7],
    /// How many tokens.
    pub tokens: usize,
}

impl Gap {
    /// What is measured.
    pub const NAMES: [&'static str; 7] =
        ["forward_kl", "reverse_kl", "jsd", "tvd", "nll_teacher", "nll_student", "top1"];

    /// The sums over tokens with these values.
    pub fn sum(values: &[[f64; 7]]) -> Self {
        let mut gap = Gap { tokens: values.len(), ..Gap::default() };
        for value in values {
            gap.sums.iter_mut().zip(value).for_each(|(sum, x)| *sum += x);
        }
        gap
    }

    /// Adds another row's sums.
    pub fn add(&mut self, other: &Gap) {
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, x)| *sum += x);
        self.tokens += other.tokens;
    }

    /// Means over the tokens, or none where there is no token.
    pub fn means(&self) -> Option<[f64; 7]> {
        (self.tokens > 0).then(|| self.sums.map(|sum| sum / self.tokens as f64))
    }

    /// Refuses what is not finite: weights that are can still overflow on the way.
    pub fn check_finite(&self) -> Result<()> {
        match self.sums.iter().zip(Self::NAMES).find(|(sum, _)| !sum.is_finite()) {
            None => Ok(()),
            Some((sum, name)) => Err(Error::numeric("a mean is not finite")
                .field(name)
                .found(sum)
                .advice("a model's numbers overflow: try --dtype f32, or check its weights and config.json")),
        }
    }
}

/// The gap on each row. Both models' logits are cut to the first `vocabulary` ids, which every token must
/// be below. `done` is told how many rows each batch had, and stops the work with an error.
pub fn gaps(
    teacher: &CausalLm,
    student: &CausalLm,
    vocabulary: usize,
    rows: &[Given<'_>],
    done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Gap>> {
    Ok(at_tokens(teacher, student, vocabulary, rows, done)?.iter().map(|values| Gap::sum(values)).collect())
}

/// The same at each compared token of each row, in the order of [`Gap::NAMES`].
pub fn at_tokens(
    teacher: &CausalLm,
    student: &CausalLm,
    vocabulary: usize,
    rows: &[Given<'_>],
    done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<[f64; 7]>>> {
    let _off = tch::no_grad_guard();
    let pair = Compared { teacher, student, vocabulary: vocabulary as i64 };
    let mut all = vec![Vec::new(); rows.len()];
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    for batch in by_length(&lengths) {
        let part: Vec<Given<'_>> = batch.iter().map(|&i| rows[i]).collect();
        for (&i, values) in batch.iter().zip(pair.batch(&part)?) {
            all[i] = values;
        }
        done(batch.len())?;
    }
    Ok(all)
}

struct Compared<'m> {
    teacher: &'m CausalLm,
    student: &'m CausalLm,
    vocabulary: i64,
}

impl Compared<'_> {
    /// One batch, padded on the right, its first row the longest.
    fn batch(&self, rows: &[Given<'_>]) -> Result<Vec<Vec<[f64; 7]>>> {
        let width = rows.first().map_or(0, |row| row.ids.len());
        let spans: Vec<(usize, usize)> = rows.iter().map(Given::span).collect();
        let mut values = if spans.iter().any(|(_, count)| *count > 0) {
            let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids).collect();
            let ids_bt = right_padded(&ids, width)?.f_to_device(self.student.device())?;
            self.values(&ids_bt, &Rows::new(width - 1, spans.clone())?)?
        } else {
            Vec::new()
        }
        .into_iter();
        Ok(spans.iter().map(|&(_, tokens)| values.by_ref().take(tokens).collect()).collect())
    }

    /// What is measured at each compared token, rows in order.
    fn values(&self, ids_bt: &Tensor, at: &Rows) -> Result<Vec<[f64; 7]>> {
        let before = ids_bt.size2()?.1 - 1;
        // The last position predicts nothing that is asked for.
        let inputs_bt = ids_bt.f_narrow(1, 0, before)?;
        let targets_n = at.pack(&ids_bt.f_narrow(1, 1, before)?)?;
        let states = |model: &CausalLm| Ok::<_, Error>(at.pack(&model.hidden(&inputs_bt, &Padding::Right)?)?);
        let (p_nd, q_nd) = (states(self.teacher)?, states(self.student)?);
        let heads = (self.cut(self.teacher)?, self.cut(self.student)?);
        let total = targets_n.size()[0];
        let chunk = Chunks::of(targets_n.device(), self.vocabulary).tokens;
        let mut values = Vec::with_capacity(total as usize);
        for from in (0..total).step_by(chunk as usize) {
            let length = chunk.min(total - from);
            let p_cv = heads.0.logits(&p_nd.f_narrow(0, from, length)?)?;
            let q_cv = heads.1.logits(&q_nd.f_narrow(0, from, length)?)?;
            for start in (0..length).step_by(WIDENED as usize) {
                let count = WIDENED.min(length - start);
                let wide = |z_cv: &Tensor| z_cv.f_narrow(0, start, count)?.f_to_kind(Kind::Double);
                let targets_c = targets_n.f_narrow(0, from + start, count)?;
                let told_kc = self.measured(&wide(&p_cv)?, &wide(&q_cv)?, &targets_c)?;
                let told: Vec<f64> = Vec::try_from(told_kc.f_transpose(0, 1)?.f_contiguous()?.f_view([-1])?)?;
                values.extend(told.as_chunks().0);
            }
        }
        Ok(values)
    }

    /// A model's head without what stands behind the vocabulary.
    fn cut(&self, model: &CausalLm) -> Result<Head> {
        let first = |t: &Tensor| t.f_narrow(0, 0, self.vocabulary);
        let Head { weight_vd, bias_v } = model.head();
        Ok(Head { weight_vd: first(weight_vd)?, bias_v: bias_v.as_ref().map(first).transpose()? })
    }

    /// The numbers of [`Gap::NAMES`] at a few tokens.
    fn measured(&self, p_cv: &Tensor, q_cv: &Tensor, targets_c: &Tensor) -> Result<Tensor> {
        let own = |name| Term::new(name, Loss::CrossEntropy, 1.0);
        let with = |which: Divergence| Term::new(which.name(), Loss::Divergence(which), 1.0);
        let both = [
            with(Divergence::ForwardKl),
            with(Divergence::ReverseKl),
            with(Divergence::Jsd { beta: 0.5, normalised: false }),
            with(Divergence::Tvd),
            own("student"),
        ];
        let values_kc = |student_cv, teacher_cv: Option<_>, terms: &[Term]| {
            let input = Input {
                student: Side::Logits(student_cv),
                teacher: teacher_cv.map(Side::Logits),
                targets_n: targets_c,
                vocabulary: self.vocabulary,
                barred: None,
                teacher_temperature: 1.0,
            };
            Ok::<_, Error>(fused(&input, terms, Want::Values)?.values_kn)
        };
        let told_kc = values_kc(q_cv, Some(p_cv), &both)?;
        let teacher_kc = values_kc(p_cv, None, &[own("teacher")])?;
        let best = |z_cv: &Tensor| z_cv.f_argmax(-1, false);
        let same_c = best(p_cv)?.f_eq_tensor(&best(q_cv)?)?.f_to_kind(Kind::Double)?;
        Ok(Tensor::f_cat(
            &[told_kc.f_narrow(0, 0, 4)?, teacher_kc, told_kc.f_narrow(0, 4, 1)?, same_c.f_unsqueeze(0)?],
            0,
        )?)
    }
}
