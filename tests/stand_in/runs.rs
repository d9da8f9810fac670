//! Whole commands on a GPU: each policy to its end and on from a checkpoint, two processes with a GPU each, and the
//! commands that only look at a model.

use std::path::Path;
use std::time::Duration;

use crate::inside::rows;
use crate::journal::Journal;
use crate::support::{Answer, command, finish, fixture};
use crate::{on_stand_in, preload};

const POLICIES: [&str; 8] = ["sft", "kd", "seqkd", "gkd", "distillm", "onpolicy", "minillm", "minima"];

/// A command on stand-in GPUs, which must succeed: what it said, and what each of its processes asked of them.
pub fn good(preload: &str, devices: usize, dir: &Path, arguments: &[&str]) -> (Answer, Vec<Journal>) {
    let answer = finish(on_stand_in(command(arguments), preload, devices, dir), Duration::from_secs(300));
    assert_eq!(answer.code, 0, "{arguments:?}: {}", answer.err);
    for bad in ["the stand-in GPU has no", "could not be recorded", "processors' memory"] {
        assert!(!answer.err.contains(bad), "{arguments:?}: {}", answer.err);
    }
    let journals = Journal::read(dir);
    journals.iter().for_each(|journal| journal.assert_clean(&arguments.join(" ")));
    (answer, journals)
}

/// The same of one process.
fn alone(preload: &str, dir: &Path, arguments: &[&str]) -> (Answer, Journal) {
    let (answer, mut journals) = good(preload, 1, dir, arguments);
    assert_eq!(journals.len(), 1, "{arguments:?}");
    (answer, journals.remove(0))
}

/// A config for four updates of a small llama.
fn config(dir: &Path, policy: &str) -> String {
    let model = fixture("score/llama");
    let text = dir.join("text.txt");
    std::fs::write(&text, "The cat sat on the mat and looked at the dog.\n\n".repeat(60)).unwrap();
    let (rows, path) = (rows(dir), dir.join(format!("{policy}.toml")));
    let config = format!(
        "policy = \"{policy}\"\nstudent.model = {model:?}\nteacher.model = {model:?}\n\
         data.train = [{rows:?}]\ndata.valid = [{rows:?}]\ndata.corpus = [{text:?}]\ndata.template = \"plain\"\n\
         data.max_response = 20\ndata.sequence = 32\n\
         train.steps = 4\ntrain.batch = 8\ntrain.eval_every = 2\ntrain.save_every = 2\n"
    );
    std::fs::write(&path, config).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn every_policy_ends_and_goes_on_on_a_gpu() {
    let Some(preload) = preload("every_policy_ends_and_goes_on_on_a_gpu") else { return };
    for policy in POLICIES {
        let dir = tempfile::tempdir().unwrap();
        let (config, out) = (config(dir.path(), policy), dir.path().join(policy));
        let run = ["distill", &config, "--out", out.to_str().unwrap(), "--device", "cuda"];
        let (answer, journal) = alone(&preload, dir.path(), &run);
        assert!(answer.out.contains("updates  4 (4 of them now)"), "{policy}: {}", answer.out);
        assert!(journal.count("kernel") > 500 && journal.count("product") > 100, "{policy}");
        assert!(out.join("final/model.safetensors").exists(), "{policy}");
        let on = [&run[..], &["--resume", "--set", "train.steps=6"]].concat();
        let (answer, _) = alone(&preload, dir.path(), &on);
        assert!(answer.out.contains("updates  6 (2 of them now)"), "{policy}: {}", answer.out);
    }
}

#[test]
fn settings_of_memory_end_on_a_gpu() {
    let Some(preload) = preload("settings_of_memory_end_on_a_gpu") else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "kd");
    let products = |name: &str, set: &[&str]| {
        let out = dir.path().join(name);
        let mut run = vec!["distill", &config, "--out", out.to_str().unwrap(), "--device", "cuda:0"];
        set.iter().for_each(|set| run.extend(["--set", set]));
        alone(&preload, dir.path(), &run).1.count("product")
    };
    let micro = "train.micro_batch=2";
    let plain = products("plain", &[micro]);
    assert!(plain > 100, "{plain}");
    let again = products("again", &[micro, "train.recompute=true"]);
    assert!(again > plain, "{again} products where blocks are computed again, {plain} else");
    let adapted = products("adapted", &[micro, "student.lora.rank=4"]);
    assert!(adapted > plain, "{adapted} with adapters, {plain} without");
    let epochs = "train.steps=24";
    let asked = products("asked", &[micro, epochs]);
    let kept = products("kept", &[micro, epochs, "teacher.cache=\"states\""]);
    assert!(kept < asked, "{kept} in four epochs where the teacher is asked once, {asked} else");
    products("noise", &[micro, "train.measure_noise=1"]);
    products("distance", &[micro, "train.measure_distance=true"]);
    for (run, measured) in [("noise", "noise"), ("distance", "distance")] {
        let metrics = std::fs::read_to_string(dir.path().join(run).join("metrics.jsonl")).unwrap();
        assert!(metrics.contains(measured), "{run}: {metrics}");
    }
}

/// Ranks do not meet on the stand-in, but both ask for the same exchanges in the same order, each on a GPU of its own.
#[test]
fn two_processes_ask_for_the_same_exchanges_over_nccl() {
    let Some(preload) = preload("two_processes_ask_for_the_same_exchanges_over_nccl") else { return };
    for (policy, set, exchanged) in [
        ("kd", &["dist.zero=0"][..], &["all-reduce"][..]),
        ("kd", &["dist.zero=1"], &["reduce-scatter", "all-gather"]),
        ("kd", &["dist.zero=2"], &["reduce-scatter", "all-gather"]),
        (
            "minillm",
            &["dist.zero=2", "dist.shard_teacher=true"],
            &["reduce-scatter", "all-gather", "broadcast"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (config, out) = (config(dir.path(), policy), dir.path().join("run"));
        let out = out.to_str().unwrap();
        let mut run = vec!["distill", &config, "--out", out, "--device", "cuda", "--nproc", "2"];
        set.iter().for_each(|set| run.extend(["--set", set]));
        let (_, journals) = good(&preload, 2, dir.path(), &run);
        let [one, two] = &journals[..] else { panic!("{} processes", journals.len()) };
        assert_eq!(one.exchanged(), two.exchanged(), "{policy} {set:?}");
        let device = |journal: &Journal| journal.0.iter().find(|l| l.what == "kernel").unwrap().device;
        assert_ne!(device(one), device(two), "{policy} {set:?}");
        for what in exchanged {
            assert!(one.count(what) >= 4, "{policy} {set:?}: {} of {what}", one.count(what));
        }
    }
}

#[test]
fn models_are_looked_at_on_a_gpu() {
    let Some(preload) = preload("models_are_looked_at_on_a_gpu") else { return };
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(dir.path());
    for model in ["llama", "gpt2", "opt"] {
        let folder = fixture("score").join(model);
        let (model, rows) = (folder.to_str().unwrap(), rows.to_str().unwrap());
        for run in [
            &["score", "--model", model, "--input", rows, "--template", "plain"][..],
            &["gap", "--student", model, "--teacher", model, "--input", rows, "--template", "plain"],
            &["generate", "--model", model, "--prompt", "the cat", "--max-new-tokens", "20"],
        ] {
            let (_, journal) = alone(&preload, dir.path(), &[run, &["--device", "cuda"]].concat());
            assert!(journal.count("product") > 10, "{run:?}");
        }
    }
}
