//! What the student learns, and from whom. This crate is the ground: it knows tensors, no models,
//! no files, no engine.
//!
//! A policy is two choices: where the tokens come from ([`Source`], which it declares and the engine
//! samples) and what scores them ([`Policy::score`], on what the engine hands over as a [`View`]). What it
//! scores is a sum ([`Scored`]); only the trainer divides, by what it counted over the whole update. So
//! an update goes in three steps:
//!
//! 1. [`Policy::prepare`] sees the rollout numbers of all rows of the update, on all ranks, and turns
//!    them into numbers for each token (advantages, whitened over the update, and weights);
//! 2. the trainer cuts the update into micro-batches as memory asks, and [`Policy::score`] sums each;
//! 3. the trainer divides by the update's tokens (or rows: [`Plan::unit`]), part by part.
//!
//! No sum can depend on the cut, and no policy draws a random number: draws are handed over.
//!
//! A new policy is one new file, and its line in [`POLICIES`].

pub mod config;
pub mod distillm;
pub mod error;
pub mod gkd;
pub mod kd;
pub mod minillm;
pub mod minima;
pub mod objective;
pub mod onpolicy;
pub mod seqkd;
pub mod sft;
pub mod view;

use std::fmt::Debug;

use serde_json::Value;

pub use config::Table;
pub use error::{Error, Result};
pub use view::{Part, Rollout, Scored, Signals, View};

/// Every policy: its name, the config table it reads, how it is built from it.
pub const POLICIES: [Entry; 8] = [
    Entry { name: "sft", table: "sft", build: sft::build },
    Entry { name: "kd", table: "kd", build: kd::build },
    Entry { name: "seqkd", table: "kd", build: seqkd::build },
    Entry { name: "minillm", table: "minillm", build: minillm::build },
    Entry { name: "minima", table: "kd", build: minima::build },
    Entry { name: "gkd", table: "gkd", build: gkd::build },
    Entry { name: "distillm", table: "distillm", build: distillm::build },
    Entry { name: "onpolicy", table: "onpolicy", build: onpolicy::build },
];

/// A policy's place in [`POLICIES`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What the config calls it.
    pub name: &'static str,
    /// The config table it reads; kd's is read by seqkd and minima too.
    pub table: &'static str,
    /// Builds it from that table.
    pub build: fn(&Table) -> Result<Box<dyn Policy>>,
}

/// The entry of this name.
///
/// ```
/// let table = serde_json::json!({"preset": "lmops", "gamma": 0.9});
/// let entry = retort_policies::named("minillm")?;
/// let policy = (entry.build)(table.as_object().unwrap())?;
/// assert_eq!(policy.settings()["gamma"], 0.9);
/// assert_eq!(policy.settings()["whiten"], "all");
/// # Ok::<(), retort_policies::Error>(())
/// ```
pub fn named(name: &str) -> Result<&'static Entry> {
    let names = || POLICIES.map(|e| e.name).join(", ");
    POLICIES.iter().find(|e| e.name == name).ok_or_else(|| Error::setting("policy", &names(), name))
}

/// Where a batch's tokens come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The data set's own responses.
    Gold,
    /// Responses that the teacher sampled, one a prompt, made once.
    Teacher,
    /// Responses that the student samples now.
    Student,
    /// Responses sampled from `alpha p + (1-alpha) q`, token by token.
    Mixed {
        /// The teacher's share.
        alpha: f64,
    },
    /// Responses that the student sampled before.
    Replay,
    /// Packed text.
    Corpus,
    /// One of several, each with its share; one draw a batch decides.
    Share(Vec<(f64, Source)>),
}

impl Source {
    /// The source that a draw from [0, 1) chooses: the shares lie one behind the other.
    pub fn pick(&self, draw: f64) -> &Source {
        let Source::Share(shares) = self else { return self };
        let mut end = 0.0;
        for (share, source) in shares {
            end += share;
            if draw < end {
                return source.pick(draw);
            }
        }
        shares.last().map_or(self, |(_, source)| source)
    }
}

