//! Ranges of numbers.

use std::ops::Range;

/// The same numbers as ascending ranges with gaps between them. The ranges given may come in any order, overlap, touch
/// or be empty.
pub fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_numbers_are_the_same_and_the_ranges_apart(given in prop::collection::vec((0u64..40, 0u64..40), 0..12)) {
            let given: Vec<Range<u64>> = given.into_iter().map(|(start, end)| start..end).collect();
            let merged = merged(given.clone());
            for number in 0..40 {
                let inside = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&number));
                prop_assert_eq!(inside(&merged), inside(&given), "{}", number);
            }
            prop_assert!(merged.iter().all(|range| range.start < range.end));
            prop_assert!(merged.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
