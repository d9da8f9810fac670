//! A folder in which a page's commands find what the page speaks of: tiny models, rows, runs.

use std::fmt::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::root;

/// Model folders that pages speak of, and the fixture that stands for each. Teacher and student share a tokenizer.
const MODELS: [(&str, &str); 6] = [
    ("MODEL", "gap/near"),
    ("STUDENT", "gap/near"),
    ("TEACHER", "gap/far"),
    ("OTHER", "gap/far"),
    ("models/student", "gap/near"),
    ("models/teacher", "gap/far"),
];

/// Files of rows that pages speak of.
const ROWS: [&str; 6] =
    ["rows.jsonl", "train.jsonl", "valid.jsonl", "held-out.jsonl", "data/train.jsonl", "data/valid.jsonl"];

/// Files of text.
const TEXTS: [&str; 3] = ["text.jsonl", "data/text.jsonl", "data/law.jsonl"];

/// The config that a page means which shows none.
const RUN: &str =
    "policy = \"sft\"\nstudent.model = \"MODEL\"\ndata.train = [\"rows.jsonl\"]\ntrain.steps = 2\n";

/// Lays everything out but runs.
pub fn furnish(folder: &Path) {
    for name in ["models", "data", "runs"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    for (name, fixture) in MODELS {
        symlink(root().join("tests/fixtures").join(fixture), folder.join(name)).unwrap();
    }
    symlink(root().join("configs"), folder.join("configs")).unwrap();
    let (mut rows, mut texts) = (String::new(), String::new());
    for (n, word) in
        ["glass", "drop", "retort", "answer", "question", "fire", "water", "salt"].iter().enumerate()
    {
        let _ = writeln!(rows, "{{\"prompt\": \"What is {n}?\", \"response\": \"The {word}.\"}}");
        let _ =
            writeln!(texts, "{{\"text\": \"The {word} fills the glass, and {n} drops are left of it.\"}}");
    }
    ROWS.iter().for_each(|name| std::fs::write(folder.join(name), &rows).unwrap());
    TEXTS.iter().for_each(|name| std::fs::write(folder.join(name), &texts).unwrap());
    std::fs::write(folder.join("run.toml"), RUN).unwrap();
    std::fs::write(folder.join("said"), "Hello\n").unwrap();
}

/// A finished run with held-out rows, that stands for every run a page speaks of and has not made.
pub fn finished_run(folder: &Path) -> PathBuf {
    furnish(folder);
    let run = folder.join("runs/finished");
    let set = |setting: &str| ["--set".to_string(), setting.to_string()];
    let status = Command::new(env!("CARGO_BIN_EXE_retort"))
        .args(["distill", "run.toml", "--out", "runs/finished", "--quiet"])
        .args(["data.valid=rows.jsonl", "data.max_response=8", "eval.prompts=2"].iter().flat_map(|s| set(s)))
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    assert!(run.join("best/config.json").exists(), "{}", String::from_utf8_lossy(&status.stderr));
    run
}

/// Puts finished runs where a command speaks of some that nobody made. `--out` names what is made by it.
pub fn provide_runs(folder: &Path, command: &str, finished: &Path) {
    let words: Vec<&str> = command.split_whitespace().map(|w| w.trim_end_matches("...")).collect();
    for (n, word) in words.iter().enumerate() {
        let made = n > 0 && words[n - 1] == "--out";
        let name = match word.split('/').collect::<Vec<_>>()[..] {
            ["RUN", ..] => "RUN".to_string(),
            ["runs", name, ..] => format!("runs/{name}"),
            _ => continue,
        };
        let place = folder.join(name);
        if !made && !place.exists() {
            symlink(finished, place).unwrap();
        }
    }
}
