//! What SDMF and MDMF shares have in common: the signed header, and the identity of a version (PROTOCOL 6).

use std::ops::Range;

use super::{BadShare, Encoding, mdmf, sdmf};
use crate::cap::MutableFormat;
use crate::crypto::Hash;

/// Bytes from a share's start that suffice to parse the header of either format.
pub const MAX_HEADER_LEN: u64 = mdmf::HEADER_LEN;

/// The signed fields of a mutable share's header.
///
/// Ordered as versions are: by sequence number, then root hash, then IV.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MutableHeader {
    /// Grows with every version; the first is 1.
    pub seqnum: u64,
    /// Root of the tree over all shares.
    pub root_hash: Hash,
    /// The IV of an SDMF share; an MDMF share has none, which is what tells the two.
    pub iv: Option<[u8; 16]>,
    /// Bytes of every segment but the last, a multiple of k.
    pub segment_size: u64,
    /// Bytes of the file.
    pub data_length: u64,
    /// k.
    pub needed: u8,
    /// N.
    pub total: u8,
}

impl MutableHeader {
    /// SDMF or MDMF.
    pub fn format(&self) -> MutableFormat {
        if self.iv.is_some() { MutableFormat::Sdmf } else { MutableFormat::Mdmf }
    }

    /// What a read-test-write compares: version, sequence number, root hash and, in SDMF, the IV. 57 or 41 bytes.
    pub fn checkstring(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_HEADER_LEN as usize);
        out.push(match self.format() {
            MutableFormat::Sdmf => sdmf::VERSION,
            MutableFormat::Mdmf => mdmf::VERSION,
        });
        out.extend_from_slice(&self.seqnum.to_be_bytes());
        out.extend_from_slice(&self.root_hash);
        out.extend_from_slice(self.iv.as_ref().map_or(&[], |iv| &iv[..]));
        out
    }

    /// The bytes that the signature covers: 75 of an SDMF share, 59 of an MDMF share.
    pub fn signed_prefix(&self) -> Vec<u8> {
        let mut out = self.checkstring();
        out.extend_from_slice(&[self.needed, self.total]);
        out.extend_from_slice(&self.segment_size.to_be_bytes());
        out.extend_from_slice(&self.data_length.to_be_bytes());
        out
    }

    /// How the file is cut. Fails when the segment size is none.
    pub fn encoding(&self) -> Result<Encoding, BadShare> {
        Encoding::with_segment_size(self.data_length, u32::from(self.needed), self.segment_size)
    }

    /// 1 <= k <= N.
    pub(super) fn check(self) -> Result<MutableHeader, BadShare> {
        if (1..=self.total).contains(&self.needed) { Ok(self) } else { Err(BadShare::Field("k and N")) }
    }
}

/// Where everything lies in a mutable share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Offsets {
    /// In an SDMF share.
    Sdmf(sdmf::Offsets),
    /// In an MDMF share.
    Mdmf(mdmf::Offsets),
}

/// The identity of a version: shares are of one version when all of this is equal, offsets included (PROTOCOL 6.4).
///
/// Ordered so that the greatest of the recoverable versions is the best one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// What is signed.
    pub header: MutableHeader,
    /// What is not, but must agree all the same.
    pub offsets: Offsets,
}

impl Version {
    /// Parses a share's first bytes, [`MAX_HEADER_LEN`] of them or as many as there are.
    ///
    /// Every region ends where or after it begins; nothing is said about the share reaching that far.
    pub fn parse(bytes: &[u8]) -> Result<Version, BadShare> {
        match bytes.first() {
            Some(&sdmf::VERSION) => {
                let (header, offsets) = sdmf::parse_header(bytes)?;
                Ok(Version { header, offsets: Offsets::Sdmf(offsets) })
            }
            Some(&mdmf::VERSION) => {
                let (header, offsets) = mdmf::parse_header(bytes)?;
                Ok(Version { header, offsets: Offsets::Mdmf(offsets) })
            }
            Some(_) => Err(BadShare::Version("mutable share")),
            None => Err(BadShare::Truncated { needed: 1, got: 0 }),
        }
    }

