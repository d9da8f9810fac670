//! The command: what it answers, and what it says of mistakes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use retort::text::Tokenizer;
use serde_json::{Value, json};

use crate::support::{Answer, MOST_MEMORY, command, finish, fixture};

pub fn retort(arguments: &[&str]) -> Answer {
    let answer = finish(command(arguments), Duration::from_secs(120));
    let (seconds, peak) = (answer.time.as_secs_f64(), answer.peak);
    assert!(peak < MOST_MEMORY, "{arguments:?} held {peak} bytes and took {seconds:.1} s");
    answer
}

/// Runs `eval`, and answers its object.
pub fn eval(arguments: &[&str]) -> Value {
    let answer = retort(&[&["eval", "--dtype", "f32", "--json"], arguments].concat());
    assert_eq!(answer.code, 0, "{arguments:?}: {}", answer.err);
    assert_eq!(answer.out.lines().count(), 1, "{}", answer.out);
    serde_json::from_str(&answer.out).unwrap()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn llama() -> PathBuf {
    fixture("score/llama")
}

pub fn rows() -> PathBuf {
    fixture("score/llama/rows_prompt.jsonl")
}

const METRICS: [&str; 5] = ["rouge_l", "exact_match", "distinct_4", "eos_rate", "length"];
const OF_REPLIES: &str = "rouge_l,exact-match,distinct_4,eos_rate,length";

/// The same replies, made on the way and read from a file; two seeds are two samples a row.
#[test]
fn replies_are_those_of_generate() {
    let dir = tempfile::tempdir().unwrap();
    let (model, rows) = (llama(), rows());
    let mut by_row: Vec<String> = vec![String::new(); 6];
    for seed in ["10", "7"] {
        let arguments = ["generate", "--model", text(&model), "--input", text(&rows), "--seed", seed];
        let answer =
            retort(&[&arguments[..], &["--max-new-tokens", "40", "--dtype", "f32", "--json"]].concat());
        assert_eq!(answer.code, 0, "{}", answer.err);
        for (row, line) in by_row.iter_mut().zip(answer.out.lines()) {
            *row += &format!("{line}\n");
        }
    }
    let file = dir.path().join("replies.jsonl");
    std::fs::write(&file, by_row.concat()).unwrap();
    let common = ["--input", text(&rows), "--metrics", OF_REPLIES];
    let read = eval(&[&common[..], &["--responses", text(&file)]].concat());
    let made = eval(
        &[&common[..], &["--model", text(&model), "--seeds", "10,7", "--max-new-tokens", "40"]].concat(),
    );
    assert_eq!(read, made);
    let keys: Vec<&str> = read.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys.iter().filter(|k| !k.ends_with("_by_length")).copied().collect::<Vec<_>>(), METRICS);
    let by_length = ["rouge_l", "exact_match", "eos_rate", "length"].map(|m| format!("{m}_by_length"));
    assert_eq!(keys.iter().filter(|k| k.ends_with("_by_length")).collect::<Vec<_>>(), by_length.each_ref());
    for key in METRICS {
        let numbers = ["low", "mean", "high"].map(|name| read[key][name].as_f64().unwrap());
        assert!(numbers.is_sorted() && read[key]["n"] == 6, "{key}: {read}");
    }
    // By hand: words of all twelve replies.
    let replies = lines(&by_row.concat());
    let words: usize =
        replies.iter().map(|r| r["response"].as_str().unwrap().split_whitespace().count()).sum();
    assert_eq!(read["length"]["mean"].as_f64().unwrap(), words as f64 / 12.0);
    let ended = replies.iter().filter(|r| r["finish"] == "eos").count();
    assert!((read["eos_rate"]["mean"].as_f64().unwrap() - ended as f64 / 12.0).abs() < 1e-12);
}

/// References as replies are perfect; only `response` is asked for.
#[test]
fn references_match_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, lines: &[Value]| {
        let path = dir.path().join(name);
        std::fs::write(&path, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        path
    };
    let rows = write(
        "rows.jsonl",
        &[
            json!({"prompt": "a", "response": ["one two", "three four"]}),
            json!({"prompt": "b", "response": "five"}),
        ],
    );
    let metrics = ["--input", text(&rows), "--metrics", "rouge_l,exact_match"];
    let score = |replies: [&str; 2]| {
        let file = write("replies.jsonl", &replies.map(|r| json!({"response": r})));
        let found = eval(&[&metrics[..], &["--responses", text(&file)]].concat());
        ["rouge_l", "exact_match"].map(|m| found[m]["mean"].as_f64().unwrap())
    };
    assert_eq!(score([" three four\n", "five"]), [100.0, 1.0]);
    assert_eq!(score(["Three, four!", "six"]), [50.0, 0.0]);
}

