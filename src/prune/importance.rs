//! How much heads, neurons and hidden channels matter, by one of two measures.
//!
//! Gradient (MiniMA): a factor of one stands on the output of each head before the output projection, on each neuron
//! before the net's last projection, and one for each hidden channel on the embedding, on what each sublayer adds to
//! the hidden state, and on each sum. A score is the mean over batches of `|dL / d factor|`, L the batch's mean
//! next-token cross-entropy. Heads and neurons are divided by the L2 norm of their layer's (+1e-17). No weight needs
//! a gradient.
//!
//! Activation (Minitron): `a = sqrt(sum over samples of (mean over tokens of |x|)^2)` for each channel x of: what
//! goes into the net's last projection (neurons); what goes into the output projection, then the L2 norm over the
//! group's channels (heads); what the attention and the net of each layer read, which is the output of that block's
//! norms, summed over them (hidden). Deviation: where norms stand behind the sums (OPT-350M) the first layer's
//! attention reads the embedding, which is no norm's output.
//!
//! Heads that share keys and values have one score.

use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::cut::layer;
use crate::data::Example;
use crate::error::{Error, Result};
use crate::model::axes::Axis;
use crate::model::config::Shape;
use crate::model::lm::Visit;
use crate::model::{CausalLm, Design, Padding};
use crate::native;
use crate::seed::{Stream, generator};
use crate::signal;
use crate::weights::{Params, Tap};

/// Positions whose logits are held at once.
const HEAD_CHUNK: i64 = 256;
/// Added to a layer's norm, so that a layer without a gradient divides by something.
const TINY: f64 = 1e-17;

/// How importance is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// By gradients of factors.
    Gradient,
    /// By the size of activations.
    Activation,
    /// Not at all: drawn, to compare with.
    Random,
}

impl Importance {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Importance::Gradient => "gradient",
            Importance::Activation => "activation",
            Importance::Random => "random",
        }
    }
}

/// Scores, larger for what matters more.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Of each layer, each group of heads.
    pub groups: Vec<Vec<f64>>,
    /// Of each layer, each neuron.
    pub neurons: Vec<Vec<f64>>,
    /// Each hidden channel.
    pub hidden: Vec<f64>,
}

/// The linear maps that are tapped, by layer.
struct Sites {
    attended: Vec<String>,
    activated: Vec<String>,
    /// What reads a norm's output.
    readers: Vec<String>,
}

impl Sites {
    fn of(design: &dyn Design) -> Self {
        let mut sites = Sites { attended: Vec::new(), activated: Vec::new(), readers: Vec::new() };
        for spec in design.specs() {
            let axes = design.cuts().axes(&spec.name).unwrap_or_default();
            if spec.shape.len() != 2 || layer(&spec.name).is_none() {
                continue;
            }
            // Of gate and up, which read the same, the first stands for both.
            let another = || sites.readers.last().is_some_and(|last| same_part(last, &spec.name));
            match axes {
                [.., Axis::Attended] | [Axis::Attended, ..] => sites.attended.push(spec.name),
                [.., Axis::Activated] | [Axis::Activated, ..] => sites.activated.push(spec.name),
                [Axis::Neurons, _] | [_, Axis::Neurons] if another() => {}
                [Axis::Queries | Axis::FusedByHead | Axis::Neurons, _] | [_, Axis::Fused | Axis::Neurons] => {
                    sites.readers.push(spec.name)
                }
                _ => {}
            }
        }
        sites
    }
}

/// Whether two tensors are of one part of one layer.
fn same_part(a: &str, b: &str) -> bool {
    let part =
        |name: &str| name.trim_end_matches(".weight").rsplit_once('.').map(|(part, _)| part.to_string());
    part(a) == part(b)
}

/// Random scores.
pub fn random(shape: &Shape, seed: u64) -> Scores {
    use rand::Rng;
    let draw = |what: u64, n: i64| -> Vec<f64> {
        let mut g = generator(seed, Stream::Prune, what, 0);
        (0..n).map(|_| (g.next_u64() >> 11) as f64).collect()
    };
    let layers = shape.layers as u64;
    Scores {
        groups: (0..layers).map(|l| draw(2 * l + 1, shape.kv_heads)).collect(),
        neurons: (0..layers).map(|l| draw(2 * l + 2, shape.ffn)).collect(),
        hidden: draw(0, shape.hidden),
    }
}

/// Factors of one, and the gradients that they have gathered.
#[derive(Debug)]
pub struct Masks {
    attended: Vec<Tensor>,
    activated: Vec<Tensor>,
    hidden_d: Tensor,
}

