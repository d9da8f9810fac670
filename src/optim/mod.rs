//! The optimizer: AdamW over float32 masters with its state by parameter name, learning-rate schedules,
//! clipping by the global norm, and the guard against numbers that are not finite; the rules of the large-batch
//! regime. Layer 1: uses `native`, `config`, `weights`.
//!
//! An update goes: the norm of all gradients together; if it is not finite nothing changes; else all are
//! scaled by `min(1, clip / norm)` and AdamW takes its step, matrices with weight decay and norms and
//! biases without. The norm that is told is the one before clipping.

pub mod diffusion;
mod moments;
pub mod noise;
pub mod regime;
pub mod schedule;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::native::{self, AdamWTensors};
use crate::weights::Params;
pub use schedule::{Course, Shape};

/// The settings of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Whether norms and biases decay as well.
    pub decay_all: bool,
    /// The largest norm that the gradients may have together; 0 for any.
    pub clip: f64,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// It was done; the norm of the gradients was this, before clipping.
    Done(f64),
    /// The norm was not finite: no weight and no moment has changed.
    Skipped(f64),
}

/// What the optimizer changes: a master, or a stretch of one.
#[derive(Debug)]
pub struct Entry {
    /// The parameter's name.
    pub name: String,
    /// Where in the parameter's elements it begins; none where it is the whole of it.
    pub start: Option<usize>,
    /// Whether the parameter is a matrix, and decays.
    pub matrix: bool,
    /// Its values in float32.
    pub master: Tensor,
}

/// AdamW with its state.
#[derive(Debug)]
pub struct Optimizer {
    settings: Settings,
    groups: Vec<Group>,
    updates: u64,
}

/// Parameters with the same weight decay.
#[derive(Debug)]
struct Group {
    weight_decay: f64,
    /// Places in the list of entries.
    places: Vec<usize>,
    names: Vec<String>,
    params: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl Optimizer {
    /// A fresh optimizer for the masters of these parameters.
    pub fn new(params: &Params, settings: Settings) -> Result<Self> {
        if params.masters().len() != params.names().len() {
            return Err(Error::bug("an optimizer for parameters that are only read"));
        }
        let of = |(name, t): (&String, &Tensor)| Entry {
            name: name.clone(),
            start: None,
            matrix: t.dim() > 1,
            master: t.shallow_clone(),
        };
        Self::of(&params.names().iter().zip(params.masters()).map(of).collect::<Vec<_>>(), settings)
    }

    /// A fresh optimizer for these entries.
    pub fn of(entries: &[Entry], settings: Settings) -> Result<Self> {
        let decays = |entry: &Entry| settings.decay_all || entry.matrix;
        let mut groups = Vec::new();
        for (weight_decay, wanted) in [(settings.weight_decay, true), (0.0, false)] {
            let places: Vec<usize> = (0..entries.len()).filter(|&i| decays(&entries[i]) == wanted).collect();
            if !places.is_empty() {
                groups.push(Group::new(entries, places, weight_decay)?);
            }
        }
        Ok(Optimizer { settings, groups, updates: 0 })
    }

    /// How many updates were done.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// One update by these gradients (float32, one a parameter, in the parameters' order), which are
    /// clipped in place. The masters change; [`Params::publish`] is the caller's.
    pub fn step(&mut self, grads: &[Tensor], lr: f64) -> Result<Outcome> {
        let norm = if self.settings.clip > 0.0 {
            native::clip(grads, self.settings.clip)?
        } else {
            native::global_norm(grads)?
        };
        let norm = norm.f_double_value(&[])?;
        if !norm.is_finite() {
            return Ok(Outcome::Skipped(norm));
        }
        for group in &self.groups {
            group.step(grads, lr, self.settings)?;
        }
        self.updates += 1;
        Ok(Outcome::Done(norm))
    }

    /// The same where each process has gradients of its own entries alone: `of_all` makes the norm over all processes
    /// from that of this one's.
    pub fn step_of_part(
        &mut self,
        grads: &[Tensor],
        lr: f64,
        of_all: impl FnOnce(f64) -> Result<f64>,
    ) -> Result<Outcome> {
        let norm = of_all(native::global_norm(grads)?.f_double_value(&[])?)?;
        if !norm.is_finite() {
            return Ok(Outcome::Skipped(norm));
        }
        let clip = self.settings.clip;
        if clip > 0.0 && clip < norm + 1e-6 {
            for grad in grads {
                let _scaled = grad.shallow_clone().f_mul_scalar_(clip / (norm + 1e-6))?;
            }
        }
        self.groups.iter().try_for_each(|group| group.step(grads, lr, self.settings))?;
        self.updates += 1;
        Ok(Outcome::Done(norm))
    }

    /// The moments by name, sharing memory: `first/NAME` and `second/NAME`, with `@START` behind it where it is a
    /// stretch of a parameter's.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        for group in &self.groups {
            for ((name, first), second) in group.names.iter().zip(&group.first).zip(&group.second) {
                all.push((format!("first/{name}"), first.shallow_clone()));
                all.push((format!("second/{name}"), second.shallow_clone()));
            }
        }
        all
    }

    /// Goes on from a saved state: the moments by name, whole or in stretches, and how many updates made them.
    pub fn restore(&mut self, saved: &[(String, Tensor)], updates: u64) -> Result<()> {
        moments::copy(&self.state(), saved)?;
        for step in self.groups.iter().flat_map(|g| &g.steps) {
            let _filled = step.shallow_clone().f_fill_(updates as f64)?;
        }
        self.updates = updates;
        Ok(())
    }
}