    /// The whole header: the signed prefix and the table of offsets.
    ///
    /// Fails when an SDMF offset does not fit into its 4 bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BadShare> {
        let mut out = self.header.signed_prefix();
        match &self.offsets {
            Offsets::Sdmf(offsets) => offsets.push(&mut out)?,
            Offsets::Mdmf(offsets) => offsets.push(&mut out),
        }
        Ok(out)
    }

    /// The public key.
    pub fn public_key(&self) -> Range<u64> {
        match &self.offsets {
            Offsets::Sdmf(o) => sdmf::HEADER_LEN..o.signature,
            Offsets::Mdmf(o) => o.verification_key..o.verification_key_end,
        }
    }

    /// The signature.
    pub fn signature(&self) -> Range<u64> {
        match &self.offsets {
            Offsets::Sdmf(o) => o.signature..o.share_hash_chain,
            Offsets::Mdmf(o) => o.signature..o.verification_key,
        }
    }

    /// The share hash chain.
    pub fn share_hash_chain(&self) -> Range<u64> {
        match &self.offsets {
            Offsets::Sdmf(o) => o.share_hash_chain..o.block_hash_tree,
            Offsets::Mdmf(o) => o.share_hash_chain..o.signature,
        }
    }

    /// The tree over this share's blocks, all nodes.
    pub fn block_hash_tree(&self) -> Range<u64> {
        match &self.offsets {
            Offsets::Sdmf(o) => o.block_hash_tree..o.share_data,
            Offsets::Mdmf(o) => o.block_hash_tree..o.end,
        }
    }

    /// The blocks, in MDMF each behind its salt.
    pub fn share_data(&self) -> Range<u64> {
        match &self.offsets {
            Offsets::Sdmf(o) => o.share_data..o.encrypted_private_key,
            Offsets::Mdmf(o) => o.share_data..o.block_hash_tree,
        }
    }

    /// The private key under the write key.
    pub fn encrypted_private_key(&self) -> Range<u64> {
        match &self.offsets {
            Offsets::Sdmf(o) => o.encrypted_private_key..o.end,
            Offsets::Mdmf(o) => o.encrypted_private_key..o.share_hash_chain,
        }
    }

    /// Where the share ends; what a slot holds beyond is stale.
    pub fn end(&self) -> u64 {
        match &self.offsets {
            Offsets::Sdmf(o) => o.end,
            Offsets::Mdmf(o) => o.end,
        }
    }

    /// What the block hash of a segment covers: the block, in MDMF with its salt before it ([`mdmf::split_block`]).
    ///
    /// `None` for a segment that is not there, or beyond 64 bits.
    pub fn block_range(&self, encoding: &Encoding, segment: u64) -> Option<Range<u64>> {
        let block = encoding.block_range(segment)?;
        match &self.offsets {
            Offsets::Sdmf(o) => Some(o.share_data.checked_add(block.start)?..o.share_data.checked_add(block.end)?),
            Offsets::Mdmf(o) => {
                let salts = segment.checked_mul(mdmf::SALT_LEN)?;
                let start = o.share_data.checked_add(block.start)?.checked_add(salts)?;
                Some(start..start.checked_add(block.end - block.start)?.checked_add(mdmf::SALT_LEN)?)
            }
        }
    }
}

/// Fails unless every offset is at or behind the one before.
pub(super) fn check_ascending(offsets: &[u64], what: &'static str) -> Result<(), BadShare> {
    if offsets.is_sorted() { Ok(()) } else { Err(BadShare::Offsets(what)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn greatest_is_best() {
        let header = |seqnum, root: u8, iv: u8| MutableHeader {
            seqnum,
            root_hash: [root; 32],
            iv: Some([iv; 16]),
            segment_size: u64::from(9 - iv),
            data_length: 0,
            needed: 1,
            total: 1,
        };
        let ascending = [header(1, 9, 9), header(2, 1, 9), header(2, 2, 1), header(2, 2, 2)];
        assert!(ascending.is_sorted());
        assert!(ascending.windows(2).all(|pair| pair[0] != pair[1]));
    }

    proptest! {
        #[test]
        fn parse_never_panics(first in 0u8..3, rest in proptest::collection::vec(any::<u8>(), 0..140), small: bool, i: u64) {
            let mut bytes = [vec![first], rest].concat();
            if small {
                // Offsets that are small are more likely to be in order.
                bytes.iter_mut().skip(59).enumerate().filter(|(at, _)| at % 4 < 3).for_each(|(_, b)| *b = 0);
            }
            if let Ok(version) = Version::parse(&bytes) {
                let back = version.to_bytes().unwrap();
                prop_assert_eq!(&back[..], &bytes[..back.len()]);
                for range in [
                    version.public_key(),
                    version.signature(),
                    version.share_hash_chain(),
                    version.block_hash_tree(),
                    version.share_data(),
                    version.encrypted_private_key(),
                ] {
                    prop_assert!(range.start <= range.end);
                    let _ = crate::share::slice(&bytes, &range);
                }
                if let Ok(encoding) = version.header.encoding() {
                    let _ = (version.block_range(&encoding, i), version.block_range(&encoding, encoding.num_segments.wrapping_sub(1)));
                }
            }
        }
    }
}
