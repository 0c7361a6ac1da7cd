//! A store: a storage server in a directory, in the reference's on-disk format (PROTOCOL 9).
//!
//! A real node can be started on the directory, and the directory of a real node can be opened. Several processes may
//! have a store open: slots are changed under a lock on their bucket, every upload has a file of its own, and what
//! others left in `incoming/` is removed only when it has been idle for half an hour.

mod containers;
mod disk;
mod leases;
mod slots;
mod uploads;
mod watermark;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use nix::sys::statvfs::{FsFlags, statvfs};

pub use self::leases::{LeaseSurvey, survey_leases};

use self::containers::{NewLease, ShareFile};
use self::disk::{Hold, Paths, at, ensure_dir};
use self::uploads::Uploads;
use self::watermark::Watermark;
use super::{
    Allocation, MAXIMUM_MUTABLE_SHARE_SIZE, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareKind, ShareNumber,
    StorageError, StorageServer, TestWrite, UPLOAD_IDLE_SECONDS, UploadSecret, other_kind,
};
use crate::cap::StorageIndex;
use crate::config::identity::{Identity, IdentityError};
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::share::lease;
use crate::util::{Clock, Cpu, Cx, Rng, Utc};

/// File calls of one store that run at the same time, unless the options say otherwise.
const IO_SLOTS: usize = 8;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Bytes of the disk that are left to others.
    pub reserved_space: u64,
    /// Tells when leases end and uploads are idle.
    pub clock: Clock,
    /// Names temporary files.
    pub rng: Rng,
    /// Runs the file calls; of its own, so that a slow disk does not hold up computations.
    pub io: Cpu,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions { reserved_space: 0, clock: Clock::system(), rng: Rng::os(), io: Cpu::with_slots(IO_SLOTS) }
    }
}

/// A store in a directory.
pub struct LocalServer {
    store: Arc<Store>,
    io: Cpu,
    /// Barriers take turns: one that was given up goes on, and others like it must not take all file calls.
    barriers: Arc<tokio::sync::Mutex<()>>,
}

/// What the blocking side works with.
struct Store {
    dir: PathBuf,
    paths: Paths,
    identity: Identity,
    tub_id: [u8; 20],
    device: u64,
    reserved_space: u64,
    clock: Clock,
    rng: Rng,
    uploads: Uploads,
    watermark: Watermark,
    /// See [`Store::hold_disk`].
    disk: Mutex<Option<Arc<File>>>,
}

impl LocalServer {
    /// Makes a new, empty store in `dir`, with an identity of its own. Blocks, for tens of milliseconds at least.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] when there is a node in `dir` already: open it instead. Otherwise what could not be
    /// written.
    pub fn create(dir: &Path, rng: &Rng) -> Result<Identity, IdentityError> {
        if Identity::is_in(dir) {
            return Err(IdentityError::Exists(dir.to_owned()));
        }
        let failed = |path: PathBuf, e: io::Error| IdentityError::Io { path, why: e.to_string() };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed(dir.to_owned(), e))?;
        Paths::new(dir).create().map_err(|(path, e)| failed(path, e))?;
        // Last: a directory without an identity is no store, and its creation can be repeated.
        Identity::create(dir, rng)
    }

    /// Opens the store in `dir`, ours or a real node's, and removes uploads that were given up.
    ///
    /// # Errors
    /// [`StorageError::Unreachable`] when there is no store or no identity in it: nothing is made anew.
    pub async fn open(dir: &Path, options: LocalOptions) -> Result<LocalServer, StorageError> {
        let LocalOptions { reserved_space, clock, rng, io } = options;
        let dir = dir.to_owned();
        let store = io.run(move || Store::open(dir, reserved_space, clock, rng)).await?;
        Ok(LocalServer { store: Arc::new(store), io, barriers: Arc::default() })
    }

    /// Who the store is.
    pub fn identity(&self) -> &Identity {
        &self.store.identity
    }

    /// The directory it was opened in.
    pub fn dir(&self) -> &Path {
        &self.store.dir
    }

    /// The device number of its file system as it was opened: stores with the same one share their free space.
    pub fn device(&self) -> u64 {
        self.store.device
    }

    async fn run<T: Send + 'static>(
        &self,
        cx: &Cx,
        work: impl FnOnce(&Store) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let store = Arc::clone(&self.store);
        cx.run(self.io.run(move || work(&store))).await?
    }
}

