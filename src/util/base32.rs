//! Tahoe's base32: RFC 4648's alphabet in lower case, without padding (PROTOCOL 1.1).

use data_encoding::{Encoding, Specification};
use std::sync::LazyLock;

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    spec.encoding().expect("thirty-two distinct symbols make an encoding")
});

/// The text is not base32 as caps write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not base32: a wrong character, length or last character")]
pub struct NotBase32;

/// Encodes `bytes`; ceil(8n/5) characters.
pub fn encode(bytes: &[u8]) -> String {
    BASE32.encode(bytes)
}

/// Decodes `text`, as strictly as the cap grammar: lower case, a possible length, unused low bits zero.
pub fn decode(text: &str) -> Result<Vec<u8>, NotBase32> {
    BASE32.decode(text.as_bytes()).map_err(|_| NotBase32)
}

/// Decodes `text` into exactly `N` bytes.
pub fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], NotBase32> {
    decode(text)?.try_into().map_err(|_| NotBase32)
}
