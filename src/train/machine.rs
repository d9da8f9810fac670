//! What fits into a machine: from its total memory and the shapes alone, never from what is free at the
//! moment, so that the same run on the same machine makes the same cuts.

use tch::{Device, Kind};

use crate::config::{Keep, MicroBatch, RunConfig, Train};
use crate::data::Limits;
use crate::data::sampler::Cut;
use crate::model::config::Shape;
use crate::native::cuda;

/// The most tokens at once: beyond these products get no faster.
const MOST_CPU: usize = 4096;
const MOST_GPU: usize = 16384;

/// Rows of the fused head's chunks, of which two are alive at a time. A CPU's are half as many: room for what is
/// counted nowhere.
const HEAD_ROWS: u64 = 256;

/// What a process with libtorch and a tokenizer holds before it has a model.
const PROCESS: u64 = 150 << 20;

/// Sizes that memory depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// The student.
    pub student: Shape,
    /// Its parameters.
    pub parameters: u64,
    /// The teacher, and the bytes of its weights as they are held.
    pub teacher: Option<(Shape, u64)>,
    /// What is kept of it.
    pub keep: Keep,
    /// What both compute in.
    pub kind: Kind,
    /// The device that holds all this.
    pub device: Device,
    /// The tokens that losses are over.
    pub vocabulary: u64,
    /// The longest row.
    pub longest: usize,
    /// What is sampled.
    pub replies: Replies,
    /// Parameters of adapters, where they learn in the student's place.
    pub adapters: Option<u64>,
    /// How it is dealt out.
    pub shares: Shares,
}

/// What of a run each of its processes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// How many processes there are.
    pub ranks: u64,
    /// What they deal out: `dist.zero`.
    pub zero: usize,
    /// Bytes of gradients that are exchanged at a time.
    pub bucket: u64,
}

impl Shares {
    /// Of so many processes.
    pub fn of(config: &RunConfig, ranks: usize) -> Shares {
        let dist = &config.settings.dist;
        let zero = if ranks > 1 { dist.zero } else { 0 };
        Shares { ranks: ranks as u64, zero, bucket: (dist.bucket * f64::from(1 << 20)) as u64 }
    }

    /// A process's part of so many bytes, where they are dealt out from this level of `dist.zero` on.
    fn part(self, bytes: u64, from: usize) -> u64 {
        if self.zero >= from { bytes.div_ceil(self.ranks) } else { bytes }
    }

    /// What exchanges take beside what is exchanged, where the largest tensor has so many bytes of gradients: Gloo's copies of
    /// what it deals out, behind the step a bucket of weights and a part of it, and (2) the buckets that are under way. A
    /// bucket is no smaller than a tensor in it.
    fn exchanges(self, largest: u64) -> u64 {
        let large = largest.max(self.bucket);
        match self.zero {
            0 => 0,
            1 => large + large / self.ranks + self.bucket,
            _ => 2 * large + large / self.ranks + 3 * self.bucket,
        }
    }
}

/// Replies that a run samples, in evaluations or to learn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Replies {
    /// Rows that are decoded together.
    pub together: u64,
    /// The longest prompt and reply.
    pub limits: Limits,
    /// Whether the teacher decodes beside the student.
    pub mixed: bool,
    /// Rows of a collection whose teacher states are kept.
    pub kept: u64,
}

impl Replies {
    /// None.
    pub const NONE: Replies =
        Replies { together: 0, limits: Limits { prompt: 0, response: 0 }, mixed: false, kept: 0 };
}

/// How an update is cut, and whether blocks are computed twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutting {
    /// Rows or tokens at a time.
    pub cut: Cut,
    /// Whether the inside of a block is forgotten until the backward pass.
    pub recompute: bool,
}

impl Sizes {
    /// How the updates of a run are cut on a machine of so much memory.
    pub fn cutting(&self, train: &Train, total: Option<u64>) -> Cutting {
        let most = if self.device == Device::Cpu { MOST_CPU } else { MOST_GPU };
        // Half of what the state leaves: libtorch and the system need the rest.
        let left = total.map(|total| total.saturating_sub(self.state() + self.head() + PROCESS) / 2);
        let fits = |recompute| {
            left.map_or(usize::MAX, |left| (left / self.activations(1, recompute).max(1)) as usize)
        };
        let rows = match train.micro_batch {
            MicroBatch::Rows(rows) => rows,
            MicroBatch::Auto => 1,
        };
        let recompute = train.recompute.unwrap_or(fits(false) < rows * self.longest);
        let cut = match train.micro_batch {
            MicroBatch::Rows(rows) => Cut::Rows(rows),
            MicroBatch::Auto => Cut::Tokens(fits(recompute).min(most).max(self.longest)),
        };
        Cutting { cut, recompute }
    }

