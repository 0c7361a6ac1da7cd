//! Uploads of immutable shares: a file each in `incoming/`, put into place once it is complete.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::super::ranges::Ranges;
use super::super::{Allocation, ShareNumber, StorageError, UPLOAD_IDLE_SECONDS, UploadSecret, past_the_end};
use super::Store;
use super::containers::{ImmutableFile, NewLease, ShareFile};
use super::disk::{Hold, Published, Temporary, at, is_blank, read_up_to};
use super::whole::is_whole;
use crate::cap::StorageIndex;
use crate::crypto::secrets::LeaseSecrets;
use crate::share::container::ImmutableContainer;
use crate::share::lease::IMMUTABLE_LEN;

/// `incoming/` is looked through at most once in so many seconds.
const SWEEP_SECONDS: i64 = 10 * 60;

/// An upload is one caller's: two that upload the same number do not know of each other.
type Key = (StorageIndex, ShareNumber, [u8; 20]);

struct Upload {
    size: u64,
    state: Mutex<Progress>,
}

struct Progress {
    /// `None` once it is complete, given up or removed.
    file: Option<Temporary>,
    written: Ranges,
    touched: i64,
}

impl Upload {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The uploads that this process has under way.
#[derive(Default)]
pub(super) struct Uploads {
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    uploads: HashMap<Key, Arc<Upload>>,
    swept: i64,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &Key) -> Result<Arc<Upload>, StorageError> {
        self.lock().uploads.get(key).cloned().ok_or(StorageError::NotInProgress)
    }

    /// Bytes that were promised to uploads and are not on the disk yet.
    pub(super) fn promised(&self) -> u64 {
        let all: Vec<Arc<Upload>> = self.lock().uploads.values().cloned().collect();
        all.iter().map(|u| u.size.saturating_sub(u.progress().written.total())).fold(0, u64::saturating_add)
    }
}

impl Store {
    /// Gives up uploads that were idle for too long, other processes' remains included, now and then.
    fn sweep_now_and_then(&self) {
        let now = self.clock.now_secs();
        {
            let mut under_way = self.uploads.lock();
            if (now - under_way.swept).abs() < SWEEP_SECONDS {
                return;
            }
            under_way.swept = now;
        }
        // An upload's own lock is never waited for under the lock of all.
        let all: Vec<(Key, Arc<Upload>)> =
            self.uploads.lock().uploads.iter().map(|(key, upload)| (*key, Arc::clone(upload))).collect();
        for (key, upload) in all {
            let mut progress = upload.progress();
            if now - progress.touched > UPLOAD_IDLE_SECONDS {
                progress.file = None;
                drop(progress);
                self.uploads.lock().uploads.remove(&key);
            }
        }
        self.paths.sweep(now - UPLOAD_IDLE_SECONDS);
    }

    /// [`super::super::StorageServer::allocate`].
    pub(super) fn allocate(
        &self,
        si: StorageIndex,
        shares: &BTreeSet<ShareNumber>,
        size: u64,
        secret: &UploadSecret,
        lease: &LeaseSecrets,
    ) -> Result<Allocation, StorageError> {
        self.sweep_now_and_then();
        self.hold_disk()?;
        self.watermark.begin_writing()?;
        let lease = self.new_lease(lease, 0);
        let already_have = self.lease_all(si, lease)?;
        let mut allocated = BTreeSet::new();
        let mut room = self.free()?;
        let whole = size.checked_add(ImmutableContainer::DATA_OFFSET + IMMUTABLE_LEN as u64);
        for &share in shares.difference(&already_have) {
            let key = (si, share, secret.0);
            if let Some(known) = self.uploads.lock().uploads.get(&key) {
                // Asked again because an answer was lost: what was written stays.
                if known.size == size {
                    allocated.insert(share);
                }
                continue;
            }
            let Some(rest) = whole.and_then(|whole| room.checked_sub(whole)) else {
                continue;
            };
            let file = match self.begin(si, share, size, lease) {
                Err(StorageError::NoSpace) => continue,
                other => other?,
            };
            room = rest;
            let progress = Progress { file: Some(file), written: Ranges::default(), touched: self.clock.now_secs() };
            let upload = Arc::new(Upload { size, state: Mutex::new(progress) });
            // Of two calls with one secret at the same time, the first one's upload stays.
            self.uploads.lock().uploads.entry(key).or_insert(upload);
            allocated.insert(share);
        }
        Ok(Allocation { already_have, allocated })
    }

    fn begin(
        &self,
        si: StorageIndex,
        share: ShareNumber,
        size: u64,
        lease: NewLease<'_>,
    ) -> Result<Temporary, StorageError> {
        let temporary = self.paths.temporary(si, share, &self.rng)?;
        ImmutableFile::create(&temporary.file, size, lease).map_err(at(&temporary.path))?;
        Ok(temporary)
    }

