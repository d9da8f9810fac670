//! `retort eval` and what it is made of: exposure bias against exact sums, perplexity and calibration against
//! transformers' log-probabilities, replies as `generate` makes them.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

mod command;
mod exposure;
#[path = "../support/sized.rs"]
mod sized;
#[path = "../support/mod.rs"]
mod support;
