//! The layout of immutable shares, version 1 and 2 (PROTOCOL 5.3).

use std::ops::Range;

use super::chain::{ENTRY_LEN, immutable_entries};
use super::{BadShare, Encoding, Fields, tree_nodes};

/// The longest header there is: what must be read of a share to parse its layout.
pub const MAX_HEADER_LEN: u64 = 0x44;

/// The two widths of a share's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayoutVersion {
    /// 4 bytes.
    V1,
    /// 8 bytes: written only when 4 do not suffice, read at any size.
    V2,
}

impl LayoutVersion {
    /// Bytes of each number, the URI extension block's length field included.
    pub fn width(self) -> u64 {
        match self {
            LayoutVersion::V1 => 4,
            LayoutVersion::V2 => 8,
        }
    }

    /// Bytes of the header: the version, in 4 bytes, and eight numbers.
    pub fn header_len(self) -> u64 {
        4 + 8 * self.width()
    }
}

/// Where everything lies in an immutable share. Offsets count from the share's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Width of the numbers.
    pub version: LayoutVersion,
    /// Bytes of a block; readers do not rely on it.
    pub block_size: u64,
    /// Bytes of all blocks; readers do not rely on it.
    pub share_data_size: u64,
    /// The blocks.
    pub data: u64,
    /// A tree that is no longer used: zeros.
    pub plaintext_hash_tree: u64,
    /// The tree over the segments of the ciphertext, all nodes.
    pub crypttext_hash_tree: u64,
    /// The tree over this share's blocks, all nodes.
    pub block_hashes: u64,
    /// The chain to the root of the tree over all shares.
    pub share_hashes: u64,
    /// The length of the URI extension block, and the block.
    pub uri_extension: u64,
}

impl Layout {
    /// The layout that the reference writes: version 1 while every number fits into it.
    ///
    /// `ueb_len` is the length of the packed URI extension block. Fails when the share would exceed 64 bits.
    pub fn new(
        share_data_size: u64,
        block_size: u64,
        num_segments: u64,
        total_shares: u32,
        ueb_len: u64,
    ) -> Result<Layout, BadShare> {
        let v1 =
            Layout::with_version(LayoutVersion::V1, share_data_size, block_size, num_segments, total_shares, ueb_len);
        match v1 {
            Err(BadShare::TooLarge(_)) => Layout::with_version(
                LayoutVersion::V2,
                share_data_size,
                block_size,
                num_segments,
                total_shares,
                ueb_len,
            ),
            v1 => v1,
        }
    }

    /// [`Layout::new`] for a file that is cut like this.
    pub fn for_encoding(encoding: &Encoding, total_shares: u32, ueb_len: u64) -> Result<Layout, BadShare> {
        let Encoding { share_data_size, block_size, num_segments, .. } = *encoding;
        Layout::new(share_data_size, block_size, num_segments, total_shares, ueb_len)
    }

    /// The layout in a given version; [`BadShare::TooLarge`] when it has no room for the numbers.
    pub fn with_version(
        version: LayoutVersion,
        share_data_size: u64,
        block_size: u64,
        num_segments: u64,
        total_shares: u32,
        ueb_len: u64,
    ) -> Result<Layout, BadShare> {
        const TOO_LARGE: BadShare = BadShare::TooLarge("immutable share");
        let tree = tree_nodes(num_segments).and_then(|nodes| nodes.checked_mul(32)).ok_or(TOO_LARGE)?;
        let chain = u64::from(immutable_entries(total_shares)) * ENTRY_LEN as u64;
        let after = |at: u64, len: u64| at.checked_add(len).ok_or(TOO_LARGE);
        let data = version.header_len();
        let plaintext_hash_tree = after(data, share_data_size)?;
        let crypttext_hash_tree = after(plaintext_hash_tree, tree)?;
        let block_hashes = after(crypttext_hash_tree, tree)?;
        let share_hashes = after(block_hashes, tree)?;
        let uri_extension = after(share_hashes, chain)?;
        if version == LayoutVersion::V1
            && [block_size, share_data_size, uri_extension, ueb_len].iter().any(|&n| n > u64::from(u32::MAX))
        {
            return Err(TOO_LARGE);
        }
        let layout = Layout {
            version,
            block_size,
            share_data_size,
            data,
            plaintext_hash_tree,
            crypttext_hash_tree,
            block_hashes,
            share_hashes,
            uri_extension,
        };
        layout.share_len(ueb_len).ok_or(TOO_LARGE)?;
        Ok(layout)
    }