/// Over transformers' own log-probabilities of the rows' tokens.
#[test]
fn perplexity_equals_transformers() {
    let (model, rows) = (llama(), fixture("score/llama/rows_ids.jsonl"));
    let given = lines(&std::fs::read_to_string(&rows).unwrap());
    let scores = lines(&std::fs::read_to_string(fixture("score/llama/expected_ids.jsonl")).unwrap());
    let (mut sum, mut tokens) = (0.0, 0);
    for (row, score) in given.iter().zip(&scores) {
        let from = row["prompt_len"].as_u64().unwrap_or(0).max(1) as usize;
        for x in score["logprobs"].as_array().unwrap().iter().skip(from) {
            sum -= x.as_f64().unwrap();
            tokens += 1;
        }
    }
    assert!(given.iter().any(|row| row["prompt_len"].as_u64().is_some_and(|n| n > 1)) && tokens == 42);
    let arguments = ["--model", text(&model), "--teacher", text(&model), "--input", text(&rows)];
    let found = eval(&[&arguments[..], &["--metrics", "perplexity"]].concat());
    let (ours, theirs) = (found["perplexity"]["mean"].as_f64().unwrap(), (sum / f64::from(tokens)).exp());
    assert!((ours / theirs - 1.0).abs() < 1e-5, "{ours}, transformers' {theirs}");
    assert_eq!(found["perplexity"]["teacher"]["mean"], found["perplexity"]["mean"]);
    assert_eq!(found["perplexity"]["gap"]["mean"], 0.0);
    // Another model is worse than this teacher by the difference of their cross-entropies.
    let other = fixture("gap/near");
    let arguments = ["--model", text(&other), "--teacher", text(&model), "--input", text(&rows)];
    let found = &eval(&[&arguments[..], &["--metrics", "perplexity"]].concat())["perplexity"];
    let [own, teacher, gap] =
        [&found["mean"], &found["teacher"]["mean"], &found["gap"]["mean"]].map(|x| x.as_f64().unwrap());
    assert!((teacher / theirs - 1.0).abs() < 1e-5 && (own / theirs - 1.0).abs() > 1e-3, "{found}");
    assert!((gap - (own / teacher).ln()).abs() < 1e-9, "{found}");
}

#[test]
fn exposure_has_its_curve() {
    let (student, teacher, rows) = (fixture("gap/near"), llama(), rows());
    let arguments = ["--model", text(&student), "--teacher", text(&teacher), "--input", text(&rows)];
    let more = ["--metrics", "exposure", "--seeds", "1", "--max-new-tokens", "20"];
    let found = &eval(&[&arguments[..], &more].concat())["exposure"];
    let curve = found["curve"].as_array().unwrap();
    let ls: Vec<u64> = curve.iter().map(|p| p["l"].as_u64().unwrap()).collect();
    assert_eq!(ls, [1, 2, 4, 8, 16, 20]);
    assert_eq!((&found["l"], &found["n"]), (&json!(20), &json!(6)));
    assert_eq!(found["mean"], curve[5]["mean"]);
    assert!(curve[0]["mean"].as_f64().unwrap().abs() < 1e-3, "{found}");
}

/// ECE from `score`'s log-probabilities, by hand.
#[test]
fn calibration_equals_its_definition() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, lines: &[Value]| {
        let path = dir.path().join(name);
        std::fs::write(&path, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        path
    };
    let model = llama();
    let tokenizer = Tokenizer::load(&model).unwrap();
    let choices = [" yes", " no", " nothing of it"];
    let prompts: Vec<String> = (0..12).map(|n| format!("Is {n} a retort? It is")).collect();
    let rows: Vec<Value> = prompts
        .iter()
        .enumerate()
        .map(|(n, p)| json!({"prompt": p, "choices": choices, "answer": n % 3}))
        .collect();
    let ids = |prompt: &String, choice: &str| {
        let prompt = tokenizer.encode(prompt, true).unwrap();
        let all = [prompt.clone(), tokenizer.encode(choice, false).unwrap()].concat();
        json!({"ids": all, "prompt_len": prompt.len()})
    };
    let all: Vec<Value> = prompts.iter().flat_map(|p| choices.map(|c| ids(p, c))).collect();
    let file = write("ids.jsonl", &all);
    let scored =
        retort(&["score", "--model", text(&model), "--input", text(&file), "--dtype", "f32", "--json"]);
    assert_eq!(scored.code, 0, "{}", scored.err);
    let sums: Vec<f64> = all
        .iter()
        .zip(lines(&scored.out))
        .map(|(row, score)| {
            let from = row["prompt_len"].as_u64().unwrap() as usize;
            score["logprobs"].as_array().unwrap()[from..].iter().map(|x| x.as_f64().unwrap()).sum()
        })
        .collect();
    let mut bins = [0.0; 10];
    let mut right = 0;
    for (n, row) in sums.chunks(3).enumerate() {
        let total: f64 = row.iter().map(|x| x.exp()).sum();
        let (best, most) = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        let confidence = most.exp() / total;
        right += usize::from(best == n % 3);
        bins[(confidence * 10.0).ceil() as usize - 1] += f64::from(u8::from(best == n % 3)) - confidence;
    }
    let expected = bins.iter().map(|b: &f64| b.abs()).sum::<f64>() / 12.0;
    let file = write("rows.jsonl", &rows);
    let arguments =
        ["--model", text(&model), "--input", text(&file), "--metrics", "ece", "--template", "plain"];
    let found = &eval(&arguments)["ece"];
    let mean = found["mean"].as_f64().unwrap();
    assert!((mean - expected).abs() < 1e-5, "{mean}, by hand {expected}");
    assert_eq!((&found["n"], &found["bins"]), (&json!(12), &json!(10)));
    assert!((found["accuracy"].as_f64().unwrap() - right as f64 / 12.0).abs() < 1e-12);
}