impl Store {
    fn open(dir: PathBuf, reserved_space: u64, clock: Clock, rng: Rng) -> Result<Store, StorageError> {
        let identity = Identity::load(&dir).map_err(|e| StorageError::Unreachable(e.to_string()))?;
        let paths = Paths::new(&dir);
        paths.check()?;
        let device = fs::metadata(&paths.shares).map_err(at(&paths.shares))?.dev();
        // Before there is a first share. A store that cannot be written gets none.
        let _ = identity.pin_permutation_seed(&dir);
        paths.sweep(clock.now_secs() - UPLOAD_IDLE_SECONDS);
        let tub_id = identity.tub_id();
        let (uploads, watermark) = (Uploads::default(), Watermark::open(&paths.storage));
        let disk = Mutex::default();
        Ok(Store { dir, paths, identity, tub_id, device, reserved_space, clock, rng, uploads, watermark, disk })
    }

    /// Bytes that may be stored: nothing on a disk that is read-only.
    fn free(&self) -> Result<u64, StorageError> {
        let disk = statvfs(&self.paths.shares).map_err(|e| at(&self.paths.shares)(e.into()))?;
        if disk.flags().contains(FsFlags::ST_RDONLY) {
            return Ok(0);
        }
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        Ok(free.saturating_sub(self.reserved_space).saturating_sub(self.uploads.promised()))
    }

    fn new_lease<'a>(&self, secrets: &'a LeaseSecrets, owner: u32) -> NewLease<'a> {
        NewLease { secrets, owner, expiration: lease::expiration(self.clock.now_secs()), node_id: self.tub_id }
    }

    fn read_share(
        &self,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        // Leases of slots are written in place, their data by other programs too; an immutable share never changes.
        let _lock = match kind {
            ShareKind::Mutable => self.paths.lock(si, Hold::Shared, false)?,
            ShareKind::Immutable => None,
        };
        let file = self.paths.open_share(si, share, false)?.ok_or(StorageError::NoSuchShare)?;
        let path = self.paths.bucket(si).join(share.to_string());
        let file = ShareFile::open(file).map_err(at(&path))?;
        let read = |r: &ReadRange| match &file {
            ShareFile::Immutable(f) => f.read(r.offset, r.length),
            ShareFile::Mutable(f) => f.read(r.offset, r.length),
        };
        if matches!(file, ShareFile::Mutable(_)) != (kind == ShareKind::Mutable) {
            return Err(other_kind());
        }
        ranges.iter().map(|r| read(r).map(Bytes::from)).collect::<io::Result<_>>().map_err(at(&path))
    }

    fn advise_corrupt(
        &self,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        self.paths.open_share(si, share, false)?.ok_or(StorageError::NoSuchShare)?;
        let dir = self.paths.advisories();
        ensure_dir(&dir).map_err(at(&dir))?;
        let kind = match kind {
            ShareKind::Immutable => "immutable",
            ShareKind::Mutable => "mutable",
        };
        let text = format!(
            "report: Share Corruption\ntype: {kind}\nstorage_index: {si}\nshare_number: {share}\n\n{reason}\n\n"
        );
        let mut micros = self.clock.now_nanos().div_euclid(1000);
        loop {
            let path = dir.join(format!("{}--{si}-{share}", utc(micros)));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => return file.write_all(text.as_bytes()).map_err(at(&path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => micros += 1,
                Err(e) => return Err(at(&path)(e)),
            }
        }
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.watermark.barrier(|| self.sync_disk())
    }

    /// Opens what the barrier goes through, before this process first writes: the kernel tells each descriptor once what
    /// it could not write since that was opened.
    fn hold_disk(&self) -> Result<(), StorageError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.is_none() {
            *disk = Some(Arc::new(File::open(&self.paths.shares).map_err(at(&self.paths.shares))?));
        }
        Ok(())
    }

    /// Fails as [`StorageError::Unreachable`] where the store is away, and otherwise only where something is lost.
    fn sync_disk(&self) -> Result<(), StorageError> {
        let here = File::open(&self.paths.shares).map_err(at(&self.paths.shares))?;
        let held = self.disk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lost = |why: &dyn fmt::Display| StorageError::Io(format!("{}: {why}", self.paths.shares.display()));
        let place = |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).map_err(|e| lost(&e));
        match held {
            Some(held) if place(&held)? != place(&here)? => Err(lost(&"not the store that was written to")),
            held => nix::unistd::syncfs(held.as_deref().unwrap_or(&here)).map_err(|e| lost(&e)),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.watermark.close(|| self.sync_disk());
    }
}

