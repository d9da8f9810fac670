//! Decoding: from prompts to replies, sampled from one model or from a mixture of two. Layer 3: uses
//! `model`.
//!
//! A sequence's draws depend on `(seed, row, sample, position)` alone: not on the batch it is in, nor on
//! the order of the rows. What one step does for the rows of a batch is in `plain` and `mixed`; which rows
//! those are, in `lanes`; from logits to a token, in `distribution`;
//! what a GPU records of it, in `recorded`. A folder that is read and ready to answer is a `Speaker`.

mod dialogue;
mod distribution;
mod lanes;
mod masses;
mod mixed;
mod plain;
mod recorded;
mod rules;
pub mod settings;
mod speaker;

pub use dialogue::Dialogue;
pub use mixed::{Effort, Form, Mixture, sample_mixed};
pub use plain::{replies, sample};
pub use settings::{Request, Sampling, Scores};
pub use speaker::{Speaker, Use};

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// With a token that ends replies, which is the last of its ids.
    Eos,
    /// At the greatest number of new tokens.
    Length,
    /// At the end of the model's context, with fewer.
    Context,
    /// Where whoever listens had heard enough.
    Stopped,
}

impl Finish {
    /// Its name in `generate`'s answer.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Eos => "eos",
            Finish::Length | Finish::Context => "length",
            Finish::Stopped => "stopped",
        }
    }
}

/// A reply to one prompt, with what training needs of it: nothing here is computed twice.
#[derive(Debug)]
pub struct Reply {
    /// Its tokens, the one that ended it included.
    pub ids: Vec<u32>,
    /// log p of each at temperature 1 without filters, over what [`Scores`] says, float32.
    pub logprobs: Vec<f32>,
    /// log p of each under the distribution that it was drawn from: filtered, and mixed where a teacher
    /// takes part.
    pub drawn: Vec<f32>,
    /// How it ended.
    pub finish: Finish,
    /// What the teacher says of it, where that was asked for.
    pub teacher: Option<Heard>,
}

impl Reply {
    /// The importance weight of each token: its probability under the model over that under which it was
    /// drawn.
    pub fn weights(&self) -> Vec<f32> {
        self.logprobs.iter().zip(&self.drawn).map(|(own, drawn)| (own - drawn).exp()).collect()
    }
}

/// What a teacher says of a reply.
#[derive(Debug)]
pub struct Heard {
    /// log p of each token under the teacher, at temperature 1 without filters.
    pub logprobs: Vec<f32>,
    /// The states that the teacher's head sees where it predicts each token, [tokens, channels]: its
    /// logits can be made again from them, exactly, at a hundredth of the memory.
    pub states: Option<tch::Tensor>,
}

#[cfg(test)]
mod tests;
