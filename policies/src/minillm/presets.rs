//! MiniLLM's settings, and the three tables of them: as the paper prints the method, as its public code
//! runs it, and the one without bias.

use serde::{Deserialize, Serialize};

use crate::Unit;
use crate::config::{Switch, Table, demand, over};
use crate::error::Result;

/// A table of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper.
    Paper,
    /// The reference code.
    Lmops,
    /// Unbiased: its expected gradient is that of the sequence KL.
    Exact,
}

/// Where a token's return starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// At its own reward (b = 0).
    Current,
    /// At the next one's (b = 1).
    Next,
}

/// What advantages are whitened over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whiten {
    /// They are not.
    None,
    /// All B x R cells of the update, the zeros of padding among them.
    All,
    /// The N tokens of the update.
    Masked,
}

/// Importance weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// One a step, the paper's approximation.
    Step,
    /// Products over prefixes, unbiased.
    Prefix,
}

/// How many replies are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of rows or \"batch\"")]
pub enum Rollouts {
    /// This many.
    Rows(usize),
    /// As many as an update takes.
    Batch(BatchWord),
}

/// The word `"batch"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchWord {
    /// Itself.
    #[serde(rename = "batch")]
    Batch,
}

/// Every setting, by its name in the config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the module above writes each into its equation")]
pub struct Settings {
    pub preset: Preset,
    pub alpha: f64,
    pub return_from: From,
    pub gamma: f64,
    pub length_norm: bool,
    pub reward_scale: f64,
    pub reward_clip: Switch,
    pub whiten: Whiten,
    pub single_step: bool,
    pub weight_single_step: bool,
    pub weights: Weights,
    pub corpus_kd: f64,
    pub corpus_weight: f64,
    pub clip_range: Switch,
    pub inner_epochs: usize,
    pub rollouts: Rollouts,
    pub normalise: Unit,
    pub measure_variance: usize,
}

impl Preset {
    /// Its table.
    pub fn settings(self) -> Settings {
        let paper = Settings {
            preset: self,
            alpha: 0.2,
            return_from: From::Next,
            gamma: 1.0,
            length_norm: true,
            reward_scale: 1.0,
            reward_clip: Switch::NONE,
            whiten: Whiten::None,
            single_step: true,
            weight_single_step: true,
            weights: Weights::Step,
            corpus_kd: 0.0,
            corpus_weight: 1.0,
            clip_range: Switch::At(0.2),
            inner_epochs: 4,
            rollouts: Rollouts::Rows(256),
            normalise: Unit::Tokens,
            measure_variance: 0,
        };
        match self {
            Preset::Paper => paper,
            Preset::Lmops => Settings {
                return_from: From::Current,
                gamma: 0.95,
                reward_scale: 0.5,
                reward_clip: Switch::At(100.0),
                whiten: Whiten::All,
                weight_single_step: false,
                corpus_kd: 0.5,
                ..paper
            },
            Preset::Exact => Settings {
                alpha: 0.0,
                length_norm: false,
                weight_single_step: false,
                corpus_weight: 0.0,
                clip_range: Switch::NONE,
                inner_epochs: 1,
                rollouts: Rollouts::Batch(BatchWord::Batch),
                ..paper
            },
        }
    }
}

/// The preset that a table names (`paper` unless told), with the table's other keys over it.
pub fn read(table: &Table) -> Result<Settings> {
    let named: Table =
        table.iter().filter(|(k, _)| *k == "preset").map(|(k, v)| (k.clone(), v.clone())).collect();
    let base = over(&Preset::Paper.settings(), &named)?.preset.settings();
    let mut settings = over(&base, table)?;
    // Without the single-step term a return from the next token on counts r[t] nowhere: an immediate
    // EOS has A = 0 where all else is negative, and the student learns to say nothing.
    if !settings.single_step && !table.contains_key("return_from") {
        settings.return_from = From::Current;
    }
    checked(&settings)?;
    Ok(settings)
}

fn checked(s: &Settings) -> Result<()> {
    let positive = |key, x: f64| demand(x > 0.0 && x.is_finite(), key, "a number over 0", x);
    demand((0.0..1.0).contains(&s.alpha), "alpha", "0 or more and less than 1", s.alpha)?;
    demand((0.0..=1.0).contains(&s.gamma), "gamma", "0 to 1", s.gamma)?;
    demand((0.0..=1.0).contains(&s.corpus_kd), "corpus_kd", "0 to 1", s.corpus_kd)?;
    let weight = s.corpus_weight;
    demand(weight >= 0.0 && weight.is_finite(), "corpus_weight", "0 or more", weight)?;
    positive("reward_scale", s.reward_scale)?;
    for (key, switch) in [("reward_clip", s.reward_clip), ("clip_range", s.clip_range)] {
        switch.get().map_or(Ok(()), |x| positive(key, x))?;
    }
    demand(s.measure_variance != 1, "measure_variance", "0, or at least 2 gradients", 1)?;
    demand(s.inner_epochs > 0, "inner_epochs", "1 or more", s.inner_epochs)?;
    demand(s.rollouts != Rollouts::Rows(0), "rollouts", "1 or more", 0)
}
