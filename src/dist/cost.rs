//! What an update costs a process of a world: FLOPs, bytes over the network, and by a machine's figures the time of each
//! phase, so that it can be told where the network becomes the limit. Nothing is measured here; what runs have measured
//! stands in docs/results.md beside it.
//!
//! Exchanges are counted as rings make them: of a sum of S bytes each of N processes sends and gets 2 (N - 1) / N S, of a
//! sum that is dealt out, or of parts that are gathered, half of it.

use super::Bytes;

/// What an update is made of, all processes together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Parameters that learn.
    pub student: f64,
    /// Parameters of the teacher that is asked; 0 for none.
    pub teacher: f64,
    /// Those of them that are in blocks.
    pub in_blocks: f64,
    /// How many blocks it has.
    pub blocks: f64,
    /// Bytes of a number that models compute in.
    pub size: f64,
    /// Sequences.
    pub rows: f64,
    /// Tokens of one.
    pub length: f64,
    /// Tokens of it that are sampled by the student; 0 where rows are given.
    pub sampled: f64,
    /// Updates that go through a collection of replies.
    pub reuse: f64,
    /// The teacher's share of the draws: how much of the sampling is its own.
    pub alpha: f64,
    /// Channels of the teacher's states, which are gathered with the replies.
    pub states: f64,
    /// Sequences that go through together.
    pub together: f64,
    /// Whether blocks are computed twice.
    pub recompute: bool,
}

/// How it is dealt out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dealt {
    /// Processes.
    pub ranks: f64,
    /// `dist.zero`.
    pub zero: usize,
    /// `dist.shard_teacher`.
    pub shard_teacher: bool,
    /// Bytes of gradients that are exchanged at a time: `dist.bucket`.
    pub bucket: f64,
}

/// The figures of a machine, of one process's part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// FLOPs a second that products reach.
    pub flops: f64,
    /// Bytes a second from its own memory.
    pub memory: f64,
    /// Processes of a node.
    pub per_node: f64,
    /// Bytes a second that a process sends within a node.
    pub inside: f64,
    /// And between nodes.
    pub between: f64,
    /// Seconds that an exchange takes whatever it is of, for each doubling of the world.
    pub latency: f64,
}

/// A phase of an update, as one process goes through it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// What it is.
    pub name: &'static str,
    /// Its FLOPs.
    pub flops: f64,
    /// Bytes that it sends.
    pub sent: f64,
    /// Seconds of computing.
    pub computes: f64,
    /// Seconds of exchanging that no computing hides.
    pub waits: f64,
}

/// An update of one process.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Its phases.
    pub phases: Vec<Phase>,
    /// All exchanges as if nothing hid them, in seconds.
    pub exchanges: f64,
}

impl Cost {
    /// How long it takes.
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|p| p.computes + p.waits).sum()
    }

    /// How much of that is waiting for exchanges.
    pub fn waiting(&self) -> f64 {
        self.phases.iter().map(|p| p.waits).sum::<f64>() / self.seconds()
    }

    /// Whether the network is the limit: exchanges take longer than everything that is computed.
    pub fn is_network_bound(&self) -> bool {
        self.exchanges > self.phases.iter().map(|p| p.computes).sum::<f64>()
    }
}

/// Passes of the process that has most: sequences that go through together come one behind the other.
pub fn passes(work: &Work, ranks: f64) -> f64 {
    ((work.rows / ranks).ceil() / work.together.max(1.0)).ceil().max(1.0)
}

/// How often the teacher is asked: where the mixture is sampled at most once a step.
fn asked(work: &Work, dealt: &Dealt) -> f64 {
    if work.sampled > 0.0 && work.alpha > 0.0 { work.sampled / work.reuse } else { passes(work, dealt.ranks) }
}

