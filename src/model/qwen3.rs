//! Qwen3 ("Qwen3 technical report", Yang et al., 2025): Qwen2 without the biases (unless
//! `attention_bias`), with an RMS norm on each head's queries and keys before they turn.

use super::Design;
use super::config::RawConfig;
use super::llama::{Bias, Defaults, Llama};
use super::qwen2::windows;
use crate::error::Result;

/// Reads and checks the config.
pub(super) fn read(raw: &RawConfig) -> Result<Box<dyn Design>> {
    let attention = raw.flag_or("attention_bias", false)?;
    let defaults = Defaults { model_type: "qwen3", kv_heads: Some(32), head_dim: Some(128) };
    let mut model = Llama::read(raw, defaults, Bias { qkv: attention, out: attention, mlp: false })?;
    model.head_norms = true;
    model.shape.windows = windows(raw, model.shape.layers)?;
    Ok(Box::new(model))
}
