//! What `score`, `generate` and `inspect` answer, against transformers' own numbers.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::fixture;
use crate::{agree, documents, good, numbers, text};

const MODELS: [&str; 4] = ["gpt2", "llama", "llama2", "opt"];

/// transformers and we differ in the order of sums.
const NEAR: f64 = 2e-5;

/// Every file of rows of a model: rows, expected, template.
fn tables(model: &str) -> Vec<(PathBuf, Vec<Value>, &'static str)> {
    let all = [("", "auto"), ("_ids", "auto"), ("_prompt", "plain"), ("_chat", "chat")];
    let table = |(name, template): (&str, &'static str)| {
        let rows = fixture(&format!("score/{model}/rows{name}.jsonl"));
        let expected =
            std::fs::read_to_string(fixture(&format!("score/{model}/expected{name}.jsonl"))).ok()?;
        Some((rows, documents(&expected), template))
    };
    all.into_iter().filter_map(table).collect()
}

fn score(model: &str, rows: &str, more: &[&str]) -> Vec<Value> {
    let model = fixture(&format!("score/{model}"));
    let arguments = ["score", "--model", text(&model), "--input", rows, "--dtype", "f32", "--json"];
    documents(&good(&[&arguments, more].concat()))
}

#[test]
fn scores_equal_those_of_transformers() {
    let mut rows_seen = 0;
    for model in MODELS {
        for (rows, expected, template) in tables(model) {
            let got = score(model, text(&rows), &["--template", template]);
            assert_eq!(got.len(), expected.len(), "{}", rows.display());
            for (n, (got, expected)) in got.iter().zip(&expected).enumerate() {
                agree(got, expected, NEAR, &format!("{} line {}", rows.display(), n + 1));
                assert_eq!(got.as_object().unwrap().len(), 2, "a key that the contract does not have");
            }
            rows_seen += got.len();
        }
    }
    assert!(rows_seen > 90, "{rows_seen}");
}

#[test]
fn a_file_of_answers_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("scores.jsonl");
    let (rows, expected, _) = tables("llama").remove(0);
    assert!(score("llama", text(&rows), &["--output", text(&out)]).is_empty(), "stdout has an answer too");
    let got = documents(&std::fs::read_to_string(&out).unwrap());
    assert_eq!(got.len(), expected.len());
    got.iter().zip(&expected).for_each(|(a, b)| agree(a, b, NEAR, "--output"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "something else is left");
}

/// What a row scores does not depend on the rows around it.
#[test]
fn rows_are_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    for model in ["llama", "opt"] {
        let (rows, _, _) = tables(model).remove(0);
        let lines = std::fs::read_to_string(&rows).unwrap();
        let together = score(model, text(&rows), &[]);
        let reversed: String = lines.lines().rev().map(|l| format!("{l}\n")).collect();
        std::fs::write(&file, reversed).unwrap();
        let mut backwards = score(model, text(&file), &[]);
        backwards.reverse();
        assert_eq!(together.len(), backwards.len());
        together.iter().zip(&backwards).for_each(|(a, b)| agree(a, b, 1e-5, "reversed"));
        for (line, all) in lines.lines().zip(&together).step_by(4) {
            std::fs::write(&file, line).unwrap();
            agree(&score(model, text(&file), &[])[0], all, 1e-5, "alone");
        }
    }
}

fn generate(model: &str, more: &[&str]) -> Vec<Value> {
    let model = fixture(&format!("score/{model}"));
    let arguments = ["generate", "--model", text(&model), "--dtype", "f32", "--json"];
    documents(&good(&[&arguments[..], &["--max-new-tokens", "12"], more].concat()))
}

