//! A set of byte ranges: which parts of a staging file hold written bytes.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-adjacent ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(BTreeMap<u64, u64>);

impl Extents {
    /// The ranges between these pairs of start and end.
    pub fn of(pairs: &[(u64, u64)]) -> Extents {
        let mut extents = Extents::default();
        pairs.iter().filter(|(start, end)| start < end).for_each(|(start, end)| extents.insert(*start..*end));
        extents
    }

    /// Adds a range, joining it with what it touches.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let joined = self.joined(range);
        for start in &joined.gone {
            self.0.remove(start);
        }
        self.0.insert(joined.whole.start, joined.whole.end);
    }

    /// What [`Extents::insert`] of a range that is not empty would do.
    pub fn joined(&self, range: Range<u64>) -> Joined {
        let (mut start, mut end) = (range.start, range.end);
        let mut gone = Vec::new();
        let mut is_known = false;
        for (&s, &e) in self.0.range(..=end).rev().take_while(|(_, e)| **e >= range.start) {
            is_known = s <= range.start && e >= range.end;
            gone.push(s);
            start = start.min(s);
            end = end.max(e);
        }
        Joined { gone, whole: start..end, is_known }
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(s, e)| *s..*e)
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The end of the last range; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, e)| *e)
    }

    /// Forgets everything from `size` on.
    pub fn truncate(&mut self, size: u64) {
        self.0.split_off(&size);
        if let Some(mut last) = self.0.last_entry() {
            let end = (*last.get()).min(size);
            *last.get_mut() = end;
        }
    }

    /// Forgets a range.
    pub fn remove(&mut self, range: Range<u64>) {
        let parted = self.parted(range);
        for start in &parted.gone {
            self.0.remove(start);
        }
        self.0.extend(parted.left.into_iter().map(|left| (left.start, left.end)));
    }

    /// What [`Extents::remove`] of a range would do.
    pub fn parted(&self, range: Range<u64>) -> Parted {
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        if !range.is_empty() {
            for (&s, &e) in self.0.range(..range.end).rev().take_while(|(_, e)| **e > range.start) {
                gone.push(s);
                left.extend([s..range.start, range.end..e].into_iter().filter(|left| !left.is_empty()));
            }
        }
        Parted { gone, left }
    }

    /// Cuts `range` into pieces that lie wholly inside (`true`) or outside (`false`) the set, in order.
    pub fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        let from = self.0.range(..=range.start).next_back().map_or(range.start, |(s, _)| *s);
        for (&s, &e) in self.0.range(from..range.end.max(from)) {
            let (s, e) = (s.max(at), e.min(range.end));
            if s >= e {
                continue;
            }
            if at < s {
                pieces.push((at..s, false));
            }
            pieces.push((s..e, true));
            at = e;
        }
        if at < range.end {
            pieces.push((at..range.end, false));
        }
        pieces
    }
}

/// What adding a range does.
#[derive(Debug)]
pub struct Joined {
    /// The starts of the ranges that it takes up.
    pub gone: Vec<u64>,
    /// The range that stands for them and the new one.
    pub whole: Range<u64>,
    /// All of it was there before.
    pub is_known: bool,
}

/// What taking a range away does.
#[derive(Debug)]
pub struct Parted {
    /// The starts of the ranges that it touches.
    pub gone: Vec<u64>,
    /// What stays of these: two pieces at most.
    pub left: Vec<Range<u64>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_bytes(steps in prop::collection::vec((0u64..64, 0u64..24, 0u8..10), 1..40), probe in (0u64..80, 0u64..40)) {
            let mut extents = Extents::default();
            let mut model = [false; 128];
            for (start, len, what) in steps {
                let range = start as usize..(start + len) as usize;
                match what {
                    0 | 1 => {
                        extents.truncate(start);
                        model[start as usize..].fill(false);
                    }
                    2..5 => {
                        extents.remove(start..start + len);
                        model[range].fill(false);
                    }
                    _ => {
                        extents.insert(start..start + len);
                        model[range].fill(true);
                    }
                }
            }
            let range = probe.0..probe.0 + probe.1;
            let pieces = extents.split(range.clone());
            prop_assert_eq!(pieces.iter().map(|(r, _)| r.end - r.start).sum::<u64>(), probe.1);
            let mut at = range.start;
            for (piece, inside) in pieces {
                prop_assert_eq!(piece.start, at);
                at = piece.end;
                for byte in piece {
                    prop_assert_eq!(model[byte as usize], inside, "byte {}", byte);
                }
            }
        }
    }
}
