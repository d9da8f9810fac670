//! Training: evaluate -> save -> step -> log, once more than there are updates, so that the end is evaluated
//! and saved too. Layer 5: uses all below; of the policies it knows the trait alone.
//!
//! An update takes `batch` rows, cut into micro-batches of like length. Each is scored as a sum; the sums
//! and their gradients add up, and are divided once, by what the update counted in all: no cut can
//! change an update but in its rounding.

mod adapters;
mod batch;
mod card;
mod drift;
mod evaluate;
mod feed;
mod gather;
mod gradients;
mod head;
mod journal;
mod keep;
mod kept;
mod lent;
pub mod machine;
mod noise;
mod plan;
mod regime;
mod replies;
mod sampled;
mod save;
mod setup;
mod shard;
mod split;
mod teacher;
mod together;
mod update;
mod variance;
mod watch;
mod work;

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use retort_policies::Policy;
use tch::{Device, Kind};

use crate::checkpoint::{Checkpoint, RunDir, State};
use crate::config::{Length, RunConfig, Train};
use crate::dist::World;
use crate::error::{Cause, Error, Result};
use crate::optim::{Course, Optimizer, Outcome, Settings, Shape};
use crate::report;
use crate::signal;
use crate::weights::Dtype;
use evaluate::Evaluation;
use gather::Gather;
use journal::{Journal, Line};
pub use plan::{Plan, plan, plan_of, speed};
use regime::Scaled;
pub use setup::{Material, Options};
use together::Prepared;
pub use together::refuse;
use update::Updater;
pub use watch::{Finished, Found, News, Silent, Watch};

/// Trains as the config says, in the run directory `out`.
pub fn run(config: RunConfig, out: &Path, options: &Options, watch: &mut dyn Watch) -> Result<Finished> {
    run_in(&Rc::new(World::alone()), config, out, options, watch)
}

