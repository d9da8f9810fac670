//! `--dry-run`: what it says, that it writes nothing, and how near the truth it is.

use serde_json::{Value, json};

use crate::support::fixture;
use crate::{Case, learning};

fn plan(case: &Case, settings: &[&str]) -> Value {
    let answer = case.good("run", settings, &["--dry-run"]);
    serde_json::from_str(answer.out.trim()).unwrap()
}

#[test]
fn a_dry_run_checks_counts_and_writes_nothing() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let plan = plan(&case, &["train.epochs=3", "train.batch=4"]);
    assert_eq!(plan["params"], 18_980);
    assert_eq!((plan["rows"]["rows"].as_u64(), plan["steps"].as_u64()), (Some(6), Some(5)));
    assert!(plan["memory"].as_u64().unwrap() > 0 && plan["seconds"].as_f64().unwrap() > 0.0);
    assert!(!case.path("run").exists(), "nothing is written");
    case.good("real", &["train.epochs=3", "train.batch=4"], &[]);
    assert_eq!(case.metrics("real").len(), 5);
    for (settings, code, says) in [
        (&["train.steps=1", "data.train=nothing.jsonl"][..], 2, "no such file"),
        (&["train.steps=1", "policy=kd", "teacher.model=nowhere"], 2, "no such model folder"),
        (
            &["train.steps=1", "policy=kd", "teacher.model=tests/fixtures/score/opt"],
            3,
            "the tokenizers differ",
        ),
        (
            &["train.steps=1", "data.corpus=Cargo.toml", "policy=minima", "data.sequence=4096", "kd.ratio=0"],
            2,
            "sequence",
        ),
    ] {
        let answer = case.run("run", settings, &["--dry-run"]);
        assert_eq!(answer.code, code, "{settings:?}: {}", answer.err);
        assert!(answer.err.contains(says), "{settings:?}: {}", answer.err);
    }
}

/// A shape without weights or tokenizer is planned, and says what is missing.
#[test]
fn a_bare_shape_is_planned() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = learning::student(&case, "student", 64, 2);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::remove_file(case.path("student").join(file)).unwrap();
    }
    let plan = plan(&case, &[student.as_str(), "train.steps=1"]);
    assert_eq!(plan["missing"].as_array().unwrap().len(), 2, "{plan}");
    assert!(plan["params"].as_u64().unwrap() > 50_000 && plan["memory"].is_null());
}

/// The time that was predicted, and what the updates took, to be read: a busy machine makes any bound on it a lie.
#[test]
fn the_time_is_predicted_beside_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    std::fs::write(&rows, learning::chain(1, 8, 120)).unwrap();
    for (hidden, layers) in [(128, 4), (256, 4)] {
        let case = Case::new("sft", &rows);
        let student = learning::student(&case, "student", hidden, layers);
        let settings = [student.as_str(), "train.steps=3", "train.batch=4", "train.save_every=0"];
        let predicted = plan(&case, &settings)["seconds"].as_f64().unwrap();
        case.good("run", &settings, &[]);
        let text = std::fs::read_to_string(case.path("run/metrics.jsonl")).unwrap();
        let train =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["seconds"]["train"].as_f64().unwrap();
        let took: f64 = text.lines().map(train).sum();
        eprintln!("{hidden} x {layers}: predicted {predicted:.2} s, took {took:.2} s");
        assert!(predicted > 0.0 && took > 0.0);
    }
}

/// The memory that was predicted and the most that was held, at two shapes and with blocks computed twice.
#[test]
fn the_memory_is_predicted_within_a_quarter() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    let row = |n: usize| {
        let ids: Vec<String> = (0..200).map(|t| ((n * 31 + t * 7) % 320).to_string()).collect();
        format!("{{\"ids\": [{}]}}\n", ids.join(", "))
    };
    std::fs::write(&rows, (0..16).map(row).collect::<String>()).unwrap();
    for (hidden, layers, more) in [
        (512, 8, &["train.micro_batch=12"][..]),
        (384, 12, &["train.micro_batch=8"]),
        (384, 12, &["train.micro_batch=8", "train.recompute=true"]),
    ] {
        let case = Case::new("sft", &rows);
        let student = learning::student(&case, "student", hidden, layers);
        let settings = [&[student.as_str(), "train.steps=2", "train.batch=16"][..], more].concat();
        let predicted = plan(&case, &settings)["memory"].as_u64().unwrap() as f64;
        let held = case.good("run", &settings, &[]).peak as f64;
        eprintln!(
            "{hidden} x {layers} {more:?}: predicted {} MiB, held {} MiB",
            predicted as u64 >> 20,
            held as u64 >> 20
        );
        assert!(
            (predicted / held - 1.0).abs() < 0.25,
            "{hidden} x {layers}: predicted {predicted}, held {held}"
        );
    }
}

/// A run whose evaluations hold more than its updates: many replies at once, one short row an update.
#[test]
fn the_memory_of_replies_is_predicted_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, prompt: usize| {
        let path = dir.path().join(name);
        let row = |n: usize| {
            format!(
                "{}\n",
                json!({"prompt": format!("{n}: {}", "Say it. ".repeat(prompt)), "response": "It."})
            )
        };
        std::fs::write(&path, (0..32).map(row).collect::<String>()).unwrap();
        path
    };
    let (train, valid) = (file("train.jsonl", 1), file("valid.jsonl", 100));
    let case = Case::new("sft", &train);
    let student = learning::student(&case, "student", 256, 8);
    let valid = format!("data.valid={:?}", valid.display().to_string());
    let settings =
        [student.as_str(), "train.steps=1", "train.batch=1", "data.max_prompt=200", valid.as_str()];
    let settings = [&settings[..], &["data.max_response=16"]].concat();
    let of = |more: &[&str]| plan(&case, &[&settings[..], more].concat())["memory"].as_u64().unwrap() as f64;
    let (predicted, without) = (of(&[]), of(&["eval.prompts=0"]));
    let held = case.good("run", &settings, &[]).peak as f64;
    eprintln!("replies: predicted {} MiB, held {} MiB", predicted as u64 >> 20, held as u64 >> 20);
    assert!(without < 0.9 * predicted, "replies matter here: {without} without them, {predicted}");
    assert!((predicted / held - 1.0).abs() < 0.25, "predicted {predicted}, held {held}");
}

