//! The large-batch regime in runs, and what is measured of where weights go and how noisy gradients are.

use serde_json::Value;

use crate::support::{command, finish, fixture};
use crate::{Case, losses, tensors};

fn case() -> Case {
    Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"))
}

fn numbers(metrics: &[Value], key: &str) -> Vec<f64> {
    metrics.iter().filter_map(|m| m[key].as_f64()).collect()
}

fn near(a: f64, b: f64, within: f64) -> bool {
    (a - b).abs() <= within * b.abs().max(1e-12)
}

/// The lines that hold this object.
fn objects(metrics: &[Value], key: &str) -> Vec<Value> {
    metrics.iter().filter(|m| m.get(key).is_some()).cloned().collect()
}

/// `hoffer` has the small batch's updates, warm-up and course at a rate sqrt(kappa) as high; `sde` its epochs.
#[test]
fn a_regime_keeps_updates_or_epochs() {
    let case = case();
    let recipe =
        ["train.epochs=4", "train.lr=1e-3", "train.warmup=4", "train.schedule=linear", "train.min_lr=1e-4"];
    let with = |more: &[&'static str]| [&recipe[..], more].concat();
    case.good("small", &with(&["train.batch=1"]), &[]);
    let small = numbers(&case.metrics("small"), "lr");
    assert_eq!(small.len(), 24);
    let regime = ["train.batch=4", "train.regime.reference_batch=1", "train.betas=[0.9, 0.95]"];
    let hoffer = with(&[&regime[..], &["train.regime.kind=hoffer"]].concat());
    case.good("hoffer", &hoffer, &[]);
    let rates = numbers(&case.metrics("hoffer"), "lr");
    assert_eq!(rates.len(), 24);
    assert!(rates.iter().zip(&small).all(|(a, b)| near(*a, 2.0 * b, 1e-12)), "{rates:?} and {small:?}");
    let text = std::fs::read_to_string(case.path("hoffer/config.toml")).unwrap();
    for line in ["[train.regime]\nkind = \"hoffer\"\nreference_batch = 1\n", "lr = 0.001\n", "warmup = 4\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("regime = \"hoffer: 24 updates, warm-up 4, lr 0.002 to 2e-4, betas 0.9"), "{text}");
    let sde = with(&[&regime[..], &["train.regime.kind=sde"]].concat());
    case.good("sde", &sde, &[]);
    assert_eq!(numbers(&case.metrics("sde"), "lr").len(), 6);
    let answer = case.good("plan", &sde, &["--dry-run"]);
    let plan: Value = serde_json::from_str(answer.out.trim()).unwrap();
    assert_eq!((plan["steps"].as_u64(), plan["regime"]["warmup"].as_u64()), (Some(6), Some(1)), "{plan}");
    assert!(near(plan["regime"]["betas"][0].as_f64().unwrap(), 0.6, 1e-12), "{plan}");
    assert!(near(plan["regime"]["eps"].as_f64().unwrap(), 5e-9, 1e-12), "{plan}");
    assert!(text.contains("updates = \"24\""), "{text}");
    let answer = finish(command(&["inspect", &case.text("sde"), "--json"]), crate::LIMIT);
    let told: Value = serde_json::from_str(answer.out.trim()).unwrap();
    assert_eq!((told["done"].as_u64(), told["steps"].as_u64()), (Some(6), Some(6)), "{told}");
    // A resumed run is the same one, and another reference another.
    case.good("hoffer", &hoffer, &["--resume"]);
    let other: Vec<&str> = hoffer.iter().map(|s| s.trim_end_matches("=1")).collect();
    let other: Vec<String> = other
        .iter()
        .map(|s| if s.ends_with("reference_batch") { format!("{s}=2") } else { s.to_string() })
        .collect();
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let answer = case.run("hoffer", &other, &["--resume"]);
    assert!(answer.code == 2 && answer.err.contains("train.regime.reference_batch"), "{}", answer.err);
}

