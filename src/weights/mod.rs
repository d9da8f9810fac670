//! Bytes on disk <-> checked, named tensors. Layer 1: uses layer 0.

pub mod gguf;
pub mod save;
