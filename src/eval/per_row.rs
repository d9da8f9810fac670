//! A metric's numbers row by row: their mean, the same by length of the reference, and two systems compared
//! on the same rows.
//!
//! Each metric here is a ratio of two sums over rows, behind a rising function: a mean has 1 a row below, a
//! perplexity the row's tokens (and exp before it), a judge's score what the reference got. A comparison
//! resamples rows with both systems' numbers together. Its p-value is that of the paired permutation test:
//! under the hypothesis that the systems are alike, each row's numbers may as well have changed places.

use rand::Rng;

use super::bootstrap::{Estimate, RESAMPLES, of_sums};
use crate::error::{Error, Result};
use crate::seed::{Stream, generator};

/// Up to so many rows a test looks at every choice of places.
const ENUMERATED: usize = 13;

/// Where the choices of a test are drawn from, apart from the resamples.
const PLACES: u64 = 1 << 63;

/// The numbers of every row.
#[derive(Debug, Clone)]
pub struct PerRow {
    /// What is added up above and below; none where a row tells nothing. Below is more than 0.
    pub parts: Vec<Option<[f64; 2]>>,
    /// The rising function that the ratio stands behind.
    pub of: fn(f64) -> f64,
}

impl PerRow {
    /// Of a mean.
    pub fn mean(rows: impl IntoIterator<Item = f64>) -> Self {
        PerRow { parts: rows.into_iter().map(|x| Some([x, 1.0])).collect(), of: |x| x }
    }

    /// The number of all rows with its interval; none where no row tells anything.
    ///
    /// ```
    /// use retort::eval::per_row::PerRow;
    /// let rows = PerRow { parts: vec![Some([1.0, 2.0]), None, Some([3.0, 2.0])], of: |x| 100.0 * x };
    /// assert_eq!(rows.estimate(1)?.map(|e| (e.mean, e.n)), Some((100.0, 2)));
    /// # Ok::<(), retort::error::Error>(())
    /// ```
    pub fn estimate(&self, seed: u64) -> Result<Option<Estimate>> {
        let rows: Vec<[f64; 2]> = self.parts.iter().flatten().copied().collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let [found] = of_sums(&rows, seed, |[above, below], _| [(self.of)(above / below)])?;
        Ok(Some(found))
    }

    /// The same of some rows; the others tell nothing.
    fn only(&self, keep: impl Fn(usize) -> bool) -> Self {
        let part = |(row, part): (usize, &Option<[f64; 2]>)| part.filter(|_| keep(row));
        PerRow { parts: self.parts.iter().enumerate().map(part).collect(), of: self.of }
    }

    /// By [`bucket`] of the words of each row's reference; a row without one is in none.
    pub fn by_length(&self, words: &[Option<usize>], seed: u64) -> Result<[Option<Estimate>; BUCKETS]> {
        let mut found = [None; BUCKETS];
        for (which, found) in found.iter_mut().enumerate() {
            *found = self.only(|row| words[row].map(bucket) == Some(which)).estimate(seed)?;
        }
        Ok(found)
    }
}

/// How many buckets of length there are.
pub const BUCKETS: usize = 3;

/// Their names: words of the reference.
pub const BUCKET_NAMES: [&str; BUCKETS] = ["0-5", "6-10", "11+"];

/// The bucket of a reference with so many words: [0, 5], [6, 10], [11, inf), as the paper of MiniLLM has them.
pub fn bucket(words: usize) -> usize {
    match words {
        ..=5 => 0,
        6..=10 => 1,
        _ => 2,
    }
}

/// Two systems on the same rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paired {
    /// The first minus the second, with its interval over resampled rows.
    pub difference: Estimate,
    /// How likely a difference of this size, of either sign, is if the systems are alike.
    pub p: f64,
}

/// Compares two systems by the numbers of the rows that tell something of both; none where there is no such
/// row.
pub fn paired(a: &PerRow, b: &PerRow, seed: u64) -> Result<Option<Paired>> {
    if a.parts.len() != b.parts.len() {
        let error = Error::bug("two systems on different rows");
        return Err(error.expected(a.parts.len()).found(b.parts.len()));
    }
    let both = |(a, b): (&Option<[f64; 2]>, &Option<[f64; 2]>)| {
        let ([a, n], [b, m]) = (a.as_ref()?, b.as_ref()?);
        Some([*a, *n, *b, *m])
    };
    let rows: Vec<[f64; 4]> = a.parts.iter().zip(&b.parts).filter_map(both).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let of = |[above, below, other, under]: [f64; 4]| (a.of)(above / below) - (b.of)(other / under);
    let [difference] = of_sums(&rows, seed, |sums, _| [of(sums)])?;
    // Sums of the same numbers in another order differ in their rounding.
    let size = rows.iter().fold([0.0; 4], |sums, row| std::array::from_fn(|i| sums[i] + row[i].abs()));
    let slack = 1e-12 * ((a.of)(size[0] / size[1]).abs() + (b.of)(size[2] / size[3]).abs());
    Ok(Some(Paired { difference, p: permutation(&rows, difference.mean.abs() - slack, of, seed) }))
}

