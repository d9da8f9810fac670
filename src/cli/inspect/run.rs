//! `retort inspect RUN`: how far a run directory is, what it learnt, what in it can be used, and what to do next.
//! Nothing is written, so a run at work can be looked at.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::args::Common;
use super::super::output::{Out, table};
use crate::checkpoint::{self, Checkpoint};
use crate::config::{Best, Length, Origin, RunConfig};
use crate::error::{Cause, Error, Result};
use crate::train::Found;

/// Losses that are shown.
const LAST: usize = 5;

pub(super) fn run(folder: &Path, common: &Common) -> Result<()> {
    let file = folder.join("config.toml");
    if !file.exists() {
        return Err(Error::data("a run directory without its config").file(&file));
    }
    let config = RunConfig::load(&file, &[])?;
    let told = Told::read(&folder.join("metrics.jsonl"), config.settings.train.best)?;
    let saved = saved(folder)?;
    let report = Report { folder, config: &config, told: &told, saved: &saved };
    let mut out = Out::stdout();
    if common.json {
        out.json(&report.document())?
    } else {
        out.text(&table(&report.facts()))?
    }
    out.finish()
}

/// What metrics.jsonl says.
#[derive(Default)]
struct Told {
    done: u64,
    epoch: Option<f64>,
    skipped: u64,
    tokens: u64,
    /// The last updates and their losses; none of a skipped one.
    losses: Vec<(u64, Option<f64>)>,
    evaluation: Option<(u64, Value)>,
    best: Option<Found>,
}

impl Told {
    fn read(path: &Path, wanted: Best) -> Result<Self> {
        let mut told = Told::default();
        let fail = |e: std::io::Error| Error::io("cannot read", path, &e);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(told),
            Err(e) => return Err(fail(e)),
        };
        for line in BufReader::new(file).lines() {
            // A killed run may leave half a line, which it cuts when it goes on.
            if let Ok(value) = serde_json::from_str::<Value>(&line.map_err(fail)?) {
                told.add(&value, wanted);
            }
        }
        Ok(told)
    }

    fn add(&mut self, line: &Value, wanted: Best) {
        let Some(step) = line["step"].as_u64() else { return };
        if let Some(eval) = line.get("eval") {
            // Where no replies are sampled the loss decides.
            let by_replies = wanted == Best::RougeL && eval.get("rouge_l").is_some();
            let name = if by_replies { "rouge_l" } else { "valid_loss" };
            let better = |value: f64, than: f64| if by_replies { value > than } else { value < than };
            if let Some(value) = eval[name].as_f64().filter(|_| step > 0)
                && self.best.is_none_or(|best| better(value, best.value))
            {
                self.best = Some(Found { name, value, step });
            }
            self.evaluation = Some((step, eval.clone()));
            return;
        }
        if ["variance", "distance", "noise_scale"].iter().any(|own| line.get(*own).is_some()) {
            return;
        }
        self.done = step;
        self.epoch = line["epoch"].as_f64();
        if line["skipped"] == true {
            self.skipped += 1;
        } else {
            self.tokens += line["tokens"].as_u64().unwrap_or(0);
        }
        if self.losses.len() == LAST {
            self.losses.remove(0);
        }
        self.losses.push((step, line["loss"].as_f64()));
    }
}

/// A checkpoint, and why it is none where it does not verify.
struct Saved {
    step: u64,
    path: PathBuf,
    wrong: Option<String>,
}

/// Every checkpoint, the newest first, each verified byte by byte.
fn saved(folder: &Path) -> Result<Vec<Saved>> {
    let look = |(step, path): (u64, PathBuf)| match Checkpoint::open(&path) {
        Ok(_) => Ok(Saved { step, path, wrong: None }),
        Err(e) if e.cause() == Cause::Data => {
            Ok(Saved { step, path, wrong: Some(e.to_string().replace('\n', ";")) })
        }
        Err(e) => Err(e),
    };
    checkpoint::saved(folder)?.into_iter().map(look).collect()
}

struct Report<'a> {
    folder: &'a Path,
    config: &'a RunConfig,
    told: &'a Told,
    saved: &'a [Saved],
}

