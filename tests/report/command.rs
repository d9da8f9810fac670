//! What the command writes and refuses, and that runs leave a report of themselves.

use serde_json::Value;

use crate::support::fixture;
use crate::{HOSTILE, Runs, retort, text};

#[test]
fn a_report_says_what_it_wrote() {
    let runs = Runs::new();
    let (all, out) = (runs.all(), runs.path("out.html"));
    let mut arguments = vec!["report"];
    arguments.extend(all.iter().map(|p| text(p)));
    arguments.extend(["--out", text(&out), "--json"]);
    let answer = retort(&arguments);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(answer.out.lines().count(), 1);
    let told: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(told["path"], text(&out));
    let names: Vec<&str> =
        told["runs"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert!(names[0] == "kd" && names[2] == "sft", "{names:?}");
    assert_eq!(told["runs"][0]["updates"], 5000);
    let sections: Vec<&str> =
        told["sections"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let expected = [
        "The runs",
        "Evaluations",
        "Loss and its terms",
        "The students' own replies",
        "Optimiser",
        "Replies",
        "Settings that differ",
        "Time",
        "More",
    ];
    assert_eq!(sections, expected);
    let html = std::fs::read_to_string(&out).unwrap();
    assert!(html.len() < 1 << 20, "{} bytes", html.len());
    for section in sections {
        assert!(html.contains(&format!("<h2>{}</h2>", section.replace('\'', "&#39;"))), "{section}");
    }
    let first = html.clone();
    assert_eq!(retort(&arguments).code, 0);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), first, "the same runs have the same page");
    arguments.pop();
    assert!(retort(&arguments).out.contains("sections"));
}

/// What samples hold is shown and is no markup; nothing is fetched from anywhere.
#[test]
fn a_hostile_sample_injects_nothing() {
    let runs = Runs::new();
    let (run, out, said) = (runs.path("sft"), runs.path("out.html"), runs.path("teacher.jsonl"));
    let line = serde_json::json!({"prompt": format!("1? {HOSTILE}"), "response": HOSTILE, "ids": [1]});
    std::fs::write(&said, format!("{line}\n")).unwrap();
    let answer = retort(&["report", text(&run), "--out", text(&out), "--teacher-samples", text(&said)]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let html = std::fs::read_to_string(&out).unwrap();
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("src=\""), "markup");
    let shown = HOSTILE.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    assert!(html.matches(&shown.replace('"', "&quot;").replace('\'', "&#39;")).count() > 6, "it is shown");
    assert!(html.contains("class=\"reply teacher\""));
    assert!(!html.contains("url(") && !html.contains("@import") && !html.contains("<link"));
}

#[test]
fn what_is_no_run_is_refused_in_one_line() {
    let runs = Runs::new();
    let (empty, out) = (runs.path("empty"), runs.path("out.html"));
    std::fs::create_dir(&empty).unwrap();
    let file = runs.path("file");
    std::fs::write(&file, "x").unwrap();
    let bad = |arguments: &[&str], code: i32, says: &str| {
        let answer = retort(&[&["report", "--out", text(&out)], arguments].concat());
        assert_eq!(answer.code, code, "{arguments:?}: {}", answer.err);
        let lines: Vec<&str> = answer.err.lines().collect();
        assert!(lines[0].contains(says) && lines.len() <= 2, "{arguments:?}: {}", answer.err);
        assert!(!out.exists() && answer.out.is_empty());
    };
    let sft = runs.path("sft");
    bad(&[text(&runs.path("nothing"))], 2, "no such run");
    bad(&[text(&sft), text(&empty)], 2, "not a run directory");
    bad(&[text(&file)], 2, "not a run directory");
    bad(&[text(&sft), "--teacher-samples", text(&empty.join("x"))], 2, "no such file");
    bad(&[], 2, "required");
    let metrics = sft.join("metrics.jsonl");
    let good = std::fs::read_to_string(&metrics).unwrap();
    let (first, rest) = good.split_once('\n').unwrap();
    std::fs::write(&metrics, format!("{first}\nnonsense\n{rest}")).unwrap();
    bad(&[text(&sft)], 3, "metrics.jsonl:2");
    std::fs::write(&metrics, good).unwrap();
    std::fs::write(sft.join("samples.jsonl"), "{\"step\":1,\"prompt\":7}\n").unwrap();
    bad(&[text(&sft)], 3, "samples.jsonl:1: prompt");
}

/// A run leaves a report of itself; where it cannot, it says so and is as good as with one.
#[test]
fn a_run_leaves_its_report() {
    let dir = tempfile::tempdir().unwrap();
    let (student, rows) = (fixture("score/llama"), fixture("score/llama/rows_prompt.jsonl"));
    let config = dir.path().join("run.toml");
    let body = format!(
        "policy = \"sft\"\nstudent.model = {:?}\ndata.train = [{1:?}]\ndata.valid = [{1:?}]\n\
         data.max_response = 12\n[train]\nsteps = 3\nbatch = 4\nlr = 1e-2\neval_every = 3\n",
        text(&student),
        text(&rows),
    );
    std::fs::write(&config, body).unwrap();
    let run = |name: &str| {
        let out = dir.path().join(name);
        let answer =
            retort(&["distill", text(&config), "--out", text(&out), "--dtype", "f32", "--device", "cpu"]);
        assert_eq!(answer.code, 0, "{}", answer.err);
        (out, answer.err)
    };
    let (out, err) = run("good");
    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        html.contains("<h1>Run good</h1>")
            && html.contains("Rouge-L of replies")
            && !err.contains("report.html")
    );
    let again = dir.path().join("again.html");
    assert_eq!(retort(&["report", text(&out), "--out", text(&again)]).code, 0);
    assert_eq!(std::fs::read_to_string(again).unwrap(), html, "the command draws what the run drew");
    std::fs::create_dir_all(dir.path().join("odd/report.html")).unwrap();
    let (out, err) = run("odd");
    assert!(err.contains("no report.html was written") && out.join("final/config.json").exists(), "{err}");
    let weights = |name: &str| std::fs::read(dir.path().join(name).join("final/model.safetensors")).unwrap();
    assert!(weights("good") == weights("odd"));
}
