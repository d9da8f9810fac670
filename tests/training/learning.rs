//! That training learns what it is there for.

use retort::seed::{Stream, draw, uniform};
use serde_json::json;

use crate::{Case, losses, shape};

/// A student of random weights with the small llama's tokenizer.
pub fn student(case: &Case, name: &str, hidden: i64, layers: i64) -> String {
    let path = shape::llama(&case.path(name), hidden, layers).display().to_string();
    format!("student.model={{ config = {path:?} }}")
}

/// Thirty-two rows are learnt by heart.
#[test]
fn thirty_two_rows_are_learnt_by_heart() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    let words = ["vessel", "neck", "glass", "fire", "salt", "water", "oil", "stone"];
    let row = |n: usize| {
        let (a, b) = (words[n % 8], words[n / 8 * 3 % 8]);
        json!({"prompt": format!("{n} {a}?"), "response": format!(" {b} and {a}, {}", n * 7 % 32)})
            .to_string()
    };
    std::fs::write(&rows, (0..32).map(|n| row(n) + "\n").collect::<String>()).unwrap();
    let case = Case::new("sft", &rows);
    let student = student(&case, "student", 64, 2);
    let settings =
        [student.as_str(), "train.steps=200", "train.batch=32", "train.lr=1e-2", "train.warmup=10"];
    case.good("run", &settings, &[]);
    let losses = losses(&case.metrics("run"));
    assert!(losses[0] > 4.0, "it begins at {}", losses[0]);
    assert!(losses[199] < 0.02, "it ends at {}", losses[199]);
}

/// Sequences of a chain of forty words, each with four that may follow it, more and less likely.
pub fn chain(seed: u64, rows: u64, words: usize) -> String {
    let follower = |word: u64, which: u64| draw(7, Stream::Bootstrap, word, which) % 40;
    let row = |n: u64| {
        let mut word = draw(seed, Stream::Sample, n, 0) % 40;
        let mut ids = vec![word + 10];
        for at in 1..words as u64 {
            let u = uniform(seed, Stream::Sample, n, at);
            word = follower(word, [0.45, 0.75, 0.92].iter().filter(|&&end| u >= end).count() as u64);
            ids.push(word + 10);
        }
        format!("{}\n", json!({"ids": ids, "prompt_len": 1}))
    };
    (0..rows).map(row).collect()
}

/// A teacher that has seen many rows of a chain, few rows to learn from, and rows that neither has seen.
pub struct Lesson {
    _dir: tempfile::TempDir,
    _schooling: Case,
    /// The setting that names the teacher.
    pub teacher: String,
    pub few: std::path::PathBuf,
    /// The setting that names the rows that nobody has seen.
    pub valid: String,
}

impl Lesson {
    pub fn new() -> Lesson {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let many = file("many.jsonl", chain(1, 1500, 20));
        let (few, held) = (file("few.jsonl", chain(2, 40, 20)), file("held.jsonl", chain(3, 60, 20)));
        let schooling = Case::new("sft", &many);
        let teacher = student(&schooling, "teacher", 48, 2);
        schooling.good(
            "run",
            &[teacher.as_str(), "train.steps=250", "train.batch=32", "train.lr=1e-2", "train.warmup=20"],
            &[],
        );
        let teacher = format!("teacher.model={:?}", schooling.text("run/final"));
        let valid = format!("data.valid={:?}", held.display().to_string());
        Lesson { _dir: dir, _schooling: schooling, teacher, few, valid }
    }
}

/// Few rows, a teacher that has seen many: the student that hears it is nearer to it on rows that neither has
/// seen, on every seed and by a margin.
#[test]
fn a_teacher_beats_its_absence_on_held_out_rows() {
    let Lesson { teacher, few, valid, .. } = &Lesson::new();
    for seed in 1..=3 {
        let seed = format!("seed={seed}");
        let far = |policy: &str| {
            let case = Case::new(policy, few);
            let student = student(&case, "student", 32, 1);
            let more = ["train.steps=120", "train.batch=20", "train.lr=1e-2", "train.eval_every=120"];
            let given = [student.as_str(), teacher.as_str(), valid.as_str(), seed.as_str()];
            case.good("run", &[&given[..], &more].concat(), &[]);
            let metrics = case.metrics("run");
            metrics.last().unwrap()["eval"]["forward_kl"].as_f64().unwrap()
        };
        let (sft, kd) = (far("sft"), far("kd"));
        eprintln!("{seed}: forward KL on held-out rows: sft {sft:.3}, kd {kd:.3}");
        assert!(kd < 0.7 * sft, "{seed}: sft {sft}, kd {kd}");
    }
}
