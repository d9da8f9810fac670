//! What the student learns, and from whom. This crate is the ground: it knows tensors, no models,
//! no files, no engine.

pub mod error;
pub mod objective;

pub use error::{Error, Result};
