//! How sure a mean over rows is: percentile bootstrap intervals.
//!
//! Rows are drawn again with replacement, each with all its numbers together, and the statistic is computed
//! of each draw; the interval goes from its 2.5th to its 97.5th percentile (linear between neighbours, as
//! numpy has it). What several seeds gave for a row is averaged first: seeds of one prompt are no
//! independent rows. Two systems are compared in [`per_row`](super::per_row).
//!
//! Draws depend on `(seed, resample, row)` alone.

use rand::Rng;

use crate::error::{Error, Result};
use crate::seed::{Stream, generator};

/// Resamples of an interval, and random choices of a test.
pub const RESAMPLES: usize = 10_000;

/// The share of resamples below an interval, and above it.
const TAIL: f64 = 0.025;

/// A number with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The statistic of all rows.
    pub mean: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// How many rows.
    pub n: usize,
}

impl Estimate {
    /// The same in another unit.
    pub fn scaled(self, factor: f64) -> Self {
        let Estimate { mean, low, high, n } = self;
        Estimate { mean: mean * factor, low: low * factor, high: high * factor, n }
    }

    /// The same behind a rising function.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Estimate { mean: f(self.mean), low: f(self.low), high: f(self.high), n: self.n }
    }
}

/// The mean of a number a row.
///
/// ```
/// let estimate = retort::eval::bootstrap::mean(&[3.0; 20], 1)?;
/// assert_eq!((estimate.mean, estimate.low, estimate.high, estimate.n), (3.0, 3.0, 3.0, 20));
/// # Ok::<(), retort::error::Error>(())
/// ```
pub fn mean(rows: &[f64], seed: u64) -> Result<Estimate> {
    let rows: Vec<[f64; 1]> = rows.iter().map(|x| [*x]).collect();
    let [estimate] = of_sums(&rows, seed, |[sum], n| [sum / n])?;
    Ok(estimate)
}

/// Statistics that are functions of the sums of K numbers over the rows, and of the number of rows: a ratio
/// of two sums, say. All are computed of the same resamples.
pub fn of_sums<const K: usize, const S: usize>(
    rows: &[[f64; K]],
    seed: u64,
    statistics: impl Fn([f64; K], f64) -> [f64; S],
) -> Result<[Estimate; S]> {
    let n = rows.len();
    if n == 0 {
        return Err(Error::bug("a mean over no rows"));
    }
    let sum = |picked: &mut dyn Iterator<Item = usize>| {
        let mut sums = [0.0; K];
        picked.for_each(|row| sums.iter_mut().zip(rows[row]).for_each(|(sum, x)| *sum += x));
        statistics(sums, n as f64)
    };
    let whole = sum(&mut (0..n));
    let mut drawn: Vec<[f64; S]> = Vec::with_capacity(RESAMPLES);
    for resample in 0..RESAMPLES as u64 {
        let mut random = generator(seed, Stream::Bootstrap, resample, 0);
        // The high half of a product with 64 random bits: as even as 64 bits allow.
        let mut pick = || ((u128::from(random.next_u64()) * n as u128) >> 64) as usize;
        drawn.push(sum(&mut (0..n).map(|_| pick())));
    }
    let estimate = |which: usize| {
        let [low, high] = interval(drawn.iter().map(|d| d[which]).collect());
        Estimate { mean: whole[which], low, high, n }
    };
    Ok(std::array::from_fn(estimate))
}

/// The middle 95 % of these values.
pub fn interval(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [TAIL, 1.0 - TAIL].map(|share| percentile(&values, share))
}

/// A percentile of sorted values, linear between neighbours.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    match (sorted.get(below), sorted.get(below + 1)) {
        (Some(a), Some(b)) if part > 0.0 => a + part * (b - a),
        (Some(a), _) => *a,
        (None, _) => f64::NAN,
    }
}

