//! Training: one update of SFT and one of KD, ours and transformers' with PyTorch's AdamW in turn. README.md
//! says what each row is and how to run it.

#![expect(clippy::unwrap_used, reason = "a bench stops where something is wrong")]

#[expect(dead_code, reason = "the other benches use more of it")]
mod support;

use std::path::{Path, PathBuf};

use retort::config::RunConfig;
use retort::train::{self, News, Options, Watch};
use retort::weights::Dtype;
use serde_json::{Value, json};
use support::args::Args;
use support::folders::{Float, Folders, SMOLLM2};
use support::peak;
use support::peer::Peer;
use support::table::{Row, Table};
use support::words;
use tch::Device;

/// The first updates fill caches.
const WARM: usize = 1;

fn main() {
    let args = Args::read();
    let folders = Folders::make(args.quick, SMOLLM2);
    // A peer for each row, so that its peak is that row's.
    let start = || if peak::alone() { None } else { Peer::start("train_peer.py") };
    let mut table = Table::new("train", &args, &folders.what, start().as_ref().map(Peer::versions));
    let mut peaks = Vec::new();
    // Rows and tokens, and how many of these are the prompt.
    let (rows, tokens, prompt) = if args.quick { (2, 12, 4) } else { (4, 256, 64) };
    for float in Float::ALL {
        let work = Work { folder: folders.of(float), float, rows };
        words::prepare(&work.folder, args.quick, (rows, tokens, prompt));
        for policy in ["sft", "kd"] {
            for threads in args.threads.clone() {
                let name = format!("{policy} {} {rows}x{tokens}, {threads} threads", float.name());
                if !args.wants(&name) {
                    continue;
                }
                tch::set_num_threads(threads as i32);
                let mut peer = start();
                let row = work.row(name.clone(), policy, threads, args.rounds, &mut peer);
                if peak::alone() {
                    return peak::tell();
                }
                table.add(row);
                peaks.push(peak::line(&name, peak::ours(&name), peer.as_mut().map(peak::theirs)));
                eprintln!("{}", peaks[peaks.len() - 1]);
            }
        }
    }
    table.print();
    println!("\n| peak memory | retort | transformers | ratio |\n|---|---:|---:|---:|");
    peaks.iter().for_each(|line| println!("{line}"));
}

/// What both sides train on.
struct Work {
    folder: PathBuf,
    float: Float,
    rows: usize,
}

impl Work {
    fn row(&self, name: String, policy: &str, threads: usize, rounds: usize, peer: &mut Option<Peer>) -> Row {
        let mut ask = json!({
            "do": "update", "policy": policy, "folder": self.folder, "threads": threads, "bf16": self.float.name() == "bf16",
            "rows": self.folder.join("rows.jsonl"),
        });
        let mut turns =
            Turns { name, losses: Vec::new(), ours: Vec::new(), theirs: Vec::new(), peer, ask: &mut ask };
        let dir = tempfile::tempdir().unwrap();
        let config = self.config(policy, WARM + rounds, dir.path());
        let options =
            Options { device: Device::Cpu, kind: self.float.kind(), write: Dtype::BF16, resume: false };
        train::run(config, &dir.path().join("run"), &options, &mut turns).unwrap();
        if let Some(peer) = turns.peer {
            peer.ask(&json!({"do": "forget"}));
        }
        Row { name: turns.name, ours: turns.ours, theirs: turns.theirs }
    }

    fn config(&self, policy: &str, steps: usize, dir: &Path) -> RunConfig {
        let text = format!(
            "policy = {policy:?}\nstudent.model = {0:?}\nteacher.model = {0:?}\ndata.train = [{1:?}]\n\
             train.steps = {steps}\ntrain.batch = {2}\ntrain.lr = 1e-5\ntrain.save_every = 0\n",
            self.folder.display().to_string(),
            self.folder.join("rows.jsonl").display().to_string(),
            self.rows
        );
        RunConfig::parse(&text, &dir.join("run.toml"), &[]).unwrap()
    }
}

/// After each update of ours, one of theirs.
struct Turns<'a> {
    name: String,
    losses: Vec<f64>,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    peer: &'a mut Option<Peer>,
    ask: &'a mut Value,
}

impl Watch for Turns<'_> {
    fn update(&mut self, news: News<'_>) {
        self.losses.push(news.loss);
        let warm = self.losses.len() <= WARM;
        let theirs = self.peer.as_mut().map(|peer| peer.ask(self.ask));
        if let Some(answer) = &theirs {
            let (a, b) = (news.loss, answer["loss"].as_f64().unwrap());
            assert!((a - b).abs() < 0.02 * b.abs(), "{}: the sides disagree: losses {a} and {b}", self.name);
        }
        if !warm {
            self.ours.push(news.work.as_secs_f64());
            self.theirs.extend(theirs.map(|answer| answer["seconds"].as_f64().unwrap()));
        }
    }

    fn evaluated(&mut self, _step: u64, _values: &[(&'static str, f64)]) {}

    fn preparing(&mut self, _what: &'static str, _done: usize, _total: usize) {}
}
