//! Hostile model folders, rows and GGUF files, each a small valid one with one thing wrong, through the
//! real binary. Whatever is in a file, the answer is an exit code and a line that says what and where:
//! no panic, no half document, no endless loop, no memory that the file does not have.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

mod config;
mod folder;
mod gguf;
mod header;
mod rows;
mod shards;
#[path = "../support/mod.rs"]
mod support;
mod text;
mod weights;

use std::path::Path;
use std::time::Duration;

use folder::Folder;
use support::{Answer, MOST_MEMORY, command, finish};

/// The longest that a hostile file may keep the program busy.
const LIMIT: Duration = Duration::from_secs(20);

/// What is worth a line in the log of the tests.
const SLOW: Duration = Duration::from_secs(4);

/// What is run on a folder.
#[derive(Debug, Clone, Copy)]
enum Run {
    /// `inspect FOLDER`
    Inspect,
    /// `score --model FOLDER --input FOLDER/rows.jsonl --json`
    Score,
    /// `generate --model FOLDER --greedy --prompt Hi --json`
    Generate,
    /// `generate --model FOLDER --greedy --input FOLDER/rows.jsonl --json`
    Reply,
    /// `import FOLDER/model.gguf --out FOLDER/out`
    Import,
}

/// One row of a table: a folder with one thing wrong, and what must be said of it.
struct Case {
    /// What it guards.
    name: String,
    /// The folder below `tests/fixtures` that it starts from.
    base: &'static str,
    run: Run,
    code: i32,
    /// A piece of the error that no other mistake gives.
    says: String,
    /// The line of rows.jsonl that must be named; 0 for none.
    line: usize,
    change: Box<dyn Fn(&Folder)>,
}

impl Case {
    /// A case on a small Llama; exit code 3.
    fn new(name: impl Into<String>, run: Run, says: &str, change: impl Fn(&Folder) + 'static) -> Self {
        let change = Box::new(change);
        Case { name: name.into(), base: "score/llama", run, code: 3, says: says.into(), line: 0, change }
    }

    fn of(self, base: &'static str) -> Self {
        Case { base, ..self }
    }

    fn code(self, code: i32) -> Self {
        Case { code, ..self }
    }

    /// Everything that is wrong with the answer, in words.
    fn faults(&self) -> Option<String> {
        let folder = Folder::of(self.base);
        (self.change)(&folder);
        let answer = run(self.run, folder.path());
        let mut faults = Vec::new();
        if answer.time > SLOW {
            println!("slow: {} {}", self.name, shown(&answer));
        }
        if answer.code != self.code {
            faults.push(format!("exit code {}, not {}", answer.code, self.code));
        }
        faults.extend(untidy(&answer));
        if !answer.err.contains(&self.says) {
            faults.push(format!("does not say {:?}", self.says));
        }
        if self.line > 0 && !answer.err.contains(&format!("rows.jsonl:{}: ", self.line)) {
            faults.push(format!("does not name line {}", self.line));
        }
        if folder.path().join("out").exists() {
            faults.push("half a folder is left".into());
        }
        let told = format!("{}: {}\n{}", self.name, faults.join("; "), shown(&answer));
        (!faults.is_empty()).then_some(told)
    }
}

fn shown(answer: &Answer) -> String {
    let text: String = answer.err.chars().take(1000).collect();
    format!("    {:.1} s, {} MiB: {text:?}", answer.time.as_secs_f64(), answer.peak >> 20)
}

/// What is wrong with an error answer whatever it is about.
fn untidy(answer: &Answer) -> Vec<String> {
    let mut faults = Vec::new();
    let lines: Vec<&str> = answer.err.lines().collect();
    let advice = lines.len() == 1 || (lines.len() == 2 && lines[1].starts_with("  "));
    if !advice || lines.first().is_none_or(|l| !l.starts_with("retort: ")) || answer.err.len() > 2000 {
        faults.push("not one line and at most one of advice".into());
    }
    if lines.iter().any(|l| l.contains("panicked") || l.contains("a bug") || l.contains("libtorch")) {
        faults.push("says that the program is wrong, not the file".into());
    }
    if !answer.out.is_empty() {
        faults.push(format!("an answer beside the error: {:?}", answer.out));
    }
    if answer.code == 137 {
        faults.push("no end".into());
    }
    if answer.peak > MOST_MEMORY {
        faults.push("too much memory".into());
    }
    faults
}

fn run(run: Run, folder: &Path) -> Answer {
    let at = |name: &str| folder.join(name).display().to_string();
    let (model, rows, gguf, out) = (at(""), at("rows.jsonl"), at("model.gguf"), at("out"));
    let arguments: Vec<&str> = match run {
        Run::Inspect => vec!["inspect", &model],
        Run::Score => vec!["score", "--model", &model, "--input", &rows, "--json", "--dtype", "f32"],
        Run::Generate => {
            vec![
                "generate",
                "--model",
                &model,
                "--greedy",
                "--prompt",
                "Hi",
                "--json",
                "--max-new-tokens",
                "4",
            ]
        }
        Run::Reply => {
            vec!["generate", "--model", &model, "--greedy", "--input", &rows, "--max-new-tokens", "2"]
        }
        Run::Import => vec!["import", &gguf, "--out", &out],
    };
    finish(command(&arguments), LIMIT)
}

/// Runs a table and tells all its faults at once.
fn table(cases: &[Case]) {
    let faults: Vec<String> = cases.iter().filter_map(Case::faults).collect();
    assert!(faults.is_empty(), "{} of {} rows:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

/// The folders that everything starts from are fine, so it is the change that is refused.
#[test]
fn the_folders_are_good_before_the_change() {
    for base in ["score/llama", "score/gpt2", "score/opt", "score/llama2"] {
        for which in [Run::Inspect, Run::Score, Run::Generate] {
            let answer = run(which, Folder::of(base).path());
            assert_eq!((answer.code, answer.err.as_str()), (0, ""), "{base} {which:?}");
            assert!(!answer.out.is_empty() && answer.peak < MOST_MEMORY, "{base} {which:?}");
        }
    }
}

/// A count, so that a table that is no longer called is noticed.
#[test]
fn the_tables_are_as_long_as_they_were() {
    let tables = [
        header::cases(),
        weights::cases(),
        config::cases(),
        shards::cases(),
        text::cases(),
        rows::cases(),
        gguf::cases(),
    ];
    let names: std::collections::HashSet<String> = tables.iter().flatten().map(|c| c.name.clone()).collect();
    let rows: usize = tables.iter().map(Vec::len).sum();
    assert_eq!(rows, names.len(), "two rows have one name");
    assert!(rows >= 80, "{rows} rows");
    println!("{rows} rows");
}

macro_rules! tables {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            table(&crate::$name::cases());
        }
    )*};
}

mod all {
    use super::table;

    tables!(header weights config shards text rows gguf);
}
