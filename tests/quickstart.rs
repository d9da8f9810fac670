//! The quickstart cut short: what it writes, what it answers, that it goes on where it was stopped; and the
//! examples that stand on its task.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

#[expect(dead_code, reason = "other tests use more of it")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use retort::eval::rouge;
use serde_json::Value;
use support::{Answer, command, finish};

const LIMIT: Duration = Duration::from_secs(300);

/// The quickstart with so few updates and rows that nothing is learnt.
fn short(out: &Path, more: &[&str]) -> Answer {
    let mut arguments = vec!["quickstart", "--out", out.to_str().unwrap(), "--dtype", "f32"];
    arguments.extend(["--prompts", "100", "--held-out", "16"]);
    for setting in ["train.steps=2", "train.eval_every=2", "train.batch=8", "eval.prompts=8"] {
        arguments.extend(["--set", setting]);
    }
    arguments.extend(more);
    finish(command(&arguments), LIMIT)
}

fn object(answer: &Answer) -> Value {
    assert_eq!(answer.code, 0, "{}", answer.err);
    serde_json::from_str(answer.out.lines().last().unwrap()).unwrap()
}

fn rows(file: &Path) -> Vec<Value> {
    std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn everything_is_written_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("qs");
    let first = object(&short(&out, &["--json"]));
    let models = first["models"].as_array().unwrap();
    let names: Vec<&str> = models.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["teacher", "sft", "kd", "seqkd", "minillm"]);
    for model in models {
        assert!(Path::new(model["path"].as_str().unwrap()).join("config.json").exists(), "{model}");
        for key in ["params", "rouge_l", "exact_match", "valid", "reverse_kl", "exposure"] {
            assert!(model[key].is_number(), "{key} of {model}");
        }
    }
    let (teacher, student) = (&models[0], &models[4]);
    assert!(teacher["params"].as_u64() > Some(10 * student["params"].as_u64().unwrap()));
    assert!(teacher["reverse_kl"].as_f64().unwrap().abs() < 1e-9 && teacher["exposure"] == 0.0);
    assert!(Path::new(first["report"].as_str().unwrap()).exists());

    // Rows with replies are the first of the prompts; nothing held out is learnt.
    let (learnt, prompts) = (rows(&out.join("data/train.jsonl")), rows(&out.join("data/prompts.jsonl")));
    assert!(
        learnt.iter().zip(&prompts).all(|(a, b)| a["prompt"] == b["prompt"]) && learnt.len() < prompts.len()
    );
    let held = PathBuf::from(first["held_out"].as_str().unwrap());
    assert!(rows(&held).iter().all(|row| !prompts.iter().any(|p| p["prompt"] == row["prompt"])));

    // The table's Rouge-L is that of what `generate` replies.
    let path = student["path"].as_str().unwrap();
    let said = finish(
        command(&[
            "generate",
            "--model",
            path,
            "--input",
            held.to_str().unwrap(),
            "--json",
            "--dtype",
            "f32",
        ]),
        LIMIT,
    );
    assert_eq!(said.code, 0, "{}", said.err);
    let scores: Vec<f64> = said
        .out
        .lines()
        .zip(rows(&held))
        .map(|(line, row)| {
            let reply: Value = serde_json::from_str(line).unwrap();
            let references: Vec<&str> =
                row["response"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
            100.0 * rouge::best(&references, reply["response"].as_str().unwrap()).unwrap()
        })
        .collect();
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    assert!((mean - student["rouge_l"].as_f64().unwrap()).abs() < 1e-9, "{mean} and {}", student["rouge_l"]);

    // A second call trains nothing and finds the same.
    let stamp = |run: &str| {
        std::fs::metadata(out.join(run).join("final/model.safetensors")).unwrap().modified().unwrap()
    };
    let before = stamp("runs/minillm");
    let second = object(&short(&out, &["--json"]));
    assert_eq!(before, stamp("runs/minillm"));
    for (a, b) in models.iter().zip(second["models"].as_array().unwrap()) {
        assert_eq!((&a["rouge_l"], &a["exposure"]), (&b["rouge_l"], &b["exposure"]));
    }
    // Told in words it is the same: a line a model, what the columns are, and how to go on.
    let told = short(&out, &[]);
    for model in models {
        let of = |line: &&str| line.split_whitespace().next() == model["name"].as_str();
        let line = told.out.lines().find(of).unwrap_or_else(|| panic!("{model}: {}", told.out));
        assert!(line.contains(&format!("{:.1}", model["rouge_l"].as_f64().unwrap())), "{line}");
    }
    for said in ["minillm - sft: Rouge-L", "valid: the reply answers", "retort chat --model", "report.html"] {
        assert!(told.out.contains(said), "{said}: {}", told.out);
    }
}

