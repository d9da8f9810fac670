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

/// The pieces of one rank.
pub fn share(work: &[usize], world: &super::World) -> Vec<usize> {
    if world.size() == 1 {
        return (0..work.len()).collect();
    }
    deal(work, world.size()).swap_remove(world.rank())
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
}
