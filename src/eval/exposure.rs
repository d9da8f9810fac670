//! Exposure bias as MiniLLM measures it, ExAccErr(l): how much farther from its teacher a student is behind
//! its own words than behind the teacher's.
//!
//! ```text
//! R(l) = mean over prompts of sum_{t <= min(l, T)} KL(p_t || q_t), on the student's own samples
//! E(l) = the same on the teacher's samples, each with its own T
//! ExAccErr(l) = 100 (R - E) / E, of the means
//! ```
//!
//! Samples are at temperature 1 without filters; every token counts, the first and the end of the reply
//! too. `lmops` repeats the reference code: from the second token on, the end of the reply out, no six
//! tokens twice. Prompts are resampled with R and E together; seeds of a prompt are averaged first. Values
//! a little below 0 are usual where there is no bias.

use super::bootstrap::{Estimate, of_sums};
use crate::decode::{Reply, Sampling, replies};
use crate::error::Result;
use crate::model::CausalLm;
use crate::model::gap::{Gap, Given, at_tokens};

/// The n-grams that the reference code does not let come twice.
const LMOPS_NGRAM: usize = 6;

/// A student, its teacher, and the ids that both can say.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// The student.
    pub student: &'a CausalLm,
    /// The teacher.
    pub teacher: &'a CausalLm,
    /// Ids below this.
    pub vocabulary: usize,
}

/// How it is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Length, ends of replies and vocabulary of the samples; how they are filtered is not taken from here.
    pub sampling: Sampling,
    /// Samples of each prompt.
    pub seeds: Vec<u64>,
    /// Prompts that are decoded together.
    pub batch: usize,
    /// Whether the reference code is repeated.
    pub lmops: bool,
}

/// A point of the curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Tokens that are added up, at most.
    pub l: usize,
    /// ExAccErr of them, in percent.
    pub error: Estimate,
}

/// The curve at l = 1, 2, 4, ... and at the greatest number of new tokens, which comes last. `done` is told
/// of each piece of work.
pub fn exposure(
    pair: Pair<'_>,
    prompts: &[&[u32]],
    settings: &Settings,
    done: &mut dyn FnMut(),
) -> Result<Vec<Point>> {
    let most = settings.sampling.max_new_tokens;
    let lengths: Vec<usize> =
        std::iter::successors(Some(1), |l| Some(l * 2)).take_while(|l| *l < most).chain([most]).collect();
    // By length, then by prompt: R and E, summed over the seeds.
    let mut sums = vec![vec![[0.0; 2]; prompts.len()]; lengths.len()];
    for &seed in &settings.seeds {
        let sampling = settings.sampling(seed);
        for (which, model) in [pair.student, pair.teacher].into_iter().enumerate() {
            let said = replies(model, prompts, &sampling, settings.batch)?;
            done();
            for (row, kls) in settings.divergences(pair, prompts, &said)?.iter().enumerate() {
                for (l, sums) in lengths.iter().zip(&mut sums) {
                    sums[row][which] += kls.iter().take(*l).sum::<f64>();
                }
            }
            done();
        }
    }
    let seed = settings.seeds.first().copied().unwrap_or(0);
    let point = |(l, rows): (usize, Vec<[f64; 2]>)| {
        let [error] = of_sums(&rows, seed, |[r, e], _| [excess(r, e)])?;
        Ok(Point { l, error })
    };
    lengths.into_iter().zip(sums).map(point).collect()
}

/// How much more R is than E, in percent; 0 where both are alike, a student that is its teacher among them.
pub fn excess(r: f64, e: f64) -> f64 {
    if r == e { 0.0 } else { 100.0 * (r - e) / e }
}

impl Settings {
    fn sampling(&self, seed: u64) -> Sampling {
        let Sampling { max_new_tokens, eos, vocabulary, .. } = self.sampling.clone();
        let no_repeat_ngram = if self.lmops { LMOPS_NGRAM } else { 0 };
        Sampling { max_new_tokens, eos, vocabulary, seed, no_repeat_ngram, ..Sampling::default() }
    }

    /// KL(p_t || q_t) at every token of each reply; what this setting leaves out is 0.
    fn divergences(&self, pair: Pair<'_>, prompts: &[&[u32]], said: &[Reply]) -> Result<Vec<Vec<f64>>> {
        let context = pair.student.shape().context.min(pair.teacher.shape().context) as usize;
        let whole: Vec<Vec<u32>> = prompts
            .iter()
            .zip(said)
            .map(|(prompt, reply)| prompt.iter().chain(&reply.ids).copied().take(context).collect())
            .collect();
        let given: Vec<Given<'_>> =
            whole.iter().zip(prompts).map(|(ids, p)| Given { ids, prompt_len: p.len() }).collect();
        let all =
            at_tokens(pair.teacher, pair.student, pair.vocabulary, &given, &mut |_| crate::signal::check())?;
        let mut kept = Vec::with_capacity(all.len());
        for (values, ids) in all.iter().zip(&whole) {
            Gap::sum(values).check_finite()?;
            let mut kls: Vec<f64> = values.iter().map(|[forward_kl, ..]| *forward_kl).collect();
            if self.lmops {
                let ended = ids.last().is_some_and(|id| self.sampling.eos.contains(id));
                kls.last_mut().filter(|_| ended).into_iter().for_each(|kl| *kl = 0.0);
                kls.first_mut().into_iter().for_each(|kl| *kl = 0.0);
            }
            kept.push(kls);
        }
        Ok(kept)
    }
}
