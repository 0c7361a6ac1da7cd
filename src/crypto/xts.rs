//! AES-128-XTS (IEEE 1619) over the units of a file that is rewritten in place.
//!
//! It hides content and needs no room of its own; it does not tell whether somebody has changed it.

use aes::Aes128;
use aes::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

/// Bytes of a cipher block.
const BLOCK: usize = 16;

/// Encrypts and decrypts a file unit by unit.
pub struct Xts {
    blocks: Aes128,
    tweaks: Aes128,
}

impl Xts {
    /// Bytes of a unit.
    pub const UNIT: usize = 4096;

    /// Under `key`: its first half encrypts blocks, its second half tweaks.
    pub fn new(key: &[u8; 32]) -> Xts {
        let (blocks, tweaks) = key.split_at(16);
        let cipher = |half: &[u8]| Aes128::new_from_slice(half).expect("half of the key is a key of this cipher");
        Xts { blocks: cipher(blocks), tweaks: cipher(tweaks) }
    }

    /// Encrypts whole units in place; `first` is the index of the first in its file.
    ///
    /// # Panics
    /// When there is anything but whole blocks.
    pub fn encrypt(&self, units: &mut [u8], first: u64) {
        self.each_unit(units, first, |blocks| self.blocks.encrypt_blocks(blocks));
    }

    /// The inverse of [`Xts::encrypt`].
    ///
    /// # Panics
    /// When there is anything but whole blocks.
    pub fn decrypt(&self, units: &mut [u8], first: u64) {
        self.each_unit(units, first, |blocks| self.blocks.decrypt_blocks(blocks));
    }

    fn each_unit(&self, units: &mut [u8], first: u64, cipher: impl Fn(&mut [Block<Aes128>])) {
        assert_eq!(units.len() % BLOCK, 0, "units are whole blocks");
        for (unit, index) in units.chunks_mut(Self::UNIT).zip(first..) {
            let mut tweak = Block::<Aes128>::from(u128::from(index).to_le_bytes());
            self.tweaks.encrypt_block(&mut tweak);
            let mut tweaks = [0; Self::UNIT / BLOCK];
            let mut next = u128::from_le_bytes(tweak.into());
            for tweak in &mut tweaks {
                *tweak = next;
                // Times x in GF(2^128), modulo x^128 + x^7 + x^2 + x + 1.
                next = (next << 1) ^ ((next >> 127) * 0x87);
            }
            let (blocks, _) = Block::<Aes128>::slice_as_chunks_mut(unit);
            mask(blocks, &tweaks);
            cipher(blocks);
            mask(blocks, &tweaks);
        }
    }
}

fn mask(blocks: &mut [Block<Aes128>], tweaks: &[u128]) {
    for (block, tweak) in blocks.iter_mut().zip(tweaks) {
        block.0 = (u128::from_le_bytes(block.0) ^ tweak).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn agrees_with_the_examples_of_ieee_1619() {
        let mut data = [0; 32];
        Xts::new(&[0; 32]).encrypt(&mut data, 0);
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
    fn agrees_with_another_implementation_over_whole_units() {
        let key: [u8; 32] = std::array::from_fn(|i| (i * 37 + 11) as u8);
        let cipher = |half: &[u8]| Aes128::new_from_slice(half).unwrap();
        let other = xts_mode::Xts128::new(cipher(&key[..16]), cipher(&key[16..]));
        for first in [0, 1, 0x0102_0304_0506, 1 << 51] {
            let plain: Vec<u8> = (0..2 * Xts::UNIT as u64).map(|i| (i * i).wrapping_add(first) as u8).collect();
            let (mut ours, mut theirs) = (plain.clone(), plain.clone());
            Xts::new(&key).encrypt(&mut ours, first);
            other.encrypt_area(&mut theirs, Xts::UNIT, first.into(), xts_mode::get_tweak_default);
            assert!(ours == theirs, "at {first}");
            Xts::new(&key).decrypt(&mut ours, first);
            assert!(ours == plain);
        }
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
