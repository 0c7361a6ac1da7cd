//! Kernels for x86-64: a byte shuffle looks up 16 or 32 nibbles at a time.

use std::arch::x86_64::*;

use super::{NibbleTables, portable};

/// As [`portable::run`], 32 bytes at a time.
#[target_feature(enable = "avx2")]
pub fn avx2<const ADD: bool>(tables: &NibbleTables, input: &[u8], out: &mut [u8]) {
    // SAFETY: each table is 16 bytes long, and the load asks for no alignment.
    let (low, high) =
        unsafe { (_mm_loadu_si128(tables.low.as_ptr().cast()), _mm_loadu_si128(tables.high.as_ptr().cast())) };
    let (low, high) = (_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high));
    let mask = _mm256_set1_epi8(15);
    let (inputs, input_rest) = input.as_chunks::<32>();
    let (outs, out_rest) = out.as_chunks_mut::<32>();
    for (input, out) in inputs.iter().zip(outs) {
        // SAFETY: `input` is 32 bytes long, and the load asks for no alignment.
        let bytes = unsafe { _mm256_loadu_si256(input.as_ptr().cast()) };
        let mut product = _mm256_xor_si256(
            _mm256_shuffle_epi8(low, _mm256_and_si256(bytes, mask)),
            _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi64::<4>(bytes), mask)),
        );
        if ADD {
            // SAFETY: `out` is 32 bytes long, and the load asks for no alignment.
            product = _mm256_xor_si256(product, unsafe { _mm256_loadu_si256(out.as_ptr().cast()) });
        }
        // SAFETY: `out` is 32 bytes long and ours alone, and the store asks for no alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), product) };
    }
    portable::run::<ADD>(tables, input_rest, out_rest);
}

/// As [`portable::run`], 16 bytes at a time.
#[target_feature(enable = "ssse3")]
pub fn ssse3<const ADD: bool>(tables: &NibbleTables, input: &[u8], out: &mut [u8]) {
    // SAFETY: each table is 16 bytes long, and the load asks for no alignment.
    let (low, high) =
        unsafe { (_mm_loadu_si128(tables.low.as_ptr().cast()), _mm_loadu_si128(tables.high.as_ptr().cast())) };
    let mask = _mm_set1_epi8(15);
    let (inputs, input_rest) = input.as_chunks::<16>();
    let (outs, out_rest) = out.as_chunks_mut::<16>();
    for (input, out) in inputs.iter().zip(outs) {
        // SAFETY: `input` is 16 bytes long, and the load asks for no alignment.
        let bytes = unsafe { _mm_loadu_si128(input.as_ptr().cast()) };
        let mut product = _mm_xor_si128(
            _mm_shuffle_epi8(low, _mm_and_si128(bytes, mask)),
            _mm_shuffle_epi8(high, _mm_and_si128(_mm_srli_epi64::<4>(bytes), mask)),
        );
        if ADD {
            // SAFETY: `out` is 16 bytes long, and the load asks for no alignment.
            product = _mm_xor_si128(product, unsafe { _mm_loadu_si128(out.as_ptr().cast()) });
        }
        // SAFETY: `out` is 16 bytes long and ours alone, and the store asks for no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), product) };
    }
    portable::run::<ADD>(tables, input_rest, out_rest);
}
