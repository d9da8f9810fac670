//! Rows of instruction data and documents of text <-> token ids, and the order in which a run sees them.
//! Layer 1: uses `text`, `store`, `seed`.
//!
//! Rows and documents are streamed, tokenised on all threads, and kept in a file of tokens with a
//! fingerprint of all that they depend on ([`tokens`]); from there on a run deals with numbers of rows
//! alone, in an order that is a pure function of seed and epoch ([`sampler`]).

pub mod corpus;
pub mod encode;
pub mod fit;
pub mod prepare;
pub mod reader;
pub mod rows;
pub mod sampler;
pub mod tokens;

pub use corpus::{Corpus, Packed};
pub use encode::{Encoded, Encoder};
pub use fit::{Fitted, Limits};
pub use prepare::{Need, Preparation};
pub use reader::{Reader, Rows, read, read_with};
pub use rows::{Row, Schema};
pub use sampler::{Order, Place, Sampler, by_length};
pub use tokens::{Counts, TokenFile};

/// Tokens to learn from: those before `from` are given, those from there on are learnt, each by the state
/// of the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// All tokens.
    pub ids: Vec<u32>,
    /// The first that is learnt; at least 1, as nothing predicts the first token.
    pub from: usize,
}

impl Example {
    /// How many tokens are learnt.
    pub fn targets(&self) -> usize {
        self.ids.len().saturating_sub(self.from)
    }
}
