//! MDMF shares: segments that are rewritten one by one, each with its salt (PROTOCOL 6.3).

use bytes::Bytes;

use super::mutable::{MutableHeader, Version, check_ascending};
use super::{BadShare, Fields};

/// The first byte of an MDMF share.
pub const VERSION: u8 = 1;

/// Bytes of version, sequence number and root hash: what a read-test-write compares.
const CHECKSTRING_LEN: usize = 41;

/// Bytes that the signature covers; the table of offsets comes behind.
const SIGNED_LEN: usize = 59;

/// Bytes before the first region.
pub const HEADER_LEN: u64 = 123;

/// Bytes of the salt before each block.
pub const SALT_LEN: u64 = 16;

/// Bytes of a segment before they are rounded up to a multiple of k; small files have no smaller ones.
pub const SEGMENT_SIZE: u64 = 128 * 1024;

/// Where writers put the blocks: behind the most that keys, signature and chain may take. Readers use the offsets.
pub const SHARE_DATA_OFFSET: u64 = HEADER_LEN + 1220 + 260 + 292 + 272;

/// Where the regions of an MDMF share begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offsets {
    /// The private key under the write key.
    pub encrypted_private_key: u64,
    /// The share hash chain.
    pub share_hash_chain: u64,
    /// The signature.
    pub signature: u64,
    /// The public key.
    pub verification_key: u64,
    /// The end of the public key; what lies between it and the blocks is unused.
    pub verification_key_end: u64,
    /// Salts and blocks.
    pub share_data: u64,
    /// The tree over the blocks, all nodes.
    pub block_hash_tree: u64,
    /// The end.
    pub end: u64,
}

impl Offsets {
    fn all(&self) -> [u64; 8] {
        [
            self.encrypted_private_key,
            self.share_hash_chain,
            self.signature,
            self.verification_key,
            self.verification_key_end,
            self.share_data,
            self.block_hash_tree,
            self.end,
        ]
    }

    /// Appends the table.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        self.all().iter().for_each(|offset| out.extend_from_slice(&offset.to_be_bytes()));
    }
}

/// Parses the header from a share's first [`HEADER_LEN`] bytes.
pub fn parse_header(bytes: &[u8]) -> Result<(MutableHeader, Offsets), BadShare> {
    let mut fields = Fields::new(bytes);
    if fields.u8()? != VERSION {
        return Err(BadShare::Version("MDMF share"));
    }
    let (seqnum, root_hash) = (fields.u64()?, fields.take()?);
    let (needed, total) = (fields.u8()?, fields.u8()?);
    let (segment_size, data_length) = (fields.u64()?, fields.u64()?);
    let header = MutableHeader { seqnum, root_hash, iv: None, segment_size, data_length, needed, total }.check()?;
    let offsets = Offsets {
        encrypted_private_key: fields.u64()?,
        share_hash_chain: fields.u64()?,
        signature: fields.u64()?,
        verification_key: fields.u64()?,
        verification_key_end: fields.u64()?,
        share_data: fields.u64()?,
        block_hash_tree: fields.u64()?,
        end: fields.u64()?,
    };
    check_ascending(&offsets.all(), "MDMF share")?;
    Ok((header, offsets))
}

/// The parts of an MDMF share besides its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The signed fields, without an IV.
    pub header: MutableHeader,
    /// The private key under the write key.
    pub encrypted_private_key: Bytes,
    /// Encoded as [`super::chain`] does.
    pub share_hash_chain: Bytes,
    /// Of the signed prefix.
    pub signature: Bytes,
    /// SPKI bytes.
    pub public_key: Bytes,
    /// All nodes, 32 bytes each.
    pub block_hash_tree: Bytes,
}

impl Parts {
    /// Where everything lies.
    ///
    /// Fails when keys, signature and chain do not fit before the blocks, or beyond 64 bits.
    pub fn offsets(&self) -> Result<Offsets, BadShare> {
        let encoding = self.header.encoding()?;
        let share_hash_chain = HEADER_LEN + self.encrypted_private_key.len() as u64;
        let signature = share_hash_chain + self.share_hash_chain.len() as u64;
        let verification_key = signature + self.signature.len() as u64;
        let verification_key_end = verification_key + self.public_key.len() as u64;
        if verification_key_end > SHARE_DATA_OFFSET {
            return Err(BadShare::TooLarge("keys before the blocks"));
        }
        let salts = encoding.num_segments.checked_mul(SALT_LEN);
        let end_of = |start: u64, length: Option<u64>| length.and_then(|length| start.checked_add(length));
        let blocks = salts.and_then(|salts| salts.checked_add(encoding.share_data_size));
        let block_hash_tree = end_of(SHARE_DATA_OFFSET, blocks).ok_or(BadShare::TooLarge("blocks"))?;
        let end = end_of(block_hash_tree, Some(self.block_hash_tree.len() as u64));
        Ok(Offsets {
            encrypted_private_key: HEADER_LEN,
            share_hash_chain,
            signature,
            verification_key,
            verification_key_end,
            share_data: SHARE_DATA_OFFSET,
            block_hash_tree,
            end: end.ok_or(BadShare::TooLarge("blocks"))?,
        })
    }

    /// The version that the share is of. Fails as [`Parts::offsets`].
    pub fn version(&self) -> Result<Version, BadShare> {
        Ok(Version { header: self.header.clone(), offsets: super::Offsets::Mdmf(self.offsets()?) })
    }

    /// Everything and where it goes, in the order in which the reference sends it behind the blocks. Fails as
    /// [`Parts::offsets`].
    pub fn writes(&self) -> Result<Vec<(u64, Bytes)>, BadShare> {
        let offsets = self.offsets()?;
        let header = Bytes::from(self.version()?.to_bytes()?);
        let checkstring = header.slice(..CHECKSTRING_LEN);
        Ok(vec![
            (offsets.encrypted_private_key, self.encrypted_private_key.clone()),
            (offsets.block_hash_tree, self.block_hash_tree.clone()),
            (offsets.share_hash_chain, self.share_hash_chain.clone()),
            (0, checkstring.clone()),
            (offsets.signature, self.signature.clone()),
            (offsets.verification_key, self.public_key.clone()),
            (SIGNED_LEN as u64, header.slice(SIGNED_LEN..)),
            (CHECKSTRING_LEN as u64, header.slice(CHECKSTRING_LEN..SIGNED_LEN)),
            (0, checkstring),
        ])
    }
}

/// Takes apart what stands for one segment: its salt and its block.
pub fn split_block(bytes: &[u8]) -> Result<(&[u8; 16], &[u8]), BadShare> {
    bytes.split_first_chunk().ok_or(BadShare::Truncated { needed: SALT_LEN, got: bytes.len() as u64 })
}
