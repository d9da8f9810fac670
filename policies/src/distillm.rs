//! DistiLLM (Ko et al., 2024): skewed KL, on a share of student samples that grows only when the student
//! gets worse on gold, most of them out of a replay buffer.
//!
//! ```text
//! L = 1/N sum KL(p_t || a p_t + (1-a) q_t) + 1/N_pt sum CE(d_t)       a = 0.1, corpus where there is one
//! phi = 0 at first; at a validation with CE >= L_ref + 0.1: phi += 0.1 (to 1 at most), L_ref = CE
//! draw r: r < phi (1 - step/steps) a fresh sample; else r < phi one from the buffer; else gold
//! ```
//!
//! L_ref is the cross-entropy on gold validation rows before training. While the buffer is not full,
//! every student batch is fresh; fresh samples enter it; 1,000 sequences, first in first out.
//!
//! Deviations:
//! * Skewed forward KL unless set: the paper has both directions and trains either.
//! * The cross-entropy is compared in nats a token, absolutely, and the reference moves at each raise, as
//!   the paper's text has it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{Table, demand, over, written};
use crate::error::Error;
use crate::kd::Blend;
use crate::objective::divergence::Name;
use crate::objective::term::{Loss, Term};
use crate::{Moment, Part, Plan, Policy, Result, Scored, Source, View};

/// Settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// By how much phi grows.
    pub share_step: f64,
    /// How much worse the validation must be.
    pub share_margin: f64,
    /// Sequences in the buffer.
    pub replay: usize,
    /// The weight of the corpus part.
    pub corpus_weight: f64,
    /// The loss.
    #[serde(flatten)]
    pub blend: Blend,
}

/// The policy, and how far its share has grown.
#[derive(Debug)]
pub struct DistiLlm {
    settings: Settings,
    raises: u32,
    reference: Option<f64>,
}

/// Builds it from its table.
pub fn build(table: &Table) -> Result<Box<dyn Policy>> {
    let blend = Blend { divergence: Name::SkewForwardKl, ratio: 1.0, ..Blend::default() };
    let base = Settings { share_step: 0.1, share_margin: 0.1, replay: 1000, corpus_weight: 1.0, blend };
    let mut settings = over(&base, table)?;
    settings.blend = settings.blend.checked()?;
    let s = &settings;
    demand((0.0..=1.0).contains(&s.share_step), "share_step", "0 to 1", s.share_step)?;
    demand(s.share_margin.is_finite(), "share_margin", "a number", s.share_margin)?;
    demand(s.replay > 0, "replay", "1 or more", s.replay)?;
    let weight = s.corpus_weight;
    demand(weight >= 0.0 && weight.is_finite(), "corpus_weight", "0 or more", weight)?;
    Ok(Box::new(DistiLlm { settings, raises: 0, reference: None }))
}

impl DistiLlm {
    /// phi. Counted in raises, so that ten tenths are 1.
    fn share(&self) -> f64 {
        (f64::from(self.raises) * self.settings.share_step).min(1.0)
    }
}

impl Policy for DistiLlm {
    fn name(&self) -> &'static str {
        "distillm"
    }

    fn settings(&self) -> Value {
        written(&self.settings)
    }

    fn plan(&self) -> Plan {
        Plan {
            teacher: self.settings.blend.needs_teacher(),
            corpus: self.settings.corpus_weight > 0.0,
            replay: Some(self.settings.replay),
            heeds_validation: true,
            ..Plan::default()
        }
    }

    fn source(&self, moment: Moment) -> Source {
        let share = self.share();
        let left = 1.0 - moment.step as f64 / moment.steps.max(1) as f64;
        let fresh = if moment.replay_full { share * left.clamp(0.0, 1.0) } else { share };
        Source::Share(vec![
            (fresh, Source::Student),
            (share - fresh, Source::Replay),
            (1.0 - share, Source::Gold),
        ])
    }

    fn score(&self, view: View<'_>) -> Result<Scored> {
        match view.part {
            Part::Main => self.settings.blend.score(view),
            Part::Corpus => {
                let weight = self.settings.corpus_weight;
                view.fused(&[Term::new("corpus-ce", Loss::CrossEntropy, weight)], 1.0)
            }
        }
    }

    fn validated(&mut self, cross_entropy: f64) {
        match self.reference {
            None => self.reference = Some(cross_entropy),
            Some(reference) if cross_entropy >= reference + self.settings.share_margin => {
                self.raises = self.raises.saturating_add(1);
                self.reference = Some(cross_entropy);
            }
            Some(_) => {}
        }
    }

    fn state(&self) -> Value {
        json!({ "raises": self.raises, "reference": self.reference })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let raises = state["raises"].as_u64().and_then(|n| u32::try_from(n).ok());
        let reference = &state["reference"];
        match raises {
            Some(raises) if reference.is_null() || reference.is_number() => {
                (self.raises, self.reference) = (raises, reference.as_f64());
                Ok(())
            }
            _ => Err(Error::handed("distillm's state", "raises and reference", state)),
        }
    }
}
