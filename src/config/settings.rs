//! The settings of a run, each with its default.

use std::path::PathBuf;

/// Every setting but the policy's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What every random number depends on. Default 1.
    pub seed: u64,
    /// The model that learns.
    pub student: Student,
    /// The model that teaches, by folder or hub name; needed where the policy asks for one.
    pub teacher: Option<String>,
    /// What is kept of what it says.
    pub cache: super::Cache,
    /// What is learnt from.
    pub data: Data,
    /// How.
    pub train: Train,
    /// How replies are sampled.
    pub sampling: Sampling,
    /// How the student is measured on the way.
    pub eval: Eval,
    /// How several processes wait for each other.
    pub dist: Dist,
}

/// Where a student's weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A model folder, or `org/name` in the hub's cache.
    Folder(String),
    /// Random weights in the shape of this config.json.
    Config(PathBuf),
}

/// `[student]`
#[derive(Debug, Clone, PartialEq)]
pub struct Student {
    /// Its weights.
    pub model: Origin,
    /// `[student.lora]`: changes of low rank learn, and the weights stay. Default none.
    pub lora: Option<Lora>,
}

/// `[student.lora]`
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// The rank of the changes. Default 8.
    pub rank: usize,
    /// They are scaled by this over the rank. Default twice the rank.
    pub alpha: f64,
    /// What is changed: `attention`, `mlp`, or projections as the model calls them. Default both.
    pub targets: Vec<String>,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    /// Files of instruction rows.
    pub train: Vec<PathBuf>,
    /// Files of held-out rows.
    pub valid: Vec<PathBuf>,
    /// Files of text, or of `{"text"}` rows, to be packed.
    pub corpus: Vec<PathBuf>,
    /// How rows become text. Default `auto`.
    pub template: String,
    /// The longest prompt in tokens; a longer one is shortened. Default 256.
    pub max_prompt: usize,
    /// The longest response in tokens, EOS in; a longer one is cut. Default 256.
    pub max_response: usize,
    /// Which replies of a conversation are learnt. Default all.
    pub learn: Learn,
    /// Tokens of a packed row. Default 1024.
    pub sequence: usize,
    /// What the tokens of a packed row see. Default packed.
    pub document_attention: DocumentAttention,
    /// Whether bad rows go into a rejects file in the run directory instead of stopping the run.
    /// Default false.
    pub skip_invalid: bool,
}

/// Which replies of a conversation are learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learn {
    /// All of them, each with the token that ends its turn.
    Replies,
    /// The last; what was said before it is its prompt.
    Last,
}

/// What the tokens of a packed row see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentAttention {
    /// All that stands before them in the row.
    Packed,
    /// What stands before them in their own document, whose positions begin at 0.
    Own,
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// This many updates.
    Steps(u64),
    /// This many times through the data.
    Epochs(f64),
}

/// How the learning rate goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls along a line.
    Linear,
    /// It falls along half a cosine.
    Cosine,
    /// It stays, and falls along a line at the end.
    Wsd,
}

/// How long the rate rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    /// So many updates.
    Updates(u64),
    /// This share of all updates, written as `"10%"`.
    Share(f64),
}

impl Warmup {
    /// In updates, of a run of so many.
    pub fn updates(self, steps: u64) -> u64 {
        match self {
            Warmup::Updates(n) => n,
            Warmup::Share(share) => (share * steps as f64).round() as u64,
        }
    }
}

/// Sequences that go through a model together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MicroBatch {
    /// As many as fit the machine's memory, by shapes alone.
    Auto,
    /// This many.
    Rows(usize),
}

/// What the best checkpoint is best at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Best {
    /// Rouge-L of replies to held-out prompts.
    RougeL,
    /// The cross-entropy of held-out responses.
    ValidLoss,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq)]
