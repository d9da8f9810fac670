//! Mistral ("Mistral 7B", Jiang et al., 2023): Llama's block, with attention that looks back over a
//! window in every layer. A config without `sliding_window` means 4096; null means all the way.

use super::Design;
use super::config::{CONTEXT, RawConfig};
use super::llama::{Bias, Defaults, Llama};
use crate::error::Result;

/// Reads and checks the config.
pub(super) fn read(raw: &RawConfig) -> Result<Box<dyn Design>> {
    let defaults = Defaults { model_type: "mistral", kv_heads: Some(8), head_dim: None };
    let mut model = Llama::read(raw, defaults, Bias::default())?;
    let window = match raw.get("sliding_window") {
        None if raw.names("sliding_window") => None,
        _ => Some(raw.int_or("sliding_window", CONTEXT, 4096)?),
    };
    model.shape.windows.fill(window);
    Ok(Box::new(model))
}
