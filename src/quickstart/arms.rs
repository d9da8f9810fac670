//! The runs that are compared: what each is, and how they are trained, a few at a time.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use super::{Hears, Settings};
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::train::{self, Finished, News, Options, Watch};
use crate::weights::Dtype;

/// A run: its config, and what of the folder it learns from.
#[derive(Debug, Clone)]
pub struct Arm {
    /// As it is called in tables, and its folder in `runs`.
    pub name: Cow<'static, str>,
    file: &'static str,
    text: &'static str,
    student: &'static str,
    rows: &'static str,
    set: Vec<String>,
}

macro_rules! arm {
    ($name:literal, $student:literal, $rows:literal) => {
        Arm {
            name: Cow::Borrowed($name),
            file: concat!("configs/quickstart/", $name, ".toml"),
            text: include_str!(concat!("../../configs/quickstart/", $name, ".toml")),
            student: $student,
            rows: $rows,
            set: Vec::new(),
        }
    };
}

/// What all others start from.
pub const START: Arm = arm!("start", "models/base", "train.jsonl");

/// Those that are compared; the one that takes longest comes first.
pub const ARMS: [Arm; 4] = [
    arm!("minillm", "runs/start/best", "prompts.jsonl"),
    arm!("seqkd", "runs/start/best", "prompts.jsonl"),
    arm!("kd", "runs/start/best", "train.jsonl"),
    arm!("sft", "runs/start/best", "train.jsonl"),
];

impl Arm {
    /// The same under another name, with these settings laid over its config.
    pub fn varied(&self, name: String, set: impl IntoIterator<Item = String>) -> Self {
        let set = self.set.iter().cloned().chain(set).collect();
        Arm { name: name.into(), set, ..self.clone() }
    }

    /// Whether it does what the start did, longer.
    pub(super) fn goes_on_with_start(&self) -> bool {
        self.file.ends_with("/sft.toml")
    }

    /// Its config, with the paths of this folder.
    fn config(&self, settings: &Settings) -> Result<RunConfig> {
        let quoted = |name: &str| Value::from(settings.out.join(name).display().to_string()).to_string();
        let mut set = vec![
            format!("seed={}", settings.seed),
            format!("student.model={}", quoted(self.student)),
            format!("data.train=[{}]", quoted(&format!("data/{}", self.rows))),
            format!("data.valid=[{}]", quoted("data/valid.jsonl")),
        ];
        if self.text.contains("[teacher]") {
            set.push(format!("teacher.model={}", quoted("models/teacher")));
        }
        set.extend(self.set.iter().chain(&settings.set).cloned());
        RunConfig::parse(self.text, Path::new(self.file), &set)
    }

    pub(super) fn train(&self, settings: &Settings, run: &Path, hears: &dyn Hears) -> Result<Finished> {
        let (device, kind) = (settings.device, settings.kind);
        let options = Options { device, kind, write: Dtype::F32, resume: true };
        let mut watch = Named { name: &self.name, hears };
        train::run(self.config(settings)?, run, &options, &mut watch)
    }
}

/// Does the work of each item, so many at a time; the first error is the answer, and nothing new is begun
/// behind it.
pub fn for_each<T: Sync, R: Send>(
    items: &[T],
    at_once: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = Mutex::new(0);
    let done: Vec<Mutex<Option<Result<R>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let take = || {
        let mut next = next.lock().ok()?;
        let n = *next;
        *next += 1;
        (n < items.len()).then_some(n)
    };
    let worker = || {
        while let Some(n) = take() {
            let result = work(&items[n]);
            let failed = result.is_err();
            if let Ok(mut place) = done[n].lock() {
                *place = Some(result);
            }
            if failed {
                while take().is_some() {}
            }
        }
    };
    thread::scope(|scope| (0..at_once.max(1)).for_each(|_| drop(scope.spawn(worker))));
    let mut results = Vec::with_capacity(items.len());
    let mut begun: Vec<Result<R>> =
        done.into_iter().filter_map(|place| place.into_inner().ok().flatten()).collect();
    if let Some(bad) = begun.iter().position(Result::is_err) {
        return begun.swap_remove(bad).map(|_| results);
    }
    for result in begun {
        results.push(result?);
    }
    match results.len() == items.len() {
        true => Ok(results),
        false => Err(Error::bug("a piece of work came to no end")),
    }
}

/// Passes on what a run says, with its name.
struct Named<'a> {
    name: &'a str,
    hears: &'a dyn Hears,
}

impl Watch for Named<'_> {
    fn update(&mut self, news: News<'_>) {
        self.hears.progress(self.name, news.step, news.steps);
    }

    fn evaluated(&mut self, step: u64, values: &[(&'static str, f64)]) {
        if let Some((_, value)) = values.iter().find(|(name, _)| *name == "rouge_l") {
            self.hears.evaluated(self.name, step, *value);
        }
    }

    fn preparing(&mut self, what: &'static str, done: usize, total: usize) {
        self.hears.preparing(self.name, what, done, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_comes_back_in_order_and_stops_at_the_first_error() {
        let items: Vec<usize> = (0..20).collect();
        assert_eq!(
            for_each(&items, 3, |n| Ok(n * n)).unwrap(),
            items.iter().map(|n| n * n).collect::<Vec<_>>()
        );
        let begun = Mutex::new(0);
        let failed = for_each(&items, 1, |n| {
            *begun.lock().unwrap() += 1;
            if *n == 4 { Err(Error::data("the fifth")) } else { Ok(()) }
        });
        assert!(failed.unwrap_err().to_string().contains("the fifth"));
        assert_eq!(*begun.lock().unwrap(), 5);
    }
}
