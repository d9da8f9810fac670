//! Two models, or two files of replies, on the same rows; and the same rows by words of their references.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::{eval, llama, retort, rows, text};
use crate::support::fixture;

fn write(dir: &Path, name: &str, lines: &[Value]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    path
}

/// Twelve rows whose references have 1, 2, ... 12 words, and replies that repeat so many of them.
fn twelve(dir: &Path) -> PathBuf {
    let row = |n: usize| json!({"prompt": format!("{n}"), "response": words(n)});
    write(dir, "rows.jsonl", &(1..=12).map(row).collect::<Vec<_>>())
}

fn words(n: usize) -> String {
    (0..n).map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ")
}

fn replies(dir: &Path, name: &str, of: impl Fn(usize) -> Vec<String>) -> PathBuf {
    let lines = (1..=12).flat_map(|n| of(n).into_iter().map(|text| json!({"response": text})));
    write(dir, name, &lines.collect::<Vec<_>>())
}

/// Every metric of rows by hand: rows 1 to 5 in the first bucket, 6 to 10 in the second, 11 and 12 in the last.
#[test]
fn buckets_are_rows_by_words_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let rows = twelve(dir.path());
    // Even rows are answered with their reference, odd ones with nothing of it.
    let file = replies(dir.path(), "a.jsonl", |n| vec![if n % 2 == 0 { words(n) } else { "no".into() }]);
    let arguments = ["--input", text(&rows), "--responses", text(&file), "--metrics", "rouge_l,length"];
    let found = eval(&arguments);
    let of = |metric: &str, bucket: &str| {
        let numbers = &found[metric][bucket];
        (numbers["mean"].as_f64().unwrap(), numbers["n"].as_u64().unwrap())
    };
    assert_eq!(of("rouge_l_by_length", "0-5"), (40.0, 5));
    assert_eq!(of("rouge_l_by_length", "6-10"), (60.0, 5));
    assert_eq!(of("rouge_l_by_length", "11+"), (50.0, 2));
    assert_eq!(of("length_by_length", "0-5"), ((1 + 2 + 1 + 4 + 1) as f64 / 5.0, 5));
    let numbers = &found["rouge_l_by_length"]["11+"];
    assert_eq!((&numbers["low"], &numbers["high"]), (&json!(0.0), &json!(100.0)));
    assert_eq!(found["rouge_l"]["mean"], 50.0);
    // A bucket without a row says so.
    let short = write(dir.path(), "short.jsonl", &[json!({"prompt": "a", "response": "one"})]);
    let reply = write(dir.path(), "one.jsonl", &[json!({"response": "one"})]);
    let found = eval(&["--input", text(&short), "--responses", text(&reply), "--metrics", "rouge_l"]);
    assert_eq!(found["rouge_l_by_length"]["11+"], json!({"mean": null, "low": null, "high": null, "n": 0}));
    let answer = retort(&[&["eval"], &arguments[..]].concat());
    assert!(answer.out.contains("0-5 words (5 rows)") && answer.out.contains("40.0000 ("), "{}", answer.out);
}

