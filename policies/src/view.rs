//! What passes between the engine and a policy: rollout numbers in, signals out; a view of a micro-batch
//! in, a sum out.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::objective::head::{Want, fused_scaled};
use crate::objective::input::{Barred, Input, Side};
use crate::objective::mixture::{prefix_weights, step_weights};
use crate::objective::term::Term;

/// What was recorded when a row's tokens were sampled, one number a token, the first EOS included.
/// The importance weight is theirs alone ([`Rollout::weights`]), and stays what it was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollout {
    /// `log q_old(y)`: the student that sampled.
    pub log_q_old: Vec<f64>,
    /// `log p(y)`: the teacher.
    pub log_p: Vec<f64>,
    /// `log m(y)`: what it was drawn from.
    pub log_m: Vec<f64>,
}

impl Rollout {
    /// `w = q_old / m` of each token, 1 where the student alone sampled from the whole of its distribution.
    pub fn weights(&self) -> Vec<f64> {
        step_weights(&self.log_q_old, &self.log_m)
    }

    /// The products of the weights over each prefix.
    pub fn prefix_weights(&self) -> Vec<f64> {
        prefix_weights(&self.log_q_old, &self.log_m)
    }

    /// That there is one number for each token, and every one finite.
    pub(crate) fn checked(&self, row: usize) -> Result<()> {
        let tokens = self.log_q_old.len();
        for (what, numbers) in [("lq_old", &self.log_q_old), ("lp", &self.log_p), ("lm", &self.log_m)] {
            if numbers.len() != tokens {
                return Err(Error::handed("a rollout", tokens, numbers.len()));
            }
            if let Some(t) = numbers.iter().position(|x| !x.is_finite()) {
                return Err(Error::NotFinite { what: format!("{what} of row {row}, token {t}") });
            }
        }
        Ok(())
    }
}

/// What [`crate::Policy::prepare`] makes of a row: one number a token, no gradient in any of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Signals {
    /// A.
    pub advantage: Vec<f64>,
    /// `log q_old(y)`.
    pub log_old: Vec<f64>,
    /// What `exp(log q - log q_old)` is multiplied with to give rho.
    pub ratio: Vec<f64>,
    /// omega, the weight of the single-step term.
    pub omega: Vec<f64>,
}

/// Which part of an update a micro-batch belongs to. Each is divided by its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The rows of the policy's source.
    Main,
    /// The corpus rows beside them.
    Corpus,
}

/// A micro-batch: the scored tokens of its rows, packed one row behind the other.
#[derive(Debug)]
pub struct View<'a> {
    /// Which part it is of.
    pub part: Part,
    /// The student at each token.
    pub student: Side<'a>,
    /// The teacher there, where [`crate::Plan::teacher`] asked for it: from a pass now, or the hidden states
    /// that a rollout kept.
    pub teacher: Option<Side<'a>>,
    /// The tokens themselves.
    pub targets_n: &'a Tensor,
    /// How many tokens each row has.
    pub lengths: &'a [usize],
    /// What was prepared for each row; none for corpus rows.
    pub signals: &'a [Signals],
    /// The tokenizer's size.
    pub vocabulary: i64,
    /// What the gradient at each token is multiplied with, and no value; 1 where there is none.
    pub scale_n: Option<&'a Tensor>,
    /// EOS, at the tokens where a reply could not end yet.
    pub barred: Option<Barred<'a>>,
    /// What is wanted.
    pub want: Want<'a>,
}

impl View<'_> {
    /// The sum of these terms over the micro-batch, with the teacher at this temperature.
    pub fn fused(self, terms: &[Term], teacher_temperature: f64) -> Result<Scored> {
        let tokens: usize = self.lengths.iter().sum();
        let found = self.targets_n.size().first().copied().unwrap_or(0);
        if tokens as i64 != found {
            return Err(Error::handed("the lengths of the rows", format!("{found} tokens in all"), tokens));
        }
        let input = Input {
            student: self.student,
            teacher: self.teacher,
            targets_n: self.targets_n,
            vocabulary: self.vocabulary,
            barred: self.barred,
            teacher_temperature,
        };
        let made = fused_scaled(&input, terms, self.want, self.scale_n)?;
        Ok(Scored {
            loss: made.loss,
            names: terms.iter().map(|t| t.name).collect(),
            sums_k: made.sums_k,
            values_kn: made.values_kn,
            watched: Vec::new(),
            tokens,
            rows: self.lengths.len(),
            grad: made.grad,
        })
    }

    /// One kind of signal of all rows, packed like the tokens.
    pub fn signal(&self, pick: fn(&Signals) -> &Vec<f64>) -> Result<Tensor> {
        if self.signals.len() != self.lengths.len() {
            return Err(Error::handed("prepared rows", self.lengths.len(), self.signals.len()));
        }
        let mut all = Vec::with_capacity(self.lengths.iter().sum());
        for (signals, &length) in self.signals.iter().zip(self.lengths) {
            let row = pick(signals);
            if row.len() != length {
                return Err(Error::handed("a prepared row", format!("{length} tokens"), row.len()));
            }
            all.extend_from_slice(row);
        }
        Ok(Tensor::f_from_slice(&all)?.f_to(self.device())?)
    }

    fn device(&self) -> Device {
        self.targets_n.device()
    }
}

/// A summed loss and what it was summed over. Sums of micro-batches add up; only the trainer divides.
#[derive(Debug)]
pub struct Scored {
    /// The summed loss, on the device (float64, no dimension).
    pub loss: Tensor,
    /// What each term is called.
    pub names: Vec<&'static str>,
    /// The unweighted sum of each term (float64), on the device.
    pub sums_k: Tensor,
    /// Each term at each token, unweighted.
    pub values_kn: Tensor,
    /// Sums over tokens that are watched and not learnt (float64, no dimension), on the device.
    pub watched: Vec<(&'static str, Tensor)>,
    /// Tokens summed over.
    pub tokens: usize,
    /// Rows summed over.
    pub rows: usize,
    /// The gradient of the sum at the student's hidden states (or logits).
    pub grad: Option<Tensor>,
}

impl Scored {
    /// The summed loss as a number; waits for the device.
    pub fn loss(&self) -> Result<f64> {
        Ok(self.loss.f_double_value(&[])?)
    }

    /// Takes the last term out, which had no weight, and answers its values at each token.
    pub(crate) fn forget_last(&mut self) -> Result<Tensor> {
        let last = self.names.len() as i64 - 1;
        let value_n = self.values_kn.f_select(0, last)?;
        self.names.pop();
        self.sums_k = self.sums_k.f_narrow(0, 0, last)?;
        self.values_kn = self.values_kn.f_narrow(0, 0, last)?;
        Ok(value_n)
    }

    /// The unweighted sum of each term; waits for the device.
    pub fn terms(&self) -> Result<Vec<(&'static str, f64)>> {
        let sums = Vec::<f64>::try_from(self.sums_k.f_to_kind(Kind::Double)?.f_to(Device::Cpu)?)?;
        Ok(self.names.iter().copied().zip(sums).collect())
    }
}
