//! LoRA (Hu et al., "LoRA: low-rank adaptation of large language models", 2021): a projection W learns a change of
//! low rank, `W + (alpha / r) B A`, and everything else stays as it was read.
//!
//! The base has no gradients, no moments and no masters. A and B are float32 masters with what is computed with
//! behind them ([`Params`]); A starts random and B at zero, so that the first change is none. What is written is
//! the sum, in the base's own names and shapes.
//!
//! Deviation: no dropout on the adapters' input.

use rand_distr::{Distribution, Uniform};
use tch::{Device, Kind, Tensor};

use super::names::Spec;
use super::params::Params;
use crate::error::{Error, Result};
use crate::native;
use crate::seed::{Stream, generator};

/// What `targets` may say in place of names of projections.
const PARTS: [&str; 2] = ["attention", "mlp"];

/// A change of low rank beside a linear map, as the map computes with it.
#[derive(Debug)]
pub struct Adapter {
    /// Into the low rank: [r, in].
    pub a_ri: Tensor,
    /// Out of it: [out, r].
    pub b_or: Tensor,
    /// alpha / r.
    pub scale: f64,
}

impl Adapter {
    /// Over the same memory.
    pub fn share(&self) -> Self {
        Adapter { a_ri: self.a_ri.shallow_clone(), b_or: self.b_or.shallow_clone(), scale: self.scale }
    }
}

/// A matrix that is adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    input: i64,
    output: i64,
    /// Stored as [in, out] (GPT-2's Conv1D).
    input_first: bool,
}

/// The adapters of a model.
#[derive(Debug)]
pub struct Lora {
    places: Vec<Place>,
    /// A and B of each place, one behind the other.
    learnt: Params,
    scale: f64,
}

/// How many numbers adapters of this rank have, on a model of these tensors.
pub fn parameters(specs: &[Spec], targets: &[String], rank: i64) -> Result<u64> {
    Ok(places(specs, targets)?.iter().map(|p| (rank * (p.input + p.output)) as u64).sum())
}

impl Lora {
    /// Fresh adapters on the targets among these tensors.
    pub fn new(
        specs: &[Spec],
        targets: &[String],
        (rank, alpha): (i64, f64),
        seed: u64,
        (kind, device): (Kind, Device),
    ) -> Result<Self> {
        let places = places(specs, targets)?;
        let mut tensors = Vec::new();
        for (n, place) in places.iter().enumerate() {
            let values = random(seed, n, rank * place.input, place.input)?;
            let a_ri = Tensor::f_from_slice(&values)?.f_view([rank, place.input])?.f_to_device(device)?;
            let b_or = Tensor::f_zeros([place.output, rank], (Kind::Float, device))?;
            tensors
                .extend([(format!("{}.lora_a", place.name), a_ri), (format!("{}.lora_b", place.name), b_or)]);
        }
        Ok(Lora { places, learnt: Params::trained(tensors, kind)?, scale: alpha / rank as f64 })
    }

    /// What learns: A and B of each matrix.
    pub fn learnt(&self) -> &Params {
        &self.learnt
    }

    /// Puts the adapters beside the tensors that a model is about to be built of.
    pub fn attach(&self, base: &mut Params) {
        for (place, ab) in self.places.iter().zip(self.learnt.compute().chunks(2)) {
            if let [a, b] = ab {
                let adapter = Adapter { a_ri: a.shallow_clone(), b_or: b.shallow_clone(), scale: self.scale };
                base.adapt(&place.name, adapter);
            }
        }
    }

    /// The masters by name, sharing memory.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let masters = self.learnt.masters().iter().map(Tensor::shallow_clone);
        self.learnt.names().iter().cloned().zip(masters).collect()
    }

    /// Goes on from saved masters.
    pub fn restore(&self, saved: &[(String, Tensor)]) -> Result<()> {
        let own = self.state();
        let mut from = Vec::new();
        for (name, tensor) in &own {
            let found = saved.iter().find(|(n, t)| n == name && t.size() == tensor.size());
            let (_, found) = found
                .filter(|_| saved.len() == own.len())
                .ok_or_else(|| Error::data("saved adapters are of another model").field(name.as_str()))?;
            from.push(found.f_to_device(tensor.device())?);
        }
        native::copy_all(self.learnt.masters(), &from)?;
        self.learnt.publish()
    }

    /// The tensors of the base (float32) with the changes added, under their names.
    pub fn merged(&self, base: &Params) -> Result<Vec<(String, Tensor)>> {
        let _off = tch::no_grad_guard();
        let mut all = Vec::new();
        for (name, tensor) in base.names().iter().zip(base.compute()) {
            let adapted = self.places.iter().position(|place| place.name == *name);
            let tensor = match adapted {
                Some(n) => tensor.f_add(&self.change(n)?.f_to_device(tensor.device())?)?,
                None => tensor.shallow_clone(),
            };
            all.push((name.clone(), tensor));
        }
        Ok(all)
    }

    /// The change of one matrix, in its shape.
    fn change(&self, n: usize) -> Result<Tensor> {
        let [a_ri, b_or] = [0, 1].map(|side| &self.learnt.masters()[2 * n + side]);
        let change_oi = b_or.f_mm(a_ri)?.f_mul_scalar(self.scale)?;
        if self.places[n].input_first { Ok(change_oi.f_transpose(0, 1)?) } else { Ok(change_oi) }
    }
}

