//! Decoding: tokens a second, ours and transformers' `generate` in turn. README.md says what each row is
//! and how to run it.

#![expect(clippy::unwrap_used, reason = "a bench stops where something is wrong")]

#[expect(dead_code, reason = "the other benches use more of it")]
mod support;

use std::path::Path;
use std::time::Instant;

use retort::decode::{Sampling, replies};
use retort::model::{CausalLm, LoadOptions};
use retort::weights::Residence;
use serde_json::json;
use support::args::Args;
use support::folders::{Float, Folders, SMOLLM2, TEN_MILLION};
use support::peer::Peer;
use support::table::{Row, Table};
use tch::Device;

const PROMPT: i64 = 32;

fn main() {
    let args = Args::read();
    let small = Folders::make(args.quick, TEN_MILLION);
    let large = Folders::make(args.quick, SMOLLM2);
    let peer = Peer::start("decode_peer.py");
    let what = format!("10M: {}; 135M: {}", small.what, large.what);
    let table = Table::new("decode", &args, &what, peer.as_ref().map(Peer::versions));
    let mut bench = Bench { args, peer, table };
    for (name, folders) in [("10M", &small), ("135M", &large)] {
        for float in Float::ALL {
            let model = load(&folders.of(float), float);
            for threads in bench.args.threads.clone() {
                for rows in [1, 8, 32] {
                    bench.generate(name, &folders.of(float), &model, (float, rows, threads));
                }
            }
        }
    }
    bench.table.print();
}

struct Bench {
    args: Args,
    peer: Option<Peer>,
    table: Table,
}

impl Bench {
    fn generate(
        &mut self,
        shape: &str,
        folder: &Path,
        model: &CausalLm,
        (float, rows, threads): (Float, i64, usize),
    ) {
        let new: i64 = match (self.args.quick, shape, float.name()) {
            (true, ..) => 4,
            (_, "10M", _) => 128,
            // bfloat16 without hardware for it takes the peer seconds a token.
            (_, _, "bf16") if rows > 1 => 12,
            _ => 48,
        };
        let s = if threads == 1 { "" } else { "s" };
        let name = format!("{shape} {} batch {rows}, {new} tokens, {threads} thread{s}", float.name());
        if !self.args.wants(&name) {
            return;
        }
        tch::set_num_threads(threads as i32);
        let place = |n: i64| (n / PROMPT * 7919 + n % PROMPT * 104_729 + 17) % model.shape().vocabulary;
        let ids: Vec<i64> = (0..rows * PROMPT).map(place).collect();
        let mut request = json!({
            "do": "generate", "folder": folder, "dtype": float.torch_name(), "threads": threads,
            "ids": ids, "rows": rows, "new": new, "greedy": true,
        });
        // The first time warms both sides up, and shows that they do the same.
        let greedy = run(model, &ids, rows, new, true);
        if let Some(peer) = &mut self.peer {
            let theirs = peer.ask(&request);
            let theirs: Vec<i64> =
                theirs["ids"].as_array().unwrap().iter().filter_map(|x| x.as_i64()).collect();
            let same = greedy.iter().zip(&theirs).filter(|(a, b)| a == b).count();
            let share = same as f64 / greedy.len() as f64;
            assert_eq!(greedy.len(), theirs.len(), "{name}");
            assert!(
                float.name() != "f32" || share > 0.9,
                "{name}: {share:.2} of the greedy tokens are the same"
            );
            eprintln!("{name}: {:.0}% of the greedy tokens are the same", 100.0 * share);
        }
        request["greedy"] = false.into();
        let mut row = Row { name, ours: Vec::new(), theirs: Vec::new() };
        for _ in 0..self.args.rounds {
            let start = Instant::now();
            let made = run(model, &ids, rows, new, false);
            row.ours.push(start.elapsed().as_secs_f64());
            assert_eq!(made.len() as i64, rows * new);
            row.theirs.extend(self.peer.as_mut().map(|peer| peer.seconds(&request)));
        }
        self.table.add(row);
    }
}

/// `new` tokens for each row; no token ends a reply.
fn run(model: &CausalLm, ids: &[i64], rows: i64, new: i64, greedy: bool) -> Vec<i64> {
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    let prompts: Vec<&[u32]> = ids.chunks(PROMPT as usize).collect();
    let settings = Sampling { greedy, max_new_tokens: new as usize, ..Sampling::default() };
    let made = replies(model, &prompts, &settings, rows as usize).unwrap();
    made.iter().flat_map(|reply| reply.ids.iter().map(|&id| i64::from(id))).collect()
}

fn load(folder: &Path, float: Float) -> CausalLm {
    let options = LoadOptions {
        kind: float.kind(),
        device: Device::Cpu,
        residence: Residence::Mapped,
        check_finite: false,
    };
    CausalLm::load(folder, options).unwrap()
}
