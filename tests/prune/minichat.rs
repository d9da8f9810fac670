//! The example minichat on a tiny teacher: prune, minima, sft, minillm, stopped on the way, to a model to chat with.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use retort::model::read_design;
use serde_json::{Value, json};

use crate::command::corpus;
use crate::support::{command, finish, fixture};

const LIMIT: Duration = Duration::from_secs(300);
const STAGES: [&str; 4] = ["student", "minima", "sft", "minillm"];

/// Lays out what the example wants: its configs, a text, rows, and a teacher in place of the real one.
fn furnish(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    symlink(root.join("configs"), folder.join("configs")).unwrap();
    std::fs::create_dir_all(folder.join("data/minichat")).unwrap();
    std::fs::create_dir_all(folder.join(".assets/smollm2")).unwrap();
    symlink(fixture("score/llama"), folder.join(".assets/smollm2/SmolLM2-135M-Instruct")).unwrap();
    std::fs::write(folder.join("data/minichat/text.txt"), corpus(400)).unwrap();
    let row = |n: usize| {
        let said = |role: &str, content: String| json!({"role": role, "content": content});
        json!({"messages": [said("user", format!("What is {n}?")), said("assistant", format!("It is {n}."))]})
    };
    let rows: String = (0..64).map(|n| format!("{}\n", row(n))).collect();
    std::fs::write(folder.join("data/minichat/train.jsonl"), rows).unwrap();
}

/// The example that `cargo test` has built, with a layer and neurons less than the teacher's 2 and 24.
fn example(folder: &Path) -> Command {
    let programs = std::env::current_exe().unwrap();
    let mut command = Command::new(programs.parent().unwrap().join("../examples/minichat"));
    command.args(["--ffn", "16", "--layers", "1", "--dtype", "f32", "--set", "train.batch=4"]);
    command.current_dir(folder).env("OMP_NUM_THREADS", "1");
    command
}

/// The updates of a stage, in the order of its metrics.
fn updates(folder: &Path, stage: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join(format!("runs/minichat/{stage}/metrics.jsonl")));
    let lines = text.unwrap_or_default();
    let step = |line: &str| serde_json::from_str::<Value>(line).ok()?["step"].as_u64();
    lines.lines().filter_map(step).collect()
}

/// Ends it by SIGTERM as soon as the first stage that trains has made an update; the exit code.
fn stop(mut child: Child, folder: &Path) -> Option<i32> {
    let end = Instant::now() + LIMIT;
    while updates(folder, "minima").is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: the child has not been waited for, so the number is still its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    child.wait().unwrap().code()
}

/// When each stage's weights were written.
fn stamps(folder: &Path) -> Vec<SystemTime> {
    let weights = |stage: &str| match stage {
        "student" => format!("runs/minichat/{stage}/model.safetensors"),
        _ => format!("runs/minichat/{stage}/final/model.safetensors"),
    };
    STAGES.map(|stage| std::fs::metadata(folder.join(weights(stage))).unwrap().modified().unwrap()).to_vec()
}

#[test]
fn minichat_goes_on_where_it_was_and_ends_in_a_model_to_chat_with() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    furnish(folder);
    let child = example(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(stop(child, folder), Some(143));
    assert!(!folder.join("runs/minichat/minima/final").exists(), "it was over before it was stopped");
    let student = folder.join("runs/minichat/student");
    let shape = read_design(&student).unwrap().shape().clone();
    assert_eq!((shape.ffn, shape.layers), (16, 1));
    let cut = std::fs::metadata(student.join("model.safetensors")).unwrap().modified().unwrap();

    let answer = finish(example(folder), LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(!answer.out.contains("retort prune"), "what is there is cut again: {}", answer.out);
    let first = stamps(folder);
    assert_eq!(first[0], cut);
    // Nothing is lost and nothing comes twice; a quarter of 64 rows are 4 updates of 4 rows.
    for (stage, count) in [("minima", 40), ("sft", 4), ("minillm", 12)] {
        assert_eq!(updates(folder, stage), (1..=count).collect::<Vec<_>>(), "{stage}");
    }

    // A third call has nothing left to do.
    let answer = finish(example(folder), LIMIT);
    assert_eq!((answer.code, stamps(folder)), (0, first), "{}", answer.err);
    let last = answer.out.lines().last().unwrap();
    assert_eq!(last, "retort chat --model runs/minichat/minillm/final");

    let words: Vec<&str> = last.split(' ').skip(1).collect();
    let more = ["--greedy", "--json", "--quiet", "--max-new-tokens", "5", "--min-new-tokens", "5"];
    let mut talk = command(&[&words[..], &more].concat());
    let mut child = talk.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"What is 12?\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), reply["ids"].as_array().unwrap().len()), (Some(0), 5), "{reply}");
}
