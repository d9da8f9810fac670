//! A model's tensors in memory, by name: what it computes with and, in training, the float32 masters
//! behind it.
//!
//! The model computes in one float type and knows no other. Where that is narrower than float32,
//! training keeps a float32 master of each tensor: gradients are added up in float32
//! ([`Params::collect_grads`]), the optimizer changes the masters, and [`Params::publish`] rounds
//! them into the tensors that the model holds. In float32 the master is the tensor itself.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::folder::Plan;
use super::lora::Adapter;
use super::tap::Tap;
use crate::error::{Error, Result};
use crate::native;
use crate::seed::{Stream, generator};

/// How tensors are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// Over the mapped file where type and device allow it: nothing is copied, nothing may be written.
    Mapped,
    /// In memory of their own, with gradients and masters.
    Trained,
}

/// Named tensors.
#[derive(Debug)]
pub struct Params {
    names: Vec<String>,
    compute: Vec<Tensor>,
    masters: Vec<Tensor>,
    index: HashMap<String, usize>,
    adapters: HashMap<String, Adapter>,
    taps: HashMap<String, Tap>,
}

impl Params {
    /// Makes the planned tensors, computing in `kind` on `device`.
    pub fn from_plan(plan: &Plan<'_>, kind: Kind, device: Device, residence: Residence) -> Result<Self> {
        Self::from_plan_of(plan, kind, device, residence, &|_| true)
    }

    /// The same of the tensors that are wanted; the others have their shapes, and no memory.
    pub fn from_plan_of(
        plan: &Plan<'_>,
        kind: Kind,
        device: Device,
        residence: Residence,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut tensors = Vec::new();
        for t in plan.tensors() {
            if !wanted(&t.spec.name) {
                let nothing = Tensor::f_zeros([1i64], (kind, device))?.f_expand(&t.spec.shape[..], false)?;
                tensors.push((t.spec.name.clone(), nothing));
                continue;
            }
            let size = t.kind.elt_size_in_bytes();
            let mapped = if t.bytes.as_ptr().align_offset(size) == 0 {
                native::tensor_over(t.file.owner(), t.range.clone(), &t.spec.shape, t.kind)?
            } else {
                Tensor::f_from_data_size(t.bytes, &t.spec.shape, t.kind)?
            };
            let made = match residence {
                Residence::Mapped => narrow(&mapped, t.kind, kind).and_then(|t| Ok(t.f_to_device(device)?)),
                Residence::Trained => {
                    narrow(&mapped, t.kind, Kind::Float).and_then(|t| Ok(t.f_to_device(device)?))
                }
            };
            tensors.push((
                t.spec.name.clone(),
                made.map_err(|e| e.or_file(t.file.path()).field(t.spec.name.as_str()))?,
            ));
        }
        match residence {
            Residence::Mapped => Ok(Self::frozen(tensors)),
            Residence::Trained => Self::trained(tensors, kind),
        }
    }

    /// Tensors that are only read.
    pub fn frozen(tensors: Vec<(String, Tensor)>) -> Self {
        let (names, compute): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
        let index = names.iter().cloned().zip(0..).collect();
        let (adapters, taps) = (HashMap::new(), HashMap::new());
        Params { names, compute, masters: Vec::new(), index, adapters, taps }
    }

    /// Tensors that are trained: float32 masters of these values, and what the model computes with.
    pub fn trained(tensors: Vec<(String, Tensor)>, kind: Kind) -> Result<Self> {
        let mut params = Self::frozen(Vec::new());
        for (name, t) in tensors {
            // The memory may be a mapped file, or shared: a master is always a copy.
            let master = t.f_detach_copy()?.f_to_kind(Kind::Float)?;
            let compute =
                if kind == Kind::Float { master.shallow_clone() } else { master.f_to_kind(kind)? };
            params.index.insert(name.clone(), params.names.len());
            params.names.push(name);
            params.compute.push(compute.f_set_requires_grad(true)?);
            params.masters.push(master);
        }
        Ok(params)
    }

