//! MiniLLM (Gu et al., 2024, "MiniLLM: knowledge distillation of large language models"): minimise
//! `KL(q(y|x) || p(y|x))` over responses that the student draws.
//!
//! Rollout, by the engine, without gradient: `y_t ~ m_t = alpha p_t + (1-alpha) q_old,t`, and it records
//! `lq_old`, `lp`, `lm`, the log-probabilities of `y_t`. With `w = exp(lq_old - lm)`:
//!
//! ```text
//! r[t] = clip((lp - lq_old) / s, -c, c)
//! A[t] = sum_{u >= t+b} gamma^(u-t-b) r[u]     / (T-t-b) if length_norm; 0 where none is left; whitened
//! rho  = w exp(lq - lq_old)
//! L_pg = 1/N sum max(-A rho, -A clip(rho, 1-eps, 1+eps))
//! L_1  = 1/N sum omega KL(q_t || p_t)          over all T tokens, exact over the vocabulary
//! L_pt = 1/N_pt sum [(1-k) CE(d) + k CE(p, q)] over corpus tokens
//! L    = L_pg + L_1 + corpus_weight L_pt
//! ```
//!
//! | setting | `paper` | `lmops` | `exact` |
//! |---|---|---|---|
//! | `alpha` | 0.2 | 0.2 | 0 |
//! | b `return_from`, `gamma`, `length_norm` | next, 1, on | current, 0.95, on | next, 1, off |
//! | s `reward_scale`, c `reward_clip` | 1, none | 0.5, 100 | 1, none |
//! | `whiten` | none | all | none |
//! | omega = w `weight_single_step` | on | off (1) | off (1) |
//! | k `corpus_kd`, `corpus_weight` | 0, 1 | 0.5, 1 | 0, 0 |
//! | eps `clip_range`, `inner_epochs`, `rollouts` | 0.2, 4, 256 | 0.2, 4, 256 | none, 1, batch |
//!
//! `exact` has in expectation the gradient of the sequence KL (a test enumerates it); the others trade bias
//! for variance. `weights = "prefix"` replaces w by the unbiased products `W_u = prod_{s<=u} w_s`:
//! `r[u]` becomes `W_u r[u]`, rho loses its w, omega becomes `prod_{s<t} w_s`.
//!
//! `measure_variance = N` takes N gradients of each variant (one trick off, and `exact`) at every evaluation.
//!
//! Deviations from the print and from the public code:
//! * The paper divides by T-t-1 with t from 1, one less than the number of terms (1/0 at the end); here by
//!   their number.
//! * The paper prints `R min(rho, clip rho)`, which for R < 0 stops tokens at rho > 1+eps; here the
//!   minimum is over the products, as the code has it.
//! * The paper sums over tokens and takes the mean over rows: `normalise = "rows"`. The code takes token
//!   means, per micro-batch and rank; `"tokens"` takes them over the whole update.
//! * The code whitens within each micro-batch; here it is the whole update, all ranks, before any cut.
//! * A lost reward: without `single_step` the return starts at the current token unless it is told not to.

pub mod presets;

use serde_json::Value;
use tch::Kind;

use crate::config::{Table, written};
use crate::objective::divergence::Divergence;
use crate::objective::returns::{Moments, Return, Reward, returns, rewards};
use crate::objective::term::{Loss, Surrogate, Term};
use crate::{Collection, Moment, Part, Plan, Policy, Result, Rollout, Scored, Signals, Source, Update, View};
use presets::{From, Rollouts, Settings, Weights, Whiten};

/// The policy.
#[derive(Debug)]
pub struct MiniLlm(Settings);

/// Builds it from its table.
pub fn build(table: &Table) -> Result<Box<dyn Policy>> {
    Ok(Box::new(MiniLlm(presets::read(table)?)))
}

impl MiniLlm {
    /// Weights and raw advantage of one row.
    fn row(&self, row: &Rollout) -> Signals {
        let s = &self.0;
        let mut r =
            rewards(&row.log_p, &row.log_q_old, Reward { scale: s.reward_scale, clip: s.reward_clip.get() });
        let (ratio, before) = match s.weights {
            Weights::Step => (row.weights(), row.weights()),
            Weights::Prefix => {
                let products = row.prefix_weights();
                r.iter_mut().zip(&products).for_each(|(r, w)| *r *= w);
                // omega[t] is the product over s < t: the same, one token later.
                let before = std::iter::once(1.0).chain(products).take(r.len()).collect();
                (vec![1.0; r.len()], before)
            }
        };
        let start = if s.return_from == From::Next { 1 } else { 0 };
        let advantage = returns(&r, Return { start, gamma: s.gamma, length_norm: s.length_norm });
        let omega = if s.weight_single_step { before } else { vec![1.0; r.len()] };
        Signals { advantage, log_old: row.log_q_old.clone(), ratio, omega }
    }

