//! The quickstart: distillation from end to end in minutes, on a task that a newcomer sees through.
//! Layer 6: uses all below.
//!
//! A grammar (`task.toml`) writes requests and replies. There are few rows with replies and many without, a
//! teacher that knows the task, and a student that is often mistaken. The student learns the rows by heart
//! (`start`); from there it is trained on as long in four ways: on the same rows (`sft`), on them beside the
//! teacher's opinion (`kd`), on replies that the teacher samples (`seqkd`), and on its own replies against
//! the teacher's opinion (`minillm`). All are measured on prompts whose wordings and arguments are new.

pub mod grammar;
pub mod rows;

mod arms;
mod bench;
mod measure;
mod page;
mod shipped;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tch::{Device, Kind};

use crate::error::{Error, Result};
use crate::eval::per_row::{Paired, PerRow, paired};
pub use arms::{ARMS, Arm, START, for_each};
pub use bench::{Bench, write_models};
pub use measure::Measured;
pub use shipped::{vocabulary, write_tokenizer};

/// The students, in the order of the table.
const STUDENTS: [&str; 4] = ["sft", "kd", "seqkd", "minillm"];

/// What a quickstart is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder that everything goes to.
    pub out: PathBuf,
    /// The seed of the rows and of all runs.
    pub seed: u64,
    /// Prompts to learn from, one in five with a reply.
    pub prompts: usize,
    /// How many held-out rows the models are measured on.
    pub held_out: usize,
    /// `key=value`, laid over the configs of all runs.
    pub set: Vec<String>,
    /// Where to compute.
    pub device: Device,
    /// In what.
    pub kind: Kind,
    /// Runs that are trained at a time.
    pub at_once: usize,
}

/// Hears how the quickstart goes; from several threads.
pub trait Hears: Sync {
    /// A part begins: its name and what it is for.
    fn begins(&self, part: &str, what: &str);
    /// A run has done so many updates.
    fn progress(&self, run: &str, done: u64, total: u64);
    /// A run's Rouge-L on the validation rows.
    fn evaluated(&self, run: &str, step: u64, rouge_l: f64);
    /// A slow piece of a run's work before its updates.
    fn preparing(&self, run: &str, what: &'static str, done: usize, total: usize);
}

/// A model of the table.
#[derive(Debug, Clone)]
pub struct Model {
    /// `teacher`, or the policy.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// Updates behind the start, and what they took; none for the teacher.
    pub trained: Option<(u64, Duration)>,
    /// What it came to.
    pub measured: Measured,
}

/// All that a quickstart found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The teacher, then the students.
    pub models: Vec<Model>,
    /// The rows that all were measured on.
    pub held_out: PathBuf,
    /// The page that shows it.
    pub report: PathBuf,
    /// `minillm` against each other student in Rouge-L on the same rows.
    pub ahead: Vec<(&'static str, Paired)>,
    /// What all of it took.
    pub time: Duration,
}

/// Does everything; in a folder where it was stopped it goes on.
pub fn run(settings: &Settings, hears: &dyn Hears) -> Result<Found> {
    let begun = Instant::now();
    let labelled = settings.prompts / bench::LABELLED;
    let others = settings.prompts - labelled;
    let task = format!(
        "short requests in many wordings: {labelled} with a reply, {others} without; a teacher that knows them"
    );
    hears.begins("task", &task);
    let bench = Bench::prepare(settings.clone())?;
    hears
        .begins("start", "a small student learns the rows that have a reply; all others begin where it ends");
    let start = bench.train(&[START], hears)?;
    hears.begins("students", "four ways to go on, each with as many updates");
    let arms = ARMS;
    let finished = bench.train(&arms, hears)?;
    hears.begins(
        "measure",
        "replies to prompts that no model has seen, sampled at temperature 1 and the most probable",
    );
    let mut all = vec![("teacher", bench.teacher(), None)];
    for name in STUDENTS {
        let found = arms.iter().zip(&finished).find(|(arm, _)| arm.name == name);
        let (arm, finished) = found.ok_or_else(|| Error::bug("a run that is not there").found(name))?;
        let path = bench.state((arm, finished), &start[0]);
        all.push((name, path, Some((finished.steps, bench::seconds(&finished.run)?))));
    }
    let paths: Vec<PathBuf> = all.iter().map(|(_, path, _)| path.clone()).collect();
    let measured = bench.measure(&paths)?;
    let model = |((name, path, trained), measured): ((&str, _, _), _)| Model {
        name: name.into(),
        path,
        trained,
        measured,
    };
    let models: Vec<Model> = all.into_iter().zip(measured).map(model).collect();
    let rows = |name: &str| {
        let model = models.iter().find(|m| m.name == name);
        let rows =
            model.ok_or_else(|| Error::bug("a model that is not there").found(name))?.measured.rows.iter();
        Ok::<_, Error>(PerRow::mean(rows.copied()))
    };
    let mut ahead = Vec::new();
    for name in STUDENTS.into_iter().filter(|name| *name != "minillm") {
        ahead.extend(paired(&rows("minillm")?, &rows(name)?, settings.seed)?.map(|pair| (name, pair)));
    }
    let report = settings.out.join("report.html");
    let found = Found { held_out: bench.held_out(), report, ahead, time: begun.elapsed(), models };
    let runs: Vec<PathBuf> = STUDENTS.map(|name| settings.out.join("runs").join(name)).into();
    page::write(&found, bench.rows(), &runs)?;
    Ok(found)
}
