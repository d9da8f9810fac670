//! What to sample, and from what.

use crate::error::{Error, Result};

/// One sequence to be sampled.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The tokens it starts with.
    pub prompt: &'a [u32],
    /// The row that its draws are counted by.
    pub row: u64,
    /// Which of a row's samples it is.
    pub sample: u32,
}

/// Which distribution a token's own log-probability is of; always at temperature 1, without top-k and
/// top-p.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scores {
    /// The model's whole output, padding rows of the vocabulary in: what `score` reports.
    Whole,
    /// The tokenizer's vocabulary, tokens that end replies barred where they are barred in sampling:
    /// what training is about.
    Vocabulary,
}

/// How replies are sampled.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Divides the logits.
    pub temperature: f64,
    /// Only this many most probable tokens, and those that tie with the last; 0 for all.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this share, the one that crosses it included;
    /// 1 for all.
    pub top_p: f64,
    /// No sequence of this many tokens occurs twice, the prompt's included; 0 for no such rule.
    pub no_repeat_ngram: usize,
    /// The most probable token each time, in place of a draw.
    pub greedy: bool,
    /// The most tokens of a reply.
    pub max_new_tokens: usize,
    /// No reply ends before it has so many tokens.
    pub min_new_tokens: usize,
    /// The tokens that end a reply.
    pub eos: Vec<u32>,
    /// Only ids below this are chosen: the tokenizer's size, where the model's output is padded.
    pub vocabulary: usize,
    /// What every draw depends on, beside its row and position.
    pub seed: u64,
    /// Which log-probabilities are reported.
    pub scores: Scores,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            no_repeat_ngram: 0,
            greedy: false,
            max_new_tokens: 256,
            min_new_tokens: 0,
            eos: Vec::new(),
            vocabulary: usize::MAX,
            seed: 0,
            scores: Scores::Whole,
        }
    }
}

impl Sampling {
    /// Refuses what cannot be sampled from.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::user("a temperature must be above zero")
                .found(self.temperature)
                .advice("for the most probable token each time, ask for greedy replies"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::user("top-p is a share").expected("above 0, at most 1").found(self.top_p));
        }
        if self.min_new_tokens > self.max_new_tokens {
            return Err(Error::user("a reply cannot be longer than its greatest length")
                .field("min-new-tokens")
                .expected(format!("at most {}", self.max_new_tokens))
                .found(self.min_new_tokens));
        }
        if self.max_new_tokens == 0 || self.vocabulary == 0 {
            return Err(
                Error::user("nothing to sample").expected("at least one new token, and one to choose from")
            );
        }
        Ok(())
    }

    /// Whether a token is drawn from something else than the distribution of [`Scores::Vocabulary`].
    pub fn is_filtered(&self) -> bool {
        self.temperature != 1.0 || self.top_k > 0 || self.top_p < 1.0 || self.no_repeat_ngram > 0
    }
}
