//! Tagged SHA-256d hashes (PROTOCOL 1.2).

use sha2::{Digest, Sha256};

use crate::util::netstring;

/// A SHA-256d digest.
pub type Hash = [u8; 32];

/// The tag that tells one use of a hash from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub &'static str);

macro_rules! tags {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => { impl Tag { $($(#[$doc])* pub const $name: Tag = Tag($text);)* } };
}

tags! {
    /// Immutable storage index, from the key.
    STORAGE_INDEX = "allmydata_immutable_key_to_storage_index_v1";
    /// One block of a share, immutable or mutable.
    BLOCK = "allmydata_encoded_subshare_v1";
    /// URI extension block.
    UEB = "allmydata_uri_extension_v1";
    /// Whole ciphertext.
    CRYPTTEXT = "allmydata_crypttext_v1";
    /// One segment of ciphertext.
    CRYPTTEXT_SEGMENT = "allmydata_crypttext_segment_v1";
    /// Convergent key: only the front of the tag, see [`crate::crypto::secrets::convergence_hasher`].
    CONVERGENCE = "allmydata_immutable_content_to_key_with_added_secret_v1+";
    /// File renewal secret.
    FILE_RENEWAL = "allmydata_file_renewal_secret_v1";
    /// File cancel secret.
    FILE_CANCEL = "allmydata_file_cancel_secret_v1";
    /// Bucket renewal secret.
    BUCKET_RENEWAL = "allmydata_bucket_renewal_secret_v1";
    /// Bucket cancel secret.
    BUCKET_CANCEL = "allmydata_bucket_cancel_secret_v1";
    /// Mutable write key, from the private key.
    WRITE_KEY = "allmydata_mutable_privkey_to_writekey_v1";
    /// Master of all write enablers of a mutable file.
    WRITE_ENABLER_MASTER = "allmydata_mutable_writekey_to_write_enabler_master_v1";
    /// Write enabler for one server.
    WRITE_ENABLER = "allmydata_mutable_write_enabler_master_and_nodeid_to_write_enabler_v1";
    /// Fingerprint of a public key.
    FINGERPRINT = "allmydata_mutable_pubkey_to_fingerprint_v1";
    /// Mutable read key, from the write key.
    READ_KEY = "allmydata_mutable_writekey_to_readkey_v1";
    /// Mutable data key, from salt and read key.
    DATA_KEY = "allmydata_mutable_readkey_to_datakey_v1";
    /// Mutable storage index, from the read key.
    MUTABLE_STORAGE_INDEX = "allmydata_mutable_readkey_to_storage_index_v1";
    /// Key that encrypts a child's write cap.
    DIRNODE_CHILD_KEY = "allmydata_mutable_writekey_and_salt_to_dirnode_child_capkey_v1";
    /// Salt of a child's write cap.
    DIRNODE_CHILD_SALT = "allmydata_dirnode_child_rwcap_to_salt_v1";
    /// Merkle tree: a leaf that is not there.
    MERKLE_EMPTY_LEAF = "Merkle tree empty leaf";
    /// Merkle tree: an inner node.
    MERKLE_NODE = "Merkle tree internal node";
    /// Journal: the key of its records.
    JOURNAL_RECORDS = "tahoefs_journal_records_v1";
    /// Journal: the keyed hash that stands for a name.
    JOURNAL_NAME = "tahoefs_journal_name_v1";
    /// What stands for the birth id of a linked file in the journal.
    JOURNAL_LINK = "tahoefs_journal_link_v1";
    /// Journal: the key of one staging file.
    JOURNAL_STAGING = "tahoefs_journal_staging_v1";
    /// The key of ready signing keys on disk.
    READY_KEYS = "tahoefs_ready_keys_v1";
    /// The key of a directory's table on disk, from the read key.
    KEPT_TABLE = "tahoefs_kept_table_v1";
    /// The key of a file's blocks on disk, from what names the file.
    KEPT_BLOCK = "tahoefs_kept_block_v1";
    /// What a block on disk is called.
    KEPT_BLOCK_NAME = "tahoefs_kept_block_name_v1";
    /// The bytes that tell a mutable container.
    MUTABLE_CONTAINER = "allmydata_mutable_container_header";
}

/// SHA-256 of SHA-256.
pub fn sha256d(data: &[u8]) -> Hash {
    Sha256::digest(Sha256::digest(data)).into()
}

/// `T(tag, value)`: the value is not wrapped.
pub fn tagged(tag: Tag, value: &[u8]) -> Hash {
    let mut hasher = TaggedHasher::new(tag.0.as_bytes());
    hasher.update(value);
    hasher.finish()
}

/// `P(tag, a, b)`: both values are wrapped.
pub fn tagged_pair(tag: Tag, a: &[u8], b: &[u8]) -> Hash {
    let mut hasher = TaggedHasher::new(tag.0.as_bytes());
    hasher.update(&netstring::encode(a));
    hasher.update(&netstring::encode(b));
    hasher.finish()
}

/// The first `N` bytes of a hash.
pub fn truncated<const N: usize>(hash: Hash) -> [u8; N] {
    hash[..N].try_into().expect("a hash is cut to at most its own length")
}

/// `T(tag, …)` over a value that arrives in pieces; the tag may be any bytes (PROTOCOL 2.1, 2.2).
#[derive(Clone)]
pub struct TaggedHasher(Sha256);

impl TaggedHasher {
    /// Starts with `ns(tag)`.
    pub fn new(tag: &[u8]) -> TaggedHasher {
        TaggedHasher(Sha256::new_with_prefix(netstring::encode(tag)))
    }

    /// Takes the next bytes of the value.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Hash {
        Sha256::digest(self.0.finalize()).into()
    }
}
