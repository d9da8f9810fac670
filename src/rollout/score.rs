//! What a teacher says of replies that the student sampled alone: one pass over prompt and reply.

use retort_policies::objective::head::{Want, fused};
use retort_policies::objective::input::{Barred, Input, Side};
use retort_policies::objective::rows::{Rows, first_of_rows};
use retort_policies::objective::term::{Loss, Term};
use tch::Tensor;

use super::Experience;
use crate::data::{by_length, sampler::Cut};
use crate::error::Result;
use crate::model::{CausalLm, Padding};
use crate::signal;

/// Tokens of a pass, padding in.
const AT_ONCE: usize = 4096;

/// Who scores, and over what.
#[derive(Debug)]
pub struct Scoring<'a> {
    /// The teacher.
    pub teacher: &'a CausalLm,
    /// The tokenizer's size.
    pub vocabulary: usize,
    /// The ids that are barred at first.
    pub eos: &'a [u32],
    /// For how many tokens.
    pub min_new_tokens: usize,
    /// Whether the states are kept.
    pub states: bool,
}

/// Notes the teacher's log-probability of each token, and its states where they are wanted.
pub fn score(scoring: &Scoring<'_>, experiences: &mut [Experience]) -> Result<()> {
    let _off = tch::no_grad_guard();
    let lengths: Vec<usize> = experiences.iter().map(|e| e.example.ids.len()).collect();
    for group in by_length(&lengths, Cut::Tokens(AT_ONCE)) {
        signal::check()?;
        scoring.group(experiences, &group)?;
    }
    Ok(())
}

impl Scoring<'_> {
    fn group(&self, experiences: &mut [Experience], group: &[usize]) -> Result<()> {
        let device = self.teacher.device();
        let width = group.iter().map(|&i| experiences[i].example.ids.len()).max().unwrap_or(1) - 1;
        let mut ids = vec![0i64; group.len() * width];
        let (mut targets, mut spans) = (Vec::new(), Vec::new());
        for (slots, &i) in ids.chunks_mut(width).zip(group) {
            let example = &experiences[i].example;
            slots.iter_mut().zip(&example.ids[..example.ids.len() - 1]).for_each(|(s, &id)| *s = id.into());
            targets.extend(example.ids[example.from..].iter().map(|&id| i64::from(id)));
            spans.push((example.from - 1, example.targets()));
        }
        let ids_bt = Tensor::f_from_slice(&ids)?.f_view([group.len() as i64, width as i64])?;
        let rows = Rows::new(width, spans)?;
        let hidden_nd = rows.pack(&self.teacher.hidden(&ids_bt.f_to_device(device)?, &Padding::Right)?)?;
        let lengths = rows.lengths();
        let logprobs = self.log_probabilities(&hidden_nd, &targets, &lengths)?;
        let mut start = 0;
        for (&i, &n) in group.iter().zip(&lengths) {
            let experience = &mut experiences[i];
            if !experience.numbers.student.is_empty() {
                experience.numbers.teacher = logprobs[start..start + n].to_vec();
            }
            if self.states {
                let own = hidden_nd.f_narrow(0, start as i64, n as i64)?;
                experience.states = Some(own.f_detach_copy()?);
            }
            start += n;
        }
        Ok(())
    }

    fn log_probabilities(&self, hidden_nd: &Tensor, targets: &[i64], lengths: &[usize]) -> Result<Vec<f32>> {
        let device = self.teacher.device();
        let eos: Vec<i64> = self.eos.iter().map(|&id| i64::from(id)).collect();
        let at_n = first_of_rows(lengths, self.min_new_tokens, device)?;
        let input = Input {
            student: Side::Hidden { hidden_nd, head: self.teacher.scoring_head() },
            teacher: None,
            targets_n: &Tensor::f_from_slice(targets)?.f_to_device(device)?,
            vocabulary: self.vocabulary as i64,
            barred: (self.min_new_tokens > 0).then_some(Barred { ids: &eos, at_n: &at_n }),
            teacher_temperature: 1.0,
        };
        let made = fused(&input, &[Term::new("nll", Loss::CrossEntropy, 1.0)], Want::Values)?;
        let nll = made.values_kn.f_select(0, 0)?.f_neg()?.f_to_kind(tch::Kind::Float)?;
        Ok(Vec::try_from(nll.f_to_device(tch::Device::Cpu)?)?)
    }
}
