//! The config of a run as it ran: every default written out, readable again.

use std::fmt::Write;

use serde_json::Value;

use super::settings::{Length, MicroBatch, Origin, Settings, Warmup};
use super::{RunConfig, read};
use crate::error::Result;

/// Settings that a resumed run may change: they do not change what was done so far.
const MAY_CHANGE: [&str; 12] = [
    "train.steps",
    "train.epochs",
    "train.eval_every",
    "train.save_every",
    "train.keep",
    "train.max_skipped",
    "train.measure_noise",
    "teacher.cache_dir",
    "dist.timeout",
    "dist.zero",
    "dist.bucket",
    "dist.shard_teacher",
];

/// A key and its value as TOML.
pub(super) type Line = (String, String);

/// A text in quotes: a JSON string is a TOML string, but for DEL.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
}

/// A number with the point or exponent that makes it a TOML float.
fn float(x: f64) -> String {
    format!("{x:?}")
}

/// A policy's setting as TOML; null is none.
fn value(v: &Value) -> Option<String> {
    match v {
        Value::Null => None,
        Value::String(text) => Some(quoted(text)),
        Value::Array(items) => {
            Some(format!("[{}]", items.iter().filter_map(value).collect::<Vec<_>>().join(", ")))
        }
        Value::Object(map) => {
            let inner: Vec<String> =
                map.iter().filter_map(|(k, v)| Some(format!("{k} = {}", value(v)?))).collect();
            Some(format!("{{ {} }}", inner.join(", ")))
        }
        other => Some(other.to_string()),
    }
}

/// Every table with every setting.
pub(super) fn tables(config: &RunConfig) -> Result<Vec<(String, Vec<Line>)>> {
    let s = &config.settings;
    let line = |key: &str, value: String| (key.to_string(), value);
    let model = match &s.student.model {
        Origin::Folder(name) => quoted(name),
        Origin::Config(path) => format!("{{ config = {} }}", quoted(&path.to_string_lossy())),
    };
    let mut all = vec![
        (String::new(), vec![line("policy", quoted(config.entry.name)), line("seed", s.seed.to_string())]),
        ("student".into(), vec![line("model", model)]),
    ];
    if let Some(lora) = &s.student.lora {
        let lines = vec![
            line("rank", lora.rank.to_string()),
            line("alpha", float(lora.alpha)),
            line("targets", list(&lora.targets, |target| quoted(target))),
        ];
        all.push(("student.lora".into(), lines));
    }
    if let Some(teacher) = &s.teacher {
        all.push(("teacher".into(), super::teacher::lines(teacher, &s.cache)));
    }
    all.push(("data".into(), data(s)));
    all.push(("train".into(), train(s)));
    all.extend(s.train.regime.as_ref().map(|r| ("train.regime".into(), super::regime::lines(r))));
    let p = &s.sampling;
    all.push((
        "sampling".into(),
        vec![
            line("temperature", float(p.temperature)),
            line("top_k", p.top_k.to_string()),
            line("top_p", float(p.top_p)),
            line("min_new_tokens", p.min_new_tokens.to_string()),
        ],
    ));
    all.push(("eval".into(), vec![line("prompts", s.eval.prompts.to_string())]));
    let d = &s.dist;
    all.push((
        "dist".into(),
        vec![
            line("timeout", float(d.timeout)),
            line("zero", d.zero.to_string()),
            line("bucket", float(d.bucket)),
            line("shard_teacher", d.shard_teacher.to_string()),
        ],
    ));
    if let Value::Object(settings) = config.policy()?.settings() {
        let lines: Vec<Line> = settings.iter().filter_map(|(k, v)| Some((k.clone(), value(v)?))).collect();
        if !lines.is_empty() {
            all.push((config.entry.table.to_string(), lines));
        }
    }
    Ok(all)
}

fn data(s: &Settings) -> Vec<Line> {
    let d = &s.data;
    let line = |key: &str, value: String| (key.to_string(), value);
    let paths = |all: &[std::path::PathBuf]| list(all, |p| quoted(&p.to_string_lossy()));
    vec![
        line("train", paths(&d.train)),
        line("valid", paths(&d.valid)),
        line("corpus", paths(&d.corpus)),
        line("template", quoted(&d.template)),
        line("max_prompt", d.max_prompt.to_string()),
        line("max_response", d.max_response.to_string()),
        line("learn", quoted(d.learn.name())),
        line("sequence", d.sequence.to_string()),
        line("document_attention", quoted(d.document_attention.name())),
        line("skip_invalid", d.skip_invalid.to_string()),
    ]
}

fn train(s: &Settings) -> Vec<Line> {
    let t = &s.train;
    let length = match t.length {
        Length::Steps(n) => ("steps", n.to_string()),
        Length::Epochs(n) => ("epochs", float(n)),
    };
    let micro = match t.micro_batch {
        MicroBatch::Auto => quoted("auto"),
        MicroBatch::Rows(n) => n.to_string(),
    };
    let lines = [
        length,
        ("batch", t.batch.to_string()),
        ("micro_batch", micro),
        ("recompute", t.recompute.map_or(quoted("auto"), |on| on.to_string())),
        ("lr", float(t.lr)),
        ("schedule", quoted(t.schedule.name())),
        (
            "warmup",
            match t.warmup {
                Warmup::Updates(n) => n.to_string(),
                Warmup::Share(share) => quoted(&format!("{}%", share * 100.0)),
            },
        ),
        ("min_lr", float(t.min_lr)),
        ("decay", float(t.decay)),
        ("betas", list(&t.betas, |x| float(*x))),
        ("eps", float(t.eps)),
        ("weight_decay", float(t.weight_decay)),
        ("decay_all", t.decay_all.to_string()),
        ("clip", float(t.clip)),
        ("eval_every", t.eval_every.to_string()),
        ("save_every", t.save_every.to_string()),
        ("keep", t.keep.to_string()),
        ("best", quoted(t.best.name())),
        ("max_skipped", t.max_skipped.to_string()),
        ("measure_distance", t.measure_distance.to_string()),
        ("measure_noise", t.measure_noise.to_string()),
    ];
    lines.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// The whole as text.
pub(super) fn as_run(config: &RunConfig, run: &[(&str, String)]) -> Result<String> {
    let mut all = tables(config)?;
    let facts: Vec<Line> = run.iter().map(|(key, value)| (key.to_string(), quoted(value))).collect();
    if !facts.is_empty() {
        all.push((read::RUN.to_string(), facts));
    }
    let mut text = String::new();
    for (name, lines) in all {
        if !name.is_empty() {
            let _ = writeln!(text, "\n[{name}]");
        }
        for (key, value) in lines {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    Ok(text)
}

/// The first setting that differs and may not.
pub(super) fn differs(now: &RunConfig, before: &RunConfig) -> Result<Option<String>> {
    let flat = |config: &RunConfig| -> Result<Vec<Line>> {
        let full = |(name, lines): (String, Vec<Line>)| {
            lines
                .into_iter()
                .map(move |(key, value)| (if name.is_empty() { key } else { format!("{name}.{key}") }, value))
        };
        let kept = |(key, _): &Line| !MAY_CHANGE.contains(&key.as_str());
        Ok(tables(config)?.into_iter().flat_map(full).filter(kept).collect())
    };
    let (now, before) = (flat(now)?, flat(before)?);
    let missing =
        |a: &[Line], b: &[Line]| a.iter().find(|line| !b.contains(line)).map(|(key, _)| key.clone());
    Ok(missing(&now, &before).or_else(|| missing(&before, &now)))
}