    /// The most tokens that stand in a micro-batch, padding in.
    pub fn at_once(&self, cut: Cut, batch: usize) -> usize {
        match cut {
            Cut::Rows(rows) => rows.min(batch) * self.longest,
            Cut::Tokens(tokens) => tokens.min(batch * self.longest).max(self.longest),
        }
    }

    /// The most memory that a run holds, in bytes, where so many tokens go through together.
    pub fn peak(&self, tokens: usize, recompute: bool) -> u64 {
        let teacher = self.teacher.as_ref().map_or(0, |(shape, weights)| match self.keep {
            Keep::None => weights + self.asking(shape, tokens),
            _ => self.kept(shape, tokens),
        });
        // Gradients are added to their sums as they come, while what they are made from goes.
        let update = self.activations(tokens as u64, recompute) + self.head();
        // A tensor is written from a copy of its bytes.
        let save = 4 * n(self.student.vocabulary) * n(self.student.hidden);
        // Adapters are merged into a copy of the weights, made of those in float32 where the run computes in
        // another type. What the update held is not given back before: its pieces are small.
        let copies = if self.kind == Kind::Float { 4 } else { 8 };
        let merged = self.adapters.map_or(0, |_| copies * self.parameters);
        let training = PROCESS
            + self.state()
            + teacher
            + update.max(save).max(self.sampling())
            + merged
            + self.collection();
        training.max(self.keeping(tokens)).max(self.loading())
    }

    /// The most that is held while the student is read: whole masters and what is computed with, before a part of the
    /// masters is given back.
    fn loading(&self) -> u64 {
        let both = if self.kind == Kind::Float { 4 } else { 4 + self.size() };
        if self.adapters.is_some() { 0 } else { PROCESS + both * self.parameters }
    }

    /// The most that is held while what the teacher says is put down: both models, and nothing yet to train with.
    fn keeping(&self, tokens: usize) -> u64 {
        match (&self.teacher, self.keep) {
            (None, _) | (_, Keep::None) => 0,
            (Some((shape, weights)), _) => {
                PROCESS + self.student_alone() + weights + self.asking(shape, tokens) + self.head()
            }
        }
    }

    /// What is held of a teacher whose words are kept: its head, which drawn tokens need for held-out rows alone,
    /// and a batch of what was kept.
    pub fn kept(&self, shape: &Shape, tokens: usize) -> u64 {
        self.size() * n(shape.head_input) * (n(shape.vocabulary) + tokens as u64)
    }

    /// What a teacher's pass over so many tokens holds.
    fn asking(&self, shape: &Shape, tokens: usize) -> u64 {
        tokens as u64 * self.size() * (4 * n(shape.hidden) + 3 * n(shape.ffn))
    }

    /// Masters and what is computed with; where adapters learn, those of them, and the student as it is read.
    fn student_alone(&self) -> u64 {
        let learnt = |n: u64| match self.kind {
            Kind::Float => 4 * n,
            _ => self.size() * n + self.shares.part(4 * n, 1),
        };
        match self.adapters {
            Some(adapters) => self.parameters * self.size() + learnt(adapters),
            None => learnt(self.parameters),
        }
    }

    /// Keys and values of the replies that are sampled together, in each model that decodes, their prompts on the
    /// way through the blocks, and a few copies of the next tokens' distributions in float64.
    fn sampling(&self) -> u64 {
        let Replies { together: rows, limits, mixed, .. } = self.replies;
        let (prompt, reply) = (limits.prompt as u64, limits.response as u64);
        let cache = |s: &Shape| rows * (prompt + reply) * n(s.layers) * 2 * n(s.kv_heads * s.head_dim);
        let passing = |s: &Shape| (rows * prompt).min(8192) * (4 * n(s.hidden) + 3 * n(s.ffn));
        let own = cache(&self.student) + passing(&self.student);
        let teachers = self.teacher.as_ref().filter(|_| mixed).map_or(0, |(t, _)| cache(t) + passing(t));
        self.size() * (own + teachers) + rows * n(self.student.vocabulary) * 8 * 4
    }

    /// The teacher's states of a collection, which stay while it is learnt from.
    fn collection(&self) -> u64 {
        let tokens = self.replies.kept * self.replies.limits.response as u64;
        self.teacher.as_ref().map_or(0, |(shape, _)| tokens * self.size() * n(shape.head_input))
    }

    fn size(&self) -> u64 {
        self.kind.elt_size_in_bytes() as u64
    }

