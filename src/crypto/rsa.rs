//! RSA-2048 keys of mutable files and their PSS signatures (PROTOCOL 1.5).

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use rsa::pss;
use rsa::signature::{RandomizedSigner, SignatureEncoding, Verifier};
use rsa::traits::PublicKeyParts;
use rsa::{RsaPrivateKey, RsaPublicKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::util::Rng;

/// The one size of key that mutable files have.
const MODULUS_BITS: u32 = 2048;
/// The one length of PSS salt, in bytes.
const SALT_LENGTH: usize = 32;
/// No key of this size is nearly as long as this, in bytes; what is longer is refused before it is parsed.
const DER_LIMIT: usize = 4096;

/// A key could not be loaded: the text says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unusable RSA key: {0}")]
pub struct BadKey(pub &'static str);

/// Our randomness as the `rsa` crate asks for it.
struct CrateRng<'a>(&'a Rng);

impl rand_core::TryRng for CrateRng<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.0.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.0.bytes()))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for CrateRng<'_> {}

struct SigningInner {
    signer: pss::SigningKey<Sha256>,
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
}

/// The private key of a mutable file. Keeps the exact PKCS#8 bytes, because the write key is their hash.
///
/// Clones share one key, which is zeroized when the last of them is dropped.
#[derive(Clone)]
pub struct SigningKey(Arc<SigningInner>);

impl SigningKey {
    /// A fresh 2048-bit key. Takes tens of milliseconds of CPU: run it on [`crate::util::Cpu`].
    pub fn generate(rng: &Rng) -> SigningKey {
        let key = RsaPrivateKey::new(&mut CrateRng(rng), MODULUS_BITS as usize).expect("2048 bits make an RSA key");
        let pkcs8 = key.to_pkcs8_der().expect("a fresh RSA key has a PKCS#8 form").to_bytes();
        SigningKey::with_exact_der(key, pkcs8).expect("a fresh RSA key has an SPKI form")
    }

    /// Loads unencrypted PKCS#8 DER.
    ///
    /// # Errors
    /// [`BadKey`] when it is not that, is no RSA key whose parts fit together, or has any size but 2048 bits.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<SigningKey, BadKey> {
        if der.len() > DER_LIMIT {
            return Err(BadKey("too long for a 2048-bit key"));
        }
        let key = RsaPrivateKey::from_pkcs8_der(der).map_err(|_| BadKey("not the PKCS#8 form of an RSA key"))?;
        if key.n().bits() != MODULUS_BITS {
            return Err(BadKey("not 2048 bits"));
        }
        let key = SigningKey::with_exact_der(key, Zeroizing::new(der.to_vec()))?;
        if key.signs() { Ok(key) } else { Err(BadKey("it does not sign")) }
    }

    fn with_exact_der(key: RsaPrivateKey, pkcs8: Zeroizing<Vec<u8>>) -> Result<SigningKey, BadKey> {
        let public = key.to_public_key();
        let spki = public.to_public_key_der().map_err(|_| BadKey("no SPKI form"))?.into_vec();
        let signer = pss::SigningKey::new_with_salt_len(key, SALT_LENGTH);
        Ok(SigningKey(Arc::new(SigningInner { signer, pkcs8, spki })))
    }

    /// Whether a trial signature comes out: the parts of a forged key may fit together although its primes are none.
    fn signs(&self) -> bool {
        self.0.signer.try_sign_with_rng(&mut CrateRng(&Rng::os()), b"").is_ok()
    }

    /// The exact PKCS#8 bytes.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.0.pkcs8
    }

    /// The public key as SubjectPublicKeyInfo DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.0.spki
    }

    /// Signs with PSS, SHA-256, a salt of 32 bytes; the exponentiation is blinded. Takes milliseconds of CPU.
    ///
    /// 256 bytes; none when a forged key that passed all checks at loading fails here, and nothing verifies then.
    pub fn sign(&self, rng: &Rng, message: &[u8]) -> Vec<u8> {
        let signature = self.0.signer.try_sign_with_rng(&mut CrateRng(rng), message);
        signature.map_or_else(|_| Vec::new(), |s| s.to_bytes().into_vec())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// The public key of a mutable file.
#[derive(Clone)]
pub struct VerifyKey(Arc<pss::VerifyingKey<Sha256>>);

impl VerifyKey {
    /// Loads SubjectPublicKeyInfo DER.
    ///
    /// # Errors
    /// [`BadKey`] when it is not that, or has any size but 2048 bits.
    pub fn from_spki_der(der: &[u8]) -> Result<VerifyKey, BadKey> {
        if der.len() > DER_LIMIT {
            return Err(BadKey("too long for a 2048-bit key"));
        }
        let key = RsaPublicKey::from_public_key_der(der).map_err(|_| BadKey("not the SPKI form of an RSA key"))?;
        if key.n().bits() != MODULUS_BITS {
            return Err(BadKey("not 2048 bits"));
        }
        Ok(VerifyKey(Arc::new(pss::VerifyingKey::new_with_salt_len(key, SALT_LENGTH))))
    }

    /// Whether `signature` signs `message`, with a PSS salt of exactly 32 bytes.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        pss::Signature::try_from(signature).is_ok_and(|s| self.0.verify(message, &s).is_ok())
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyKey(2048 bits)")
    }
}
