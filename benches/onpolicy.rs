//! Learning from the student's own replies: one update of ours and one of TRL's DistillationTrainer in turn, and
//! where ours spend their time. README.md says what each row is and how to run it.

#![expect(clippy::unwrap_used, reason = "a bench stops where something is wrong")]

#[expect(dead_code, reason = "the other benches use more of it")]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use retort::config::RunConfig;
use retort::train::{self, News, Options, Watch};
use retort::weights::Dtype;
use serde_json::{Value, json};
use support::args::Args;
use support::folders::{Float, Folders, SMOLLM2, SMOLLM2_THIRD};
use support::peer::Peer;
use support::table::{Row, Table, median};
use support::words;
use tch::Device;

/// The first updates fill caches.
const WARM: usize = 1;

/// What is learnt: the same work as the peer's, and MiniLLM whole, which mixes the teacher in.
const POLICIES: [(&str, &str); 2] = [
    ("gkd", "gkd.lambda = 1.0\ngkd.divergence = \"reverse-kl\"\n"),
    ("minillm", "minillm.rollouts = \"batch\"\nminillm.inner_epochs = 1\nminillm.corpus_weight = 0.0\n"),
];

fn main() {
    let args = Args::read();
    let (teacher, student) = (Folders::make(args.quick, SMOLLM2), Folders::make(args.quick, SMOLLM2_THIRD));
    let mut peer = Peer::start("onpolicy_peer.py");
    let what = format!("teacher {}; student {}", teacher.what, student.what);
    let mut table = Table::new("onpolicy", &args, &what, peer.as_ref().map(Peer::versions)).beside("TRL");
    let mut stages = Vec::new();
    // Rows, the tokens of a prompt, and those of a reply.
    let (rows, prompt, new) = if args.quick { (2, 4, 6) } else { (8, 64, 64) };
    for float in Float::ALL {
        let folders = [student.of(float), teacher.of(float)];
        for folder in &folders {
            words::prepare(folder, args.quick, (rows, prompt, prompt));
        }
        for (policy, settings) in POLICIES {
            for threads in args.threads.clone() {
                let name = format!("{policy} {} {rows}x({prompt}+{new}), {threads} threads", float.name());
                if args.wants(&name) {
                    tch::set_num_threads(threads as i32);
                    let run = Run { folders: &folders, float, policy, settings, new, rows, threads };
                    let mut turns = Turns::new(name, &run, &mut peer);
                    run.updates(WARM + args.rounds, &mut turns);
                    stages.push(turns.stages());
                    table.add(Row { name: turns.name, ours: turns.ours, theirs: turns.theirs });
                }
            }
        }
    }
    table.print();
    println!("\n| row | sample | score | train |\n|---|---:|---:|---:|");
    stages.iter().for_each(|row| println!("{row}"));
}

struct Run<'a> {
    folders: &'a [PathBuf; 2],
    float: Float,
    policy: &'a str,
    settings: &'a str,
    new: usize,
    rows: usize,
    threads: usize,
}

impl Run<'_> {
    fn updates(&self, steps: usize, turns: &mut Turns<'_>) {
        let dir = tempfile::tempdir().unwrap();
        let kind = self.float.kind();
        let options = Options { device: Device::Cpu, kind, write: Dtype::F32, resume: false };
        train::run(self.config(steps, dir.path()), &dir.path().join("run"), &options, turns).unwrap();
    }

    fn config(&self, steps: usize, dir: &Path) -> RunConfig {
        let [student, teacher] = self.folders.each_ref().map(|f| f.display().to_string());
        let text = format!(
            "policy = {:?}\nstudent.model = {student:?}\nteacher.model = {teacher:?}\ndata.train = [{:?}]\n\
             data.max_response = {}\ntrain.steps = {steps}\ntrain.batch = {}\ntrain.lr = 1e-5\n\
             train.schedule = \"constant\"\ntrain.save_every = 0\n{}",
            self.policy,
            self.folders[0].join("rows.jsonl").display().to_string(),
            self.new,
            self.rows,
            self.settings
        );
        RunConfig::parse(&text, &dir.join("run.toml"), &[]).unwrap()
    }
}

/// After each update of ours, one of theirs.
struct Turns<'a> {
    name: String,
    seen: usize,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    stages: [Vec<f64>; 3],
    peer: &'a mut Option<Peer>,
    ask: Value,
    out: tempfile::TempDir,
}

const STAGES: [&str; 3] = ["sample", "score", "train"];

impl<'a> Turns<'a> {
    fn new(name: String, run: &Run<'_>, peer: &'a mut Option<Peer>) -> Self {
        let out = tempfile::tempdir().unwrap();
        let ask = json!({
            "do": "update", "student": run.folders[0], "teacher": run.folders[1], "dtype": run.float.torch_name(),
            "rows": run.folders[0].join("rows.jsonl"), "new": run.new, "threads": run.threads, "out": out.path(),
        });
        Turns { name, seen: 0, ours: vec![], theirs: vec![], stages: Default::default(), peer, ask, out }
    }

    fn stages(&self) -> String {
        let part = |seconds: &Vec<f64>| format!("{:.2} s", median(seconds));
        format!("| {} | {} |", self.name, self.stages.each_ref().map(part).join(" | "))
    }
}

impl Watch for Turns<'_> {
    fn update(&mut self, news: News<'_>) {
        self.seen += 1;
        assert!(self.out.path().exists());
        let theirs = self.peer.as_mut().map(|peer| peer.ask(&self.ask)["seconds"].as_f64().unwrap());
        if self.seen <= WARM {
            return;
        }
        let spent = |name: &str| {
            news.stages.iter().filter(|(stage, _)| *stage == name).map(|s| s.1.as_secs_f64()).sum::<f64>()
        };
        for (seconds, name) in self.stages.iter_mut().zip(STAGES) {
            seconds.push(spent(name));
        }
        self.ours.push(news.stages.iter().map(|s| s.1).sum::<Duration>().as_secs_f64());
        self.theirs.extend(theirs);
    }

    fn evaluated(&mut self, _step: u64, _values: &[(&'static str, f64)]) {}

    fn preparing(&mut self, _what: &'static str, _done: usize, _total: usize) {}
}
