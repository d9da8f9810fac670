//! `report` as people call it: what it writes, what it refuses, and what a real browser makes of it.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

mod browser;
mod command;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use support::{Answer, MOST_MEMORY, command, finish};

/// No command of these tests takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs it, whatever comes of it.
fn retort(arguments: &[&str]) -> Answer {
    let answer = finish(command(arguments), LIMIT);
    let (peak, seconds) = (answer.peak, answer.time.as_secs_f64());
    assert!(peak < MOST_MEMORY, "{arguments:?} held {peak} bytes and took {seconds:.1} s");
    answer
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Text that would be markup if anybody let it, and that no line can break.
const HOSTILE: &str =
    "</pre><script>alert(1)</script><img src=\"http://x.invalid/a.png\" onerror='alert(2)'>";

/// Run directories as `distill` would leave them.
struct Runs(tempfile::TempDir);

impl Runs {
    /// Three: short, long and of the student's own replies, the last under a name that fits nowhere.
    fn new() -> Runs {
        let runs = Runs(tempfile::tempdir().unwrap());
        runs.add("sft", "sft", 12, 5e-6);
        runs.add("kd", "kd", 5000, 1e-4);
        runs.add(&format!("minillm-{}", "with_a_long_name".repeat(6)), "minillm", 60, 5e-3);
        runs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn all(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.is_dir())
            .collect();
        all.sort();
        all
    }

    fn add(&self, name: &str, policy: &str, updates: u32, lr: f64) {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        let config = format!(
            "policy = {policy:?}\nstudent.model = {:?}\nteacher.model = \"t\"\ndata.train = [\"rows.jsonl\"]\n\
             train.steps = {updates}\ntrain.lr = {lr:?}\n",
            format!("/a/very/long/path{}", "/that/goes/on".repeat(12)),
        );
        std::fs::write(folder.join("config.toml"), config).unwrap();
        let (mut metrics, mut samples) = (String::new(), String::new());
        for n in 1..=updates {
            let wave = f64::from(n * 7919 % 101) / 101.0;
            let mut line = json!({
                "step": n, "loss": 3.0 / f64::from(n).sqrt() + 0.2 * wave, "ce": 2.0 + wave, "lr": lr * wave,
                "grad_norm": 10f64.powf(4.0 * wave - 1.0), "tokens": 1000 + n, "rows": 64, "epoch": f64::from(n) / 10.0,
                "seconds": {"total": 1.5 + wave, "train": 1.0, "data": 0.01},
            });
            if policy == "minillm" {
                for (k, x) in
                    [("reward", -1.0 - wave), ("weight_ess", wave), ("length", 40.0), ("eos_rate", 1e-7)]
                {
                    line[k] = json!(x);
                }
                line["seconds"]["sample"] = json!(0.7);
            }
            metrics += &format!("{line}\n");
            if n % (updates / 4).max(1) == 0 {
                let rouge = 20.0 + 10.0 * wave;
                let eval = json!({"valid_loss": 2.0, "forward_kl": 0.5, "reverse_kl": 12_345.678, "tokens": 5000,
                    "rouge_l": rouge, "rouge_l_low": rouge - 1.0, "rouge_l_high": rouge + 1.5, "prompts": 256});
                metrics += &format!("{}\n", json!({"step": n, "eval": eval, "seconds": {"total": 0.5}}));
                for row in 0..3 {
                    let reply = format!("{name} {HOSTILE} {}", "unbroken".repeat(40));
                    samples += &format!(
                        "{}\n",
                        json!({"step": n, "row": row, "prompt": format!("{row}? {HOSTILE}"), "response": reply,
                            "references": ["gold", HOSTILE], "finish": "eos", "rouge_l": rouge})
                    );
                }
            }
        }
        std::fs::write(folder.join("metrics.jsonl"), metrics).unwrap();
        std::fs::write(folder.join("samples.jsonl"), samples).unwrap();
    }
}
