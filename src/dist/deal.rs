//! Who does what: work dealt out so that all ranks are done at about the same time.

/// Which pieces of work each rank does, in their order: the largest first, each to the rank that has least so far.
/// The same on all ranks. Rank 0 has work wherever there is any.
///
/// ```
/// use retort::dist::deal;
/// assert_eq!(deal(&[9, 2, 3, 4], 2), [vec![0], vec![1, 2, 3]]);
/// assert_eq!(deal(&[5], 3), [vec![0], vec![], vec![]]);
/// ```
pub fn deal(work: &[usize], ranks: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..work.len()).collect();
    order.sort_by_key(|&n| (std::cmp::Reverse(work[n]), n));
    let mut shares = vec![(0u64, Vec::new()); ranks.max(1)];
    for n in order {
        let least = (0..shares.len()).min_by_key(|&rank| (shares[rank].0, rank)).unwrap_or(0);
        // A piece costs something even where it has no tokens.
        shares[least].0 += work[n] as u64 + 1;
        shares[least].1.push(n);
    }
    let sorted = |(_, mut share): (u64, Vec<usize>)| {
        share.sort_unstable();
        share
    };
    shares.into_iter().map(sorted).collect()
}

/// Of the pieces that are dealt in turns so many parts in all, of which one is left for later.
const PARTS: usize = 4;

/// Work that is dealt out in two turns: a share for each rank, and pieces that go together for whoever is free first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dealing {
    /// The share of each rank.
    pub first: Vec<Vec<usize>>,
    /// What is left for later, in the order in which it is taken.
    pub later: Vec<Vec<usize>>,
}

impl Dealing {
    /// Deals out work whose pieces are expected to take so long: three quarters at once, and the pieces that are expected
    /// to take least later, in as many parts that each rank could have two. A world of one has all at once.
    ///
    /// ```
    /// use retort::dist::Dealing;
    /// let dealing = Dealing::of(&[5, 1, 5, 5, 5, 5, 5, 1], 2);
    /// assert_eq!(dealing.first, [vec![0, 3, 5], vec![2, 4, 6]]);
    /// assert_eq!(dealing.later, [vec![1], vec![7]]);
    /// ```
    pub fn of(work: &[usize], ranks: usize) -> Dealing {
        if ranks == 1 {
            return Dealing { first: vec![(0..work.len()).collect()], later: Vec::new() };
        }
        let mut order: Vec<usize> = (0..work.len()).collect();
        order.sort_by_key(|&n| (std::cmp::Reverse(work[n]), n));
        let later = order.split_off(work.len() - work.len() / PARTS);
        let at_once: Vec<usize> = order.iter().map(|&n| work[n]).collect();
        let named = |share: Vec<usize>| {
            let mut names: Vec<usize> = share.into_iter().map(|at| order[at]).collect();
            names.sort_unstable();
            names
        };
        let first = deal(&at_once, ranks).into_iter().map(named).collect();
        let together = later.len().div_ceil(2 * ranks).max(1);
        Dealing { first, later: later.chunks(together).map(<[usize]>::to_vec).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_dealt_once_and_shares_are_alike() {
        let work: Vec<usize> = (0..97).map(|n| (n * 37 + 11) % 64).collect();
        for ranks in [1, 2, 3, 8] {
            let shares = deal(&work, ranks);
            let mut all: Vec<usize> = shares.concat();
            all.sort();
            assert_eq!(all, (0..97).collect::<Vec<_>>());
            let of = |share: &Vec<usize>| share.iter().map(|&n| work[n] + 1).sum::<usize>();
            let (most, least) = (shares.iter().map(of).max().unwrap(), shares.iter().map(of).min().unwrap());
            assert!(most - least <= 65, "{ranks}: {least} to {most}");
            assert!(shares.iter().all(|share| share.is_sorted()));
        }
    }

    #[test]
    fn the_first_rank_has_work_where_there_is_any() {
        assert_eq!(deal(&[0, 0], 4)[0], [0]);
        assert_eq!(deal(&[], 2), [vec![], Vec::<usize>::new()]);
    }

    #[test]
    fn work_in_turns_is_dealt_once() {
        let work: Vec<usize> = (0..50).map(|n| (n * 37 + 11) % 64).collect();
        for ranks in [1, 2, 3, 8] {
            let dealing = Dealing::of(&work, ranks);
            assert_eq!(dealing.first.len(), ranks);
            let mut all: Vec<usize> =
                dealing.first.concat().into_iter().chain(dealing.later.concat()).collect();
            all.sort();
            assert_eq!(all, (0..50).collect::<Vec<_>>());
            assert_eq!(dealing.later.concat().len(), if ranks == 1 { 0 } else { 12 });
            let least = dealing.first.concat().iter().map(|&n| work[n]).min().unwrap();
            assert!(dealing.later.concat().iter().all(|&n| work[n] <= least), "{ranks}");
        }
        let few = Dealing::of(&[3, 3], 4);
        assert_eq!((few.first.concat().len(), few.later.len()), (2, 0));
    }
}
