//! Measures of replies that need no model.

use std::collections::HashMap;

use rand::Rng;

use super::bootstrap::{Estimate, interval};
use crate::error::{Error, Result};
use crate::seed::{Stream, generator};

/// Subsamples of an interval of [`distinct_4`].
const SUBSAMPLES: usize = 400;

/// Where they are drawn from, apart from the resamples of other intervals.
const PARTS: u64 = 1 << 62;

/// Whether a reply is one of the references, white space around them aside: letter by letter, nothing else
/// is forgiven. None where there is no reference.
pub fn exact_match<S: AsRef<str>>(references: &[S], reply: &str) -> Option<bool> {
    let reply = reply.trim();
    references.iter().map(|r| r.as_ref().trim() == reply).reduce(|a, b| a || b)
}

/// The words of a reply: runs of anything but white space.
pub fn length(reply: &str) -> usize {
    reply.split_whitespace().count()
}

/// Distinct 4-grams of token ids over all of them, pooled over the replies of a seed, and averaged over the
/// seeds; the more replies, the smaller it is, so compare at equal numbers. None where no reply has four
/// tokens.
///
/// The interval is of subsamples: a tenth of the rows is left out, without replacement. (Resampled rows would
/// repeat, and their 4-grams with them.) Their spread is brought to that of all rows as the jackknife has it,
/// by sqrt(b / (n - b)) for b of n rows, around the value of all. Where nearly every possible 4-gram has
/// been said already the interval is too wide.
pub fn distinct_4(seeds: &[Vec<&[u32]>], seed: u64) -> Result<Option<Estimate>> {
    let rows = seeds.first().map_or(0, Vec::len);
    if seeds.iter().any(|replies| replies.len() != rows) {
        return Err(Error::bug("seeds with different numbers of replies"));
    }
    let pools: Vec<Pool> = seeds.iter().map(|replies| Pool::of(replies)).collect();
    let mut stamps: Vec<Vec<u32>> = pools.iter().map(|pool| vec![0; pool.kinds]).collect();
    let mut stamp = 0;
    let mut over = |picked: &[usize]| {
        stamp += 1;
        let shares =
            pools.iter().zip(&mut stamps).filter_map(|(pool, marks)| pool.share(picked, marks, stamp));
        let (sum, n) = shares.fold((0.0, 0), |(sum, n), share| (sum + share, n + 1));
        (n > 0).then(|| sum / f64::from(n))
    };
    let mut order: Vec<usize> = (0..rows).collect();
    let Some(mean) = over(&order) else { return Ok(None) };
    let kept = rows - rows.div_ceil(10);
    let mut values = Vec::with_capacity(SUBSAMPLES);
    for subsample in 0..SUBSAMPLES as u64 {
        let mut random = generator(seed, Stream::Bootstrap, PARTS | subsample, 0);
        // The last ones of a shuffle that is broken off are left out.
        for place in (kept..rows).rev() {
            order.swap(place, ((u128::from(random.next_u64()) * (place as u128 + 1)) >> 64) as usize);
        }
        values.extend(over(&order[..kept]));
    }
    if values.is_empty() {
        return Ok(Some(Estimate { mean, low: mean, high: mean, n: rows }));
    }
    let middle = values.iter().sum::<f64>() / values.len() as f64;
    let scale = (kept as f64 / (rows - kept) as f64).sqrt();
    let [low, high] = interval(values).map(|end| (mean + scale * (end - middle)).clamp(0.0, 1.0));
    Ok(Some(Estimate { mean, low, high, n: rows }))
}

/// The 4-grams of every reply of a seed, by number.
struct Pool {
    rows: Vec<Vec<u32>>,
    kinds: usize,
}

impl Pool {
    fn of(replies: &[&[u32]]) -> Self {
        let mut numbers: HashMap<&[u32], u32> = HashMap::new();
        let mut number = |gram| {
            let next = numbers.len() as u32;
            *numbers.entry(gram).or_insert(next)
        };
        let rows = replies.iter().map(|ids| ids.windows(4).map(&mut number).collect()).collect();
        Pool { rows, kinds: numbers.len() }
    }

