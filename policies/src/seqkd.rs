//! Sequence-level distillation (Kim and Rush, 2016): train on what the teacher says.
//!
//! ```text
//! y ~ p(. | x), one a prompt, temperature 1
//! L = 1/N sum [ (1-k) CE(y_t) + k KL(p_t || q_t) ]       k = 0 (the paper)
//! ```
//!
//! Deviations:
//! * The paper takes the teacher's best sequence by beam search; the LLM literature since samples, and so
//!   does this.
//! * `ratio = 0.5` gives the reference code's loss, which adds the divergence.
//! * Responses keep the ids they were sampled with, and one cut at the limit gets no EOS; the reference
//!   code decodes, encodes again, and gives it one.

use serde_json::Value;

use crate::config::{Table, over, written};
use crate::kd::Blend;
use crate::{Moment, Plan, Policy, Result, Scored, Source, View};

/// Distillation on the teacher's own samples.
#[derive(Debug)]
pub struct SeqKd(Blend);

/// Builds it from kd's table, with `ratio` 0 unless it is set.
pub fn build(table: &Table) -> Result<Box<dyn Policy>> {
    Ok(Box::new(SeqKd(over(&Blend { ratio: 0.0, ..Blend::default() }, table)?.checked()?)))
}

impl Policy for SeqKd {
    fn name(&self) -> &'static str {
        "seqkd"
    }

    fn settings(&self) -> Value {
        written(&self.0)
    }

    fn plan(&self) -> Plan {
        Plan {
            teacher: self.0.needs_teacher(),
            draws: self.0.takes_draws(),
            unfiltered: true,
            ..Plan::default()
        }
    }

    fn source(&self, _moment: Moment) -> Source {
        Source::Teacher
    }

    fn score(&self, view: View<'_>) -> Result<Scored> {
        self.0.score(view)
    }
}
