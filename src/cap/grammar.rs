//! The grammar of capabilities, read and written (PROTOCOL 3).
//!
//! It is as lenient as the reference: one newline may end a cap, numbers may have leading zeros, what follows the
//! fingerprint of an MDMF cap after a colon is ignored, and so is whatever follows the size of a CHK verify cap.

use super::{
    Cap, CapError, ChkCap, ChkVerifyCap, FileCap, LitCap, MutableCap, MutableFormat, MutableKey, StorageIndex,
    UnknownCap,
};
use crate::crypto::{Hash, ReadKey, WriteKey};
use crate::util::base32;

/// In front of a cap: whatever it is, it only reads.
pub(super) const RO: &str = "ro.";
/// In front of a cap: whatever it is, what it reads never changes.
pub(super) const IMM: &str = "imm.";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Authority {
    Write,
    Read,
    Verify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Chk,
    ChkVerify,
    Lit,
    Mutable(MutableFormat, Authority),
    /// A kind that the reference reserves for tests: of no known meaning, but known to grant this on something mutable.
    Reserved(Authority),
}

#[derive(Clone, Copy)]
struct Kind {
    prefix: &'static str,
    directory: bool,
    body: Body,
}

const fn file(prefix: &'static str, body: Body) -> Kind {
    Kind { prefix, directory: false, body }
}

const fn directory(prefix: &'static str, body: Body) -> Kind {
    Kind { prefix, directory: true, body }
}

const KINDS: &[Kind] = {
    use Authority::{Read, Verify, Write};
    use Body::{Chk, ChkVerify, Lit, Mutable, Reserved};
    use MutableFormat::{Mdmf, Sdmf};
    &[
        file("URI:CHK:", Chk),
        file("URI:CHK-Verifier:", ChkVerify),
        file("URI:LIT:", Lit),
        file("URI:SSK:", Mutable(Sdmf, Write)),
        file("URI:SSK-RO:", Mutable(Sdmf, Read)),
        file("URI:SSK-Verifier:", Mutable(Sdmf, Verify)),
        file("URI:MDMF:", Mutable(Mdmf, Write)),
        file("URI:MDMF-RO:", Mutable(Mdmf, Read)),
        file("URI:MDMF-Verifier:", Mutable(Mdmf, Verify)),
        directory("URI:DIR2:", Mutable(Sdmf, Write)),
        directory("URI:DIR2-RO:", Mutable(Sdmf, Read)),
        directory("URI:DIR2-Verifier:", Mutable(Sdmf, Verify)),
        directory("URI:DIR2-MDMF:", Mutable(Mdmf, Write)),
        directory("URI:DIR2-MDMF-RO:", Mutable(Mdmf, Read)),
        directory("URI:DIR2-MDMF-Verifier:", Mutable(Mdmf, Verify)),
        directory("URI:DIR2-CHK:", Chk),
        directory("URI:DIR2-CHK-Verifier:", ChkVerify),
        directory("URI:DIR2-LIT:", Lit),
        file("x-tahoe-future-test-writeable:", Reserved(Write)),
        file("x-tahoe-future-test-mutable:", Reserved(Read)),
    ]
};

impl Kind {
    fn malformed(&self, why: &'static str) -> CapError {
        CapError::Malformed { kind: self.prefix, why }
    }

    fn authority(&self) -> Authority {
        match self.body {
            Body::Mutable(_, authority) | Body::Reserved(authority) => authority,
            // What never changes asks for nothing, like a cap that only verifies.
            Body::Chk | Body::ChkVerify | Body::Lit => Authority::Verify,
        }
    }

