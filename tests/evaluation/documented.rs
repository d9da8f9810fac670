//! The page about evaluation: its commands are run as they stand, where what they name is small.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::command::{llama, rows};
use crate::judge::{Does, Endpoint};
use crate::support::{command, finish, fixture};

/// The commands of a page: lines of its blocks of code.
fn commands(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("    retort "));
    lines.map(|line| line.split(" # ").next().unwrap().trim().to_string()).collect()
}

#[test]
fn every_command_of_the_page_runs() {
    let dir = tempfile::tempdir().unwrap();
    let link = |what: &Path, name: &str| {
        let place = dir.path().join(name);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(what, place).unwrap();
    };
    for name in ["runs/minillm/best", "teacher", "MODEL"] {
        link(&llama(), name);
    }
    for name in ["runs/sft/best", "OTHER"] {
        link(&fixture("gap/near"), name);
    }
    for name in ["held-out.jsonl", "rows.jsonl"] {
        link(&rows(), name);
    }
    let question = json!({"prompt": "Is it?", "choices": [" yes", " no"], "answer": 0});
    std::fs::write(dir.path().join("questions.jsonl"), format!("{question}\n").repeat(3)).unwrap();
    let endpoint = Endpoint::new(|_, _| Does::Says("7 7"));
    let page = commands("docs/how-to/evaluate.md");
    let of_readme = commands("README.md").into_iter().filter(|line| line.starts_with("eval "));
    let all: Vec<String> = page.iter().cloned().chain(of_readme).collect();
    assert!(page.len() >= 7 && all.len() >= page.len() + 2, "{all:?}");
    for line in all {
        let line = line.replace("http://localhost:8000/v1", &endpoint.url);
        let mut arguments: Vec<&str> = line.split_whitespace().collect();
        if arguments.contains(&"--model") {
            arguments.extend(["--max-new-tokens", "8"]);
        }
        let mut command = command(&arguments);
        command.current_dir(dir.path()).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        let answer = finish(command, Duration::from_secs(120));
        assert_eq!(answer.code, 0, "retort {line}: {}", answer.err);
        assert!(
            answer.out.starts_with("metric ") || line.contains("--output"),
            "retort {line}: {}",
            answer.out
        );
    }
    assert_eq!(endpoint.requests(), 2 * 18, "three samples of six rows, in both orders");
}
