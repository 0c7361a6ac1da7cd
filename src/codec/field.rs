//! The field in which zfec computes, in the shape that reed-solomon-erasure asks for.

use reed_solomon_erasure::{Field, galois_8};

use super::kernels::Kernel;

/// GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 with the points of zfec: share 0 sits at 0, share n at 2^(n-1)
/// (PROTOCOL section 4). The points decide the code, so two codes over one field agree only if these do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ZfecField;

impl Field for ZfecField {
    const ORDER: usize = 256;

    type Elem = u8;

    fn add(a: u8, b: u8) -> u8 {
        galois_8::add(a, b)
    }

    fn mul(a: u8, b: u8) -> u8 {
        galois_8::mul(a, b)
    }

    fn div(a: u8, b: u8) -> u8 {
        galois_8::div(a, b)
    }

    fn exp(a: u8, n: usize) -> u8 {
        galois_8::exp(a, n)
    }

    fn zero() -> u8 {
        0
    }

    fn one() -> u8 {
        1
    }

    fn nth_internal(n: usize) -> u8 {
        match n {
            0 => 0,
            _ => galois_8::exp(2, n - 1),
        }
    }

    fn mul_slice(elem: u8, input: &[u8], out: &mut [u8]) {
        Kernel::best().multiply(elem, input, out);
    }

    fn mul_slice_add(elem: u8, input: &[u8], out: &mut [u8]) {
        Kernel::best().multiply_add(elem, input, out);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_points_are_zero_and_the_powers_of_two() {
        let points: Vec<u8> = (0..256).map(ZfecField::nth).collect();
        assert_eq!(points[..10], [0, 1, 2, 4, 8, 16, 32, 64, 128, 0x1d]);
        assert_eq!(points.iter().collect::<HashSet<_>>().len(), 256);
    }

    #[test]
    fn slices_are_multiplied_as_elements_are() {
        let input: Vec<u8> = (0..=255).collect();
        for factor in 0..=255 {
            let mut out = vec![0xa5; 256];
            ZfecField::mul_slice(factor, &input, &mut out);
            assert!(input.iter().zip(&out).all(|(&i, &o)| o == ZfecField::mul(factor, i)));
            ZfecField::mul_slice_add(factor, &[1; 256], &mut out);
            assert!(input.iter().zip(&out).all(|(&i, &o)| o == ZfecField::mul(factor, i) ^ factor));
        }
    }
}
