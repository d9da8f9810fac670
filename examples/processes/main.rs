//! What several processes cost, measured and by the model of `retort::dist::cost`.
//!
//!     cargo run --release --example processes -- scaling
//!     cargo run --release --example processes -- target/release/retort STUDENT TEACHER ROWS.jsonl OUT [UPDATES]
//!
//! The first prints what an update would cost on 1 to 1,024 GPUs, for two published pairs of models. The second trains the
//! student of a folder on this machine, sft and minillm, in one process and in several, each holding all and its part
//! alone (`dist.zero`), and prints times, memory and bytes beside what was predicted. OUT must not be there yet.

mod arms;
mod probe;
mod scaling;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arms::{Arm, Measured};
use retort::dist::cost::{Dealt, Machine, Work, payload, update};

/// Cores that processes of the measurement share.
const CORES: f64 = 2.0;
/// Rows of an update.
pub const ROWS: usize = 16;

fn main() -> ExitCode {
    if probe::is_rank() {
        return probe::as_rank();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let told = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["scaling"] => Ok(scaling::tables()),
        [retort, student, teacher, rows, out] => measure(retort, [student, teacher, rows], Path::new(out), 4),
        [retort, student, teacher, rows, out, updates] => match updates.parse() {
            Ok(updates) => measure(retort, [student, teacher, rows], Path::new(out), updates),
            Err(_) => Err("UPDATES is a number".into()),
        },
        _ => Err("scaling, or: RETORT STUDENT TEACHER ROWS.jsonl OUT [UPDATES]".into()),
    };
    match told {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("processes: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The runs of this measurement.
fn all_arms() -> Vec<Arm> {
    let arm = |policy, processes, threads, zero| Arm { policy, processes, threads, zero };
    vec![
        arm("sft", 1, 1, 0),
        arm("sft", 1, 2, 0),
        arm("sft", 2, 1, 0),
        arm("sft", 2, 1, 1),
        arm("sft", 2, 1, 2),
        arm("sft", 4, 1, 0),
        arm("sft", 4, 1, 2),
        arm("minillm", 1, 2, 0),
        arm("minillm", 2, 1, 0),
        arm("minillm", 2, 1, 2),
    ]
}

fn measure(
    retort: &str,
    [student, teacher, rows]: [&str; 3],
    out: &Path,
    updates: u64,
) -> Result<String, String> {
    if out.exists() {
        return Err(format!("{} is there already", out.display()));
    }
    let run = arms::Runner { retort: PathBuf::from(retort), student, teacher, rows, out, updates };
    let mut table = String::from(
        "| run | processes x threads | dist.zero | an update, s | predicted, s | exchanging, % | held by a process, MiB | predicted, MiB | exchanged an update, MB | predicted, MB |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut flops = None;
    for arm in all_arms() {
        eprintln!("{} in {} processes, dist.zero = {}", arm.policy, arm.processes, arm.zero);
        let made = run.measure(&arm)?;
        if arm.processes == 1 && arm.threads == 1 {
            // One process on one core says what a core does; two that share a core have half of it each.
            flops = Some(6.0 * made.parameters * made.tokens / made.seconds);
        }
        let sent = if arm.processes > 1 { probe::bytes_a_second(arm.processes)? } else { f64::INFINITY };
        table += &row(&arm, &made, flops.filter(|_| arm.policy == "sft" && arm.threads == 1), sent);
    }
    Ok(table)
}

fn row(arm: &Arm, made: &Measured, flops: Option<f64>, sent: f64) -> String {
    let ranks = arm.processes as f64;
    let dealt = Dealt { ranks, zero: arm.zero, shard_teacher: false, bucket: scaling::BUCKET };
    let work = Work {
        student: made.parameters,
        teacher: 0.0,
        in_blocks: 0.0,
        blocks: 0.0,
        size: 4.0,
        rows: ROWS as f64,
        length: made.tokens / ROWS as f64,
        sampled: 0.0,
        reuse: 1.0,
        alpha: 0.0,
        states: 0.0,
        together: arms::TOGETHER as f64,
        recompute: false,
    };
    let predicted = flops.map(|flops| {
        let core = flops * (CORES / ranks).min(1.0);
        let memory = 1e10 * (CORES / ranks).min(1.0);
        let machine =
            Machine { flops: core, memory, per_node: 64.0, inside: sent, between: sent, latency: 1e-3 };
        update(&work, &dealt, &machine).seconds()
    });
    let put = payload(&work, &dealt);
    // Replies are exchanged too, which the words of an update are not.
    let counted = arm.processes > 1 && arm.policy == "sft";
    let bytes = counted.then(|| (put.summed + put.scattered + put.gathered) as f64 / 1e6);
    format!(
        "| {} | {} x {} | {} | {:.2} | {} | {:.0} | {} | {} | {:.3} | {} |\n",
        arm.policy,
        arm.processes,
        arm.threads,
        arm.zero,
        made.seconds,
        predicted.map_or("-".into(), |s| format!("{s:.2}")),
        100.0 * made.exchanging / made.seconds,
        made.memory.iter().map(|n| (n >> 20).to_string()).collect::<Vec<_>>().join(", "),
        made.planned >> 20,
        made.exchanged / 1e6,
        bytes.map_or("-".into(), |mb| format!("{mb:.3}"))
    )
}
