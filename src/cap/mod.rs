//! Capabilities: their grammar, what each grants, and how each is attenuated (PROTOCOL 3).
//!
//! A capability's string is a secret, so no type here implements `Display` but [`StorageIndex`], and `Debug` shows no
//! keys, literal content or unknown strings.

mod attenuate;
mod child;
mod grammar;

use std::fmt;

use crate::crypto::{Hash, ReadKey, WriteKey};
use crate::util::base32;

/// Where a file's shares are found; public.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageIndex(pub [u8; 16]);

impl fmt::Display for StorageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0))
    }
}

impl fmt::Debug for StorageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0)[..8])
    }
}

/// `URI:CHK:`: reads an immutable file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChkCap {
    /// Decrypts, and yields the storage index.
    pub key: ReadKey,
    /// `T` of the URI extension block: what everything is verified against.
    pub ueb_hash: Hash,
    /// k: shares that suffice.
    pub needed: u32,
    /// N: shares that were made.
    pub total: u32,
    /// Bytes of the file.
    pub size: u64,
}

/// `URI:CHK-Verifier:`: finds and verifies the shares of an immutable file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChkVerifyCap {
    /// Where the shares are.
    pub storage_index: StorageIndex,
    /// As in [`ChkCap`].
    pub ueb_hash: Hash,
    /// As in [`ChkCap`].
    pub needed: u32,
    /// As in [`ChkCap`].
    pub total: u32,
    /// As in [`ChkCap`].
    pub size: u64,
}

/// `URI:LIT:`: the file's bytes themselves, at most 55 of them when we write it.
#[derive(Clone, PartialEq, Eq)]
pub struct LitCap {
    /// The content.
    pub data: Vec<u8>,
}

impl LitCap {
    /// Bytes of the longest file that is stored as a literal.
    pub const LONGEST: usize = 55;
}

impl fmt::Debug for LitCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LitCap({} bytes)", self.data.len())
    }
}

/// The two formats of mutable files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MutableFormat {
    /// One segment, rewritten whole.
    Sdmf,
    /// Segments of 128 KiB that are rewritten one by one.
    Mdmf,
}

/// What a mutable cap grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MutableKey {
    /// Read and write.
    Write(WriteKey),
    /// Read.
    Read(ReadKey),
    /// Find and verify shares.
    Verify(StorageIndex),
}

/// `URI:SSK…:` and `URI:MDMF…:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutableCap {
    /// SDMF or MDMF.
    pub format: MutableFormat,
    /// What it grants.
    pub key: MutableKey,
    /// Hash of the public key that signs every version.
    pub fingerprint: Hash,
}

/// A file-like cap: what a directory's container can be, and what a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileCap {
    /// Immutable.
    Chk(ChkCap),
    /// Verifies an immutable file.
    ChkVerify(ChkVerifyCap),
    /// Literal.
    Lit(LitCap),
    /// Mutable.
    Mutable(MutableCap),
}

/// A cap of no known kind, or one that breaks the rules of the place it was found in: carried verbatim.
#[derive(Clone, PartialEq, Eq)]
pub struct UnknownCap {
    /// The string from the writeable slot, if any.
    pub rw: Option<String>,
    /// The string from the read-only slot, if any, with its `ro.` or `imm.` prefix.
    pub ro: Option<String>,
    /// Why a known kind was refused here, if it was.
    pub error: Option<CapError>,
}

impl fmt::Debug for UnknownCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |slot: &Option<String>| slot.as_ref().map(|_| "…");
        f.debug_struct("UnknownCap")
            .field("rw", &shown(&self.rw))
            .field("ro", &shown(&self.ro))
            .field("error", &self.error)
            .finish()
    }
}

/// Any capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cap {
    /// A file.
    File(FileCap),
    /// A directory: its container's cap.
    Dir(FileCap),
    /// Something else.
    Unknown(UnknownCap),
}

/// Why a cap was refused. Never holds the cap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapError {
    /// A known kind with a bad body.
    #[error("malformed {kind} capability: {why}")]
    Malformed {
        /// Prefix of the kind, such as `URI:CHK:`.
        kind: &'static str,
        /// What is wrong with the body.
        why: &'static str,
    },
    /// A write cap where only read caps may stand.
    #[error("a write capability stands where only read-only ones may")]
    MustBeReadonly,
    /// A mutable cap where only immutable ones may stand.
    #[error("a mutable capability stands where only immutable ones may")]
    MustBeDeepImmutable,
    /// An unknown cap without its read-only form, which no directory can hold.
    #[error("an unknown capability is only linked in its read-only form, with ro. or imm. in front")]
    MustNotBeUnknownWriteable,
}
