//! Files: whole or not there, rejects, the Hugging Face cache, full disks, closed pipes, signals.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{command, finish, fixture};
use crate::{bad, documents, good, retort, text};

const LIMIT: Duration = Duration::from_secs(60);

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn no_answer_is_left_after_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, out) = (dir.path().join("rows.jsonl"), dir.path().join("out.jsonl"));
    std::fs::write(&rows, "{\"text\": \"a\"}\n{\"text\": 5}\n").unwrap();
    std::fs::write(&out, "old").unwrap();
    let model = fixture("score/llama");
    let arguments = ["score", "--model", text(&model), "--input", text(&rows), "--output", text(&out)];
    bad(&arguments, 3, "rows.jsonl:2: text");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "old");
    assert_eq!(names(dir.path()), ["out.jsonl", "rows.jsonl"]);
}

#[test]
fn bad_rows_go_into_a_counted_file() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    std::fs::write(&rows, "{\"text\": \"a b\"}\n{\"text\": 5}\nnonsense\n{\"text\": \"c d\"}\n").unwrap();
    let model = fixture("score/llama");
    let arguments = ["score", "--model", text(&model), "--input", text(&rows), "--skip-invalid", "--json"];
    let answer = retort(&arguments);
    assert_eq!((answer.code, documents(&answer.out).len()), (0, 2), "{}", answer.err);
    assert!(answer.err.contains("2 bad rows"), "{}", answer.err);
    let rejects = std::fs::read_to_string(dir.path().join("rows.jsonl.rejects.jsonl")).unwrap();
    assert_eq!(rejects, "{\"text\": 5}\nnonsense\n");
    let quiet = retort(&[&arguments[..], &["--quiet"]].concat());
    assert_eq!((quiet.code, quiet.err.as_str()), (0, ""));
    // A row that is sound in itself and that this model cannot take is a bad row too; a padding row of its
    // vocabulary is none.
    let long = format!("{{\"ids\": {:?}}}", vec![1; 513]);
    std::fs::write(&rows, format!("{{\"ids\": [1, 350]}}\n{long}\n{{\"ids\": [1, 352]}}\n")).unwrap();
    let answer = retort(&arguments);
    assert_eq!((answer.code, documents(&answer.out).len()), (0, 1), "{}", answer.err);
    assert!(answer.err.contains("2 bad rows"), "{}", answer.err);
}

/// The hub's cache: a reference, a snapshot of links, and blobs.
#[test]
fn a_model_by_its_name_in_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("hub/models--tiny--llama");
    let snapshot = repo.join("snapshots/0123abc");
    for folder in [&snapshot, &repo.join("refs"), &repo.join("blobs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repo.join("refs/main"), "0123abc").unwrap();
    for file in std::fs::read_dir(fixture("score/llama")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        std::fs::copy(fixture("score/llama").join(&name), repo.join("blobs").join(&name)).unwrap();
        symlink(format!("../../blobs/{name}"), snapshot.join(&name)).unwrap();
    }
    for (variable, value) in [("HF_HUB_CACHE", dir.path().join("hub")), ("HF_HOME", dir.path().into())] {
        let mut with = command(&["inspect", "tiny/llama", "--json"]);
        with.env_remove("HF_HUB_CACHE").env_remove("HF_HOME").env(variable, value);
        let answer = finish(with, LIMIT);
        assert_eq!(answer.code, 0, "{variable}: {}", answer.err);
        assert_eq!(documents(&answer.out)[0]["layers"], 2);
    }
    let mut absent = command(&["inspect", "tiny/gpt2"]);
    absent.env("HF_HUB_CACHE", dir.path().join("hub"));
    let answer = finish(absent, LIMIT);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("cache") && answer.err.contains("nothing is downloaded"), "{}", answer.err);
}

#[test]
fn import_refuses_a_folder_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let gguf = fixture("gguf/blocks.gguf");
    bad(&["import", text(&gguf), "--out", text(dir.path())], 2, "already there");
    assert_eq!(names(dir.path()), ["thesis.tex"]);
}

#[test]
fn writes_that_fail_are_of_their_own_code() {
    let (model, rows) = (fixture("score/llama"), fixture("score/llama/rows.jsonl"));
    let score = |out: &str, code: i32, says: &str| {
        bad(&["score", "--model", text(&model), "--input", text(&rows), "--output", out], code, says)
    };
    score("/dev/full", 4, "cannot write: /dev/full");
    let under_a_file = rows.join("out.jsonl");
    score(text(&under_a_file), 4, "cannot write");
    score("/nowhere/at/all/out.jsonl", 4, "cannot write");
    score("/tmp", 2, "over a folder");
    // A device takes the answer and stays a device.
    good(&["score", "--model", text(&model), "--input", text(&rows), "--output", "/dev/null"]);
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}

/// stdout on a full disk is a failed write; stderr there changes no exit code.
#[test]
fn full_streams() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let model = fixture("score/llama");
    let status = command(&["inspect", text(&model)]).stdout(full()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(4));
    let status = command(&["inspect", "/nowhere"]).stdout(Stdio::null()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2), "{:?}", status.signal());
    let status = command(&["scroe"]).stdout(Stdio::null()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2), "{:?}", status.signal());
}

/// Rows enough for a while.
fn many_rows(dir: &Path) -> std::path::PathBuf {
    let rows = dir.join("rows.jsonl");
    let ids: Vec<String> = (0..500).map(|i| (i % 300).to_string()).collect();
    std::fs::write(&rows, format!("{{\"ids\": [{}]}}\n", ids.join(",")).repeat(20_000)).unwrap();
    rows
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let (model, rows) = (fixture("score/llama"), many_rows(dir.path()));
    let mut child = command(&["score", "--model", text(&model), "--input", text(&rows), "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("{\"ids\":"), "{first}");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// Ctrl-C in the middle: its exit code, one line, and nothing half written.
#[test]
fn a_signal_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let (model, rows) = (fixture("score/llama"), many_rows(dir.path()));
    let out = dir.path().join("out.jsonl");
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let arguments = ["score", "--model", text(&model), "--input", text(&rows), "--output", text(&out)];
        let child = command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The partial file shows that the rows are being scored.
        while !names(dir.path()).iter().any(|n| n.contains("partial")) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert!(err.starts_with("retort: stopping at the next safe place"), "{err}");
        assert!(err.ends_with("\nretort: stopped by a signal\n") && err.lines().count() == 2, "{err}");
        assert_eq!(names(dir.path()), ["rows.jsonl"]);
    }
}