/// The matrices that the targets name, in the model's order.
fn places(specs: &[Spec], targets: &[String]) -> Result<Vec<Place>> {
    let all: Vec<(Place, [&str; 2])> = specs.iter().filter_map(projection).collect();
    let mut known: Vec<&str> = PARTS.to_vec();
    for (_, [_, own]) in &all {
        if !known.contains(own) {
            known.push(own);
        }
    }
    if let Some(wrong) = targets.iter().find(|target| !known.contains(&target.as_str())) {
        return Err(Error::user("no such projection in this model").expected(known.join(", ")).found(wrong));
    }
    let wanted = |names: &[&str; 2]| names.iter().any(|name| targets.iter().any(|target| target == name));
    Ok(all.into_iter().filter(|(_, names)| wanted(names)).map(|(place, _)| place).collect())
}

/// A projection of attention or of the feed-forward net, with the names that targets may call it by.
fn projection(spec: &Spec) -> Option<(Place, [&str; 2])> {
    let [rows, columns] = spec.shape[..] else { return None };
    let mut parts: Vec<&str> = spec.name.split('.').collect();
    if parts.pop() != Some("weight") {
        return None;
    }
    let own = *parts.last()?;
    let within = |names: &[&str]| parts.iter().any(|part| names.contains(part));
    let part = if within(&["self_attn", "attn", "attention"]) {
        PARTS[0]
    } else if within(&["mlp", "fc1", "fc2"]) {
        PARTS[1]
    } else {
        return None;
    };
    let input_first = own.starts_with("c_");
    let (output, input) = if input_first { (columns, rows) } else { (rows, columns) };
    Some((Place { name: spec.name.clone(), input, output, input_first }, [part, own]))
}

/// Uniform within one over the root of the width, a function of seed and place.
fn random(seed: u64, place: usize, count: i64, width: i64) -> Result<Vec<f32>> {
    let bound = 1.0 / (width.max(1) as f32).sqrt();
    let law =
        Uniform::new_inclusive(-bound, bound).map_err(|e| Error::bug("no such uniform law").found(e))?;
    let mut g = generator(seed, Stream::Weights, 1, place as u64);
    Ok((0..count).map(|_| law.sample(&mut g)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<Spec> {
        [
            ("model.embed_tokens.weight", vec![50, 8]),
            ("model.layers.0.self_attn.q_proj.weight", vec![12, 8]),
            ("model.layers.0.self_attn.q_proj.bias", vec![12]),
            ("model.layers.0.mlp.down_proj.weight", vec![8, 20]),
            ("transformer.h.0.attn.c_attn.weight", vec![8, 24]),
            ("model.decoder.layers.0.fc1.weight", vec![20, 8]),
            ("model.decoder.project_in.weight", vec![8, 6]),
        ]
        .map(|(name, shape)| Spec::new(name, shape))
        .to_vec()
    }

    fn made(targets: &[&str], kind: Kind) -> Result<Lora> {
        let targets: Vec<String> = targets.iter().map(|t| t.to_string()).collect();
        Lora::new(&specs(), &targets, (2, 6.0), 5, (kind, Device::Cpu))
    }

    #[test]
    fn targets_name_parts_or_projections() {
        let names = |targets: &[&str]| -> Vec<String> {
            let own = |place: &Place| place.name.rsplit('.').nth(1).unwrap().to_string();
            made(targets, Kind::Float).unwrap().places.iter().map(own).collect()
        };
        assert_eq!(names(&["attention", "mlp"]), ["q_proj", "down_proj", "c_attn", "fc1"]);
        assert_eq!(names(&["attention"]), ["q_proj", "c_attn"]);
        assert_eq!(names(&["fc1", "q_proj"]), ["q_proj", "fc1"]);
        let e = made(&["mlp", "v_proj"], Kind::Float).unwrap_err().to_string();
        assert!(e.contains("expected attention, mlp, q_proj, down_proj, c_attn, fc1, found v_proj"), "{e}");
        let all = ["attention", "mlp"].map(String::from);
        assert_eq!(parameters(&specs(), &all, 2).unwrap(), 2 * (20 + 28 + 32 + 28));
    }

    #[test]
    fn the_first_change_is_none_and_a_restored_one_is_the_saved() {
        let base: Vec<(String, Tensor)> = Params::random(&specs(), 1).unwrap();
        let base = Params::frozen(base);
        for kind in [Kind::Float, Kind::BFloat16] {
            let lora = made(&["attention"], kind).unwrap();
            for ((name, merged), own) in lora.merged(&base).unwrap().iter().zip(base.compute()) {
                assert_eq!(merged, own, "{name}");
            }
            let saved: Vec<_> = lora.state().into_iter().map(|(n, t)| (n, t.copy() + 1.0)).collect();
            lora.restore(&saved).unwrap();
            assert_eq!(lora.learnt().compute()[1], saved[1].1.to_kind(kind));
            let merged = lora.merged(&base).unwrap();
            // A change of W, [out, in], and of a Conv1D's W, [in, out]: alpha / r = 3.
            let change = |n: usize| saved[2 * n + 1].1.mm(&saved[2 * n].1) * 3.0;
            assert_eq!(merged[1].1, &base.compute()[1] + change(0));
            assert_eq!(merged[4].1, &base.compute()[4] + change(1).tr());
            assert_eq!(merged[3].1, base.compute()[3], "no target");
            assert!(lora.restore(&saved[1..]).is_err());
        }
    }
}
