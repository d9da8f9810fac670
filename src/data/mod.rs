//! Rows of instruction data <-> token ids. Layer 1: uses `text`, `store`.

pub mod encode;
pub mod reader;
pub mod rows;

pub use encode::{Encoded, Encoder};
pub use reader::{Reader, Rows, read, read_with};
pub use rows::{Row, Schema};