impl Group {
    fn new(entries: &[Entry], places: Vec<usize>, weight_decay: f64) -> Result<Self> {
        let of = |make: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<Vec<Tensor>> {
            places.iter().map(|&i| make(&entries[i].master)).collect()
        };
        let name = |entry: &Entry| match entry.start {
            Some(start) => format!("{}{}{start}", entry.name, moments::AT),
            None => entry.name.clone(),
        };
        let zeros = |t: &Tensor| Ok(t.f_zeros_like()?);
        let counter = |t: &Tensor| Ok(Tensor::f_zeros([0i64; 0], (Kind::Float, t.device()))?);
        Ok(Group {
            weight_decay,
            names: places.iter().map(|&i| name(&entries[i])).collect(),
            params: of(&|t| Ok(t.shallow_clone()))?,
            first: of(&zeros)?,
            second: of(&zeros)?,
            steps: of(&counter)?,
            places,
        })
    }

    fn step(&self, grads: &[Tensor], lr: f64, s: Settings) -> Result<()> {
        let missing = || Error::bug("a parameter without a gradient");
        let grads: Vec<Tensor> = self
            .places
            .iter()
            .map(|&i| grads.get(i).map(Tensor::shallow_clone).ok_or_else(missing))
            .collect::<Result<_>>()?;
        let tensors = AdamWTensors {
            params: &self.params,
            grads: &grads,
            first: &self.first,
            second: &self.second,
            steps: &self.steps,
        };
        let weight_decay = self.weight_decay;
        native::adamw(tensors, native::AdamW { lr, betas: s.betas, eps: s.eps, weight_decay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Settings =
        Settings { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.5, decay_all: false, clip: 0.0 };

    fn params() -> Params {
        let named = |name: &str, values: &[f32], shape: &[i64]| {
            (name.to_string(), Tensor::from_slice(values).view(shape))
        };
        Params::trained(
            vec![named("w", &[1., 2., 3., 4.], &[2, 2]), named("b", &[1., -1.], &[2])],
            Kind::Float,
        )
        .unwrap()
    }

    fn grads(scale: f64) -> Vec<Tensor> {
        vec![
            Tensor::ones([2, 2], (Kind::Float, tch::Device::Cpu)) * scale,
            Tensor::from_slice(&[0f32, 1.]) * scale,
        ]
    }

    #[test]
    fn norms_and_biases_do_not_decay() {
        let p = params();
        let mut o = Optimizer::new(&p, PLAIN).unwrap();
        o.step(&grads(0.0), 0.1).unwrap();
        assert_eq!(p.masters()[1].double_value(&[0]), 1.0);
        assert!((p.masters()[0].double_value(&[0, 0]) - 0.95).abs() < 1e-6);
        let p = params();
        let mut o = Optimizer::new(&p, Settings { decay_all: true, ..PLAIN }).unwrap();
        o.step(&grads(0.0), 0.1).unwrap();
        assert!((p.masters()[1].double_value(&[0]) - 0.95).abs() < 1e-6);
    }

    /// A gradient that is not finite changes no weight, no moment and no counter.
    #[test]
    fn a_gradient_that_is_not_finite_is_skipped() {
        for clip in [0.0, 1.0] {
            let p = params();
            let mut o = Optimizer::new(&p, Settings { clip, ..PLAIN }).unwrap();
            o.step(&grads(1.0), 0.1).unwrap();
            let before: Vec<Tensor> =
                p.masters().iter().map(Tensor::copy).chain(o.state().iter().map(|(_, t)| t.copy())).collect();
            assert!(matches!(o.step(&grads(f64::NAN), 0.1).unwrap(), Outcome::Skipped(_)));
            assert!(matches!(o.step(&grads(f64::INFINITY), 0.1).unwrap(), Outcome::Skipped(_)));
            let after: Vec<Tensor> =
                p.masters().iter().map(Tensor::copy).chain(o.state().iter().map(|(_, t)| t.copy())).collect();
            assert_eq!(before, after);
            assert_eq!(o.updates(), 1);
        }
    }

    #[test]
    fn the_norm_is_told_before_clipping() {
        let p = params();
        let mut o = Optimizer::new(&p, Settings { clip: 1.0, ..PLAIN }).unwrap();
        let Outcome::Done(norm) = o.step(&grads(2.0), 0.1).unwrap() else { panic!() };
        assert!((norm - 20f64.sqrt()).abs() < 1e-5);
    }

    /// Two updates, saved and restored in between, give the bits of two updates.
    #[test]
    fn a_restored_state_goes_on_with_the_same_bits() {
        let (a, b) = (params(), params());
        let mut whole = Optimizer::new(&a, PLAIN).unwrap();
        let mut first = Optimizer::new(&b, PLAIN).unwrap();
        whole.step(&grads(1.0), 0.1).unwrap();
        first.step(&grads(1.0), 0.1).unwrap();
        let mut second = Optimizer::new(&b, PLAIN).unwrap();
        let saved: Vec<(String, Tensor)> = first.state().iter().map(|(n, t)| (n.clone(), t.copy())).collect();
        second.restore(&saved, first.updates()).unwrap();
        whole.step(&grads(-0.3), 0.1).unwrap();
        second.step(&grads(-0.3), 0.1).unwrap();
        assert_eq!(a.masters(), b.masters());
        assert!(second.restore(&saved[1..], 1).is_err());
    }
}