/// Each row's mean over the seeds: `seeds` has a number a row, for each seed.
pub fn over_seeds(seeds: &[Vec<f64>]) -> Vec<f64> {
    let rows = seeds.iter().map(Vec::len).min().unwrap_or(0);
    (0..rows).map(|row| seeds.iter().map(|s| s[row]).sum::<f64>() / seeds.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::eval::per_row::{PerRow, paired};

    /// Six rows have 6^6 resamples: the ends cut off the tails of the exact distribution, as far as ten
    /// thousand draws can tell (four standard errors of a share of 2.5 %).
    #[test]
    fn ends_are_those_of_all_resamples() {
        let rows = [0.1, 0.25, 0.9, 0.4, 0.77, 0.33];
        let all: Vec<f64> = (0..6usize.pow(6))
            .map(|n| (0..6).map(|place| rows[n / 6usize.pow(place) % 6]).sum::<f64>() / 6.0)
            .collect();
        let within = 4.0 * (TAIL * (1.0 - TAIL) / RESAMPLES as f64).sqrt();
        for seed in 0..5 {
            let found = mean(&rows, seed).unwrap();
            assert_eq!(found.mean, rows.iter().sum::<f64>() / 6.0);
            let share = |x: f64| all.iter().filter(|m| **m < x - 1e-9).count() as f64 / all.len() as f64;
            let up_to = |x: f64| all.iter().filter(|m| **m <= x + 1e-9).count() as f64 / all.len() as f64;
            for (end, cut) in [(found.low, TAIL), (found.high, 1.0 - TAIL)] {
                assert!(
                    share(end) - within < cut && cut < up_to(end) + within,
                    "{end}: {} {}",
                    share(end),
                    up_to(end)
                );
            }
        }
        assert_eq!(mean(&rows, 3).unwrap(), mean(&rows, 3).unwrap());
        assert_ne!(mean(&rows, 3).unwrap(), mean(&rows, 4).unwrap());
        let alone = mean(&[7.0], 1).unwrap();
        assert_eq!((alone.low, alone.high, alone.n), (7.0, 7.0, 1));
        let two = mean(&[0.0, 1.0], 1).unwrap();
        assert_eq!(
            (two.low, two.mean, two.high),
            (0.0, 0.5, 1.0),
            "a quarter of the resamples is at each end"
        );
    }

    /// numpy's own resampling, far more often (`tests/golden/make_statistics.py`). How far the ends of ten
    /// thousand draws may be off: four standard errors of a percentile, sqrt(p (1 - p) / B) / density,
    /// with the density of the normal distribution that the mean of many rows is near to.
    #[test]
    fn intervals_and_p_values_equal_numpys() {
        let golden: Value =
            serde_json::from_str(include_str!("../../tests/fixtures/statistics/golden.json")).unwrap();
        let numbers =
            |v: &Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
        let draws = RESAMPLES as f64;
        for case in golden.as_array().unwrap() {
            let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
            let found = mean(&a, 1).unwrap();
            let deviation = case["deviation"].as_f64().unwrap();
            let within = 4.0 * (TAIL * (1.0 - TAIL) / draws).sqrt() / 0.0584 * deviation;
            for (ours, key) in [(found.low, "low"), (found.high, "high")] {
                let theirs = case[key].as_f64().unwrap();
                assert!((ours - theirs).abs() < within, "{key}: {ours}, numpy's {theirs}, within {within}");
            }
            let compared = paired(&PerRow::mean(a), &PerRow::mean(b), 1).unwrap().unwrap();
            let (p, theirs) = (compared.p, case["p"].as_f64().unwrap());
            let within = 4.0 * (theirs * (1.0 - theirs) / draws).sqrt() + 1.0 / draws;
            assert!((p - theirs).abs() < within, "p {p}, numpy's {theirs}, within {within}");
        }
    }

    #[test]
    fn seeds_are_averaged_before_rows() {
        assert_eq!(over_seeds(&[vec![1.0, 4.0], vec![3.0, 0.0]]), [2.0, 2.0]);
    }
}
