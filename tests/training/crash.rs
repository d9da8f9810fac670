//! Runs that end before their end: at a signal, at any step of what is written, at any moment. Resumed, they
//! end as if nothing had happened, bit for bit.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{command, finish, fixture};
use crate::{Case, LIMIT, text_of};

/// Small and with every kind of file: evaluations, replies, checkpoints that go, a best model.
const SETTINGS: [&str; 8] = [
    "train.steps=6",
    "train.batch=2",
    "train.lr=1e-2",
    "train.save_every=2",
    "train.eval_every=3",
    "train.keep=2",
    "train.schedule=constant",
    "data.max_response=12",
];

fn case() -> (Case, Vec<String>) {
    let rows = fixture("score/llama/rows_prompt.jsonl");
    let case = Case::new("sft", &rows);
    let valid = format!("data.valid=[{:?}]", rows.display().to_string());
    (case, SETTINGS.iter().map(|s| s.to_string()).chain([valid]).collect())
}

/// All that a run leaves that may be compared.
fn left(case: &Case, out: &str) -> (Vec<serde_json::Value>, Vec<Vec<u8>>) {
    let names = [
        "samples.jsonl",
        "final/model.safetensors",
        "best/model.safetensors",
        "checkpoints/step-6/model.safetensors",
        "checkpoints/step-6/optimizer.safetensors",
    ];
    (case.metrics(out), names.iter().map(|name| case.bytes(out, name)).collect())
}

fn same(case: &Case, whole: &str, other: &str, what: &str) {
    let (a, b) = (left(case, whole), left(case, other));
    assert_eq!(a.0, b.0, "{what}: metrics");
    assert!(a.1 == b.1, "{what}: weights or moments");
    let hidden = std::fs::read_dir(case.path(other).join("checkpoints")).unwrap();
    let names: Vec<String> = hidden.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|n| n.contains("partial")), "{what}: {names:?}");
}

/// Ends the process at the n-th step of what `store` does, for every n (or every few), and goes on.
#[test]
fn killed_at_every_step_of_a_write() {
    let (case, settings) = case();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    case.good("whole", &settings, &[]);
    let every = text_of("RETORT_TEST_EVERY").map_or(7, |n| n.parse().unwrap());
    let mut at = 1;
    loop {
        let out = format!("fault-{at}");
        let mut killed = command(&case.arguments(&out, &settings, &[]));
        killed.env("RETORT_FAULT", at.to_string());
        let answer = finish(killed, LIMIT);
        if answer.code == 0 {
            break;
        }
        assert_eq!(answer.code, 137, "step {at}: {}", answer.err);
        case.good(&out, &settings, &["--resume"]);
        same(&case, "whole", &out, &format!("step {at}"));
        at += every;
    }
    assert!(at > 100, "only {at} steps");
}

/// Kills at moments that are spread over the run, and goes on.
#[test]
fn killed_at_any_moment() {
    let (case, settings) = case();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let time = case.good("whole", &settings, &[]).time;
    let kills = text_of("RETORT_TEST_KILLS").map_or(10, |n| n.parse().unwrap());
    let mut ended = 0;
    for n in 0..kills {
        let out = format!("kill-{n}");
        let mut child = command(&case.arguments(&out, &settings, &[]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(time.mul_f64((f64::from(n) + 0.5) / f64::from(kills)));
        child.kill().unwrap();
        ended += usize::from(child.wait().unwrap().success());
        case.good(&out, &settings, &["--resume"]);
        same(&case, "whole", &out, &format!("kill {n}"));
    }
    assert!(ended < kills as usize, "no run was killed before its end");
}

/// The first signal finishes the update, saves it and leaves with the signal's code.
#[test]
fn a_signal_saves_and_leaves() {
    let (case, settings) = case();
    let mut settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    settings.retain(|s| !s.starts_with("train.steps") && !s.starts_with("train.save_every"));
    settings.extend(["train.steps=100000", "train.save_every=0", "train.eval_every=0"]);
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let out = format!("signal-{signal}");
        let child = command(&case.arguments(&out, &settings, &[])).stderr(Stdio::null()).spawn().unwrap();
        while std::fs::metadata(case.path(&out).join("metrics.jsonl")).map_or(0, |m| m.len()) < 1000 {
            std::thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: a child of this test that has not been waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        let mut child = child;
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let lines = case.metrics(&out);
        let last = lines.last().unwrap()["step"].as_u64().unwrap();
        let saved = case.path(&out).join(format!("checkpoints/step-{last}/manifest.json"));
        assert!(saved.exists(), "{} is not there", saved.display());
    }
}

/// A checkpoint that was changed behind our back is passed over, and said.
#[test]
fn a_spoilt_checkpoint_is_passed_over() {
    let (case, settings) = case();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    case.good("whole", &settings, &[]);
    case.good("spoilt", &settings, &[]);
    for name in ["model.safetensors", "manifest.json"] {
        std::fs::remove_dir_all(case.path("spoilt/final")).unwrap();
        let path = case.path("spoilt/checkpoints/step-6").join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let answer = case.good("spoilt", &settings, &["--resume"]);
        assert!(answer.err.contains("a checkpoint is passed over"), "{}", answer.err);
        same(&case, "whole", "spoilt", name);
    }
}

/// A disk of this size, for as long as the value lives.
struct Disk(std::path::PathBuf);

impl Disk {
    /// None where this process may not mount.
    fn new(path: std::path::PathBuf, size: &str) -> Option<Disk> {
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={size}");
        let arguments = ["-t", "tmpfs", "-o", &size, "tmpfs", path.to_str().unwrap()];
        let done = std::process::Command::new("mount").args(arguments).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success()).then_some(Disk(path))
    }

    fn grow(&self, size: &str) {
        let size = format!("remount,size={size}");
        let arguments = ["-o", &size, self.0.to_str().unwrap()];
        assert!(std::process::Command::new("mount").args(arguments).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk that fills up in a save: one line, exit code 4, and the last checkpoint is what a run goes on from.
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let (case, settings) = case();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(disk) = Disk::new(case.path("disk"), "450k") else {
        eprintln!("SKIPPED: this process may not mount a small disk");
        return;
    };
    let answer = case.run("disk/run", &settings, &[]);
    assert_eq!(answer.code, 4, "{}", answer.err);
    let error = answer.err.lines().find(|l| l.starts_with("retort: ")).unwrap();
    assert!(error.contains("cannot write") && error.contains("No space left"), "{error}");
    assert!(case.path("disk/run/checkpoints/step-2/manifest.json").exists());
    disk.grow("4m");
    case.good("disk/run", &settings, &["--resume"]);
    case.good("whole", &settings, &[]);
    same(&case, "whole", "disk/run", "a full disk");
}
