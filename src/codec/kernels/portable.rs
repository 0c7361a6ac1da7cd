//! The kernel for every CPU, and the last bytes of the others.

use super::NibbleTables;

/// `out = factor * input`, or `out += factor * input` where `ADD`; the slices have the same length.
pub fn run<const ADD: bool>(tables: &NibbleTables, input: &[u8], out: &mut [u8]) {
    for (&byte, out) in input.iter().zip(out) {
        let product = tables.low[usize::from(byte & 15)] ^ tables.high[usize::from(byte >> 4)];
        *out = if ADD { *out ^ product } else { product };
    }
}
