//! What each process of a run holds of it: all, or with `dist.zero` its part of the masters and of AdamW's moments (1), and
//! of the gradients' sums (2). The update is the same.

use std::rc::Rc;

use retort_policies::{Moment, Source};
use tch::{Kind, Tensor};

use super::gradients::{Gradients, Held, layout};
use super::setup::Material;
use super::shard::Shard;
use super::teacher::Teacher;
use super::together;
use crate::config::{Keep, RunConfig};
use crate::dist::{Layout, World};
use crate::error::{Error, Result};
use crate::optim::{Optimizer, Outcome, Settings};

/// Who holds what.
#[derive(Debug)]
pub struct Split {
    layout: Rc<Layout>,
    held: Held,
    /// This rank's part of the masters, where they are dealt out.
    shard: Option<Shard>,
}

/// What a run of so many processes holds of its gradients' sums.
fn held(config: &RunConfig, world: &World) -> Held {
    match (world.is_alone(), config.settings.dist.zero) {
        (true, _) | (_, 0) => Held::Whole,
        (_, 1) => Held::Part,
        _ => Held::PartAlone,
    }
}

/// Refuses what processes that hold parts cannot do: measurements of the whole gradient and of the whole masters, and
/// what rank 0 asks the teacher alone.
pub fn refuse(config: &RunConfig, processes: usize) -> Result<()> {
    if processes == 1 {
        return Ok(());
    }
    let no = |key: &str, why: &str| {
        let e = Error::user("the processes deal out what this needs whole").file(&config.file).field(key);
        Err(e.advice(why))
    };
    if config.settings.dist.shard_teacher {
        let policy = config.policy()?;
        if config.settings.cache.keep != Keep::None {
            return no(
                "teacher.cache",
                "a teacher whose words are kept needs no room: set dist.shard_teacher to false",
            );
        }
        if policy.source(Moment { step: 0, steps: 1, replay_full: false }) == Source::Teacher {
            return no("policy", "the teacher replies at rank 0: set dist.shard_teacher to false");
        }
    }
    if config.settings.dist.zero == 0 {
        return Ok(());
    }
    if config.settings.student.lora.is_some() {
        return no("student.lora", "set dist.zero to 0: what adapters learn with is small");
    }
    if config.settings.train.measure_distance {
        return no("train.measure_distance", "set it to false, or dist.zero to 0");
    }
    if config.policy()?.plan().variance > 0 {
        return no("minillm.measure_variance", "set it to 0, or dist.zero to 0");
    }
    Ok(())
}

impl Material {
    /// Joins a world, and gives back what the other ranks hold.
    pub fn join(&mut self, config: &RunConfig, world: &Rc<World>) -> Result<()> {
        let held = held(config, world);
        let layout = Rc::new(layout(self.learnt(), world.size(), config.settings.dist.bucket));
        let shard = match held {
            Held::Whole => None,
            _ => Some(Shard::take(self.student.params_mut(), layout.clone(), world.rank())?),
        };
        if let Some(teacher) =
            self.teacher.as_mut().filter(|_| config.settings.dist.shard_teacher && world.size() > 1)
        {
            teacher.deal_out(world)?;
        }
        self.world = world.clone();
        self.split = Some(Split { layout, held, shard });
        Ok(())
    }

    /// Where the teacher's blocks are dealt out: helps the other ranks to theirs until none of them asks it. All ranks come
    /// here equally often, each before the next exchange behind its last question.
    pub fn rest(&self) -> Result<()> {
        self.teacher.as_ref().map_or(Ok(()), Teacher::rest)
    }

    /// Room for the gradients of what learns.
    pub fn gradients(&self) -> Result<Gradients> {
        match &self.split {
            Some(split) => Gradients::new(self.learnt(), split.layout.clone(), self.world.rank(), split.held),
            None => {
                let alone = Rc::new(layout(self.learnt(), 1, 16.0));
                Gradients::new(self.learnt(), alone, 0, Held::Whole)
            }
        }
    }

    fn shard(&self) -> Option<&Shard> {
        self.split.as_ref().and_then(|split| split.shard.as_ref())
    }

    /// Whether each rank holds its part of the moments alone.
    pub fn in_parts(&self) -> bool {
        self.shard().is_some()
    }

    /// A fresh optimizer for what this process has to change.
    pub fn optimizer(&self, settings: Settings) -> Result<Optimizer> {
        match self.shard() {
            Some(shard) => Optimizer::of(&shard.entries(), settings),
            None => Optimizer::new(self.learnt(), settings),
        }
    }

    /// One step by the gradients of all ranks, which all of them take together.
    pub fn step(&self, gradients: &Gradients, optimizer: &mut Optimizer, lr: f64) -> Result<Outcome> {
        let Some(shard) = self.shard() else {
            let outcome = optimizer.step(gradients.sums(), lr)?;
            let (Outcome::Done(norm) | Outcome::Skipped(norm)) = outcome;
            together::alike(&self.world, norm)?;
            if let Outcome::Done(_) = outcome {
                self.learnt().publish()?;
            }
            return Ok(outcome);
        };
        let of_all = |own: f64| {
            let norms = self.world.gather_numbers(&[own])?;
            Ok(norms.iter().flatten().map(|norm| norm * norm).sum::<f64>().sqrt())
        };
        let outcome = optimizer.step_of_part(&gradients.pieces()?, lr, of_all)?;
        if let Outcome::Done(_) = outcome {
            shard.publish(&self.world, self.learnt())?;
        }
        Ok(outcome)
    }

    /// The student's weights by name, in float32, adapters merged into them. All ranks ask for them together; where the
    /// masters are dealt out, rank 0 alone gets them.
    pub fn weights(&self) -> Result<Vec<(String, Tensor)>> {
        if let Some(adapted) = &self.adapted {
            return adapted.merged(&self.student);
        }
        let params = self.student.params();
        match self.shard().filter(|_| self.student.kind() != Kind::Float) {
            Some(shard) => shard.whole(&self.world),
            None => {
                let masters = params.masters().iter().map(Tensor::shallow_clone);
                Ok(params.names().iter().cloned().zip(masters).collect())
            }
        }
    }
}
