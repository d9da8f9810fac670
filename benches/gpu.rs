//! Sampling on a GPU: tokens a second, and the share of the memory's speed that the steps reach. README.md
//! says how it is carried to a machine that has one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench stops where something is wrong")]

#[expect(dead_code, reason = "the other benches use more of it")]
mod support;

use std::time::Instant;

use retort::decode::{Sampling, replies};
use retort::model::{CausalLm, read_design};
use retort::native::cuda;
use retort::weights::Params;
use serde_json::json;
use support::args::Args;
use support::table::{Table, median};
use tch::{Device, Kind, Tensor};

const PROMPT: usize = 64;

fn main() {
    let args = Args::read();
    let device = match cuda::load() {
        Ok(()) if tch::Cuda::device_count() > 0 => Device::Cuda(0),
        other if args.quick => {
            eprintln!(
                "SKIPPED: no GPU ({}): tiny models on the CPU instead",
                other.err().unwrap_or_default()
            );
            Device::Cpu
        }
        other => panic!("no GPU to measure: {}", other.err().unwrap_or_default()),
    };
    let table = Table::new("gpu", &args, "gpt2 in bfloat16, 124M (12 x 768) and 1.5B (48 x 1600)", None);
    println!("{}", table.head());
    let speed = copy_speed(&args, device);
    println!("* memory: {:.0} GB/s read and written by a copy", speed / 1e9);
    println!("\n| row | tokens a second | ms a step | of the memory's speed |\n|---|---:|---:|---:|");
    for (name, layers, width) in [("124M", 12, 768), ("1.5B", 48, 1600)] {
        let model = model(&args, layers, width, device);
        for rows in [64usize, 256] {
            row(&args, &format!("{name}, batch {rows}"), &model, rows, speed);
        }
    }
}

fn row(args: &Args, name: &str, model: &CausalLm, rows: usize, speed: f64) {
    let (rows, new) = if args.quick { (3, 12) } else { (rows, 128) };
    let prompts: Vec<Vec<u32>> =
        (0..rows).map(|r| (0..PROMPT).map(|i| ((i * 31 + r) % 60) as u32).collect()).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let take = |new: usize| {
        let settings = Sampling { max_new_tokens: new, ..Sampling::default() };
        let start = Instant::now();
        let made = replies(model, &prompts, &settings, rows).unwrap();
        assert!(made.iter().all(|reply| reply.ids.len() == new));
        start.elapsed().as_secs_f64()
    };
    take(new);
    let rounds: Vec<(f64, f64)> = (0..args.rounds).map(|_| (take(new), take(1))).collect();
    let whole: Vec<f64> = rounds.iter().map(|r| r.0).collect();
    // Without the prompts, and the first step with them.
    let step: Vec<f64> = rounds.iter().map(|r| (r.0 - r.1) / (new - 1) as f64).collect();
    let shape = model.shape();
    let weights: f64 = model.params().compute().iter().map(|t| t.numel() as f64 * 2.0).sum();
    let keys = (rows * (PROMPT + new / 2)) as f64;
    let cache = keys * (shape.layers * shape.kv_heads * shape.head_dim) as f64 * 2.0 * 2.0;
    println!(
        "| {name} | {:.0} | {:.2} | {:.0}% |",
        (rows * new) as f64 / median(&whole),
        1e3 * median(&step),
        100.0 * (weights + cache) / median(&step) / speed
    );
}

fn model(args: &Args, layers: i64, width: i64, device: Device) -> CausalLm {
    let (layers, width, vocabulary) = if args.quick { (2, 64, 96) } else { (layers, width, 50_257) };
    let config = json!({
        "model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": (width / 64).max(1),
        "n_positions": 1024, "vocab_size": vocabulary, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new", "bos_token_id": 0, "eos_token_id": 0,
    });
    let dir = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a bench makes its own files")]
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let design = read_design(dir.path()).unwrap();
    // Any numbers do: what a step costs does not depend on them.
    let tensors = design.specs().into_iter().map(|spec| {
        let n: i64 = spec.shape.iter().product();
        let numbers = Tensor::arange(n, (Kind::Float, device)).sin() * 0.02;
        (spec.name.clone(), numbers.view(spec.shape.as_slice()))
    });
    let params = Params::trained(tensors.collect(), Kind::BFloat16).unwrap();
    CausalLm::new(design, params, Kind::BFloat16, device).unwrap()
}

/// Bytes a second that a copy reads and writes.
fn copy_speed(args: &Args, device: Device) -> f64 {
    let n = if args.quick { 1 << 20 } else { 1 << 31 };
    let from = Tensor::zeros([n], (Kind::Uint8, device));
    let mut to = from.zeros_like();
    let wait = || {
        if let Device::Cuda(n) = device {
            cuda::synchronize(n).unwrap()
        }
    };
    to.copy_(&from);
    wait();
    let start = Instant::now();
    (0..10).for_each(|_| to.copy_(&from));
    wait();
    20.0 * n as f64 / start.elapsed().as_secs_f64()
}
