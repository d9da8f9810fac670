//! MiniMA (Zhang et al., 2023, "Towards the law of capacity gap in distilling language models"): forward
//! KL on packed text, from a student cut out of its teacher.
//!
//! ```text
//! L = 1/N sum [ (1-k) CE(d_t) + k KL(p_t || q_t) ]        k = 0.5, over every token of the packed rows
//! ```
//!
//! Deviations: none in the loss. There is no loss on hidden states, in the paper either; the divergence
//! is computed in float32 whatever the models are in. The cut of the student is not a policy's matter.

use serde_json::Value;

use crate::config::{Table, over, written};
use crate::kd::Blend;
use crate::{Moment, Plan, Policy, Result, Scored, Source, View};

/// Distillation on packed text.
#[derive(Debug)]
pub struct MiniMa(Blend);

/// Builds it from kd's table.
pub fn build(table: &Table) -> Result<Box<dyn Policy>> {
    Ok(Box::new(MiniMa(over(&Blend::default(), table)?.checked()?)))
}

impl Policy for MiniMa {
    fn name(&self) -> &'static str {
        "minima"
    }

    fn settings(&self) -> Value {
        written(&self.0)
    }

    fn plan(&self) -> Plan {
        Plan { teacher: self.0.needs_teacher(), draws: self.0.takes_draws(), ..Plan::default() }
    }

    fn source(&self, _moment: Moment) -> Source {
        Source::Corpus
    }

    fn score(&self, view: View<'_>) -> Result<Scored> {
        self.0.score(view)
    }
}
