//! Authenticated encryption of local records: XChaCha20-Poly1305.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::util::Rng;

/// Bytes of a nonce. Random ones do not repeat at this length.
const NONCE: usize = 24;
/// Bytes of a tag.
const TAG: usize = 16;

/// Seals and opens records under one key.
pub struct Sealer(XChaCha20Poly1305);

impl Sealer {
    /// How much longer than its content a sealed record is, in bytes.
    pub const OVERHEAD: usize = NONCE + TAG;

    /// A sealer under `key`.
    pub fn new(key: &[u8; 32]) -> Sealer {
        Sealer(XChaCha20Poly1305::new(key.into()))
    }

    /// `nonce || ciphertext || tag` of `content`, bound to `place`: it opens nowhere else.
    pub fn seal(&self, rng: &Rng, place: &[u8], content: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = rng.bytes();
        let payload = Payload { msg: content, aad: place };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).expect("a record is far below the cipher's limit");
        let mut out = Vec::with_capacity(NONCE + sealed.len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out
    }

    /// What was sealed at `place`; `None` when this is not exactly that, or the key is another.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload { msg: sealed, aad: place };
        self.0.decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn opens_the_example_of_the_xchacha_draft() {
        let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
        let mut sealed: Vec<u8> = (0x40..0x58).collect();
        sealed.extend(
            HEXLOWER
                .decode(
                    concat!(
                        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb",
                        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452",
                        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9",
                        "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
                    )
                    .as_bytes(),
                )
                .unwrap(),
        );
        let place = HEXLOWER.decode(b"50515253c0c1c2c3c4c5c6c7").unwrap();
        let opened = Sealer::new(&key).open(&place, &sealed).unwrap();
        assert!(opened.starts_with(b"Ladies and Gentlemen of the class of '99"));
    }

    #[test]
    fn opens_only_what_it_sealed_and_only_in_its_place() {
        let (sealer, rng) = (Sealer::new(&[7; 32]), Rng::seeded(1));
        let sealed = sealer.seal(&rng, b"here", b"content");
        assert_eq!(sealed.len(), 7 + Sealer::OVERHEAD);
        assert_eq!(sealer.open(b"here", &sealed).as_deref().map(Vec::as_slice), Some(&b"content"[..]));
        assert!(sealer.open(b"there", &sealed).is_none());
        assert!(Sealer::new(&[8; 32]).open(b"here", &sealed).is_none());
        assert_ne!(sealer.seal(&rng, b"here", b"content"), sealed);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(sealer.open(b"here", &bad).is_none());
            assert!(sealer.open(b"here", &sealed[..at]).is_none());
        }
    }
}
