//! Draws by inverse CDF on the CPU: exponentials of a row of logits, summed in blocks, then a walk to the
//! place where the sum passes a uniform number. Two passes over the row, and no memory beyond the sums.

use crate::native::small::number::exp;

/// Logits of one block.
const BLOCK: usize = 256;
/// Sums that run beside each other, so that the compiler can use the whole width of the machine.
const LANES: usize = 8;

/// exp(logit - top) of a row, summed block by block.
#[derive(Debug, Clone)]
pub struct Masses {
    top: f32,
    sums: Vec<f64>,
    total: f64,
}

impl Masses {
    /// Of one row.
    pub fn of(row: &[f32]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has what the function is compiled for.
            return unsafe { masses_avx2(row) };
        }
        masses(row)
    }

    /// The logarithm of the sum of all exponentials.
    pub fn log_total(&self) -> f64 {
        f64::from(self.top) + self.total.ln()
    }

    /// The share of a logit.
    fn share(&self, logit: f32) -> f64 {
        f64::from(exp(logit - self.top)) / self.total
    }
}

/// A part of a mixture: its logits, their masses, its weight.
pub type Part<'a> = (&'a [f32], &'a Masses, f64);

/// The token at which the summed shares of the mixture pass `u`, a number in [0, 1). A token of no mass
/// is never answered.
pub fn find(parts: &[Part<'_>], u: f64) -> usize {
    let weights: f64 = parts.iter().map(|p| p.2).sum();
    let target = u * weights;
    let blocks = parts.first().map_or(0, |p| p.1.sums.len());
    let mass = |block: usize| -> f64 { parts.iter().map(|(_, m, w)| w * m.sums[block] / m.total).sum() };
    let (mut before, mut last) = (0.0, 0);
    for block in 0..blocks {
        let here = mass(block);
        if here > 0.0 {
            // Rounding may leave the sum of everything a hair below the target: then the last block with
            // mass it is.
            if before + here > target {
                return walk(parts, block, target - before);
            }
            last = block;
        }
        before += here;
    }
    walk(parts, last, f64::INFINITY)
}

/// The token of a block at which its summed shares pass `rest`, or its last one with mass.
fn walk(parts: &[Part<'_>], block: usize, rest: f64) -> usize {
    let width = parts.first().map_or(0, |p| p.0.len());
    let (mut sum, mut last) = (0.0, block * BLOCK);
    for token in block * BLOCK..((block + 1) * BLOCK).min(width) {
        let share: f64 = parts.iter().map(|(row, m, w)| w * m.share(row[token])).sum();
        if share > 0.0 {
            last = token;
        }
        sum += share;
        if sum > rest {
            return last;
        }
    }
    last
}

/// The most probable token, the first of several.
pub fn argmax(row: &[f32]) -> usize {
    let top = top(row);
    row.iter().position(|&x| x == top).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn masses_avx2(row: &[f32]) -> Masses {
    masses(row)
}

/// Compiled once for every machine and once for wider ones; both give the same bits, as the order of the
/// sums is fixed.
#[inline(always)]
fn masses(row: &[f32]) -> Masses {
    let top = top(row);
    let mut sums = Vec::with_capacity(row.len().div_ceil(BLOCK));
    for block in row.chunks(BLOCK) {
        let mut lanes = [0f32; LANES];
        let (whole, rest) = block.split_at(block.len() / LANES * LANES);
        for eight in whole.chunks_exact(LANES) {
            for (sum, &x) in lanes.iter_mut().zip(eight) {
                *sum += exp(x - top);
            }
        }
        // 32 terms a lane: float32 keeps them to 1e-6 of the block.
        let sum: f64 = lanes.iter().map(|&x| f64::from(x)).sum();
        sums.push(sum + rest.iter().map(|&x| f64::from(exp(x - top))).sum::<f64>());
    }
    let total = sums.iter().sum();
    Masses { top, sums, total }
}

/// The largest number of a row; a row with NaN in it has the masses NaN, whatever this answers.
#[inline(always)]
fn top(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = row.split_at(row.len() / LANES * LANES);
    for eight in whole.chunks_exact(LANES) {
        for (most, &x) in lanes.iter_mut().zip(eight) {
            *most = if x > *most { x } else { *most };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Stream, uniform};

    fn row(n: usize, spread: f64, salt: u64) -> Vec<f32> {
        (0..n).map(|i| (spread * (uniform(salt, Stream::Noise, 0, i as u64) - 0.5)) as f32).collect()
    }

    fn exact(row: &[f32]) -> Vec<f64> {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let e: Vec<f64> = row.iter().map(|&x| (f64::from(x) - f64::from(top)).exp()).collect();
        let total: f64 = e.iter().sum();
        e.iter().map(|x| x / total).collect()
    }

    #[test]
    fn totals_equal_float64s() {
        for (n, spread) in [(1, 1.0), (7, 3.0), (256, 10.0), (1000, 40.0), (50_257, 20.0)] {
            let row = row(n, spread, n as u64);
            let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let want = top + row.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln();
            assert!((Masses::of(&row).log_total() - want).abs() < 1e-6, "{n}");
            let (wide, plain) = (Masses::of(&row), masses(&row));
            assert_eq!((wide.sums, wide.total), (plain.sums, plain.total));
        }
    }

    /// Each token owns the numbers between the sums of the shares before it and with it.
    #[test]
    fn a_number_finds_its_token() {
        for n in [1, 2, 9, 300, 5000] {
            let (p, q) = (row(n, 8.0, 1), row(n, 12.0, 2));
            let (mp, mq) = (Masses::of(&p), Masses::of(&q));
            let (ep, eq) = (exact(&p), exact(&q));
            let mut sum = 0.0;
            for token in 0..n {
                let share = 0.3 * ep[token] + 0.7 * eq[token];
                if share > 1e-5 {
                    let parts = [(&p[..], &mp, 0.3), (&q[..], &mq, 0.7)];
                    for inside in [0.05, 0.5, 0.95] {
                        assert_eq!(find(&parts, sum + inside * share), token, "{n}");
                    }
                }
                sum += share;
            }
        }
    }

    #[test]
    fn tokens_without_mass_are_never_found() {
        let mut row = vec![f32::NEG_INFINITY; 700];
        row[300] = 1.0;
        row[301] = 0.0;
        let masses = Masses::of(&row);
        for u in [0.0, 0.5, 0.9, 1.0 - f64::EPSILON, 1.0] {
            assert!([300, 301].contains(&find(&[(&row, &masses, 1.0)], u)));
        }
        row[0] = f32::NAN;
        assert!(Masses::of(&row).log_total().is_nan());
    }
}
