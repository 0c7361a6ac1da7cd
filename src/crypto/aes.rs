//! AES-128-CTR with seek (PROTOCOL 1.4).

use ctr::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

/// An AES-128-CTR keystream whose counter block starts at zero.
pub struct AesCtr(ctr::Ctr128BE<aes::Aes128>);

impl AesCtr {
    /// The keystream of `key`, at its beginning.
    pub fn new(key: &[u8; 16]) -> AesCtr {
        AesCtr(ctr::Ctr128BE::new(key.into(), &[0; 16].into()))
    }

    /// Moves to byte `offset` of the keystream.
    pub fn seek(&mut self, offset: u64) {
        self.0.seek(offset);
    }

    /// Encrypts or decrypts `data` in place and moves on by its length.
    pub fn apply(&mut self, data: &mut [u8]) {
        self.0.apply_keystream(data);
    }
}
