//! metrics.jsonl, in one pass and in room that does not grow with it: a short curve for every number of every
//! line, the last and the best evaluation, how long each stage took in all.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Distances, lines};
use crate::config::Best;
use crate::error::{Error, Result};
use crate::report::draw::Thinner;

/// Numbers of different names that are kept; what a run writes has some dozens.
const MOST: usize = 256;

/// Stages that are told apart; a run has four.
const STAGES: usize = 16;

/// What a run's numbers are.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Updates so far.
    pub updates: u64,
    /// Those that were skipped.
    pub skipped: u64,
    /// Tokens learnt.
    pub tokens: f64,
    /// Evaluations so far.
    pub evaluations: u64,
    /// The last of them.
    pub last: Option<Evaluation>,
    /// The one that decided, with what it decided by.
    pub best: Option<(Evaluation, &'static str)>,
    /// How far the weights came.
    pub distances: Distances,
    /// Where the time went.
    pub stages: Stages,
    /// Names of numbers that are not kept, there being too many.
    pub left_out: u64,
    curves: Vec<Curve>,
    places: HashMap<String, usize>,
}

/// A number over the updates.
#[derive(Debug)]
pub struct Curve {
    /// Its name: `loss`, `seconds.train`; of an evaluation `eval.rouge_l`.
    pub key: String,
    /// Its points.
    pub points: Thinner,
}

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The update after which it was.
    pub step: u64,
    /// Its numbers, in their order.
    pub values: Vec<(String, f64)>,
}

impl Evaluation {
    /// One of them, if it is a number.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(key, _)| key == name).map(|(_, x)| *x).filter(|x| x.is_finite())
    }
}

/// Seconds by stage.
#[derive(Debug, Default)]
pub struct Stages {
    /// Of all updates: sampling, scoring, reading, training.
    pub parts: Vec<(String, f64)>,
    /// Of all evaluations.
    pub evaluation: f64,
    /// From the first update to the last evaluation, all in.
    pub total: f64,
    /// Evaluations since the last update, which no update's total has in it yet.
    pending: f64,
}

impl Stages {
    /// What is in no stage: checkpoints, the model folders.
    pub fn rest(&self) -> f64 {
        (self.total - self.evaluation - self.parts.iter().map(|(_, x)| x).sum::<f64>()).max(0.0)
    }

    fn update(&mut self, seconds: &Map<String, Value>) {
        for (name, value) in seconds {
            let Some(x) = value.as_f64().filter(|x| *x > 0.0) else { continue };
            if name == "total" {
                // The time since the previous update has the evaluation between them in it.
                self.total += x.max(self.pending) - self.pending;
                self.pending = 0.0;
                continue;
            }
            match self.parts.iter().position(|(part, _)| part == name) {
                Some(at) => self.parts[at].1 += x,
                None if self.parts.len() < STAGES => self.parts.push((name.clone(), x)),
                None => {}
            }
        }
    }

    fn evaluation(&mut self, seconds: &Map<String, Value>) {
        let x = seconds.get("total").and_then(Value::as_f64).filter(|x| *x > 0.0).unwrap_or(0.0);
        self.evaluation += x;
        self.total += x;
        self.pending += x;
    }
}

impl Metrics {
    /// Reads a file; one that is not there has nothing in it yet.
    pub(super) fn read(path: &Path, wanted: Option<Best>) -> Result<Self> {
        let mut metrics = Metrics::default();
        lines::each(path, |line| metrics.add(&line, wanted))?;
        Ok(metrics)
    }

    /// The curves, in the order in which their names came.
    pub fn curves(&self) -> &[Curve] {
        &self.curves
    }

    /// The curve of this name.
    pub fn curve(&self, key: &str) -> Option<&Thinner> {
        self.places.get(key).map(|&n| &self.curves[n].points)
    }

    fn add(&mut self, line: &Map<String, Value>, wanted: Option<Best>) -> Result<()> {
        let step = line.get("step").and_then(Value::as_u64).ok_or_else(|| {
            let found = line.get("step").map_or("nothing".into(), Value::to_string);
            Error::data("not a line of metrics")
                .field("step")
                .expected("the number of an update")
                .found(found)
        })?;
        let seconds = line.get("seconds").and_then(Value::as_object);
        if let Some(eval) = line.get("eval").and_then(Value::as_object) {
            let mut values = Vec::new();
            flatten("", eval, 0, &mut |key, x| values.push((key.to_string(), x)));
            values.truncate(MOST);
            values.iter().for_each(|(key, x)| self.point(step, &format!("eval.{key}"), *x));
            seconds.into_iter().for_each(|s| {
                flatten("eval.seconds.", s, 0, &mut |key, x| self.point(step, key, x));
                self.stages.evaluation(s);
            });
            self.evaluated(Evaluation { step, values }, wanted);
            return Ok(());
        }
        if line.contains_key("distance") {
            self.distances.add(step, line);
            return Ok(());
        }
        flatten("", line, 0, &mut |key, x| {
            if key != "step" {
                self.point(step, key, x);
            }
        });
        if ["variance", "noise_scale"].iter().any(|own| line.contains_key(*own)) {
            return Ok(());
        }
        self.updates = step;
        seconds.into_iter().for_each(|s| self.stages.update(s));
        if line.get("skipped") == Some(&Value::Bool(true)) {
            self.skipped += 1;
        } else {
            self.tokens += line.get("tokens").and_then(Value::as_f64).unwrap_or(0.0);
        }
        Ok(())
    }

