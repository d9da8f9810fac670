//! The order in which a run sees its rows, and how rows go together.
//!
//! The n-th row of a run (n counted over all epochs) is `shuffle(seed, n / rows)[n % rows]`: nothing is
//! carried from one batch to the next, so a place is one number and a resumed run sees what it would
//! have seen. Every batch has the same number of rows; one may begin in an epoch and end in the next.

use crate::seed::{Stream, generator};
use rand::Rng;

/// How far a run is through its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Whole times through.
    pub epoch: u64,
    /// Rows of this time.
    pub position: u64,
}

/// All numbers below a bound, in an order that depends on seed and epoch alone.
///
/// ```
/// use retort::data::Order;
/// let mut order = Order::new(3, 10);
/// let mut first: Vec<usize> = (0..10).map(|n| order.at(n)).collect();
/// assert_ne!(first, (10..20).map(|n| order.at(n)).collect::<Vec<_>>());
/// first.sort();
/// assert_eq!(first, (0..10).collect::<Vec<_>>());
/// ```
#[derive(Debug, Clone)]
pub struct Order {
    seed: u64,
    rows: usize,
    made: Option<(u64, Vec<u32>)>,
}

impl Order {
    /// The order of so many rows.
    pub fn new(seed: u64, rows: usize) -> Self {
        Order { seed, rows, made: None }
    }

    /// What it depends on, beside the epoch.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The n-th row of the run.
    pub fn at(&mut self, n: u64) -> usize {
        let place = self.place(n);
        self.epoch(place.epoch)[place.position as usize] as usize
    }

    /// Where the n-th row stands.
    pub fn place(&self, n: u64) -> Place {
        let rows = self.rows.max(1) as u64;
        Place { epoch: n / rows, position: n % rows }
    }

    /// The order of a whole epoch.
    pub fn epoch(&mut self, epoch: u64) -> &[u32] {
        let stale = self.made.as_ref().is_none_or(|(of, _)| *of != epoch);
        if stale {
            self.made = Some((epoch, shuffled(self.seed, epoch, self.rows)));
        }
        self.made.as_ref().map_or(&[], |(_, order)| order)
    }
}

/// Fisher and Yates's shuffle.
fn shuffled(seed: u64, epoch: u64, rows: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows as u32).collect();
    let mut random = generator(seed, Stream::Shuffle, epoch, 0);
    for last in (1..rows).rev() {
        // The high half of a product with 64 random bits: as even as 64 bits allow.
        let other = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, other as usize);
    }
    order
}

/// Batches of rows.
#[derive(Debug, Clone)]
pub struct Sampler {
    order: Order,
    batch: usize,
    taken: u64,
}

impl Sampler {
    /// Batches of `batch` rows; of more than there are, all of them once.
    pub fn new(seed: u64, rows: usize, batch: usize) -> Self {
        Sampler { order: Order::new(seed, rows), batch: batch.min(rows), taken: 0 }
    }

    /// Rows of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The next batch.
    pub fn next_batch(&mut self) -> Vec<usize> {
        self.take(self.batch)
    }

    /// The next so many rows, whatever a batch has.
    pub fn take(&mut self, count: usize) -> Vec<usize> {
        let rows = (self.taken..self.taken + count as u64).map(|n| self.order.at(n)).collect();
        self.taken += count as u64;
        rows
    }

    /// Rows taken so far, over all epochs: all there is to know of its place.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The same as epoch and position.
    pub fn place(&self) -> Place {
        self.order.place(self.taken)
    }

    /// Goes on behind so many rows.
    pub fn seek(&mut self, taken: u64) {
        self.taken = taken;
    }
}

/// How the rows of an update are cut into micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// So many rows each.
    Rows(usize),
    /// So many tokens each, padding in, and one row at least.
    Tokens(usize),
}

/// Rows grouped by length, the longest first, so that little padding stands in a group. `lengths` are
/// those of the rows; the groups hold their numbers.
///
/// ```
/// use retort::data::{by_length, sampler::Cut};
/// assert_eq!(by_length(&[3, 9, 4, 8], Cut::Tokens(18)), [vec![1, 3], vec![2, 0]]);
/// assert_eq!(by_length(&[3, 9, 4], Cut::Rows(2)), [vec![1, 2], vec![0]]);
/// ```
pub fn by_length(lengths: &[usize], cut: Cut) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| (std::cmp::Reverse(lengths[row]), row));
    let mut groups = Vec::new();
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        let rows = match cut {
            Cut::Rows(rows) => rows.max(1),
            Cut::Tokens(tokens) => (tokens / lengths[longest].max(1)).max(1),
        };
        let (group, behind) = rest.split_at(rows.min(rest.len()));
        groups.push(group.to_vec());
        rest = behind;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_row_once() {
        let mut sampler = Sampler::new(5, 10, 4);
        let all: Vec<usize> = (0..5).flat_map(|_| sampler.next_batch()).collect();
        for epoch in all.chunks(10) {
            let mut rows = epoch.to_vec();
            rows.sort();
            assert_eq!(rows, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(all[..10], all[10..]);
        assert_eq!(sampler.place(), Place { epoch: 2, position: 0 });
    }

    #[test]
    fn a_place_is_all_there_is_to_know() {
        let mut whole = Sampler::new(5, 7, 3);
        let all: Vec<Vec<usize>> = (0..9).map(|_| whole.next_batch()).collect();
        for (n, batch) in all.iter().enumerate() {
            let mut other = Sampler::new(5, 7, 3);
            other.seek(3 * n as u64);
            assert_eq!(other.next_batch(), *batch);
        }
        assert_ne!(all[0], Sampler::new(6, 7, 3).next_batch());
    }

    #[test]
    fn a_batch_larger_than_the_set_is_the_set_once() {
        let mut sampler = Sampler::new(1, 3, 64);
        let mut batch = sampler.next_batch();
        batch.sort();
        assert_eq!(batch, [0, 1, 2]);
    }

    /// Each of the 24 orders of four rows comes up about equally often.
    #[test]
    fn orders_are_even() {
        let mut counts = std::collections::BTreeMap::new();
        let n = 24_000;
        (0..n).for_each(|epoch| *counts.entry(shuffled(1, epoch, 4)).or_insert(0u32) += 1);
        let chi: f64 = counts.values().map(|&c| (f64::from(c) - 1000.0).powi(2) / 1000.0).sum();
        assert!(counts.len() == 24 && chi < 49.7, "chi-square {chi} of 23 degrees of freedom (0.001)");
    }
}
