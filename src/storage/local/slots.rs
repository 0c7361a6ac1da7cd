//! Mutable slots: read-test-write under the bucket's lock (PROTOCOL 8.7). A share that changes is written anew and renamed
//! over the old one: a crash leaves the one or the other.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;

use super::super::ranges::Ranges;
use super::super::{ReadRange, ReadTestWriteAnswer, ShareNumber, StorageError, TestWrite, other_kind};
use super::Store;
use super::containers::{Kept, MutableFile, NewLease, ShareFile};
use super::disk::{Hold, Published, at, is_blank};
use crate::cap::StorageIndex;
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;

impl Store {
    /// [`super::super::StorageServer::read_test_write`].
    pub(super) fn read_test_write(
        &self,
        si: StorageIndex,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        shares: &BTreeMap<ShareNumber, TestWrite>,
        read: &[ReadRange],
    ) -> Result<ReadTestWriteAnswer, StorageError> {
        shares.values().try_for_each(|w| w.end().map(|_| ()))?;
        if !shares.is_empty() {
            self.hold_disk()?;
        }
        let creates = shares.values().any(|w| w.new_length != Some(0));
        let bucket = self.paths.bucket(si);
        let failed = |e| at(&bucket)(e);
        let lock = self.paths.lock(si, Hold::Exclusive, creates)?;
        let mut there = BTreeMap::new();
        if lock.is_some() {
            for share in self.paths.share_numbers(si)? {
                let Some(file) = self.paths.open_share(si, share, creates)? else {
                    continue;
                };
                if is_blank(&file).map_err(failed)? {
                    if shares.contains_key(&share) {
                        self.paths.remove_share(si, share)?;
                    }
                    continue;
                }
                match ShareFile::open(file).map_err(failed)? {
                    ShareFile::Immutable(_) => return Err(other_kind()),
                    ShareFile::Mutable(f) if !f.allows(enabler) => return Err(StorageError::BadWriteEnabler),
                    ShareFile::Mutable(f) => there.insert(share, f),
                };
            }
        }
        let mut success = true;
        for (share, write) in shares {
            for test in &write.test {
                let found = there.get(share).map_or(Ok(Vec::new()), |f| f.read(test.offset, test.size));
                success &= found.map_err(failed)? == test.specimen;
            }
        }
        let mut data = BTreeMap::new();
        for (&share, file) in &there {
            let ranges = read.iter().map(|r| file.read(r.offset, r.length).map(Bytes::from));
            data.insert(share, ranges.collect::<Result<Vec<Bytes>, _>>().map_err(failed)?);
        }
        if success {
            for (&share, write) in shares {
                self.apply(si, share, there.remove(&share).map(|f| *f), enabler, lease, write)?;
            }
        }
        if lock.is_some() && (!success || shares.values().any(|w| w.new_length == Some(0))) {
            // Fails while there is a share in it.
            let _ = fs::remove_dir(&bucket);
        }
        Ok(ReadTestWriteAnswer { success, data })
    }

    /// Makes the writes to one share. The bucket's lock is held.
    fn apply(
        &self,
        si: StorageIndex,
        share: ShareNumber,
        old: Option<MutableFile>,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        write: &TestWrite,
    ) -> Result<(), StorageError> {
        let path = self.paths.bucket(si).join(share.to_string());
        let failed = |e| at(&path)(e);
        if write.new_length == Some(0) {
            return old.map_or(Ok(()), |_| self.paths.remove_share(si, share));
        }
        let lease = self.new_lease(lease, 1);
        let Some(mut old) = old else {
            let mut temporary = self.paths.temporary(si, share, &self.rng)?;
            let file = temporary.file.try_clone().and_then(|f| MutableFile::create(f, self.tub_id, enabler));
            change(file.map_err(failed)?, write, lease).map_err(failed)?;
            return match self.paths.publish(&mut temporary, si, share)? {
                Published::Placed => Ok(()),
                Published::Existed | Published::Gone => {
                    Err(StorageError::Io(format!("{}: somebody else wrote here without the lock", path.display())))
                }
            };
        };
        if write.write.is_empty() && write.new_length.is_none_or(|n| n >= old.data_len()) {
            return old.lease(lease).map_err(failed);
        }
        // The old version stays whole until the new one is.
        let mut temporary = self.paths.temporary(si, share, &self.rng)?;
        let copy = temporary.file.try_clone().and_then(|f| old.copy_to(f, &kept(write, old.data_len())));
        copy.and_then(|copy| change(copy, write, lease)).map_err(failed)?;
        self.paths.replace(&mut temporary, si, share)
    }
}

/// What stays of the old data.
fn kept(write: &TestWrite, old_len: u64) -> Kept {
    let mut written = Ranges::default();
    for (offset, data) in &write.write {
        written.insert(*offset, offset.saturating_add(data.len() as u64));
    }
    let length = write.new_length.map_or(old_len, |n| n.min(old_len));
    Kept { length, ranges: written.gaps(length) }
}

fn change(mut file: MutableFile, write: &TestWrite, lease: NewLease<'_>) -> std::io::Result<()> {
    for (offset, data) in &write.write {
        file.write(*offset, data)?;
    }
    if let Some(length) = write.new_length {
        file.shorten(length)?;
    }
    file.lease(lease)
}