    fn point(&mut self, step: u64, key: &str, y: f64) {
        let at = match self.places.get(key) {
            Some(&at) => at,
            None if self.curves.len() == MOST => {
                self.left_out += 1;
                return;
            }
            None => {
                self.places.insert(key.to_string(), self.curves.len());
                self.curves.push(Curve { key: key.to_string(), points: Thinner::default() });
                self.curves.len() - 1
            }
        };
        self.curves[at].points.add(step as f64, y);
    }

    /// The untrained student is measured and does not compete.
    fn evaluated(&mut self, found: Evaluation, wanted: Option<Best>) {
        self.evaluations += 1;
        let by_replies =
            wanted != Some(Best::ValidLoss) && found.values.iter().any(|(key, _)| key == "rouge_l");
        let name = if by_replies { "rouge_l" } else { "valid_loss" };
        if let Some(value) = found.get(name).filter(|_| found.step > 0) {
            let than = self.best.as_ref().filter(|(_, by)| *by == name).and_then(|(e, _)| e.get(name));
            if than.is_none_or(|than| if by_replies { value > than } else { value < than }) {
                self.best = Some((found.clone(), name));
            }
        }
        self.last = Some(found);
    }
}

/// Every number below an object under its full name. Null is a number that was not finite.
fn flatten(prefix: &str, map: &Map<String, Value>, depth: usize, with: &mut dyn FnMut(&str, f64)) {
    for (key, value) in map {
        let name = format!("{prefix}{key}");
        match value {
            Value::Number(x) => with(&name, x.as_f64().unwrap_or(f64::NAN)),
            Value::Null => with(&name, f64::NAN),
            Value::Object(inner) if depth < 4 => flatten(&format!("{name}."), inner, depth + 1, with),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, wanted: Option<Best>) -> Result<Metrics> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Metrics::read(file.path(), wanted)
    }

    const LINES: &str = "\
{\"step\":0,\"eval\":{\"valid_loss\":1.0,\"rouge_l\":9.0},\"seconds\":{\"score\":1.0,\"total\":1.5}}
{\"step\":1,\"loss\":3.0,\"tokens\":10,\"seconds\":{\"total\":4.0,\"sample\":1.0,\"train\":1.0}}
{\"step\":2,\"loss\":null,\"tokens\":10,\"skipped\":true,\"skipped_rows\":[\"a:1\"],\"seconds\":{\"total\":2.0,\"train\":2.0}}
{\"step\":2,\"variance\":{\"exact\":{\"noise\":0.5}}}
{\"step\":2,\"eval\":{\"valid_loss\":2.0,\"rouge_l\":5.0,\"rouge_l_low\":4.0},\"seconds\":{\"total\":0.5}}
{\"step\":3,\"loss\":1.0,\"tokens\":10,\"seconds\":{\"total\":1.0,\"train\":0.25}}
{\"step\":3,\"eval\":{\"valid_loss\":1.5,\"rouge_l\":4.0},\"seconds\":{\"total\":0.5}}
";

    #[test]
    fn every_number_is_kept_and_time_is_counted_once() {
        let metrics = read(LINES, None).unwrap();
        assert_eq!((metrics.updates, metrics.skipped, metrics.tokens), (3, 1, 20.0));
        let loss: Vec<f64> = metrics.curve("loss").unwrap().points().iter().map(|p| p.y).collect();
        assert!(loss[0] == 3.0 && loss[1].is_nan() && loss[2] == 1.0);
        for key in [
            "eval.rouge_l",
            "eval.rouge_l_low",
            "variance.exact.noise",
            "seconds.train",
            "eval.seconds.total",
        ] {
            assert!(metrics.curve(key).is_some(), "{key}");
        }
        let best = |wanted| read(LINES, wanted).unwrap().best.map(|(e, by)| (e.step, by)).unwrap();
        assert_eq!(best(Some(Best::RougeL)), (2, "rouge_l"), "and not the untrained one");
        assert_eq!(best(Some(Best::ValidLoss)), (3, "valid_loss"));
        assert_eq!(metrics.last.unwrap().step, 3);
        let s = metrics.stages;
        // 1.5 before the first update is in its 4, 0.5 in the third's 1; the last 0.5 is in none.
        assert_eq!((s.total, s.evaluation, s.rest()), (7.5, 2.5, 0.75));
        assert_eq!(s.parts, [("sample".to_string(), 1.0), ("train".to_string(), 3.25)]);
    }

    #[test]
    fn bad_lines_are_named_and_half_of_a_last_one_is_not() {
        let whole = LINES.to_string();
        assert_eq!(read(&(whole.clone() + "{\"step\":4,\"lo"), None).unwrap().updates, 3);
        assert_eq!(read(&(whole.clone() + "{\"step\":4,\"loss\":1}"), None).unwrap().updates, 4);
        assert_eq!(read("", None).unwrap().updates, 0);
        for (bad, says) in [
            ("{\"step\":4,\"lo\n", "not JSON"),
            ("[1]\n", "not a JSON object"),
            ("{\"loss\":1}\n", "step: expected the number of an update, found nothing"),
            ("{\"step\":-1}\n", "found -1"),
            ("{\"step\":4,\"loss\":1e999}\n", "not JSON"),
        ] {
            let e = read(&(whole.clone() + bad), None).unwrap_err();
            let text = e.to_string();
            assert!(text.contains(":8") && text.contains(says), "{bad}: {text}");
            assert_eq!(e.cause(), crate::error::Cause::Data);
        }
    }

    /// A file with a name of its own on every line takes no more room than one of 256 names.
    #[test]
    fn names_without_end_are_left_out() {
        let text: String = (0..1000).map(|n| format!("{{\"step\":{n},\"x{n}\":1}}\n")).collect();
        let metrics = read(&text, None).unwrap();
        assert_eq!((metrics.curves().len() as u64, metrics.left_out), (MOST as u64, 1000 - MOST as u64));
    }
}
