//! On-policy distillation by the sampled token (the "k1" form that hosted trainers use): reverse KL with
//! one sample in place of the sum over the vocabulary.
//!
//! ```text
//! y ~ q_old(. | x)
//! A[t] = log p(y_t) - log q_old(y_t)        a token's own reward, discount 0, no gradient
//! L    = 1/N sum -rho[t] A[t]               rho = exp(log q(y_t) - log q_old(y_t)), unclipped
//! ```
//!
//! In expectation its gradient is that of MiniLLM's single-step term; with many times its variance, but
//! no distribution of the teacher's is needed, only the log-probability of each sampled token.
//!
//! Deviations: none.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Table, over, written};
use crate::objective::returns::{Return, Reward, returns, rewards};
use crate::objective::term::{Loss, Surrogate, Term};
use crate::{Moment, Plan, Policy, Result, Rollout, Scored, Signals, Source, Update, View};

/// It has no settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnPolicy {}

/// Builds it from its table.
pub fn build(table: &Table) -> Result<Box<dyn Policy>> {
    Ok(Box::new(over(&OnPolicy::default(), table)?))
}

impl Policy for OnPolicy {
    fn name(&self) -> &'static str {
        "onpolicy"
    }

    fn settings(&self) -> Value {
        written(self)
    }

    fn plan(&self) -> Plan {
        // The ratio is against the whole distribution, so the samples have to be of it.
        Plan { rollout: true, unfiltered: true, ..Plan::default() }
    }

    fn source(&self, _moment: Moment) -> Source {
        Source::Student
    }

    fn prepare(&self, rows: &[Rollout], _update: Update<'_>) -> Result<Vec<Signals>> {
        let one = |(i, row): (usize, &Rollout)| {
            row.checked(i)?;
            let r = rewards(&row.log_p, &row.log_q_old, Reward { scale: 1.0, clip: None });
            let advantage = returns(&r, Return { start: 0, gamma: 0.0, length_norm: false });
            let ratio = vec![1.0; r.len()];
            Ok(Signals { advantage, log_old: row.log_q_old.clone(), ratio, omega: Vec::new() })
        };
        rows.iter().enumerate().map(one).collect()
    }

    fn score(&self, view: View<'_>) -> Result<Scored> {
        let surrogate = Surrogate {
            advantage_n: view.signal(|s| &s.advantage)?,
            log_old_n: view.signal(|s| &s.log_old)?,
            weight_n: view.signal(|s| &s.ratio)?,
            clip: None,
        };
        view.fused(&[Term::new("pg", Loss::Surrogate(surrogate), 1.0)], 1.0)
    }
}