/// The bytes that an update puts into exchanges of gradients, weights and a dealt-out teacher, as [`super::World::bytes`] counts
/// them; what fills buckets up, and words of a few bytes, are left out.
///
/// ```
/// use retort::dist::cost::{Dealt, Work, payload};
/// # let work = Work { student: 1e6, teacher: 0.0, in_blocks: 0.0, blocks: 0.0, size: 2.0, rows: 8.0, length: 64.0, sampled: 0.0,
/// #     reuse: 1.0, alpha: 0.0, states: 0.0, together: 2.0, recompute: false };
/// let of = |zero| payload(&work, &Dealt { ranks: 2.0, zero, shard_teacher: false, bucket: 16e6 });
/// assert_eq!(of(0).summed, 4_000_000);
/// assert_eq!((of(1).scattered, of(1).gathered), (4_000_000, 2_000_000));
/// // Two passes each, of two sequences.
/// assert_eq!(of(2).scattered, 8_000_000);
/// ```
pub fn payload(work: &Work, dealt: &Dealt) -> Bytes {
    let sums = 4.0 * work.student;
    let passes = passes(work, dealt.ranks);
    let given = if dealt.shard_teacher { asked(work, dealt) * work.size * work.in_blocks } else { 0.0 };
    let (summed, scattered) = match dealt.zero {
        0 => (sums, 0.0),
        1 => (0.0, sums),
        _ => (0.0, sums * passes),
    };
    let gathered = if dealt.zero > 0 { work.size * work.student } else { 0.0 };
    let whole = |bytes: f64| bytes.round() as u64;
    Bytes {
        summed: whole(summed),
        scattered: whole(scattered),
        gathered: whole(gathered),
        given: whole(given),
    }
}

/// What an update costs.
pub fn update(work: &Work, dealt: &Dealt, machine: &Machine) -> Cost {
    let mut phases = Vec::new();
    let mut exchanges = 0.0;
    let tokens = work.rows * work.length / dealt.ranks;
    let network = Network { dealt, machine };
    if work.sampled > 0.0 {
        phases.extend(sampling(work, dealt, machine));
        let replies = work.rows * work.sampled * work.states * work.size / work.reuse;
        let (sent, takes) = network.half(replies, 1.0);
        exchanges += takes;
        phases.push(Phase { name: "gather replies", flops: 0.0, sent, computes: 0.0, waits: takes });
    }
    let looks = 2.0 * work.teacher * tokens / if work.sampled > 0.0 { work.reuse } else { 1.0 };
    let scores = if work.sampled > 0.0 && work.alpha > 0.0 { 0.0 } else { looks };
    let of_teacher = payload(work, dealt).given as f64;
    // A block at a time, and a flag a pass.
    let (sent, takes) = network.half(of_teacher, asked(work, dealt) * (work.blocks + 1.0));
    exchanges += takes;
    let computes = scores / machine.flops;
    let waits = (takes - computes).max(0.0);
    phases.push(Phase { name: "teacher", flops: scores, sent, computes, waits });
    let flops = work.student * tokens * if work.recompute { 8.0 } else { 6.0 };
    let computes = flops / machine.flops;
    phases.push(Phase { name: "forward, backward", flops, sent: 0.0, computes, waits: 0.0 });
    let put = payload(work, dealt);
    let (sent, takes) = network.gradients(&put, dealt.bucket);
    exchanges += takes;
    // What a backward pass hides: two thirds of a pass, of the last alone where sums go behind it.
    let backward = computes * 2.0 / 3.0;
    let hides = if dealt.zero < 2 { backward / passes(work, dealt.ranks) } else { backward };
    let waits = (takes - hides).max(0.0);
    phases.push(Phase { name: "gradients", flops: 0.0, sent, computes: 0.0, waits });
    // AdamW reads and writes masters and moments and reads gradients, seven numbers of four bytes each.
    let own = if dealt.zero > 0 { work.student / dealt.ranks } else { work.student };
    let computes = 28.0 * own / machine.memory;
    let (sent, takes) = network.half(put.gathered as f64, buckets(4.0 * work.student, dealt.bucket));
    exchanges += takes;
    phases.push(Phase { name: "step, weights", flops: 0.0, sent, computes, waits: takes });
    Cost { phases, exchanges }
}

