//! The most memory that a side held, in a process of its own: what one row needs is not hidden behind what
//! another one left.

use std::process::Command;

use serde_json::json;

use super::peer::Peer;

/// Set in the process that does one row alone.
const ALONE: &str = "RETORT_BENCH_ALONE";

/// Whether this process is one that does a row alone; [`tell`] ends it.
pub fn alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// Says what this process held at most.
pub fn tell() {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    println!("peak {}", kib << 10);
}

/// What this bench holds at most for the row of this name, in a process that does nothing else.
pub fn ours(name: &str) -> u64 {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| a == "--bench" || a == "--quick").collect();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(given)
        .args(["--rounds", "1", "--only", name])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let peak = said.lines().find_map(|line| line.strip_prefix("peak ")?.parse().ok());
    assert!(peak.is_some(), "{name} alone: {}", String::from_utf8_lossy(&child.stderr));
    peak.unwrap()
}

/// What a peer that has done nothing but this row held at most.
pub fn theirs(peer: &mut Peer) -> u64 {
    peer.ask(&json!({"do": "peak"}))["bytes"].as_u64().unwrap()
}

/// A line of the table of peaks.
pub fn line(name: &str, ours: u64, theirs: Option<u64>) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let compared = theirs
        .map_or("- | -".into(), |theirs| format!("{} | {:.3}", mib(theirs), ours as f64 / theirs as f64));
    format!("| {name} | {} | {compared} |", mib(ours))
}
