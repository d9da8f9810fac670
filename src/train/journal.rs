//! metrics.jsonl: one object an update and one an evaluation, each on the disk's way before the next begins.
//! The same numbers go into TensorBoard's event file.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::update::Told;
use super::variance::Variance;
use crate::checkpoint::{RunDir, State};
use crate::error::Result;
use crate::optim::Outcome;
use crate::report::{Events, tensorboard};
use crate::store::Growing;

/// Both files.
#[derive(Debug)]
pub struct Journal {
    lines: Growing,
    events: Events,
}

/// A line of it.
#[derive(Debug)]
pub struct Line(Map<String, Value>);

impl Journal {
    /// Opens them to go on behind what a saved state says they had.
    pub fn open(dir: &RunDir, state: &State) -> Result<Self> {
        Ok(Journal {
            lines: Growing::open(&dir.folder().path("metrics.jsonl")?, state.metrics)?,
            events: Events::open(&dir.folder().path(tensorboard::NAME)?, state.events)?,
        })
    }

    /// Adds a line.
    pub fn add(&mut self, line: &Line) -> Result<()> {
        self.lines.add(format!("{}\n", Value::Object(line.0.clone())).as_bytes())?;
        let step = line.0.get("step").and_then(Value::as_u64).unwrap_or(0);
        self.events.add(step, &line.scalars())
    }

    /// Waits until all of it is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.lines.sync()?;
        self.events.sync()
    }

    /// Notes in a state how long the files are.
    pub fn mark(&self, state: &mut State) {
        (state.metrics, state.events) = (self.lines.length(), self.events.length());
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

    /// Its numbers under TensorBoard's names.
    fn scalars(&self) -> Vec<(String, f64)> {
        let (group, map) = match self.0.get("eval") {
            Some(Value::Object(eval)) => ("eval", eval),
            _ => ("train", &self.0),
        };
        let numbers = map.iter().filter(|(name, _)| *name != "step");
        numbers.filter_map(|(name, value)| Some((format!("{group}/{name}"), value.as_f64()?))).collect()
    }

    /// What was measured of the gradient's variance.
    pub fn variance(step: u64, variants: &[Variance]) -> Self {
        let of = |v: &Variance| {
            (v.name.to_string(), json!({ "noise": v.noise, "signal": v.signal, "cosine": v.cosine }))
        };
        let variants: Map<String, Value> = variants.iter().map(of).collect();
        Line(Map::from_iter([("step".into(), step.into()), ("variance".into(), Value::Object(variants))]))
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