/// The log-probabilities of replies are those that `score` gives the same tokens, whatever the prompt.
#[test]
fn generate_then_score_agree() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    for model in MODELS {
        let (rows, _, _) = tables(model).remove(1);
        let mut prompts = documents(&std::fs::read_to_string(&rows).unwrap());
        // A prompt of no tokens has no reply.
        prompts.retain(|row| row["prompt_len"] != 0);
        std::fs::write(&file, prompts.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        let mut replies = generate(model, &["--greedy", "--input", text(&file)]);
        assert_eq!(prompts.len(), replies.len());
        replies.extend(generate(model, &["--input", text(&file), "--temperature", "1.3", "--top-k", "40"]));
        prompts.extend(prompts.clone());
        let mut lines = String::new();
        let mut starts = Vec::new();
        for (prompt, reply) in prompts.iter().zip(&replies) {
            let mut ids = prompt["ids"].as_array().unwrap().clone();
            ids.truncate(prompt["prompt_len"].as_u64().map_or(ids.len(), |n| n as usize));
            starts.push(ids.len());
            ids.extend(reply["ids"].as_array().unwrap().clone());
            lines += &format!("{}\n", json!({"ids": ids}));
        }
        std::fs::write(&file, lines).unwrap();
        for ((reply, scored), start) in replies.iter().zip(score(model, text(&file), &[])).zip(starts) {
            let (a, b) = (numbers(&reply["logprobs"]), numbers(&scored["logprobs"]));
            let near = a.iter().zip(&b[start..]).all(|(a, b)| (a - b).abs() < NEAR);
            assert!(near && a.len() == b.len() - start, "{model}: {a:?} and {:?}", &b[start..]);
            let ended = if reply["finish"] == "eos" { 1..=12 } else { 12..=12 };
            assert!(ended.contains(&a.len()), "{model}: {reply}");
        }
    }
}

#[test]
fn prompts_do_not_change_each_other() {
    let prompts = ["What is a retort?", "a", "How many weeks are there in all of a long year?"];
    let together = generate("llama", &[&["--greedy", "--raw", "--prompt"], &prompts[..]].concat());
    for (prompt, reply) in prompts.iter().zip(&together) {
        let alone = generate("llama", &["--greedy", "--raw", "--prompt", prompt]);
        assert_eq!((&alone[0]["ids"], &alone[0]["prompt"]), (&reply["ids"], &json!(prompt)));
        assert_eq!(alone[0].as_object().unwrap().len(), 5);
    }
}

/// Samples of a row stand together, differ, and are what they are whatever the batch and the number of
/// samples; another seed gives others; no reply ends before it may.
#[test]
fn samples_are_counted() {
    let rows = fixture("score/llama/rows.jsonl");
    let with = |more: &[&str]| generate("llama", &[&["--input", text(&rows)], more].concat());
    let (all, few) =
        (with(&["--samples", "3", "--batch", "7", "--seed", "3"]), with(&["--batch", "1", "--seed", "3"]));
    assert_eq!(all.len(), 3 * few.len());
    for (three, one) in all.chunks(3).zip(&few) {
        assert!(three.iter().all(|reply| reply["prompt"] == one["prompt"]));
        assert_eq!(three[0]["ids"], one["ids"]);
        assert_ne!(three[1]["ids"], one["ids"]);
    }
    let other = with(&["--seed", "4", "--min-new-tokens", "9"]);
    assert!(other.iter().zip(&few).all(|(a, b)| a["ids"] != b["ids"]));
    assert!(other.iter().all(|reply| reply["ids"].as_array().unwrap().len() >= 9));
}

#[test]
fn inspect_is_one_line_of_json() {
    let out = good(&["inspect", text(&fixture("score/llama")), "--json"]);
    assert_eq!(out.lines().count(), 1);
    let facts = &documents(&out)[0];
    for (key, value) in [
        ("model_type", json!("llama")),
        ("layers", json!(2)),
        ("hidden", json!(20)),
        ("heads", json!(5)),
        ("kv_heads", json!(1)),
        ("head_dim", json!(4)),
        ("ffn", json!(24)),
        ("context", json!(512)),
        ("vocabulary", json!(352)),
        ("tied", json!(false)),
        ("params", json!(18_980)),
    ] {
        assert_eq!(facts[key], value, "{key}");
    }
    assert!(facts["path"].is_string() && facts["tokens"].is_object() && facts["dtype"].is_string());
    let table = good(&["inspect", text(&fixture("score/llama"))]);
    assert!(table.contains("llama") && table.contains("all finite"), "{table}");
}