/// The same where adapters learn: the student is held once, and once more while it is written.
#[test]
fn the_memory_of_adapters_is_predicted_within_a_quarter() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    let row = |n: usize| {
        let ids: Vec<String> = (0..200).map(|t| ((n * 31 + t * 7) % 320).to_string()).collect();
        format!("{{\"ids\": [{}]}}\n", ids.join(", "))
    };
    std::fs::write(&rows, (0..8).map(row).collect::<String>()).unwrap();
    let case = Case::new("sft", &rows);
    let shape = learning::student(&case, "shape", 768, 8);
    case.good("base", &[shape.as_str(), "train.steps=1", "train.batch=1"], &[]);
    let model = format!("student.model={:?}", case.text("base/final"));
    let settings =
        [model.as_str(), "train.steps=2", "train.batch=8", "train.micro_batch=4", "student.lora.rank=8"];
    let plan = plan(&case, &settings);
    let numbers = plan["adapter_params"].as_u64().unwrap();
    let held = case.good("run", &settings, &[]);
    let adapters = crate::tensors(&case.path("run/checkpoints/step-2/adapters.safetensors"));
    assert_eq!(adapters.values().map(|t| t.numel() as u64).sum::<u64>(), numbers);
    let (predicted, held) = (plan["memory"].as_u64().unwrap() as f64, held.peak as f64);
    eprintln!("adapters: predicted {} MiB, held {} MiB", predicted as u64 >> 20, held as u64 >> 20);
    assert!((predicted / held - 1.0).abs() < 0.25, "predicted {predicted}, held {held}");
}

/// A run that learns from a mixture's replies: both models decode side by side, and the teacher's states are kept.
#[test]
fn the_memory_of_collections_is_predicted_too() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = dir.path().join("prompts.jsonl");
    let row = |n: usize| format!("{}\n", json!({"prompt": format!("{n}: {}", "Say it. ".repeat(60))}));
    std::fs::write(&prompts, (0..64).map(row).collect::<String>()).unwrap();
    let case = Case::new("minillm", &prompts);
    let teacher = learning::student(&case, "teacher", 384, 6);
    case.good("base", &["policy=sft", &teacher, "train.steps=1", &one_row(&case)], &[]);
    let teacher = format!("teacher.model={:?}", case.text("base/final"));
    let student = learning::student(&case, "student", 256, 2);
    let settings =
        [student.as_str(), teacher.as_str(), "train.steps=1", "train.batch=4", "minillm.rollouts=64"];
    let settings =
        [&settings[..], &["data.max_prompt=200", "data.max_response=16", "train.eval_every=0"]].concat();
    let of = |more: &[&str]| plan(&case, &[&settings[..], more].concat())["memory"].as_u64().unwrap() as f64;
    let (predicted, fewer) = (of(&[]), of(&["minillm.rollouts=4"]));
    let held = case.good("run", &settings, &[]).peak as f64;
    eprintln!("collections: predicted {} MiB, held {} MiB", predicted as u64 >> 20, held as u64 >> 20);
    assert!(fewer < 0.9 * predicted, "collections matter here: {fewer} of {predicted}");
    assert!((predicted / held - 1.0).abs() < 0.25, "predicted {predicted}, held {held}");
}

/// A setting that trains on one short row.
fn one_row(case: &Case) -> String {
    let path = case.path("one.jsonl");
    std::fs::write(&path, format!("{}\n", json!({"prompt": "a", "response": "b"}))).unwrap();
    format!("data.train={:?}", path.display().to_string())
}

/// What each of two processes holds, of all and of its part alone.
#[test]
fn the_memory_of_parts_is_predicted_within_a_quarter() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    std::fs::write(&rows, learning::chain(1, 16, 100)).unwrap();
    let case = Case::new("sft", &rows);
    let student = learning::student(&case, "student", 640, 8);
    let settings = [student.as_str(), "train.steps=2", "train.batch=4", "train.micro_batch=1"];
    let mut held = Vec::new();
    for zero in ["dist.zero=0", "dist.zero=1", "dist.zero=2"] {
        let settings = [&settings[..], &[zero, "dist.bucket=4"]].concat();
        let answer = case.good(zero, &settings, &["--nproc", "2", "--dry-run"]);
        let predicted = serde_json::from_str::<Value>(answer.out.trim()).unwrap()["memory"].as_f64().unwrap();
        let answer = case.good(zero, &settings, &["--nproc", "2"]);
        let done: Value = serde_json::from_str(answer.out.trim()).unwrap();
        let most = done["memory"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).fold(0.0, f64::max);
        eprintln!("{zero}: predicted {} MiB, held {} MiB", predicted as u64 >> 20, most as u64 >> 20);
        assert!((predicted / most - 1.0).abs() < 0.25, "{zero}: predicted {predicted}, held {most}");
        held.push(most);
    }
    // 33 million parameters: half of the moments, and half of the sums, are 130 and 65 MB.
    assert!(held[0] - held[2] > 100e6, "{held:?}");
}
