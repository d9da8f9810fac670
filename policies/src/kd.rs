//! Knowledge distillation on the data set's own responses (Hinton et al., 2015), and the blend of
//! cross-entropy and divergence that seqkd, minima, gkd and distillm train on as well.
//!
//! ```text
//! L = 1/N sum [ (1-k) CE(y_t) + k D(p_t, q_t) ]        D = KL(p || q), k = 0.5 unless set
//! ```
//!
//! Deviations, each a setting:
//! * `divergence` may be any; the paper's is forward KL (its cross-entropy has the same gradient).
//! * `temperature` divides the teacher's logits alone, and no T^2 comes in; the paper heats both sides.
//! * Logged is the divergence itself, where the reference codes log the soft cross-entropy.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Table, demand, over, written};
use crate::objective::akl;
use crate::objective::divergence::{Divergence, Name};
use crate::objective::term::{Loss, Term};
use crate::{Moment, Plan, Policy, Result, Scored, Source, View};

/// `(1 - ratio) CE + ratio D`, with everything that says which D.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blend {
    /// Which D.
    pub divergence: Name,
    /// k.
    pub ratio: f64,
    /// Divides the teacher's logits.
    pub temperature: f64,
    /// a of the skewed ones.
    pub skew: f64,
    /// beta of jsd.
    pub beta: f64,
    /// Whether jsd is divided by beta (1-beta).
    pub jsd_normalised: bool,
    /// Which head akl takes.
    pub head: akl::Head,
}

impl Default for Blend {
    fn default() -> Self {
        Blend {
            divergence: Name::ForwardKl,
            ratio: 0.5,
            temperature: 1.0,
            skew: 0.1,
            beta: 0.5,
            jsd_normalised: false,
            head: akl::Head::Paper,
        }
    }
}

impl Blend {
    /// D.
    pub fn divergence(&self) -> Divergence {
        let (skew, beta) = (self.skew, self.beta);
        match self.divergence {
            Name::ForwardKl => Divergence::ForwardKl,
            Name::ReverseKl => Divergence::ReverseKl,
            Name::Jsd => Divergence::Jsd { beta, normalised: self.jsd_normalised },
            Name::SkewForwardKl => Divergence::SkewForwardKl { skew },
            Name::SkewReverseKl => Divergence::SkewReverseKl { skew },
            Name::Tvd => Divergence::Tvd,
            Name::Akl => Divergence::Akl { head: self.head },
        }
    }

    /// The same, or an error where a setting is out of range. Also of those that this D does not use.
    pub fn checked(self) -> Result<Self> {
        demand((0.0..=1.0).contains(&self.ratio), "ratio", "0 to 1", self.ratio)?;
        let heat = self.temperature;
        demand(heat > 0.0 && heat.is_finite(), "temperature", "a number over 0", heat)?;
        Divergence::Jsd { beta: self.beta, normalised: false }.checked()?;
        Divergence::SkewForwardKl { skew: self.skew }.checked()?;
        Ok(self)
    }

    /// Whether it looks at a teacher.
    pub fn needs_teacher(&self) -> bool {
        self.ratio > 0.0
    }

    /// Whether tokens drawn from the teacher would do in its place.
    pub fn takes_draws(&self) -> bool {
        self.needs_teacher() && self.divergence == Name::ForwardKl && self.temperature == 1.0
    }

    /// Its terms. The cross-entropy is measured also at k = 1, where it has no weight.
    pub fn terms(&self) -> Vec<Term> {
        let mut terms = vec![Term::new("ce", Loss::CrossEntropy, 1.0 - self.ratio)];
        if self.needs_teacher() {
            let which = self.divergence();
            terms.push(Term::new(which.name(), Loss::Divergence(which), self.ratio));
        }
        terms
    }

    /// The blend of a micro-batch.
    pub fn score(&self, view: View<'_>) -> Result<Scored> {
        view.fused(&self.terms(), self.temperature)
    }
}

/// Distillation on gold responses.
#[derive(Debug)]
pub struct Kd(Blend);

/// Builds it from its table.
pub fn build(table: &Table) -> Result<Box<dyn Policy>> {
    Ok(Box::new(Kd(over(&Blend::default(), table)?.checked()?)))
}

impl Policy for Kd {
    fn name(&self) -> &'static str {
        "kd"
    }

    fn settings(&self) -> Value {
        written(&self.0)
    }

    fn plan(&self) -> Plan {
        Plan { teacher: self.0.needs_teacher(), draws: self.0.takes_draws(), ..Plan::default() }
    }

    fn source(&self, _moment: Moment) -> Source {
        Source::Gold
    }

    fn score(&self, view: View<'_>) -> Result<Scored> {
        self.0.score(view)
    }
}
