//! Where many tensors stand when they are exchanged: side by side in buckets, and of each bucket one part a rank.

/// Bytes of float32 that a bucket has room for; a larger tensor has a bucket of its own.
pub const BUCKET: usize = 16 << 20;

/// One tensor in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its place in the list of all tensors.
    pub tensor: usize,
    /// Its first element's place in the bucket.
    pub at: usize,
    /// How many elements it has.
    pub size: usize,
}

/// A stretch of a tensor that belongs to one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The tensor's place in the list of all.
    pub tensor: usize,
    /// Its first element in the tensor.
    pub from: usize,
    /// How many elements it has.
    pub size: usize,
    /// Which bucket it stands in.
    pub bucket: usize,
    /// Its first element in the rank's part of that bucket.
    pub at: usize,
}

/// Tensors of these sizes in buckets that so many ranks share.
///
/// The last tensors come first: a backward pass makes their gradients first.
///
/// ```
/// use retort::dist::Layout;
/// let layout = Layout::new(&[3, 4, 2], 2, 6);
/// assert_eq!(layout.buckets(), 2);
/// assert_eq!(layout.part(0), 3);
/// // Rank 1 has the last three of the first bucket's six, and the last two of the second's four.
/// let own: Vec<_> = layout.pieces(1).iter().map(|p| (p.tensor, p.from, p.size)).collect();
/// assert_eq!(own, [(1, 1, 3), (0, 2, 1)]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    buckets: Vec<Vec<Member>>,
    /// The bucket of each tensor, and its place among the members.
    places: Vec<(usize, usize)>,
    ranks: usize,
}

impl Layout {
    /// Buckets of up to `most` elements, except for tensors that are larger.
    pub fn new(sizes: &[usize], ranks: usize, most: usize) -> Layout {
        let mut buckets: Vec<Vec<Member>> = Vec::new();
        let mut places = vec![(0, 0); sizes.len()];
        let mut filled = usize::MAX;
        for (tensor, &size) in sizes.iter().enumerate().rev() {
            if filled.saturating_add(size) > most {
                buckets.push(Vec::new());
                filled = 0;
            }
            let at = buckets.len().saturating_sub(1);
            if let Some(bucket) = buckets.last_mut() {
                places[tensor] = (at, bucket.len());
                bucket.push(Member { tensor, at: filled, size });
            }
            filled += size;
        }
        Layout { buckets, places, ranks: ranks.max(1) }
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The tensors of a bucket, side by side from its beginning on.
    pub fn members(&self, bucket: usize) -> &[Member] {
        &self.buckets[bucket]
    }

    /// The bucket of a tensor, and where it stands in it.
    pub fn place(&self, tensor: usize) -> (usize, Member) {
        let (bucket, member) = self.places[tensor];
        (bucket, self.buckets[bucket][member])
    }

    /// The elements of a bucket that each rank has, what fills it up to parts of one size among them.
    pub fn part(&self, bucket: usize) -> usize {
        let used = self.buckets[bucket].last().map_or(0, |last| last.at + last.size);
        used.div_ceil(self.ranks)
    }

    /// The elements of a bucket, filled up to parts of one size.
    pub fn length(&self, bucket: usize) -> usize {
        self.part(bucket) * self.ranks
    }

    /// What belongs to a rank: its part of each bucket, tensor by tensor.
    pub fn pieces(&self, rank: usize) -> Vec<Piece> {
        let of = |bucket: usize| {
            let part = self.part(bucket);
            let (begin, end) = (rank * part, (rank + 1) * part);
            self.buckets[bucket].iter().filter_map(move |m| {
                let (from, to) = (m.at.max(begin), (m.at + m.size).min(end));
                let piece = || Piece {
                    tensor: m.tensor,
                    from: from - m.at,
                    size: to - from,
                    bucket,
                    at: from - begin,
                };
                (from < to).then(piece)
            })
        };
        (0..self.buckets.len()).flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element belongs to one rank, and the parts of a bucket are of one size.
    #[test]
    fn every_element_belongs_to_one_rank() {
        let sizes = [7, 0, 64, 1, 33, 5, 100];
        for ranks in [1, 2, 3, 8] {
            let layout = Layout::new(&sizes, ranks, 40);
            let mut owned: Vec<Vec<usize>> = sizes.iter().map(|&n| vec![0; n]).collect();
            for rank in 0..ranks {
                for p in layout.pieces(rank) {
                    owned[p.tensor][p.from..p.from + p.size].iter_mut().for_each(|n| *n += 1);
                    assert!(p.at + p.size <= layout.part(p.bucket));
                    let (bucket, member) = layout.place(p.tensor);
                    assert_eq!((bucket, member.at + p.from), (p.bucket, rank * layout.part(bucket) + p.at));
                }
            }
            assert!(owned.iter().flatten().all(|&n| n == 1), "{ranks}: {owned:?}");
        }
    }

    /// The last tensors come first, and a large one stands alone.
    #[test]
    fn buckets_have_room_for_so_much() {
        let layout = Layout::new(&[10, 10, 50, 10, 20], 1, 40);
        let of = |bucket: usize| layout.members(bucket).iter().map(|m| m.tensor).collect::<Vec<_>>();
        assert_eq!((0..layout.buckets()).map(of).collect::<Vec<_>>(), [vec![4, 3], vec![2], vec![1, 0]]);
        assert_eq!(Layout::new(&[], 2, 40).buckets(), 0);
    }
}
