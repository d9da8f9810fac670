//! Whether a model is right as often as it is sure: the expected calibration error of questions with
//! choices, `sum n_b / n |acc_b - conf_b|` over ten equal bins of confidence.

use super::bootstrap::{Estimate, of_sums};
use crate::error::Result;

/// Equal bins of confidence; a confidence on an edge counts below it.
pub const BINS: usize = 10;

/// A question: how sure the model is of the choice it finds most probable, and whether that one is right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// From 0 to 1.
    pub confidence: f64,
    /// Whether it is.
    pub right: bool,
}

impl Judged {
    /// Of the log-probabilities of all choices, which are renormalised among themselves.
    pub fn of(log_probabilities: &[f64], answer: usize) -> Self {
        let most = log_probabilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = log_probabilities.iter().map(|x| (x - most).exp()).sum();
        let best = log_probabilities.iter().position(|x| *x == most);
        Judged { confidence: 1.0 / sum, right: best == Some(answer) }
    }

    fn bin(self) -> usize {
        ((self.confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1
    }
}

/// The calibration error.
pub fn calibration_error(rows: &[Judged], seed: u64) -> Result<Estimate> {
    let cells = rows.iter().map(|row| {
        let mut cells = [0.0; BINS];
        cells[row.bin()] = f64::from(u8::from(row.right)) - row.confidence;
        cells
    });
    let error = |sums: [f64; BINS], n: f64| [sums.iter().map(|s| s.abs()).sum::<f64>() / n];
    let [estimate] = of_sums(&cells.collect::<Vec<_>>(), seed, error)?;
    Ok(estimate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_by_hand() {
        let of = |confidence, right| Judged { confidence, right };
        // Two at .75, one right: |.5 - .75| 2/4; one at .9 wrong: .9 1/4, in the bin that ends there; one at 1
        // right: 0.
        let rows = [of(0.75, true), of(0.75, false), of(0.9, false), of(1.0, true)];
        assert!((calibration_error(&rows, 1).unwrap().mean - (0.5 * 0.25 + 0.25 * 0.9)).abs() < 1e-12);
        assert_eq!((of(0.9, true).bin(), of(0.91, true).bin(), of(1.0, true).bin()), (8, 9, 9));
        let judged = Judged::of(&[-2.0, -2.0 + 3f64.ln(), f64::NEG_INFINITY], 1);
        assert!((judged.confidence - 0.75).abs() < 1e-12 && judged.right);
    }
}
