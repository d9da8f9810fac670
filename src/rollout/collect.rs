//! One collection: every prompt gets a reply, of the student alone or of the mixture with its teacher.

use std::time::{Duration, Instant};

use tch::Device;

use super::score::{Scoring, score};
use super::{Experience, Numbers};
use crate::data::Example;
use crate::decode::{Finish, Form, Mixture, Reply, Request, Sampling, sample, sample_mixed};
use crate::error::{Error, Result};
use crate::model::CausalLm;

/// Replies that are decoded together.
pub const TOGETHER_CPU: usize = 64;
const TOGETHER_GPU: usize = 256;

/// A prompt to be replied to.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Its number among the rows.
    pub row: u64,
    /// The number of this reply in the whole run, which its draws are counted by.
    pub turn: u64,
    /// Its tokens.
    pub ids: Vec<u32>,
}

/// Who samples, and what is noted.
#[derive(Debug)]
pub struct Collector<'m> {
    /// The model that learns.
    pub student: &'m CausalLm,
    /// The model that teaches.
    pub teacher: Option<&'m CausalLm>,
    /// The teacher's share of the draws.
    pub alpha: f64,
    /// How replies are sampled.
    pub sampling: Sampling,
    /// Whether log-probabilities under both models are noted.
    pub numbers: bool,
    /// Whether the teacher's last states are.
    pub states: bool,
}

/// A collection, and what it took.
#[derive(Debug)]
pub struct Collected {
    /// In the order of the prompts.
    pub experiences: Vec<Experience>,
    /// Time spent in sampling; in the mixture that is scoring too.
    pub sampling: Duration,
    /// Time spent in passes that only score.
    pub scoring: Duration,
}

impl Collector<'_> {
    /// Samples a reply to each prompt. `done` hears how many there are so far.
    pub fn collect(&self, prompts: &[Prompt], done: &mut dyn FnMut(usize)) -> Result<Collected> {
        let begun = Instant::now();
        let requests: Vec<Request<'_>> =
            prompts.iter().map(|p| Request { prompt: &p.ids, row: p.turn, sample: 0 }).collect();
        let mut replies: Vec<Option<Reply>> = prompts.iter().map(|_| None).collect();
        let mut count = 0;
        self.sample(&requests, &mut |n, reply| {
            replies[n] = Some(reply);
            count += 1;
            done(count);
            Ok(())
        })?;
        let mut experiences = prompts
            .iter()
            .zip(replies)
            .map(|(prompt, reply)| {
                let reply = reply.ok_or_else(|| Error::bug("a prompt without a reply"))?;
                self.experience(prompt, reply)
            })
            .collect::<Result<Vec<_>>>()?;
        let sampling = begun.elapsed();
        let begun = Instant::now();
        if self.alpha == 0.0 && (self.numbers || self.states) {
            let teacher = self.teacher.ok_or_else(|| Error::bug("replies to be scored without a teacher"))?;
            let scoring = Scoring {
                teacher,
                vocabulary: self.sampling.vocabulary,
                eos: &self.sampling.eos,
                min_new_tokens: self.sampling.min_new_tokens,
                states: self.states,
            };
            score(&scoring, &mut experiences)?;
        }
        Ok(Collected { experiences, sampling, scoring: begun.elapsed() })
    }

    fn sample(
        &self,
        requests: &[Request<'_>],
        done: &mut dyn FnMut(usize, Reply) -> Result<()>,
    ) -> Result<()> {
        let together = if self.student.device() == Device::Cpu { TOGETHER_CPU } else { TOGETHER_GPU };
        if self.alpha == 0.0 {
            return sample(self.student, requests, &self.sampling, together, done);
        }
        let teacher = self.teacher.ok_or_else(|| Error::bug("a mixture without a teacher"))?;
        let (alpha, form, states) = (self.alpha, Form::COINS, self.states);
        let mixture = Mixture { teacher, alpha, form, scores: true, states };
        sample_mixed(self.student, mixture, requests, &self.sampling, together, done).map(|_| ())
    }

    fn experience(&self, prompt: &Prompt, reply: Reply) -> Result<Experience> {
        let ids: Vec<u32> = prompt.ids.iter().chain(&reply.ids).copied().collect();
        let example = Example { from: prompt.ids.len(), ids, given: Vec::new() };
        let (teacher, states) = match reply.teacher {
            Some(heard) => (heard.logprobs, heard.states),
            None => (Vec::new(), None),
        };
        let numbers = if self.numbers {
            Numbers { student: reply.logprobs, teacher, drawn: reply.drawn }
        } else {
            Numbers::default()
        };
        // A piece of its own memory: what a step gave out may be a part of something larger.
        let states = states.map(|t| t.f_detach_copy()).transpose()?;
        Ok(Experience { row: prompt.row, example, ended: reply.finish == Finish::Eos, numbers, states })
    }
}
