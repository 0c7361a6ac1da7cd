//! RSA-2048 keys of mutable files and their PSS signatures (PROTOCOL 1.5).

use crate::util::Rng;

/// A key could not be loaded: the text says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unusable RSA key: {0}")]
pub struct BadKey(pub &'static str);

/// The private key of a mutable file. Keeps the exact PKCS#8 bytes, because the write key is their hash.
#[derive(Clone)]
pub struct SigningKey {}

impl SigningKey {
    /// A fresh 2048-bit key. Takes tens of milliseconds of CPU: run it on [`crate::util::Cpu`].
    pub fn generate(rng: &Rng) -> SigningKey {
        let _ = rng;
        unimplemented!()
    }

    /// Loads unencrypted PKCS#8 DER; any size but 2048 bits is refused.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<SigningKey, BadKey> {
        let _ = der;
        unimplemented!()
    }

    /// The exact PKCS#8 bytes.
    pub fn pkcs8_der(&self) -> &[u8] {
        unimplemented!()
    }

    /// The public key as SubjectPublicKeyInfo DER.
    pub fn spki_der(&self) -> &[u8] {
        unimplemented!()
    }

    /// Signs with PSS, SHA-256, a salt of 32 bytes.
    pub fn sign(&self, rng: &Rng, message: &[u8]) -> Vec<u8> {
        let _ = (rng, message);
        unimplemented!()
    }
}

/// The public key of a mutable file.
#[derive(Clone)]
pub struct VerifyKey {}

impl VerifyKey {
    /// Loads SubjectPublicKeyInfo DER.
    pub fn from_spki_der(der: &[u8]) -> Result<VerifyKey, BadKey> {
        let _ = der;
        unimplemented!()
    }

    /// Whether `signature` signs `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let _ = (message, signature);
        unimplemented!()
    }
}
