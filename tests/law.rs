//! `retort law`: what it advises, what it makes of files of points, and a grid so small that nothing is learnt.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

#[expect(dead_code, reason = "other tests use more of it")]
mod support;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use retort::config::RunConfig;
use serde_json::Value;
use support::{Answer, command, finish, fixture};

const LIMIT: Duration = Duration::from_secs(300);

fn law(arguments: &[&str]) -> Answer {
    finish(command(&[&["law"], arguments].concat()), LIMIT)
}

fn object(answer: &Answer) -> Value {
    assert_eq!(answer.code, 0, "{}", answer.err);
    serde_json::from_str(answer.out.lines().last().unwrap()).unwrap()
}

#[test]
fn both_laws_advise() {
    let found = object(&law(&["advise", "--student", "120M", "--tokens", "10B", "--json"]));
    assert_eq!(found["student"], 120_000_000);
    assert_eq!(found["capacity_gap"]["teacher"], 288_260_000);
    let scaling = &found["scaling_law"];
    let number = |key: &str| scaling[key].as_f64().unwrap_or_else(|| panic!("{key} of {scaling}"));
    assert!(number("teacher") > number("teacher_without_embeddings"));
    assert!((number("student_loss") - scaling["best"]["student_loss"].as_f64().unwrap() - 0.01).abs() < 1e-6);
    assert!(
        scaling["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|w| w.as_str().unwrap().contains("fitted on 143M"))
    );

    // Of a folder both counts are exact, and with a teacher's tokens the teacher is another.
    let dir = tempfile::tempdir().unwrap();
    let (model, page) = (fixture("gap/near"), dir.path().join("advice.html"));
    let (model, page) = (model.to_str().unwrap(), page.to_str().unwrap());
    let found =
        object(&law(&["advise", "--student", model, "--teacher-tokens", "300B", "--report", page, "--json"]));
    let inspected: Value =
        serde_json::from_str(&finish(command(&["inspect", model, "--json"]), LIMIT).out).unwrap();
    assert_eq!(found["student"], inspected["params"]);
    assert_eq!(found["student_without_embeddings"], inspected["params_without_embeddings"]);
    assert!(found["exact"] == true && found["capacity_gap"]["extrapolated"] == true);
    assert_eq!(found["scaling_law"]["teacher_tokens"], 300_000_000_000u64);
    assert!(std::fs::read_to_string(page).unwrap().matches("<svg").count() >= 3);

    let text = law(&["advise", "--student", "124M"]);
    for said in ["by size", "by loss", "assumes", "measured", "extrapolated", "why"] {
        assert!(text.out.contains(said), "{said}: {}", text.out);
    }
}

#[test]
fn mistakes_of_advice_are_one_line() {
    for (arguments, wanted) in [
        (&["advise", "--student", "120X"][..], "a number of parameters such as 120M"),
        (&["advise", "--student", "0"], "--student"),
        (&["advise", "--student", "1M", "--tokens", "ten"], "--tokens"),
        (&["advise"], "--student"),
        (&["fit", "nowhere.csv"], "no such file: nowhere.csv"),
        (&["run", "nowhere.toml"], "no such file: nowhere.toml"),
    ] {
        let answer = law(arguments);
        assert_eq!((answer.code, answer.out.as_str()), (2, ""), "{arguments:?}: {}", answer.err);
        assert!(answer.err.contains(wanted) && answer.err.lines().count() <= 2, "{wanted}: {}", answer.err);
    }
}

/// Losses with a best teacher at 2.5 times the student, of two arms; the second one only falls.
fn points() -> String {
    let mut text = String::from("arm,student,teacher,seed,loss,remark\n");
    for student in [1.0, 2.0, 4.0] {
        for (n, teacher) in [1.5, 3.0, 6.0, 12.0, 24.0].into_iter().enumerate() {
            for seed in 0..2 {
                let far = f64::ln(teacher / (2.5 * student));
                let noise = 0.002 * f64::from((n as i32 * 7 + seed * 3 + student as i32) % 5 - 2);
                let _ = writeln!(text, "kd,{student}M,{teacher}M,{seed},{},x", 3.0 + 0.1 * far * far + noise);
                let _ = writeln!(
                    text,
                    "alone,{student}M,{teacher}M,{seed},{},x",
                    3.0 - 0.1 * teacher.ln() + noise
                );
            }
        }
    }
    text
}

#[test]
fn points_are_fitted() {
    let dir = tempfile::tempdir().unwrap();
    let (file, page) = (dir.path().join("points.csv"), dir.path().join("fit.html"));
    std::fs::write(&file, points()).unwrap();
    let (file, page) = (file.to_str().unwrap(), page.to_str().unwrap());
    let found = object(&law(&["fit", file, "--out", page, "--json"]));
    assert_eq!((&found["points"], &found["passed_over"][0]), (&60.into(), &"remark".into()));
    for curve in found["curves"].as_array().unwrap() {
        let wanted = if curve["arm"] == "kd" { "inside" } else { "falling" };
        assert_eq!(curve["verdict"], wanted, "{curve}");
    }
    let lines = found["lines"].as_array().unwrap();
    let slope = |end: usize| lines[0]["slope_interval"][end].as_f64().unwrap();
    assert!(lines.len() == 1 && slope(0) < 2.5 && 2.5 < slope(1), "{lines:?}");
    assert!(lines[0]["r2"].as_f64().unwrap() > 0.98);
    assert!(found["scaling"]["missing"][0].as_str().unwrap().contains("trained alone"));
    assert!(std::fs::read_to_string(page).unwrap().contains("no optimum inside the range"));
    let text = law(&["fit", file]).out;
    assert!(
        text.contains("kd: T* = 2.") && text.contains("no optimum inside the range: the largest"),
        "{text}"
    );

    std::fs::write(file, "student,teacher,loss\n1M,2M,NaN\n").unwrap();
    let answer = law(&["fit", file]);
    assert!(answer.code == 3 && answer.err.contains("points.csv:2: loss"), "{}", answer.err);
}

/// A grid of two teachers, one student, three arms and two seeds.
fn grid(folder: &Path) {
    let mut text = String::new();
    for n in 0..400 {
        let _ = writeln!(
            text,
            "{}",
            serde_json::json!({"text": format!("In row {n} there are {} words.", n * 7)})
        );
    }
    std::fs::write(folder.join("text.jsonl"), text).unwrap();
    let shape = |name: &str, hidden: usize| {
        format!("[teachers.{name}]\nhidden = {hidden}\nlayers = 2\nheads = 2\nffn = {}\n", 2 * hidden)
    };
    let config = format!(
        "students = [\"18k\", \"40k\"]\nseeds = [1, 2]\n{}{}[data]\ncorpus = \"{}\"\nsequence = 32\nheld_out = 8\n\
         [train.teacher]\nsteps = 3\nbatch = 4\nlr = 1e-3\n[train.student]\nsteps = 2\nbatch = 4\nlr = 1e-3\n",
        shape("small", 24),
        shape("large", 32) + "lr = 2e-3\n",
        folder.join("text.jsonl").display()
    );
    std::fs::write(folder.join("grid.toml"), config).unwrap();
}

fn run(folder: &Path, more: &[&str]) -> Answer {
    finish(running(folder, "out", more), LIMIT)
}

/// The command that trains the grid of a folder into this one of its own.
fn running(folder: &Path, out: &str, more: &[&str]) -> Command {
    let (config, out) = (folder.join("grid.toml"), folder.join(out));
    let plain =
        ["law", "run", config.to_str().unwrap(), "--out", out.to_str().unwrap(), "--dtype", "f32", "--json"];
    command(&[&plain, more].concat())
}

#[test]
fn a_grid_is_trained_once_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    grid(dir.path());
    let out = dir.path().join("out");
    let nowhere = run(dir.path(), &["--dry-run", "--set", "data.corpus=nowhere.txt"]);
    assert!(nowhere.code == 2 && nowhere.err.contains("no such file: nowhere.txt"), "{}", nowhere.err);
    let plan = object(&run(dir.path(), &["--dry-run"]));
    // The small teacher has 36,216 parameters: one student is left out of it.
    let runs = plan["runs"].as_array().unwrap();
    assert!(!out.exists() && plan["left_out"][0][1] == "small", "{plan}");
    assert_eq!(runs.len(), 2 + 3 * 6);

    let found = object(&run(dir.path(), &[]));
    assert_eq!(found["trained"], 20);
    let csv = std::fs::read_to_string(out.join("results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 21);
    let column = |name: &str| csv.lines().next().unwrap().split(',').position(|c| c == name).unwrap();
    let (at, parameters, initial) = (column("arm"), column("student_params"), column("initial_loss"));
    let mut begun = Vec::new();
    for line in csv.lines().skip(3) {
        let cells: Vec<&str> = line.split(',').collect();
        let [asked, there] = [cells[1], cells[parameters]].map(|n| n.parse::<f64>().unwrap());
        assert!((there / asked - 1.0).abs() < 0.03, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
        begun.push((cells[at], cells[1], cells[2], cells[initial]));
    }
    // A cut student begins alike in both of its arms and with both seeds, a random one with each seed anew.
    let starts = |arm: &str| {
        let of = |b: &&(&str, &str, &str, &str)| b.0.starts_with(arm) && b.1 == "18000";
        begun.iter().filter(of).map(|b| (b.2, b.3)).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!((starts("pruned"), starts("random-kd")), (2, 4));
    for name in [
        "results.csv",
        "report.html",
        "teachers/small/final/config.json",
        "cells/18000-large-pruned-2/metrics.jsonl",
    ] {
        assert!(out.join(name).exists(), "{name}");
    }
    // Each teacher has its learning rate, its own or that of all.
    for (name, lr) in [("small", 1e-3), ("large", 2e-3)] {
        let file = out.join("teachers").join(name).join("config.toml");
        assert_eq!(RunConfig::load(&file, &[]).unwrap().settings.train.lr, lr, "{name}");
    }
    // Nothing of the teacher is in the loss of the arm without it, and it is measured all the same.
    let metrics = std::fs::read_to_string(out.join("cells/18000-large-pruned-1/metrics.jsonl")).unwrap();
    let updates: Vec<Value> = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|l: &Value| l["eval"].is_null())
        .collect();
    assert!(updates.iter().all(|line| line["forward_kl"].is_null()), "{updates:?}");
    assert!(metrics.contains("\"forward_kl\""));

    // What stands is not done again; a cell that is gone is; the file is the same to the bit.
    std::fs::remove_dir_all(out.join("cells/18000-small-random-kd-2")).unwrap();
    let stamp =
        || std::fs::metadata(out.join("teachers/large/final/model.safetensors")).unwrap().modified().unwrap();
    let before = stamp();
    assert_eq!(object(&run(dir.path(), &[]))["trained"], 1);
    assert_eq!((stamp(), std::fs::read_to_string(out.join("results.csv")).unwrap()), (before, csv));

    // Another grid does not go into its folder, and more seeds do.
    let other = run(dir.path(), &["--set", "train.teacher.lr=1e-2"]);
    assert!(other.code == 2 && other.err.contains("train.teacher"), "{}", other.err);
    let other = run(dir.path(), &["--set", "train.student.lr=1e-2"]);
    assert!(other.code == 2 && other.err.contains("train.lr"), "{}", other.err);
    let other = run(dir.path(), &["--set", "teachers.large.lr=1e-3"]);
    assert!(other.code == 2 && other.err.contains("teachers.large"), "{}", other.err);
    assert_eq!(object(&run(dir.path(), &["--set", "seeds=[1, 2, 3]"]))["trained"], 9);
}

/// A signal in a teacher's run, kill -9 in a cell's: the grid goes on, and its file is that of one that nobody stopped.
#[test]
fn a_grid_that_is_stopped_inside_a_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    grid(dir.path());
    let longer = ["--set", "train.teacher.steps=40", "--set", "train.student.steps=20", "--set", "seeds=1"];
    let out = dir.path().join("stopped");
    for (begun, signal, code) in
        [("teachers/large/metrics.jsonl", libc::SIGTERM, Some(143)), ("cells", libc::SIGKILL, None)]
    {
        let mut command = running(dir.path(), "stopped", &longer);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let since = Instant::now();
        while !out.join(begun).exists() {
            assert!(child.try_wait().unwrap().is_none() && since.elapsed() < LIMIT, "no {begun}");
            std::thread::sleep(Duration::from_millis(2));
        }
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        assert_eq!(child.wait().unwrap().code(), code, "{begun}");
        assert!(!out.join("report.html").exists());
    }
    assert_eq!(
        object(&finish(running(dir.path(), "stopped", &longer), LIMIT))["results"],
        out.join("results.csv").to_str().unwrap()
    );
    object(&finish(running(dir.path(), "whole", &longer), LIMIT));
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name).join("results.csv")).unwrap();
    assert!(read("whole").lines().count() == 1 + 2 + 9 && read("stopped") == read("whole"));
}

