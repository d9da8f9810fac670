//! Prompts -> replies of the student with the numbers that a policy learns from: who sampled, what the
//! teacher says of it, what is kept for later. Layer 4: uses `decode`, `model`, `data`.
//!
//! A collection is sampled once and gone through several times. It carries what the updates need, so that
//! none of them asks the teacher again: the log-probabilities under both models and under what was drawn
//! from, and the states that the teacher's head sees, from which its distribution is made again.

mod collect;
mod keep;
mod replay;
mod score;
mod watch;

use retort_policies::Rollout;
use tch::Tensor;

use crate::data::Example;

pub use collect::{Collected, Collector, Prompt, TOGETHER_CPU};
pub use keep::{Kept, STATES, restore, tensors};
pub use replay::Replay;
pub use watch::{Guards, Tally};

/// A reply, and what was noted of it when it was sampled.
#[derive(Debug)]
pub struct Experience {
    /// The number of its prompt among the rows.
    pub row: u64,
    /// Prompt and reply; the reply is learnt.
    pub example: Example,
    /// Whether it ended by itself.
    pub ended: bool,
    /// The numbers of its tokens; empty where no policy asked for them.
    pub numbers: Numbers,
    /// The states that the teacher's head sees where it predicts each token, [tokens, channels].
    pub states: Option<Tensor>,
}

/// Log-probabilities of a reply's tokens at temperature 1 over the tokenizer's vocabulary, EOS barred where it
/// was barred in sampling.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Numbers {
    /// Under the student that sampled.
    pub student: Vec<f32>,
    /// Under the teacher.
    pub teacher: Vec<f32>,
    /// Under what it was drawn from.
    pub drawn: Vec<f32>,
}

impl Numbers {
    /// As policies take them.
    pub fn rollout(&self) -> Rollout {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect();
        Rollout { log_q_old: wide(&self.student), log_p: wide(&self.teacher), log_m: wide(&self.drawn) }
    }
}