    /// Parses a share's first bytes, [`MAX_HEADER_LEN`] of them or as many as the share has.
    ///
    /// Only the regions whose length is told by two offsets must be in order: block hashes and share hashes. The rest
    /// is for hashes to judge, as in the reference.
    pub fn parse(bytes: &[u8]) -> Result<Layout, BadShare> {
        let mut fields = Fields::new(bytes);
        let version = match fields.u32()? {
            1 => LayoutVersion::V1,
            2 => LayoutVersion::V2,
            _ => return Err(BadShare::Version("share")),
        };
        let needed = version.header_len();
        if (bytes.len() as u64) < needed {
            return Err(BadShare::Truncated { needed, got: bytes.len() as u64 });
        }
        let mut number = || match version {
            LayoutVersion::V1 => fields.u32().map(u64::from),
            LayoutVersion::V2 => fields.u64(),
        };
        let layout = Layout {
            version,
            block_size: number()?,
            share_data_size: number()?,
            data: number()?,
            plaintext_hash_tree: number()?,
            crypttext_hash_tree: number()?,
            block_hashes: number()?,
            share_hashes: number()?,
            uri_extension: number()?,
        };
        if layout.block_hashes > layout.share_hashes || layout.share_hashes > layout.uri_extension {
            return Err(BadShare::Offsets("hashes"));
        }
        if !(layout.share_hashes - layout.block_hashes).is_multiple_of(32) {
            return Err(BadShare::Field("block hashes"));
        }
        if !(layout.uri_extension - layout.share_hashes).is_multiple_of(ENTRY_LEN as u64) {
            return Err(BadShare::Field("share hashes"));
        }
        layout.uri_extension.checked_add(version.width()).ok_or(BadShare::Offsets("URI extension"))?;
        Ok(layout)
    }

    /// The header: what stands before the blocks.
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_HEADER_LEN as usize);
        let version: u32 = match self.version {
            LayoutVersion::V1 => 1,
            LayoutVersion::V2 => 2,
        };
        out.extend_from_slice(&version.to_be_bytes());
        for number in [
            self.block_size,
            self.share_data_size,
            self.data,
            self.plaintext_hash_tree,
            self.crypttext_hash_tree,
            self.block_hashes,
            self.share_hashes,
            self.uri_extension,
        ] {
            self.push_number(&mut out, number);
        }
        out
    }

    /// The URI extension block as it stands in the share: its length, then itself.
    pub fn ueb_field(&self, ueb: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(ueb.len() + 8);
        self.push_number(&mut out, ueb.len() as u64);
        out.extend_from_slice(ueb);
        out
    }

    fn push_number(&self, out: &mut Vec<u8>, number: u64) {
        let bytes = number.to_be_bytes();
        out.extend_from_slice(&bytes[8 - self.version.width() as usize..]);
    }

    /// Bytes of the whole share with a URI extension block of this length: what is announced to servers.
    pub fn share_len(&self, ueb_len: u64) -> Option<u64> {
        self.uri_extension.checked_add(self.version.width())?.checked_add(ueb_len)
    }

    /// The block of a segment.
    pub fn block_range(&self, encoding: &Encoding, segment: u64) -> Option<Range<u64>> {
        let block = encoding.block_range(segment)?;
        Some(self.data.checked_add(block.start)?..self.data.checked_add(block.end)?)
    }

    /// One node of the tree over the ciphertext's segments.
    pub fn crypttext_hash(&self, node: u64) -> Option<Range<u64>> {
        hash_at(self.crypttext_hash_tree, node)
    }

    /// One node of the tree over this share's blocks; none beyond the region.
    pub fn block_hash(&self, node: u64) -> Option<Range<u64>> {
        hash_at(self.block_hashes, node).filter(|hash| hash.end <= self.share_hashes)
    }

    /// The whole tree over this share's blocks.
    pub fn block_hashes(&self) -> Range<u64> {
        self.block_hashes..self.share_hashes
    }

    /// The whole share hash chain.
    pub fn share_hashes(&self) -> Range<u64> {
        self.share_hashes..self.uri_extension
    }

    /// The field that holds the URI extension block's length.
    pub fn ueb_len_field(&self) -> Range<u64> {
        self.uri_extension..self.uri_extension.saturating_add(self.version.width())
    }

    /// Where the URI extension block lies, by the bytes of its length field.
    ///
    /// Fails when the field is not all there, or tells more than [`super::ueb::MAX_LEN`].
    pub fn ueb_range(&self, field: &[u8]) -> Result<Range<u64>, BadShare> {
        let mut fields = Fields::new(field);
        let len = match self.version {
            LayoutVersion::V1 => u64::from(fields.u32()?),
            LayoutVersion::V2 => fields.u64()?,
        };
        if len > super::ueb::MAX_LEN {
            return Err(BadShare::TooLarge("URI extension block"));
        }
        let start = self.ueb_len_field().end;
        let end = start.checked_add(len).ok_or(BadShare::Offsets("URI extension"))?;
        Ok(start..end)
    }
}

