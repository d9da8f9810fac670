//! `inspect` of a run directory and of a config.

use std::path::Path;

use serde_json::Value;

use crate::support::fixture;
use crate::{bad, documents, good, text};

/// A config of a short run, with held-out rows.
fn config(folder: &Path, length: &str) -> std::path::PathBuf {
    let (student, rows) = (fixture("score/llama"), fixture("score/llama/rows_prompt.jsonl"));
    let path = folder.join("run.toml");
    let body = format!(
        "policy = \"sft\"\nstudent.model = {:?}\ndata.train = [{1:?}]\ndata.valid = [{1:?}]\n\
         [train]\n{length}\nbatch = 4\nlr = 1e-2\neval_every = 2\nsave_every = 2\nkeep = 2\n",
        student.display().to_string(),
        rows.display().to_string(),
    );
    std::fs::write(&path, body).unwrap();
    path
}

fn document(path: &Path) -> Value {
    let out = good(&["inspect", text(path), "--json"]);
    assert_eq!(out.lines().count(), 1);
    documents(&out).remove(0)
}

#[test]
fn a_config_is_listed_with_where_each_setting_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "steps = 3");
    let facts = document(&path);
    assert_eq!(facts["policy"], "sft");
    for (key, value, from) in [
        ("train.lr", serde_json::json!(1e-2), "line 8"),
        ("train.batch", 4.into(), "line 7"),
        ("seed", 1.into(), "default"),
        ("train.betas", serde_json::json!([0.9, 0.95]), "default"),
        ("data.template", "auto".into(), "default"),
    ] {
        assert_eq!(
            (&facts["settings"][key]["value"], facts["settings"][key]["from"].as_str()),
            (&value, Some(from)),
            "{key}"
        );
    }
    let table = good(&["inspect", text(&path)]);
    assert!(
        table.contains("train.max_skipped") && table.contains("line 8") && table.contains("--dry-run"),
        "{table}"
    );
    assert!(!table.contains("The highest learning rate."));
    let table = good(&["inspect", text(&path), "-v"]);
    assert!(table.contains("what it does") && table.contains("The highest learning rate."), "{table}");
    assert_eq!(facts["settings"]["train.lr"]["about"], "The highest learning rate.");
    std::fs::write(&path, "policy = \"sft\"\n[train]\nlr = -1\n").unwrap();
    bad(&["inspect", text(&path)], 2, "student.model");
}

#[test]
fn a_run_says_how_far_it_is_and_what_to_do_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "epochs = 3");
    let run = dir.path().join("run");
    good(&["distill", text(&path), "--out", text(&run), "--dtype", "f32", "--device", "cpu", "--quiet"]);
    let facts = document(&run);
    // Three times six rows in batches of four.
    assert_eq!((facts["done"].as_u64(), facts["steps"].as_u64()), (Some(5), Some(5)));
    assert_eq!((&facts["finished"], &facts["resumes_after"]), (&Value::Bool(true), &5.into()));
    assert_eq!(facts["losses"].as_array().unwrap().len(), 5);
    assert!(facts["best"]["rouge_l"].is_f64() && facts["best"]["path"].is_string(), "{facts}");
    assert!(facts["made"]["threads"].is_string() && facts["evaluation"]["eval"]["valid_loss"].is_f64());
    assert!(facts["next"].as_str().unwrap().contains("generate"), "{facts}");
    // A checkpoint that was changed is told, and the one before it is what a run goes on from.
    let weights = run.join("checkpoints/step-5/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    std::fs::remove_dir_all(run.join("final")).unwrap();
    let before = std::fs::read_dir(&run).unwrap().count();
    let facts = document(&run);
    let saved: Vec<(u64, bool)> = facts["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["step"].as_u64().unwrap(), c["verifies"] == true))
        .collect();
    assert_eq!(saved, [(5, false), (4, true)]);
    assert_eq!((&facts["finished"], &facts["resumes_after"]), (&Value::Bool(false), &4.into()));
    let next = facts["next"].as_str().unwrap();
    assert!(next.contains("--resume goes on after update 4"), "{next}");
    let table = good(&["inspect", text(&run)]);
    assert!(
        table.contains("does not verify") && table.contains("last losses") && table.contains(next),
        "{table}"
    );
    assert_eq!(before, std::fs::read_dir(&run).unwrap().count(), "nothing is written");
    // What it says can be done.
    let resumed = run.join("config.toml");
    good(&[
        "distill",
        text(&resumed),
        "--out",
        text(&run),
        "--resume",
        "--dtype",
        "f32",
        "--device",
        "cpu",
        "--quiet",
    ]);
    assert_eq!(document(&run)["finished"], true);
}
