//! No sequence of n tokens twice: which tokens would complete one that is there.

use tch::{Device, Tensor};

use super::lanes::Lane;
use super::settings::Sampling;
use crate::error::Result;

/// The tokens that may not come next, as rows and ids; none where there is no such token.
pub(super) fn bans(lanes: &[Lane], s: &Sampling, device: Device) -> Result<Option<(Tensor, Tensor)>> {
    if s.no_repeat_ngram == 0 {
        return Ok(None);
    }
    let (mut rows, mut ids): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
    for (row, lane) in lanes.iter().enumerate() {
        for id in completions(&lane.tokens, s.no_repeat_ngram).filter(|&id| (id as usize) < s.vocabulary) {
            rows.push(row as i64);
            ids.push(i64::from(id));
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let on_device = |x: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(x)?.f_to_device(device)?) };
    Ok(Some((on_device(&rows)?, on_device(&ids)?)))
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
