//! Documents -> packed rows: shuffled, concatenated, cut at the row's length (BOS before, where the tokenizer has one
//! of its own); what is left at an epoch's end begins the next one.
//!
//! A packed row's input is BOS and the row without its last token, its targets the whole row; without a BOS the
//! targets begin at the second token.

use super::Example;
use super::sampler::Order;
use super::tokens::TokenFile;
use crate::store::hash::Hasher;

/// Rows cut out of the shuffled documents.
#[derive(Debug)]
pub struct Packed {
    documents: TokenFile,
    sequence: usize,
    bos: Option<u32>,
    /// The order of the documents, and where each begins, in the two epochs that a row may touch.
    order: Order,
    laid: Vec<(u64, Laid)>,
}

/// One epoch's documents behind each other.
#[derive(Debug)]
struct Laid {
    order: Vec<u32>,
    starts: Vec<u64>,
}

impl Packed {
    /// Rows of `sequence` tokens, which go behind a BOS where there is one.
    pub fn new(documents: TokenFile, sequence: usize, bos: Option<u32>, seed: u64) -> Self {
        let order = Order::new(seed, documents.rows());
        Packed { documents, sequence, bos, order, laid: Vec::new() }
    }

    /// Tokens of all documents together.
    pub fn tokens(&self) -> u64 {
        self.documents.counts().tokens as u64
    }

    /// How many rows an epoch has; the last one may be completed by the next epoch's first documents.
    pub fn rows(&self) -> usize {
        self.tokens().div_ceil(self.sequence as u64) as usize
    }

    /// Tokens of a row, BOS in.
    pub fn width(&self) -> usize {
        self.sequence + usize::from(self.bos.is_some())
    }

    /// What its rows depend on.
    pub fn identity(&self) -> String {
        let mut hasher = Hasher::default();
        hasher.part(self.documents.fingerprint().as_bytes());
        hasher.part(format!("{} {:?} {}", self.sequence, self.bos, self.order.seed()).as_bytes());
        hasher.hex()
    }

    /// The documents.
    pub fn documents(&self) -> &TokenFile {
        &self.documents
    }

    /// The epoch in which the n-th row of the run begins.
    pub fn epoch(&self, n: u64) -> u64 {
        n * self.sequence as u64 / self.tokens().max(1)
    }

    /// The n-th row of the run.
    pub fn row(&mut self, n: u64) -> Example {
        let parts = self.parts(n).into_iter().flat_map(|(_, ids)| ids);
        Example { ids: self.bos.into_iter().chain(parts).collect(), from: 1, ..Example::default() }
    }

    /// The documents of the n-th row, each by itself: so none sees another, positions begin anew with each, and the
    /// first token of each, which nothing predicts, is given. A document that was begun in the row before goes on
    /// behind a BOS where there is one. One of which a single token is there has nothing to learn and is left out.
    pub fn pieces(&mut self, n: u64) -> Vec<Example> {
        let bos = self.bos;
        let piece = |(from, ids): (usize, Vec<u32>)| {
            let goes_on = bos.filter(|_| from > 0);
            Example { ids: goes_on.into_iter().chain(ids).collect(), from: 1, ..Example::default() }
        };
        self.parts(n).into_iter().map(piece).filter(|example| example.targets() > 0).collect()
    }

    /// What the n-th row has of each document: how many of its tokens came before, and those that are there.
    fn parts(&mut self, n: u64) -> Vec<(usize, Vec<u32>)> {
        let mut parts: Vec<(usize, Vec<u32>)> = Vec::new();
        let (mut at, mut left) = (n * self.sequence as u64, self.sequence);
        while left > 0 && self.tokens() > 0 {
            let (epoch, inside) = (at / self.tokens(), at % self.tokens());
            let place = self.lay(epoch);
            let laid = &self.laid[place].1;
            let document = laid.starts.partition_point(|&start| start <= inside) - 1;
            let from = (inside - laid.starts[document]) as usize;
            let ids: Vec<u32> = self.documents.part(laid.order[document] as usize, from, left).collect();
            at += ids.len() as u64;
            left -= ids.len();
            parts.push((from, ids));
        }
        parts
    }

