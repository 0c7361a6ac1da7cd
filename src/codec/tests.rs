use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::*;

fn codec(needed: usize, total: usize) -> Arc<Codec> {
    Codec::get(needed, total).expect("valid parameters")
}

/// All N blocks: the primaries, then the parity.
fn all_blocks(codec: &Codec, primary: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let parity = codec.encode_parity(&primary.iter().map(Vec::as_slice).collect::<Vec<_>>());
    primary.iter().cloned().chain(parity).collect()
}

/// k primary blocks of a length, of bytes that depend on `seed`.
fn primaries(needed: usize, len: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..needed).map(|_| (0..len).map(|_| next()).collect()).collect()
}

/// The given shares of `blocks`.
fn pick<'a>(blocks: &'a [Vec<u8>], shares: &[usize]) -> Vec<(usize, &'a [u8])> {
    shares.iter().map(|&share| (share, blocks[share].as_slice())).collect()
}

/// All ways of decoding must give `primary`.
fn check_decode(codec: &Codec, blocks: &[(usize, &[u8])], primary: &[Vec<u8>]) {
    assert_eq!(codec.decode(blocks).as_deref(), Ok(primary));
    assert_eq!(codec.decode_segment(blocks), Ok(primary.concat()));
    let missing: Vec<(usize, Vec<u8>)> = (0..codec.needed())
        .filter(|share| blocks.iter().all(|(given, _)| given != share))
        .map(|share| (share, primary[share].clone()))
        .collect();
    assert_eq!(codec.decode_missing(blocks), Ok(missing));
}

#[test]
fn parameters_out_of_range_are_refused() {
    for (needed, total) in [(0, 0), (0, 1), (2, 1), (1, 257), (257, 257), (usize::MAX, usize::MAX), (1, usize::MAX)] {
        assert_eq!(Codec::get(needed, total).err(), Some(BadParameters { needed, total }));
    }
}

#[test]
fn a_codec_is_shared() {
    let cache = Cache::new();
    let (one, other) = (cache.get(5, 9), cache.get(5, 9));
    assert!(Arc::ptr_eq(&one, &other) && (one.needed(), one.total()) == (5, 9));
    assert!(!Arc::ptr_eq(&one, &cache.get(5, 10)));
}

#[test]
fn the_cache_forgets_what_was_unused_longest() {
    let cache = Cache::new();
    let (first, second) = (cache.get(1, 1), cache.get(1, 2));
    (3..=CACHED.get()).for_each(|total| drop(cache.get(1, total)));
    assert!(Arc::ptr_eq(&first, &cache.get(1, 1)));
    cache.get(1, CACHED.get() + 1);
    assert!(Arc::ptr_eq(&first, &cache.get(1, 1)));
    assert!(!Arc::ptr_eq(&second, &cache.get(1, 2)));
}

#[test]
fn the_largest_codes() {
    for (needed, total) in [(1, 256), (128, 256), (255, 256), (256, 256)] {
        let codec = codec(needed, total);
        let primary = primaries(needed, 33, 7);
        let blocks = all_blocks(&codec, &primary);
        assert_eq!(blocks.len(), total);
        check_decode(&codec, &pick(&blocks, &(total - needed..total).collect::<Vec<_>>()), &primary);
    }
}

#[test]
fn blocks_longer_than_a_chunk() {
    let codec = codec(3, 10);
    let (size, _) = codec.chunks(usize::MAX).map(|(start, end)| (end - start, ())).next().unwrap();
    for len in [size - 1, size, size + 1, 3 * size + 17] {
        let primary = primaries(3, len, len as u64);
        let blocks = all_blocks(&codec, &primary);
        check_decode(&codec, &pick(&blocks, &[9, 4, 7]), &primary);
        check_decode(&codec, &pick(&blocks, &[9, 1, 7]), &primary);
    }
}

#[test]
fn empty_blocks_stay_empty() {
    for (needed, total) in [(1, 1), (3, 10), (4, 4)] {
        let codec = codec(needed, total);
        let blocks = all_blocks(&codec, &vec![Vec::new(); needed]);
        assert_eq!(blocks, vec![Vec::<u8>::new(); total]);
        check_decode(&codec, &pick(&blocks, &(total - needed..total).collect::<Vec<_>>()), &blocks[..needed]);
    }
}

