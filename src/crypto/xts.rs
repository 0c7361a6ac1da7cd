//! AES-128-XTS (IEEE 1619) over the units of a file that is rewritten in place.
//!
//! It hides content and needs no room of its own; it does not tell whether somebody has changed it.

use aes::Aes128;
use aes::cipher::KeyInit;
use xts_mode::{Xts128, get_tweak_default};

/// Encrypts and decrypts a file unit by unit.
pub struct Xts(Xts128<Aes128>);

impl Xts {
    /// Bytes of a unit.
    pub const UNIT: usize = 4096;

    /// Under `key`: its first half encrypts blocks, its second half the tweak.
    pub fn new(key: &[u8; 32]) -> Xts {
        let (blocks, tweak) = key.split_at(16);
        let cipher = |half: &[u8]| Aes128::new_from_slice(half).expect("half of the key is a key of this cipher");
        Xts(Xts128::new(cipher(blocks), cipher(tweak)))
    }

    /// Encrypts whole units in place; `first` is the index of the first in its file.
    pub fn encrypt(&self, units: &mut [u8], first: u64) {
        self.0.encrypt_area(units, Self::UNIT, first.into(), get_tweak_default);
    }

    /// The inverse of [`Xts::encrypt`].
    pub fn decrypt(&self, units: &mut [u8], first: u64) {
        self.0.decrypt_area(units, Self::UNIT, first.into(), get_tweak_default);
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn agrees_with_the_examples_of_ieee_1619() {
        let xts = Xts::new(&[0; 32]);
        let mut data = [0; 32];
        xts.encrypt(&mut data, 0);
        let expected = "917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e";
        assert_eq!(HEXLOWER.encode(&data), expected);

        let mut key = [0x11; 32];
        key[16..].fill(0x22);
        let mut data = [0x44; 32];
        Xts::new(&key).encrypt(&mut data, 0x33_3333_3333);
        let expected = "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0";
        assert_eq!(HEXLOWER.encode(&data), expected);
    }

    #[test]
    fn each_unit_has_its_own_ciphertext() {
        let xts = Xts::new(&[3; 32]);
        let mut data = vec![9; 3 * Xts::UNIT];
        xts.encrypt(&mut data, 7);
        assert_ne!(data[..Xts::UNIT], data[Xts::UNIT..2 * Xts::UNIT]);
        xts.decrypt(&mut data[Xts::UNIT..2 * Xts::UNIT], 8);
        assert!(data[Xts::UNIT..2 * Xts::UNIT].iter().all(|b| *b == 9));
    }
}
