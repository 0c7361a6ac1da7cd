//! A directory's table: names and children.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::{Attributes, Metadata};
use crate::cap::Cap;
use crate::crypto::hash::sha256d;
use crate::util::base32;

/// A child's name, in NFC. Any text: slashes, NULs and emptiness occur.
pub type Name = Arc<str>;

/// The NFC form of `name`, under which a child is stored and found.
pub fn normalize(name: &str) -> Name {
    if is_nfc(name) { name.into() } else { name.nfc().collect::<String>().into() }
}

/// Bytes of the hash in names that are marked with one.
const MARKS: [usize; 4] = [5, 10, 20, 30];

/// The names on the grid that one given may have, in the order in which they are taken: the NFC form, unless the bytes are no
/// text; then what can be read of them, with a hash of them all before the extension. A further one is taken where
/// those before belong to others, which have the same NFC form. So different bytes stay different names.
pub fn names_of(given: &[u8]) -> impl Iterator<Item = Name> {
    let plain = str::from_utf8(given).ok().map(normalize);
    // Most names need none.
    let mut hash = None;
    let marked = MARKS.into_iter().map(move |length| {
        let hash = hash.get_or_insert_with(|| sha256d(given));
        let text = String::from_utf8_lossy(given);
        let dot = text.rfind('.').filter(|dot| *dot > 0).unwrap_or(text.len());
        normalize(&format!("{}~{}{}", &text[..dot], base32::encode(&hash[..length]), &text[dot..]))
    });
    plain.into_iter().chain(marked)
}

/// Whether `given` may stand under the name `edge` on the grid.
pub fn may_be_named(given: &[u8], edge: &str) -> bool {
    names_of(given).any(|name| *name == *edge)
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

impl Table {
    /// The entry that was made with the name `given`.
    pub fn made_as(&self, given: &[u8]) -> Option<(Name, &Child)> {
        names_of(given).find_map(|name| {
            let child = self.entries.get(&name)?;
            let own = Attributes::of(&name, child).name;
            (own.as_deref().unwrap_or(name.as_bytes()) == given).then_some((name, child))
        })
    }

    /// The entry that somebody means who says `name`: the one made with that name, else the one of its NFC form.
    pub fn meant(&self, name: &str) -> Option<(Name, &Child)> {
        self.made_as(name.as_bytes()).or_else(|| {
            let name = normalize(name);
            self.entries.get(&name).map(|child| (name, child))
        })
    }
}
