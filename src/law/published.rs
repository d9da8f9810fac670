//! The laws as their authors print them: `published.toml`, with where each was measured.

use serde::Deserialize;

use super::scaling::{Distilled, Supervised};
use crate::error::{Error, Result};

/// Both laws.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The teacher's size as a line over the student's.
    pub capacity_gap: CapacityGap,
    /// The student's loss as a function of its teacher's.
    pub scaling: Scaling,
}

/// `teacher = slope student + intercept`, in millions of parameters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapacityGap {
    /// Where it is printed.
    pub source: String,
    /// What it takes for granted.
    pub assumes: String,
    /// What it was fitted to.
    pub measured: String,
    slope: f64,
    intercept: f64,
    /// The smallest student it was fitted to, in parameters.
    pub least_student: f64,
    /// The largest teacher it was fitted to, in parameters.
    pub largest_teacher: f64,
    below: f64,
}

impl CapacityGap {
    /// The best teacher's parameters, and whether the line was left for its slope alone: below the smallest
    /// students that were measured it falls under the student itself.
    ///
    /// ```
    /// # fn main() -> retort::error::Result<()> {
    /// let law = retort::law::Published::read()?.capacity_gap;
    /// assert_eq!(law.teacher(124e6), (298_252_000.0, false));
    /// assert_eq!(law.teacher(10e6), (25e6, true));
    /// # Ok(())
    /// # }
    /// ```
    pub fn teacher(&self, student: f64) -> (f64, bool) {
        if student < self.least_student {
            return (self.below * student, true);
        }
        ((self.slope * student + 1e6 * self.intercept).round(), false)
    }
}

/// The law of a distilled student's loss, with the range it was fitted in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Where it is printed.
    pub source: String,
    /// What it takes for granted.
    pub assumes: String,
    /// What it was fitted to.
    pub measured: String,
    /// The smallest model, without embeddings.
    pub least_parameters: f64,
    /// The largest model, without embeddings.
    pub most_parameters: f64,
    /// The most tokens.
    pub most_tokens: f64,
    /// The best teacher's cross-entropy.
    pub least_loss: f64,
    /// Tokens a parameter where nobody says how many.
    pub tokens_a_parameter: f64,
    /// How near losses are that are called alike.
    pub alike: f64,
    /// The loss of a model trained without a teacher.
    pub supervised: Supervised,
    /// The loss of a model trained with one.
    pub distilled: Distilled,
}

impl Published {
    /// Reads what comes with the program.
    pub fn read() -> Result<Self> {
        toml::from_str(include_str!("published.toml"))
            .map_err(|e| Error::bug("published.toml cannot be read").found(e))
    }
}