#[test]
fn mistakes_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (model, rows, texts) = (llama(), rows(), fixture("score/llama/rows.jsonl"));
    let (model, rows, texts) = (text(&model), text(&rows), text(&texts));
    let few = file("few.jsonl", "{\"response\": \"a\"}\n");
    let six = file("six.jsonl", &"{\"response\": \"a\"}\n".repeat(6));
    let bad = file("bad.jsonl", "{\"response\": \"a\"}\n{\"response\": 3}\n");
    let (few, six, bad) = (text(&few), text(&six), text(&bad));
    for (arguments, code, says) in [
        (&["--model", model, "--metrics", "rouge_l"][..], 2, "no rows given"),
        (&["--input", rows, "--metrics", "rouge_l"], 2, "--model"),
        (&["--model", model, "--input", rows], 2, "--metrics"),
        (&["--model", model, "--input", rows, "--metrics", "bleu"], 2, "bleu"),
        (
            &["--model", model, "--input", rows, "--metrics", "exposure"],
            2,
            "exposure: expected --model and --teacher",
        ),
        (
            &["--responses", six, "--input", rows, "--metrics", "perplexity"],
            2,
            "perplexity: expected --model",
        ),
        (&["--responses", six, "--model", model, "--input", rows, "--metrics", "length"], 2, "--model"),
        (&["--responses", "/nowhere.jsonl", "--input", rows, "--metrics", "length"], 2, "no such file"),
        (&["--model", model, "--input", rows, "--metrics", "length", "--temperature", "0"], 2, "temperature"),
        (&["--model", model, "--input", rows, "--metrics", "length", "--seeds", "1,x"], 2, "x"),
        (&["--responses", few, "--input", rows, "--metrics", "rouge_l"], 3, "expected 6 replies"),
        (&["--responses", bad, "--input", rows, "--metrics", "rouge_l"], 3, "bad.jsonl:2: response"),
        (&["--responses", six, "--input", rows, "--metrics", "distinct_4"], 3, "six.jsonl:1: ids"),
        (&["--responses", six, "--input", rows, "--metrics", "eos_rate"], 3, "six.jsonl:1: finish"),
        (&["--model", model, "--input", texts, "--metrics", "rouge_l"], 3, "rows.jsonl:1: response"),
        (&["--model", model, "--input", rows, "--metrics", "ece"], 3, "rows_prompt.jsonl:1: choices"),
    ] {
        let answer = retort(&[&["eval"], arguments].concat());
        let lines: Vec<&str> = answer.err.lines().filter(|l| !l.contains("INFO")).collect();
        assert_eq!(answer.code, code, "{arguments:?}: {}", answer.err);
        assert!(lines[0].starts_with("retort: ") && lines[0].contains(says), "{says}: {}", answer.err);
        assert!(lines.len() <= 2 && answer.out.is_empty(), "{}", answer.err);
    }
    // A table for people.
    let answer = retort(&["eval", "--responses", six, "--input", rows, "--metrics", "rouge_l,length"]);
    assert!(answer.code == 0 && answer.out.lines().count() == 7, "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("\n\nby reference  0-5 words ("), "{}", answer.out);
    assert!(
        answer.out.starts_with("metric   mean    95 % interval") && answer.out.contains("length   1.0000")
    );
}
