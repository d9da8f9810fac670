//! What an update of published pairs of models would cost on 1 to 1,024 GPUs. The machine's figures are assumptions, said
//! above each table; nothing here was measured.

use std::fmt::Write;

use retort::dist::cost::{Dealt, Machine, Work, update};

/// A node of eight GPUs: 400 TFLOP/s reached of bfloat16 products, 2 TB/s of memory, 300 GB/s between them, and a card of
/// 50 GB/s for each between nodes.
const MACHINE: Machine =
    Machine { flops: 4e14, memory: 2e12, per_node: 8.0, inside: 3e11, between: 5e10, latency: 2e-5 };

/// Bytes of a bucket, as `dist.bucket` has them unless told.
pub const BUCKET: f64 = 16.0 * 1024.0 * 1024.0;

/// MiniLLM's GPT-2: 760M from 1.5B, 64 sequences of 512 tokens, half of them sampled in the mixture.
const MINILLM: Work = Work {
    student: 774e6,
    teacher: 1.558e9,
    in_blocks: 1.475e9,
    blocks: 48.0,
    size: 2.0,
    rows: 64.0,
    length: 512.0,
    sampled: 256.0,
    reuse: 4.0,
    alpha: 0.2,
    states: 1600.0,
    together: 8.0,
    recompute: false,
};

/// MiniMA: 3B from LLaMA2-7B on packed text, a million tokens an update.
const MINIMA: Work = Work {
    student: 3.0e9,
    teacher: 6.74e9,
    in_blocks: 6.48e9,
    blocks: 32.0,
    size: 2.0,
    rows: 256.0,
    length: 4096.0,
    sampled: 0.0,
    reuse: 1.0,
    alpha: 0.0,
    states: 0.0,
    together: 4.0,
    recompute: true,
};

/// The tables.
pub fn tables() -> String {
    let mut text = String::new();
    for (name, work) in [("minillm, 774M from 1.5B", MINILLM), ("minima, 3B from 6.7B", MINIMA)] {
        for (zero, shard_teacher) in [(0, false), (2, true)] {
            let _ = writeln!(text, "{name}, dist.zero = {zero}, dist.shard_teacher = {shard_teacher}\n");
            text += &table(&work, zero, shard_teacher);
            text.push('\n');
        }
        for ranks in [8.0, 64.0] {
            let _ = writeln!(text, "{name}, each phase on {ranks} GPUs, dist.zero = 0\n");
            text += &phases(&work, ranks);
            text.push('\n');
        }
    }
    text
}

fn phases(work: &Work, ranks: f64) -> String {
    let mut text =
        String::from("| phase | TFLOP | GB sent | computes, s | waits, s |\n|---|---:|---:|---:|---:|\n");
    for p in update(work, &Dealt { ranks, zero: 0, shard_teacher: false, bucket: BUCKET }, &MACHINE).phases {
        let (flops, sent) = (p.flops / 1e12, p.sent / 1e9);
        let _ =
            writeln!(text, "| {} | {flops:.2} | {sent:.3} | {:.4} | {:.4} |", p.name, p.computes, p.waits);
    }
    text
}

fn table(work: &Work, zero: usize, shard_teacher: bool) -> String {
    let mut text = String::from(
        "| GPUs | TFLOP a GPU | GB sent by a GPU | an update, s | of it waiting, % | times one GPU | limit |\n|---:|---:|---:|---:|---:|---:|---|\n",
    );
    let one =
        update(work, &Dealt { ranks: 1.0, zero, shard_teacher: false, bucket: BUCKET }, &MACHINE).seconds();
    for power in 0..=10 {
        let ranks = f64::from(1u32 << power);
        let dealt = Dealt { ranks, zero, shard_teacher: shard_teacher && ranks > 1.0, bucket: BUCKET };
        let cost = update(work, &dealt, &MACHINE);
        let sum = |of: &dyn Fn(&retort::dist::cost::Phase) -> f64| cost.phases.iter().map(of).sum::<f64>();
        let _ = writeln!(
            text,
            "| {ranks} | {:.1} | {:.2} | {:.3} | {:.0} | {:.1} | {} |",
            sum(&|p| p.flops) / 1e12,
            sum(&|p| p.sent) / 1e9,
            cost.seconds(),
            100.0 * cost.waiting(),
            one / cost.seconds(),
            if cost.is_network_bound() { "network" } else { "computing" }
        );
    }
    text
}