/// Sampling: every step reads all weights once, however few the rows.
fn sampling(work: &Work, dealt: &Dealt, machine: &Machine) -> [Phase; 1] {
    let rows = (work.rows / dealt.ranks).max(1.0);
    let step = |parameters: f64| {
        let reads = parameters * work.size / machine.memory;
        reads.max(2.0 * parameters * rows / machine.flops)
    };
    let steps = work.sampled / work.reuse;
    // With coins a teacher runs at its own tokens, and takes all before them along.
    let computes = steps * (step(work.student) + work.alpha * step(work.teacher));
    let flops = 2.0 * rows * steps * (work.student + if work.alpha > 0.0 { work.teacher } else { 0.0 });
    [Phase { name: "sample", flops, sent: 0.0, computes, waits: 0.0 }]
}

/// Bytes and seconds of exchanges.
struct Network<'n> {
    dealt: &'n Dealt,
    machine: &'n Machine,
}

impl Network<'_> {
    /// What each sends of a whole that goes round once, in so many exchanges.
    fn half(&self, whole: f64, exchanges: f64) -> (f64, f64) {
        let ranks = self.dealt.ranks;
        if ranks < 2.0 || whole == 0.0 {
            return (0.0, 0.0);
        }
        let sent = whole * (ranks - 1.0) / ranks;
        let speed = if ranks <= self.machine.per_node { self.machine.inside } else { self.machine.between };
        (sent, sent / speed + exchanges * self.machine.latency * ranks.log2())
    }

    /// The gradients' sums, whole or dealt out.
    fn gradients(&self, put: &Bytes, bucket: f64) -> (f64, f64) {
        let (summed, scattered) = (put.summed as f64, put.scattered as f64);
        let (there, dealt) =
            (self.half(summed, buckets(summed, bucket)), self.half(scattered, buckets(scattered, bucket)));
        (2.0 * there.0 + dealt.0, 2.0 * there.1 + dealt.1)
    }
}

/// How many exchanges so many bytes of gradients are.
fn buckets(bytes: f64, bucket: f64) -> f64 {
    (bytes / bucket.max(1.0)).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        Work {
            student: 760e6,
            teacher: 1.5e9,
            in_blocks: 1.4e9,
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
        }
    }

    const MACHINE: Machine =
        Machine { flops: 4e14, memory: 2e12, per_node: 8.0, inside: 3e11, between: 4e10, latency: 2e-5 };

    fn cost(ranks: f64, zero: usize) -> Cost {
        update(&work(), &Dealt { ranks, zero, shard_teacher: false, bucket: 16e6 }, &MACHINE)
    }

    /// One process exchanges nothing; computing is shared, exchanges are not.
    #[test]
    fn computing_is_shared_and_exchanges_are_not() {
        let one = cost(1.0, 0);
        assert_eq!(one.exchanges, 0.0);
        let of = |cost: &Cost, name: &str| *cost.phases.iter().find(|p| p.name == name).unwrap();
        for ranks in [2.0, 8.0, 64.0] {
            let many = cost(ranks, 0);
            let (a, b) = (of(&one, "forward, backward"), of(&many, "forward, backward"));
            assert!((a.flops / b.flops / ranks - 1.0).abs() < 1e-12);
            let sent = of(&many, "gradients").sent;
            assert!((sent / (2.0 * (ranks - 1.0) / ranks * 4.0 * 760e6) - 1.0).abs() < 1e-9, "{sent}");
        }
        // Six FLOPs a parameter and token.
        assert!((of(&one, "forward, backward").flops / (6.0 * 760e6 * 64.0 * 512.0) - 1.0).abs() < 1e-12);
    }

    /// The more processes share one batch, the more the network is the limit; dealing out the masters sends weights in the
    /// place of half of the sums.
    #[test]
    fn the_network_becomes_the_limit() {
        assert!(!cost(2.0, 0).is_network_bound());
        assert!(cost(1024.0, 0).is_network_bound());
        let sent = |zero| cost(64.0, zero).phases.iter().map(|p| p.sent).sum::<f64>();
        assert!(sent(1) < sent(0));
        let shares: Vec<f64> = [16.0, 64.0, 256.0].map(|ranks| cost(ranks, 0).waiting()).to_vec();
        assert!(shares.is_sorted(), "{shares:?}");
    }
}