    /// The share of distinct ones among those of the picked rows; `marks` are what was seen at which stamp.
    fn share(&self, picked: &[usize], marks: &mut [u32], stamp: u32) -> Option<f64> {
        let (mut distinct, mut total) = (0u64, 0u64);
        for &gram in picked.iter().flat_map(|&row| &self.rows[row]) {
            let mark = &mut marks[gram as usize];
            distinct += u64::from(*mark != stamp);
            *mark = stamp;
            total += 1;
        }
        (total > 0).then(|| distinct as f64 / total as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::draw;

    #[test]
    fn matches_and_lengths_by_hand() {
        assert_eq!(exact_match(&["Paris"], " Paris\n"), Some(true));
        assert_eq!(exact_match(&["Paris", "the city"], "the city"), Some(true));
        assert_eq!(exact_match(&["Paris"], "paris"), Some(false));
        assert_eq!(exact_match(&[""], " "), Some(true));
        assert_eq!(exact_match::<&str>(&[], "a"), None);
        assert_eq!((length(" two  words\n"), length(" ")), (2, 0));
    }

    #[test]
    fn distinct_4_by_hand() {
        let of = |seeds: &[Vec<&[u32]>]| distinct_4(seeds, 1).unwrap();
        // 1234 2345 and 1234: three in all, two kinds.
        let replies: Vec<&[u32]> = vec![&[1, 2, 3, 4, 5], &[1, 2, 3, 4], &[7, 8]];
        let one = of(std::slice::from_ref(&replies)).unwrap();
        assert_eq!((one.mean, one.n), (2.0 / 3.0, 3));
        let fresh: Vec<&[u32]> = vec![&[1, 2, 3, 4, 5], &[6, 7, 8, 9], &[]];
        assert_eq!(of(&[replies, fresh]).unwrap().mean, (2.0 / 3.0 + 1.0) / 2.0);
        assert_eq!(of(&[vec![&[1, 2, 3][..]]]), None);
        let alone = of(&[vec![&[1, 2, 3, 4][..]]]).unwrap();
        assert_eq!((alone.low, alone.mean, alone.high), (1.0, 1.0, 1.0));
    }

    /// Replies without a repetition have none in any subsample, where resampled rows would repeat; and the
    /// interval of other replies is as wide as their mean is spread over fresh draws of all of them.
    #[test]
    fn the_interval_of_distinct_4_is_of_subsamples() {
        let all: Vec<Vec<u32>> = (0..50).map(|row| (row * 10..row * 10 + 10).collect()).collect();
        let whole = distinct_4(&[all.iter().map(Vec::as_slice).collect()], 1).unwrap().unwrap();
        assert_eq!((whole.low, whole.mean, whole.high), (1.0, 1.0, 1.0));
        let replies = |seed: u64| -> Vec<Vec<u32>> {
            let id = |row, at| (draw(seed, Stream::Sample, row, at) % 8) as u32;
            (0..40).map(|row| (0..8 + row % 5).map(|at| id(row, at)).collect()).collect()
        };
        let of =
            |all: &[Vec<u32>]| distinct_4(&[all.iter().map(Vec::as_slice).collect()], 1).unwrap().unwrap();
        let means: Vec<f64> = (0..200).map(|seed| of(&replies(seed)).mean).collect();
        let centre = means.iter().sum::<f64>() / 200.0;
        let spread = (means.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / 200.0).sqrt();
        let widths = (0..20).map(|seed| {
            let found = of(&replies(seed));
            assert!(found.low <= found.mean && found.mean <= found.high, "{found:?}");
            (found.high - found.low) / (2.0 * 1.96 * spread)
        });
        let ratio = widths.sum::<f64>() / 20.0;
        assert!((0.75..1.35).contains(&ratio), "{ratio} of the spread of fresh replies, {spread}");
    }
}
