//! metrics.jsonl: one object an update and one an evaluation, each on the disk's way before the next begins.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::update::Told;
use crate::checkpoint::RunDir;
use crate::error::Result;
use crate::optim::Outcome;
use crate::store::Growing;

/// The file.
#[derive(Debug)]
pub struct Journal(Growing);

/// A line of it.
#[derive(Debug)]
pub struct Line(Map<String, Value>);

impl Journal {
    /// Opens it to go on behind its first `length` bytes.
    pub fn open(dir: &RunDir, length: u64) -> Result<Self> {
        Ok(Journal(Growing::open(&dir.folder().path("metrics.jsonl")?, length)?))
    }

    /// Adds a line.
    pub fn add(&mut self, line: &Line) -> Result<()> {
        self.0.add(&format!("{}\n", Value::Object(line.0.clone())))
    }

    /// Waits until all of it is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.0.length()
    }
}

impl Line {
    /// An update's line. A number that is not finite is null.
    pub fn update(
        step: u64,
        told: &Told,
        lr: f64,
        epoch: f64,
        seconds: &[(&str, Duration)],
        skipped: Option<&[String]>,
    ) -> Self {
        let mut map = Map::new();
        map.insert("step".into(), step.into());
        map.insert("loss".into(), json!(told.loss));
        for (name, value) in &told.terms {
            map.insert(name.replace('-', "_"), json!(value));
        }
        let norm = match told.outcome {
            Outcome::Done(norm) | Outcome::Skipped(norm) => norm,
        };
        map.insert("lr".into(), json!(lr));
        map.insert("grad_norm".into(), json!(norm));
        map.insert("tokens".into(), told.tokens.into());
        map.insert("rows".into(), told.rows.into());
        map.insert("epoch".into(), json!(epoch));
        if let Some(rows) = skipped {
            map.insert("skipped".into(), true.into());
            map.insert("skipped_rows".into(), json!(rows));
        }
        let seconds: Map<String, Value> =
            seconds.iter().map(|(name, time)| (name.to_string(), json!(time.as_secs_f64()))).collect();
        map.insert("seconds".into(), Value::Object(seconds));
        Line(map)
    }

    /// An evaluation's line.
    pub fn evaluation(step: u64, values: &[(&'static str, f64)]) -> Self {
        let of = |&(name, value): &(&'static str, f64)| {
            let value = if name == "tokens" { json!(value as u64) } else { json!(value) };
            (name.to_string(), value)
        };
        let eval: Map<String, Value> = values.iter().map(of).collect();
        Line(Map::from_iter([("step".into(), step.into()), ("eval".into(), Value::Object(eval))]))
    }
}
