//! metrics.jsonl: one object an update and one an evaluation, each on the disk's way before the next begins.
//! The same numbers go into TensorBoard's event file; samples.jsonl has a few replies of each evaluation.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::drift::Drift;
use super::update::Told;
use super::variance::Variance;
use crate::checkpoint::{RunDir, State};
use crate::dist::Bytes;
use crate::error::Result;
use crate::optim::Outcome;
use crate::optim::noise::{Estimate, Moving};
use crate::report::{Events, tensorboard};
use crate::store::Growing;

/// The files; none at a rank that does not write.
#[derive(Debug, Default)]
pub struct Journal {
    lines: Option<Growing>,
    /// None in a run that samples nothing.
    samples: Option<Growing>,
    events: Option<Events>,
}

/// A line of it.
#[derive(Debug)]
pub struct Line(Map<String, Value>);

impl Journal {
    /// Opens them to go on behind what a saved state says they had.
    pub fn open(dir: &RunDir, state: &State, sampled: bool) -> Result<Self> {
        let grow = |name: &str, length| Growing::open(&dir.folder().path(name)?, length);
        Ok(Journal {
            lines: Some(grow("metrics.jsonl", state.metrics)?),
            samples: sampled.then(|| grow("samples.jsonl", state.samples)).transpose()?,
            events: Some(Events::open(&dir.folder().path(tensorboard::NAME)?, state.events)?),
        })
    }

    /// Adds a line.
    pub fn add(&mut self, line: &Line) -> Result<()> {
        let (Some(lines), Some(events)) = (&mut self.lines, &mut self.events) else { return Ok(()) };
        lines.add(format!("{}\n", Value::Object(line.0.clone())).as_bytes())?;
        let step = line.0.get("step").and_then(Value::as_u64).unwrap_or(0);
        events.add(step, &line.scalars())
    }

    /// Adds replies, with the update after which they were sampled.
    pub fn show(&mut self, step: u64, replies: Vec<Value>) -> Result<()> {
        let Some(samples) = &mut self.samples else { return Ok(()) };
        for reply in replies {
            let mut line = Map::from_iter([("step".to_string(), json!(step))]);
            if let Value::Object(reply) = reply {
                line.extend(reply);
            }
            samples.add(format!("{}\n", Value::Object(line)).as_bytes())?;
        }
        Ok(())
    }

    /// Waits until all of it is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.lines.iter().chain(&self.samples).try_for_each(Growing::sync)?;
        self.events.as_ref().map_or(Ok(()), Events::sync)
    }

    /// Notes in a state how long the files are.
    pub fn mark(&self, state: &mut State) {
        state.metrics = self.lines.as_ref().map_or(0, Growing::length);
        state.events = self.events.as_ref().map_or(0, Events::length);
        state.samples = self.samples.as_ref().map_or(0, Growing::length);
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
        let rates = rates(&map, seconds);
        map.insert("seconds".into(), in_seconds(seconds));
        if told.exchanged != Bytes::default() {
            map.insert("exchanged".into(), json!(told.exchanged));
        }
        if !rates.is_empty() {
            map.insert("tokens_per_second".into(), Value::Object(rates));
        }
        Line(map)
    }

    /// Its numbers under TensorBoard's names.
    fn scalars(&self) -> Vec<(String, f64)> {
        let (group, map) = match self.0.get("eval") {
            Some(Value::Object(eval)) => ("eval", eval),
            _ => match (self.0.get("distance"), self.0.get("noise_scale")) {
                (Some(Value::Object(distance)), _) => ("distance", distance),
                (_, Some(Value::Object(noise))) => ("noise_scale", noise),
                _ => ("train", &self.0),
            },
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

    /// How far the weights are from where they began; `constant` says whether the learning rate was at its height.
    pub fn distance(step: u64, constant: bool, found: &Drift) -> Self {
        let whole = ("whole".to_string(), json!(found.whole));
        let blocks = found.blocks.iter().map(|(name, far)| (name.clone(), json!(far)));
        Line(Map::from_iter([
            ("step".into(), step.into()),
            ("distance".into(), std::iter::once(whole).chain(blocks).collect()),
            ("constant_rate".into(), constant.into()),
        ]))
    }

    /// What was measured of the gradient's noise, and its moving averages; a scale that is not yet known is null.
    pub fn noise(step: u64, now: Estimate, moving: &Moving) -> Self {
        let mean = moving.mean();
        let found = json!({
            "signal": now.signal, "covariance": now.covariance,
            "signal_mean": mean.map(|m| m.signal), "covariance_mean": mean.map(|m| m.covariance),
            "sequences": moving.scale(),
        });
        Line(Map::from_iter([("step".into(), step.into()), ("noise_scale".into(), found)]))
    }

    /// An evaluation's line.
    pub fn evaluation(step: u64, values: &[(&'static str, f64)], seconds: &[(&str, Duration)]) -> Self {
        let of = |&(name, value): &(&'static str, f64)| {
            let counts = ["tokens", "prompts"].contains(&name);
            (name.to_string(), if counts { json!(value as u64) } else { json!(value) })
        };
        let eval: Map<String, Value> = values.iter().map(of).collect();
        Line(Map::from_iter([
            ("step".into(), step.into()),
            ("eval".into(), Value::Object(eval)),
            ("seconds".into(), in_seconds(seconds)),
        ]))
    }
}

/// How fast each stage was. A mixture is scored while it is sampled: its scoring takes no time of its own, and has no rate.
fn rates(line: &Map<String, Value>, seconds: &[(&str, Duration)]) -> Map<String, Value> {
    let stages = [("sample", "sampled_tokens"), ("score", "sampled_tokens"), ("train", "tokens")];
    let rate = |(stage, tokens): (&'static str, &str)| {
        let (_, took) = seconds.iter().find(|(name, took)| *name == stage && took.as_micros() >= 100)?;
        Some((stage.to_string(), json!(line.get(tokens)?.as_f64()? / took.as_secs_f64())))
    };
    stages.into_iter().filter_map(rate).collect()
}

/// How long each stage took.
fn in_seconds(stages: &[(&str, Duration)]) -> Value {
    stages.iter().map(|(name, time)| (name.to_string(), json!(time.as_secs_f64()))).collect()
}