    /// The shares of `si`. Immutable ones that have lost bytes are removed.
    pub(super) fn list_shares(&self, si: StorageIndex) -> Result<BTreeSet<ShareNumber>, StorageError> {
        let mut numbers = self.paths.share_numbers(si)?;
        if self.watermark.has_suspects()
            && !numbers.is_empty()
            && let Some(_lock) = self.paths.lock(si, Hold::Exclusive, false)?
        {
            for share in numbers.clone() {
                if let Some(file) = self.paths.open_share(si, share, false)?
                    && self.is_torn(si, share, &file)?
                {
                    numbers.remove(&share);
                    self.paths.remove_share(si, share)?;
                }
            }
        }
        Ok(numbers)
    }

    /// Whether a share is immutable and has lost bytes, on the disk: what memory has of it need not be there. The bucket's
    /// lock is held.
    fn is_torn(&self, si: StorageIndex, share: ShareNumber, file: &File) -> Result<bool, StorageError> {
        let path = self.paths.bucket(si).join(share.to_string());
        let failed = |e| at(&path)(e);
        if !self.watermark.has_suspects() || !self.watermark.is_suspect(si, share, file).map_err(failed)? {
            return Ok(false);
        }
        from_disk(file).map_err(failed)?;
        let torn = match file.try_clone().and_then(ShareFile::open) {
            Ok(ShareFile::Immutable(file)) => !is_whole(&file, share).map_err(failed)?,
            Ok(ShareFile::Mutable(_)) => false,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => true,
            Err(e) => return Err(failed(e)),
        };
        match torn {
            true => tracing::warn!(share = %path.display(), "removed a share that has lost bytes"),
            false => self.watermark.note_sound(si, share, file),
        }
        Ok(torn)
    }

    /// Renews or adds the lease on every share of `si`, and says which there are. Files that are blank, or have lost
    /// bytes, are removed.
    pub(super) fn lease_all(
        &self,
        si: StorageIndex,
        lease: NewLease<'_>,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        let Some(_lock) = self.paths.lock(si, Hold::Exclusive, false)? else {
            return Ok(BTreeSet::new());
        };
        let mut numbers = self.paths.share_numbers(si)?;
        let path = self.paths.bucket(si);
        for share in numbers.clone() {
            let Some(file) = self.paths.open_share(si, share, true)? else {
                continue;
            };
            if is_blank(&file).map_err(at(&path))? || self.is_torn(si, share, &file)? {
                numbers.remove(&share);
                self.paths.remove_share(si, share)?;
                continue;
            }
            let mut file = ShareFile::open(file).map_err(at(&path))?;
            if file.lacks_lease(lease).map_err(at(&path))? && self.free()? < IMMUTABLE_LEN as u64 {
                return Err(StorageError::NoSpace);
            }
            file.lease(lease).map_err(at(&path))?;
        }
        Ok(numbers)
    }

    /// [`super::super::StorageServer::write_share`].
    pub(super) fn write_share(
        &self,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
        offset: u64,
        data: &[u8],
    ) -> Result<bool, StorageError> {
        let key = (si, share, secret.0);
        let upload = self.uploads.get(&key)?;
        let end = offset.checked_add(data.len() as u64).filter(|&e| e <= upload.size).ok_or_else(past_the_end)?;
        let mut progress = upload.progress();
        let Progress { file, written, touched } = &mut *progress;
        let temporary = file.as_mut().ok_or(StorageError::NotInProgress)?;
        let failed = |e| at(&temporary.path)(e);
        for (from, to) in written.within(offset, end) {
            let there = read_up_to(&temporary.file, ImmutableContainer::DATA_OFFSET + from, to - from);
            if there.map_err(failed)? != data[(from - offset) as usize..(to - offset) as usize] {
                return Err(StorageError::Conflict);
            }
        }
        temporary.file.write_all_at(data, ImmutableContainer::DATA_OFFSET + offset).map_err(failed)?;
        written.insert(offset, end);
        *touched = self.clock.now_secs();
        if !written.covers(upload.size) {
            return Ok(false);
        }
        let published = self.paths.publish(temporary, si, share)?;
        if published == Published::Placed {
            self.watermark.note_sound(si, share, &temporary.file);
        }
        *file = None;
        drop(progress);
        self.uploads.lock().uploads.remove(&key);
        match published {
            Published::Placed | Published::Existed => Ok(true),
            Published::Gone => Err(StorageError::NotInProgress),
        }
    }

    /// [`super::super::StorageServer::abort_share`].
    pub(super) fn abort_share(
        &self,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError> {
        let removed = self.uploads.lock().uploads.remove(&(si, share, secret.0));
        let upload = removed.ok_or(StorageError::NotInProgress)?;
        upload.progress().file = None;
        Ok(())
    }
}

/// Lets go of what memory has of a file, so that it is read from the disk.
fn from_disk(file: &File) -> io::Result<()> {
    file.sync_data()?;
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}
