//! Who is told how a run goes, and what.

use std::path::PathBuf;
use std::time::Duration;

/// Hears how a run goes.
pub trait Watch {
    /// An update is done.
    fn update(&mut self, news: News<'_>);
    /// An evaluation is done: name and value.
    fn evaluated(&mut self, step: u64, values: &[(&'static str, f64)]);
    /// A slow piece of work before the updates is so far.
    fn preparing(&mut self, what: &'static str, done: usize, total: usize);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Watch for Silent {
    fn update(&mut self, _: News<'_>) {}
    fn evaluated(&mut self, _: u64, _: &[(&'static str, f64)]) {}
    fn preparing(&mut self, _: &'static str, _: usize, _: usize) {}
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
    /// The same by its parts: sampling, scoring, reading, training.
    pub stages: &'a [(&'static str, Duration)],
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
    /// The best evaluation.
    pub best: Option<Found>,
    /// The most memory that each process has held, in bytes: of its GPU, or of the machine.
    pub memory: Vec<u64>,
}

/// The evaluation that decided what is best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// What decided: `rouge_l` or `valid_loss`.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// The update after which it was.
    pub step: u64,
}
