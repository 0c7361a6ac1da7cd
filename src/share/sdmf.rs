//! SDMF shares: one segment, one IV (PROTOCOL 6.2).

use super::mutable::{MutableHeader, Version, check_ascending};
use super::{BadShare, Fields, slice};

/// The first byte of an SDMF share.
pub const VERSION: u8 = 0;

/// Bytes before the public key.
pub const HEADER_LEN: u64 = 107;

/// Where the regions of an SDMF share begin, in the order in which they lie. The public key comes before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offsets {
    /// The signature.
    pub signature: u64,
    /// The share hash chain.
    pub share_hash_chain: u64,
    /// The tree over the blocks: a single node.
    pub block_hash_tree: u64,
    /// The block.
    pub share_data: u64,
    /// The private key under the write key.
    pub encrypted_private_key: u64,
    /// The end.
    pub end: u64,
}

impl Offsets {
    /// Appends the table; the first four take 4 bytes each.
    pub(super) fn push(&self, out: &mut Vec<u8>) -> Result<(), BadShare> {
        for offset in [self.signature, self.share_hash_chain, self.block_hash_tree, self.share_data] {
            let offset = u32::try_from(offset).map_err(|_| BadShare::TooLarge("SDMF offset"))?;
            out.extend_from_slice(&offset.to_be_bytes());
        }
        out.extend_from_slice(&self.encrypted_private_key.to_be_bytes());
        out.extend_from_slice(&self.end.to_be_bytes());
        Ok(())
    }
}

/// Parses the header from a share's first [`HEADER_LEN`] bytes.
pub fn parse_header(bytes: &[u8]) -> Result<(MutableHeader, Offsets), BadShare> {
    let mut fields = Fields::new(bytes);
    if fields.u8()? != VERSION {
        return Err(BadShare::Version("SDMF share"));
    }
    let (seqnum, root_hash, iv) = (fields.u64()?, fields.take()?, Some(fields.take()?));
    let (needed, total) = (fields.u8()?, fields.u8()?);
    let (segment_size, data_length) = (fields.u64()?, fields.u64()?);
    let header = MutableHeader { seqnum, root_hash, iv, segment_size, data_length, needed, total }.check()?;
    let o = Offsets {
        signature: u64::from(fields.u32()?),
        share_hash_chain: u64::from(fields.u32()?),
        block_hash_tree: u64::from(fields.u32()?),
        share_data: u64::from(fields.u32()?),
        encrypted_private_key: fields.u64()?,
        end: fields.u64()?,
    };
    check_ascending(
        &[HEADER_LEN, o.signature, o.share_hash_chain, o.block_hash_tree, o.share_data, o.encrypted_private_key, o.end],
        "SDMF share",
    )?;
    Ok((header, o))
}

/// A whole SDMF share in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdmfShare<'a> {
    /// The signed fields, with an IV.
    pub header: MutableHeader,
    /// SPKI bytes.
    pub public_key: &'a [u8],
    /// Of the signed prefix.
    pub signature: &'a [u8],
    /// Encoded as [`super::chain`] does.
    pub share_hash_chain: &'a [u8],
    /// All nodes, 32 bytes each.
    pub block_hash_tree: &'a [u8],
    /// The block; empty in an empty file.
    pub block: &'a [u8],
    /// The private key under the write key.
    pub encrypted_private_key: &'a [u8],
}

impl<'a> SdmfShare<'a> {
    /// Takes a whole share apart. What comes after its end is ignored.
    pub fn parse(bytes: &'a [u8]) -> Result<SdmfShare<'a>, BadShare> {
        if bytes.first().is_some_and(|&version| version != VERSION) {
            return Err(BadShare::Version("SDMF share"));
        }
        let version = Version::parse(bytes)?;
        Ok(SdmfShare {
            public_key: slice(bytes, &version.public_key())?,
            signature: slice(bytes, &version.signature())?,
            share_hash_chain: slice(bytes, &version.share_hash_chain())?,
            block_hash_tree: slice(bytes, &version.block_hash_tree())?,
            block: slice(bytes, &version.share_data())?,
            encrypted_private_key: slice(bytes, &version.encrypted_private_key())?,
            header: version.header,
        })
    }

    /// Where the parts lie when they are packed tightly.
    pub fn offsets(&self) -> Offsets {
        let signature = HEADER_LEN + self.public_key.len() as u64;
        let share_hash_chain = signature + self.signature.len() as u64;
        let block_hash_tree = share_hash_chain + self.share_hash_chain.len() as u64;
        let share_data = block_hash_tree + self.block_hash_tree.len() as u64;
        let encrypted_private_key = share_data + self.block.len() as u64;
        let end = encrypted_private_key + self.encrypted_private_key.len() as u64;
        Offsets { signature, share_hash_chain, block_hash_tree, share_data, encrypted_private_key, end }
    }

    /// The version that this share is of.
    pub fn version(&self) -> Version {
        Version { header: self.header.clone(), offsets: super::Offsets::Sdmf(self.offsets()) }
    }

    /// The share's bytes.
    ///
    /// Fails when the header has no IV, or when what comes before the block exceeds 4 GiB.
    pub fn build(&self) -> Result<Vec<u8>, BadShare> {
        if self.header.iv.is_none() {
            return Err(BadShare::Field("IV"));
        }
        let version = self.version();
        let mut out = version.to_bytes()?;
        let parts = [
            self.public_key,
            self.signature,
            self.share_hash_chain,
            self.block_hash_tree,
            self.block,
            self.encrypted_private_key,
        ];
        out.reserve_exact(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| out.extend_from_slice(part));
        Ok(out)
    }
}