/// The promise, whole: minutes of training, so only where it is asked for.
#[test]
fn minillm_is_ahead_of_sft_and_kd() {
    let Some(seeds) = std::env::var("RETORT_TEST_QUICKSTART").ok().and_then(|n| n.parse::<u64>().ok()) else {
        return eprintln!(
            "SKIPPED: set RETORT_TEST_QUICKSTART to a number of seeds to run the whole quickstart"
        );
    };
    for seed in 1..=seeds {
        let dir = tempfile::tempdir().unwrap();
        let (out, seed) = (dir.path().join("qs"), seed.to_string());
        let arguments = ["quickstart", "--out", out.to_str().unwrap(), "--seed", &seed, "--json"];
        let found = object(&finish(command(&arguments), Duration::from_secs(1800)));
        let of = |name: &str, key: &str| {
            let model = found["models"].as_array().unwrap().iter().find(|m| m["name"] == name).unwrap();
            model[key].as_f64().unwrap()
        };
        for other in ["sft", "kd"] {
            for (key, sign) in [("rouge_l", 1.0), ("valid", 1.0), ("reverse_kl", -1.0), ("exposure", -1.0)] {
                assert!(sign * of("minillm", key) > sign * of(other, key), "{seed} {other} {key}: {found}");
            }
        }
    }
}

#[test]
fn another_ones_folder_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let answer = short(dir.path(), &["--json"]);
    assert_eq!((answer.code, answer.out.as_str()), (2, ""));
    assert!(answer.err.contains("--out"), "{}", answer.err);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// An example that `cargo test` has built.
fn example(name: &str) -> Command {
    let programs = std::env::current_exe().unwrap();
    let mut command = Command::new(programs.parent().unwrap().join("../examples").join(name));
    command.env("OMP_NUM_THREADS", "1");
    command
}

#[test]
fn a_policy_of_ones_own_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = example("custom_policy");
    command.arg(dir.path());
    let answer = finish(command, LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let first = &rows(&dir.path().join("run/metrics.jsonl"))[0];
    let loss = |name: &str| first[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {first}"));
    assert!((loss("loss") - 0.5 * (loss("forward_kl") + loss("reverse_kl"))).abs() < 1e-6);
    assert!(dir.path().join("run/final/config.json").exists());
}

#[test]
fn directions_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = example("kl_directions");
    command.arg(dir.path()).args(["4", "4"]);
    let answer = finish(command, LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let found: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("directions.json")).unwrap()).unwrap();
    let fit = |name: &str| {
        let all = found["gaussians"].as_array().unwrap();
        let fit = all.iter().find(|fit| fit["objective"] == name).unwrap();
        (fit["mean"].as_f64().unwrap(), fit["deviation"].as_f64().unwrap())
    };
    // Forward KL has the mixture's moments: mean -0.32, variance 0.6 (0.49 + 1.68^2) + 0.4 (0.81 + 2.52^2).
    let (mean, deviation) = fit("forward KL");
    assert!((mean + 0.32).abs() < 0.02 && (deviation - 4.8516_f64.sqrt()).abs() < 0.02, "{mean} {deviation}");
    // Reverse KL, and samples of its gradient, take the heavier mode.
    for name in ["reverse KL", "MiniLLM"] {
        let (mean, deviation) = fit(name);
        assert!((mean + 2.0).abs() < 0.15 && (deviation - 0.7).abs() < 0.15, "{name}: {mean} {deviation}");
    }
    assert_eq!(found["models"].as_array().unwrap().len(), 7);
    assert!(dir.path().join("directions.html").exists() && dir.path().join("gaussians.svg").exists());
}

