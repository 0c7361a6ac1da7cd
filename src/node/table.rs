//! A directory's table: names and children.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::Metadata;
use crate::cap::Cap;
use crate::crypto::hash::sha256d;
use crate::util::base32;

/// A child's name, in NFC. Any text: slashes, NULs and emptiness occur.
pub type Name = Arc<str>;

/// The NFC form of `name`, under which a child is stored and found.
pub fn normalize(name: &str) -> Name {
    if is_nfc(name) { name.into() } else { name.nfc().collect::<String>().into() }
}

/// The name on the grid for one that was given. Of bytes that are no text it holds what can be read of them, and a hash
/// of them all before the extension, so that different bytes stay different names.
pub fn name_of(given: &[u8]) -> Name {
    if let Ok(text) = str::from_utf8(given) {
        return normalize(text);
    }
    let text = String::from_utf8_lossy(given);
    let dot = text.rfind('.').filter(|dot| *dot > 0).unwrap_or(text.len());
    normalize(&format!("{}~{}{}", &text[..dot], base32::encode(&sha256d(given)[..5]), &text[dot..]))
}

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct Child {
    /// The strongest cap that the directory's own cap reveals.
    pub cap: Cap,
    /// Its metadata.
    pub metadata: Metadata,
    /// The entry as it was stored, copied verbatim when the directory is rewritten; `None` once it is changed.
    pub packed: Option<Bytes>,
}

/// A version of a directory.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Tells versions apart; empty for immutable directories.
    pub version: Bytes,
    /// Children by name, in code point order.
    pub entries: BTreeMap<Name, Child>,
}
