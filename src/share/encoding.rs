//! How a file is cut into segments and blocks (PROTOCOL 5.1, 6.1).

use std::ops::Range;

use super::BadShare;

/// Largest segment of an immutable file unless configured otherwise, before it is rounded up to a multiple of k.
pub const DEFAULT_MAX_SEGMENT_SIZE: u64 = 1 << 20;

/// The sizes of everything that depends on a file's size, k and segment size alone. All in bytes.
///
/// An empty file has no segments, and a tail of nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The file.
    pub size: u64,
    /// k: blocks that make a segment.
    pub needed: u32,
    /// Every segment but the last; a multiple of k.
    pub segment_size: u64,
    /// Segments.
    pub num_segments: u64,
    /// The last segment.
    pub tail_size: u64,
    /// The last segment with the zeros that make it a multiple of k.
    pub tail_padded: u64,
    /// A block of every segment but the last.
    pub block_size: u64,
    /// A block of the last segment.
    pub tail_block_size: u64,
    /// All blocks of one share.
    pub share_data_size: u64,
}

impl Encoding {
    /// What a writer makes of a file: its segments are as large as allowed, and no larger than the file.
    ///
    /// Fails when `needed` is 0, when there are bytes but no segment may hold any, or beyond 64 bits.
    pub fn new(size: u64, needed: u32, max_segment_size: u64) -> Result<Encoding, BadShare> {
        let segment = size.min(max_segment_size);
        let segment = round_up(segment, needed).ok_or(BadShare::TooLarge("segment size"))?;
        Encoding::with_segment_size(size, needed, segment)
    }

    /// What a reader expects of an immutable file before it has seen the segment size that its writer chose.
    pub fn guess(size: u64, needed: u32) -> Result<Encoding, BadShare> {
        Encoding::new(size, needed, DEFAULT_MAX_SEGMENT_SIZE)
    }

    /// What follows from the segment size that stands in the file's own records.
    ///
    /// A segment size is as large as a stranger made it: bound what is allocated for one.
    pub fn with_segment_size(size: u64, needed: u32, segment_size: u64) -> Result<Encoding, BadShare> {
        if needed == 0 {
            return Err(BadShare::Field("needed shares"));
        }
        let k = u64::from(needed);
        if !segment_size.is_multiple_of(k) || (segment_size == 0 && size > 0) {
            return Err(BadShare::Field("segment size"));
        }
        let num_segments = if size == 0 { 0 } else { size.div_ceil(segment_size) };
        let tail_size = size - num_segments.saturating_sub(1) * segment_size;
        let tail_padded = round_up(tail_size, needed).ok_or(BadShare::TooLarge("tail segment"))?;
        Ok(Encoding {
            size,
            needed,
            segment_size,
            num_segments,
            tail_size,
            tail_padded,
            block_size: segment_size / k,
            tail_block_size: tail_padded / k,
            share_data_size: size.div_ceil(k),
        })
    }

    fn is_tail(&self, segment: u64) -> bool {
        segment + 1 == self.num_segments
    }

    /// The bytes of the file that are in segment number `segment`.
    pub fn segment_range(&self, segment: u64) -> Option<Range<u64>> {
        let len = self.segment_len(segment)?;
        let start = segment * self.segment_size;
        Some(start..start + len)
    }

    /// Bytes of a segment, without padding.
    pub fn segment_len(&self, segment: u64) -> Option<u64> {
        (segment < self.num_segments).then(|| if self.is_tail(segment) { self.tail_size } else { self.segment_size })
    }

    /// Bytes of a block of a segment.
    pub fn block_len(&self, segment: u64) -> Option<u64> {
        (segment < self.num_segments).then(
            || {
                if self.is_tail(segment) { self.tail_block_size } else { self.block_size }
            },
        )
    }

    /// Where a segment's block lies among all blocks of a share, when nothing stands between blocks.
    pub fn block_range(&self, segment: u64) -> Option<Range<u64>> {
        let len = self.block_len(segment)?;
        let start = segment * self.block_size;
        Some(start..start + len)
    }

    /// The segment that holds the file's byte at `offset`.
    pub fn segment_of(&self, offset: u64) -> Option<u64> {
        (offset < self.size).then(|| offset / self.segment_size)
    }
}

fn round_up(value: u64, needed: u32) -> Option<u64> {
    value.checked_next_multiple_of(u64::from(needed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_file_has_no_segments() {
        let e = Encoding::new(0, 3, DEFAULT_MAX_SEGMENT_SIZE).unwrap();
        assert_eq!((e.segment_size, e.num_segments, e.tail_size, e.share_data_size), (0, 0, 0, 0));
        assert_eq!(e.segment_range(0), None);
        assert_eq!(e.segment_of(0), None);
        let e = Encoding::with_segment_size(0, 3, 131_073).unwrap();
        assert_eq!((e.num_segments, e.block_size, e.tail_block_size), (0, 43_691, 0));
    }

    #[test]
    fn impossible_parameters_are_refused() {
        assert!(Encoding::new(1, 0, 1).is_err());
        assert!(Encoding::new(1, 1, 0).is_err());
        assert!(Encoding::new(u64::MAX, 7, u64::MAX).is_err());
        assert!(Encoding::with_segment_size(10, 3, 10).is_err());
        assert!(Encoding::with_segment_size(u64::MAX, 7, 7).is_ok());
    }

    proptest! {
        #[test]
        fn segments_and_blocks_tile(size in 0u64..10_000, needed in 1u32..20, max in 1u64..3_000) {
            let e = Encoding::new(size, needed, max).unwrap();
            let (mut at, mut block_at) = (0, 0);
            for i in 0..e.num_segments {
                let range = e.segment_range(i).unwrap();
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > range.start);
                prop_assert_eq!(e.segment_of(range.start), Some(i));
                prop_assert_eq!(e.segment_of(range.end - 1), Some(i));
                at = range.end;
                let block = e.block_range(i).unwrap();
                prop_assert_eq!(block.start, block_at);
                prop_assert!((block.end - block.start) * u64::from(needed) >= range.end - range.start);
                block_at = block.end;
            }
            prop_assert_eq!(at, size);
            prop_assert_eq!(block_at, e.share_data_size);
            prop_assert_eq!(e.block_len(e.num_segments), None);
        }

        #[test]
        fn no_numbers_overflow(size: u64, needed: u32, segment: u64, i: u64) {
            for e in [Encoding::new(size, needed, segment), Encoding::with_segment_size(size, needed, segment)].into_iter().flatten() {
                for i in [i, e.num_segments.wrapping_sub(1), e.num_segments] {
                    let _ = (e.segment_range(i), e.block_range(i), e.segment_of(i));
                }
            }
        }
    }
}
