//! Rows of instruction data and documents of text <-> token ids, and the order in which a run sees them.
//! Layer 1: uses `text`, `store`, `seed`.
//!
//! Rows and documents are streamed, tokenised on all threads, and kept in a file of tokens with a
//! fingerprint of all that they depend on ([`tokens`]); from there on a run deals with numbers of rows
//! alone, in an order that is a pure function of seed and epoch ([`sampler`]).

use std::ops::Range;

pub mod corpus;
pub mod encode;
pub mod fit;
pub mod packed;
pub mod prepare;
pub mod reader;
pub mod rows;
pub mod sampler;
mod talk;
pub mod tokens;

pub use corpus::Corpus;
pub use encode::{Encoded, Encoder};
pub use fit::{Fitted, Limits};
pub use packed::Packed;
pub use prepare::{Need, Preparation};
pub use reader::{Reader, Rows, read, read_with};
pub use rows::{Row, Schema};
pub use sampler::{Order, Place, Sampler, by_length};
pub use tokens::{Counts, TokenFile};

/// Tokens to learn from: those before `from` are given, those from there on are learnt but for the stretches
/// in `given`, each by the state of the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    /// All tokens.
    pub ids: Vec<u32>,
    /// The first that is learnt; at least 1, as nothing predicts the first token.
    pub from: usize,
    /// What is given behind it, as what a user says between two replies: stretches in their order, none empty.
    pub given: Vec<Range<usize>>,
}

impl Example {
    /// How many tokens are learnt.
    pub fn targets(&self) -> usize {
        self.learnt().map(|stretch| stretch.len()).sum()
    }

    /// The stretches that are learnt, in their order, none empty.
    ///
    /// ```
    /// use retort::data::Example;
    /// let example = Example { ids: vec![7; 9], from: 2, given: vec![4..6] };
    /// assert_eq!(example.learnt().collect::<Vec<_>>(), [2..4, 6..9]);
    /// assert_eq!(example.targets(), 5);
    /// ```
    pub fn learnt(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(self.from).chain(self.given.iter().map(|given| given.end));
        let ends = self.given.iter().map(|given| given.start).chain([self.ids.len()]);
        starts.zip(ends).map(|(start, end)| start..end).filter(|stretch| !stretch.is_empty())
    }
}
