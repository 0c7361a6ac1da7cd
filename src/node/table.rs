//! A directory's table: names and children.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::Metadata;
use crate::cap::Cap;

/// A child's name, in NFC. Any text: slashes, NULs and emptiness occur.
pub type Name = Arc<str>;

/// The NFC form of `name`, under which a child is stored and found.
pub fn normalize(name: &str) -> Name {
    if is_nfc(name) { name.into() } else { name.nfc().collect::<String>().into() }
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
