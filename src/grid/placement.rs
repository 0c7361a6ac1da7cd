//! Servers of happiness: how well a layout of shares survives lost servers, and where new shares go (PROTOCOL 10).

use std::collections::{BTreeMap, BTreeSet};

use crate::storage::ShareNumber;

/// Servers of happiness of a layout: the size of a maximum matching between shares and the servers that hold them.
///
/// Servers are numbered by the caller. Any k of the matched servers hold k different shares among them.
pub fn happiness(map: &BTreeMap<ShareNumber, BTreeSet<usize>>) -> usize {
    matching(map).len()
}

/// A server that may take part in an upload, as far as placement is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Whether new shares may be put there. One that is not writable counts for what it holds.
    pub writable: bool,
    /// The shares it holds, or is about to.
    pub holds: BTreeSet<ShareNumber>,
}

/// Chooses a server, by its position in `candidates`, for every share below `total` that can have one.
///
/// The happiness of the outcome is the greatest that these servers allow, and a share stays where it is as long as
/// that costs no happiness. Candidates come in permuted order, and earlier ones are preferred. A share that only
/// servers hold which are not writable, and that is not needed elsewhere, is given to its holder.
pub fn place(candidates: &[Candidate], total: u32) -> BTreeMap<ShareNumber, usize> {
    let holders = |shares: &BTreeSet<ShareNumber>,
                   servers: &BTreeSet<usize>|
     -> BTreeMap<ShareNumber, BTreeSet<usize>> {
        let held_by =
            |share: ShareNumber| servers.iter().copied().filter(|&s| candidates[s].holds.contains(&share)).collect();
        shares.iter().map(|&share| (share, held_by(share))).collect()
    };
    let mut homeless: BTreeSet<ShareNumber> = (0..total).collect();
    let mut idle: BTreeSet<usize> = (0..candidates.len()).filter(|&s| candidates[s].writable).collect();
    let fixed: BTreeSet<usize> = (0..candidates.len()).filter(|&s| !candidates[s].writable).collect();
    let writable = idle.clone();
    let mut placed = BTreeMap::new();

    for servers in [&fixed, &writable] {
        for (share, server) in matching(&holders(&homeless, servers)) {
            placed.insert(share, server);
            homeless.remove(&share);
            idle.remove(&server);
        }
    }

    // Shares that nobody holds yet go to idle servers first: those that somebody holds need not be written again.
    let held = |share: &ShareNumber| candidates.iter().any(|c| c.holds.contains(share));
    let (known, fresh): (Vec<ShareNumber>, Vec<ShareNumber>) = homeless.iter().copied().partition(held);
    for (share, server) in fresh.into_iter().chain(known).zip(idle) {
        placed.insert(share, server);
        homeless.remove(&share);
    }

    let mut load: BTreeMap<usize, usize> = BTreeMap::new();
    placed.values().for_each(|&server| *load.entry(server).or_default() += 1);
    for share in homeless {
        let holder =
            |servers: &BTreeSet<usize>| servers.iter().copied().find(|&s| candidates[s].holds.contains(&share));
        let least = || writable.iter().copied().min_by_key(|s| load.get(s).copied().unwrap_or(0));
        let Some(server) = holder(&writable).or_else(|| holder(&fixed)).or_else(least) else {
            continue;
        };
        placed.insert(share, server);
        *load.entry(server).or_default() += 1;
    }
    placed
}

/// A maximum matching of shares to servers, by augmenting paths.
fn matching(map: &BTreeMap<ShareNumber, BTreeSet<usize>>) -> BTreeMap<ShareNumber, usize> {
    let mut taken: BTreeMap<usize, ShareNumber> = BTreeMap::new();
    for &share in map.keys() {
        augment(map, share, &mut BTreeSet::new(), &mut taken);
    }
    taken.into_iter().map(|(server, share)| (share, server)).collect()
}

