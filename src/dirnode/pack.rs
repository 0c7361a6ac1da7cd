//! The packed table: what a directory's file holds (PROTOCOL 7).

use std::collections::BTreeMap;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::cap::{Cap, CapError};
use crate::crypto::secrets::{child_cap_key, child_cap_salt, dirnode_mac};
use crate::crypto::{AesCtr, WriteKey};
use crate::node::{Child, Metadata, Name, normalize};
use crate::util::netstring;

const SALT_LEN: usize = 16;
const MAC_LEN: usize = 32;

/// With what authority a table is read and written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Through the write cap: children's write caps are seen.
    Write(WriteKey),
    /// Through the read cap of a mutable directory.
    Read,
    /// In an immutable directory, which holds deeply immutable children alone.
    Immutable,
}

/// Why bytes are no directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    /// The bytes are not a sequence of entries.
    #[error("the directory's table is cut short or malformed")]
    Framing,
    /// A name is not UTF-8.
    #[error("a name in the directory is not UTF-8")]
    Name,
    /// An entry's metadata is not a JSON object.
    #[error("an entry's metadata is not a JSON object")]
    Metadata,
    /// An entry of an immutable directory has bytes where write caps stand.
    #[error("an entry of an immutable directory holds a write capability")]
    WriteCapInImmutable,
}

impl From<netstring::NotNetstring> for BadTable {
    fn from(_: netstring::NotNetstring) -> BadTable {
        BadTable::Framing
    }
}

/// A parsed table.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// What callers see.
    pub shown: BTreeMap<Name, Child>,
    /// Entries whose caps break the rules of their place: not shown, and kept as they are when the table is rewritten.
    pub hidden: Vec<(Name, Child)>,
}

/// Parses a table. Entries are slices of `content`, not copies.
///
/// Names are normalised; where two become equal the later entry wins. A table with one malformed entry is no table.
pub fn parse(content: &Bytes, access: &Access) -> Result<Entries, BadTable> {
    let mut entries = Entries::default();
    let mut rest: &[u8] = content;
    while !rest.is_empty() {
        let (entry, after) = netstring::split(rest)?;
        let packed = content.slice_ref(&rest[..rest.len() - after.len()]);
        rest = after;
        let (name, child) = parse_entry(entry, packed, access)?;
        match &child.cap {
            Cap::Unknown(unknown) if unknown.error.is_some() => entries.hidden.push((name, child)),
            _ => drop(entries.shown.insert(name, child)),
        }
    }
    Ok(entries)
}

fn parse_entry(entry: &[u8], packed: Bytes, access: &Access) -> Result<(Name, Child), BadTable> {
    let (name, rest) = netstring::split(entry)?;
    let (ro, rest) = netstring::split(rest)?;
    let (rw_data, rest) = netstring::split(rest)?;
    let (metadata, _) = netstring::split(rest)?;
    let name = normalize(std::str::from_utf8(name).map_err(|_| BadTable::Name)?);
    let metadata = Metadata::parse(metadata).map_err(|_| BadTable::Metadata)?;
    let rw = match access {
        Access::Write(key) => decrypt_rw(rw_data, key),
        Access::Read => None,
        Access::Immutable if rw_data.is_empty() => None,
        Access::Immutable => return Err(BadTable::WriteCapInImmutable),
    };
    let cap = match (slot(ro), rw.as_deref().map(|rw| slot(rw)).transpose()) {
        (Ok(ro), Ok(rw)) => Cap::from_slots(rw.flatten(), ro, *access == Access::Immutable),
        _ => not_text(),
    };
    // A write cap in the read-only slot is honoured only for those who may see write caps.
    let cap = if *access == Access::Read { cap.readonly() } else { cap };
    Ok((name, Child { cap, metadata, packed: Some(packed) }))
}

/// A cap slot's text without trailing spaces; `None` when empty.
fn slot(bytes: &[u8]) -> Result<Option<&str>, std::str::Utf8Error> {
    let text = std::str::from_utf8(bytes)?.trim_end_matches(' ');
    Ok(Some(text).filter(|t| !t.is_empty()))
}

