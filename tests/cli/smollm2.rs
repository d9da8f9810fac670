//! The real model: SmolLM2-135M-Instruct, imported from GGUF, read again, asked, scored.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::{command, finish};
use crate::{documents, numbers, text};

const FILE: &str = "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

const ENGLISH: &str = "The sun rises in the east and sets in the west. During the day the light is bright \
enough to read by, and at night people use lamps. In winter the days are short, and in summer they are long.";

fn asset() -> Option<PathBuf> {
    let inside = Path::new(env!("CARGO_MANIFEST_DIR")).join(".assets");
    let folder = std::env::var_os("RETORT_ASSETS").map_or(inside, PathBuf::from);
    Some(folder.join(FILE)).filter(|file| file.exists())
}

fn answer(arguments: &[&str]) -> Vec<Value> {
    let answer = finish(command(&[arguments, &["--json"]].concat()), Duration::from_secs(300));
    assert_eq!(answer.code, 0, "{arguments:?}: {}", answer.err);
    documents(&answer.out)
}

#[test]
fn the_real_model_answers() {
    let Some(gguf) = asset() else {
        // Past the runner's capture, so that it is seen.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: the real model is not here ({FILE}): run `make assets`");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (out, rows) = (dir.path().join("model"), dir.path().join("rows.jsonl"));
    let done = answer(&["import", text(&gguf), "--out", text(&out), "--dtype", "bf16"]);
    assert_eq!((&done[0]["params"], &done[0]["tied"]), (&134_515_008.into(), &true.into()));
    let facts = answer(&["inspect", text(&out)]);
    assert_eq!((&facts[0]["dtype"], &facts[0]["layers"]), (&"bfloat16".into(), &30.into()));

    let model = ["--model", text(&out), "--dtype", "f32"];
    let question = ["--greedy", "--prompt", "What is the capital of France?"];
    let reply = answer(&[&["generate"], &model[..], &question].concat());
    assert_eq!(reply[0]["response"], "The capital of France is Paris.");
    assert_eq!(reply[0]["finish"], "eos");

    std::fs::write(&rows, serde_json::json!({"text": ENGLISH}).to_string()).unwrap();
    let scored = answer(&[&["score", "--input", text(&rows)], &model[..]].concat());
    let logprobs = &numbers(&scored[0]["logprobs"])[1..];
    let perplexity = (-logprobs.iter().sum::<f64>() / logprobs.len() as f64).exp();
    assert!((4.0..20.0).contains(&perplexity), "a perplexity of {perplexity} on plain English");
}
