//! One run of the measurement: the program is started as anybody would start it, and says what it took.

use std::path::{Path, PathBuf};
use std::process::Command;

use retort::store::Folder;
use serde_json::Value;

use crate::ROWS;

/// Sequences that go through together.
pub const TOGETHER: usize = 4;

/// A run.
#[derive(Debug, Clone, Copy)]
pub struct Arm {
    /// `sft` or `minillm`.
    pub policy: &'static str,
    /// Processes.
    pub processes: usize,
    /// Threads of each.
    pub threads: usize,
    /// `dist.zero`.
    pub zero: usize,
}

/// What it took.
#[derive(Debug)]
pub struct Measured {
    /// Parameters that learn.
    pub parameters: f64,
    /// Tokens of an update, padding left out.
    pub tokens: f64,
    /// Seconds of an update, the mean of all but the first.
    pub seconds: f64,
    /// Of them in exchanges.
    pub exchanging: f64,
    /// The most that each process held, in bytes.
    pub memory: Vec<u64>,
    /// And what was planned for one.
    pub planned: u64,
    /// Bytes of gradients and weights that went into exchanges in an update.
    pub exchanged: f64,
}

/// Starts runs.
#[derive(Debug)]
pub struct Runner<'r> {
    /// The program.
    pub retort: PathBuf,
    /// The student's folder.
    pub student: &'r str,
    /// The teacher's.
    pub teacher: &'r str,
    /// Rows to learn.
    pub rows: &'r str,
    /// Where runs are put.
    pub out: &'r Path,
    /// Updates of each.
    pub updates: u64,
}

impl Runner<'_> {
    /// Runs it and reads what it says.
    pub fn measure(&self, arm: &Arm) -> Result<Measured, String> {
        let name = format!("{}-{}x{}-zero{}", arm.policy, arm.processes, arm.threads, arm.zero);
        let plan = self.start(arm, &name, &["--dry-run"])?;
        let done = self.start(arm, &name, &[])?;
        let path = self.out.join(&name).join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        // The first update pays for memory that is asked for once.
        let timed = lines.get(1..).filter(|lines| !lines.is_empty()).ok_or("two updates at least")?;
        let mean = |of: &dyn Fn(&Value) -> f64| timed.iter().map(of).sum::<f64>() / timed.len() as f64;
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let exchanged = |line: &Value| {
            ["summed", "scattered", "gathered"].iter().map(|what| number(&line["exchanged"][what])).sum()
        };
        Ok(Measured {
            parameters: number(&plan["params"]),
            tokens: number(&plan["rows"]["tokens"]) / number(&plan["rows"]["rows"]) * ROWS as f64,
            seconds: mean(&|line| number(&line["seconds"]["total"])),
            exchanging: mean(&|line| number(&line["seconds"]["exchange"])),
            memory: done["memory"]
                .as_array()
                .map_or(Vec::new(), |all| all.iter().filter_map(Value::as_u64).collect()),
            planned: plan["memory"].as_u64().unwrap_or(0),
            exchanged: mean(&exchanged),
        })
    }

    fn start(&self, arm: &Arm, name: &str, flags: &[&str]) -> Result<Value, String> {
        let file = format!("{name}.toml");
        let written =
            Folder::create(self.out).and_then(|to| to.write_bytes(&file, self.config(arm).as_bytes()));
        written.map_err(|e| e.to_string())?;
        let config = self.out.join(&file);
        let mut command = Command::new(&self.retort);
        command.arg("distill").arg(&config).arg("--out").arg(self.out.join(name));
        command.args(["--dtype", "f32", "--device", "cpu", "--json", "--quiet"]).args(flags);
        command.args(["--nproc", &arm.processes.to_string(), "--threads", &arm.threads.to_string()]);
        let answer = command.output().map_err(|e| format!("{}: {e}", self.retort.display()))?;
        if !answer.status.success() {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&answer.stderr)));
        }
        serde_json::from_slice(&answer.stdout).map_err(|e| format!("{name}: {e}"))
    }

    fn config(&self, arm: &Arm) -> String {
        let Arm { policy, zero, .. } = arm;
        let (student, teacher, rows) = (self.student, self.teacher, self.rows);
        let mut text = format!(
            "policy = {policy:?}\nstudent.model = {student:?}\ndata.train = [{rows:?}]\ndata.max_prompt = 64\ndata.max_response = 64\n\
             dist.zero = {zero}\n[train]\nsteps = {}\nbatch = {ROWS}\nmicro_batch = {TOGETHER}\nlr = 1e-5\neval_every = 0\nsave_every = 0\n",
            self.updates
        );
        if *policy == "minillm" {
            text += &format!("[teacher]\nmodel = {teacher:?}\n[minillm]\nrollouts = {ROWS}\n");
        }
        text
    }
}
