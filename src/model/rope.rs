//! Rotary position embeddings: default, linear and llama3 scaling, whole or partial.
//!
//! "RoFormer" (Su et al., 2021), in the half-split form that transformers uses: channel i turns with
//! channel i + d/2. The `llama3` scaling is that of Llama 3.1: low frequencies are divided by
//! `factor`, high ones kept, those between blended.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

use super::config::RawConfig;
use crate::error::Result;
use crate::native::small;

/// The scaling names that are built here.
const KNOWN: &str = "default, linear, llama3";

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Channels that turn; the rest of a head passes through.
    pub rotated: i64,
    /// The base of the frequencies.
    pub theta: f64,
    /// How frequencies are scaled.
    pub scaling: Scaling,
}

/// How frequencies are scaled to reach further.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    Default,
    /// All by 1 / factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// By wavelength.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Bounds the low ones.
        low: f64,
        /// Bounds the high ones.
        high: f64,
        /// The context before scaling.
        original: f64,
    },
}

impl Rope {
    /// Reads either spelling: `rope_parameters`, or `rope_theta` with `rope_scaling`.
    pub fn read(raw: &RawConfig, head_dim: i64, keys: Keys) -> Result<Self> {
        let parameters = raw.inside("rope_parameters")?;
        // transformers lets `rope_scaling` replace `rope_parameters` where a folder has both.
        let parameters = raw.inside("rope_scaling")?.or(parameters);
        if let Some(nested) = parameters.as_ref().and_then(RawConfig::nested) {
            return Err(raw.bad(nested, "one set of rope parameters for all layers", "an object"));
        }
        let inside = |key: &str, default: f64| match &parameters {
            Some(p) => p.positive_or(key, default),
            None => Ok(default),
        };
        let theta = inside("rope_theta", raw.positive_or(keys.theta, 10_000.0)?)?;
        let share = match keys.share {
            // The others turn whole heads, whatever their config says: transformers does not look either.
            None => 1.0,
            Some((key, default)) => inside("partial_rotary_factor", raw.positive_or(key, default)?)?,
        };
        let rotated = (head_dim as f64 * share) as i64;
        if share > 1.0 || rotated < 2 || rotated % 2 != 0 {
            return Err(raw.bad(
                keys.share.map_or("head_dim", |(key, _)| key),
                format!("a share that turns an even number of a head's {head_dim} channels"),
                share,
            ));
        }
        let scaling = parameters.as_ref().map_or(Ok(Scaling::Default), |s| Scaling::read(raw, s))?;
        let rope = Rope { rotated, theta, scaling };
        if rope.frequencies().iter().any(|f| !f.is_normal()) {
            return Err(raw.bad(keys.theta, "a base and factor that leave the frequencies finite", theta));
        }
        Ok(rope)
    }

    /// The angle a position adds, for each pair of channels: [rotated / 2], float32.
    fn frequencies(&self) -> Vec<f32> {
        let pairs = self.rotated / 2;
        (0..pairs)
            .map(|i| self.scaling.apply(self.theta.powf(-2.0 * i as f64 / self.rotated as f64)) as f32)
            .collect()
    }

    /// Cosines and sines at these positions ([...]): two tensors [..., rotated]. The sines of the first
    /// half have their sign turned, as [`Rope::turn`] wants them.
    pub fn tables(&self, positions: &Tensor, kind: Kind, device: Device) -> Result<(Tensor, Tensor)> {
        let frequencies = Tensor::f_from_slice(&self.frequencies())?.f_to_device(device)?;
        let angles = positions.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?.f_mul(&frequencies)?;
        let (cos, sin) = (angles.f_cos()?, angles.f_sin()?);
        let sin = Tensor::f_cat(&[&sin.f_neg()?, &sin], -1)?;
        Ok((Tensor::f_cat(&[&cos, &cos], -1)?.f_to_kind(kind)?, sin.f_to_kind(kind)?))
    }

    /// Turns queries or keys [b, t, h, d] by tables that broadcast to [b, t, h, rotated].
    pub fn turn(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let width = x.size().last().copied().unwrap_or(0);
        if self.rotated < width {
            let turned = turn_all(&x.f_narrow(-1, 0, self.rotated)?, cos, sin)?;
            let rest = x.f_narrow(-1, self.rotated, width - self.rotated)?;
            return Ok(Tensor::f_cat(&[turned, rest], -1)?);
        }
        turn_all(x, cos, sin)
    }
}

/// Channel i becomes `x_i cos - x_(i+d/2) sin`, channel i + d/2 `x_(i+d/2) cos + x_i sin`.
fn turn_all(x: &Tensor, cos: &Tensor, signed_sin: &Tensor) -> Result<Tensor> {
    if let Some(turned) = small::turn(x, cos, signed_sin)? {
        return Ok(turned);
    }
    let half = x.size().last().copied().unwrap_or(0) / 2;
    let swapped = x.f_roll([half], [-1])?;
    Ok(x.f_mul(cos)?.f_add(&swapped.f_mul(signed_sin)?)?)
}

/// What an architecture calls these fields in the older spelling.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// The base of the frequencies.
    pub theta: &'static str,
    /// The part of a head that turns, and that part where the config does not say; none where the
    /// whole head turns.
    pub share: Option<(&'static str, f64)>,
}

impl Default for Keys {
    fn default() -> Self {
        Keys { theta: "rope_theta", share: None }
    }
}

impl Scaling {
    fn read(raw: &RawConfig, s: &RawConfig) -> Result<Self> {
        let name = s.text_or("rope_type", s.text_or("type", "default")?)?;
        match name {
            "default" => Ok(Scaling::Default),
            "linear" => {
                s.get("factor").ok_or_else(|| s.bad("factor", "a number above zero", "nothing"))?;
                Ok(Scaling::Linear { factor: s.positive_or("factor", 1.0)? })
            }
            "llama3" => {
                for key in ["factor", "low_freq_factor", "high_freq_factor"] {
                    s.get(key).ok_or_else(|| s.bad(key, "a number above zero", "nothing"))?;
                }
                let context = raw.positive_or("max_position_embeddings", 8192.0)?;
                let (low, high) =
                    (s.positive_or("low_freq_factor", 1.0)?, s.positive_or("high_freq_factor", 4.0)?);
                if low >= high {
                    return Err(s.bad("low_freq_factor", format!("less than high_freq_factor {high}"), low));
                }
                let original = s.positive_or("original_max_position_embeddings", context)?;
                Ok(Scaling::Llama3 { factor: s.positive_or("factor", 1.0)?, low, high, original })
            }
            other => Err(s.bad("rope_type", KNOWN, format!("{other:?}"))),
        }
    }

    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            Scaling::Default => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let wavelength = TAU / frequency;
                if wavelength < original / high {
                    frequency
                } else if wavelength > original / low {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}