/// Two seeds, one update a run: what is chosen did best on validation, and the tables say what was measured.
#[test]
fn methods_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = example("methods");
    command.arg(dir.path()).args(["2", "25", "2"]);
    command.args(["train.steps=1", "train.eval_every=1", "train.batch=4"]);
    command.args(["eval.prompts=2", "data.max_response=8"]);
    let answer = finish(command, LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let found: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("methods.json")).unwrap()).unwrap();
    let (names, values) = (found["names"].as_array().unwrap(), found["values"].as_array().unwrap());
    let number = |method: usize, seed: usize, column: usize| values[method][seed][column].as_f64().unwrap();
    assert_eq!((names.len(), values.len()), (8, 8));
    let text = std::fs::read_to_string(dir.path().join("methods.md")).unwrap();
    assert!(answer.out.ends_with(&format!("{text}\n")), "{}", answer.out);
    let tables: Vec<&str> = text.split("MiniLLM minus").collect();
    for (n, name) in names.iter().map(|name| name.as_str().unwrap()).enumerate() {
        assert!(values[n].as_array().unwrap().len() == 2 && (n == 0) == (name == "teacher"), "{values:?}");
        // Student's t with one degree of freedom is 12.706: the half width is that by half of what is between.
        let [a, b] = [number(n, 0, 0), number(n, 1, 0)];
        let cell = format!("| {name} | {:.1} ± {:.1} |", (a + b) / 2.0, 12.706 * (a - b).abs() / 2.0);
        assert!(tables[0].contains(&cell), "{cell}: {text}");
        let own = names.iter().position(|name| name.as_str().unwrap().starts_with("minillm")).unwrap();
        let apart = (number(own, 0, 3) + number(own, 1, 3) - number(n, 0, 3) - number(n, 1, 3)) / 2.0;
        let line = tables[1].lines().find(|line| line.starts_with(&format!("| {name} |")));
        let cell = format!(" {apart:.3} ± ").replace("-0.000", "0.000");
        assert!(n == own || line.unwrap().replace("-0.000", "0.000").contains(&cell), "{cell}: {text}");
    }
    // What validation says of each rate stands before the tables, and the best of them is taken.
    let lines = || answer.out.lines().filter(|line| line.starts_with("  ") && line.contains(": "));
    assert_eq!(lines().count(), 7, "{}", answer.out);
    for line in lines() {
        let (name, rates) = line[2..].split_at(16);
        let rates: Vec<(&str, f64)> = rates
            .split_whitespace()
            .collect::<Vec<_>>()
            .chunks(2)
            .map(|pair| (pair[0].trim_end_matches(':'), pair[1].parse().unwrap()))
            .collect();
        let chosen = names.iter().find_map(|said| {
            said.as_str()
                .unwrap()
                .strip_prefix(&format!("{} (lr ", name.trim()))
                .map(|lr| lr.trim_end_matches(')'))
        });
        let at =
            rates.iter().find(|(lr, _)| Some(*lr) == chosen).unwrap_or_else(|| panic!("{chosen:?}: {line}"));
        assert!(rates.len() >= 3 && rates.iter().all(|(_, mean)| *mean <= at.1), "{line}");
    }
}

/// Ten images a class as idx files: a bright square whose place is the class.
fn images(folder: &Path, name: &str, rows: usize) {
    let header = |sizes: &[usize]| -> Vec<u8> {
        let words = std::iter::once(0x800 + sizes.len() as u32).chain(sizes.iter().map(|n| *n as u32));
        words.flat_map(u32::to_be_bytes).collect()
    };
    let pixel = |row: usize, at: usize| {
        let (x, y, class) = (at % 28, at / 28, row % 10);
        if x / 5 == class % 5 && y / 14 == class / 5 { 255u8 } else { (row * 7 + at * 3) as u8 % 64 }
    };
    let pixels = (0..rows).flat_map(|row| (0..28 * 28).map(move |at| pixel(row, at)));
    let all: Vec<u8> = header(&[rows, 28, 28]).into_iter().chain(pixels).collect();
    std::fs::write(folder.join(format!("{name}-images-idx3-ubyte")), all).unwrap();
    let labels: Vec<u8> = header(&[rows]).into_iter().chain((0..rows).map(|row| (row % 10) as u8)).collect();
    std::fs::write(folder.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
}

/// The five columns, each with the updates that it should have; a second call has nothing left to do.
#[test]
fn the_gap_is_measured_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    images(dir.path(), "train", 512);
    images(dir.path(), "t10k", 100);
    let run = || {
        let mut command = example("generalization_gap");
        command.arg(dir.path()).arg(dir.path().join("gap")).args(["512", "2", "1"]);
        finish(command, LIMIT)
    };
    let answer = run();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let bytes = std::fs::read(dir.path().join("gap/gap.json")).unwrap();
    let cells: Value = serde_json::from_slice(&bytes).unwrap();
    let updates: Vec<u64> =
        cells.as_array().unwrap().iter().map(|c| c["updates"].as_u64().unwrap()).collect();
    assert_eq!(updates, [32, 4, 4, 4, 32]);
    for (n, cell) in cells.as_array().unwrap().iter().enumerate() {
        let right = cell["accuracy"].as_f64().unwrap();
        // Classes are told apart by a square; what has learnt for 32 updates sees it.
        assert!(if [0, 4].contains(&n) { right > 50.0 } else { right <= 100.0 }, "{cell}");
    }
    let table = || std::fs::read_to_string(dir.path().join("gap/gap.md")).unwrap();
    let before = table();
    assert!(before.contains("| + ghost batch norm | 4 |"), "{before}");
    std::fs::remove_file(dir.path().join("gap/gap.md")).unwrap();
    run();
    assert_eq!(before, table(), "times in: nothing was trained again");
    std::fs::write(dir.path().join("t10k-labels-idx1-ubyte"), [0, 0, 8, 1]).unwrap();
    let broken = run();
    assert!(broken.code != 0 && broken.err.contains("not an idx file"), "{}", broken.err);
}