/// Noise multiplies gradients and no loss, is the same for any cut and when a run goes on, and lets the rate be.
#[test]
fn noise_is_of_run_step_and_row() {
    let case = case();
    let plain = ["train.steps=4", "train.batch=4", "train.lr=1e-3", "train.schedule=constant"];
    let regime =
        ["train.regime.kind=hoffer", "train.regime.reference_batch=1", "train.regime.noise=multiplicative"];
    let noisy = [&plain[..], &regime].concat();
    case.good("plain", &plain, &[]);
    case.good("noisy", &noisy, &[]);
    let (quiet, loud) = (case.metrics("plain"), case.metrics("noisy"));
    assert_eq!(numbers(&quiet, "lr"), numbers(&loud, "lr"));
    assert_eq!(losses(&quiet)[0], losses(&loud)[0], "the first loss is before any update");
    let norms = |metrics: &[Value]| numbers(metrics, "grad_norm");
    assert!(!near(norms(&quiet)[0], norms(&loud)[0], 1e-2));
    case.good("cut", &[&noisy[..], &["train.micro_batch=1"]].concat(), &[]);
    let cut = case.metrics("cut");
    for (a, b) in norms(&loud).iter().zip(norms(&cut)) {
        assert!(near(*a, b, 1e-4), "{a} and {b}: a row's draw does not depend on the cut");
    }
    let half: Vec<&str> =
        noisy.iter().map(|s| if *s == "train.steps=4" { "train.steps=2" } else { *s }).collect();
    case.good("two", &half, &[]);
    case.good("two", &noisy, &["--resume"]);
    assert_eq!(case.bytes("two", "final/model.safetensors"), case.bytes("noisy", "final/model.safetensors"));
    case.good("seed", &[&noisy[..], &["seed=2"]].concat(), &[]);
    assert!(!near(norms(&case.metrics("seed"))[0], norms(&loud)[0], 1e-3));
}

fn distances(case: &Case, run: &str) -> Vec<Value> {
    objects(&case.metrics(run), "distance")
}

/// The norm of the difference of two models.
fn far(case: &Case, run: &str, start: &std::path::Path) -> f64 {
    let (now, begun) = (tensors(&case.path(run).join("final/model.safetensors")), tensors(start));
    let square = |(name, t): (&String, &tch::Tensor)| {
        (t - &begun[name]).square().sum(tch::Kind::Double).double_value(&[])
    };
    now.iter().map(square).sum::<f64>().sqrt()
}

const MEASURED: [&str; 5] = [
    "train.batch=2",
    "train.lr=1e-2",
    "train.schedule=constant",
    "train.warmup=3",
    "train.measure_distance=true",
];

/// The distance on log-spaced updates, of the whole and of blocks; the same where a run was stopped in between, and
/// with adapters that of the merged weights.
#[test]
fn distances_are_measured_and_resumed() {
    let case = case();
    let start = fixture("score/llama/model.safetensors");
    let twelve = [&MEASURED[..], &["train.steps=12"]].concat();
    case.good("whole", &twelve, &[]);
    let found = distances(&case, "whole");
    let steps: Vec<u64> = found.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]);
    for line in &found {
        let blocks = line["distance"].as_object().unwrap();
        let sum: f64 =
            blocks.iter().filter(|(k, _)| *k != "whole").map(|(_, x)| x.as_f64().unwrap().powi(2)).sum();
        assert!(near(sum.sqrt(), blocks["whole"].as_f64().unwrap(), 1e-9), "{line}");
        assert!(blocks.contains_key("embedding") && blocks.contains_key("layer_0"), "{line}");
        assert_eq!(line["constant_rate"].as_bool(), Some(line["step"].as_u64().unwrap() > 3));
    }
    let last = found.last().unwrap()["distance"]["whole"].as_f64().unwrap();
    assert!(near(last, far(&case, "whole", &start), 1e-6), "{last}");
    case.good("parts", &[&MEASURED[..], &["train.steps=5"]].concat(), &[]);
    case.good("parts", &twelve, &["--resume"]);
    assert_eq!(case.metrics("parts"), case.metrics("whole"));
    case.good("lora", &[&MEASURED[..], &["train.steps=2", "student.lora.rank=2"]].concat(), &[]);
    let last = distances(&case, "lora").last().unwrap()["distance"]["whole"].as_f64().unwrap();
    assert!(near(last, far(&case, "lora", &start), 1e-5), "{last}");
}

