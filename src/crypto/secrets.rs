//! Secrets derived from keys: convergence, storage indexes, leases, write enablers, data keys (PROTOCOL 2).

use super::hash::{Hash, Tag, TaggedHasher, tagged, tagged_pair, truncated};
use super::keys::{LeaseSecret, ReadKey, WriteEnabler, WriteKey};
use crate::util::netstring;

/// The hasher whose result, cut to 16 bytes, is the convergent key of the plaintext it is fed (PROTOCOL 2.1).
///
/// `segment_size` is the file's actual one, rounded up to a multiple of `needed`.
pub fn convergence_hasher(secret: &[u8], needed: u16, total: u16, segment_size: u64) -> TaggedHasher {
    let mut tag = Tag::CONVERGENCE.0.as_bytes().to_vec();
    netstring::push(&mut tag, secret);
    netstring::push(&mut tag, format!("{needed},{total},{segment_size}").as_bytes());
    TaggedHasher::new(&tag)
}

/// The storage index of an immutable file, from its key.
pub fn immutable_storage_index(key: &ReadKey) -> [u8; 16] {
    truncated(tagged(Tag::STORAGE_INDEX, key.as_bytes()))
}

/// The write key of a mutable file, from the exact PKCS#8 bytes of its private key.
pub fn write_key(private_key_der: &[u8]) -> WriteKey {
    WriteKey::new(truncated(tagged(Tag::WRITE_KEY, private_key_der)))
}

/// The read key of a mutable file.
pub fn read_key(key: &WriteKey) -> ReadKey {
    ReadKey::new(truncated(tagged(Tag::READ_KEY, key.as_bytes())))
}

/// The storage index of a mutable file.
pub fn mutable_storage_index(key: &ReadKey) -> [u8; 16] {
    truncated(tagged(Tag::MUTABLE_STORAGE_INDEX, key.as_bytes()))
}

/// The fingerprint of a public key, from its SPKI bytes.
pub fn fingerprint(public_key_der: &[u8]) -> Hash {
    tagged(Tag::FINGERPRINT, public_key_der)
}

/// The key that encrypts the data written under `salt` (SDMF: the IV).
pub fn data_key(salt: &[u8; 16], key: &ReadKey) -> ReadKey {
    ReadKey::new(truncated(tagged_pair(Tag::DATA_KEY, salt, key.as_bytes())))
}

/// The write enabler of a mutable file for the server with this tub id.
pub fn write_enabler(key: &WriteKey, tub_id: &[u8; 20]) -> WriteEnabler {
    let master = tagged(Tag::WRITE_ENABLER_MASTER, key.as_bytes());
    WriteEnabler::new(tagged_pair(Tag::WRITE_ENABLER, &master, tub_id))
}

/// The two lease secrets of one storage index on one server, as they are sent to it (PROTOCOL 2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSecrets {
    /// Renews the lease.
    pub renew: LeaseSecret,
    /// Cancels the lease.
    pub cancel: LeaseSecret,
}

impl LeaseSecrets {
    /// Derives both from the client's lease secret.
    pub fn derive(client: &LeaseSecret, storage_index: &[u8; 16], tub_id: &[u8; 20]) -> LeaseSecrets {
        let one = |constant: &str, file: Tag, bucket: Tag| {
            let mut hasher = TaggedHasher::new(client.as_bytes());
            hasher.update(constant.as_bytes());
            let of_file = tagged_pair(file, &hasher.finish(), storage_index);
            LeaseSecret::new(tagged_pair(bucket, &of_file, tub_id))
        };
        LeaseSecrets {
            renew: one("allmydata_client_renewal_secret_v1", Tag::FILE_RENEWAL, Tag::BUCKET_RENEWAL),
            cancel: one("allmydata_client_cancel_secret_v1", Tag::FILE_CANCEL, Tag::BUCKET_CANCEL),
        }
    }
}

/// The salt under which a directory entry holds this write cap, or the empty string in its place.
pub fn child_cap_salt(write_uri: &[u8]) -> [u8; 16] {
    truncated(tagged(Tag::DIRNODE_CHILD_SALT, write_uri))
}

/// The key that encrypts a child's write cap in the directory with this write key.
pub fn child_cap_key(salt: &[u8; 16], directory: &WriteKey) -> ReadKey {
    ReadKey::new(truncated(tagged_pair(Tag::DIRNODE_CHILD_KEY, salt, directory.as_bytes())))
}

/// The keyed hash of directory entries, whose keys have 16 bytes: HMAC's shape, but over pads as long as the key
/// (PROTOCOL 1.2).
pub fn dirnode_mac<const N: usize>(key: &[u8; N], data: &[u8]) -> Hash {
    use sha2::{Digest, Sha256};
    let inner = Sha256::new().chain_update(key.map(|b| b ^ 0x36)).chain_update(data).finalize();
    Sha256::new().chain_update(key.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}