/// A time in microseconds since the epoch as `2026-11-22T190955.302340`, in UTC.
fn utc(micros: i64) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::at(micros.div_euclid(1_000_000));
    let micros = micros.rem_euclid(1_000_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}{minute:02}{second:02}.{micros:06}")
}

#[async_trait]
impl StorageServer for LocalServer {
    async fn status(&self, cx: &Cx) -> Result<ServerStatus, StorageError> {
        let free = self.run(cx, Store::free).await?;
        Ok(ServerStatus {
            maximum_immutable_share_size: free,
            maximum_mutable_share_size: MAXIMUM_MUTABLE_SHARE_SIZE,
            available_space: free,
        })
    }

    async fn list_shares(
        &self,
        cx: &Cx,
        _kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        self.run(cx, move |store| store.list_shares(si)).await
    }

    async fn allocate(
        &self,
        cx: &Cx,
        si: StorageIndex,
        shares: &BTreeSet<ShareNumber>,
        size: u64,
        secret: &UploadSecret,
        lease: &LeaseSecrets,
    ) -> Result<Allocation, StorageError> {
        let (shares, secret, lease) = (shares.clone(), secret.clone(), lease.clone());
        self.run(cx, move |store| store.allocate(si, &shares, size, &secret, &lease)).await
    }

    async fn write_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
        offset: u64,
        data: Bytes,
    ) -> Result<bool, StorageError> {
        let secret = secret.clone();
        let done = self.run(cx, move |store| store.write_share(si, share, &secret, offset, &data)).await?;
        Ok(done)
    }

    async fn abort_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError> {
        let secret = secret.clone();
        self.run(cx, move |store| store.abort_share(si, share, &secret)).await
    }

    async fn read_share(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        let ranges = ranges.to_vec();
        let answer = self.run(cx, move |store| store.read_share(kind, si, share, &ranges)).await?;
        Ok(answer)
    }

    async fn read_slots(
        &self,
        cx: &Cx,
        si: StorageIndex,
        last: ShareNumber,
        range: ReadRange,
    ) -> Result<BTreeMap<ShareNumber, Result<Bytes, StorageError>>, StorageError> {
        // In one go: for what lies in memory, to go to another thread and back costs more than to read it.
        let read = move |store: &Store| {
            let numbers = store.list_shares(si)?.into_iter().filter(|number| *number <= last);
            let read = |number| store.read_share(ShareKind::Mutable, si, number, &[range]);
            Ok(numbers.map(|number| (number, read(number).map(|mut a| a.pop().unwrap_or_default()))).collect())
        };
        self.run(cx, read).await
    }

    async fn read_test_write(
        &self,
        cx: &Cx,
        si: StorageIndex,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        shares: &BTreeMap<ShareNumber, TestWrite>,
        read: &[ReadRange],
    ) -> Result<ReadTestWriteAnswer, StorageError> {
        let (enabler, lease, shares, read) = (enabler.clone(), lease.clone(), shares.clone(), read.to_vec());
        let answer = self.run(cx, move |store| store.read_test_write(si, &enabler, &lease, &shares, &read)).await?;
        Ok(answer)
    }

    async fn add_lease(&self, cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError> {
        let lease = lease.clone();
        let leased = self.run(cx, move |store| store.lease_all(si, store.new_lease(&lease, 1))).await?;
        if leased.is_empty() { Err(StorageError::NoSuchShare) } else { Ok(()) }
    }

    async fn advise_corrupt(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        let reason = reason.to_owned();
        self.run(cx, move |store| store.advise_corrupt(kind, si, share, &reason)).await
    }

    async fn sync(&self, cx: &Cx) -> Result<(), StorageError> {
        let turn = cx.run(Arc::clone(&self.barriers).lock_owned()).await?;
        self.run(cx, move |store| {
            let _turn = turn;
            store.sync()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(utc(0), "1970-01-01T000000.000000");
        assert_eq!(utc(951_782_399_999_999), "2000-02-28T235959.999999");
        assert_eq!(utc(951_782_400_000_000), "2000-02-29T000000.000000");
        assert_eq!(utc(1_795_374_595_302_340), "2026-11-22T190955.302340");
        assert_eq!(utc(4_107_542_400_000_001), "2100-03-01T000000.000001");
    }
}