    /// Masters, what is computed with where it is another, the gradients' sums, both moments, and the sums
    /// of the head's; where adapters learn, all that of them, and the student as it is read.
    fn state(&self) -> u64 {
        let sums = |n: u64| match self.shares.zero {
            // The whole of what a rank adds, and its part of the sum.
            1 => 4 * n + self.shares.part(4 * n, 1),
            _ => self.shares.part(4 * n, 2),
        };
        let learns = |n: u64| sums(n) + self.shares.part(8 * n, 1);
        let head = 4 * n(self.student.vocabulary) * n(self.student.head_input);
        let more = self.adapters.map_or(learns(self.parameters) + head, learns);
        let largest = 4 * n(self.student.vocabulary) * n(self.student.hidden);
        self.student_alone() + more + self.shares.exchanges(largest)
    }

    /// The chunks of the fused head.
    fn head(&self) -> u64 {
        let sides = if self.teacher.is_some() { 2 } else { 1 };
        HEAD_ROWS * self.vocabulary * 4 * (sides + 1)
    }

    /// What is kept of so many tokens for the backward pass.
    pub fn activations(&self, tokens: u64, recompute: bool) -> u64 {
        let s = &self.student;
        let (d, f) = (n(s.hidden), n(s.ffn));
        let (q, kv) = (n(s.heads * s.head_dim), n(s.kv_heads * s.head_dim));
        // Two residual states and two normed ones; queries, keys and values before and behind the rotation,
        // the attention's value; the feed-forward net's gate, its activation, up and product.
        let block = 4 * d + 3 * q + 4 * kv + 4 * f;
        // A processor's heap keeps the holes of what was freed between what stays, and those of a block that is computed again:
        // half as much again is within a quarter of what is held (`training::the_memory_is_predicted_within_a_quarter`).
        // libtorch's allocator fills a GPU's (`stand_in::the_memory_of_a_gpu_is_predicted_within_a_quarter`).
        let (again, halves) = if self.device == Device::Cpu { (2, 3) } else { (1, 2) };
        let blocks = if recompute { n(s.layers) * d + again * block } else { n(s.layers) * block };
        // The last states, packed, and their gradients on the way back.
        tokens * self.size() * (blocks + 6 * d + 2 * f) * halves / 2
    }
}

fn n(x: i64) -> u64 {
    x.max(0) as u64
}

/// The memory of a device, in bytes, where it can be told.
pub fn total_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(n) => cuda::memory(n).ok().map(|m| m.total as u64),
        _ => [of_machine(), of_group()].into_iter().flatten().min(),
    }
}

/// What each of so many processes on a machine has of it: a GPU each, or a share of the memory.
pub fn share_of_memory(device: Device, processes: usize) -> Option<u64> {
    let shared = if device == Device::Cpu { processes.max(1) as u64 } else { 1 };
    total_memory(device).map(|total| total / shared)
}

fn of_machine() -> Option<u64> {
    kib("/proc/meminfo", "MemTotal:")
}

/// The most that this process has held so far, in bytes, where it can be told.
pub fn peak_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(n) => cuda::memory(n).ok().map(|m| m.allocated_peak as u64),
        _ => kib("/proc/self/status", "VmHWM:"),
    }
}

/// The bytes that a line of one of Linux's tables says.
fn kib(table: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(table).ok()?;
    let line = text.lines().find(|l| l.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What a container may use.
fn of_group() -> Option<u64> {
    std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> Sizes {
        let config = r#"{"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192,
            "tie_word_embeddings": true}"#;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let student = crate::model::read_design(dir.path()).unwrap().shape().clone();
        let (kind, vocabulary) = (Kind::BFloat16, 49_152);
        Sizes {
            student,
            parameters: 134_515_008,
            teacher: None,
            keep: Keep::None,
            kind,
            device: Device::Cpu,
            vocabulary,
            longest: 512,
            replies: Replies::NONE,
            adapters: None,
            shares: Shares { ranks: 1, zero: 0, bucket: 0 },
        }
    }

    fn train(set: &[&str]) -> Train {
        let text = "policy = \"sft\"\nstudent.model = \"m\"\ndata.train = \"r\"\ntrain.steps = 1\n";
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        RunConfig::parse(text, "run.toml".as_ref(), &set).unwrap().settings.train
    }

    /// Much memory: as many tokens as are of use. Less: fewer. Too little for one row: blocks twice.
    #[test]
    fn the_cut_follows_the_memory() {
        let cut = |gib: u64, set: &[&str]| sizes().cutting(&train(set), Some(gib << 30));
        assert_eq!(cut(64, &[]), Cutting { cut: Cut::Tokens(MOST_CPU), recompute: false });
        let Cutting { cut: Cut::Tokens(some), recompute: false } = cut(6, &[]) else { panic!() };
        assert!((512..MOST_CPU).contains(&some), "{some}");
        assert!(cut(3, &[]).recompute);
        assert!(!cut(3, &["train.recompute=false"]).recompute);
        assert_eq!(cut(64, &["train.micro_batch=3"]).cut, Cut::Rows(3));
        assert!(cut(8, &["train.micro_batch=64"]).recompute);
    }
}
