//! What may come next at one place of a sequence, beside the settings: replies that may not end yet, and
//! no sequence of n tokens twice.

use tch::{Device, Kind, Tensor};

use super::lanes::Lane;
use super::settings::Sampling;
use crate::error::Result;

/// What holds for the rows of one step.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Whether a row may not end yet: [b, 1], bool; none where all may.
    pub young_b1: Option<Tensor>,
    /// Tokens that may not come now: rows and ids.
    pub bans: Option<(Tensor, Tensor)>,
}

impl Rules {
    /// For a token at each of these places: a sequence, and how many of its tokens stand before.
    pub fn at(places: &[(&Lane, usize)], s: &Sampling, device: Device) -> Result<Self> {
        let young =
            |&(lane, at): &(&Lane, usize)| i64::from(at < lane.prompt().saturating_add(s.min_new_tokens));
        let young: Vec<i64> = if s.eos.is_empty() { Vec::new() } else { places.iter().map(young).collect() };
        let on_device = |x: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(x)?.f_to_device(device)?) };
        let mut rules = Rules::default();
        if young.contains(&1) {
            rules.young_b1 = Some(on_device(&young)?.f_to_kind(Kind::Bool)?.f_unsqueeze(1)?);
        }
        if s.no_repeat_ngram > 0 {
            let (mut rows, mut ids): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
            for ((lane, at), row) in places.iter().zip(0..) {
                let repeated = completions(&lane.tokens[..*at], s.no_repeat_ngram);
                for id in repeated.filter(|&id| (id as usize) < s.vocabulary) {
                    rows.push(row);
                    ids.push(i64::from(id));
                }
            }
            if !rows.is_empty() {
                rules.bans = Some((on_device(&rows)?, on_device(&ids)?));
            }
        }
        Ok(rules)
    }

    /// For the next token of each row.
    pub fn next(lanes: &[Lane], s: &Sampling, device: Device) -> Result<Self> {
        let places: Vec<(&Lane, usize)> = lanes.iter().map(|lane| (lane, lane.tokens.len())).collect();
        Self::at(&places, s, device)
    }
}

/// What followed the last n - 1 tokens wherever they stood before.
fn completions(tokens: &[u32], n: usize) -> impl Iterator<Item = u32> {
    let end = tokens.get(tokens.len().saturating_sub(n - 1)..).unwrap_or_default();
    tokens
        .windows(n)
        .filter(move |gram| gram[..n - 1] == *end && end.len() == n - 1)
        .map(move |gram| gram[n - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_repeat_is_found() {
        let all = |tokens: &[u32], n| completions(tokens, n).collect::<Vec<_>>();
        assert_eq!(all(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(all(&[1, 2, 3, 1, 2, 4, 1, 2], 3), [3, 4]);
        assert_eq!(all(&[5, 6], 1), [5, 6]);
        assert_eq!(all(&[5, 5, 5], 2), [5, 5]);
        assert!(all(&[1], 3).is_empty() && all(&[1, 2], 3).is_empty() && all(&[1, 2, 3], 3).is_empty());
    }
}
