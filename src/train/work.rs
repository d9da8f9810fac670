//! What an update learns from: rows with what was prepared for each, and text beside them.

use std::time::Duration;

use retort_policies::{Rollout, Signals};
use tch::Tensor;

use crate::data::Example;
use crate::rollout::{Experience, Tally};

/// A row to be learnt.
#[derive(Debug)]
pub struct Learnt {
    /// Its tokens.
    pub example: Example,
    /// What the policy prepared for it, where the update has rollout numbers.
    pub signals: Option<Signals>,
    /// The teacher's states, where they were kept.
    pub states: Option<Tensor>,
}

impl Learnt {
    /// A row as it is.
    pub fn given(example: Example) -> Self {
        Learnt { example, signals: None, states: None }
    }
}

/// The rows of an update.
#[derive(Debug, Default)]
pub struct Work {
    /// Those of the policy's source.
    pub main: Vec<Learnt>,
    /// Text beside them.
    pub corpus: Vec<Example>,
    /// The numbers of the main rows among all rows.
    pub numbers: Vec<u64>,
    /// What the gradient of each row is multiplied with, the corpus's rows behind the main ones; empty for 1.
    pub noise: Vec<f64>,
    /// Whether the gradient noise scale is measured by them.
    pub measured: bool,
    /// Whether the student or the mixture sampled them, so that EOS was barred at first.
    pub sampled: bool,
    /// What there is to tell of them.
    pub values: Vec<(&'static str, f64)>,
    /// What it took to get them.
    pub seconds: Vec<(&'static str, Duration)>,
}

impl Work {
    /// Rows that were sampled, with what the policy made of their numbers.
    pub fn sampled(experiences: &[&Experience], signals: Option<Vec<Signals>>) -> Self {
        let mut values = Tally::of(experiences).values();
        if let Some(signals) = &signals {
            values.extend(advantages(signals));
        }
        let mut signals = signals.map(Vec::into_iter);
        let learnt = |e: &&Experience| Learnt {
            example: e.example.clone(),
            signals: signals.as_mut().and_then(Iterator::next),
            states: e.states.as_ref().map(Tensor::shallow_clone),
        };
        Work {
            main: experiences.iter().map(learnt).collect(),
            numbers: experiences.iter().map(|e| e.row).collect(),
            sampled: true,
            values,
            ..Work::default()
        }
    }
}

/// Mean and variance of the advantages over the update's tokens.
fn advantages(signals: &[Signals]) -> [(&'static str, f64); 2] {
    let all = || signals.iter().flat_map(|s| s.advantage.iter().copied());
    let n = all().count().max(1) as f64;
    let mean = all().sum::<f64>() / n;
    let variance = all().map(|a| (a - mean).powi(2)).sum::<f64>() / n;
    [("advantage", mean), ("advantage_variance", variance)]
}

/// The rollout numbers of some rows, as policies take them.
pub fn rollouts(experiences: &[&Experience]) -> Vec<Rollout> {
    experiences.iter().map(|e| e.numbers.rollout()).collect()
}