impl Masks {
    /// Puts factors into the tensors of a model that is about to be built of them.
    pub fn attach(design: &dyn Design, params: &mut Params, device: Device) -> Result<Self> {
        let shape = design.shape();
        let ones = |width: i64| -> Result<Tensor> {
            Ok(Tensor::f_ones([width], (Kind::Float, device))?.f_set_requires_grad(true)?)
        };
        let sites = Sites::of(design);
        let mut masks = Masks { attended: Vec::new(), activated: Vec::new(), hidden_d: ones(shape.hidden)? };
        let all = [
            (sites.attended, shape.heads * shape.head_dim, &mut masks.attended),
            (sites.activated, shape.ffn, &mut masks.activated),
        ];
        for (names, width, kept) in all {
            for name in names {
                let mask = ones(width)?;
                params.set_tap(&name, Tap::Mask(mask.shallow_clone()));
                kept.push(mask);
            }
        }
        Ok(masks)
    }

    /// The scores of a model with these factors over batches of `batch` sequences. `done` is told of each sequence.
    pub fn score(
        &self,
        model: &CausalLm,
        sequences: &[Example],
        batch: usize,
        done: &mut dyn FnMut(usize),
    ) -> Result<Scores> {
        let shape = model.shape();
        let mut scores = Scores {
            groups: vec![vec![0.0; shape.kv_heads as usize]; self.attended.len()],
            neurons: vec![vec![0.0; shape.ffn as usize]; self.activated.len()],
            hidden: vec![0.0; shape.hidden as usize],
        };
        for rows in sequences.chunks(batch.max(1)) {
            let targets: usize = rows.iter().map(Example::targets).sum();
            for row in rows {
                signal::check()?;
                self.learn(model, row, 1.0 / targets.max(1) as f64)?;
                done(1);
            }
            for (mask, sums) in self.attended.iter().zip(&mut scores.groups) {
                let by_group = gradient(mask)?.f_view([shape.kv_heads, -1])?;
                add(sums, &by_group.f_sum_dim_intlist(1i64, false, Kind::Double)?)?;
            }
            for (mask, sums) in self.activated.iter().zip(&mut scores.neurons) {
                add(sums, &gradient(mask)?)?;
            }
            add(&mut scores.hidden, &gradient(&self.hidden_d)?)?;
        }
        let batches = sequences.chunks(batch.max(1)).count().max(1) as f64;
        scores.hidden.iter_mut().for_each(|score| *score /= batches);
        for layer in scores.groups.iter_mut().chain(&mut scores.neurons) {
            // The number of batches cancels against the norm, but for what is added to it.
            layer.iter_mut().for_each(|score| *score /= batches);
            let norm = layer.iter().map(|score| score * score).sum::<f64>().sqrt() + TINY;
            layer.iter_mut().for_each(|score| *score /= norm);
        }
        scores.check()?;
        Ok(scores)
    }

    /// Adds one sequence's gradient, its summed cross-entropy times `scale`, to the factors'.
    fn learn(&self, model: &CausalLm, row: &Example, scale: f64) -> Result<()> {
        let tokens = row.targets() as i64;
        if tokens == 0 {
            return Ok(());
        }
        let mut whole = |_: usize, x: &Tensor, block: &dyn Fn(&Tensor) -> Result<Tensor>| block(x);
        let (hidden, targets) = states(model, row, Some(&self.hidden_d), &mut whole)?;
        // The head is gone through a few positions at a time, so that [tokens, vocabulary] is never held whole.
        let leaf = hidden.f_detach()?.f_set_requires_grad(true)?;
        for start in (0..tokens).step_by(HEAD_CHUNK as usize) {
            let n = HEAD_CHUNK.min(tokens - start);
            let log_p = model
                .head()
                .log_probability(&leaf.f_narrow(0, start, n)?, &targets.f_narrow(0, start, n)?)?;
            log_p.f_sum(Kind::Float)?.f_mul_scalar(-scale)?.f_backward()?;
        }
        native::backward(&[hidden], &[leaf.f_grad()?], false)
    }
}

/// The states that learn a row's targets, and the targets.
pub(super) fn states(
    model: &CausalLm,
    row: &Example,
    mask_d: Option<&Tensor>,
    visit: &mut Visit<'_>,
) -> Result<(Tensor, Tensor)> {
    let ids_bt = tensor(model, row)?;
    let (from, tokens) = (row.from.max(1) as i64, row.targets() as i64);
    let hidden = model.hidden_with(&ids_bt.f_narrow(1, 0, from + tokens - 1)?, mask_d, visit)?;
    let hidden = hidden.f_narrow(1, from - 1, tokens)?.f_flatten(0, 1)?;
    Ok((hidden, ids_bt.f_narrow(1, from, tokens)?.f_flatten(0, 1)?))
}

/// A row's ids: [1, t].
pub(super) fn tensor(model: &CausalLm, row: &Example) -> Result<Tensor> {
    let ids: Vec<i64> = row.ids.iter().map(|&id| i64::from(id)).collect();
    Ok(Tensor::f_from_slice(&ids)?.f_view([1, -1])?.f_to_device(model.device())?)
}

