//! A run's configuration: TOML -> raw values with their lines -> checked settings. Layer 0: uses `error`,
//! `store`, and of the ground crate the list of policies.
//!
//! Every key that is not set has the value of [`Settings`]' documentation; a key that nothing reads is an
//! error that suggests what was meant; each error names file and line, or the `--set`. Paths are
//! relative to the working directory, as on the command line.
//!
//! ```
//! # use retort::config::RunConfig;
//! # let dir = tempfile::tempdir().unwrap();
//! # let file = dir.path().join("run.toml");
//! # std::fs::write(&file, "policy = \"sft\"\nstudent.model = \"m\"\ndata.train = [\"rows.jsonl\"]\n").unwrap();
//! let config = RunConfig::load(&file, &["train.steps=10".into(), "train.lr=1e-4".into()])?;
//! assert_eq!((config.settings.train.lr, config.settings.train.batch), (1e-4, 64));
//! # Ok::<(), retort::error::Error>(())
//! ```

pub mod grid;
pub mod numbers;
pub mod regime;
pub mod settings;
pub mod teacher;

mod about;
mod list;
mod raw;
mod read;
mod section;
mod write;

use std::path::{Path, PathBuf};

use retort_policies::{Entry, Policy, Table};

use crate::error::{Error, Result};
pub use about::{about, described};
pub use list::{Listed, SetBy};
use raw::{Document, Place};
pub use regime::{Noise, Regime, Rules};
pub use settings::{
    Best, Data, DocumentAttention, Eval, Learn, Length, Lora, MicroBatch, Origin, Sampling, Schedule,
    Settings, Student, Train, Warmup,
};
pub use teacher::{Cache, Keep};

/// A run's configuration, checked.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The file it came from.
    pub file: PathBuf,
    /// Every setting but the policy's own.
    pub settings: Settings,
    /// The policy's place in the list of them.
    pub entry: &'static Entry,
    /// The policy's own settings, as far as the config sets them.
    pub table: Table,
    /// Tables of other policies, which are checked and not used.
    pub unused: Vec<String>,
    document: Document,
}

impl RunConfig {
    /// Reads a file, with `key=value` settings laid over it.
    pub fn load(file: &Path, set: &[String]) -> Result<Self> {
        Self::checked(Document::open(file)?, set)
    }

    /// The same from a text; `file` is what errors call it.
    pub fn parse(text: &str, file: &Path, set: &[String]) -> Result<Self> {
        Self::checked(Document::parse(text, file)?, set)
    }

    fn checked(mut document: Document, set: &[String]) -> Result<Self> {
        set.iter().try_for_each(|assignment| document.set(assignment))?;
        read::read(document)
    }

    /// The policy.
    pub fn policy(&self) -> Result<Box<dyn Policy>> {
        read::build(&self.document, self.entry, &self.table)
    }

    /// An error that came up later with this setting (`data.train`), at the place where it was set.
    pub fn blame(&self, key: &str, error: Error) -> Error {
        match self.place(key) {
            Some(Place::Line(line)) => error.field(format!("{} ({}:{line})", key, self.file.display())),
            Some(Place::Set) => error.field(format!("--set {key}")),
            None => error.field(key),
        }
    }

    fn place(&self, key: &str) -> Option<Place> {
        let mut parts = key.split('.');
        let mut node = raw::find(&self.document.table, parts.next()?)?;
        for part in parts {
            match &node.raw {
                raw::Raw::Table(table) => node = raw::find(table, part)?,
                _ => return Some(node.place),
            }
        }
        Some(node.place)
    }

    /// The whole config with every default written out; `run` are facts of the run itself (version,
    /// device, ...), which are read again and not used.
    pub fn as_run(&self, run: &[(&str, String)]) -> Result<String> {
        write::as_run(self, run)
    }

    /// The first setting in which two runs differ that a run cannot change when it is resumed.
    pub fn differs(&self, other: &RunConfig) -> Result<Option<String>> {
        write::differs(self, other)
    }
}

#[cfg(test)]
mod tests;
