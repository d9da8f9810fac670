//! Replies that the student sampled before: first in, first out, drawn without replacement.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::data::Example;
use crate::data::Order;

/// The buffer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    most: usize,
    held: VecDeque<Held>,
}

/// A row of it: its number among the data set's rows, where its reply begins, its tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Held(u64, usize, Vec<u32>);

impl Replay {
    /// Room for so many.
    pub fn new(most: usize) -> Self {
        Replay { most, held: VecDeque::new() }
    }

    /// Whether it holds all that it can.
    pub fn is_full(&self) -> bool {
        self.held.len() >= self.most
    }

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes a reply in; the oldest leaves where there is no room.
    pub fn add(&mut self, row: u64, example: &Example) {
        if self.is_full() {
            self.held.pop_front();
        }
        self.held.push_back(Held(row, example.from, example.ids.clone()));
    }

    /// So many different ones, or all; which, depends on the counters and on what is held.
    pub fn draw(&self, count: usize, seed: u64, step: u64) -> Vec<(u64, Example)> {
        // A stream of its own beside the order of rows: the seed's bits are turned over.
        let mut order = Order::new(!seed, self.held.len());
        let which = order.epoch(step).iter().take(count);
        let example = |&n: &u32| {
            let Held(row, from, ids) = &self.held[n as usize];
            (*row, Example { ids: ids.clone(), from: *from, given: Vec::new() })
        };
        which.map(example).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(most: usize, rows: u64) -> Replay {
        let mut replay = Replay::new(most);
        (0..rows).for_each(|n| replay.add(n, &Example { ids: vec![n as u32, 7], from: 1, given: vec![] }));
        replay
    }

    #[test]
    fn the_oldest_leaves_first() {
        let replay = filled(4, 6);
        assert!(replay.is_full() && replay.len() == 4);
        let mut rows: Vec<u64> = replay.draw(10, 1, 0).into_iter().map(|(row, _)| row).collect();
        rows.sort();
        assert_eq!(rows, [2, 3, 4, 5]);
    }

    #[test]
    fn a_draw_has_nobody_twice_and_follows_its_counters() {
        let replay = filled(50, 50);
        let rows = |step| replay.draw(20, 3, step).into_iter().map(|(row, _)| row).collect::<Vec<_>>();
        let mut once = rows(5);
        assert_eq!(once, rows(5));
        assert_ne!(once, rows(6));
        once.sort();
        once.dedup();
        assert_eq!(once.len(), 20);
    }
}
