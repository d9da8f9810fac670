//! Measures of replies that need no model.

use std::collections::HashMap;

use rand::Rng;

use super::bootstrap::{Estimate, interval};
use crate::error::{Error, Result};
use crate::seed::{Stream, generator};

/// From so many seeds on the interval of [`distinct_4`] is over them.
const SEEDS_OF_A_SPREAD: usize = 3;

/// Subsamples of an interval of [`distinct_4`] where there are fewer.
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
/// The interval of three seeds or more is over the seeds, of fresh replies to the same prompts: their mean and
/// Student's t. Fewer cannot tell a spread; there it is of subsamples, a tenth of the rows left out without
/// replacement. (Resampled rows would repeat, and their 4-grams with them.) Their spread is brought to that
/// of all rows as the jackknife has it, by sqrt(b / (n - b)) for b of n rows, around the value of all. Beside
/// the spread of fresh replies it was found 1.0 to 1.3 times as wide where more than half of the 4-grams are
/// distinct, 1.5 to 3 times where fewer are: too wide, and never too narrow.
pub fn distinct_4(seeds: &[Vec<&[u32]>], seed: u64) -> Result<Option<Estimate>> {
    let rows = seeds.first().map_or(0, Vec::len);
    if seeds.iter().any(|replies| replies.len() != rows) {
        return Err(Error::bug("seeds with different numbers of replies"));
    }
    let pools: Vec<Pool> = seeds.iter().map(|replies| Pool::of(replies)).collect();
    let mut marks: Vec<Marks> = pools.iter().map(Marks::of).collect();
    let mut shares = |picked: &[usize]| -> Vec<f64> {
        pools.iter().zip(&mut marks).filter_map(|(pool, marks)| pool.share(picked, marks)).collect()
    };
    let mut order: Vec<usize> = (0..rows).collect();
    let all = shares(&order);
    if all.is_empty() {
        return Ok(None);
    }
    let mean = average(&all);
    if all.len() >= SEEDS_OF_A_SPREAD {
        let [low, high] = over_seeds(&all).map(|end| end.clamp(0.0, 1.0));
        return Ok(Some(Estimate { mean, low, high, n: rows }));
    }
    let kept = rows - rows.div_ceil(10);
    let mut values = Vec::with_capacity(SUBSAMPLES);
    for subsample in 0..SUBSAMPLES as u64 {
        let mut random = generator(seed, Stream::Bootstrap, PARTS | subsample, 0);
        // The last ones of a shuffle that is broken off are left out.
        for place in (kept..rows).rev() {
            order.swap(place, ((u128::from(random.next_u64()) * (place as u128 + 1)) >> 64) as usize);
        }
        let shares = shares(&order[..kept]);
        values.extend((!shares.is_empty()).then(|| average(&shares)));
    }
    if values.is_empty() {
        return Ok(Some(Estimate { mean, low: mean, high: mean, n: rows }));
    }
    let middle = average(&values);
    let scale = (kept as f64 / (rows - kept) as f64).sqrt();
    let [low, high] = interval(values).map(|end| (mean + scale * (end - middle)).clamp(0.0, 1.0));
    Ok(Some(Estimate { mean, low, high, n: rows }))
}

fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The 95 % interval of the mean of independent values, by Student's t.
fn over_seeds(values: &[f64]) -> [f64; 2] {
    let (mean, n) = (average(values), values.len() as f64);
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    let within = student(values.len() - 1) * (squares / (n - 1.0) / n).sqrt();
    [mean - within, mean + within]
}

/// The 97.5th percentile of Student's t: a table, and from 11 degrees of freedom on the expansion around the
/// normal one, which is then right to three digits.
pub fn student(degrees: usize) -> f64 {
    const TABLE: [f64; 10] =
        [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281];
    let (z, n) = (1.959_964f64, degrees as f64);
    let [one, two, three] = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
    ];
    let more = one / n + two / n.powi(2) + three / n.powi(3);
    TABLE.get(degrees.wrapping_sub(1)).copied().unwrap_or(z + more)
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

    /// The share of distinct ones among those of the picked rows.
    fn share(&self, picked: &[usize], marks: &mut Marks) -> Option<f64> {
        let (mut distinct, mut total) = (0u64, 0u64);
        marks.stamp += 1;
        for &gram in picked.iter().flat_map(|&row| &self.rows[row]) {
            let mark = &mut marks.seen[gram as usize];
            distinct += u64::from(*mark != marks.stamp);
            *mark = marks.stamp;
            total += 1;
        }
        (total > 0).then(|| distinct as f64 / total as f64)
    }
}

