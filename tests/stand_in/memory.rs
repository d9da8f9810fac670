//! What is planned to be held on a GPU, and what libtorch's allocator gives out there at most.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::runs::good;
use crate::support::{command, finish};
use crate::{on_stand_in, preload, shape};

/// A llama of this shape, random weights, and what trains it on rows of 200 tokens.
fn config(dir: &Path, hidden: i64, layers: i64) -> String {
    let shape = shape::llama(&dir.join("student"), hidden, layers);
    let rows = dir.join("rows.jsonl");
    let row = |n: usize| {
        let ids: Vec<usize> = (0..200).map(|t| (n * 31 + t * 7) % 320).collect();
        format!("{}\n", json!({"ids": ids}))
    };
    std::fs::write(&rows, (0..64).map(row).collect::<String>()).unwrap();
    let path = dir.join("run.toml");
    let text = format!(
        "policy = \"sft\"\nstudent.model = {{ config = {shape:?} }}\n\
         data.train = [{rows:?}]\ndata.template = \"plain\"\ntrain.steps = 2\ntrain.batch = 64\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

fn memory(preload: &str, dir: &Path, run: &[&str]) -> f64 {
    let (answer, _) = good(preload, 1, dir, run);
    let last = answer.out.trim().lines().last().unwrap();
    let said: Value = serde_json::from_str(last).unwrap();
    // A plan's, or each process's of a run.
    said["memory"].as_f64().or(said["memory"][0].as_f64()).unwrap()
}

/// The plan of a run, and what libtorch's allocator had given out at most by its end; a second run has the first's model
/// for a teacher. What CUDA holds for itself, and what the allocator keeps for later, come on top.
#[test]
fn the_memory_of_a_gpu_is_predicted_within_a_quarter() {
    let Some(preload) = preload("the_memory_of_a_gpu_is_predicted_within_a_quarter") else { return };
    for (policies, hidden, layers, more) in [
        (&["sft", "kd"][..], 512, 8, &["train.micro_batch=16"][..]),
        (&["sft"], 384, 12, &["train.micro_batch=64"]),
        (&["sft"], 384, 12, &["train.micro_batch=64", "train.recompute=true"]),
    ] {
        for dtype in ["bf16", "f32"] {
            let dir = tempfile::tempdir().unwrap();
            let config = config(dir.path(), hidden, layers);
            let teacher = format!("teacher.model={:?}", dir.path().join("sft/final"));
            for policy in policies {
                let (out, named) = (dir.path().join(policy), format!("policy={policy}"));
                let out = out.to_str().unwrap();
                let mut run =
                    vec!["distill", &config, "--out", out, "--device", "cuda", "--dtype", dtype, "--json"];
                run.extend(["--set", &named]);
                more.iter().for_each(|set| run.extend(["--set", set]));
                if *policy != "sft" {
                    run.extend(["--set", &teacher]);
                }
                let planned = memory(&preload, dir.path(), &[&run[..], &["--dry-run"]].concat());
                let held = memory(&preload, dir.path(), &run);
                let of = format!("{policy} {hidden} x {layers} {dtype} {more:?}");
                let mib = |bytes: f64| bytes as u64 >> 20;
                eprintln!("{of}: planned {} MiB, held {} MiB", mib(planned), mib(held));
                assert!((planned / held - 1.0).abs() < 0.25, "{of}: {}", planned / held);
            }
        }
    }
}

/// A GPU's memory is asked for where there is no tensor on it yet, and a run that does not fit is refused before it begins.
#[test]
fn a_dry_run_knows_the_gpus_memory() {
    let Some(preload) = preload("a_dry_run_knows_the_gpus_memory") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (config(dir.path(), 512, 8), dir.path().join("run"));
    let run = ["distill", &config, "--out", out.to_str().unwrap(), "--device", "cuda", "--json", "--dry-run"];
    let (answer, _) = good(&preload, 1, dir.path(), &run);
    let said: Value = serde_json::from_str(answer.out.trim()).unwrap();
    assert_eq!(said["total_memory"], 80u64 << 30);
    let mut small = on_stand_in(command(&run), &preload, 1, dir.path());
    small.env("STAND_IN_MEMORY", (100u64 << 20).to_string());
    let answer = finish(small, Duration::from_secs(300));
    assert_ne!(answer.code, 0, "{}", answer.out);
    assert!(answer.err.contains("expected at most 100 MiB"), "{}", answer.err);
}
