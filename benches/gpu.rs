//! Sampling on a GPU: tokens a second, and the share of the memory's speed that the steps reach; and what the exchange
//! of an update's gradients costs. README.md
//! says how it is carried to a machine that has one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench stops where something is wrong")]

#[expect(dead_code, reason = "the other benches use more of it")]
mod support;

use std::time::{Duration, Instant};

use retort::decode::{Sampling, replies};
use retort::dist::{Launch, World};
use retort::model::{CausalLm, Padding, read_design};
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
    exchange(&args, device);
    println!("\n| row | tokens a second | ms a step | of the memory's speed |\n|---|---:|---:|---:|");
    for (name, layers, width) in [("124M", 12, 768), ("1.5B", 48, 1600)] {
        let model = model(&args, layers, width, device);
        for rows in [64usize, 256] {
            row(&args, &format!("{name}, batch {rows}"), &model, rows, speed);
        }
    }
}

/// What it costs to send an update's gradients through the exchanges of several processes, in a world of one.
fn exchange(args: &Args, device: Device) {
    let model = model(args, 12, 768, device);
    let sums: Vec<Tensor> = model.params().masters().iter().map(Tensor::zeros_like).collect();
    let (rows, columns) = if args.quick { (2, 8) } else { (8, 256) };
    let ids = Tensor::arange(rows * columns, (Kind::Int64, device)).remainder(60).view([rows, columns]);
    let take = |world: &World| {
        let start = Instant::now();
        let logits = model.logits(&model.hidden(&ids, &Padding::Right).unwrap()).unwrap();
        logits.log_softmax(-1, Kind::Float).select(-1, 3).mean(Kind::Float).backward();
        model.params().collect_grads(&sums).unwrap();
        world.all_reduce(&sums).unwrap();
        settled(device);
        1e3 * start.elapsed().as_secs_f64()
    };
    let meet = || World::meet(&Launch::alone(), Duration::from_secs(60), device).unwrap();
    let (alone, together) = (World::alone(), meet());
    take(&together);
    let rounds: Vec<(f64, f64)> = (0..args.rounds).map(|_| (take(&alone), take(&together))).collect();
    let way = if device.is_cuda() && together.exchanges_on(device) { "NCCL" } else { "Gloo" };
    println!(
        "* {rows} x {columns} tokens forward and back: {:.1} ms alone, {:.1} ms with the gradients through {way}",
        median(&rounds.iter().map(|r| r.0).collect::<Vec<_>>()),
        median(&rounds.iter().map(|r| r.1).collect::<Vec<_>>())
    );
}

fn settled(device: Device) {
    if let Device::Cuda(n) = device {
        cuda::synchronize(n).unwrap()
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
    to.copy_(&from);
    settled(device);
    let start = Instant::now();
    (0..10).for_each(|_| to.copy_(&from));
    settled(device);
    20.0 * n as f64 / start.elapsed().as_secs_f64()
}
