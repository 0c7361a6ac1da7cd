//! Share containers as files: reading, writing in place, and their leases (PROTOCOL 9).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::disk::read_up_to;
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::share::BadShare;
use crate::share::container::{ImmutableContainer, MAGIC_LEN, MutableContainer, is_mutable};
use crate::share::lease::{
    IMMUTABLE_LEN, Lease, LeaseWrite, MUTABLE_LEN, add_or_renew_immutable, add_or_renew_mutable,
};

/// No container has more leases than this; one that says so is damaged.
const LEASE_LIMIT: u64 = 1 << 20;
/// Bytes of zeros written at once.
const ZEROS: [u8; 16384] = [0; 16384];

/// What a lease is made of, apart from the container's version.
#[derive(Clone, Copy)]
pub(super) struct NewLease<'a> {
    /// The secrets as they were sent.
    pub(super) secrets: &'a LeaseSecrets,
    /// 0 from an upload, 1 from everything else.
    pub(super) owner: u32,
    /// Seconds since the epoch.
    pub(super) expiration: u32,
    /// The store's tub id.
    pub(super) node_id: [u8; 20],
}

/// What is kept of a mutable share's data in its next version.
pub(super) struct Kept {
    /// As long the data is to begin with.
    pub(super) length: u64,
    /// These bytes of it stay; ascending.
    pub(super) ranges: Vec<(u64, u64)>,
}

/// A share's file, opened.
pub(super) enum ShareFile {
    /// CHK.
    Immutable(ImmutableFile),
    /// SDMF or MDMF.
    Mutable(Box<MutableFile>),
}

impl ShareFile {
    /// Looks at the file's head. Fails on what is neither kind of container.
    pub(super) fn open(file: File) -> io::Result<ShareFile> {
        let head = read_up_to(&file, 0, MAGIC_LEN as u64)?;
        match is_mutable(&head) {
            true => MutableFile::open(file).map(|f| ShareFile::Mutable(Box::new(f))),
            false => ImmutableFile::open(file, &head).map(ShareFile::Immutable),
        }
    }

    /// Whether [`ShareFile::lease`] would need room for a lease that is not there yet.
    pub(super) fn lacks_lease(&self, lease: NewLease<'_>) -> io::Result<bool> {
        Ok(match self {
            ShareFile::Immutable(f) => f.lease_write(lease)?.is_some_and(|w| w.index == f.header.lease_count as usize),
            ShareFile::Mutable(f) => f.lease_write(lease)?.is_some_and(|(w, known)| w.index == known),
        })
    }

    /// When its last lease ends, in seconds since the epoch; 0 without any.
    pub(super) fn lease_end(&self) -> io::Result<i64> {
        let (records, first) = match self {
            ShareFile::Immutable(f) => (f.leases()?, 0),
            // A slot without an owner is none.
            ShareFile::Mutable(f) => (f.leases()?, 1),
        };
        let ends = records.iter().filter(|record| record.owner >= first).map(|record| i64::from(record.expiration));
        Ok(ends.max().unwrap_or(0))
    }

    /// Renews or adds a lease.
    pub(super) fn lease(&mut self, lease: NewLease<'_>) -> io::Result<()> {
        match self {
            ShareFile::Immutable(f) => f.lease(lease),
            ShareFile::Mutable(f) => f.lease(lease),
        }
    }
}

fn damaged(why: BadShare) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads `offset..offset + length`, cut at `end` of the data that begins at `base`.
fn read_data(file: &File, base: u64, end: u64, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let start = offset.min(end);
    let stop = offset.saturating_add(length).min(end);
    read_up_to(file, base.saturating_add(start), stop - start)
}

/// An immutable share's container.
pub(super) struct ImmutableFile {
    file: File,
    header: ImmutableContainer,
    data_len: u64,
}