/// Which 4-grams were seen at which call: nothing has to be wiped between calls.
struct Marks {
    seen: Vec<u32>,
    stamp: u32,
}

impl Marks {
    fn of(pool: &Pool) -> Self {
        Marks { seen: vec![0; pool.kinds], stamp: 0 }
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

    /// By hand: three seeds with shares 1, 2/3 and 1/2 have the mean 13/18 and the standard error .1469862;
    /// two are not enough for a spread.
    #[test]
    fn three_seeds_have_an_interval_of_their_own() {
        let [one, two, three]: [&[u32]; 3] = [&[1, 2, 3, 4], &[5, 5, 5, 5, 5], &[6, 6, 6, 6, 6, 6]];
        let (half, third): (&[u32], &[u32]) = (&[7, 8, 7, 8, 7], &[9, 9, 9, 9]);
        let seeds = [vec![one, half], vec![two, third], vec![three, one]];
        // 1234, 7878, 8787; 5555 twice and 9999; 6666 three times and 1234.
        let found = distinct_4(&seeds, 1).unwrap().unwrap();
        let mean = (1.0 + 2.0 / 3.0 + 0.5) / 3.0;
        assert!((found.mean - mean).abs() < 1e-12, "{found:?}");
        assert!((found.low - (mean - 4.3027 * 0.146_986_2)).abs() < 1e-6 && found.high == 1.0, "{found:?}");
        let wide = over_seeds(&[0.50, 0.52, 0.54]);
        // 0.02 / sqrt(3) = .0115470
        assert!(
            (wide[1] - 0.52 - 4.3027 * 0.011_547).abs() < 1e-6 && (wide[0] + wide[1] - 1.04).abs() < 1e-12
        );
        for (degrees, t) in [(1, 12.7062), (4, 2.7764), (11, 2.2010), (29, 2.0452), (500, 1.9647)] {
            assert!((student(degrees) - t).abs() < 5e-4, "{degrees}: {}", student(degrees));
        }
    }

    /// Replies that say most of what can be said: five seeds' interval holds the value that all draws have
    /// in the mean as often as it should, and is as wide as their spread.
    #[test]
    fn the_interval_over_seeds_is_right_where_little_is_new() {
        let experiment = |number: u64| {
            let id = |seed, row, at| (draw(number * 5 + seed, Stream::Mix, row, at) % 6) as u32;
            let replies = |seed| -> Vec<Vec<u32>> {
                (0..60).map(|row| (0..40).map(|at| id(seed, row, at)).collect()).collect()
            };
            let seeds: Vec<Vec<Vec<u32>>> = (0..5).map(replies).collect();
            let seeds: Vec<Vec<&[u32]>> =
                seeds.iter().map(|rows| rows.iter().map(Vec::as_slice).collect()).collect();
            distinct_4(&seeds, 1).unwrap().unwrap()
        };
        let found: Vec<Estimate> = (0..200).map(experiment).collect();
        let centre = found.iter().map(|f| f.mean).sum::<f64>() / 200.0;
        assert!((0.4..0.6).contains(&centre), "{centre}");
        let spread = (found.iter().map(|f| (f.mean - centre).powi(2)).sum::<f64>() / 199.0).sqrt();
        let held = found.iter().filter(|f| f.low <= centre && centre <= f.high).count();
        // 190 are expected; four standard deviations of a binomial are 12.
        assert!((178..200).contains(&held), "{held} of 200");
        // The mean of a standard deviation of five normal numbers is 0.94 of the true one.
        let width = found.iter().map(|f| (f.high - f.low) / (2.0 * 2.7764)).sum::<f64>() / 200.0 / spread;
        assert!((0.8..1.1).contains(&width), "{width} of the spread of five fresh seeds, {spread}");
    }
}