/// Where training stands when a batch is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Updates done.
    pub step: u64,
    /// Updates in all.
    pub steps: u64,
    /// Whether the replay buffer holds all that it can.
    pub replay_full: bool,
}

/// What a loss is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// The update's response tokens: a token mean.
    Tokens,
    /// The update's rows: sums over tokens, mean over rows.
    Rows,
}

/// How many replies are sampled at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    /// As many as an update takes.
    Batch,
    /// This many, cut into updates afterwards.
    Rows(usize),
}

/// What the engine has to provide, known before anything runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// The view of [`Part::Main`] holds the teacher.
    pub teacher: bool,
    /// Tokens drawn from the teacher would do in its place: every term that looks at it is a forward KL at
    /// temperature 1.
    pub draws: bool,
    /// The view of [`Part::Corpus`] holds the teacher.
    pub corpus_teacher: bool,
    /// [`Policy::prepare`] needs rollout numbers.
    pub rollout: bool,
    /// Each update takes corpus rows beside its own, where there is a corpus.
    pub corpus: bool,
    /// Replies sampled before their updates.
    pub collection: Collection,
    /// How often a collection is gone through.
    pub inner_epochs: usize,
    /// Fresh samples are kept, this many, first in first out.
    pub replay: Option<usize>,
    /// Sampling must be at temperature 1 without top-k and top-p.
    pub unfiltered: bool,
    /// What is sampled follows the held-out cross-entropy: without it the source stays as it is at first.
    pub heeds_validation: bool,
    /// Gradients of each variant whose variance is measured now and then; 0 for none.
    pub variance: usize,
    /// What the main part is divided by. The corpus part is always divided by its tokens.
    pub unit: Unit,
}

impl Default for Plan {
    /// Nothing but the rows.
    fn default() -> Self {
        Plan {
            teacher: false,
            draws: false,
            corpus_teacher: false,
            rollout: false,
            corpus: false,
            collection: Collection::Batch,
            inner_epochs: 1,
            replay: None,
            unfiltered: false,
            heeds_validation: false,
            variance: 0,
            unit: Unit::Tokens,
        }
    }
}

/// What [`Policy::prepare`] may know of the update beside its own rows.
pub struct Update<'a> {
    /// R, the most tokens a reply may have; a constant of the run.
    pub longest: usize,
    /// Adds numbers up over all ranks, in place. Every rank calls it equally often.
    pub total: &'a mut dyn FnMut(&mut [f64]) -> Result<()>,
}

/// What the student learns, and from whom.
pub trait Policy: Debug + Send {
    /// Its name in the config.
    fn name(&self) -> &'static str;

    /// Every setting by name, presets and defaults written out.
    fn settings(&self) -> Value;

    /// What it needs of the engine.
    fn plan(&self) -> Plan;

    /// Where the next batch's tokens come from.
    fn source(&self, moment: Moment) -> Source;

    /// Turns the rollout numbers of an update's rows (this rank's) into numbers for each token, before
    /// the update is cut. One entry a row, also where there is nothing to say.
    fn prepare(&self, rows: &[Rollout], update: Update<'_>) -> Result<Vec<Signals>> {
        let _ = update;
        Ok(rows.iter().map(|_| Signals::default()).collect())
    }

    /// The summed loss of a micro-batch, and its gradient.
    fn score(&self, view: View<'_>) -> Result<Scored>;

    /// The policy with its tricks on and off, by name, the one without bias first: what
    /// [`Plan::variance`] is measured of.
    fn variants(&self) -> Vec<(&'static str, Box<dyn Policy>)> {
        Vec::new()
    }

    /// Hears the token mean of the cross-entropy on gold validation rows, once before training and
    /// then at each validation.
    fn validated(&mut self, cross_entropy: f64) {
        let _ = cross_entropy;
    }

    /// What must be saved to go on where it stopped.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Goes on from a saved state.
    fn restore(&mut self, state: &Value) -> Result<()> {
        let _ = state;
        Ok(())
    }
}