impl ImmutableFile {
    /// Writes the head of a new container and the lease behind the data that is still to come.
    pub(super) fn create(file: &File, data_len: u64, lease: NewLease<'_>) -> io::Result<()> {
        let header = ImmutableContainer { lease_count: 1, ..ImmutableContainer::new(data_len) };
        let record = Lease::new(header.schema, lease.secrets, lease.owner, lease.expiration, lease.node_id);
        let behind = ImmutableContainer::lease_offset(data_len, 0).ok_or(BadShare::TooLarge("share"));
        file.write_all_at(&record.to_immutable(), behind.map_err(damaged)?)?;
        file.write_all_at(&header.to_bytes(), 0)
    }

    fn open(file: File, head: &[u8]) -> io::Result<ImmutableFile> {
        let header = ImmutableContainer::parse(head).map_err(damaged)?;
        let data_len = header.data_len(file.metadata()?.len()).map_err(damaged)?;
        Ok(ImmutableFile { file, header, data_len })
    }

    /// Bytes of the share, cut at its end.
    pub(super) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        read_data(&self.file, ImmutableContainer::DATA_OFFSET, self.data_len, offset, length)
    }

    /// Bytes of the share.
    pub(super) fn data_len(&self) -> u64 {
        self.data_len
    }

    fn leases(&self) -> io::Result<Vec<Lease>> {
        if u64::from(self.header.lease_count) > LEASE_LIMIT {
            return Err(damaged(BadShare::TooLarge("number of leases")));
        }
        let all = u64::from(self.header.lease_count) * IMMUTABLE_LEN as u64;
        let bytes = read_up_to(&self.file, ImmutableContainer::DATA_OFFSET + self.data_len, all)?;
        self.header.parse_leases(&bytes).map_err(damaged)
    }

    fn lease_write(&self, lease: NewLease<'_>) -> io::Result<Option<LeaseWrite>> {
        let records = self.leases()?;
        let new = Lease::new(self.header.schema, lease.secrets, lease.owner, lease.expiration, lease.node_id);
        Ok(add_or_renew_immutable(&records, new))
    }

    fn lease(&mut self, lease: NewLease<'_>) -> io::Result<()> {
        let Some(LeaseWrite { index, record }) = self.lease_write(lease)? else {
            return Ok(());
        };
        let offset = ImmutableContainer::lease_offset(self.data_len, index).ok_or(BadShare::TooLarge("share"));
        self.file.write_all_at(&record.to_immutable(), offset.map_err(damaged)?)?;
        if index == self.header.lease_count as usize {
            let count = self.header.lease_count + 1;
            self.file.write_all_at(&count.to_be_bytes(), ImmutableContainer::LEASE_COUNT_OFFSET)?;
            self.header.lease_count = count;
        }
        Ok(())
    }
}

/// A mutable share's container.
pub(super) struct MutableFile {
    file: File,
    header: MutableContainer,
}

impl MutableFile {
    /// Writes a new container without data or leases.
    pub(super) fn create(file: File, node_id: [u8; 20], enabler: &WriteEnabler) -> io::Result<MutableFile> {
        MutableFile::write_whole(file, MutableContainer::new(node_id, enabler.clone()), &[])
    }

    pub(super) fn open(file: File) -> io::Result<MutableFile> {
        let head = read_up_to(&file, 0, MutableContainer::DATA_OFFSET)?;
        let header = MutableContainer::parse(&head).map_err(damaged)?;
        Ok(MutableFile { file, header })
    }

    /// Copies the container into an empty file, with what is kept of its data; the rest is to be written.
    pub(super) fn copy_to(&self, file: File, kept: &Kept) -> io::Result<MutableFile> {
        let extra_offset = MutableContainer::DATA_OFFSET + kept.length;
        let header = MutableContainer { data_len: kept.length, extra_offset, ..self.header.clone() };
        let there = self.file.metadata()?.len();
        for (from, to) in &kept.ranges {
            let from = MutableContainer::DATA_OFFSET + from;
            let to = (MutableContainer::DATA_OFFSET + to).min(there);
            // The kernel copies, or shares the blocks where the file system can.
            (&self.file).seek(SeekFrom::Start(from))?;
            (&file).seek(SeekFrom::Start(from))?;
            io::copy(&mut (&self.file).take(to.saturating_sub(from)), &mut &file)?;
        }
        MutableFile::write_whole(file, header, &self.extra()?)
    }