/// A factor's gradient since the last call, on the CPU in float64.
fn gradient(mask: &Tensor) -> Result<Tensor> {
    let grad = mask.f_grad()?;
    if !grad.defined() {
        return Ok(mask.f_detach()?.f_zeros_like()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?);
    }
    let copy = grad.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    native::zero_all(&[grad])?;
    Ok(copy)
}

fn add(sums: &mut [f64], more: &Tensor) -> Result<()> {
    let more = Vec::<f64>::try_from(more)?;
    sums.iter_mut().zip(more).for_each(|(sum, x)| *sum += x.abs());
    Ok(())
}

impl Scores {
    fn check(&self) -> Result<()> {
        let all = self.groups.iter().chain(&self.neurons).flatten().chain(&self.hidden);
        match all.into_iter().find(|score| !score.is_finite()) {
            None => Ok(()),
            Some(bad) => Err(Error::numeric("an importance is not finite")
                .found(bad)
                .advice("the model's numbers overflow: try --dtype f32")),
        }
    }
}

/// What is looked at while a model computes.
#[derive(Debug)]
pub struct Watches {
    attended: Vec<Watch>,
    activated: Vec<Watch>,
    readers: Vec<Watch>,
}

/// The inputs of one map: those of the last pass, and the sums of squares over samples.
#[derive(Debug)]
struct Watch {
    seen: Arc<Mutex<Option<Tensor>>>,
    squares: Vec<f64>,
}

impl Watch {
    fn of(names: Vec<String>, params: &mut Params) -> Vec<Watch> {
        let watch = |name: String| {
            let seen = Arc::new(Mutex::new(None));
            params.set_tap(&name, Tap::Watch(seen.clone()));
            Watch { seen, squares: Vec::new() }
        };
        names.into_iter().map(watch).collect()
    }

    /// Adds the last pass: a sample.
    fn add(&mut self) -> Result<()> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let x = seen.ok_or_else(|| Error::bug("a map that is watched was not used"))?;
        let width = x.size().last().copied().unwrap_or(1);
        let x = x.f_to_kind(Kind::Float)?.f_abs()?.f_view([-1, width])?;
        let mean = x.f_mean_dim(0i64, false, Kind::Double)?.f_to_device(Device::Cpu)?;
        let mean = Vec::<f64>::try_from(mean)?;
        self.squares.resize(mean.len(), 0.0);
        self.squares.iter_mut().zip(mean).for_each(|(sum, mean)| *sum += mean * mean);
        Ok(())
    }

    fn roots(&self) -> Vec<f64> {
        self.squares.iter().map(|sum| sum.sqrt()).collect()
    }
}

impl Watches {
    /// Taps the maps of a model that is about to be built of these tensors.
    pub fn attach(design: &dyn Design, params: &mut Params) -> Self {
        let sites = Sites::of(design);
        Watches {
            attended: Watch::of(sites.attended, params),
            activated: Watch::of(sites.activated, params),
            readers: Watch::of(sites.readers, params),
        }
    }

    /// The scores of a model with these taps; each sequence is a sample.
    pub fn score(
        mut self,
        model: &CausalLm,
        sequences: &[Example],
        done: &mut dyn FnMut(usize),
    ) -> Result<Scores> {
        let _off = tch::no_grad_guard();
        for row in sequences {
            signal::check()?;
            let _ = model.hidden(&tensor(model, row)?, &Padding::Right)?;
            for watch in self.attended.iter_mut().chain(&mut self.activated).chain(&mut self.readers) {
                watch.add()?;
            }
            done(1);
        }
        let shape = model.shape();
        let channels = (shape.heads / shape.kv_heads * shape.head_dim) as usize;
        // The L2 norm of roots is the root of the sum of what is under them.
        let norm = |squares: &[f64]| squares.chunks(channels).map(|c| c.iter().sum::<f64>().sqrt()).collect();
        let mut hidden = vec![0.0; shape.hidden as usize];
        for reader in &self.readers {
            hidden.iter_mut().zip(reader.roots()).for_each(|(sum, root)| *sum += root);
        }
        let scores = Scores {
            groups: self.attended.iter().map(|watch| norm(&watch.squares)).collect(),
            neurons: self.activated.iter().map(Watch::roots).collect(),
            hidden,
        };
        scores.check()?;
        Ok(scores)
    }
}

/// The `keep` largest, in rising order; of equal ones the first.
pub fn largest(scores: &[f64], keep: usize) -> Vec<i64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let mut kept: Vec<i64> = order.into_iter().take(keep).map(|at| at as i64).collect();
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay_in_their_order() {
        assert_eq!(largest(&[1.0, 3.0, 2.0, 3.0], 2), [1, 3]);
        assert_eq!(largest(&[1.0, 1.0, 1.0], 2), [0, 1]);
        assert_eq!(largest(&[5.0], 1), [0]);
    }

    #[test]
    fn gate_and_up_are_one_reader() {
        assert!(same_part("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"));
        assert!(!same_part("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"));
        assert!(!same_part("model.layers.0.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"));
    }
}