/// What stands for caps that are not even text.
fn not_text() -> Cap {
    let error = CapError::Malformed { kind: "unknown", why: "not text" };
    Cap::Unknown(crate::cap::UnknownCap { rw: None, ro: None, error: Some(error) })
}

/// One entry, as it is stored.
///
/// Fails when the child may not stand there: an unknown cap that breaks a rule, or in an immutable directory one that
/// is not deeply immutable.
pub fn pack_entry(name: &str, cap: &Cap, metadata: &Metadata, access: &Access) -> Result<Vec<u8>, CapError> {
    let deep = *access == Access::Immutable;
    cap.may_be_child(deep)?;
    let (rw, ro) = cap.child_uris(deep);
    let rw = rw.map(Zeroizing::new);
    let mut entry = Vec::new();
    netstring::push(&mut entry, name.as_bytes());
    netstring::push(&mut entry, ro.unwrap_or_default().as_bytes());
    let rw_data = match access {
        Access::Write(key) => encrypt_rw(rw.as_deref().map_or("", String::as_str), key),
        Access::Read | Access::Immutable => Vec::new(),
    };
    netstring::push(&mut entry, &rw_data);
    netstring::push(&mut entry, &metadata.to_json());
    Ok(netstring::encode(&entry))
}

/// Writes the table, sorted by name; children that still have their packed form are copied as they were.
///
/// Afterwards every child's packed form is its slice of the result, so that the old table's memory can go.
pub fn pack(entries: &mut Entries, access: &Access) -> Result<Bytes, CapError> {
    let mut out = Vec::new();
    let mut ranges = Vec::with_capacity(entries.shown.len());
    let mut put = |name: &Name, child: &Child| {
        let start = out.len();
        match &child.packed {
            Some(packed) => out.extend_from_slice(packed),
            None => out.extend_from_slice(&pack_entry(name, &child.cap, &child.metadata, access)?),
        }
        Ok(start..out.len())
    };
    entries.hidden.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut hidden = entries.hidden.iter().peekable();
    let mut hidden_ranges = Vec::with_capacity(entries.hidden.len());
    for (name, child) in &entries.shown {
        while let Some((name, child)) = hidden.next_if(|(hidden, _)| hidden <= name) {
            hidden_ranges.push(put(name, child)?);
        }
        ranges.push(put(name, child)?);
    }
    for (name, child) in hidden {
        hidden_ranges.push(put(name, child)?);
    }
    let out = Bytes::from(out);
    let children = entries.shown.values_mut().zip(ranges);
    let hidden = entries.hidden.iter_mut().map(|(_, child)| child).zip(hidden_ranges);
    for (child, range) in children.chain(hidden) {
        child.packed = Some(out.slice(range));
    }
    Ok(out)
}

/// A child's write cap under the directory's write key: salt, ciphertext, MAC.
fn encrypt_rw(rw: &str, key: &WriteKey) -> Vec<u8> {
    let salt = child_cap_salt(rw.as_bytes());
    let key = child_cap_key(&salt, key);
    let mut out = Vec::with_capacity(SALT_LEN + rw.len() + MAC_LEN);
    out.extend_from_slice(&salt);
    out.extend_from_slice(rw.as_bytes());
    AesCtr::new(key.as_bytes()).apply(&mut out[SALT_LEN..]);
    let mac = dirnode_mac(key.as_bytes(), &out);
    out.extend_from_slice(&mac);
    out
}

/// The MAC is not looked at: the whole table is signed. Too few bytes stand for no cap.
fn decrypt_rw(data: &[u8], key: &WriteKey) -> Option<Zeroizing<Vec<u8>>> {
    let (salt, rest) = data.split_first_chunk::<SALT_LEN>()?;
    let (ciphertext, _mac) = rest.split_last_chunk::<MAC_LEN>()?;
    let key = child_cap_key(salt, key);
    let mut text = Zeroizing::new(ciphertext.to_vec());
    AesCtr::new(key.as_bytes()).apply(&mut text);
    Some(text)
}