#[test]
fn blocks_that_cannot_be_encoded() {
    let codec = codec(2, 4);
    let (long, short): (&[u8], &[u8]) = (&[1, 2, 3], &[1, 2]);
    let mut parity = [[7u8; 3]; 2];
    let wrong = |kind, given, expected| Err(EncodeError::WrongCount { kind, given, expected });
    assert_eq!(codec.encode_into(&[long], &mut parity), wrong("primary", 1, 2));
    assert_eq!(codec.encode_into(&[long; 3], &mut parity), wrong("primary", 3, 2));
    assert_eq!(codec.encode_into(&[long; 2], &mut parity[..1]), wrong("parity", 1, 2));
    assert_eq!(codec.encode_into(&[long, short], &mut parity), Err(EncodeError::UnequalLengths));
    assert_eq!(codec.encode_into(&[short; 2], &mut parity), Err(EncodeError::UnequalLengths));
    assert_eq!(parity, [[7; 3]; 2]);
    assert_eq!(codec.encode_into(&[long; 2], &mut parity), Ok(()));
    assert_eq!(parity, [[1, 2, 3]; 2], "a constant column is a constant polynomial");
}

#[test]
#[should_panic(expected = "differ in length")]
fn encode_parity_panics_on_unequal_blocks() {
    codec(2, 4).encode_parity(&[&[1, 2], &[1]]);
}

#[test]
fn blocks_that_cannot_be_decoded() {
    let codec = codec(2, 4);
    let a: &[u8] = &[1, 2];
    for (blocks, error) in [
        (vec![], DecodeError::TooFew { given: 0, needed: 2 }),
        (vec![(3, a)], DecodeError::TooFew { given: 1, needed: 2 }),
        (vec![(1, a), (1, a)], DecodeError::Repeated(1)),
        (vec![(0, a), (1, a), (0, a)], DecodeError::Repeated(0)),
        (vec![(0, a), (4, a)], DecodeError::NoSuchShare(4)),
        (vec![(0, a), (1, a), (usize::MAX, a)], DecodeError::NoSuchShare(usize::MAX)),
        (vec![(0, a), (3, &a[..1])], DecodeError::UnequalLengths),
        (vec![(0, a), (1, a), (2, &a[..0])], DecodeError::UnequalLengths),
    ] {
        assert_eq!(codec.decode(&blocks), Err(error));
        assert_eq!(codec.decode_segment(&blocks), Err(error));
        assert_eq!(codec.decode_missing(&blocks), Err(error));
    }
}

/// Interpolating at the parity shares from the primaries is what encoding is: the two sides check each other.
#[test]
fn encoding_is_interpolation() {
    for (needed, total) in [(1, 2), (2, 3), (3, 10), (7, 11), (25, 100), (101, 256), (255, 256)] {
        let points: Vec<u8> = (0..total).map(ZfecField::nth).collect();
        let factors = interpolation_factors(&points[..needed], &points[needed..]);
        let identity: Vec<Vec<u8>> = (0..needed).map(|i| (0..needed).map(|j| u8::from(i == j)).collect()).collect();
        assert_eq!(all_blocks(&codec(needed, total), &identity)[needed..], factors);
    }
}

/// k, N and the shares to decode from, at least k of them, in any order.
fn codes() -> impl Strategy<Value = (usize, usize, Vec<usize>)> {
    let sizes = prop_oneof![
        8 => (1usize..=12).prop_flat_map(|total| (1..=total, Just(total))),
        2 => (1usize..=12).prop_map(|both| (both, both)),
        2 => (13usize..=60).prop_flat_map(|total| (1..=total, Just(total))),
        2 => prop::sample::select(vec![(1, 256), (2, 256), (20, 256), (60, 200), (256, 256), (200, 200)]),
    ];
    sizes.prop_flat_map(|(needed, total)| {
        let shares = subsequence((0..total).collect::<Vec<_>>(), needed..=total).prop_shuffle();
        (Just(needed), Just(total), shares)
    })
}

proptest! {
    #[test]
    fn any_k_blocks_give_the_primaries(
        (needed, total, shares) in codes(),
        len in prop_oneof![Just(0usize), 1usize..100, 100usize..2500],
        seed: u64,
    ) {
        let codec = codec(needed, total);
        let primary = primaries(needed, len, seed);
        let blocks = all_blocks(&codec, &primary);
        prop_assert_eq!(blocks.len(), total);
        check_decode(&codec, &pick(&blocks, &shares[..needed]), &primary);
        check_decode(&codec, &pick(&blocks, &shares), &primary);
    }

    #[test]
    fn a_changed_block_changes_what_is_decoded(
        (needed, total, shares) in codes(),
        len in 1usize..100,
        (share, at) in any::<(Index, Index)>(),
        change in 1u8..,
        seed: u64,
    ) {
        let codec = codec(needed, total);
        let primary = primaries(needed, len, seed);
        let mut blocks = all_blocks(&codec, &primary);
        let shares = &shares[..needed];
        blocks[*share.get(shares)][at.index(len)] ^= change;
        prop_assert_ne!(codec.decode(&pick(&blocks, shares)).unwrap(), primary);
    }
}
