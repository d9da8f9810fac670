//! Qwen2 ("Qwen2 technical report", Yang et al., 2024): Llama's block with a bias on queries, keys and
//! values; some layers may look back over a window.

use serde_json::Value;

use super::Design;
use super::config::{CONTEXT, LAYERS, RawConfig};
use super::llama::{Bias, Defaults, Llama};
use crate::error::Result;

/// Reads and checks the config.
pub(super) fn read(raw: &RawConfig) -> Result<Box<dyn Design>> {
    let defaults = Defaults { model_type: "qwen2", kv_heads: Some(32), head_dim: None };
    let mut model = Llama::read(raw, defaults, Bias { qkv: true, ..Bias::default() })?;
    model.shape.windows = windows(raw, model.shape.layers)?;
    Ok(Box::new(model))
}

/// How far each layer looks back: all the way unless `use_sliding_window`; then as `layer_types` says,
/// or from `max_window_layers` on.
pub(super) fn windows(raw: &RawConfig, layers: i64) -> Result<Vec<Option<i64>>> {
    let width = if raw.flag_or("use_sliding_window", false)?
        && (raw.get("sliding_window").is_some() || !raw.names("sliding_window"))
    {
        Some(raw.int_or("sliding_window", CONTEXT, 4096)?)
    } else {
        None
    };
    let Some(types) = raw.get("layer_types") else {
        let first = raw.int_or("max_window_layers", 0..=*LAYERS.end(), 28)?;
        return Ok((0..layers).map(|layer| width.filter(|_| layer >= first)).collect());
    };
    let bad = || raw.bad("layer_types", format!("{layers} of full_attention, sliding_attention"), types);
    let types = types.as_array().filter(|t| t.len() as i64 == layers).ok_or_else(bad)?;
    types
        .iter()
        .map(|t| match t.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => Ok(width),
            _ => Err(raw.bad("layer_types", "full_attention, sliding_attention", t)),
        })
        .collect::<Result<_>>()
        .map_err(|e| if types.iter().all(Value::is_string) { e } else { bad() })
}
