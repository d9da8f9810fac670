//! Supervised fine-tuning: what every comparison starts from.
//!
//! ```text
//! L = 1/N sum -log q(y_t | x, y_<t)        N response tokens of the update, the EOS one of them
//! ```
//!
//! Deviations: none. The mask comes from lengths, so EOS is learnt also where pad is the same id.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Table, over, written};
use crate::objective::term::{Loss, Term};
use crate::{Moment, Plan, Policy, Result, Scored, Source, View};

/// It has no settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sft {}

/// Builds it from its table.
pub fn build(table: &Table) -> Result<Box<dyn Policy>> {
    Ok(Box::new(over(&Sft::default(), table)?))
}

impl Policy for Sft {
    fn name(&self) -> &'static str {
        "sft"
    }

    fn settings(&self) -> Value {
        written(self)
    }

    fn plan(&self) -> Plan {
        Plan::default()
    }

    fn source(&self, _moment: Moment) -> Source {
        Source::Gold
    }

    fn score(&self, view: View<'_>) -> Result<Scored> {
        view.fused(&[Term::new("ce", Loss::CrossEntropy, 1.0)], 1.0)
    }
}
