//! `retort eval`: how good replies are, and a model's probabilities of given ones.

mod given;
mod measure;
mod written;

use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::args::{Common, Eval as Arguments};
use super::models::Loaded;
use super::output::{Out, table};
use crate::error::{Error, Result};
use crate::eval::bootstrap::Estimate;
use measure::Replies;

/// What resamples depend on: intervals of the same numbers are the same.
const SEED: u64 = 0;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Against references.
    RougeL,
    /// Of given responses.
    Perplexity,
    /// Of replies.
    Distinct4,
    /// Of a student and its teacher.
    Exposure,
    /// Of questions with choices.
    Ece,
    /// Against references.
    ExactMatch,
    /// Of replies.
    EosRate,
    /// Of replies.
    Length,
}

impl Metric {
    const NAMES: [(&'static str, Metric); 8] = [
        ("rouge_l", Metric::RougeL),
        ("perplexity", Metric::Perplexity),
        ("distinct_4", Metric::Distinct4),
        ("exposure", Metric::Exposure),
        ("ece", Metric::Ece),
        ("exact_match", Metric::ExactMatch),
        ("eos_rate", Metric::EosRate),
        ("length", Metric::Length),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, m)| *m == self).map_or("", |(name, _)| name)
    }

    /// Whether it is measured on replies.
    fn is_of_replies(self) -> bool {
        !matches!(self, Metric::Perplexity | Metric::Exposure | Metric::Ece)
    }

    fn needs_references(self) -> bool {
        matches!(self, Metric::RougeL | Metric::ExactMatch)
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = text.trim().replace('-', "_");
        let found = Self::NAMES.iter().find(|(name, _)| *name == plain);
        let names = || Self::NAMES.map(|(name, _)| name).join(", ");
        found.map(|(_, metric)| *metric).ok_or_else(|| Error::user("not a metric").expected(names()))
    }
}

pub(super) fn run(args: &Arguments, common: &Common) -> Result<()> {
    args.rows.need_input()?;
    args.sampling.settings().check()?;
    let metrics = checked(args)?;
    let found = match (&args.model, &args.responses) {
        (Some(model), _) => of_model(args, common, model, &metrics)?,
        (None, Some(file)) => of_responses(args, file, &metrics)?,
        (None, None) => return Err(Error::user("nothing to measure").expected("--model or --responses")),
    };
    show(args, common, &found)
}

/// The metrics, each once; those that cannot be had from these arguments are refused.
fn checked(args: &Arguments) -> Result<Vec<Metric>> {
    let mut metrics: Vec<Metric> = Vec::new();
    for &metric in &args.metrics {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
        let needs = |what: &str| {
            Err(Error::user("a metric needs more").field(metric.name()).expected(what).found("none"))
        };
        match metric {
            Metric::Exposure if args.teacher.is_none() => return needs("--model and --teacher"),
            metric if args.model.is_none() && !metric.is_of_replies() => return needs("--model"),
            _ => {}
        }
    }
    Ok(metrics)
}

/// A metric's numbers: its estimate, and what stands beside it.
struct Found {
    metric: Metric,
    estimate: Estimate,
    beside: Map<String, Value>,
}

impl Found {
    fn of(metric: Metric, estimate: Estimate) -> Self {
        Found { metric, estimate, beside: Map::new() }
    }
}

/// An estimate as the answer has it.
fn object(estimate: Estimate) -> Map<String, Value> {
    let Estimate { mean, low, high, n } = estimate;
    let pairs = [("mean", json!(mean)), ("low", json!(low)), ("high", json!(high)), ("n", json!(n))];
    Map::from_iter(pairs.map(|(key, value)| (key.to_string(), value)))
}

fn of_model(args: &Arguments, common: &Common, name: &str, metrics: &[Metric]) -> Result<Vec<Found>> {
    let model = Loaded::open(name, common)?;
    let teacher = args.teacher.as_deref().map(|name| model.teacher(name, common)).transpose()?;
    let rows = given::read(args, metrics, &model, teacher.as_ref())?;
    let work = measure::Work { args, common, model: &model, teacher: teacher.as_ref(), rows: &rows };
    let replies = if metrics.iter().any(|m| m.is_of_replies()) { Some(work.replies()?) } else { None };
    let measured = metrics.iter().map(|&metric| match (&replies, metric) {
        (Some(replies), metric) if metric.is_of_replies() => replies.measure(metric, &rows.references),
        (_, Metric::Perplexity) => work.perplexity(),
        (_, Metric::Exposure) => work.exposure(),
        _ => work.calibration(),
    });
    measured.collect()
}

fn of_responses(args: &Arguments, file: &std::path::Path, metrics: &[Metric]) -> Result<Vec<Found>> {
    let references = given::references(args, metrics)?;
    let replies: Replies = written::read(file, metrics, references.len())?;
    metrics.iter().map(|&metric| replies.measure(metric, &references)).collect()
}

fn show(args: &Arguments, common: &Common, found: &[Found]) -> Result<()> {
    let mut out = Out::to(args.rows.output.as_deref())?;
    if common.json || args.rows.output.is_some() {
        let all: Map<String, Value> = found
            .iter()
            .map(|f| {
                let mut numbers = object(f.estimate);
                numbers.extend(f.beside.clone());
                (f.metric.name().to_string(), Value::Object(numbers))
            })
            .collect();
        out.json(&all)?;
        return out.finish();
    }
    let mut lines = vec![["metric", "mean", "95 % interval", "rows"].map(String::from).to_vec()];
    let line = |name: &str, e: Estimate| {
        let interval = format!("{:.4} to {:.4}", e.low, e.high);
        vec![name.to_string(), format!("{:.4}", e.mean), interval, e.n.to_string()]
    };
    for f in found {
        lines.push(line(f.metric.name(), f.estimate));
        for (name, value) in &f.beside {
            let number = |key: &str| value.get(key).and_then(Value::as_f64);
            if let (Some(mean), Some(low), Some(high)) = (number("mean"), number("low"), number("high")) {
                lines.push(line(&format!("  {name}"), Estimate { mean, low, high, n: f.estimate.n }));
            }
        }
    }
    out.text(&table(&lines))?;
    out.finish()
}
