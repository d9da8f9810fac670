//! What the models of the quickstart are measured by, on prompts that none of them has seen.
//!
//! One reply a prompt at temperature 1, as `retort generate --input` gives it, and the most probable one. The
//! reverse KL is the mean over the tokens of the model's own replies; exposure bias is that of
//! `eval::exposure` at the end of the replies.

use std::path::Path;

use tch::{Device, Kind};

use super::grammar::{Grammar, Request};
use crate::decode::{Sampling, Speaker};
use crate::error::Result;
use crate::eval::bootstrap::{Estimate, of_sums};
use crate::eval::exposure::excess;
use crate::eval::replies::{Answer, answers};
use crate::eval::{rouge, text_metrics};
use crate::model::LoadOptions;
use crate::model::gap::{Gap, Given, at_tokens};
use crate::signal;
use crate::weights::Residence;

/// What `generate` takes where nothing is said.
const NEW_TOKENS: usize = 256;
const TOGETHER: usize = 32;
const SEED: u64 = 0;

/// What one model came to.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Numbers of its parameters.
    pub parameters: u64,
    /// Rouge-L of sampled replies, in percent.
    pub rouge_l: Estimate,
    /// The share of replies that are one of the references.
    pub exact_match: Estimate,
    /// The share that the task's grammar could have given.
    pub valid: Estimate,
    /// The same of the most probable replies.
    pub valid_greedy: Estimate,
    /// Nats a token of its own replies; none of a teacher against itself.
    pub reverse_kl: Estimate,
    /// ExAccErr, in percent.
    pub exposure: Estimate,
    /// Distinct 4-grams of tokens.
    pub distinct_4: Option<Estimate>,
    /// Rouge-L of each row.
    pub rows: Vec<f64>,
    /// The sampled replies.
    pub replies: Vec<String>,
}

/// The held-out rows.
pub(super) struct HeldOut {
    pub requests: Vec<Request>,
    pub references: Vec<Vec<String>>,
}

/// A model with what reads for it.
pub(super) struct Read {
    speaker: Speaker,
    sampling: Sampling,
    prompts: Vec<Vec<u32>>,
}

impl Read {
    pub fn open(folder: &Path, rows: &HeldOut, (device, kind): (Device, Kind)) -> Result<Self> {
        let options = LoadOptions { kind, device, residence: Residence::Mapped, check_finite: true };
        let speaker = Speaker::open(folder, options)?;
        let prompts = speaker.prompts(rows.requests.iter().map(|request| request.prompt.as_str()))?;
        let sampling =
            speaker.sampling(Sampling { seed: SEED, max_new_tokens: NEW_TOKENS, ..Sampling::default() });
        Ok(Read { speaker, sampling, prompts })
    }

    /// A reply to each prompt, sampled or the most probable one.
    pub fn answers(&self, greedy: bool) -> Result<Vec<Answer>> {
        let prompts: Vec<&[u32]> = self.prompts.iter().map(Vec::as_slice).collect();
        let settings = Sampling { greedy, ..self.sampling.clone() };
        answers((&self.speaker.model, &self.speaker.tokenizer), &prompts, &settings, TOGETHER, &mut || ())
    }

    /// At every token of these replies to the prompts, how far this model is from its teacher.
    fn gap(&self, teacher: &Read, replies: &[Answer]) -> Result<Vec<Gap>> {
        let whole: Vec<Vec<u32>> = self
            .prompts
            .iter()
            .zip(replies)
            .map(|(p, r)| p.iter().chain(&r.ids).copied().collect())
            .collect();
        let given: Vec<Given<'_>> = whole
            .iter()
            .zip(&self.prompts)
            .map(|(ids, prompt)| Given { ids, prompt_len: prompt.len() })
            .collect();
        let vocabulary = self.sampling.vocabulary;
        let gaps = at_tokens(&teacher.speaker.model, &self.speaker.model, vocabulary, &given, &mut |_| {
            signal::check()
        })?;
        Ok(gaps.iter().map(|values| Gap::sum(values)).collect())
    }
}

/// Places in [`Gap::NAMES`].
const FORWARD: usize = 0;
const REVERSE: usize = 1;

/// The rows' numbers that are resampled together, by their place.
const SUMS: usize = 8;

/// Measures a model; `heard` are the teacher's replies.
pub(super) fn measure(
    student: &Read,
    teacher: &Read,
    heard: &[Answer],
    (grammar, held): (&Grammar, &HeldOut),
) -> Result<Measured> {
    let said = student.answers(false)?;
    let best = student.answers(true)?;
    let (own, others) = (student.gap(teacher, &said)?, student.gap(teacher, heard)?);
    let share = |yes: bool| f64::from(u8::from(yes));
    let mut sums: Vec<[f64; SUMS]> = Vec::with_capacity(said.len());
    for (n, (request, references)) in held.requests.iter().zip(&held.references).enumerate() {
        let reply = &said[n].text;
        sums.push([
            100.0 * rouge::best(references, reply).unwrap_or(0.0),
            share(text_metrics::exact_match(references, reply) == Some(true)),
            share(grammar.is_valid(request, reply.trim())?),
            share(grammar.is_valid(request, best[n].text.trim())?),
            own[n].sums[FORWARD],
            others[n].sums[FORWARD],
            own[n].sums[REVERSE],
            own[n].tokens as f64,
        ]);
    }
    let [rouge_l, exact_match, valid, valid_greedy, exposure, reverse_kl] = of_sums(&sums, SEED, |s, n| {
        let [rouge, exact, valid, greedy, own, others, reverse, tokens] = s;
        [rouge / n, exact / n, valid / n, greedy / n, excess(own, others), reverse / tokens.max(1.0)]
    })?;
    let ids: Vec<&[u32]> = said.iter().map(|answer| answer.ids.as_slice()).collect();
    Ok(Measured {
        parameters: student.speaker.model.params().compute().iter().map(|t| t.numel() as u64).sum(),
        rouge_l,
        exact_match,
        valid,
        valid_greedy,
        reverse_kl,
        exposure,
        distinct_4: text_metrics::distinct_4(&[ids], SEED)?,
        rows: sums.iter().map(|s| s[0]).collect(),
        replies: said.into_iter().map(|answer| answer.text).collect(),
    })
}