/// The same as one process of a world, each of which calls this. The update is the same whatever the world; rank 0
/// alone writes files.
pub fn run_in(
    world: &Rc<World>,
    config: RunConfig,
    out: &Path,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Finished> {
    let done = config.policy().and_then(|policy| train(world, config, policy, out, options, watch));
    world.end(done)
}

/// The same with a policy of the caller's own; the config's says what its rows, models and settings are.
pub fn run_policy(
    config: RunConfig,
    policy: Box<dyn Policy>,
    out: &Path,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Finished> {
    train(&Rc::new(World::alone()), config, policy, out, options, watch)
}

fn train(
    world: &Rc<World>,
    config: RunConfig,
    policy: Box<dyn Policy>,
    out: &Path,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Finished> {
    for table in &config.unused {
        tracing::warn!("[{table}] is not used by policy = \"{}\"", config.entry.name);
    }
    let (dir, saved) = together::take(world, &config, out, options)?;
    let mut material = Material::load(&config, options, saved.as_ref())?;
    material.join(&config, world)?;
    material.bring_teacher(&config, policy.as_ref())?;
    let prepared = together::prepare(&config, &mut material, &dir, policy.as_ref(), watch)?;
    let Prepared { feed, corpus, evaluation, cutting } = prepared;
    let cutting = together::agreed(world, cutting)?;
    let cut = feed.cut(cutting.cut);
    let scaled = regime::scaled(&config, &policy.plan(), feed.rows(), feed.batch())?;
    let mut optimizer = material.optimizer(optimizer_settings(&scaled.train))?;
    let state = match &saved {
        Some(checkpoint) => {
            checkpoint.restore(&mut optimizer)?;
            checkpoint.state.clone()
        }
        None => State::default(),
    };
    let mut journal = Journal::default();
    if world.is_first() {
        let facts = options.facts(&scaled);
        dir.folder().write_bytes("config.toml", config.as_run(&facts)?.as_bytes())?;
        journal = Journal::open(&dir, &state, evaluation.samples())?;
    }
    material.student.set_recompute(cutting.recompute);
    let gather = Gather::new(&config, &material, policy.as_ref(), (feed, corpus), scaled.steps);
    let updater = Updater::new(&material, policy, cut, config.settings.sampling.min_new_tokens)?;
    let saved_at = saved.as_ref().map(|s| s.state.step);
    let mut training = Loop {
        config,
        material,
        dir,
        gather,
        evaluation,
        optimizer,
        updater,
        journal,
        state,
        steps: scaled.steps,
        scaled,
        saved_at,
    };
    training.restore(saved.as_ref())?;
    let done = training.run(options, watch)?;
    let held = machine::peak_memory(options.device).unwrap_or(0);
    let memory =
        world.gather_numbers(&[held as f64])?.into_iter().flatten().map(|bytes| bytes as u64).collect();
    Ok(Finished { run: out.to_path_buf(), steps: training.steps, done, best: training.best(), memory })
}

/// How many updates a run has.
fn steps(train: &Train, rows: usize, batch: usize) -> u64 {
    match train.length {
        Length::Steps(steps) => steps,
        Length::Epochs(epochs) => ((epochs * rows as f64) / batch.max(1) as f64).ceil().max(1.0) as u64,
    }
}

fn optimizer_settings(train: &Train) -> Settings {
    Settings {
        betas: train.betas,
        eps: train.eps,
        weight_decay: train.weight_decay,
        decay_all: train.decay_all,
        clip: train.clip,
    }
}

fn course(train: &Train, steps: u64) -> Course {
    use crate::config::Schedule;
    let shape = match train.schedule {
        Schedule::Constant => Shape::Constant,
        Schedule::Linear => Shape::Linear,
        Schedule::Cosine => Shape::Cosine,
        Schedule::Wsd => Shape::Wsd(train.decay),
    };
    Course { shape, lr: train.lr, min_lr: train.min_lr, warmup: train.warmup.updates(steps), steps }
}

/// A run at work.
struct Loop {
    config: RunConfig,
    material: Material,
    dir: RunDir,
    gather: Gather,
    evaluation: Evaluation,
    optimizer: Optimizer,
    updater: Updater,
    journal: Journal,
    state: State,
    steps: u64,
    scaled: Scaled,
    /// The update that is on the disk as a checkpoint.
    saved_at: Option<u64>,
}

impl Loop {
    /// Puts everything where the saved state says it was.
    fn restore(&mut self, checkpoint: Option<&Checkpoint>) -> Result<()> {
        let (saved, states) = match checkpoint.map(Checkpoint::rollouts).transpose()?.flatten() {
            Some(kept) => {
                let bad = |e| Error::data("not a collection of replies").found(e);
                (serde_json::from_slice(&kept.json).map_err(bad)?, kept.states)
            }
            None => Default::default(),
        };
        let taken = (self.state.taken, self.state.corpus_taken);
        self.gather.restore(taken, saved, &states, &self.material)?;
        if !self.state.policy.is_null() {
            self.updater.policy_mut().restore(&self.state.policy)?;
        }
        Ok(())
    }

    /// Goes on to the end, and answers how many updates that were.
    fn run(&mut self, options: &Options, watch: &mut dyn Watch) -> Result<u64> {
        let begun = self.state.step;
        if begun >= self.steps && self.dir.path().join("final/config.json").exists() {
            return Ok(0);
        }
        let course = course(&self.scaled.train, self.steps);
        let mut clock = Instant::now();
        loop {
            let last = self.state.step >= self.steps;
            let stopped = self.look(last, watch).err();
            let stopped = self.material.world.agree(stopped.map_or_else(signal::check, Err)).err();
            if stopped.as_ref().is_some_and(|e| !matches!(e.cause(), Cause::Stopped(_))) {
                return stopped.map_or(Ok(0), Err);
            }
            self.save(last || stopped.is_some())?;
            if let Some(stopped) = stopped {
                return Err(stopped);
            }
            if last {
                self.finish(options)?;
                return Ok(self.state.step.saturating_sub(begun));
            }
            let done = self.step(course.at(self.state.step + 1), &mut clock, watch);
            if matches!(&done, Err(e) if matches!(e.cause(), Cause::Stopped(_))) {
                // Replies that were being sampled are forgotten; the updates before them are not.
                self.save(true)?;
            }
            done?;
        }
    }

    /// Evaluates, where it is time to and has not been done.
    fn look(&mut self, last: bool, watch: &mut dyn Watch) -> Result<()> {
        let (step, every) = (self.state.step, self.config.settings.train.eval_every);
        let due = every > 0 && (step % every == 0 || last);
        if !due || self.state.evaluated == Some(step) {
            return Ok(());
        }
        if self.updater.policy().plan().variance > 0 && self.state.measured != Some(step) {
            let measured = variance::measure(&self.gather, &self.material, &mut self.updater)?;
            self.journal.add(&Line::variance(step, &measured))?;
            self.state.measured = Some(step);
        }
        let Some(measured) = self.evaluation.run(&self.material, &self.updater)? else { return Ok(()) };
        let values = measured.values;
        self.journal.add(&Line::evaluation(step, &values, &measured.seconds))?;
        self.journal.show(step, measured.shown)?;
        self.state.evaluated = Some(step);
        watch.evaluated(step, &values);
        let value = |wanted| {
            let found = values.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
            found.filter(|x| x.is_finite())
        };
        if let Some(loss) = value("valid_loss") {
            self.updater.policy_mut().validated(loss);
        }
        // The untrained student is measured and does not compete.
        if let Some(value) = value(self.evaluation.decides()).filter(|_| step > 0)
            && self.state.best.is_none_or(|(best, _)| self.evaluation.is_better(value, best))
        {
            self.state.best = Some((value, step));
            self.write_model("best", Dtype::F32)?;
        }
        Ok(())
    }

    fn best(&self) -> Option<Found> {
        let name = self.evaluation.decides();
        self.state.best.map(|(value, step)| Found { name, value, step })
    }

    /// One update.
    fn step(&mut self, lr: f64, clock: &mut Instant, watch: &mut dyn Watch) -> Result<()> {
        let (exchanged, sent) = (self.material.world.spent(), self.material.world.bytes());
        let mut work = self.gather.next(self.state.step, &self.material, self.updater.policy(), watch)?;
        work.noise = self.scaled.noise(self.state.step + 1, &work)?;
        work.measured = self.scaled.measures(self.state.step + 1);
        let mut told = self.updater.run(&self.material, &work, &mut self.optimizer, lr)?;
        told.terms.extend_from_slice(&work.values);
        told.exchanged = self.material.world.bytes().since(sent);
        self.state.step += 1;
        let skipped = match told.outcome {
            Outcome::Done(_) => {
                self.state.skipped_in_a_row = 0;
                self.state.tokens += told.tokens as u64;
                None
            }
            Outcome::Skipped(_) => {
                self.state.skipped += 1;
                self.state.skipped_in_a_row += 1;
                Some(self.gather.feed().names(&work.numbers))
            }
        };
        let total = clock.elapsed();
        *clock = Instant::now();
        let place = self.gather.feed().epoch();
        let mut stages = [&work.seconds[..], &[("train", told.time)]].concat();
        if self.material.world.size() > 1 {
            // A part of the others: what was waited for and sent.
            stages.push(("exchange", self.material.world.spent() - exchanged));
        }
        let seconds = [&[("total", total)], &stages[..]].concat();
        self.journal.add(&Line::update(self.state.step, &told, lr, place, &seconds, skipped.as_deref()))?;
        if let Some(noise) = told.noise.filter(|_| skipped.is_none()) {
            self.state.noise.add(noise);
            self.journal.add(&Line::noise(self.state.step, noise, &self.state.noise))?;
        }
        self.drift(lr)?;
        watch.update(News {
            step: self.state.step,
            steps: self.steps,
            loss: told.loss,
            tokens: told.tokens,
            time: total,
            work: told.time,
            stages: &stages,
            skipped: skipped.as_ref().map(|_| "numbers that are not finite"),
        });
        if self.state.skipped_in_a_row >= self.config.settings.train.max_skipped {
            return Err(Error::numeric("updates in a row have numbers that are not finite")
                .file(self.dir.path().join("metrics.jsonl"))
                .field(format!("step {}", self.state.step))
                .expected(format!("fewer than {} (train.max_skipped)", self.state.skipped_in_a_row))
                .found(self.state.skipped_in_a_row)
                .advice("try a lower train.lr or more train.warmup; the rows are named in metrics.jsonl"));
        }
        Ok(())
    }

    /// Writes what the run is for.
    fn finish(&mut self, options: &Options) -> Result<()> {
        if self.material.world.is_first() {
            report::leave(self.dir.folder());
        }
        self.write_model("final", options.write)?;
        if self.state.skipped > 0 {
            tracing::warn!("{} updates were skipped: numbers were not finite", self.state.skipped);
        }
        Ok(())
    }
}

/// Whether a model can be trained in this type.
pub fn trainable(kind: Kind, device: Device) -> Result<()> {
    if kind == Kind::Half {
        return Err(Error::user("float16 is too narrow for gradients")
            .field("--dtype")
            .expected("bf16 or f32")
            .found(format!("f16 on {device:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
