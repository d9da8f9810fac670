//! A GGUF file -> a Hugging Face folder. Layer 1: uses `error` and `store`.
//!
//! `file` bounds the bytes, `values` reads metadata by type, `dequant` turns blocks into numbers,
//! `metadata` and `rope` say which model it is, `model` names, shapes and turns its tensors,
//! `tokenizer` and `spm` write tokenizer.json, `card` the model card, `import` all of it.

mod card;
mod dequant;
mod file;
mod import;
mod metadata;
mod model;
mod rope;
mod spm;
mod tokenizer;
mod values;

#[cfg(test)]
mod tests;

pub use dequant::Kind;
pub use file::{Gguf, Tensor};
pub use import::{Imported, import};
