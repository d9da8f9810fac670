//! The program as a newcomer meets it: help, mistakes, answers that equal transformers' own, files
//! that are whole or not there, signals, and the real model where it is at hand.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

mod answers;
mod files;
mod gap;
mod inspect;
mod smollm2;
#[path = "../support/mod.rs"]
mod support;
mod talk;
mod usage;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::{Answer, MOST_MEMORY, command, finish};

/// Runs it; a test that takes longer than this hangs.
fn retort(arguments: &[&str]) -> Answer {
    let answer = finish(command(arguments), Duration::from_secs(60));
    let (seconds, peak) = (answer.time.as_secs_f64(), answer.peak);
    assert!(peak < MOST_MEMORY, "{arguments:?} held {peak} bytes and took {seconds:.1} s");
    answer
}

/// Runs it where it must succeed, and answers stdout.
fn good(arguments: &[&str]) -> String {
    let answer = retort(arguments);
    assert_eq!(answer.code, 0, "{arguments:?}: {}", answer.err);
    answer.out
}

/// Runs it where it must fail: this exit code, one line that says this, at most one of advice.
fn bad(arguments: &[&str], code: i32, says: &str) -> String {
    let answer = retort(arguments);
    assert_eq!(answer.code, code, "{arguments:?}: {}", answer.err);
    let lines: Vec<&str> = answer.err.lines().collect();
    assert!(lines[0].starts_with("retort: ") && lines[0].contains(says), "{arguments:?}: {}", answer.err);
    assert!(lines.len() == 1 || (lines.len() == 2 && lines[1].starts_with("  ")), "{}", answer.err);
    assert_eq!(answer.out, "", "{arguments:?}");
    answer.err
}

/// A document a line.
fn documents(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `null` is 0: it stands before the first token alone.
fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or(0.0)).collect()
}

/// Two rows of `score`: the same ids, log-probabilities as near as this.
fn agree(a: &Value, b: &Value, within: f64, what: &str) {
    assert_eq!(a["ids"], b["ids"], "{what}");
    let (x, y) = (numbers(&a["logprobs"]), numbers(&b["logprobs"]));
    assert_eq!(x.len(), y.len(), "{what}");
    assert!(a["logprobs"][0].is_null() && b["logprobs"][0].is_null(), "{what}");
    for (at, (x, y)) in x.iter().zip(&y).enumerate() {
        assert!((x - y).abs() < within, "{what}: token {at}: {x} and {y}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
