//! TLS with a pinned key (PROTOCOL 8.2): whoever proves to hold the key that the NURL names is the server.
//!
//! Servers present self-signed X.509 version 1 certificates that outlive their dates. Nothing in a certificate is
//! believed but its key; the handshake's signature is verified with exactly that key.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// ASN.1 tags that lead to the key.
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const EXPLICIT_VERSION: u8 = 0xa0;

/// A TLS client that accepts only who holds the key whose SubjectPublicKeyInfo hashes to `pin` (SHA-256).
pub(super) fn client(pin: [u8; 32]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pinned { pin, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// What a certificate says of its key: the whole SubjectPublicKeyInfo, and the key's bits in it.
struct Key<'a> {
    info: &'a [u8],
    bits: &'a [u8],
}

impl Pinned {
    /// The key of a certificate, if it is the pinned one.
    fn key<'a>(&self, certificate: &'a CertificateDer<'_>) -> Result<Key<'a>, Error> {
        let key = key_of(certificate).ok_or(CertificateError::BadEncoding)?;
        let hash: [u8; 32] = Sha256::digest(key.info).into();
        let same = bool::from(hash.ct_eq(&self.pin));
        if same { Ok(key) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !intermediates.is_empty() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.key(end_entity).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = self.key(certificate)?;
        let mapping = self.provider.signature_verification_algorithms.mapping;
        let algorithms = mapping.iter().find(|(scheme, _)| *scheme == signed.scheme).map_or(&[][..], |(_, a)| a);
        let valid = algorithms.iter().any(|a| a.verify_signature(key.bits, message, signed.signature()).is_ok());
        if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let info = SubjectPublicKeyInfoDer::from(self.key(certificate)?.info);
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &info, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// One DER element at the start of `input`: its tag, all of it, its content, and what follows.
struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    content: &'a [u8],
    rest: &'a [u8],
}

fn element(input: &[u8]) -> Option<Element<'_>> {
    let (&tag, after) = input.split_first()?;
    let (&first, after) = after.split_first()?;
    let (length, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81..=0x84 => {
            let (digits, after) = after.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0u64, |n, digit| n << 8 | u64::from(*digit));
            (usize::try_from(length).ok()?, after)
        }
        _ => return None,
    };
    let (content, rest) = after.split_at_checked(length)?;
    Some(Element { tag, whole: &input[..input.len() - rest.len()], content, rest })
}

/// The key in a certificate of any version: past the version, if there is one, serial number, algorithm, issuer,
/// validity and subject (RFC 5280, 4.1).
fn key_of(certificate: &[u8]) -> Option<Key<'_>> {
    let sequence = |input| element(input).filter(|e| e.tag == SEQUENCE);
    let mut at = sequence(sequence(certificate)?.content)?.content;
    if element(at)?.tag == EXPLICIT_VERSION {
        at = element(at)?.rest;
    }
    for _ in 0..5 {
        at = element(at)?.rest;
    }
    let info = sequence(at)?;
    let bits = element(element(info.content)?.rest).filter(|e| e.tag == BIT_STRING)?;
    // A bit string begins with how many bits of its last byte do not count: of a key all do.
    let bits = bits.content.strip_prefix(&[0])?;
    Some(Key { info: info.whole, bits })
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use proptest::prelude::*;

    use super::*;

    fn certificate() -> Vec<u8> {
        let recorded: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/gbs.json")).expect("JSON");
        BASE64.decode(recorded["tls"]["certificate"]["der_b64"].as_str().expect("text").as_bytes()).expect("base64")
    }

    fn pinned(info: &[u8]) -> Pinned {
        Pinned { pin: Sha256::digest(info).into(), provider: Arc::new(rustls::crypto::ring::default_provider()) }
    }

    #[test]
    fn the_key_of_a_version_1_certificate_is_found() {
        let recorded: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/gbs.json")).expect("JSON");
        let der = certificate();
        let hash = data_encoding::BASE64URL_NOPAD.encode(&Sha256::digest(key_of(&der).unwrap().info));
        let expected = &recorded["tls"]["certificate"]["spki_sha256_base64url"];
        assert_eq!(Some(hash.as_str()), expected.as_str());
    }

    #[test]
    fn the_key_of_a_version_3_certificate_is_found() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec!["name".into()]).unwrap().self_signed(&key).unwrap();
        assert_eq!(key_of(made.der()).unwrap().info, rcgen::PublicKeyData::subject_public_key_info(&key));
    }

    proptest! {
        #[test]
        fn hostile_certificates_are_refused(at in 0usize..700, byte: u8, cut in 0usize..700) {
            let original = certificate();
            let key = key_of(&original).unwrap().info;
            let begins = original.windows(key.len()).position(|w| w == key).unwrap();
            let mut der = original.clone();
            der[at % original.len()] = byte;
            der.truncate(original.len() - cut % original.len());
            // Nothing but the pinned key is accepted, wherever the certificate was changed.
            let same_key = der.get(begins..begins + key.len()) == Some(key);
            match pinned(key).key(&CertificateDer::from(der.as_slice())) {
                Ok(found) => prop_assert!(same_key && found.info == key),
                Err(_) => prop_assert_ne!(der, original),
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(pinned(b"another key").key(&CertificateDer::from(bytes)).is_err());
        }
    }
}