    /// `L_pg + L_1`.
    fn replies(&self, view: View<'_>) -> Result<Scored> {
        let surrogate = Surrogate {
            advantage_n: view.signal(|s| &s.advantage)?,
            log_old_n: view.signal(|s| &s.log_old)?,
            weight_n: view.signal(|s| &s.ratio)?,
            clip: self.0.clip_range.get(),
        };
        let mut terms = vec![Term::new("pg", Loss::Surrogate(surrogate), 1.0)];
        if self.0.single_step {
            let omega_n = view.signal(|s| &s.omega)?;
            let kl = Term::new("reverse-kl", Loss::Divergence(Divergence::ReverseKl), 1.0);
            terms.push(Term { each_n: Some(omega_n), ..kl });
        }
        // Of no weight: what the student says of the tokens now, for the share that is clipped.
        terms.push(Term::new("nll", Loss::CrossEntropy, 0.0));
        let (advantage_n, log_old_n, ratio_n) =
            (view.signal(|s| &s.advantage)?, view.signal(|s| &s.log_old)?, view.signal(|s| &s.ratio)?);
        let mut scored = view.fused(&terms, 1.0)?;
        let nll_n = scored.forget_last()?.f_to_kind(Kind::Double)?;
        if let Some(eps) = self.0.clip_range.get() {
            let rho_n = nll_n.f_add(&log_old_n)?.f_neg()?.f_exp()?.f_mul(&ratio_n)?;
            let (over_n, under_n) = (rho_n.f_gt(1.0 + eps)?, rho_n.f_lt(1.0 - eps)?);
            let up_n = advantage_n.f_gt(0.0)?.f_logical_and(&over_n)?;
            let down_n = advantage_n.f_lt(0.0)?.f_logical_and(&under_n)?;
            scored.watched.push(("clip_share", up_n.f_logical_or(&down_n)?.f_sum(Kind::Double)?));
        }
        Ok(scored)
    }

    /// `corpus_weight L_pt`.
    fn corpus(&self, view: View<'_>) -> Result<Scored> {
        let (k, weight) = (self.0.corpus_kd, self.0.corpus_weight);
        let mut terms = vec![Term::new("corpus-ce", Loss::CrossEntropy, weight * (1.0 - k))];
        if k > 0.0 {
            terms.push(Term::new("corpus-teacher-ce", Loss::TeacherCrossEntropy, weight * k));
        }
        view.fused(&terms, 1.0)
    }
}

impl Policy for MiniLlm {
    fn name(&self) -> &'static str {
        "minillm"
    }

    fn settings(&self) -> Value {
        written(&self.0)
    }

    fn plan(&self) -> Plan {
        let s = &self.0;
        Plan {
            draws: false,
            teacher: s.single_step,
            corpus_teacher: s.corpus_kd > 0.0 && s.corpus_weight > 0.0,
            rollout: true,
            corpus: s.corpus_weight > 0.0,
            collection: match s.rollouts {
                Rollouts::Rows(rows) => Collection::Rows(rows),
                Rollouts::Batch(_) => Collection::Batch,
            },
            inner_epochs: s.inner_epochs,
            replay: None,
            unfiltered: s.alpha > 0.0,
            heeds_validation: false,
            variance: s.measure_variance,
            unit: s.normalise,
        }
    }

    fn source(&self, _moment: Moment) -> Source {
        if self.0.alpha > 0.0 { Source::Mixed { alpha: self.0.alpha } } else { Source::Student }
    }

    fn prepare(&self, rows: &[Rollout], update: Update<'_>) -> Result<Vec<Signals>> {
        rows.iter().enumerate().try_for_each(|(i, row)| row.checked(i))?;
        let mut all: Vec<Signals> = rows.iter().map(|row| self.row(row)).collect();
        let cells = match self.0.whiten {
            Whiten::None => return Ok(all),
            Whiten::All => Some(update.longest),
            Whiten::Masked => None,
        };
        let mut advantages: Vec<Vec<f64>> =
            all.iter_mut().map(|s| std::mem::take(&mut s.advantage)).collect();
        Moments::of(&advantages, cells, update.total)?.whiten(&mut advantages);
        all.iter_mut().zip(advantages).for_each(|(signals, advantage)| signals.advantage = advantage);
        Ok(all)
    }

    fn variants(&self) -> Vec<(&'static str, Box<dyn Policy>)> {
        let own = || self.0.clone();
        let exact = Settings { normalise: own().normalise, ..presets::Preset::Exact.settings() };
        let variants = [
            ("exact", exact),
            ("full", own()),
            ("no_single_step", Settings { single_step: false, return_from: From::Current, ..own() }),
            ("no_mixing", Settings { alpha: 0.0, ..own() }),
            ("no_length_norm", Settings { length_norm: false, ..own() }),
        ];
        variants.into_iter().map(|(name, s)| (name, Box::new(MiniLlm(s)) as Box<dyn Policy>)).collect()
    }

    fn score(&self, view: View<'_>) -> Result<Scored> {
        match view.part {
            Part::Main => self.replies(view),
            Part::Corpus => self.corpus(view),
        }
    }
}
