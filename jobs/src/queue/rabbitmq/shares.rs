//! How many jobs of each name the broker may deliver ahead of a reservation.
//!
//! The broker delivers as many jobs as a consumer may have without an answer, its prefetch. So the prefetches of the
//! names are set such that no more is delivered than may start.

/// A name, as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// How many jobs the worker may hold: those that it holds, and those that may start.
    pub(super) cap: usize,
    /// The prefetch of its consumers.
    pub(super) prefetch: usize,
    /// Jobs of consumers that were cancelled: their ends make no room.
    pub(super) orphans: usize,
    /// Whether the prefetch is used up.
    pub(super) is_busy: bool,
}

/// The prefetch that each name should have, if all names together may have `total` jobs in hand. A prefetch that may
/// stay as it is does, because a change takes a few round trips.
///
/// If there are more names than jobs, `turn` says which come first.
pub(super) fn shares(total: usize, names: &[Demand], turn: usize) -> Vec<usize> {
    let wanted = wanted(total, names, turn);
    // What has to shrink, shrinks.
    let mut prefetches: Vec<usize> =
        names.iter().map(|name| name.prefetch.min(name.cap.saturating_sub(name.orphans))).collect();
    let used: usize = names.iter().zip(&prefetches).map(|(name, now)| now + name.orphans).sum();
    let mut free = total.saturating_sub(used);
    let missing = |now: usize, name: &Demand, wanted: usize| {
        let may_grow = name.is_busy || now == 0;
        if may_grow { wanted.saturating_sub(now + name.orphans) } else { 0 }
    };
    let all_missing: usize =
        names.iter().zip(&prefetches).zip(&wanted).map(|((name, now), wanted)| missing(*now, name, *wanted)).sum();
    if all_missing > free || used > total {
        // Those that have more than their share make room.
        for ((name, now), wanted) in names.iter().zip(&mut prefetches).zip(&wanted) {
            *now = (*now).min(wanted.saturating_sub(name.orphans));
        }
        let used: usize = names.iter().zip(&prefetches).map(|(name, now)| now + name.orphans).sum();
        free = total.saturating_sub(used);
    }
    for ((name, now), wanted) in names.iter().zip(&mut prefetches).zip(&wanted) {
        let more = missing(*now, name, *wanted).min(free);
        free -= more;
        *now += more;
    }
    prefetches
}

/// The share of each name: one job each, then as many as they like for those that are busy, evenly. If none is, for all.
fn wanted(total: usize, names: &[Demand], turn: usize) -> Vec<usize> {
    let mut shares: Vec<(usize, usize)> = (0..names.len()).map(|index| (index, 0)).collect();
    shares.rotate_left(turn.checked_rem(names.len()).unwrap_or_default());
    let mut left = total;
    let some_are_busy = names.iter().any(|name| name.is_busy && name.cap > 0);
    let mut give = |takes: &dyn Fn(&Demand) -> bool| {
        let mut given = false;
        for (index, share) in &mut shares {
            if left > 0 && names.get(*index).is_some_and(|name| *share < name.cap && takes(name)) {
                *share += 1;
                left -= 1;
                given = true;
            }
        }
        given
    };
    give(&|_| true);
    while give(&|name| name.is_busy || !some_are_busy) {}
    // What the busy ones can't use.
    while give(&|_| true) {}
    shares.sort_unstable();
    shares.into_iter().map(|(_, share)| share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(cap: usize, prefetch: usize) -> Demand {
        Demand { cap, prefetch, orphans: 0, is_busy: false }
    }

    fn busy(cap: usize, prefetch: usize) -> Demand {
        Demand { is_busy: true, ..idle(cap, prefetch) }
    }

    #[test]
    fn names_share_what_may_start() {
        let orphans = |orphans, name: Demand| Demand { orphans, ..name };
        for (total, names, expected, what) in [
            (16, vec![idle(16, 0)], vec![16], "one name has it all"),
            (16, vec![idle(16, 0), idle(16, 0)], vec![8, 8], "two names have half each"),
            (16, vec![idle(2, 0), idle(16, 0)], vec![2, 14], "a limit leaves more for the others"),
            (16, vec![busy(16, 8), idle(16, 8)], vec![15, 1], "a busy name gets what an idle one does not use"),
            (16, vec![idle(16, 15), idle(16, 1)], vec![15, 1], "which stays so while nobody needs more"),
            (16, vec![busy(16, 15), busy(16, 1)], vec![8, 8], "two busy names have half each"),
            (16, vec![idle(0, 16)], vec![0], "a paused name has none"),
            (16, vec![orphans(3, busy(16, 0))], vec![13], "what is in hand counts"),
            (4, vec![orphans(4, busy(4, 0))], vec![0], "also if it is all"),
            (2, vec![idle(2, 0), idle(2, 0), idle(2, 0)], vec![1, 1, 0], "more names than jobs"),
            (0, vec![idle(4, 4)], vec![0], "nothing may start"),
        ] {
            let found = shares(total, &names, 0);
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn of_more_names_than_jobs_each_has_its_turn() {
        let names = [idle(1, 1), busy(1, 0), busy(1, 0)];
        assert_eq!(shares(1, &names, 0), [1, 0, 0]);
        assert_eq!(shares(1, &names, 1), [0, 1, 0]);
        assert_eq!(shares(1, &names, 5), [0, 0, 1]);
    }

    #[test]
    fn never_more_than_may_start() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let total = random.usize(..20);
            let mut left = total;
            let mut names = Vec::new();
            for _ in 0..random.usize(1..5) {
                let used = random.usize(..=left);
                left -= used;
                let orphans = random.usize(..=used);
                let (cap, is_busy) = (random.usize(orphans..orphans + 20), random.bool());
                names.push(Demand { cap, prefetch: used - orphans, orphans, is_busy });
            }
            let found = shares(total, &names, random.usize(..9));
            let all: usize = found.iter().zip(&names).map(|(prefetch, name)| prefetch + name.orphans).sum();
            assert!(all <= total, "{total} {names:?} {found:?}");
            for (prefetch, name) in found.iter().zip(&names) {
                assert!(prefetch + name.orphans <= name.cap.max(name.orphans), "{names:?} {found:?}");
            }
        }
    }
}
