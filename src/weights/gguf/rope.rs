//! Rotary position embeddings: their base, and how they were stretched.

use serde_json::{Value, json};

use super::dequant::dequantise;
use super::file::Gguf;
use super::metadata::arch_key;
use crate::error::Result;

/// The rotary embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    pub theta: f64,
    pub scaling: Scaling,
}

/// How positions are stretched beyond the context of the first training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, original: usize },
}

/// The tensor in which llama.cpp keeps Llama 3.1's stretching: what each frequency is divided by.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// Llama 3.1's bounds, in all its models: wavelengths under a quarter of the original context stay,
/// those over the whole of it are stretched.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

impl Rope {
    /// For an architecture without one.
    pub fn none() -> Self {
        Rope { theta: 10_000.0, scaling: Scaling::None }
    }

    /// Reads it, for heads of this length.
    pub fn read(gguf: &Gguf, head_dim: usize) -> Result<Self> {
        let key = arch_key(gguf, "rope.dimension_count")?;
        let dims = gguf.whole(&key, usize::MAX)?.unwrap_or(head_dim);
        if dims != head_dim || dims % 2 != 0 {
            return Err(gguf
                .bad("rotary embeddings of a part of the head are not imported", &key)
                .expected(format!("{head_dim}, and even"))
                .found(dims));
        }
        let key = arch_key(gguf, "rope.freq_base")?;
        let theta = gguf.real(&key)?.unwrap_or(10_000.0);
        if theta < 1.0 {
            return Err(gguf.bad("bad base of the rotary embedding", &key).found(theta));
        }
        let stretched = match linear(gguf)? {
            Scaling::None => llama3(gguf, head_dim, theta)?,
            _ if gguf.tensors.iter().any(|t| t.name == FACTORS) => {
                return Err(gguf.bad("rotary embeddings stretched in two ways", FACTORS));
            }
            linear => linear,
        };
        Ok(Rope { theta, scaling: stretched })
    }

    /// What transformers 5 reads.
    pub fn parameters(&self) -> Value {
        let mut value = match self.scaling {
            Scaling::None => json!({"rope_type": "default"}),
            _ => self.scaling_json(),
        };
        value["rope_theta"] = json!(self.theta);
        value
    }

    /// What transformers 4 reads.
    pub fn scaling_json(&self) -> Value {
        match self.scaling {
            Scaling::None => Value::Null,
            Scaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Scaling::Llama3 { factor, original } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": LOW,
                "high_freq_factor": HIGH,
                "original_max_position_embeddings": original,
            }),
        }
    }
}

/// Scaling that metadata names; the other kinds are refused.
fn linear(gguf: &Gguf) -> Result<Scaling> {
    let kind = arch_key(gguf, "rope.scaling.type")?;
    let old = arch_key(gguf, "rope.scale_linear")?;
    let (key, factor) = match gguf.text(&kind)? {
        Some("none") => return Ok(Scaling::None),
        Some("linear") => {
            let key = arch_key(gguf, "rope.scaling.factor")?;
            let factor = gguf.real(&key)?.ok_or_else(|| gguf.missing(&key))?;
            (key, factor)
        }
        Some(other) => {
            let e = gguf.bad("a scaling of rotary embeddings that is not imported", &kind);
            return Err(e.expected("none, linear, or the tensor rope_freqs.weight").found(other));
        }
        None => match gguf.real(&old)? {
            Some(factor) => (old, factor),
            None => return Ok(Scaling::None),
        },
    };
    if factor < 1.0 {
        return Err(gguf.bad("bad factor of a linear scaling", &key).expected("1 or more").found(factor));
    }
    Ok(if factor == 1.0 { Scaling::None } else { Scaling::Linear { factor } })
}

/// Finds the one setting of Llama 3.1's rule that gives the factors in the file.
fn llama3(gguf: &Gguf, head_dim: usize, theta: f64) -> Result<Scaling> {
    let Some(tensor) = gguf.tensors.iter().find(|t| t.name == FACTORS) else { return Ok(Scaling::None) };
    let refuse = |what: &str| gguf.bad(what, FACTORS);
    if tensor.shape != [head_dim / 2] {
        let e = refuse("wrong shape of a tensor").expected(format!("[{}]", head_dim / 2));
        return Err(e.found(format!("{:?}", tensor.shape)));
    }
    let mut factors = vec![0.0; tensor.len()];
    dequantise(tensor.kind, gguf.bytes(tensor), &mut factors)?;
    if factors.iter().all(|&f| f == 1.0) {
        return Ok(Scaling::None);
    }
    // The longest wavelength is stretched in full.
    let factor = f64::from(factors.last().copied().unwrap_or(1.0));
    let fits = |original: &usize| {
        factors.iter().enumerate().all(|(i, &found)| {
            let wanted = rule(theta.powf(2.0 * i as f64 / head_dim as f64), factor, *original as f64);
            (f64::from(found) - wanted).abs() <= 1e-4 * wanted
        })
    };
    match (8..=20).map(|n| 1_usize << n).find(fits) {
        Some(original) if factor.is_finite() && factor > 1.0 => Ok(Scaling::Llama3 { factor, original }),
        _ => Err(refuse("the factors of the rotary embedding follow no known rule")
            .expected("those of Llama 3.1, low_freq_factor 1, high_freq_factor 4")),
    }
}

/// What Llama 3.1 divides a frequency by; `inverse` is one over it.
fn rule(inverse: f64, factor: f64, original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI * inverse;
    if wavelength < original / HIGH {
        1.0
    } else if wavelength > original / LOW {
        factor
    } else {
        let smooth = (original / wavelength - LOW) / (HIGH - LOW);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}