    /// The cap whose string goes on with `rest` after the prefix; `None` for a kind without a meaning.
    fn parse(&self, rest: &str) -> Result<Option<Cap>, CapError> {
        let cap = match self.body {
            Body::Chk => {
                let (key, ueb_hash, [needed, total, size]) = self.immutable(rest, End::Anchored)?;
                let (needed, total) = (self.count(needed)?, self.count(total)?);
                FileCap::Chk(ChkCap { key: ReadKey::new(key), ueb_hash, needed, total, size })
            }
            Body::ChkVerify => {
                let (index, ueb_hash, [needed, total, size]) = self.immutable(rest, End::Open)?;
                let (needed, total) = (self.count(needed)?, self.count(total)?);
                FileCap::ChkVerify(ChkVerifyCap { storage_index: StorageIndex(index), ueb_hash, needed, total, size })
            }
            Body::Lit => {
                let data =
                    base32::decode(without_newline(rest)).map_err(|_| self.malformed("its data is not base32"))?;
                FileCap::Lit(LitCap { data })
            }
            Body::Mutable(format, authority) => {
                let (key, rest) = rest.split_once(':').ok_or(self.malformed("it has too few fields"))?;
                let fingerprint = match (format, rest.split_once(':')) {
                    (MutableFormat::Mdmf, Some((fingerprint, _hints))) => fingerprint,
                    _ => without_newline(rest),
                };
                let key = self.key(key)?;
                let fingerprint = self.hash(fingerprint)?;
                let key = match authority {
                    Authority::Write => MutableKey::Write(WriteKey::new(key)),
                    Authority::Read => MutableKey::Read(ReadKey::new(key)),
                    Authority::Verify => MutableKey::Verify(StorageIndex(key)),
                };
                FileCap::Mutable(MutableCap { format, key, fingerprint })
            }
            Body::Reserved(_) => return Ok(None),
        };
        Ok(Some(if self.directory { Cap::Dir(cap) } else { Cap::File(cap) }))
    }

    /// The five fields of an immutable cap.
    fn immutable(&self, rest: &str, end: End) -> Result<([u8; 16], Hash, [u64; 3]), CapError> {
        let mut fields = rest.splitn(5, ':');
        let mut next = || fields.next().ok_or(self.malformed("it has too few fields"));
        let (key, hash, needed, total, size) = (next()?, next()?, next()?, next()?, next()?);
        let size = match end {
            End::Anchored => without_newline(size),
            End::Open => &size[..size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len())],
        };
        let numbers = [self.number(needed)?, self.number(total)?, self.number(size)?];
        Ok((self.key(key)?, self.hash(hash)?, numbers))
    }

    fn key(&self, text: &str) -> Result<[u8; 16], CapError> {
        base32::decode_array(text).map_err(|_| self.malformed("its first field is not 26 characters of base32"))
    }

    fn hash(&self, text: &str) -> Result<Hash, CapError> {
        base32::decode_array(text).map_err(|_| self.malformed("its hash is not 52 characters of base32"))
    }

    fn number(&self, text: &str) -> Result<u64, CapError> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.malformed("one of its numbers is not decimal"));
        }
        text.parse().map_err(|_| self.malformed("one of its numbers is too large"))
    }

    fn count(&self, number: u64) -> Result<u32, CapError> {
        number.try_into().map_err(|_| self.malformed("one of its numbers is too large"))
    }
}

/// Whether anything may follow the last field.
#[derive(Clone, Copy)]
enum End {
    Anchored,
    Open,
}