impl Report<'_> {
    /// Updates in all; a length in epochs is told from how far an update goes through the rows.
    fn steps(&self) -> Option<u64> {
        if let Some(updates) = self.config.updates() {
            return Some(updates);
        }
        match self.config.settings.train.length {
            Length::Steps(steps) => Some(steps),
            Length::Epochs(epochs) => {
                let an_update = self.told.epoch? / self.told.done.max(1) as f64;
                Some((epochs / an_update.max(1e-12) - 1e-6).ceil().max(1.0) as u64)
            }
        }
    }

    /// A model folder of the run, where it stands.
    fn model(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|path| path.join("config.json").exists())
    }

    fn finished(&self) -> bool {
        self.model("final").is_some() && self.steps().is_some_and(|steps| self.told.done >= steps)
    }

    fn student(&self) -> String {
        match &self.config.settings.student.model {
            Origin::Folder(name) => name.clone(),
            Origin::Config(file) => format!("random weights in the shape of {}", file.display()),
        }
    }

    /// The update after which the run would go on.
    fn resumes(&self) -> Option<u64> {
        self.saved.iter().find(|s| s.wrong.is_none()).map(|s| s.step)
    }

    fn next(&self) -> String {
        let folder = self.folder.display();
        if self.finished() {
            let model = if self.model("best").is_some() { "best" } else { "final" };
            return format!("retort generate --model {folder}/{model} --prompt TEXT asks it something");
        }
        let where_from =
            self.resumes().map_or("begins it again".into(), |n| format!("goes on after update {n}"));
        format!("retort distill {folder}/config.toml --out {folder} --resume {where_from}")
    }

    fn document(&self) -> Value {
        let saved = |s: &Saved| json!({"step": s.step, "path": s.path, "verifies": s.wrong.is_none(), "why": s.wrong});
        let told = self.told;
        json!({
            "run": self.folder, "policy": self.config.entry.name, "student": self.student(),
            "teacher": self.config.settings.teacher, "done": told.done, "steps": self.steps(),
            "finished": self.finished(), "tokens": told.tokens, "skipped": told.skipped, "epoch": told.epoch,
            "losses": told.losses.iter().map(|(step, loss)| json!({"step": step, "loss": loss})).collect::<Vec<_>>(),
            "evaluation": told.evaluation.as_ref().map(|(step, eval)| json!({"step": step, "eval": eval})),
            "best": told.best.map(|b| json!({"step": b.step, b.name: b.value, "path": self.model("best")})),
            "final": self.model("final"), "checkpoints": self.saved.iter().map(saved).collect::<Vec<_>>(),
            "resumes_after": self.resumes(), "next": self.next(),
            "made": self.config.facts().into_iter().map(|(k, v)| (k, Value::from(v))).collect::<serde_json::Map<_, _>>(),
        })
    }

    fn facts(&self) -> Vec<Vec<String>> {
        let told = self.told;
        let of = self.steps().map_or("an unknown number".into(), |n| n.to_string());
        let state = if self.finished() { ", finished" } else { "" };
        let mut rows = vec![
            ("run", self.folder.display().to_string()),
            ("policy", self.config.entry.name.to_string()),
            ("student", self.student()),
            ("teacher", self.config.settings.teacher.clone().unwrap_or("none".into())),
            ("updates", format!("{} of {of}{state}, {} tokens learnt", told.done, told.tokens)),
        ];
        let facts: Vec<String> = self.config.facts().into_iter().map(|(k, v)| format!("{k} {v}")).collect();
        if !facts.is_empty() {
            rows.push(("made with", facts.join(", ")));
        }
        if told.skipped > 0 {
            rows.push(("skipped", format!("{} updates: numbers were not finite", told.skipped)));
        }
        let loss = |(step, loss): &(u64, Option<f64>)| {
            format!("{} ({step})", loss.map_or("not finite".into(), |x| format!("{x:.4}")))
        };
        if !told.losses.is_empty() {
            rows.push(("last losses", told.losses.iter().map(loss).collect::<Vec<_>>().join(", ")));
        }
        if let Some((step, Value::Object(eval))) = &told.evaluation {
            let values: Vec<String> = eval.iter().map(|(name, value)| format!("{name} {value}")).collect();
            rows.push(("last evaluation", format!("after update {step}: {}", values.join(", "))));
        }
        if let Some(Found { name, value, step }) = told.best {
            let path = self.model("best").map_or("not there".into(), |p| p.display().to_string());
            rows.push(("best", format!("{name} {value:.4} after update {step}: {path}")));
        }
        rows.extend(self.model("final").map(|path| ("final", path.display().to_string())));
        for saved in self.saved {
            let state =
                saved.wrong.as_ref().map_or("verifies".into(), |why| format!("does not verify: {why}"));
            rows.push(("checkpoint", format!("{}: {state}", saved.path.display())));
        }
        rows.push(("next", self.next()));
        rows.into_iter().map(|(what, value)| vec![what.to_string(), value]).collect()
    }
}
