//! Training: evaluate -> save -> step -> log, once more than there are updates, so that the end is evaluated
//! and saved too. Layer 5: uses all below; of the policies it knows the trait alone.
//!
//! An update takes `batch` rows, cut into micro-batches of like length. Each is scored as a sum; the sums
//! and their gradients add up, and are divided once, by what the update counted in all: no cut can
//! change an update but in its rounding.

mod batch;
mod card;
mod evaluate;
mod feed;
mod journal;
mod keep;
mod kept;
pub mod machine;
mod plan;
mod replies;
mod setup;
mod teacher;
mod update;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tch::{Device, Kind};

use crate::checkpoint::{RunDir, State};
use crate::config::{Length, RunConfig, Train};
use crate::error::{Cause, Error, Result};
use crate::optim::{Course, Optimizer, Outcome, Settings, Shape};
use crate::signal;
use crate::weights::Dtype;
use evaluate::Evaluation;
use feed::Feed;
use journal::{Journal, Line};
pub use plan::{Plan, plan};
pub use setup::{Material, Options};
use update::Updater;

/// Hears how a run goes.
pub trait Watch {
    /// An update is done.
    fn update(&mut self, news: News<'_>);
    /// An evaluation is done: name and value.
    fn evaluated(&mut self, step: u64, values: &[(&'static str, f64)]);
    /// A slow piece of work before the updates is so far.
    fn preparing(&mut self, what: &'static str, done: usize, total: usize);
}

/// What there is to tell of an update.
#[derive(Debug, Clone, Copy)]
pub struct News<'a> {
    /// Its number, and how many there will be.
    pub step: u64,
    /// All of them.
    pub steps: u64,
    /// The loss, a mean over tokens.
    pub loss: f64,
    /// Tokens learnt.
    pub tokens: usize,
    /// Since the previous update.
    pub time: Duration,
    /// Of it, what the update itself took.
    pub work: Duration,
    /// Why it was skipped, where it was.
    pub skipped: Option<&'a str>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The run directory.
    pub run: PathBuf,
    /// Updates in all.
    pub steps: u64,
    /// Updates of this process.
    pub done: u64,
    /// The best evaluation, and the update after which it was.
    pub best: Option<(f64, u64)>,
}

/// Trains as the config says, in the run directory `out`.
pub fn run(
    config: RunConfig,
    out: &std::path::Path,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Finished> {
    let config = setup::settled(config);
    if RunDir::is_run(out) && !options.resume {
        return Err(holds_a_run(out));
    }
    for table in &config.unused {
        tracing::warn!("[{table}] is not used by policy = \"{}\"", config.entry.name);
    }
    let policy = config.policy()?;
    feed::supported(policy.as_ref())?;
    let dir = RunDir::take(out)?;
    let saved = if options.resume { dir.newest()? } else { None };
    setup::same_run(&config, &dir, saved.is_some())?;
    let mut material = Material::load(&config, options, saved.as_ref().map(|s| s.path.as_path()))?;
    let mut feed = Feed::prepare(&config, &material, &dir, policy.as_ref(), watch)?;
    let evaluation = Evaluation::prepare(&config, &material, &dir)?;
    let cutting = material.cutting(&config, &feed, policy.as_ref());
    let keeping = keep::Keeping { config: &config, dir: &dir, cut: cutting.cut, policy: policy.as_ref() };
    keep::keep(&keeping, &mut material, &mut feed, &evaluation, watch)?;
    let steps = steps(&config.settings.train, feed.rows(), feed.batch());
    let mut optimizer =
        Optimizer::new(material.student.params(), optimizer_settings(&config.settings.train))?;
    let state = match &saved {
        Some(checkpoint) => {
            checkpoint.restore(&mut optimizer)?;
            checkpoint.state.clone()
        }
        None => State::default(),
    };
    dir.folder().write_bytes("config.toml", config.as_run(&options.facts())?.as_bytes())?;
    let journal = Journal::open(&dir, &state)?;
    material.student.set_recompute(cutting.recompute);
    let updater = Updater::new(&material, policy, cutting.cut)?;
    let saved_at = saved.map(|s| s.state.step);
    let mut training =
        Loop { config, material, dir, feed, evaluation, optimizer, updater, journal, state, steps, saved_at };
    training.restore()?;
    let done = training.run(options, watch)?;
    let best = training.state.best;
    Ok(Finished { run: out.to_path_buf(), steps, done, best })
}

fn holds_a_run(out: &std::path::Path) -> Error {
    Error::user("the folder holds a run")
        .file(out)
        .advice("--resume goes on with it; another --out begins a new one")
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
    feed: Feed,
    evaluation: Evaluation,
    optimizer: Optimizer,
    updater: Updater,
    journal: Journal,
    state: State,
    steps: u64,
    /// The update that is on the disk as a checkpoint.
    saved_at: Option<u64>,
}

impl Loop {
    /// Puts everything where the saved state says it was.
    fn restore(&mut self) -> Result<()> {
        self.feed.seek(self.state.taken);
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
        let course = course(&self.config.settings.train, self.steps);
        let mut clock = Instant::now();
        loop {
            let last = self.state.step >= self.steps;
            let stopped = self.look(last, watch).err();
            if stopped.as_ref().is_some_and(|e| !matches!(e.cause(), Cause::Stopped(_))) {
                return stopped.map_or(Ok(0), Err);
            }
            let stopped = stopped.or_else(|| signal::check().err());
            self.save(last || stopped.is_some())?;
            if let Some(stopped) = stopped {
                return Err(stopped);
            }
            if last {
                self.finish(options)?;
                return Ok(self.state.step.saturating_sub(begun));
            }
            self.step(course.at(self.state.step + 1), &mut clock, watch)?;
        }
    }

    /// Evaluates, where it is time to and has not been done.
    fn look(&mut self, last: bool, watch: &mut dyn Watch) -> Result<()> {
        let (step, every) = (self.state.step, self.config.settings.train.eval_every);
        let due = every > 0 && (step % every == 0 || last);
        if !due || self.state.evaluated == Some(step) {
            return Ok(());
        }
        let Some(values) = self.evaluation.run(&self.material, &self.updater)? else { return Ok(()) };
        self.journal.add(&Line::evaluation(step, &values))?;
        self.state.evaluated = Some(step);
        watch.evaluated(step, &values);
        let loss = values.iter().find(|(name, _)| *name == "valid_loss").map(|(_, value)| *value);
        if let Some(loss) = loss.filter(|x| x.is_finite()) {
            self.updater.policy_mut().validated(loss);
            // The untrained student is measured and does not compete.
            if step > 0 && self.state.best.is_none_or(|(best, _)| loss < best) {
                self.state.best = Some((loss, step));
                self.write_model("best", Dtype::F32)?;
            }
        }
        Ok(())
    }

    /// Saves a checkpoint, where it is time to and none stands.
    fn save(&mut self, now: bool) -> Result<()> {
        let (step, train) = (self.state.step, &self.config.settings.train);
        let due = step > 0 && (now || (train.save_every > 0 && step % train.save_every == 0));
        if !due || self.saved_at == Some(step) {
            return Ok(());
        }
        self.journal.sync()?;
        self.journal.mark(&mut self.state);
        self.state.taken = self.feed.taken();
        self.state.updates = self.optimizer.updates();
        self.state.policy = self.updater.policy().state();
        self.dir.save(&self.state, &self.material.files, &self.material.weights(), &self.optimizer)?;
        self.saved_at = Some(step);
        self.dir.keep(train.keep)
    }

    /// One update.
    fn step(&mut self, lr: f64, clock: &mut Instant, watch: &mut dyn Watch) -> Result<()> {
        let begun = Instant::now();
        let rows = self.feed.next_batch();
        let fed = begun.elapsed();
        let told = self.updater.run(&self.material, &rows, &mut self.optimizer, lr)?;
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
                Some(self.feed.names(&rows))
            }
        };
        let total = clock.elapsed();
        *clock = Instant::now();
        let place = self.feed.epoch();
        let seconds = [("total", total), ("data", fed), ("train", told.time)];
        self.journal.add(&Line::update(self.state.step, &told, lr, place, &seconds, skipped.as_deref()))?;
        watch.update(News {
            step: self.state.step,
            steps: self.steps,
            loss: told.loss,
            tokens: told.tokens,
            time: total,
            work: told.time,
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
        self.write_model("final", options.write)?;
        if self.state.skipped > 0 {
            tracing::warn!("{} updates were skipped: numbers were not finite", self.state.skipped);
        }
        Ok(())
    }

    fn write_model(&self, name: &str, dtype: Dtype) -> Result<()> {
        let card = card::text(&self.config, &self.state, name);
        self.dir.write_model(name, &self.material.files, &self.material.weights(), dtype, &card)?;
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