fn hash_at(base: u64, node: u64) -> Option<Range<u64>> {
    let start = base.checked_add(node.checked_mul(32)?)?;
    Some(start..start.checked_add(32)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_2_begins_where_4_bytes_end() {
        // One segment, one share: header 36, three trees of one node, one chain entry.
        let rest = 36 + 3 * 32 + 34;
        let most = u64::from(u32::MAX) - rest;
        assert_eq!(Layout::new(most, 1, 1, 1, 400).unwrap().version, LayoutVersion::V1);
        assert_eq!(Layout::new(most + 1, 1, 1, 1, 400).unwrap().version, LayoutVersion::V2);
        assert_eq!(Layout::new(10, 1 << 32, 1, 1, 400).unwrap().version, LayoutVersion::V2);
        assert!(Layout::new(u64::MAX - 100, 1, 1, 1, 400).is_err());
        assert!(Layout::new(1, 1, u64::MAX, 1, 400).is_err());
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = Layout::new(100, 10, 10, 10, 400).unwrap();
        assert_eq!(Layout::parse(&good.header()).unwrap(), good);
        assert!(matches!(Layout::parse(&good.header()[..35]), Err(BadShare::Truncated { needed: 36, got: 35 })));
        assert_eq!(Layout::parse(&[0, 0, 0, 3]), Err(BadShare::Version("share")));
        for bad in [
            Layout { block_hashes: good.share_hashes + 32, ..good },
            Layout { share_hashes: good.uri_extension + 34, ..good },
            Layout { block_hashes: good.block_hashes + 1, ..good },
            Layout { uri_extension: good.uri_extension + 1, ..good },
        ] {
            assert!(Layout::parse(&bad.header()).is_err());
        }
        assert!(good.ueb_range(&u32::MAX.to_be_bytes()).is_err());
        assert!(good.ueb_range(&[0, 0, 1]).is_err());
    }

    proptest! {
        #[test]
        fn parse_never_panics(version in 0u32..4, rest: Vec<u8>, encoding in (any::<u64>(), 1u32..300), n: u64) {
            let bytes = [&version.to_be_bytes()[..], &rest].concat();
            if let Ok(layout) = Layout::parse(&bytes) {
                let encoding = Encoding::guess(encoding.0, encoding.1).unwrap();
                let _ = (layout.block_range(&encoding, n), layout.block_hash(n), layout.crypttext_hash(n));
                let _ = (layout.share_len(n), layout.ueb_range(&rest), layout.block_hashes(), layout.share_hashes());
                prop_assert_eq!(&layout.header()[..], &bytes[..layout.version.header_len() as usize]);
            }
        }

        #[test]
        fn builds_what_it_parses(data in 0u64..1 << 40, block in 0u64..1 << 33, segments in 0u64..1 << 20, total in 1u32..=256) {
            let layout = Layout::new(data, block, segments, total, 400).unwrap();
            prop_assert_eq!(Layout::parse(&layout.header()).unwrap(), layout);
        }
    }
}
