//! Which bytes of a share under upload have arrived.

use std::collections::BTreeMap;

/// A set of bytes, kept as disjoint ranges that do not touch.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    /// Start to end, the end excluded.
    spans: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds `start..end`.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut from, mut to) = (start, end);
        let touching: Vec<u64> =
            self.spans.range(..=end).rev().take_while(|&(_, &e)| e >= start).map(|(&s, _)| s).collect();
        for s in touching {
            if let Some(e) = self.spans.remove(&s) {
                from = from.min(s);
                to = to.max(e);
            }
        }
        self.spans.insert(from, to);
    }

    /// The parts of `start..end` that are in the set, in ascending order.
    pub(super) fn within(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        if start >= end {
            return Vec::new();
        }
        let mut found: Vec<(u64, u64)> = self
            .spans
            .range(..end)
            .rev()
            .take_while(|&(_, &e)| e > start)
            .map(|(&s, &e)| (s.max(start), e.min(end)))
            .collect();
        found.reverse();
        found
    }

    /// The parts of `0..size` that are not in the set, in ascending order.
    pub(super) fn gaps(&self, size: u64) -> Vec<(u64, u64)> {
        let within = self.within(0, size);
        let starts = std::iter::once(0).chain(within.iter().map(|(_, end)| *end));
        let ends = within.iter().map(|(start, _)| *start).chain(std::iter::once(size));
        starts.zip(ends).filter(|(start, end)| start < end).collect()
    }

    /// Whether every byte of `0..size` is in the set; true of no bytes at all.
    pub(super) fn covers(&self, size: u64) -> bool {
        size == 0 || self.spans.get(&0).is_some_and(|&e| e >= size)
    }

    /// How many bytes are in the set.
    pub(super) fn total(&self) -> u64 {
        self.spans.iter().map(|(s, e)| e - s).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_agree_with_a_bitmap() {
        let mut state = 12345u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..200 {
            let mut ranges = Ranges::default();
            let mut bits = [false; 40];
            for _ in 0..next(12) {
                let (a, b) = (next(41), next(41));
                ranges.insert(a, b);
                (a..b).for_each(|i| bits[i as usize] = true);
            }
            assert_eq!(ranges.total(), bits.iter().filter(|&&b| b).count() as u64);
            let (a, b) = (next(41), next(41));
            let mut seen = [false; 40];
            for (s, e) in ranges.within(a, b) {
                assert!(a <= s && s < e && e <= b);
                (s..e).for_each(|i| seen[i as usize] = true);
            }
            (0..40).for_each(|i| assert_eq!(seen[i as usize], bits[i as usize] && (a..b).contains(&i)));
            let size = next(41);
            assert_eq!(ranges.covers(size), bits[..size as usize].iter().all(|&b| b));
        }
    }
}
