//! Several ranges of a share fetched by few reads.

use std::ops::Range;

use bytes::Bytes;

use crate::storage::ReadRange;

/// Ranges with no more than this between them are read as one: a request costs more than so many bytes.
const GAP: u64 = 4096;

/// Joins ranges that touch, overlap or nearly do; the outcome is ascending. Empty ranges are left out.
pub(super) fn join(mut ranges: Vec<Range<u64>>) -> Vec<ReadRange> {
    ranges.retain(|r| r.start < r.end);
    ranges.sort_unstable_by_key(|r| r.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP) => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined.into_iter().map(|r| ReadRange { offset: r.start, length: r.end - r.start }).collect()
}

/// Bytes of a share that have been read.
#[derive(Clone, Debug, Default)]
pub(super) struct Spans(Vec<(u64, Bytes)>);

impl Spans {
    /// What came back for `asked`.
    pub fn new(asked: &[ReadRange], answer: Vec<Bytes>) -> Spans {
        Spans(asked.iter().map(|r| r.offset).zip(answer).collect())
    }

    /// The bytes of `range`, if all of them were read.
    pub fn get(&self, range: &Range<u64>) -> Option<Bytes> {
        let found = self.up_to(range)?;
        (found.len() as u64 == range.end.saturating_sub(range.start)).then_some(found)
    }

    /// As many bytes from the start of `range` as were read in one piece.
    pub fn up_to(&self, range: &Range<u64>) -> Option<Bytes> {
        self.0.iter().find_map(|(offset, bytes)| {
            let start = usize::try_from(range.start.checked_sub(*offset)?).ok().filter(|&s| s <= bytes.len())?;
            let length = usize::try_from(range.end.saturating_sub(range.start)).ok()?;
            Some(bytes.slice(start..start.saturating_add(length).min(bytes.len())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_one_read() {
        let read = |offset, length| ReadRange { offset, length };
        assert_eq!(join(vec![10..20, 0..5, 5000..5001, 7..7]), [read(0, 20), read(5000, 1)]);
        assert_eq!(join(vec![0..10, 2..4, 4106..4107]), [read(0, 4107)]);
        assert_eq!(join(vec![u64::MAX - 1..u64::MAX, 0..1]), [read(0, 1), read(u64::MAX - 1, 1)]);
    }

    #[test]
    fn only_what_was_read_is_found() {
        let spans = Spans::new(&join(vec![100..103, 103..110]), vec![Bytes::from_static(b"01234567")]);
        assert_eq!(spans.get(&(102..105)).unwrap(), "234");
        assert_eq!(spans.get(&(102..110)), None);
        assert_eq!(spans.up_to(&(102..110)).unwrap(), "234567");
        assert_eq!(spans.get(&(99..101)), None);
        assert_eq!(spans.get(&(109..110)), None);
        assert_eq!(spans.get(&(108..108)).unwrap(), "");
    }
}
