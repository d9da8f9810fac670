//! Objectives as pure functions on tensors: no state, no randomness, no models.
//!
//! Notation: student `q`, teacher `p`; `q_t(v)` is the student's probability of token v at position t.
//! Tokens are handed over packed: the n scored positions of a micro-batch one behind the other, rows
//! in order, padding left behind by [`rows`] before anything is computed. A mask therefore comes
//! from lengths and never from ids, and what padding holds cannot matter.
//!
//! Shape suffixes: n token, c token of one block, v vocabulary, d channel of the hidden state.

pub mod akl;
pub mod divergence;
pub mod draws;
pub mod exp;
mod fast;
pub mod head;
pub mod input;
pub mod mixture;
pub mod pair;
pub mod product;
pub mod returns;
pub mod rows;
pub mod term;
