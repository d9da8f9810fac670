//! Training held to torch: the optimizer's steps and whole updates against golden numbers; what a run
//! writes; runs that are stopped, killed and resumed.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

mod caches;
mod configs;
mod crash;
mod data;
mod devices;
mod dry;
mod evaluations;
mod exchanges;
mod golden;
mod kills;
mod learning;
mod lora;
mod minillm;
mod optimizer;
mod papers;
mod processes;
mod regime;
mod runs;
#[path = "../support/shape.rs"]
mod shape;
mod shares;
#[path = "../support/mod.rs"]
mod support;
mod talks;
mod torchrun;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use retort::native::tensor_over;
use retort::weights::safetensors::MappedFile;
use serde_json::Value;
use support::{Answer, MOST_MEMORY, command, finish, fixture};
use tch::Tensor;

/// No run of these tests takes longer.
const LIMIT: Duration = Duration::from_secs(300);

/// The float tensors of a safetensors file.
fn tensors(path: &Path) -> HashMap<String, Tensor> {
    let file = MappedFile::open(path).unwrap();
    let of = |t: &retort::weights::safetensors::Stored| {
        let kind = t.kind.clone().unwrap();
        (t.name.clone(), tensor_over(file.owner(), t.range(), &t.shape, kind).unwrap().copy())
    };
    file.tensors().iter().map(of).collect()
}

/// A folder with a config in it, and the run directory beside it.
struct Case {
    dir: tempfile::TempDir,
    /// What it computes in.
    dtype: &'static str,
}

impl Case {
    /// A config that trains the small llama of the score goldens; `more` goes before the tables, so that dotted
    /// keys set what the tables leave open.
    fn new(policy: &str, rows: &Path) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let student = fixture("score/llama");
        let text = format!(
            "policy = \"{policy}\"\nstudent.model = {:?}\ndata.train = [{:?}]\ndata.template = \"plain\"\n",
            student.display().to_string(),
            rows.display().to_string()
        );
        std::fs::write(dir.path().join("run.toml"), text).unwrap();
        Case { dir, dtype: "f32" }
    }

    /// The same computed in another type.
    fn computes_in(self, dtype: &'static str) -> Case {
        Case { dtype, ..self }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// The arguments of a run in `out` with these settings.
    fn arguments(&self, out: &str, settings: &[&str], flags: &[&str]) -> Vec<String> {
        let mut all = vec!["distill".into(), self.text("run.toml"), "--out".into(), self.text(out)];
        all.extend(["--dtype", self.dtype, "--device", "cpu", "--json"].map(String::from));
        for setting in settings {
            all.extend(["--set".to_string(), setting.to_string()]);
        }
        all.extend(flags.iter().map(|f| f.to_string()));
        all
    }

    /// Runs it, whatever comes of it.
    fn run(&self, out: &str, settings: &[&str], flags: &[&str]) -> Answer {
        let answer = finish(command(&self.arguments(out, settings, flags)), LIMIT);
        assert!(answer.peak < MOST_MEMORY, "{settings:?} held {} bytes", answer.peak);
        answer
    }

    /// Runs it where it must succeed.
    fn good(&self, out: &str, settings: &[&str], flags: &[&str]) -> Answer {
        let answer = self.run(out, settings, flags);
        assert_eq!(answer.code, 0, "{settings:?}: {}", answer.err);
        answer
    }

    /// The lines of a run's metrics, without what differs from run to run: times.
    fn metrics(&self, out: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "half a line");
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            for times in ["seconds", "tokens_per_second", "exchanged"] {
                value.as_object_mut().unwrap().remove(times);
            }
            value
        };
        text.lines().map(line).collect()
    }

    /// A file's bytes.
    fn bytes(&self, out: &str, name: &str) -> Vec<u8> {
        std::fs::read(self.path(out).join(name)).unwrap()
    }
}

/// The losses of all updates.
fn losses(metrics: &[Value]) -> Vec<f64> {
    metrics.iter().filter_map(|m| m["loss"].as_f64()).collect()
}

/// An environment variable.
fn text_of(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