#[test]
fn branches_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = example("critical_batch");
    command.arg(dir.path()).args(["4", "32"]);
    let answer = finish(command, LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let table = std::fs::read_to_string(dir.path().join("critical.md")).unwrap();
    for (batch, updates, lr) in [(4, 8, "2.50e-4"), (8, 4, "3.54e-4"), (16, 2, "5.00e-4"), (32, 1, "7.07e-4")]
    {
        assert!(table.contains(&format!("| {batch} | {updates} | {lr} |")), "{table}");
    }
    assert!(table.contains("Critical batch by branching: "), "{table}");
    // The rates that the table says are those that the runs had.
    let metrics = rows(&dir.path().join("batch-32/metrics.jsonl"));
    let lr = metrics.iter().find_map(|line| line["lr"].as_f64()).unwrap();
    assert!((lr - 5e-4 * 2f64.sqrt()).abs() < 1e-12, "{lr}");
}

/// Runs of one, two and four processes, beside what the model of their cost says: bytes to a hundredth.
#[test]
fn what_processes_cost_is_predicted() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    let row = |n: usize| {
        format!(
            "{{\"prompt_len\": 4, \"ids\": {:?}}}\n",
            (0..24).map(|t| (n * 31 + t * 7) % 320).collect::<Vec<_>>()
        )
    };
    std::fs::write(&rows, (0..64).map(row).collect::<String>()).unwrap();
    let model = support::fixture("score/llama");
    let mut command = example("processes");
    command.arg(env!("CARGO_BIN_EXE_retort")).args([&model, &model, &rows, &dir.path().join("out")]).arg("2");
    let answer = finish(command, LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_string()).collect::<Vec<_>>();
    let table: Vec<Vec<String>> = answer.out.lines().skip(2).map(cells).collect();
    assert_eq!(table.len(), 10, "{}", answer.out);
    let number = |cell: &str| cell.parse::<f64>().unwrap();
    for line in &table {
        let (processes, ranks) = (number(&line[2][..1]) as usize, line[7].split(',').count());
        assert_eq!(processes, ranks, "{line:?}");
        assert!(number(&line[4]) > 0.0 && number(&line[8]) > 0.0, "{line:?}");
        if line[1] == "sft" && processes > 1 {
            let (sent, predicted) = (number(&line[9]), number(&line[10]));
            assert!((sent / predicted - 1.0).abs() < 0.01, "{line:?}");
            assert!(number(&line[5]) > 0.0, "{line:?}");
        }
    }
    let mut command = example("processes");
    command.arg("scaling");
    let answer = finish(command, LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(answer.out.lines().filter(|line| line.starts_with("| 1024 ")).count(), 4, "{}", answer.out);
    let network = answer.out.lines().filter(|line| line.ends_with("| network |")).count();
    let computing = answer.out.lines().filter(|line| line.ends_with("| computing |")).count();
    assert!(network > 0 && computing > 0, "{}", answer.out);
    let mut command = example("processes");
    command.arg("nothing");
    assert_ne!(finish(command, LIMIT).code, 0);
}
