//! Conversations, and replies that a teacher takes part in.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{command, fixture};
use crate::{bad, documents, good, text};

const MODEL: &str = "score/llama";

/// What `chat` answers to these lines on its standard input.
fn chat(lines: &str, more: &[&str]) -> (Option<i32>, String) {
    let model = fixture(MODEL);
    let arguments = ["chat", "--model", text(&model), "--dtype", "f32", "--max-new-tokens", "10", "--quiet"];
    let mut child =
        command(&[&arguments, more].concat()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// The greedy replies of `generate` to a file of rows.
fn generate(rows: &[Value]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    std::fs::write(&file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let model = fixture(MODEL);
    let arguments =
        ["generate", "--model", text(&model), "--input", text(&file), "--greedy", "--dtype", "f32", "--json"];
    documents(&good(&[&arguments[..], &["--max-new-tokens", "10"]].concat()))
}

/// Each turn is what `generate` replies to the whole conversation so far, though the cache holds what was
/// said before.
#[test]
fn a_conversation_is_its_rows() {
    let (code, out) = chat("What is a retort?\n\nAnd 💧?\n/new\nUp", &["--greedy", "--json"]);
    assert_eq!(code, Some(0));
    let replies = documents(&out);
    let said = |role: &str, content: &Value| json!({"role": role, "content": content});
    let (first, second) = (json!("What is a retort?"), json!("And 💧?"));
    let rows = [
        json!({"messages": [said("user", &first)]}),
        json!({"messages": [
            said("user", &first), said("assistant", &replies[0]["response"]), said("user", &second)]}),
        json!({"messages": [said("user", &json!("Up"))]}),
    ];
    let expected = generate(&rows);
    assert_eq!(replies.len(), 3);
    for (reply, expected) in replies.iter().zip(&expected) {
        assert_eq!(reply["ids"], expected["ids"]);
        assert_eq!((&reply["response"], &reply["finish"]), (&expected["response"], &expected["finish"]));
    }
    // For people: the same replies, as they come.
    let (_, shown) = chat("What is a retort?\n\nAnd 💧?\n/new\nUp", &["--greedy"]);
    let responses: Vec<&str> = replies.iter().map(|r| r["response"].as_str().unwrap()).collect();
    assert_eq!(shown, responses.join("\n") + "\n");
}

/// A conversation that is longer than the context forgets its oldest turns, and goes on.
#[test]
fn a_long_conversation_goes_on() {
    let lines = "How many weeks are there in all of a long year, and who counts them?\n".repeat(14);
    let (code, out) = chat(&lines, &["--greedy", "--json"]);
    assert_eq!((code, documents(&out).len()), (Some(0), 14));
}

#[test]
fn a_signal_at_the_prompt_ends_it() {
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let model = fixture(MODEL);
        let mut child = command(&["chat", "--model", text(&model), "--greedy", "--max-new-tokens", "5"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(b"Up\n").unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line)
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        // SAFETY: the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(child.id() as i32, signal) };
        let end = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = child.try_wait().unwrap();
        let _ = child.kill();
        assert_eq!(status.and_then(|s| s.code()), Some(code));
    }
}

/// The reply comes as it is made, Ctrl-C stops it and not the program, and the next line is answered.
#[test]
fn a_signal_stops_the_reply_and_not_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let folder = another(dir.path());
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    // Long enough that the reply would outlast the test.
    config["max_position_embeddings"] = 1_000_000.into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let length = ["--max-new-tokens", "900000", "--min-new-tokens", "900000"];
    let mut child =
        command(&[&["chat", "--model", text(&folder), "--quiet", "--greedy"], &length[..]].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
    let (mut lines, mut shown) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for _ in 0..2 {
        // Anew each time: this reply has no line end of its own.
        lines.write_all(b"/new\nUp\n").unwrap();
        let mut start = [0u8; 1];
        shown.read_exact(&mut start).unwrap();
        // SAFETY: the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
        let end = Instant::now() + Duration::from_secs(20);
        while start != *b"\n" && Instant::now() < end {
            shown.read_exact(&mut start).unwrap();
        }
        assert_eq!(start, *b"\n", "the reply goes on");
        assert!(child.try_wait().unwrap().is_none(), "the program ended");
    }
    drop(lines);
    let mut rest = String::new();
    shown.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(0), ""));
}

/// A second model with the same tokenizer: the signs of some weights turned.
fn another(dir: &Path) -> PathBuf {
    let folder = dir.join("teacher");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(fixture(MODEL)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let signs = (start + 3..bytes.len()).step_by(4);
    signs.step_by(3).for_each(|at| bytes[at] ^= 0x80);
    std::fs::write(&file, bytes).unwrap();
    folder
}

/// The ends of the mixture are its parts, and a share between is neither; rows do not depend on the batch.
#[test]
fn a_teacher_takes_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let (student, teacher) = (fixture(MODEL), another(dir.path()));
    let rows = fixture("score/llama/rows.jsonl");
    let ids = |model: &Path, more: &[&str]| -> Vec<Value> {
        let arguments = ["generate", "--model", text(model), "--input", text(&rows), "--json", "--seed", "7"];
        let out = good(&[&arguments[..], &["--dtype", "f32", "--max-new-tokens", "12"], more].concat());
        documents(&out).into_iter().map(|reply| reply["ids"].clone()).collect()
    };
    let (alone, taught) = (ids(&student, &[]), ids(&teacher, &[]));
    assert_ne!(alone, taught);
    let mixed = |share: &str, batch: &str| {
        ids(&student, &["--teacher", text(&teacher), "--mix", share, "--batch", batch])
    };
    assert_eq!(mixed("0", "32"), alone);
    assert_eq!(mixed("1", "32"), taught);
    let half = mixed("0.5", "32");
    assert!(half != alone && half != taught);
    assert_eq!(mixed("0.5", "2"), half);
}

#[test]
fn a_teacher_must_fit() {
    let model = fixture(MODEL);
    let (model, other) = (text(&model), fixture("score/gpt2"));
    let with = |more: &[&str], code, says: &str| {
        bad(&[&["generate", "--model", model, "--prompt", "a"], more].concat(), code, says)
    };
    with(&["--mix", "0.2"], 2, "--teacher");
    with(&["--teacher", model, "--greedy"], 2, "--greedy");
    with(&["--teacher", model, "--mix", "1.5"], 2, "between 0 and 1");
    with(&["--teacher", text(&other)], 3, "id 0");
    with(&["--teacher", "/nowhere"], 2, "no such model folder");
}