/// The share of choices of places whose difference is at least as large as `seen`: of all choices where rows
/// are few; else of random ones, what was seen counted in, so that p is never 0.
fn permutation(rows: &[[f64; 4]], seen: f64, of: impl Fn([f64; 4]) -> f64, seed: u64) -> f64 {
    let n = rows.len();
    let far = |changed: &mut dyn FnMut(usize) -> bool| {
        let mut sums = [0.0; 4];
        for (row, &[a, n, b, m]) in rows.iter().enumerate() {
            let row = if changed(row) { [b, m, a, n] } else { [a, n, b, m] };
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        of(sums).abs() >= seen
    };
    if n <= ENUMERATED {
        let all = 1u64 << n;
        return (0..all).filter(|places| far(&mut |row| places >> row & 1 == 1)).count() as f64 / all as f64;
    }
    let random = |n: &u64| {
        let mut random = generator(seed, Stream::Bootstrap, PLACES | n, 0);
        let mut bits = 0;
        far(&mut |row| {
            if row % 64 == 0 {
                bits = random.next_u64();
            }
            bits >> (row % 64) & 1 == 1
        })
    };
    let found = (0..RESAMPLES as u64).filter(random).count();
    (1 + found) as f64 / (1 + RESAMPLES) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(a: &[f64], b: &[f64]) -> Paired {
        paired(&PerRow::mean(a.to_vec()), &PerRow::mean(b.to_vec()), 1).unwrap().unwrap()
    }

    #[test]
    fn signs_are_enumerated_exactly() {
        let p = |d: &[f64]| means(d, &vec![0.0; d.len()]).p;
        assert_eq!(p(&[1.0, 1.0, 1.0]), 2.0 / 8.0);
        assert_eq!(p(&[3.0, -1.0, 2.0]), 4.0 / 8.0, "6 and 4, of either sign");
        assert_eq!(p(&[0.0, 0.0]), 1.0);
        assert_eq!(p(&[0.1; 10]), 2.0 / 1024.0, "ten tenths are one, in any order");
        let same = means(&[1.0, 2.0], &[1.0, 2.0]);
        assert_eq!((same.p, same.difference.low, same.difference.high), (1.0, 0.0, 0.0));
        let clear: Vec<f64> = (0..60).map(|n| 1.0 + f64::from(n % 7)).collect();
        assert_eq!(p(&clear), 1.0 / 10_001.0, "no random signs go so far");
        let (one, two) = (PerRow::mean([1.0]), PerRow::mean([1.0, 2.0]));
        assert!(paired(&one, &two, 1).is_err());
    }

    /// Ratios: 4/4 against 3/6 and, with the second row's numbers in each other's place, 2/3 against 5/7;
    /// |1 - 1/2| is reached by two of the four choices, and |2/3 - 5/7| is not as far.
    #[test]
    fn ratios_change_places_with_both_their_numbers() {
        let a = PerRow { parts: vec![Some([1.0, 2.0]), Some([3.0, 2.0]), None], of: |x| x };
        let b = PerRow { parts: vec![Some([2.0, 5.0]), Some([1.0, 1.0]), Some([9.0, 9.0])], of: |x| x };
        let found = paired(&a, &b, 1).unwrap().unwrap();
        assert!((found.difference.mean - 0.5).abs() < 1e-15 && found.difference.n == 2, "{found:?}");
        assert_eq!(found.p, 0.5);
        let none = PerRow { parts: vec![None, None, Some([1.0, 1.0])], of: |x| x };
        assert!(paired(&a, &none, 1).unwrap().is_none());
        let curved = |parts: &PerRow| PerRow { of: f64::exp, ..parts.clone() };
        let found = paired(&curved(&a), &curved(&b), 1).unwrap().unwrap();
        assert!((found.difference.mean - (1f64.exp() - 0.5f64.exp())).abs() < 1e-12);
    }

    /// Two systems whose rows are drawn from one law: p-values are spread evenly, and the interval of the
    /// difference holds 0 nearly as often as it says (the percentile interval of 40 rows is a little short).
    #[test]
    fn systems_that_are_alike_are_called_different_as_rarely_as_said() {
        let drawn = |system: u64, at: u64| -> PerRow {
            PerRow::mean((0..40).map(|row| {
                let shared = crate::seed::uniform(9, Stream::Sample, at, row);
                shared + crate::seed::uniform(10 + system, Stream::Sample, at, row)
            }))
        };
        let found: Vec<Paired> =
            (0..100).map(|at| paired(&drawn(0, at), &drawn(1, at), at).unwrap().unwrap()).collect();
        let small = found.iter().filter(|f| f.p < 0.2).count();
        // 20 are expected; four standard deviations of a binomial are 16.
        assert!((4..=36).contains(&small), "{small} of 100 below 0.2");
        let held = found.iter().filter(|f| f.difference.low <= 0.0 && 0.0 <= f.difference.high).count();
        assert!(held >= 85, "{held} of 100 intervals hold 0");
    }

    #[test]
    fn buckets_are_those_of_the_paper() {
        assert_eq!([0, 5, 6, 10, 11, 1000].map(bucket), [0, 0, 1, 1, 2, 2]);
        let rows = PerRow::mean([1.0, 2.0, 4.0, 8.0]);
        let found = rows.by_length(&[Some(5), Some(11), Some(3), None], 1).unwrap();
        assert_eq!(found.map(|f| f.map(|e| (e.mean, e.n))), [Some((2.5, 2)), None, Some((2.0, 1))]);
    }
}