/// Both grids of configs/research lay themselves out: the larger one is for a GPU, and was not run.
#[test]
fn the_grids_that_come_with_it_are_planned() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("law.jsonl");
    std::fs::write(&text, "{\"text\": \"some\"}\n").unwrap();
    let set = format!("data.corpus=[{:?}]", text.display().to_string());
    // Teachers, their pairs with students, and the runs of a pair: arms by seeds.
    for (name, teachers, pairs, runs) in [("capacity-gap", 6, 12, 6), ("capacity-gap-gpu", 7, 21, 9)] {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/research/{name}.toml"));
        let plan = object(&law(&["run", config.to_str().unwrap(), "--dry-run", "--json", "--set", &set]));
        let left_out = plan["left_out"].as_array().unwrap().len();
        assert!(left_out < pairs / 2, "{name}: {}", plan["left_out"]);
        assert_eq!(plan["runs"].as_array().unwrap().len(), teachers + runs * (pairs - left_out), "{name}");
    }
}

#[test]
fn a_folder_with_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    grid(dir.path());
    std::fs::create_dir(dir.path().join("out")).unwrap();
    std::fs::write(dir.path().join("out/thesis.txt"), "years of work").unwrap();
    let answer = run(dir.path(), &[]);
    assert!(answer.code == 2 && answer.err.contains("something else"), "{}", answer.err);
    assert_eq!(std::fs::read_dir(dir.path().join("out")).unwrap().count(), 1);
}

#[test]
fn the_demonstration_has_its_least_inside() {
    let programs = std::env::current_exe().unwrap();
    let mut example = Command::new(programs.parent().unwrap().join("../examples/capacity_gap"));
    example.arg("demo");
    let answer = finish(example, LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let rows: Vec<&str> = answer.out.lines().skip(3).take(15).collect();
    let least: Vec<usize> = (0..15).filter(|n| rows[*n].contains('*')).collect();
    assert!(!least.is_empty() && !least.contains(&0) && !least.contains(&14), "{}", answer.out);
}
