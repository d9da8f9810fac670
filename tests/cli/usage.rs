//! Help, version, and mistakes in the arguments.

use crate::support::{command, finish, fixture};
use crate::{bad, good, retort, text};

/// What every command takes.
const EVERYWHERE: &str = "--device --dtype --threads --json --quiet --verbose --help";

/// The flags that other people's scripts use. One may be added; none may go.
const FLAGS: [(&str, &str); 9] = [
    ("distill", "--set --out --resume --dry-run"),
    ("score", "--model --input --template --skip-invalid --output"),
    (
        "generate",
        "--model --prompt --input --output --template --max-new-tokens --min-new-tokens --temperature --top-k \
         --top-p --no-repeat-ngram --greedy --samples --seed --batch --raw --teacher --mix",
    ),
    ("gap", "--teacher --student --input --template --skip-invalid --output"),
    (
        "eval",
        "--model --teacher --responses --input --metrics --seeds --template --output --max-new-tokens \
         --min-new-tokens --temperature --top-k --top-p --no-repeat-ngram --greedy --seed --batch --lmops \
         --against --judge-url --judge-model --judge-answers --judge-timeout --judge-retries --judge-at-once",
    ),
    ("chat", "--model --template --greedy --temperature --seed"),
    ("inspect", ""),
    ("import", "--out"),
    ("completions", ""),
];

#[test]
fn every_command_lists_its_flags() {
    let all = good(&["--help"]);
    for (name, flags) in FLAGS {
        assert!(all.contains(&format!("\n  {name} ")), "{name} is not in the help");
        let help = good(&[name, "--help"]);
        for flag in flags.split_whitespace().chain(EVERYWHERE.split_whitespace()) {
            let there = help.split(|c: char| !c.is_alphanumeric() && c != '-').any(|word| word == flag);
            assert!(there, "{name} {flag} is gone");
        }
    }
    assert!(all.contains("Exit codes:") && all.contains("Examples:"));
}

#[test]
fn the_version_says_what_it_was_made_of() {
    let version = good(&["--version"]);
    let commit = version.split("commit ").nth(1).unwrap().trim_end().trim_end_matches(')');
    assert!(version.starts_with("retort 0.") && version.contains("libtorch 2.11.0"), "{version}");
    let hex = commit.len() >= 7 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(hex || commit == "unknown", "{version}");
}

#[test]
fn mistakes_are_one_line_and_advice() {
    let model = fixture("score/llama");
    let (model, rows) = (text(&model), fixture("score/llama/rows.jsonl"));
    for (arguments, says) in [
        (&["scroe"][..], "scroe"),
        (&["score"], "--model"),
        (&["score", "--model"], "--model"),
        (&["score", "--modle", model], "--modle"),
        (&["score", "--model", model, "--dtype", "f64"], "f64"),
        (&["score", "--model", model, "--device", "tpu"], "tpu"),
        (&["score", "--model", model, "--device", "cuda:x"], "cuda:x"),
        (&["score", "--model", model, "--threads", "0"], "0"),
        (&["score", "--model", model, "--template", "chatml", "--input", text(&rows)], "chatml"),
        (&["generate", "--model", model], "--prompt"),
        (&["generate", "--model", model, "--greedy", "--prompt", "a", "--max-new-tokens", "0"], "0"),
        (&["generate", "--model", model, "--greedy", "--prompt", "a", "--input", "b"], "--input"),
        (&["inspect"], "MODEL"),
        (&["inspect", "a", "b"], "b"),
        (&["import", "x.gguf"], "--out"),
        (&["completions", "cmd"], "cmd"),
    ] {
        let err = bad(arguments, 2, says);
        assert_eq!(err.lines().count(), 2, "no advice: {err}");
    }
    for (flag, value, says) in [
        ("--temperature", "0", "temperature"),
        ("--temperature", "nan", "temperature"),
        ("--top-p", "0", "top-p"),
        ("--top-p", "1.5", "top-p"),
        ("--min-new-tokens", "300", "min-new-tokens"),
        ("--samples", "0", "--samples"),
        ("--seed", "x", "--seed"),
    ] {
        bad(&["generate", "--model", model, "--prompt", "a", flag, value], 2, says);
    }
    bad(&["inspect", text(&rows)], 2, "not a model folder");
    bad(&["inspect", "/nowhere/at/all"], 2, "no such model folder");
    bad(&["score", "--model", model, "--input", "/nowhere.jsonl"], 2, "no such file");
}

#[test]
fn rows_are_asked_for_before_a_model_is_looked_for() {
    bad(&["score", "--model", "/nowhere"], 2, "no rows given");
    bad(&["score", "--model", "/nowhere", "--input", "/no.jsonl"], 2, "no such file: /no.jsonl");
}

#[test]
fn without_arguments_there_is_help() {
    let answer = retort(&[]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("Usage: retort"), "{}", answer.err);
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = good(&["completions", shell]);
        assert!(FLAGS.iter().all(|(name, _)| script.contains(name)), "{shell}");
    }
}

/// A GPU that is not there is said so, not a bug.
#[test]
fn a_gpu_that_is_not_there() {
    let model = fixture("score/llama");
    let mut command = command(&["generate", "--model", text(&model), "--greedy", "--prompt", "a"]);
    command.args(["--device", "cuda:63"]);
    let answer = finish(command, std::time::Duration::from_secs(60));
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("no such GPU: cuda:63"), "{}", answer.err);
}
