//! GKD (Agarwal et al., 2024, "On-policy distillation of language models"): a share of the batches from
//! the student itself, a generalised JSD against the teacher.
//!
//! ```text
//! with probability lambda y ~ q(. | x), else y is gold; one draw a batch, no gradient through sampling
//! L = 1/N sum [ (1-k) CE(y_t) + k JSD_beta(p_t, q_t) ]       lambda = 0.5, beta = 0.5, k = 1
//! JSD_beta = beta KL(p || m) + (1-beta) KL(q || m),  m = beta p + (1-beta) q
//! ```
//!
//! Deviations:
//! * The draw is one a batch, as in TRL; the paper's algorithm draws so as well.
//! * The plain JSD tends to 0 at its ends, here as in the paper; TRL jumps to the full KL there.
//!   `jsd_normalised` divides by beta (1-beta), which is continuous with both KLs.
//! * The student samples at the run's `[sampling]`, temperature 1 unless set.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Table, demand, over, written};
use crate::kd::Blend;
use crate::objective::divergence::Name;
use crate::{Moment, Plan, Policy, Result, Scored, Source, View};

/// Settings, and the policy itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gkd {
    /// The share of batches that the student samples.
    pub lambda: f64,
    /// The loss.
    #[serde(flatten)]
    pub blend: Blend,
}

/// Builds it from its table.
pub fn build(table: &Table) -> Result<Box<dyn Policy>> {
    let blend = Blend { divergence: Name::Jsd, ratio: 1.0, ..Blend::default() };
    let Gkd { lambda, blend } = over(&Gkd { lambda: 0.5, blend }, table)?;
    demand((0.0..=1.0).contains(&lambda), "lambda", "0 to 1", lambda)?;
    Ok(Box::new(Gkd { lambda, blend: blend.checked()? }))
}

impl Policy for Gkd {
    fn name(&self) -> &'static str {
        "gkd"
    }

    fn settings(&self) -> Value {
        written(self)
    }

    fn plan(&self) -> Plan {
        Plan { teacher: self.blend.needs_teacher(), ..Plan::default() }
    }

    fn source(&self, _moment: Moment) -> Source {
        Source::Share(vec![(self.lambda, Source::Student), (1.0 - self.lambda, Source::Gold)])
    }

    fn score(&self, view: View<'_>) -> Result<Scored> {
        self.blend.score(view)
    }
}