/// Differences and p-values by hand: seeds are averaged in each row, then rows are compared.
#[test]
fn files_of_replies_are_compared_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let rows = twelve(dir.path());
    // Of two replies to a row one is right: .5 a row. The other file has one reply, right on even rows.
    let a = replies(dir.path(), "a.jsonl", |n| vec![words(n), "no".into()]);
    let b = replies(dir.path(), "b.jsonl", |n| vec![if n % 2 == 0 { words(n) } else { "no".into() }]);
    let compare = |a: &Path, b: &Path| {
        let arguments = ["--input", text(&rows), "--responses", text(a), "--against", text(b)];
        eval(&[&arguments[..], &["--metrics", "exact-match,length"]].concat())
    };
    let same = &compare(&a, &b)["exact_match"];
    assert_eq!((&same["mean"], &same["against"]["mean"]), (&json!(0.5), &json!(0.5)));
    let difference = &same["difference"];
    assert_eq!(
        (&difference["mean"], &difference["p"], &difference["ahead"]),
        (&json!(0.0), &json!(1.0), &json!("neither"))
    );
    // Right everywhere against nowhere: of 2^12 choices of signs two are as far.
    let (right, wrong) = (
        replies(dir.path(), "right.jsonl", |n| vec![words(n)]),
        replies(dir.path(), "wrong.jsonl", |_| vec!["no".into()]),
    );
    let ahead = |a: &Path, b: &Path| {
        let found = compare(a, b)["exact_match"]["difference"].clone();
        (
            found["mean"].as_f64().unwrap(),
            found["p"].as_f64().unwrap(),
            found["ahead"].as_str().unwrap().to_string(),
        )
    };
    assert_eq!(ahead(&right, &wrong), (1.0, 2.0 / 4096.0, "model".to_string()));
    assert_eq!(ahead(&wrong, &right), (-1.0, 2.0 / 4096.0, "against".to_string()));
    let length = &compare(&right, &wrong)["length"]["difference"];
    assert_eq!(length["mean"], 5.5, "78 words against 12, over 12 rows");
    assert!(length.get("ahead").is_none() && length["low"].as_f64() < length["high"].as_f64(), "{length}");
    let arguments = ["eval", "--input", text(&rows), "--responses", text(&right), "--against", text(&wrong)];
    let table = retort(&[&arguments[..], &["--metrics", "exact_match"]].concat()).out;
    let line = table.lines().find(|l| l.starts_with("  difference")).unwrap();
    assert!(line.contains("1.0000") && line.ends_with("p 0.0005, the model is ahead"), "{table}");
}

/// A second model is measured as it would be alone, with the same seeds; itself is not ahead of itself.
#[test]
fn models_are_compared_with_the_same_seeds() {
    let (model, other, rows) = (llama(), fixture("gap/near"), rows());
    let of = |model: &Path, more: &[&str]| {
        let metrics =
            ["--metrics", "rouge_l,perplexity,distinct_4", "--seeds", "3,4", "--max-new-tokens", "12"];
        eval(&[&["--model", text(model), "--input", text(&rows)], &metrics[..], more].concat())
    };
    let alone = of(&other, &[]);
    let both = of(&model, &["--against", text(&other)]);
    for metric in ["rouge_l", "perplexity", "distinct_4"] {
        for key in ["mean", "low", "high", "n"] {
            assert_eq!(both[metric]["against"][key], alone[metric][key], "{metric} {key}");
        }
    }
    let perplexity = &both["perplexity"];
    let number = |value: &Value| value["mean"].as_f64().unwrap();
    let difference = number(perplexity) - number(&perplexity["against"]);
    assert!((number(&perplexity["difference"]) - difference).abs() < 1e-9, "{perplexity}");
    assert!(both["distinct_4"].get("difference").is_none(), "{both}");
    let itself = of(&model, &["--against", text(&model)]);
    assert_eq!(itself["rouge_l"]["difference"]["p"], 1.0);
    assert_eq!(itself["perplexity"]["difference"]["ahead"], "neither");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (model, rows) = (llama(), rows());
    let (model, rows) = (text(&model), text(&rows));
    let six = write(dir.path(), "six.jsonl", &vec![json!({"response": "a"}); 6]);
    let few = write(dir.path(), "few.jsonl", &[json!({"response": "a"})]);
    let (six, few) = (text(&six), text(&few));
    for (arguments, code, says) in [
        (
            &["--model", model, "--against", six, "--metrics", "perplexity"][..],
            2,
            "perplexity: expected a model",
        ),
        (&["--responses", six, "--against", model, "--metrics", "length"], 2, "--against: expected a file"),
        (&["--responses", six, "--against", few, "--metrics", "length"], 3, "few.jsonl: expected 6 replies"),
        (
            &["--model", model, "--against", "/nowhere", "--metrics", "length", "--max-new-tokens", "1"],
            2,
            "/nowhere",
        ),
        (
            &["--model", model, "--against", model, "--metrics", "length", "--skip-invalid"],
            2,
            "--skip-invalid",
        ),
    ] {
        let answer = retort(&[&["eval", "--input", rows], arguments].concat());
        assert_eq!(answer.code, code, "{arguments:?}: {}", answer.err);
        let lines: Vec<&str> = answer.err.lines().filter(|l| !l.contains("INFO")).collect();
        assert!(lines[0].contains(says) && lines.len() <= 2, "{says}: {}", answer.err);
    }
}