pub struct Train {
    /// `steps` or `epochs`; one must be given.
    pub length: Length,
    /// Sequences an update. Default 64.
    pub batch: usize,
    /// Sequences at a time. Default `auto`.
    pub micro_batch: MicroBatch,
    /// Whether blocks are computed again in the backward pass to save memory; `auto` where they must.
    /// Default `auto`, which is none.
    pub recompute: Option<bool>,
    /// The highest learning rate. Default 5e-6.
    pub lr: f64,
    /// How it goes. Default cosine.
    pub schedule: Schedule,
    /// How long it rises. Default 0.
    pub warmup: Warmup,
    /// Where it ends. Default 0.
    pub min_lr: f64,
    /// The share of the updates over which `wsd` falls. Default 0.1.
    pub decay: f64,
    /// AdamW's. Default 0.9, 0.95.
    pub betas: [f64; 2],
    /// AdamW's. Default 1e-8.
    pub eps: f64,
    /// AdamW's, on matrices alone. Default 0.
    pub weight_decay: f64,
    /// Whether norms and biases decay too. Default false.
    pub decay_all: bool,
    /// The largest norm of a gradient. Default 1; 0 for any.
    pub clip: f64,
    /// Updates between evaluations; 0 for none. Default 100.
    pub eval_every: u64,
    /// Updates between checkpoints; 0 for the end alone. Default 500.
    pub save_every: u64,
    /// Checkpoints kept. Default 3.
    pub keep: usize,
    /// What `best/` is best at. Default rouge-l.
    pub best: Best,
    /// Updates in a row that may be skipped for numbers that are not finite. Default 10.
    pub max_skipped: u64,
    /// Whether the weights' distance from their start is measured, on updates spaced evenly on a logarithmic axis.
    /// Default false.
    pub measure_distance: bool,
    /// Updates between measurements of the gradient noise scale; 0 for none. Default 0.
    pub measure_noise: u64,
    /// `[train.regime]`: the settings above are those of a smaller batch. Default none.
    pub regime: Option<super::Regime>,
}

/// `[sampling]`
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits. Default 1.
    pub temperature: f64,
    /// Only so many most probable tokens; 0 for all. Default 0.
    pub top_k: usize,
    /// Only the most probable that reach this share. Default 1.
    pub top_p: f64,
    /// No reply ends before it has so many tokens. Default 0.
    pub min_new_tokens: usize,
}

/// `[dist]`
#[derive(Debug, Clone, PartialEq)]
pub struct Dist {
    /// Seconds after which a process that is gone or does not move ends the others. Default 60.
    pub timeout: f64,
    /// What is dealt out to the processes: nothing (0, the default), the masters and AdamW's moments (1), and the
    /// gradients' sums (2).
    pub zero: usize,
    /// MiB of gradients that are exchanged at a time. Default 16.
    pub bucket: f64,
    /// Whether each process holds some of the teacher's blocks alone.
    pub shard_teacher: bool,
}

/// `[eval]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eval {
    /// Held-out prompts that the student replies to at each evaluation, for Rouge-L; 0 for none. Default 256
    /// where `train.best` is rouge-l and the policy trains on rows, else 0.
    pub prompts: usize,
}

impl Eval {
    /// The default where Rouge-L decides. Where replies' scores spread by 16 points of a hundred, their mean has
    /// a standard error of 1; replies of 256 tokens are a fiftieth of what 100 updates of 64 rows of 512 read.
    pub const PROMPTS: usize = 256;
}

impl Schedule {
    /// The names.
    pub const NAMES: [(&'static str, Schedule); 4] = [
        ("constant", Schedule::Constant),
        ("linear", Schedule::Linear),
        ("cosine", Schedule::Cosine),
        ("wsd", Schedule::Wsd),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, s)| *s == self).map_or("", |(name, _)| name)
    }
}

impl DocumentAttention {
    /// The names.
    pub const NAMES: [(&'static str, DocumentAttention); 2] =
        [("packed", DocumentAttention::Packed), ("own", DocumentAttention::Own)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, a)| *a == self).map_or("", |(name, _)| name)
    }
}

impl Learn {
    /// The names.
    pub const NAMES: [(&'static str, Learn); 2] = [("replies", Learn::Replies), ("last", Learn::Last)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, l)| *l == self).map_or("", |(name, _)| name)
    }
}

impl Best {
    /// The names.
    pub const NAMES: [(&'static str, Best); 2] = [("rouge-l", Best::RougeL), ("valid-loss", Best::ValidLoss)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, b)| *b == self).map_or("", |(name, _)| name)
    }
}
