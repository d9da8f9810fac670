//! The same work in Python: a process that lives as long as the bench and answers one line of JSON
//! to each line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A running peer.
pub struct Peer {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    versions: String,
}

impl Peer {
    /// Starts this script of `benches/peers` with the Python that RETORT_PEER_PYTHON names; none without it.
    pub fn start(script: &str) -> Option<Self> {
        let Some(python) = std::env::var_os("RETORT_PEER_PYTHON").filter(|p| !p.is_empty()) else {
            eprintln!("RETORT_PEER_PYTHON is not set: NO COMPARISON, our own times alone.");
            eprintln!("Set it to a Python with torch 2.11 and transformers to get ratios.");
            return None;
        };
        let mut child = Command::new(python)
            .arg(format!("{}/benches/peers/{script}", env!("CARGO_MANIFEST_DIR")))
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut peer = Peer { child, requests, answers, versions: String::new() };
        peer.versions = peer.ask(&json!({"do": "versions"}))["versions"].as_str().unwrap().to_string();
        Some(peer)
    }

    /// What it runs on.
    pub fn versions(&self) -> &str {
        &self.versions
    }

    /// Its answer, an object without an error.
    pub fn ask(&mut self, request: &Value) -> Value {
        let requests = self.requests.as_mut().unwrap();
        writeln!(requests, "{request}").unwrap();
        requests.flush().unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer.get("error").is_none(), "the peer: {}", answer["error"]);
        answer
    }

    /// How long it took.
    pub fn seconds(&mut self, request: &Value) -> f64 {
        self.ask(request)["seconds"].as_f64().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.requests = None;
        let _ = self.child.wait();
    }
}
