//! The place where methods are compared: a folder with models and rows, runs that start alike, and one measure
//! for all. The quickstart runs four; `examples/methods.rs` runs them over seeds and learning rates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::arms::{self, Arm};
use super::grammar::{Grammar, Split};
use super::measure::{HeldOut, Measured, Read, measure};
use super::rows::{self, Draw, Replies};
use super::{Hears, Settings, shipped};
use crate::error::{Error, Result};
use crate::store::{Folder, read_file};
use crate::train::Finished;

/// One prompt in so many has a reply to learn.
pub(super) const LABELLED: usize = 5;

/// Of 25 prompts, so many rows more are there for each run to choose its best state by.
const VALID: usize = 8;

/// References of a held-out row.
const REFERENCES: usize = 6;

/// A folder with everything that runs need.
pub struct Bench {
    settings: Settings,
    grammar: Grammar,
    held: HeldOut,
}

impl Bench {
    /// Writes models and rows, to a new folder or to one that was prepared before.
    pub fn prepare(settings: Settings) -> Result<Self> {
        let out = take(&settings.out)?;
        let grammar = Grammar::built_in()?;
        write_models(&out)?;
        let data = Folder::create(out.path("data")?)?;
        let write = |name: &str, count, rows, file| {
            rows::write(&grammar, &data.path(name)?, count, rows, Draw { seed: settings.seed, file })
        };
        let prompts = settings.prompts;
        write("train.jsonl", prompts / LABELLED, (Split::Train, Replies::One { mistaken: 0.0 }), 0)?;
        // The first of them are the prompts of the rows with replies.
        write("prompts.jsonl", prompts, (Split::Train, Replies::None), 0)?;
        write("valid.jsonl", prompts * VALID / 25, (Split::Valid, Replies::Several(REFERENCES)), 1)?;
        let requests =
            write("held_out.jsonl", settings.held_out, (Split::Test, Replies::Several(REFERENCES)), 2)?;
        let references = references(&settings.out.join(HELD_OUT))?;
        Ok(Bench { settings, grammar, held: HeldOut { requests, references } })
    }

    /// The rows that models are measured on, in memory.
    pub(super) fn rows(&self) -> &HeldOut {
        &self.held
    }

    /// The same as a file.
    pub fn held_out(&self) -> PathBuf {
        self.settings.out.join(HELD_OUT)
    }

    /// The teacher's folder.
    pub fn teacher(&self) -> PathBuf {
        self.settings.out.join(TEACHER)
    }

    /// A run's directory.
    pub fn run(&self, arm: &Arm) -> PathBuf {
        self.settings.out.join("runs").join(arm.name.as_ref())
    }

    /// The state of a run that counts: the one that validation chose. More SFT is still SFT: where the start was
    /// better than all that came of going on with its rows, it is the start.
    pub fn state(&self, (arm, run): (&Arm, &Finished), start: &Finished) -> PathBuf {
        let value = |run: &Finished| run.best.map_or(f64::NEG_INFINITY, |best| best.value);
        let start_counts = arm.goes_on_with_start() && value(start) >= value(run);
        best(if start_counts { &start.run } else { &run.run })
    }

    /// Trains them, as many at a time as the settings say; answers in their order.
    pub fn train(&self, arms: &[Arm], hears: &dyn Hears) -> Result<Vec<Finished>> {
        let train = |arm: &Arm| arm.train(&self.settings, &self.run(arm), hears);
        arms::for_each(arms, self.settings.at_once, train)
    }

    /// Measures these models, as many at a time as the settings say.
    pub fn measure(&self, models: &[PathBuf]) -> Result<Vec<Measured>> {
        let place = (self.settings.device, self.settings.kind);
        let heard = Read::open(&self.teacher(), &self.held, place)?.answers(false)?;
        arms::for_each(models, self.settings.at_once, |path| {
            let read = |path: &Path| Read::open(path, &self.held, place);
            measure(&read(path)?, &read(&self.teacher())?, &heard, (&self.grammar, &self.held))
        })
    }
}

const HELD_OUT: &str = "data/held_out.jsonl";
const TEACHER: &str = "models/teacher";

/// The folder: a new one, or one that was prepared before.
fn take(out: &Path) -> Result<Folder> {
    let empty = std::fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none());
    if !empty && !out.join(TEACHER).join("config.json").exists() {
        return Err(Error::user("the folder holds something else")
            .file(out)
            .expected("an empty folder, or that of a quickstart")
            .advice("--out names another"));
    }
    Folder::create(out)
}

/// Writes the two models that come with the program: `models/teacher`, and `models/base`, the student as it begins.
pub fn write_models(out: &Folder) -> Result<()> {
    shipped::teacher(&Folder::create(out.path(TEACHER)?)?)?;
    shipped::base(&Folder::create(out.path("models/base")?)?)
}

/// What stands in the file, so that all who read it measure by the same.
fn references(path: &Path) -> Result<Vec<Vec<String>>> {
    let (read, _) = crate::data::read_with(path, None, &mut |_, _| Ok(()))?;
    Ok(read.rows.iter().map(|row| row.references().into_iter().map(String::from).collect()).collect())
}

/// The state that validation chose, or the last one where it chose none.
fn best(run: &Path) -> PathBuf {
    Some(run.join("best")).filter(|best| best.exists()).unwrap_or_else(|| run.join("final"))
}

/// What a run's updates took, by its own account: also of those before it was stopped.
pub(super) fn seconds(run: &Path) -> Result<Duration> {
    let path = run.join("metrics.jsonl");
    let text = read_file(&path, 64 << 20)?.unwrap_or_default();
    let lines = String::from_utf8_lossy(&text);
    let total = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        value["seconds"]["total"].as_f64()
    };
    Ok(Duration::from_secs_f64(lines.lines().filter_map(total).sum::<f64>().max(0.0)))
}