    /// Lays an epoch's documents out, and answers where it stands among those kept.
    fn lay(&mut self, epoch: u64) -> usize {
        if let Some(at) = self.laid.iter().position(|(of, _)| *of == epoch) {
            return at;
        }
        // An empty document takes no place: only those with tokens can be found.
        let filled = |&&row: &&u32| self.documents.length(row as usize) > 0;
        let order: Vec<u32> = self.order.epoch(epoch).iter().filter(filled).copied().collect();
        let mut starts = Vec::with_capacity(order.len());
        let mut at = 0;
        for &row in &order {
            starts.push(at);
            at += self.documents.length(row as usize) as u64;
        }
        if self.laid.len() == 2 {
            self.laid.remove(0);
        }
        self.laid.push((epoch, Laid { order, starts }));
        self.laid.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tokens::{Origin, Writer};
    use super::*;

    fn documents(dir: &Path, lengths: &[u32]) -> TokenFile {
        let path = dir.join("documents.tokens");
        let mut writer = Writer::create(&path).unwrap();
        let mut next = 0;
        for &length in lengths {
            let ids: Vec<u32> = (next..next + length).collect();
            writer.add(&ids, 0, Origin { file: 0, line: 1 }).unwrap();
            next += length;
        }
        writer.finish("x").unwrap();
        TokenFile::open(&path, "x").unwrap().unwrap()
    }

    /// Over three epochs every token comes three times, documents whole, in another order each time.
    #[test]
    fn every_token_comes_once_an_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let mut packed = Packed::new(documents(dir.path(), &[5, 1, 9, 0, 3]), 4, None, 7);
        assert_eq!((packed.tokens(), packed.rows()), (18, 5));
        let stream: Vec<u32> = (0..14).flat_map(|n| packed.row(n).ids).collect();
        let mut orders = Vec::new();
        for epoch in stream.chunks(18).take(3) {
            let mut all = epoch.to_vec();
            orders.push(all.clone());
            all.sort();
            assert_eq!(all, (0..18).collect::<Vec<_>>());
            let at = epoch.iter().position(|&id| id == 6).unwrap();
            assert_eq!(epoch[at..at + 9], [6, 7, 8, 9, 10, 11, 12, 13, 14]);
        }
        assert!(orders[0] != orders[1] || orders[1] != orders[2]);
    }

    #[test]
    fn any_row_is_found_without_the_ones_before() {
        let dir = tempfile::tempdir().unwrap();
        let make = || Packed::new(documents(dir.path(), &[5, 1, 9, 3]), 7, Some(99), 7);
        let mut packed = make();
        let rows: Vec<Example> = (0..12).map(|n| packed.row(n)).collect();
        for (n, row) in rows.iter().enumerate().rev() {
            assert_eq!(make().row(n as u64), *row);
            assert_eq!((row.ids.len(), row.ids[0], row.from), (8, 99, 1));
        }
    }

    /// The pieces of all rows are the documents, cut where rows end, and say what was before a cut by a BOS.
    #[test]
    fn pieces_are_documents_by_themselves() {
        let dir = tempfile::tempdir().unwrap();
        for bos in [None, Some(99)] {
            let mut packed = Packed::new(documents(dir.path(), &[5, 2, 9, 0, 4]), 10, bos, 7);
            let lengths = [0..5, 5..7, 7..16, 16..20];
            let mut seen = 0;
            for n in 0..2 {
                let row = packed.row(n).ids;
                let pieces = packed.pieces(n);
                let tokens = || pieces.iter().flat_map(|piece| &piece.ids).filter(|id| Some(**id) != bos);
                let left_out =
                    row.iter().filter(|id| Some(**id) != bos && !tokens().any(|t| t == *id)).count();
                assert!(left_out < 3, "single tokens alone are left out");
                for piece in &pieces {
                    let own: Vec<u32> = piece.ids.iter().copied().filter(|id| Some(*id) != bos).collect();
                    let document = lengths.iter().find(|d| d.contains(&own[0])).unwrap();
                    let goes_on = own[0] > document.start;
                    assert!(
                        own.iter()
                            .enumerate()
                            .all(|(k, id)| *id == own[0] + k as u32 && document.contains(id))
                    );
                    assert_eq!(piece.ids.len() - own.len(), usize::from(goes_on && bos.is_some()));
                    assert_eq!(piece.targets(), piece.ids.len() - 1);
                    seen += own.len();
                }
            }
            assert!((16..=20).contains(&seen), "{seen}");
        }
    }
}