/// A student's folder that changed between two parts of a run is no start to measure from: that is said, and the run
/// goes on.
#[test]
fn a_start_that_changed_is_noticed() {
    let case = case();
    std::fs::create_dir(case.path("student")).unwrap();
    for entry in std::fs::read_dir(fixture("score/llama")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), case.path("student").join(entry.file_name())).unwrap();
    }
    let student = format!("student.model={}", case.text("student"));
    let with = |steps: &'static str| [&MEASURED[..], &[student.as_str(), steps]].concat();
    case.good("run", &with("train.steps=3"), &[]);
    std::fs::copy(case.path("run/final/model.safetensors"), case.path("student/model.safetensors")).unwrap();
    let answer = case.good("run", &with("train.steps=5"), &["--resume"]);
    assert!(answer.err.contains("not what the run began with"), "{}", answer.err);
    assert_eq!((distances(&case, "run").len(), losses(&case.metrics("run")).len()), (3, 5));
}

/// Two rows of as many tokens: the estimate is that of the formula from the gradients of each row alone, the update is
/// what it would have been, and the averages go on where they were.
#[test]
fn the_noise_scale_is_that_of_the_formula() {
    let case = case();
    let rows = ["{\"ids\":[5,6,7,8,9],\"prompt_len\":2}\n", "{\"ids\":[9,8,7,6,5],\"prompt_len\":2}\n"];
    for (name, text) in
        [("one", rows[0].to_string()), ("other", rows[1].to_string()), ("both", rows.concat())]
    {
        std::fs::write(case.path(name), text).unwrap();
    }
    let run = |out: &str, file: &str, more: &[&str]| {
        let data = format!("data.train={}", case.text(file));
        let settings =
            [&["train.lr=1e-3", "train.batch=2", "train.schedule=constant", data.as_str()][..], more]
                .concat();
        case.good(out, &settings, &[]);
        case.metrics(out)
    };
    let norm = |out, file| numbers(&run(out, file, &["train.steps=1"]), "grad_norm")[0];
    let (a, b) = (norm("a", "one"), norm("b", "other"));
    let plain = run("plain", "both", &["train.steps=4"]);
    let measured = run("measured", "both", &["train.steps=4", "train.measure_noise=1"]);
    assert!(losses(&plain).iter().zip(losses(&measured)).all(|(x, y)| near(*x, y, 1e-4)));
    let lines = objects(&measured, "noise_scale");
    assert_eq!(lines.len(), 4);
    let (whole, parts) = (numbers(&plain, "grad_norm")[0].powi(2), 0.5 * (a * a + b * b));
    let (signal, covariance) = (2.0 * whole - parts, (parts - whole) / 0.5);
    let first = &lines[0]["noise_scale"];
    let of = |key: &str| first[key].as_f64().unwrap();
    let within = 1e-3 * parts;
    assert!((of("signal") - signal).abs() < within, "{first}: {signal}");
    assert!((of("covariance") - covariance).abs() < within, "{first}: {covariance}");
    match first["sequences"].as_f64() {
        Some(scale) => assert!(near(scale, of("covariance") / of("signal"), 1e-9)),
        None => assert!(of("signal") <= 0.0 || of("covariance") <= 0.0, "{first}"),
    }
    run("resumed", "both", &["train.steps=2", "train.measure_noise=1"]);
    let data = format!("data.train={}", case.text("both"));
    let all = [
        "train.lr=1e-3",
        "train.batch=2",
        "train.schedule=constant",
        &data,
        "train.steps=4",
        "train.measure_noise=1",
    ];
    case.good("resumed", &all, &["--resume"]);
    assert_eq!(objects(&case.metrics("resumed"), "noise_scale"), lines);
}
