//! What a cap grants, and the weaker caps it yields (PROTOCOL 2.3, 3).

use super::{Cap, ChkCap, ChkVerifyCap, FileCap, MutableCap, MutableFormat, MutableKey, StorageIndex, UnknownCap};
use crate::crypto::{Hash, ReadKey, WriteKey, secrets};

impl ChkCap {
    /// Where the shares are.
    pub fn storage_index(&self) -> StorageIndex {
        StorageIndex(secrets::immutable_storage_index(&self.key))
    }

    /// The cap that finds and verifies the shares but does not read them.
    pub fn verifier(&self) -> ChkVerifyCap {
        ChkVerifyCap {
            storage_index: self.storage_index(),
            ueb_hash: self.ueb_hash,
            needed: self.needed,
            total: self.total,
            size: self.size,
        }
    }
}

impl MutableCap {
    /// The write cap of a mutable file whose public key has this fingerprint.
    pub fn from_write_key(format: MutableFormat, key: WriteKey, fingerprint: Hash) -> MutableCap {
        MutableCap { format, key: MutableKey::Write(key), fingerprint }
    }

    /// The write key, if the cap grants it.
    pub fn write_key(&self) -> Option<&WriteKey> {
        match &self.key {
            MutableKey::Write(key) => Some(key),
            MutableKey::Read(_) | MutableKey::Verify(_) => None,
        }
    }

    /// The read key, if the cap grants it.
    pub fn read_key(&self) -> Option<ReadKey> {
        match &self.key {
            MutableKey::Write(key) => Some(secrets::read_key(key)),
            MutableKey::Read(key) => Some(key.clone()),
            MutableKey::Verify(_) => None,
        }
    }

    /// Where the shares are.
    pub fn storage_index(&self) -> StorageIndex {
        match &self.key {
            MutableKey::Write(key) => StorageIndex(secrets::mutable_storage_index(&secrets::read_key(key))),
            MutableKey::Read(key) => StorageIndex(secrets::mutable_storage_index(key)),
            MutableKey::Verify(index) => *index,
        }
    }

    /// The cap without the authority to write.
    pub fn readonly(&self) -> MutableCap {
        let key = match &self.key {
            MutableKey::Write(key) => MutableKey::Read(secrets::read_key(key)),
            weaker => weaker.clone(),
        };
        MutableCap { key, ..self.clone() }
    }

    /// The cap that finds and verifies the shares but does not read them.
    pub fn verifier(&self) -> MutableCap {
        MutableCap { key: MutableKey::Verify(self.storage_index()), ..self.clone() }
    }

    /// Whether what it reads may change; a verify cap reads nothing.
    pub fn is_mutable(&self) -> bool {
        !matches!(self.key, MutableKey::Verify(_))
    }

    /// Whether it does not grant writing.
    pub fn is_readonly(&self) -> bool {
        self.write_key().is_none()
    }
}

impl FileCap {
    /// The cap without the authority to write.
    pub fn readonly(&self) -> FileCap {
        match self {
            FileCap::Mutable(cap) => FileCap::Mutable(cap.readonly()),
            FileCap::Chk(_) | FileCap::ChkVerify(_) | FileCap::Lit(_) => self.clone(),
        }
    }

    /// The cap that finds and verifies the shares but does not read them; a literal has none.
    pub fn verifier(&self) -> Option<FileCap> {
        match self {
            FileCap::Chk(cap) => Some(FileCap::ChkVerify(cap.verifier())),
            FileCap::ChkVerify(_) => Some(self.clone()),
            FileCap::Lit(_) => None,
            FileCap::Mutable(cap) => Some(FileCap::Mutable(cap.verifier())),
        }
    }

    /// Whether it only finds and verifies shares.
    pub fn is_verifier(&self) -> bool {
        match self {
            FileCap::ChkVerify(_) => true,
            FileCap::Mutable(cap) => matches!(cap.key, MutableKey::Verify(_)),
            FileCap::Chk(_) | FileCap::Lit(_) => false,
        }
    }

    /// Whether what it reads may change; a verify cap reads nothing.
    pub fn is_mutable(&self) -> bool {
        matches!(self, FileCap::Mutable(cap) if cap.is_mutable())
    }

    /// Whether it does not grant writing.
    pub fn is_readonly(&self) -> bool {
        !matches!(self, FileCap::Mutable(cap) if !cap.is_readonly())
    }

    /// Where the shares are; a literal has none.
    pub fn storage_index(&self) -> Option<StorageIndex> {
        match self {
            FileCap::Chk(cap) => Some(cap.storage_index()),
            FileCap::ChkVerify(cap) => Some(cap.storage_index),
            FileCap::Lit(_) => None,
            FileCap::Mutable(cap) => Some(cap.storage_index()),
        }
    }

    /// Bytes of the file, as far as the cap tells: immutable ones and literals.
    pub fn size(&self) -> Option<u64> {
        match self {
            FileCap::Chk(cap) => Some(cap.size),
            FileCap::ChkVerify(cap) => Some(cap.size),
            FileCap::Lit(cap) => Some(cap.data.len() as u64),
            FileCap::Mutable(_) => None,
        }
    }
}

impl Cap {
    /// The file's cap, or that of a directory's container; none for an unknown one.
    pub fn file_cap(&self) -> Option<&FileCap> {
        match self {
            Cap::File(cap) | Cap::Dir(cap) => Some(cap),
            Cap::Unknown(_) => None,
        }
    }

    /// The cap without the authority to write. An unknown one loses its writeable slot, which may leave nothing.
    pub fn readonly(&self) -> Cap {
        match self {
            Cap::File(cap) => Cap::File(cap.readonly()),
            Cap::Dir(cap) => Cap::Dir(cap.readonly()),
            Cap::Unknown(cap) => Cap::Unknown(UnknownCap { rw: None, ro: cap.ro.clone(), error: cap.error.clone() }),
        }
    }

    /// The cap that finds and verifies the shares but does not read them; literals and unknown caps have none.
    pub fn verifier(&self) -> Option<Cap> {
        match self {
            Cap::File(cap) => cap.verifier().map(Cap::File),
            Cap::Dir(cap) => cap.verifier().map(Cap::Dir),
            Cap::Unknown(_) => None,
        }
    }

    /// Whether what it reads is known to change. Verify caps read nothing, and of unknown ones nothing is known.
    pub fn is_mutable(&self) -> bool {
        self.file_cap().is_some_and(FileCap::is_mutable)
    }

    /// Whether it does not grant writing; an unknown one does if it has a writeable slot.
    pub fn is_readonly(&self) -> bool {
        match self {
            Cap::File(cap) | Cap::Dir(cap) => cap.is_readonly(),
            Cap::Unknown(cap) => cap.rw.is_none(),
        }
    }

    /// Whether it is a directory's.
    pub fn is_directory(&self) -> bool {
        matches!(self, Cap::Dir(_))
    }

    /// Where the shares are; literals and unknown caps have none.
    pub fn storage_index(&self) -> Option<StorageIndex> {
        self.file_cap().and_then(FileCap::storage_index)
    }

    /// Bytes of the file or the container, as far as the cap tells: immutable ones and literals.
    pub fn size(&self) -> Option<u64> {
        self.file_cap().and_then(FileCap::size)
    }
}
