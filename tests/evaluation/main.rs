//! `retort eval` and what it is made of: exposure bias against exact sums, perplexity and calibration against
//! transformers' log-probabilities, replies as `generate` makes them, two models compared, a judge that is asked
//! over the network of this machine.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

mod against;
mod command;
mod documented;
mod exposure;
mod judge;
#[path = "../support/sized.rs"]
mod sized;
#[path = "../support/mod.rs"]
mod support;
