//! The files that a storage server keeps shares in (PROTOCOL 9).

use super::lease::{IMMUTABLE_LEN, Lease, MUTABLE_LEN, Schema};
use super::{BadShare, Fields};
use crate::crypto::WriteEnabler;

/// Bytes of a file that tell what it is.
pub const MAGIC_LEN: usize = 32;

const MUTABLE_MAGIC_V1: &[u8; MAGIC_LEN] = b"Tahoe mutable container v1\n\x75\x09\x44\x03\x8e";
const MUTABLE_MAGIC_V2: &[u8; MAGIC_LEN] = b"Tahoe mutable container v2\n\xc3\x55\x21\x99\x25";

/// Whether a file that begins like this is a mutable container; every other is an immutable one.
pub fn is_mutable(first_bytes: &[u8]) -> bool {
    mutable_schema(first_bytes).is_some()
}

fn mutable_schema(first_bytes: &[u8]) -> Option<Schema> {
    match first_bytes.first_chunk()? {
        MUTABLE_MAGIC_V1 => Some(Schema::V1),
        MUTABLE_MAGIC_V2 => Some(Schema::V2),
        _ => None,
    }
}

/// The header of an immutable container; the share follows, then the leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImmutableContainer {
    /// How leases are kept.
    pub schema: Schema,
    /// Bytes of the share as the header tells them, saturated. Not to be relied on: see [`Self::data_len`].
    pub declared_len: u32,
    /// Leases.
    pub lease_count: u32,
}

impl ImmutableContainer {
    /// Where the share begins.
    pub const DATA_OFFSET: u64 = 12;

    /// Where the number of leases stands.
    pub const LEASE_COUNT_OFFSET: u64 = 8;

    /// A new container, without leases, for a share of this many bytes.
    pub fn new(data_len: u64) -> ImmutableContainer {
        let declared_len = u32::try_from(data_len).unwrap_or(u32::MAX);
        ImmutableContainer { schema: Schema::V2, declared_len, lease_count: 0 }
    }

    /// Parses a file's first [`Self::DATA_OFFSET`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<ImmutableContainer, BadShare> {
        let mut fields = Fields::new(bytes);
        let schema = match fields.u32()? {
            1 => Schema::V1,
            2 => Schema::V2,
            _ => return Err(BadShare::Version("immutable container")),
        };
        Ok(ImmutableContainer { schema, declared_len: fields.u32()?, lease_count: fields.u32()? })
    }

    /// The header.
    pub fn to_bytes(&self) -> [u8; Self::DATA_OFFSET as usize] {
        let mut out = [0; Self::DATA_OFFSET as usize];
        out[..4].copy_from_slice(&self.schema.number().to_be_bytes());
        out[4..8].copy_from_slice(&self.declared_len.to_be_bytes());
        out[8..].copy_from_slice(&self.lease_count.to_be_bytes());
        out
    }

    /// Bytes of the share in a file of this many bytes. Fails when the leases alone need more.
    pub fn data_len(&self, file_len: u64) -> Result<u64, BadShare> {
        let needed = Self::DATA_OFFSET + u64::from(self.lease_count) * IMMUTABLE_LEN as u64;
        file_len.checked_sub(needed).ok_or(BadShare::Truncated { needed, got: file_len })
    }

    /// Where a lease stands behind a share of this many bytes.
    pub fn lease_offset(data_len: u64, index: usize) -> Option<u64> {
        let before = (index as u64).checked_mul(IMMUTABLE_LEN as u64)?;
        Self::DATA_OFFSET.checked_add(data_len)?.checked_add(before)
    }

    /// Parses the leases from what follows the share.
    pub fn parse_leases(&self, bytes: &[u8]) -> Result<Vec<Lease>, BadShare> {
        records(bytes, self.lease_count, IMMUTABLE_LEN)?.map(Lease::from_immutable).collect()
    }
}

/// The header of a mutable container: room for data follows, then the leases for which the header has no slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutableContainer {
    /// How leases are kept.
    pub schema: Schema,
    /// Tub id of the server that recorded the write enabler.
    pub node_id: [u8; 20],
    /// What may write.
    pub write_enabler: WriteEnabler,
    /// Bytes of data.
    pub data_len: u64,
    /// Where the number of extra leases stands, and then they; not before the data's end.
    pub extra_offset: u64,
    /// The first four leases; without owner: empty.
    pub slots: [Lease; MutableContainer::SLOTS],
}

impl MutableContainer {
    /// Where the data begins.
    pub const DATA_OFFSET: u64 = 468;

    /// Where the data's length stands.
    pub const DATA_LEN_OFFSET: u64 = 84;

    /// Where the offset of the extra leases stands.
    pub const EXTRA_OFFSET_OFFSET: u64 = 92;

    /// Where the lease slots stand.
    pub const SLOTS_OFFSET: u64 = 100;

    /// Leases that the header has room for.
    pub const SLOTS: usize = 4;

    /// A new container, without data or leases: [`Self::to_bytes`], then the number of extra leases.
    pub fn new(node_id: [u8; 20], write_enabler: WriteEnabler) -> MutableContainer {
        let empty = || Lease::cancelled(Schema::V1);
        MutableContainer {
            schema: Schema::V2,
            node_id,
            write_enabler,
            data_len: 0,
            extra_offset: Self::DATA_OFFSET,
            slots: [empty(), empty(), empty(), empty()],
        }
    }