/// Finds a server for `share`, moving others where that frees one. The depth is at most the number of shares.
fn augment(
    map: &BTreeMap<ShareNumber, BTreeSet<usize>>,
    share: ShareNumber,
    visited: &mut BTreeSet<usize>,
    taken: &mut BTreeMap<usize, ShareNumber>,
) -> bool {
    let servers = &map[&share];
    if let Some(&free) = servers.iter().find(|s| !taken.contains_key(s)) {
        taken.insert(free, share);
        return true;
    }
    for &server in servers {
        if visited.insert(server) && augment(map, taken[&server], visited, taken) {
            taken.insert(server, share);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    type Layout = BTreeMap<ShareNumber, BTreeSet<usize>>;

    /// Tries every choice of a server, or none, for every share.
    fn brute(map: &[(ShareNumber, BTreeSet<usize>)], taken: &mut BTreeSet<usize>) -> usize {
        let Some(((_, servers), rest)) = map.split_first() else {
            return 0;
        };
        let mut best = brute(rest, taken);
        for &server in servers {
            if taken.insert(server) {
                best = best.max(1 + brute(rest, taken));
                taken.remove(&server);
            }
        }
        best
    }

    fn brute_happiness(map: &Layout) -> usize {
        brute(&map.clone().into_iter().collect::<Vec<_>>(), &mut BTreeSet::new())
    }

    /// What stands where once a placement is carried out.
    fn outcome(candidates: &[Candidate], placed: &BTreeMap<ShareNumber, usize>) -> Layout {
        let mut map = Layout::new();
        for (server, candidate) in candidates.iter().enumerate() {
            for &share in &candidate.holds {
                map.entry(share).or_default().insert(server);
            }
        }
        for (&share, &server) in placed {
            map.entry(share).or_default().insert(server);
        }
        map
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        vec((any::<bool>(), btree_set(0u32..5, 0..5)), 0..5)
            .prop_map(|all| all.into_iter().map(|(writable, holds)| Candidate { writable, holds }).collect())
    }

    #[test]
    fn the_deepest_tree_of_moves_is_found() {
        // Share i may stand on servers i and i + 1, and the last on server 0 alone: all must move by one.
        let mut map: Layout = (0..255).map(|i| (i, BTreeSet::from([i as usize, i as usize + 1]))).collect();
        map.insert(255, BTreeSet::from([0]));
        assert_eq!(happiness(&map), 256);
    }

    #[test]
    fn shares_spread_evenly_and_stay_where_they_are() {
        let empty = vec![Candidate { writable: true, holds: BTreeSet::new() }; 5];
        let placed = place(&empty, 10);
        assert!((0..5).all(|server| placed.values().filter(|&&s| s == server).count() == 2));
        let full: Vec<Candidate> =
            (0..5).map(|s| Candidate { writable: true, holds: BTreeSet::from([s, s + 5]) }).collect();
        assert!(place(&full, 10).iter().all(|(share, &server)| full[server].holds.contains(share)));
    }

    #[test]
    fn nothing_is_written_for_what_a_full_server_holds() {
        let full = Candidate { writable: false, holds: (0..3).collect() };
        let empty = Candidate { writable: true, holds: BTreeSet::new() };
        let placed = place(&[full, empty], 3);
        assert_eq!(placed.values().filter(|&&s| s == 1).count(), 1, "{placed:?}");
    }

    proptest! {
        #[test]
        fn happiness_is_that_of_brute_force(map in proptest::collection::btree_map(0u32..6, btree_set(0usize..6, 0..6), 0..6)) {
            prop_assert_eq!(happiness(&map), brute_happiness(&map));
        }

        #[test]
        fn placement_is_as_good_as_any(candidates in candidates(), total in 0u32..6) {
            let placed = place(&candidates, total);
            for (share, &server) in &placed {
                prop_assert!(*share < total);
                prop_assert!(candidates[server].writable || candidates[server].holds.contains(share));
            }
            let fits = |s: &usize, share| candidates[*s].writable || candidates[*s].holds.contains(&share);
            let possible: Layout =
                (0..total).map(|share| (share, (0..candidates.len()).filter(|s| fits(s, share)).collect())).collect();
            let mut after = outcome(&candidates, &placed);
            after.retain(|share, _| *share < total);
            prop_assert_eq!(happiness(&after), brute_happiness(&possible));
            if candidates.iter().any(|c| c.writable) {
                prop_assert_eq!(placed.len(), total as usize);
            }
        }

        #[test]
        fn placing_again_moves_nothing(mut candidates in candidates(), total in 0u32..6) {
            for (share, server) in place(&candidates, total) {
                candidates[server].holds.insert(share);
            }
            for (share, server) in place(&candidates, total) {
                prop_assert!(candidates[server].holds.contains(&share));
            }
        }
    }
}
