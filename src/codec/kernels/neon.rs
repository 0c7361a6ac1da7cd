//! The kernel for 64-bit Arm: a table lookup of 16 nibbles at a time.

use std::arch::aarch64::*;

use super::{NibbleTables, portable};

/// As [`portable::run`], 16 bytes at a time.
#[target_feature(enable = "neon")]
pub fn neon<const ADD: bool>(tables: &NibbleTables, input: &[u8], out: &mut [u8]) {
    // SAFETY: each table is 16 bytes long, and the load asks for no alignment.
    let (low, high) = unsafe { (vld1q_u8(tables.low.as_ptr()), vld1q_u8(tables.high.as_ptr())) };
    let mask = vdupq_n_u8(15);
    let (inputs, input_rest) = input.as_chunks::<16>();
    let (outs, out_rest) = out.as_chunks_mut::<16>();
    for (input, out) in inputs.iter().zip(outs) {
        // SAFETY: `input` is 16 bytes long, and the load asks for no alignment.
        let bytes = unsafe { vld1q_u8(input.as_ptr()) };
        let mut product = veorq_u8(vqtbl1q_u8(low, vandq_u8(bytes, mask)), vqtbl1q_u8(high, vshrq_n_u8::<4>(bytes)));
        if ADD {
            // SAFETY: `out` is 16 bytes long, and the load asks for no alignment.
            product = veorq_u8(product, unsafe { vld1q_u8(out.as_ptr()) });
        }
        // SAFETY: `out` is 16 bytes long and ours alone, and the store asks for no alignment.
        unsafe { vst1q_u8(out.as_mut_ptr(), product) };
    }
    portable::run::<ADD>(tables, input_rest, out_rest);
}