    /// Parses a file's first [`Self::DATA_OFFSET`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<MutableContainer, BadShare> {
        let mut fields = Fields::new(bytes);
        let schema = mutable_schema(&fields.take::<MAGIC_LEN>()?).ok_or(BadShare::Version("mutable container"))?;
        let node_id = fields.take()?;
        let write_enabler = WriteEnabler::new(fields.take()?);
        let (data_len, extra_offset) = (fields.u64()?, fields.u64()?);
        let mut slot = || Lease::from_mutable(&fields.take::<MUTABLE_LEN>()?);
        let slots = [slot()?, slot()?, slot()?, slot()?];
        if Self::DATA_OFFSET.checked_add(data_len).is_none_or(|end| extra_offset < end) {
            return Err(BadShare::Offsets("extra leases"));
        }
        Ok(MutableContainer { schema, node_id, write_enabler, data_len, extra_offset, slots })
    }

    /// The header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::DATA_OFFSET as usize);
        out.extend_from_slice(match self.schema {
            Schema::V1 => MUTABLE_MAGIC_V1,
            Schema::V2 => MUTABLE_MAGIC_V2,
        });
        out.extend_from_slice(&self.node_id);
        out.extend_from_slice(self.write_enabler.as_bytes());
        out.extend_from_slice(&self.data_len.to_be_bytes());
        out.extend_from_slice(&self.extra_offset.to_be_bytes());
        self.slots.iter().for_each(|slot| out.extend_from_slice(&slot.to_mutable()));
        out
    }

    /// Bytes of data for which there is room before the extra leases.
    pub fn room(&self) -> u64 {
        self.extra_offset.saturating_sub(Self::DATA_OFFSET)
    }

    /// Where the extra leases must move to before data may reach `data_len`; `None` when there is room.
    ///
    /// Containers never give room back. Fails beyond 64 bits.
    pub fn extra_offset_for(&self, data_len: u64) -> Result<Option<u64>, BadShare> {
        let end = Self::DATA_OFFSET.checked_add(data_len).ok_or(BadShare::TooLarge("mutable share"))?;
        Ok((end > self.extra_offset).then_some(end))
    }

    /// Where a lease stands, the extra ones counted after the slots.
    pub fn lease_offset(&self, index: usize) -> Option<u64> {
        let (base, index) = match index.checked_sub(Self::SLOTS) {
            None => (Self::SLOTS_OFFSET, index),
            Some(extra) => (self.extra_offset.checked_add(4)?, extra),
        };
        base.checked_add((index as u64).checked_mul(MUTABLE_LEN as u64)?)
    }

    /// Parses the extra leases from the bytes at [`Self::extra_offset`]: their number, and they.
    pub fn parse_extra(bytes: &[u8]) -> Result<Vec<Lease>, BadShare> {
        let count = Fields::new(bytes).u32()?;
        records(&bytes[4..], count, MUTABLE_LEN)?.map(Lease::from_mutable).collect()
    }

    /// The extra leases as they stand in the file. Fails when their number exceeds 32 bits.
    pub fn extra_to_bytes(leases: &[Lease]) -> Result<Vec<u8>, BadShare> {
        let count = u32::try_from(leases.len()).map_err(|_| BadShare::TooLarge("number of leases"))?;
        let mut out = count.to_be_bytes().to_vec();
        leases.iter().for_each(|lease| out.extend_from_slice(&lease.to_mutable()));
        Ok(out)
    }
}

/// The first `count` records of `len` bytes, if all are there.
fn records(bytes: &[u8], count: u32, len: usize) -> Result<std::slice::ChunksExact<'_, u8>, BadShare> {
    let needed = u64::from(count) * len as u64;
    let got = bytes.len() as u64;
    let all = usize::try_from(needed).ok().and_then(|needed| bytes.get(..needed));
    Ok(all.ok_or(BadShare::Truncated { needed, got })?.chunks_exact(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_large_share_saturates_the_declared_length() {
        let header = ImmutableContainer::new(1 << 32);
        assert_eq!(header.to_bytes()[4..8], [0xff; 4]);
        assert_eq!(header.data_len((1 << 32) + 12).unwrap(), 1 << 32);
    }

    #[test]
    fn lying_headers_are_refused() {
        let header = ImmutableContainer { schema: Schema::V2, declared_len: 0, lease_count: u32::MAX };
        assert!(header.data_len(1000).is_err());
        assert!(header.parse_leases(&[0; 720]).is_err());
        assert!(ImmutableContainer::parse(&[0; 12]).is_err());
        assert!(MutableContainer::parse_extra(&[0xff; 100]).is_err());
        let good = MutableContainer::new([1; 20], WriteEnabler::new([2; 32]));
        assert_eq!(MutableContainer::parse(&good.to_bytes()).unwrap(), good);
        for (data_len, extra_offset) in [(1, 468), (u64::MAX, u64::MAX), (0, 467)] {
            let bad = MutableContainer { data_len, extra_offset, ..good.clone() };
            assert!(MutableContainer::parse(&bad.to_bytes()).is_err());
        }
        assert!(good.extra_offset_for(u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), version in 1u32..3, n: u64) {
            let _ = (MutableContainer::parse_extra(&bytes), is_mutable(&bytes), MutableContainer::parse(&bytes));
            let immutable = [&version.to_be_bytes()[..], &bytes].concat();
            if let Ok(header) = ImmutableContainer::parse(&immutable) {
                let _ = (header.data_len(n), header.parse_leases(&bytes), ImmutableContainer::lease_offset(n, n as usize));
                prop_assert_eq!(&header.to_bytes()[..], &immutable[..12]);
            }
            let mutable = [&MUTABLE_MAGIC_V2[..], &bytes].concat();
            if let Ok(header) = MutableContainer::parse(&mutable) {
                let _ = (header.lease_offset(n as usize), header.extra_offset_for(n), header.room());
                prop_assert_eq!(&header.to_bytes()[..], &mutable[..468]);
            }
        }
    }
}
