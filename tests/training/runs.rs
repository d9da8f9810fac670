//! A run directory and the ways into it.

use std::collections::HashMap;

use retort::data::TokenFile;
use serde_json::Value;

use crate::Case;
use crate::golden::folder_with_tokenizer;
use crate::support::fixture;

type Weights = HashMap<String, tch::Tensor>;

fn small() -> Case {
    Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"))
}

const SHORT: [&str; 3] = ["train.steps=3", "train.batch=2", "train.lr=1e-2"];

#[test]
fn a_run_leaves_what_it_says() {
    let case = small();
    let valid = format!("data.valid=[{:?}]", fixture("score/llama/rows_prompt.jsonl").display().to_string());
    let answer = case.good("run", &[&SHORT[..], &[valid.as_str(), "train.eval_every=2"]].concat(), &[]);
    let document: Value = serde_json::from_str(answer.out.trim()).unwrap();
    assert_eq!((document["steps"].as_u64(), document["done"].as_u64()), (Some(3), Some(3)));
    let steps: Vec<(u64, bool)> =
        case.metrics("run").iter().map(|m| (m["step"].as_u64().unwrap(), m.get("eval").is_some())).collect();
    // Before the first, as asked, and at the end.
    assert_eq!(steps, [(0, true), (1, false), (2, false), (2, true), (3, false), (3, true)]);
    let text = std::fs::read_to_string(case.path("run/metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    for key in ["loss", "ce", "lr", "grad_norm", "tokens", "epoch"] {
        assert!(first[key].is_number(), "{key}: {first}");
    }
    assert!(first["seconds"]["total"].as_f64().unwrap() > 0.0);
    let config = std::fs::read_to_string(case.path("run/config.toml")).unwrap();
    for key in ["version = ", "device = \"cpu\"", "threads = ", "min_lr = 0.0", "betas = [0.9, 0.95]"] {
        assert!(config.contains(key), "{key}: {config}");
    }
    for name in ["final", "best", "checkpoints/step-3"] {
        assert!(case.path("run").join(name).join("model.safetensors").exists(), "{name}");
        assert!(case.path("run").join(name).join("tokenizer.json").exists(), "{name}");
    }
    let same = case.bytes("run", "final/model.safetensors");
    assert!(same == case.bytes("run", "checkpoints/step-3/model.safetensors"), "f32 writes the masters");
}

#[test]
fn a_run_that_is_there_is_refused_or_goes_on() {
    let case = small();
    case.good("run", &SHORT, &[]);
    let again = case.run("run", &SHORT, &[]);
    assert_eq!(again.code, 2);
    assert!(again.err.contains("the folder holds a run") && again.err.contains("--resume"), "{}", again.err);
    // A finished run exits well and changes nothing.
    let before = case.bytes("run", "metrics.jsonl");
    case.good("run", &SHORT, &["--resume"]);
    assert_eq!(before, case.bytes("run", "metrics.jsonl"));
    // Another setting is another run; a longer one is not.
    let other = case.run("run", &["train.steps=3", "train.batch=2", "train.lr=1e-3"], &["--resume"]);
    assert_eq!(other.code, 2);
    assert!(other.err.contains("train.lr"), "{}", other.err);
    let longer = ["train.steps=5", "train.batch=2", "train.lr=1e-2"];
    case.good("run", &longer, &["--resume"]);
    assert_eq!(case.metrics("run").len(), 5);
    // With no checkpoint, or no folder, it begins.
    case.good("new", &SHORT, &["--resume"]);
    assert_eq!(case.metrics("new").len(), 3);
}

#[test]
fn one_process_a_run_directory() {
    let case = small();
    let folder = retort::store::Folder::create(case.path("run")).unwrap();
    let _held = folder.lock().unwrap();
    let answer = case.run("run", &SHORT, &[]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("in use by another process"), "{}", answer.err);
}

#[test]
fn mistakes_are_the_users_and_leave_nothing() {
    let case = small();
    for (settings, says) in [
        (vec!["policy=minillm", "teacher.model=x", "sampling.top_p=0.9"], "sampling.top_p"),
        (vec!["policy=onpolicy", "teacher.model=x", "sampling.temperature=0.7"], "sampling.temperature"),
        (vec!["policy=kd"], "teacher.model"),
        (vec!["policy=kd", "teacher.model=nowhere/at/all"], "no such model folder"),
        (vec!["student.model=nowhere"], "no such model folder"),
        (vec!["data.train=nothing.jsonl"], "no such file: nothing.jsonl"),
        (vec!["data.template=chatml"], "no such template"),
        (vec!["train.lrr=3"], "did you mean train.lr?"),
    ] {
        let answer = case.run("run", &[&SHORT[..], &settings].concat(), &[]);
        assert_eq!(answer.code, 2, "{settings:?}: {}", answer.err);
        assert!(answer.err.contains(says), "{settings:?}: {}", answer.err);
        assert!(!case.path("run/metrics.jsonl").exists() && !case.path("run/config.toml").exists());
    }
    let answer = case.run("run", &SHORT, &["--dtype", "f16"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
}

/// The ways rows come: replies that the teacher samples once, and packed text.
#[test]
fn seqkd_and_minima_run() {
    let case = small();
    let teacher = case.path("teacher");
    folder_with_tokenizer("updates/teacher", &teacher);
    let teacher = format!("teacher.model={:?}", teacher.display().to_string());
    let text = case.path("text.txt");
    std::fs::write(&text, "A retort is a vessel.\n\nIt has a long neck,\nbent down.\n\nNothing more.\n")
        .unwrap();
    let corpus = format!("data.corpus=[{:?}]", text.display().to_string());
    let seqkd = ["policy=seqkd", teacher.as_str(), "data.max_response=8"];
    case.good("seqkd", &[&SHORT[..], &seqkd].concat(), &[]);
    let cached = case.bytes("seqkd", "cache/replies.tokens");
    case.good(
        "seqkd",
        &[&["train.steps=4", "train.batch=2", "train.lr=1e-2"], &seqkd[..]].concat(),
        &["--resume"],
    );
    assert!(cached == case.bytes("seqkd", "cache/replies.tokens"), "sampled once");
    let minima = ["policy=minima", teacher.as_str(), corpus.as_str(), "data.sequence=16"];
    case.good("minima", &[&SHORT[..], &minima].concat(), &[]);
    for (run, terms) in [("seqkd", &["ce"][..]), ("minima", &["ce", "forward_kl"])] {
        let lines = case.metrics(run);
        for term in terms {
            assert!(lines[0][term].as_f64().is_some_and(f64::is_finite), "{run}: {}", lines[0]);
        }
    }
    let learnt = case.metrics("minima")[0]["tokens"].as_u64().unwrap();
    assert_eq!(learnt, 2 * 15, "two packed rows of 16, the first token of each unlearnt");
}

/// Documents that see themselves alone are learnt as rows of their own are; packed they are not.
#[test]
fn documents_apart_are_learnt_as_rows_of_their_own() {
    let case = small();
    let text = case.path("text.txt");
    let documents = "A retort is a vessel.\n\nIt has a long neck, bent down.\n\nNothing.\n\nWhat a retort holds is heated.\n";
    std::fs::write(&text, documents).unwrap();
    let corpus = format!("data.corpus=[{:?}]", text.display().to_string());
    let common = ["train.steps=4", "train.batch=16", "train.lr=2e-3", "train.schedule=constant"];
    let packed = |tokens: usize, out: &str, more: &[&str]| {
        let sequence = format!("data.sequence={tokens}");
        let settings = ["policy=minima", "kd.ratio=0", corpus.as_str(), sequence.as_str()];
        case.good(out, &[&common[..], &settings, more].concat(), &[]);
        TokenFile::open_any(&case.path(out).join("cache/corpus.tokens")).unwrap()
    };
    let made = packed(8, "any", &[]);
    let (rows, tokens) = (made.rows(), made.counts().tokens);
    let lines = (0..rows).map(|row| format!("{}\n", serde_json::json!({"ids": made.example(row).ids})));
    std::fs::write(case.path("ids.jsonl"), lines.collect::<String>()).unwrap();
    packed(tokens, "packed", &[]);
    packed(tokens, "own", &["data.document_attention=own", "train.micro_batch=1"]);
    let ids = format!("data.train=[{:?}]", case.text("ids.jsonl"));
    case.good("rows", &[&common[..], &["train.micro_batch=2", ids.as_str()]].concat(), &[]);
    assert_eq!(case.metrics("own")[0]["tokens"].as_u64(), Some((tokens - rows) as u64));
    let start = crate::tensors(&fixture("score/llama/model.safetensors"));
    let end = |out: &str| crate::tensors(&case.path(out).join("final/model.safetensors"));
    let (own, packed, rows) = (end("own"), end("packed"), end("rows"));
    let square = |t: tch::Tensor| t.square().sum(tch::Kind::Double).double_value(&[]);
    let far = |a: &Weights, b: &Weights| a.iter().map(|(name, t)| square(t - &b[name])).sum::<f64>().sqrt();
    let way = far(&start, &rows);
    assert!(far(&own, &rows) < 5e-3 * way, "{} of {way}", far(&own, &rows));
    assert!(far(&packed, &rows) > 5e-2 * way, "{} of {way}", far(&packed, &rows));
}

/// Weights that overflow: updates are skipped, their rows are named, and after a few the run ends with 5.
#[test]
fn numbers_that_are_not_finite_stop_a_run() {
    let case = small();
    let settings =
        ["train.steps=50", "train.batch=2", "train.lr=1e30", "train.max_skipped=3", "train.clip=0"];
    let answer = case.run("run", &settings, &[]);
    assert_eq!(answer.code, 5, "{}", answer.err);
    let lines = case.metrics("run");
    let skipped: Vec<&Value> = lines.iter().filter(|m| m["skipped"] == true).collect();
    assert_eq!(skipped.len(), 3);
    let names = skipped[0]["skipped_rows"].as_array().unwrap();
    assert!(names.len() == 2 && names[0].as_str().unwrap().contains("rows_prompt.jsonl:"), "{names:?}");
}