    /// Random float32 weights for these shapes: N(0, 0.02²) for matrices, ones for norms' weights,
    /// zeros for other vectors, each a function of the seed and the tensor's place alone.
    pub fn random(specs: &[super::names::Spec], seed: u64) -> Result<Vec<(String, Tensor)>> {
        use rand_distr::{Distribution, Normal};
        let normal = Normal::new(0f32, 0.02).map_err(|e| Error::bug("no such normal law").found(e))?;
        let mut all = Vec::new();
        for (n, spec) in specs.iter().enumerate() {
            let count = spec.numel() as usize;
            let values: Vec<f32> = if spec.shape.len() > 1 {
                let mut g = generator(seed, Stream::Weights, 0, n as u64);
                (0..count).map(|_| normal.sample(&mut g)).collect()
            } else {
                vec![if spec.name.ends_with(".weight") { 1.0 } else { 0.0 }; count]
            };
            all.push((spec.name.clone(), Tensor::f_from_slice(&values)?.f_view(spec.shape.as_slice())?));
        }
        Ok(all)
    }

    /// The tensor of this name, sharing its memory.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let i = self
            .index
            .get(name)
            .ok_or_else(|| Error::bug("a model asked for a tensor that it did not announce").field(name))?;
        Ok(self.compute[*i].shallow_clone())
    }

    /// Puts another tensor in the place of the one of this name, for the models that are built of these from now on.
    pub fn replace(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        let i = self.index.get(name).ok_or_else(|| Error::bug("no such tensor").field(name))?;
        self.compute[*i] = tensor;
        Ok(())
    }

    /// Puts an adapter beside the tensor of this name, for the models that are built of these from now on.
    pub(super) fn adapt(&mut self, name: &str, adapter: Adapter) {
        self.adapters.insert(name.to_string(), adapter);
    }

    /// The adapter beside the tensor of this name, sharing its memory.
    pub fn adapter(&self, name: &str) -> Option<Adapter> {
        self.adapters.get(name).map(Adapter::share)
    }

    /// Puts a tap in front of the linear map of this name, for the models that are built of these from now on.
    pub fn set_tap(&mut self, name: &str, tap: Tap) {
        self.taps.insert(name.to_string(), tap);
    }

    /// The tap in front of the linear map of this name, sharing its memory.
    pub fn tap(&self, name: &str) -> Option<Tap> {
        self.taps.get(name).map(Tap::share)
    }

    /// The names, in the order of everything else here.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What the model computes with.
    pub fn compute(&self) -> &[Tensor] {
        &self.compute
    }

    /// The float32 masters, which the optimizer changes; none of a frozen model.
    pub fn masters(&self) -> &[Tensor] {
        &self.masters
    }

    /// Gives the masters' memory back where they are dealt out to the processes of a run: [`Params::publish`] does
    /// nothing then.
    pub fn forget_masters(&mut self) {
        self.masters = Vec::new();
    }

    /// Adds the gradients that the last backward pass left to `into` (float32, one a parameter) and
    /// forgets them, so that they take no memory while the next pass goes forward. A parameter that the loss did not reach adds nothing.
    pub fn collect_grads(&self, into: &[Tensor]) -> Result<()> {
        let (mut targets, mut grads) = (Vec::new(), Vec::new());
        for (t, target) in self.compute.iter().zip(into) {
            let grad = t.f_grad()?;
            if grad.defined() {
                targets.push(target.shallow_clone());
                grads.push(grad);
            }
        }
        native::add_all(&targets, &grads, 1.0)?;
        // The handles too, or nothing is freed.
        drop(grads);
        native::drop_grads(&self.compute)
    }

    /// Rounds the masters into what the model computes with.
    pub fn publish(&self) -> Result<()> {
        match self.compute.first() {
            Some(t) if t.kind() != Kind::Float && !self.masters.is_empty() => {
                native::copy_all(&self.compute, &self.masters)
            }
            _ => Ok(()),
        }
    }
}

