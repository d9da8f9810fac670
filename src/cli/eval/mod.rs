//! `retort eval`: how good replies are, and a model's probabilities of given ones.

pub(super) mod args;
mod compare;
mod given;
mod judged;
mod measure;
mod show;
mod written;

use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::args::{Common, Eval as Arguments};
use super::models;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Estimate;
use crate::eval::per_row::{BUCKETS, PerRow};
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
    /// Against references, by another model.
    Judge,
}

impl Metric {
    const NAMES: [(&'static str, Metric); 9] = [
        ("rouge_l", Metric::RougeL),
        ("perplexity", Metric::Perplexity),
        ("distinct_4", Metric::Distinct4),
        ("exposure", Metric::Exposure),
        ("ece", Metric::Ece),
        ("exact_match", Metric::ExactMatch),
        ("eos_rate", Metric::EosRate),
        ("length", Metric::Length),
        ("judge", Metric::Judge),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, m)| *m == self).map_or("", |(name, _)| name)
    }

    /// Whether it is measured on replies.
    fn is_of_replies(self) -> bool {
        !matches!(self, Metric::Perplexity | Metric::Exposure | Metric::Ece)
    }

    fn needs_references(self) -> bool {
        matches!(self, Metric::RougeL | Metric::ExactMatch | Metric::Judge)
    }

    /// Whether more is better; none where neither is.
    fn more_is_better(self) -> Option<bool> {
        match self {
            Metric::RougeL | Metric::ExactMatch | Metric::Judge => Some(true),
            Metric::Perplexity | Metric::Ece => Some(false),
            Metric::Distinct4 | Metric::Exposure | Metric::EosRate | Metric::Length => None,
        }
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
    compare::check(args, &metrics)?;
    let mut found = match (&args.model, &args.responses) {
        (Some(model), _) => of_model(args, common, model, &metrics)?,
        (None, Some(file)) => of_responses(args, common, file, &metrics)?,
        (None, None) => return Err(Error::user("nothing to measure").expected("--model or --responses")),
    };
    if let Some(other) = &args.more.against {
        compare::with(&mut found, &compare::other(args, common, other, &metrics)?)?;
    }
    show::show(args, common, &found)
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
            Metric::Judge => judged::check(&args.more.judge)?,
            _ => {}
        }
    }
    Ok(metrics)
}

/// A metric's numbers: its estimate, what stands beside it, and where it is one of rows what it is made of.
struct Found {
    metric: Metric,
    estimate: Estimate,
    beside: Map<String, Value>,
    rows: Option<PerRow>,
    /// By words of the reference; none where no row has one.
    by_length: Option<[Option<Estimate>; BUCKETS]>,
}

impl Found {
    fn of(metric: Metric, estimate: Estimate) -> Self {
        Found { metric, estimate, beside: Map::new(), rows: None, by_length: None }
    }

    fn of_rows(metric: Metric, rows: PerRow, words: &[Option<usize>]) -> Result<Self> {
        let nothing = || Error::data("there is nothing to measure").field(metric.name());
        let estimate = rows.estimate(SEED)?.ok_or_else(nothing)?;
        let known = words.iter().any(Option::is_some);
        let by_length = if known { Some(rows.by_length(words, SEED)?) } else { None };
        Ok(Found { rows: Some(rows), by_length, ..Found::of(metric, estimate) })
    }
}

/// An estimate as the answer has it.
fn object(estimate: Estimate) -> Map<String, Value> {
    let Estimate { mean, low, high, n } = estimate;
    let pairs = [("mean", json!(mean)), ("low", json!(low)), ("high", json!(high)), ("n", json!(n))];
    Map::from_iter(pairs.map(|(key, value)| (key.to_string(), value)))
}

fn of_model(args: &Arguments, common: &Common, name: &str, metrics: &[Metric]) -> Result<Vec<Found>> {
    let model = models::open(name, common)?;
    let teacher = args.teacher.as_deref().map(|name| models::teacher_of(&model, name, common)).transpose()?;
    let rows = given::read(args, metrics, &model, teacher.as_ref())?;
    let work = measure::Work { args, common, model: &model, teacher: teacher.as_ref(), rows: &rows };
    let replies = if metrics.iter().any(|m| m.is_of_replies()) { Some(work.replies()?) } else { None };
    let measured = metrics.iter().map(|&metric| match (&replies, metric) {
        (Some(replies), Metric::Judge) => judged::measure(&args.more.judge, common, replies, &rows.texts),
        (Some(replies), metric) if metric.is_of_replies() => replies.measure(metric, &rows.texts),
        (_, Metric::Perplexity) => work.perplexity(),
        (_, Metric::Exposure) => work.exposure(),
        _ => work.calibration(),
    });
    measured.collect()
}

fn of_responses(
    args: &Arguments,
    common: &Common,
    file: &std::path::Path,
    metrics: &[Metric],
) -> Result<Vec<Found>> {
    let texts = given::texts(args, metrics)?;
    let replies: Replies = written::read(file, metrics, texts.references.len())?;
    let measured = metrics.iter().map(|&metric| match metric {
        Metric::Judge => judged::measure(&args.more.judge, common, &replies, &texts),
        _ => replies.measure(metric, &texts),
    });
    measured.collect()
}
