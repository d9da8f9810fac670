//! Decoding: from prompts to replies. Layer 3: uses `model`.

pub mod greedy;

pub use greedy::greedy;

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// With a token that ends replies, which is the last of its ids.
    Eos,
    /// At the greatest number of new tokens, or at the end of the model's context.
    Length,
}

impl Finish {
    /// Its name in `generate`'s answer.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Eos => "eos",
            Finish::Length => "length",
        }
    }
}

/// A reply to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Its tokens, the one that ended it included.
    pub ids: Vec<u32>,
    /// log p of each under the whole output at temperature 1, float32.
    pub logprobs: Vec<f32>,
    /// How it ended.
    pub finish: Finish,
}

/// Where replies end, and which ids may be chosen.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most tokens of a reply.
    pub max_new_tokens: usize,
    /// The tokens that end one.
    pub eos: Vec<u32>,
    /// Only ids below this are chosen: the tokenizer's size, where the model's output is padded.
    pub vocabulary: usize,
}
