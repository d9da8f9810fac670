//! What everything else stands on: loading a model, and one forward pass; ours and transformers' in
//! turn. README.md says what each row is and how to run it.

#![expect(clippy::unwrap_used, reason = "a bench stops where something is wrong")]

#[expect(dead_code, reason = "the other benches use more of it")]
mod support;

use std::path::Path;
use std::time::Instant;

use rayon::ThreadPoolBuilder;
use retort::model::{CausalLm, LoadOptions, Padding, read_design};
use retort::weights::{Residence, WeightFiles};
use serde_json::{Value, json};
use support::agree::Agreement;
use support::args::Args;
use support::folders::{self, Float, Folders};
use support::peer::Peer;
use support::table::{Row, Table};
use tch::{Device, Tensor};

fn main() {
    let args = Args::read();
    let folders = Folders::make(args.quick, folders::SMOLLM2);
    let peer = Peer::start("ground_peer.py");
    let table = Table::new("ground", &args, &folders.what, peer.as_ref().map(Peer::versions));
    let mut bench = Bench { args, peer, table };
    for float in Float::ALL {
        bench.load(&folders.of(float), float);
    }
    for float in Float::ALL {
        bench.forward(&folders.of(float), float);
    }
    bench.table.print();
}

struct Bench {
    args: Args,
    peer: Option<Peer>,
    table: Table,
}

/// One forward pass to be measured.
#[derive(Debug, Clone, Copy)]
struct Pass {
    float: Float,
    rows: i64,
    tokens: i64,
    /// Logits of every position, or of the last one of each row.
    all: bool,
    threads: usize,
}

impl Bench {
    /// Times a row: ours, theirs, ours, theirs.
    fn row<T>(&mut self, name: String, mut ours: impl FnMut() -> T, theirs: Option<&Value>) {
        let mut row = Row { name, ours: Vec::new(), theirs: Vec::new() };
        for _ in 0..self.args.rounds {
            let start = Instant::now();
            let made = ours();
            row.ours.push(start.elapsed().as_secs_f64());
            drop(made);
            row.theirs.extend(theirs.and_then(|t| Some(self.peer.as_mut()?.seconds(t))));
        }
        self.table.add(row);
    }

    fn load(&mut self, folder: &Path, float: Float) {
        let threads = self.args.threads.last().copied().unwrap_or(1);
        tch::set_num_threads(threads as i32);
        let request =
            json!({"do": "load", "folder": folder, "dtype": float.torch_name(), "threads": threads});
        let name = format!("load {}", float.name());
        if self.args.wants(&name) {
            // The first load of each side reads code from the disk.
            drop(load(folder, float));
            self.peer.as_mut().map(|p| p.seconds(&request));
            self.row(name, || load(folder, float), Some(&request));
        }
        let design = read_design(folder).unwrap();
        let files = WeightFiles::open(folder).unwrap();
        let plan = files.plan(&design.naming(), design.specs(), design.shape().tied).unwrap();
        for threads in self.args.threads.clone() {
            let name = format!("scan {}, {}", float.name(), plural(threads, "thread"));
            if self.args.wants(&name) {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                self.row(name, || pool.install(|| plan.check_finite()).unwrap(), None);
            }
        }
    }

    fn forward(&mut self, folder: &Path, float: Float) {
        let model = load(folder, float);
        for (rows, tokens) in self.args.shapes.clone() {
            for all in [false, true] {
                for threads in self.args.threads.clone() {
                    self.pass(folder, &model, Pass { float, rows, tokens, all, threads });
                }
            }
        }
    }

    fn pass(&mut self, folder: &Path, model: &CausalLm, pass: Pass) {
        let Pass { float, rows, tokens, all, threads } = pass;
        let name = format!(
            "forward {} {rows}x{tokens}, logits of {}, {}",
            float.name(),
            if all { "all" } else { "the last" },
            plural(threads, "thread"),
        );
        if !self.args.wants(&name) {
            return;
        }
        tch::set_num_threads(threads as i32);
        let ids = ids(rows, tokens, model.shape().vocabulary);
        let ids_bt = Tensor::from_slice(&ids).view([rows, tokens]);
        let mut request = json!({
            "do": "forward", "folder": folder, "dtype": float.torch_name(), "threads": threads,
            "ids": ids, "rows": rows, "all": all, "compare": true,
        });
        // The first pass of each side warms up, and shows that both do the same.
        let logits = forward(model, &ids_bt, all);
        if let Some(peer) = &mut self.peer {
            let agreement = Agreement::of(&logits, &peer.ask(&request));
            agreement.demand(&name, float);
            self.table.agrees(agreement);
        }
        drop(logits);
        request["compare"] = Value::Bool(false);
        self.row(name, || forward(model, &ids_bt, all), Some(&request));
    }
}

/// Open, check every name and shape, make the tensors over the map.
fn load(folder: &Path, float: Float) -> CausalLm {
    let kind = float.kind();
    let residence = Residence::Mapped;
    CausalLm::load(folder, LoadOptions { kind, device: Device::Cpu, residence, check_finite: false }).unwrap()
}

fn forward(model: &CausalLm, ids_bt: &Tensor, all: bool) -> Tensor {
    let _off = tch::no_grad_guard();
    let hidden_btd = model.hidden(ids_bt, &Padding::Right).unwrap();
    let wanted = if all { hidden_btd } else { hidden_btd.narrow(1, ids_bt.size()[1] - 1, 1) };
    model.logits(&wanted).unwrap()
}

/// Tokens that differ from row to row and from place to place.
fn ids(rows: i64, tokens: i64, vocabulary: i64) -> Vec<i64> {
    let place = |n: i64| (n / tokens * 7919 + n % tokens * 104_729 + 17) % vocabulary;
    (0..rows * tokens).map(place).collect()
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
