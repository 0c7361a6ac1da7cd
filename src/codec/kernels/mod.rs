//! Multiplying a slice by an element of the field: the inner loop of all coding.
//!
//! A product is linear in its input, so `factor * byte` is the sum of `factor * (byte & 15)` and
//! `factor * (byte & 240)`: two lookups in tables of 16 entries, which is what byte shuffles do for a whole vector.
//! Every kernel gives the same bytes; which ones the CPU can run is found out at run time.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

/// The products of one factor with every low nibble (0..=15) and with every high one (0, 16, .. 240).
pub(super) struct NibbleTables {
    low: [u8; 16],
    high: [u8; 16],
}

/// [`NibbleTables`] by factor.
static TABLES: [NibbleTables; 256] = {
    let mut all = [const { NibbleTables { low: [0; 16], high: [0; 16] } }; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            all[factor].low[nibble] = product(factor as u8, nibble as u8);
            all[factor].high[nibble] = product(factor as u8, (nibble as u8) << 4);
            nibble += 1;
        }
        factor += 1;
    }
    all
};

/// `a * b` in GF(2^8) modulo 0x11d, bit by bit.
const fn product(mut a: u8, mut b: u8) -> u8 {
    let mut sum = 0;
    while b != 0 {
        if b & 1 == 1 {
            sum ^= a;
        }
        a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1d };
        b >>= 1;
    }
    sum
}

/// A way of multiplying slices that this CPU can run: none is ever made that it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Ssse3,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Kernel {
    /// The fastest one here.
    pub fn best() -> Kernel {
        static BEST: LazyLock<Kernel> = LazyLock::new(|| Kernel::all()[0]);
        *BEST
    }

    /// All that run here, the fastest first and the portable one last.
    fn all() -> Vec<Kernel> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                all.push(Kernel(Isa::Avx2));
            }
            if is_x86_feature_detected!("ssse3") {
                all.push(Kernel(Isa::Ssse3));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Kernel(Isa::Neon));
        }
        all.push(Kernel(Isa::Portable));
        all
    }

    /// `out = factor * input`. Panics if the lengths differ.
    pub fn multiply(self, factor: u8, input: &[u8], out: &mut [u8]) {
        self.run::<false>(factor, input, out);
    }

    /// `out += factor * input`. Panics if the lengths differ.
    pub fn multiply_add(self, factor: u8, input: &[u8], out: &mut [u8]) {
        self.run::<true>(factor, input, out);
    }

    fn run<const ADD: bool>(self, factor: u8, input: &[u8], out: &mut [u8]) {
        assert_eq!(input.len(), out.len());
        let tables = &TABLES[usize::from(factor)];
        match self.0 {
            // SAFETY: the kernel exists, so the CPU has AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::avx2::<ADD>(tables, input, out) },
            // SAFETY: the kernel exists, so the CPU has SSSE3.
            #[cfg(target_arch = "x86_64")]
            Isa::Ssse3 => unsafe { x86::ssse3::<ADD>(tables, input, out) },
            // SAFETY: the kernel exists, so the CPU has NEON.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::neon::<ADD>(tables, input, out) },
            Isa::Portable => portable::run::<ADD>(tables, input, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes without a pattern that a wrong offset would keep.
    fn noise(len: usize, seed: u32) -> Vec<u8> {
        let mut state = seed | 1;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    /// Runs `kernel` inside larger buffers, from the offsets given, and compares with element products; what lies
    /// around the output must stay.
    fn check(kernel: Kernel, factor: u8, input: &[u8], out: &[u8], (from, to, len): (usize, usize, usize)) {
        let expected = |add: bool| -> Vec<u8> {
            let mut all = out.to_vec();
            for i in 0..len {
                let product = product(factor, input[from + i]);
                all[to + i] = if add { all[to + i] ^ product } else { product };
            }
            all
        };
        let mut set = out.to_vec();
        kernel.multiply(factor, &input[from..from + len], &mut set[to..to + len]);
        assert_eq!(set, expected(false), "{kernel:?} {factor} {from} {to} {len}");
        let mut added = out.to_vec();
        kernel.multiply_add(factor, &input[from..from + len], &mut added[to..to + len]);
        assert_eq!(added, expected(true), "{kernel:?} {factor} {from} {to} {len}");
    }

    #[test]
    fn the_tables_hold_the_field() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let tables = &TABLES[usize::from(a)];
                let looked_up = tables.low[usize::from(b & 15)] ^ tables.high[usize::from(b >> 4)];
                assert_eq!(looked_up, reed_solomon_erasure::galois_8::mul(a, b));
                assert_eq!(looked_up, product(a, b));
            }
        }
    }

    #[test]
    fn every_kernel_at_every_length_and_alignment() {
        let (input, out) = (noise(256, 1), noise(256, 2));
        for kernel in Kernel::all() {
            for len in 0..=130 {
                for offset in 0..32 {
                    check(kernel, 0x8e, &input, &out, (offset, 0, len));
                    check(kernel, 0x8e, &input, &out, (0, offset, len));
                }
            }
        }
    }

    #[test]
    fn every_kernel_with_every_factor_and_byte() {
        let (input, out): (Vec<u8>, _) = ((0..=255).collect(), noise(256, 3));
        for kernel in Kernel::all() {
            for factor in 0..=255 {
                check(kernel, factor, &input, &out, (0, 0, 256));
            }
        }
    }

    #[test]
    fn the_portable_kernel_is_always_there_and_last() {
        assert_eq!(Kernel::all().last(), Some(&Kernel(Isa::Portable)));
        assert_eq!(Kernel::best(), Kernel::all()[0]);
    }

    #[test]
    #[should_panic(expected = "left == right")]
    fn lengths_that_differ_are_refused() {
        Kernel::best().multiply(1, &[0; 33], &mut [0; 32]);
    }

    proptest! {
        #[test]
        fn kernels_agree_with_the_portable_one(
            factor: u8,
            input in prop::collection::vec(any::<u8>(), 0..3000),
            (from, to) in (0usize..64, 0usize..64),
            seed: u32,
        ) {
            let from = from.min(input.len());
            let input = &input[from..];
            let before = noise(to + input.len(), seed);
            let mut set = before.clone();
            let mut added = before.clone();
            Kernel(Isa::Portable).multiply(factor, input, &mut set[to..]);
            Kernel(Isa::Portable).multiply_add(factor, input, &mut added[to..]);
            for kernel in Kernel::all() {
                let mut out = before.clone();
                kernel.multiply(factor, input, &mut out[to..]);
                prop_assert_eq!(&out, &set);
                let mut out = before.clone();
                kernel.multiply_add(factor, input, &mut out[to..]);
                prop_assert_eq!(&out, &added);
            }
        }
    }
}