fn without_newline(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// What a string turned out to be.
pub(super) enum Parsed {
    /// A cap that may stand where it was found.
    Known(Cap),
    /// A kind that is not known; may be anything.
    Unknown,
    /// A known kind with a bad body, or one that may not stand there.
    Refused(CapError),
}

/// Parses `text`, which may begin with `ro.` or `imm.`; nothing mutable may stand where `deep_immutable` holds.
pub(super) fn parse(text: &str, deep_immutable: bool) -> Parsed {
    let (text, may_change, may_write) = if let Some(rest) = text.strip_prefix(IMM) {
        (rest, false, false)
    } else if let Some(rest) = text.strip_prefix(RO) {
        (rest, !deep_immutable, false)
    } else {
        (text, !deep_immutable, !deep_immutable)
    };
    let Some((kind, rest)) = KINDS.iter().find_map(|kind| Some((kind, text.strip_prefix(kind.prefix)?))) else {
        return Parsed::Unknown;
    };
    match kind.authority() {
        Authority::Write | Authority::Read if !may_change => return Parsed::Refused(CapError::MustBeDeepImmutable),
        Authority::Write if !may_write => return Parsed::Refused(CapError::MustBeReadonly),
        _ => {}
    }
    match kind.parse(rest) {
        Ok(Some(cap)) => Parsed::Known(cap),
        Ok(None) => Parsed::Unknown,
        Err(error) => Parsed::Refused(error),
    }
}

/// The string of a cap; the inverse of [`parse`].
fn print(cap: &FileCap, directory: bool) -> String {
    let (body, fields) = match cap {
        FileCap::Chk(c) => {
            let numbers = format!("{}:{}:{}", c.needed, c.total, c.size);
            (Body::Chk, [base32::encode(c.key.as_bytes()), base32::encode(&c.ueb_hash), numbers].join(":"))
        }
        FileCap::ChkVerify(c) => {
            let numbers = format!("{}:{}:{}", c.needed, c.total, c.size);
            (Body::ChkVerify, [c.storage_index.to_string(), base32::encode(&c.ueb_hash), numbers].join(":"))
        }
        FileCap::Lit(c) => (Body::Lit, base32::encode(&c.data)),
        FileCap::Mutable(c) => {
            let (authority, key) = match &c.key {
                MutableKey::Write(key) => (Authority::Write, base32::encode(key.as_bytes())),
                MutableKey::Read(key) => (Authority::Read, base32::encode(key.as_bytes())),
                MutableKey::Verify(index) => (Authority::Verify, index.to_string()),
            };
            (Body::Mutable(c.format, authority), [key, base32::encode(&c.fingerprint)].join(":"))
        }
    };
    let kind = KINDS.iter().find(|kind| kind.directory == directory && kind.body == body);
    let mut uri = kind.expect("every cap has a kind, as a file and as a directory").prefix.to_string();
    uri.push_str(&fields);
    uri
}

impl FileCap {
    /// The cap's string. It is the secret itself: not for logs.
    pub fn to_uri(&self) -> String {
        print(self, false)
    }
}

impl Cap {
    /// Parses what a user gave. A cap of no known kind comes out as [`Cap::Unknown`], verbatim: in its read-only slot
    /// if it begins with `ro.` or `imm.`, else in its writeable one.
    ///
    /// # Errors
    /// [`CapError`] for a known kind with a bad body, or behind a prefix that forbids it. Where the reference takes
    /// numbers of any length, shares are counted in 32 bits here and bytes in 64.
    pub fn parse(text: &str) -> Result<Cap, CapError> {
        match parse(text, false) {
            Parsed::Known(cap) => Ok(cap),
            Parsed::Refused(error) => Err(error),
            Parsed::Unknown => {
                let text = Some(text.to_string());
                let (rw, ro) = if is_marked(text.as_deref()) { (None, text) } else { (text, None) };
                Ok(Cap::Unknown(UnknownCap { rw, ro, error: None }))
            }
        }
    }

    /// The cap's string; of an unknown cap the writeable one, or else the read-only one, or else nothing. It is the
    /// secret itself: not for logs.
    pub fn to_uri(&self) -> String {
        match self {
            Cap::File(cap) => print(cap, false),
            Cap::Dir(cap) => print(cap, true),
            Cap::Unknown(cap) => cap.rw.clone().or_else(|| cap.ro.clone()).unwrap_or_default(),
        }
    }
}

/// Whether a string begins with `ro.` or `imm.`.
pub(super) fn is_marked(text: Option<&str>) -> bool {
    text.is_some_and(|t| t.starts_with(RO) || t.starts_with(IMM))
}