    fn write_whole(file: File, header: MutableContainer, extra: &[Lease]) -> io::Result<MutableFile> {
        file.write_all_at(&header.to_bytes(), 0)?;
        let extra = MutableContainer::extra_to_bytes(extra).map_err(damaged)?;
        file.write_all_at(&extra, header.extra_offset)?;
        Ok(MutableFile { file, header })
    }

    /// Bytes of data.
    pub(super) fn data_len(&self) -> u64 {
        self.header.data_len
    }

    /// Whether `enabler` is the slot's; in constant time.
    pub(super) fn allows(&self, enabler: &WriteEnabler) -> bool {
        self.header.write_enabler == *enabler
    }

    /// Bytes of the share, cut at its end.
    pub(super) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let there = self.file.metadata()?.len().saturating_sub(MutableContainer::DATA_OFFSET);
        let end = self.header.data_len.min(there);
        read_data(&self.file, MutableContainer::DATA_OFFSET, end, offset, length)
    }

    /// The leases for which the header has no slot.
    fn extra(&self) -> io::Result<Vec<Lease>> {
        let count = read_up_to(&self.file, self.header.extra_offset, 4)?;
        let cut = BadShare::Truncated { needed: 4, got: count.len() as u64 };
        let count = u64::from(u32::from_be_bytes(count.try_into().map_err(|_| damaged(cut))?));
        if count > LEASE_LIMIT {
            return Err(damaged(BadShare::TooLarge("number of leases")));
        }
        let bytes = read_up_to(&self.file, self.header.extra_offset, 4 + count * MUTABLE_LEN as u64)?;
        MutableContainer::parse_extra(&bytes).map_err(damaged)
    }

    /// Writes data in place. A hole before it reads as zeros.
    ///
    /// The order keeps the container well formed at every step: extra leases stand at their new place before the
    /// header says so, and the data before its length.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let large = || damaged(BadShare::TooLarge("mutable share"));
        let end = offset.checked_add(data.len() as u64).ok_or_else(large)?;
        let before = self.file.metadata()?.len();
        if let Some(place) = self.header.extra_offset_for(end.max(self.header.data_len)).map_err(damaged)? {
            let extra = MutableContainer::extra_to_bytes(&self.extra()?).map_err(damaged)?;
            self.file.write_all_at(&extra, place)?;
            self.file.write_all_at(&place.to_be_bytes(), MutableContainer::EXTRA_OFFSET_OFFSET)?;
            let old = self.header.extra_offset;
            self.zero(old, old.saturating_add(extra.len() as u64).min(place))?;
            self.header.extra_offset = place;
        }
        if offset > self.header.data_len {
            let from = MutableContainer::DATA_OFFSET + self.header.data_len;
            // What lay beyond the file's end is zero already.
            self.zero(from, (MutableContainer::DATA_OFFSET + offset).min(before))?;
        }
        self.file.write_all_at(data, MutableContainer::DATA_OFFSET + offset)?;
        if end > self.header.data_len { self.set_data_len(end) } else { Ok(()) }
    }

    /// Cuts the data to `length`; a larger one changes nothing. The file keeps its size.
    pub(super) fn shorten(&mut self, length: u64) -> io::Result<()> {
        if length < self.header.data_len { self.set_data_len(length) } else { Ok(()) }
    }

    fn set_data_len(&mut self, length: u64) -> io::Result<()> {
        self.file.write_all_at(&length.to_be_bytes(), MutableContainer::DATA_LEN_OFFSET)?;
        self.header.data_len = length;
        Ok(())
    }

    fn zero(&self, mut from: u64, to: u64) -> io::Result<()> {
        while from < to {
            let some = (to - from).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..some as usize], from)?;
            from += some;
        }
        Ok(())
    }

    /// The slots, and the leases for which there is none.
    fn leases(&self) -> io::Result<Vec<Lease>> {
        let mut records = self.header.slots.to_vec();
        records.extend(self.extra()?);
        Ok(records)
    }

    /// What is to be written for a lease, and how many records there are.
    fn lease_write(&self, lease: NewLease<'_>) -> io::Result<Option<(LeaseWrite, usize)>> {
        let records = self.leases()?;
        let new = Lease::new(self.header.schema, lease.secrets, lease.owner, lease.expiration, lease.node_id);
        Ok(add_or_renew_mutable(&records, new).map(|write| (write, records.len())))
    }

    /// Renews or adds a lease.
    pub(super) fn lease(&mut self, lease: NewLease<'_>) -> io::Result<()> {
        let Some((LeaseWrite { index, record }, known)) = self.lease_write(lease)? else {
            return Ok(());
        };
        let large = || damaged(BadShare::TooLarge("number of leases"));
        self.file.write_all_at(&record.to_mutable(), self.header.lease_offset(index).ok_or_else(large)?)?;
        if index == known {
            let count = u32::try_from(index + 1 - MutableContainer::SLOTS).map_err(|_| large())?;
            self.file.write_all_at(&count.to_be_bytes(), self.header.extra_offset)?;
        }
        if let Some(slot) = self.header.slots.get_mut(index) {
            *slot = record;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER_PERMISSIVE as HEX;
    use serde_json::Value;

    use super::*;
    use crate::crypto::LeaseSecret;

    fn vectors() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/containers.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn hex(value: &Value) -> Vec<u8> {
        HEX.decode(value.as_str().unwrap().as_bytes()).unwrap()
    }

    fn secrets(vectors: &Value, i: usize) -> (LeaseSecrets, u32) {
        let lease = &vectors["leases"][i];
        let one = |name: &str| LeaseSecret::new(hex(&lease[name]).try_into().unwrap());
        let expiration = lease["expiration"].as_u64().unwrap() as u32;
        (LeaseSecrets { renew: one("renew"), cancel: one("cancel") }, expiration)
    }

    fn file_with(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn content(file: &File) -> Vec<u8> {
        read_up_to(file, 0, file.metadata().unwrap().len()).unwrap()
    }

    /// Every step starts from the reference's file before it and must end in the reference's file after it.
    #[test]
    fn mutable_containers_change_as_the_reference_changes_them() {
        let vectors = vectors();
        for case in vectors["mutable"].as_array().unwrap() {
            let node_id: [u8; 20] = hex(&case["nodeid"]).try_into().unwrap();
            let lease = |f: &mut MutableFile, i: usize, expiration: Option<u32>| {
                let (secrets, usual) = secrets(&vectors, i);
                let expiration = expiration.unwrap_or(usual);
                f.lease(NewLease { secrets: &secrets, owner: 1, expiration, node_id }).unwrap();
            };
            let steps = case["steps"].as_array().unwrap();
            let mut made = 0;
            for (before, step) in steps.iter().zip(&steps[1..]) {
                let mut f = MutableFile::open(file_with(&hex(&before["file_hex"]))).unwrap();
                let after = hex(&step["file_hex"]);
                // The data that a step writes is what stands there afterwards.
                let written = |from: usize, to: usize| &after[468 + from..468 + to];
                let name = step["step"].as_str().unwrap();
                match name.split_once(':').map_or(name, |(head, _)| head) {
                    "write 10 bytes at 0" => f.write(0, written(0, 10)).unwrap(),
                    "add lease 0, owner 1" => lease(&mut f, 0, None),
                    "write at 15" => f.write(15, written(15, after.len() - 468 - 4)).unwrap(),
                    "write at 0, new_length 12" => {
                        let wrote = (0..12).rev().find(|&i| hex(&before["file_hex"])[468 + i] != after[468 + i]);
                        f.write(0, written(0, wrote.map_or(0, |i| i + 1))).unwrap();
                        f.shorten(12).unwrap();
                    }
                    "add leases 1..5" => (1..6).for_each(|i| lease(&mut f, i, None)),
                    "grow to 30" => f.write(0, written(0, 30)).unwrap(),
                    "add lease 6" => lease(&mut f, 6, None),
                    "renew lease 5 (extra) to 1800000000" => lease(&mut f, 5, Some(1_800_000_000)),
                    _ => continue,
                }
                assert_eq!(HEX.encode(&content(&f.file)), HEX.encode(&after), "{name}");
                made += 1;
            }
            assert_eq!(made, 8, "cancelling is not ours");
            let last = MutableFile::open(file_with(&hex(&steps[steps.len() - 1]["file_hex"]))).unwrap();
            assert_eq!(last.data_len(), case["data_length"].as_u64().unwrap());
            assert!(last.allows(&WriteEnabler::new(hex(&case["write_enabler"]).try_into().unwrap())));
            assert!(!last.allows(&WriteEnabler::new([0; 32])));
        }
        let case = &vectors["mutable"][1];
        let enabler = WriteEnabler::new(hex(&case["write_enabler"]).try_into().unwrap());
        let new = MutableFile::create(file_with(b""), hex(&case["nodeid"]).try_into().unwrap(), &enabler).unwrap();
        assert_eq!(content(&new.file), hex(&case["steps"][0]["file_hex"]));
    }

    #[test]
    fn immutable_containers_change_as_the_reference_changes_them() {
        let vectors = vectors();
        for case in vectors["immutable"].as_array().unwrap() {
            let steps: Vec<Vec<u8>> = case["steps"].as_array().unwrap().iter().map(|s| hex(&s["file_hex"])).collect();
            let open = |bytes: &[u8]| match ShareFile::open(file_with(bytes)).unwrap() {
                ShareFile::Immutable(f) => f,
                ShareFile::Mutable(_) => panic!("an immutable share"),
            };
            let with_lease = |bytes: &[u8], i: usize, expiration: Option<u32>| {
                let (secrets, usual) = secrets(&vectors, i);
                let mut f = open(bytes);
                let expiration = expiration.unwrap_or(usual);
                f.lease(NewLease { secrets: &secrets, owner: 0, expiration, node_id: [0; 20] }).unwrap();
                content(&f.file)
            };
            assert_eq!(with_lease(&steps[3], 1, None), steps[4]);
            assert_eq!(with_lease(&steps[4], 0, Some(1_800_000_000)), steps[5]);
            assert_eq!(with_lease(&steps[5], 0, Some(1_750_000_000)), steps[6]);
            let f = open(&steps[6]);
            assert_eq!(f.data_len, case["get_length"].as_u64().unwrap());
            assert_eq!(f.read(0, 100).unwrap(), hex(&case["read_0_100"]));
            assert_eq!(f.read(15, 100).unwrap(), hex(&case["read_15_100"]));
            if case["schema_version"].as_u64() == Some(2) {
                let (secrets, expiration) = secrets(&vectors, 0);
                let file = file_with(b"");
                let lease = NewLease { secrets: &secrets, owner: 0, expiration, node_id: [0; 20] };
                ImmutableFile::create(&file, 20, lease).unwrap();
                file.write_all_at(&steps[3][12..32], 12).unwrap();
                assert_eq!(content(&file), steps[3]);
            }
        }
    }

    #[test]
    fn damaged_containers_are_errors_or_short() {
        let vectors = vectors();
        let (secrets, expiration) = secrets(&vectors, 0);
        let lease = NewLease { secrets: &secrets, owner: 1, expiration, node_id: [0; 20] };
        for kind in ["mutable", "immutable"] {
            let whole = hex(&vectors[kind][1]["steps"][6]["file_hex"]);
            let mut variants: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
            variants.extend((0..whole.len().min(700)).map(|i| {
                let mut bytes = whole.clone();
                bytes[i] = 0xff;
                bytes
            }));
            for bytes in variants {
                let Ok(mut share) = ShareFile::open(file_with(&bytes)) else {
                    continue;
                };
                let read = match &share {
                    ShareFile::Immutable(f) => f.read(0, 1 << 40),
                    ShareFile::Mutable(f) => f.read(0, 1 << 40),
                };
                assert!(read.unwrap().len() <= bytes.len());
                let _ = (share.lacks_lease(lease), share.lease(lease));
                if let ShareFile::Mutable(f) = &mut share {
                    let all = Kept { length: f.data_len(), ranges: vec![(0, f.data_len())] };
                    let none = Kept { length: 0, ranges: Vec::new() };
                    let _ = (f.copy_to(file_with(b""), &all), f.copy_to(file_with(b""), &none), f.write(3, b"abc"));
                }
            }
        }
    }
}