/// Converts to the compute type; a number that it cannot hold is an error, not an infinity.
pub fn narrow(t: &Tensor, from: Kind, to: Kind) -> Result<Tensor> {
    if from == to {
        return Ok(t.shallow_clone());
    }
    let out = t.f_to_kind(to)?;
    // Every step down can overflow: float64 anywhere, and float32 also into bfloat16, whose largest number
    // is a little smaller.
    let wider = matches!(
        (from, to),
        (Kind::Half, _) | (Kind::BFloat16, Kind::Float | Kind::Double) | (_, Kind::Double)
    );
    if !wider && out.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Err(
            Error::data(format!("a weight is too large for {to:?}")).advice("use --dtype bf16 or f32")
        );
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(t: &Tensor) -> f64 {
        t.double_value(&[0])
    }

    /// A step too small for bfloat16 is lost in the copy and kept in the master.
    #[test]
    fn masters_keep_what_bf16_loses() {
        let p = Params::trained(vec![("w".into(), Tensor::from_slice(&[1f32]))], Kind::BFloat16).unwrap();
        let step = || {
            let _off = tch::no_grad_guard();
            let _ = p.masters()[0].shallow_clone().g_add_scalar_(0.001);
            p.publish().unwrap();
        };
        (0..3).for_each(|_| step());
        assert_eq!(
            value(&p.get("w").unwrap()),
            1.0,
            "three steps do not reach half the distance to the next number"
        );
        step();
        assert!((value(&p.masters()[0]) - 1.004).abs() < 1e-6);
        let w = p.get("w").unwrap();
        assert_eq!((w.kind(), value(&w)), (Kind::BFloat16, 1.0078125));
    }

    #[test]
    fn gradients_add_up_in_float32_and_are_cleared() {
        let p = Params::trained(vec![("w".into(), Tensor::from_slice(&[1f32]))], Kind::BFloat16).unwrap();
        let sums = [Tensor::zeros([1], (Kind::Float, Device::Cpu))];
        for _ in 0..2 {
            (p.get("w").unwrap() * 3.0).sum(Kind::Float).backward();
            p.collect_grads(&sums).unwrap();
        }
        assert_eq!(value(&sums[0]), 6.0);
    }

    #[test]
    fn in_float32_the_master_is_the_tensor() {
        let p = Params::trained(vec![("w".into(), Tensor::from_slice(&[1f32]))], Kind::Float).unwrap();
        assert_eq!(p.masters()[0].data_ptr(), p.compute()[0].data_ptr());
    }

    #[test]
    fn too_large_for_half_is_an_error() {
        assert!(narrow(&Tensor::from_slice(&[1e6f32]), Kind::Float, Kind::Half).is_err());
        assert!(narrow(&Tensor::from_slice(&[f32::MAX]), Kind::Float, Kind::BFloat16).is_err());
        assert!(narrow(&Tensor::from_slice(&[1e300f64]), Kind::Double, Kind::Float).is_err());
        assert!(narrow(&Tensor::from_slice(&[1e30f64]), Kind::Double, Kind::Float).is_ok());
    }

    #[test]
    fn random_weights_are_a_function_of_the_seed() {
        let specs = [
            super::super::names::Spec::new("a.weight", [40, 50]),
            super::super::names::Spec::new("b.bias", [3]),
        ];
        let (a, b) = (Params::random(&specs, 1).unwrap(), Params::random(&specs, 1).unwrap());
        assert_eq!(a[0].1, b[0].1);
        assert_ne!(a[0].1, Params::random(&specs, 2).unwrap()[0].1);
        assert!((a[0].1.std(true).double_value(&[]) - 0.02).abs() < 0.001);
    }
}
