//! How far the student's weights are from where the run began, on updates that are spaced evenly on a logarithmic axis
//! (`train.measure_distance`): of the whole model and of each block.
//!
//! The start is read again each time, over the mapped file of the student's folder, or made again from the seed: no
//! second copy of the weights is held between two measurements, and a resumed run has the same start. Its norm is part
//! of every checkpoint, so that a folder which changed meanwhile is noticed.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::Loop;
use super::journal::Line;
use super::setup::Material;
use crate::config::{Origin, RunConfig};
use crate::error::{Error, Result};
use crate::model::{read_config, read_design};
use crate::optim::diffusion;
use crate::weights::{Params, Residence, WeightFiles, locate};

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// Of all weights together.
    pub whole: f64,
    /// Of each block, by its name, in the model's order.
    pub blocks: Vec<(String, f64)>,
    /// The norm of the start.
    pub start: f64,
}

/// Measures it now.
pub fn measure(config: &RunConfig, material: &Material) -> Result<Drift> {
    let _off = tch::no_grad_guard();
    let start: BTreeMap<String, Tensor> = start(config)?.into_iter().collect();
    let (mut blocks, mut squares, mut norm): (Vec<(String, f64)>, f64, f64) = (Vec::new(), 0.0, 0.0);
    for (name, now) in material.weights()? {
        let begun = start.get(&name).filter(|t| t.size() == now.size());
        let begun = begun.ok_or_else(|| Error::data("the start has no such weight").field(name.as_str()))?;
        let begun = begun.f_to_device(now.device())?;
        let moved = square(&now.f_sub(&begun)?)?;
        norm += square(&begun)?;
        squares += moved;
        let block = block(&name);
        match blocks.iter_mut().find(|(name, _)| *name == block) {
            Some((_, sum)) => *sum += moved,
            None => blocks.push((block, moved)),
        }
    }
    blocks.iter_mut().for_each(|(_, sum)| *sum = sum.sqrt());
    Ok(Drift { whole: squares.sqrt(), blocks, start: norm.sqrt() })
}

fn square(t: &Tensor) -> Result<f64> {
    Ok(t.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?)
}

/// The weights that the run began with, in float32.
fn start(config: &RunConfig) -> Result<Vec<(String, Tensor)>> {
    match &config.settings.student.model {
        Origin::Config(file) => Params::random(&read_config(file)?.specs(), config.settings.seed),
        Origin::Folder(name) => {
            let folder = locate::model_folder(name)?;
            let (design, files) = (read_design(&folder)?, WeightFiles::open(&folder)?);
            let plan = files.plan(&design.naming(), design.specs(), design.shape().tied)?;
            let params = Params::from_plan(&plan, Kind::Float, Device::Cpu, Residence::Mapped)?;
            let tensors = params.compute().iter().map(Tensor::shallow_clone);
            Ok(params.names().iter().cloned().zip(tensors).collect())
        }
    }
}

/// The block that a weight belongs to, whatever the architecture calls it.
fn block(name: &str) -> String {
    if let Some(number) = name.split('.').find(|part| part.bytes().all(|b| b.is_ascii_digit())) {
        return format!("layer_{number}");
    }
    let has = |parts: &[&str]| name.split('.').any(|part| parts.contains(&part));
    let block = if has(&["lm_head", "embed_out"]) {
        "head"
    } else if has(&["wte", "wpe", "embed_tokens", "embed_positions", "embed_in"]) {
        "embedding"
    } else {
        "rest"
    };
    block.into()
}

impl Loop {
    /// Writes down how far the weights have come, where it is time to: at rank 0, whose weights are those of all. A
    /// start that cannot be read any more is no reason to stop learning.
    pub(super) fn drift(&mut self, lr: f64) -> Result<()> {
        let (step, train) = (self.state.step, &self.scaled.train);
        if !train.measure_distance || !diffusion::due(step) || !self.material.world.is_first() {
            return Ok(());
        }
        let constant = step > train.warmup.updates(self.steps) && lr == train.lr;
        match measure(&self.config, &self.material) {
            Ok(found) if self.state.start.is_none_or(|norm| norm == found.start.to_bits()) => {
                self.state.start = Some(found.start.to_bits());
                self.journal.add(&Line::distance(step, constant, &found))
            }
            Ok(_) => {
                tracing::warn!(
                    "no distance is measured: the student's folder is not what the run began with"
                );
                Ok(())
            }
            Err(e) => {
                tracing::warn!("no distance is measured: {}", e.to_string().replace('\n', ";"));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every weight of every architecture is in the block that its name says.
    #[test]
    fn blocks_are_those_of_the_names() {
        for (name, expected) in [
            ("transformer.wte.weight", "embedding"),
            ("wpe.weight", "embedding"),
            ("transformer.h.11.attn.c_attn.weight", "layer_11"),
            ("model.layers.0.mlp.up_proj.weight", "layer_0"),
            ("model.decoder.embed_positions.weight", "embedding"),
            ("gpt_neox.embed_in.weight", "embedding"),
            ("embed_out.weight", "head"),
            ("lm_head.weight", "head"),
            ("model.norm.weight", "rest"),
            ("model.decoder.project_in.weight", "rest"),
        ] {
            assert_eq!(block(name), expected, "{name}");
        }
    }
}
