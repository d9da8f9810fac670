//! Perplexity of given responses: exp of the mean negative log-probability of their tokens (the end of the
//! response in), over the model's whole output, as `score` has it; and with a teacher how many nats a token
//! the student is behind it.

use super::bootstrap::{Estimate, of_sums};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::model::gap::Given;
use crate::model::score::{check_finite, log_probabilities};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// The model's.
    pub own: Estimate,
    /// The teacher's on the same rows, and the gap: the model's nats a token minus the teacher's.
    pub teacher: Option<(Estimate, Estimate)>,
}

/// Minus log p of each row's response tokens, summed.
pub fn costs(
    model: &CausalLm,
    rows: &[Given<'_>],
    done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<f64>> {
    let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids).collect();
    let scores = log_probabilities(model, &ids, done)?;
    let cost = |(row, scores): (&Given<'_>, &Vec<f32>)| {
        let own = &scores[scores.len() - row.compared()..];
        check_finite(own, row.ids.len() - row.compared())?;
        Ok(-own.iter().map(|x| f64::from(*x)).sum::<f64>())
    };
    rows.iter().zip(&scores).map(cost).collect()
}

/// The perplexity of rows with these numbers of tokens, by what they cost the model and its teacher.
pub fn perplexity(tokens: &[usize], own: &[f64], teacher: Option<&[f64]>, seed: u64) -> Result<Perplexity> {
    let heard = teacher.unwrap_or(own);
    let rows: Vec<[f64; 3]> = tokens
        .iter()
        .zip(own)
        .zip(heard)
        .map(|((n, q), p)| [*n as f64, *q, *p])
        .filter(|[n, ..]| *n > 0.0)
        .collect();
    if rows.is_empty() {
        return Err(Error::data("there is nothing to measure perplexity on")
            .expected("a row with a response")
            .found("none"));
    }
    let ratios = |[n, q, p]: [f64; 3], _| [(q / n).exp(), (p / n).exp(), (q - p) / n];
    let [own, heard, gap] = of_sums(&rows, seed, ratios)?;
    Ok(Perplexity { own, teacher: teacher.map(|_| (heard, gap)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_weigh_alike_and_rows_are_resampled() {
        let (tokens, own, teacher) = ([1, 3, 0], [1.0, 1.0, 0.0], [0.5, 0.5, 0.0]);
        let found = perplexity(&tokens, &own, Some(&teacher), 1).unwrap();
        assert!((found.own.mean - 0.5f64.exp()).abs() < 1e-12, "2 nats over 4 tokens");
        assert_eq!(found.own.n, 2, "a row without a token tells nothing");
        // One row alone, either of them: a quarter of the resamples each.
        assert!((found.own.high - 1f64.exp()).abs() < 1e-12);
        assert!((found.own.low - (1.0f64 / 3.0).exp()).abs() < 1e-12);
        let (heard, gap) = found.teacher.unwrap();
        assert!((heard.mean - 0.25f64.exp()).abs() < 1e-12 && (gap.mean - 0.25).abs() < 1e-12);
        assert!(perplexity(&[0], &[0.0], None, 1).is_err());
    }
}
