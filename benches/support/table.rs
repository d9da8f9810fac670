//! The result: a page of Markdown on stdout, progress on stderr.

use std::process::Command;

use super::agree::Agreement;
use super::args::Args;

/// The times of one row, in seconds, round by round.
pub struct Row {
    pub name: String,
    pub ours: Vec<f64>,
    pub theirs: Vec<f64>,
}

/// All rows, and what they were measured on.
pub struct Table {
    head: String,
    rows: Vec<String>,
    agreement: Option<Agreement>,
    /// What the other side is called.
    peer: &'static str,
}

impl Table {
    /// An empty table with everything that a reader needs to judge it.
    pub fn new(bench: &str, args: &Args, model: &str, peer: Option<&str>) -> Self {
        let cores = args.threads.last().copied().unwrap_or(1);
        let given: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").map(quoted).collect();
        let real =
            if std::env::var_os("RETORT_BENCH_MODEL").is_some() { "RETORT_BENCH_MODEL=... " } else { "" };
        let python = if peer.is_some() { "RETORT_PEER_PYTHON=... " } else { "" };
        let head = [
            format!("* machine: {}, {cores} cores used", cpu()),
            format!("* date: {}", said("date", &["-u", "+%Y-%m-%d"])),
            format!("* commit: {}", commit(bench)),
            format!("* libtorch: {}", retort::native::torch_version()),
            format!("* peer: {}", peer.unwrap_or("NONE: no ratios")),
            format!("* model: {model}"),
            format!("* rounds: {}, ours and theirs in turn", args.rounds),
            format!("* command: `{real}{python}cargo bench --bench {bench} -- {}`", given.join(" ")),
        ];
        Table { head: head.join("\n"), rows: Vec::new(), agreement: None, peer: "transformers" }
    }

    /// The same beside another peer.
    pub fn beside(self, peer: &'static str) -> Self {
        Table { peer, ..self }
    }

    /// What it was measured on.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        let ratios: Vec<f64> = row.ours.iter().zip(&row.theirs).map(|(a, b)| a / b).collect();
        let compared = if ratios.is_empty() {
            "- | - | -".to_string()
        } else {
            let (low, high) =
                (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max));
            format!("{} | {:.3} | {low:.3} to {high:.3}", time(median(&row.theirs)), median(&ratios))
        };
        let line = format!("| {} | {} | {compared} |", row.name, time(median(&row.ours)));
        eprintln!("{line}");
        self.rows.push(line);
    }

    /// Notes how near the sides were.
    pub fn agrees(&mut self, agreement: Agreement) {
        self.agreement = Some(self.agreement.map_or(agreement, |a| a.worse(agreement)));
    }

    /// Writes the page.
    pub fn print(&self) {
        println!("{}", self.head);
        if let Some(a) = self.agreement {
            let (distance, same) = (a.distance, 100.0 * a.same);
            println!(
                "* agreement, at worst: logits {distance:.1e} apart (relative), argmax equal at {same:.1}% of positions"
            );
        }
        println!("\n| row | retort | {} | ratio, median | ratio, spread |", self.peer);
        println!("|---|---:|---:|---:|---:|");
        self.rows.iter().for_each(|row| println!("{row}"));
    }
}

/// As a shell wants it.
fn quoted(word: String) -> String {
    if word.contains(' ') { format!("\"{word}\"") } else { word }
}

/// The middle one.
pub fn median(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    let n = x.len();
    if n % 2 == 1 { x[n / 2] } else { (x[n / 2 - 1] + x[n / 2]) / 2.0 }
}

fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |key: &str| {
        let line = text.lines().find(|l| l.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let flags = of("flags").unwrap_or_default();
    let best = ["avx512_bf16", "avx512f", "avx2"].into_iter().find(|f| flags.split(' ').any(|g| g == *f));
    format!(
        "{} (family {}, model {}; {})",
        of("model name").unwrap_or_else(|| std::env::consts::ARCH.to_string()),
        of("cpu family").unwrap_or_default(),
        of("model\t").unwrap_or_default(),
        best.unwrap_or("no AVX2"),
    )
}

fn commit(bench: &str) -> String {
    let own = format!("benches/{bench}.rs");
    let code = ["src", "policies", "Cargo.lock", &own, "benches/support", "benches/peers"];
    let changed = said("git", &[["status", "--porcelain", "--"].as_slice(), &code].concat());
    let commit = said("git", &["rev-parse", "--short=10", "HEAD"]);
    if changed.is_empty() { commit } else { format!("{commit} with changes") }
}

/// The output of a command, empty where it fails.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default()
}
