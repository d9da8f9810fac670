//! What is measured while a run goes on, and what it decides.

use std::path::PathBuf;

use retort::eval::rouge;
use retort::seed::{Stream, draw};
use serde_json::{Value, json};

use crate::support::{command, finish};
use crate::{Case, LIMIT};

const SHORT: [&str; 6] = [
    "train.steps=20",
    "train.batch=6",
    "train.lr=1e-2",
    "train.schedule=constant",
    "train.eval_every=5",
    "data.max_response=24",
];

/// Six rows that are learnt in a few updates, as words and as tokens, and the folder they are in.
struct Rows(tempfile::TempDir);

impl Rows {
    fn new() -> Rows {
        let rows = Rows(tempfile::tempdir().unwrap());
        let ids = |n| format!("{}\n", json!({"ids": [n, n + 1, n + 2], "prompt_len": 1}));
        std::fs::write(rows.path("ids.jsonl"), (10..16).map(ids).collect::<String>()).unwrap();
        let words = |n| {
            let responses = [format!(" a {n} a retort"), " a vessel".to_string()];
            format!("{}\n", json!({"prompt": format!("{n}?"), "response": responses}))
        };
        std::fs::write(rows.path("words.jsonl"), (0..6).map(words).collect::<String>()).unwrap();
        rows
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn case(&self) -> Case {
        Case::new("sft", &self.path("words.jsonl"))
    }

    fn valid(&self, name: &str) -> String {
        format!("data.valid=[{:?}]", self.path(name).display().to_string())
    }
}

fn samples(case: &Case, out: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(case.path(out).join("samples.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The number of every evaluation, with its step.
fn of(metrics: &[Value], name: &str) -> Vec<(u64, f64)> {
    let value = |m: &Value| Some((m["step"].as_u64()?, m["eval"][name].as_f64()?));
    metrics.iter().filter_map(value).collect()
}

/// The replies that are scored are those of `generate` to the same prompts, their mean is the number of the
/// evaluation, and the evaluation with the highest is the best model's.
#[test]
fn rouge_l_of_replies_decides_what_is_best() {
    let rows = Rows::new();
    let (case, valid) = (rows.case(), rows.valid("words.jsonl"));
    let answer = case.good("run", &[&SHORT[..], &[valid.as_str()]].concat(), &[]);
    let metrics = case.metrics("run");
    let found = of(&metrics, "rouge_l");
    assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 5, 10, 15, 20]);
    let samples = samples(&case, "run");
    assert_eq!(samples.len(), 5 * 6, "six held-out rows, all shown");
    for (step, mean) in &found {
        let own: Vec<&Value> = samples.iter().filter(|s| s["step"] == *step).collect();
        let scores = own.iter().map(|s| {
            let references: Vec<&str> =
                s["references"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
            let score = 100.0 * rouge::best(&references, s["response"].as_str().unwrap()).unwrap();
            assert_eq!(score, s["rouge_l"].as_f64().unwrap(), "{s}");
            score
        });
        let sum: f64 = scores.sum();
        assert!((sum / own.len() as f64 - mean).abs() < 1e-9, "update {step}: {mean}");
    }
    let eval = &metrics.last().unwrap()["eval"];
    let ends = ["rouge_l_low", "rouge_l", "rouge_l_high"].map(|name| eval[name].as_f64().unwrap());
    assert!(ends.is_sorted() && eval["prompts"] == 6, "{eval}");
    let told: Value = serde_json::from_str(answer.out.trim()).unwrap();
    let best =
        found[1..].iter().fold((0, -1.0), |best, &(step, x)| if x > best.1 { (step, x) } else { best });
    assert!(best.1 > 0.0, "no reply has a word of its reference: {found:?}");
    assert_eq!(
        (told["best"]["step"].as_u64(), told["best"]["rouge_l"].as_f64()),
        (Some(best.0), Some(best.1))
    );
    let losses = of(&metrics, "valid_loss");
    assert_eq!(losses.len(), 5, "the loss is measured as well");
    let last: Vec<&str> =
        samples.iter().filter(|s| s["step"] == 20).map(|s| s["response"].as_str().unwrap()).collect();
    let (model, seed) = (case.path("run/final"), draw(1, Stream::Sample, u64::MAX, 0).to_string());
    let rows = rows.path("words.jsonl");
    let arguments = ["generate", "--model", model.to_str().unwrap(), "--input", rows.to_str().unwrap()];
    let more = ["--template", "plain", "--seed", &seed, "--max-new-tokens", "24", "--dtype", "f32", "--json"];
    let generated = finish(command(&[&arguments[..], &more].concat()), LIMIT);
    assert_eq!(generated.code, 0, "{}", generated.err);
    let replies: Vec<Value> = generated.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(replies.iter().map(|r| r["response"].as_str().unwrap()).collect::<Vec<_>>(), last);
}

/// Held-out prompts alone: they are replied to, how the replies end and how long they are is measured, and nothing says
/// what is best. Beside rows with responses they are replied to as well, and Rouge-L is of the others.
#[test]
fn prompts_alone_are_replied_to() {
    let rows = Rows::new();
    let asks: String = (0..3).map(|n| format!("{}\n", json!({"prompt": format!("{n}?")}))).collect();
    std::fs::write(rows.path("asks.jsonl"), asks).unwrap();
    let (case, alone) = (rows.case(), rows.valid("asks.jsonl"));
    let answer = case.good("run", &[&SHORT[..], &[alone.as_str()]].concat(), &[]);
    assert!(answer.err.contains("nothing says what is best"), "{}", answer.err);
    let metrics = case.metrics("run");
    let eval = &metrics.last().unwrap()["eval"];
    assert!(eval["prompts"] == 3 && eval["valid_loss"].is_null() && eval["rouge_l"].is_null(), "{eval}");
    let samples = samples(&case, "run");
    let last: Vec<&Value> = samples.iter().filter(|s| s["step"] == 20).collect();
    let ended = last.iter().filter(|s| s["finish"] == "eos").count() as f64;
    assert!(last.len() == 3 && last.iter().all(|s| s["rouge_l"].is_null()), "{last:?}");
    assert_eq!(eval["eos_rate"].as_f64(), Some(ended / 3.0));
    assert!(eval["length"].as_f64().is_some_and(|n| (1.0..=24.0).contains(&n)), "{eval}");
    assert!(!case.path("run/best").exists() && case.path("run/final").exists());
    let told = case.good("planned", &[&SHORT[..], &[alone.as_str()]].concat(), &["--dry-run"]);
    let told: Value = serde_json::from_str(told.out.trim()).unwrap();
    assert_eq!(told["valid"]["rows"], 3, "{told}");

    let both = alone.replace(']', &format!(", {:?}]", rows.path("words.jsonl").display().to_string()));
    case.good("both", &[&SHORT[..], &[both.as_str()]].concat(), &[]);
    let both = case.metrics("both");
    assert_eq!(both.last().unwrap()["eval"]["prompts"], 9);
    case.good("words", &[&SHORT[..], &[rows.valid("words.jsonl").as_str()]].concat(), &[]);
    let words = case.metrics("words");
    assert_eq!(of(&both, "valid_loss"), of(&words, "valid_loss"));
    assert!(case.path("both/best").exists() && of(&both, "rouge_l").len() == 5);
}

/// Fewer prompts than rows are spread over them.
#[test]
fn prompts_are_as_many_as_asked_for() {
    let rows = Rows::new();
    let (case, valid) = (rows.case(), rows.valid("words.jsonl"));
    let more = [valid.as_str(), "eval.prompts=3", "train.best=valid-loss", "train.steps=1"];
    let answer = case.good("run", &[&SHORT[1..], &more].concat(), &[]);
    let rows: Vec<u64> = samples(&case, "run").iter().map(|s| s["row"].as_u64().unwrap()).collect();
    assert_eq!(rows, [1, 3, 5, 1, 3, 5]);
    assert_eq!(case.metrics("run").last().unwrap()["eval"]["prompts"], 3);
    let told: Value = serde_json::from_str(answer.out.trim()).unwrap();
    assert!(told["best"]["valid_loss"].is_number(), "{told}");
}

/// Rows without references, and runs that ask for no replies, are judged by their loss, and say so.
#[test]
fn without_references_the_loss_decides() {
    let rows = Rows::new();
    let (case, valid, ids) = (rows.case(), rows.valid("words.jsonl"), rows.valid("ids.jsonl"));
    for (out, settings, says) in [
        ("ids", vec![ids.as_str()], Some("no row of data.valid has a prompt and a reference")),
        ("none", vec![valid.as_str(), "eval.prompts=0"], Some("eval.prompts = 0")),
        ("loss", vec![valid.as_str(), "train.best=valid-loss"], None),
    ] {
        let answer = case.good(out, &[&SHORT[..], &settings].concat(), &[]);
        let told: Value = serde_json::from_str(answer.out.trim()).unwrap();
        let metrics = case.metrics(out);
        let losses = of(&metrics, "valid_loss");
        let best = losses[1..].iter().fold((0, f64::INFINITY), |b, &(n, x)| if x < b.1 { (n, x) } else { b });
        assert_eq!(told["best"]["step"].as_u64(), Some(best.0), "{out}: {losses:?}");
        assert!(
            of(&metrics, "rouge_l").is_empty() && !case.path(out).join("samples.jsonl").exists(),
            "{out}"
        );
        let warned = answer.err.contains("valid-loss decides");
        assert_eq!(warned, says.is_some(), "{out}: {}", answer.err);
        assert!(says.is_none_or(|says| answer.err.contains(says)), "{out}: {}", answer.err);
    }
}
