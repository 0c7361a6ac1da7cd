//! Paths of a store, the errors of its file system, the lock on a bucket, and temporary files.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};

use super::super::{ShareNumber, StorageError};
use crate::cap::StorageIndex;
use crate::share::container::MAGIC_LEN;
use crate::util::Rng;

/// The most bytes that one answer holds; more is asked for by mistake or malice.
const ANSWER_LIMIT: u64 = 1 << 30;
/// Directories come and go while others clean up; a try more often than this is somebody else's fault.
const TRIES: usize = 100;

/// Turns an error of the file system into one of the trait. The path is public: storage indexes and share numbers.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> StorageError + '_ {
    move |e| {
        let why = || format!("{}: {e}", path.display());
        match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => StorageError::NoSpace,
            Some(
                Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::EACCES
                | Errno::EPERM
                | Errno::EROFS
                | Errno::ENODEV
                | Errno::ENXIO
                | Errno::ESTALE
                | Errno::ENOTCONN
                | Errno::ESHUTDOWN,
            ) => StorageError::Unreachable(why()),
            _ => StorageError::Io(why()),
        }
    }
}

fn missing(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
}

/// Where everything of a store is.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// `storage/`.
    pub(super) storage: PathBuf,
    /// `storage/shares/`.
    pub(super) shares: PathBuf,
    /// `storage/shares/incoming/`.
    pub(super) incoming: PathBuf,
}

impl Paths {
    /// Of the store in the node directory `dir`.
    pub(super) fn new(dir: &Path) -> Paths {
        let storage = dir.join("storage");
        let shares = storage.join("shares");
        let incoming = shares.join("incoming");
        Paths { storage, shares, incoming }
    }

    /// `storage/corruption-advisories/`.
    pub(super) fn advisories(&self) -> PathBuf {
        self.storage.join("corruption-advisories")
    }

    /// Makes the directories of a new store, of which only the outermost may have parents that are missing.
    pub(super) fn create(&self) -> Result<(), (PathBuf, io::Error)> {
        let all = [self.storage.clone(), self.shares.clone(), self.incoming.clone(), self.advisories()];
        all.into_iter().try_for_each(|dir| ensure_dir(&dir).map_err(|e| (dir, e)))
    }

    /// Where the complete shares of `si` are.
    pub(super) fn bucket(&self, si: StorageIndex) -> PathBuf {
        below(&self.shares, si)
    }

    /// Fails unless the store is there: a disk that was taken away must not look like an empty one.
    pub(super) fn check(&self) -> Result<(), StorageError> {
        match fs::metadata(&self.shares) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(StorageError::Unreachable(format!("{}: not a directory", self.shares.display()))),
            Err(e) => Err(StorageError::Unreachable(format!("{}: {e}", self.shares.display()))),
        }
    }

    /// The numbers of the complete shares of `si`.
    pub(super) fn share_numbers(&self, si: StorageIndex) -> Result<BTreeSet<ShareNumber>, StorageError> {
        let bucket = self.bucket(si);
        let entries = match fs::read_dir(&bucket) {
            Ok(entries) => entries,
            Err(e) if missing(&e) => return self.check().map(|()| BTreeSet::new()),
            Err(e) => return Err(at(&bucket)(e)),
        };
        let mut numbers = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(at(&bucket))?.file_name();
            numbers.extend(name.to_str().and_then(share_number));
        }
        Ok(numbers)
    }

    /// Opens a complete share; `None` when there is none.
    pub(super) fn open_share(
        &self,
        si: StorageIndex,
        share: ShareNumber,
        write: bool,
    ) -> Result<Option<File>, StorageError> {
        let path = self.bucket(si).join(share.to_string());
        // What stands there may be anything: a FIFO must not block us.
        let file =
            OpenOptions::new().read(true).write(write).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path);
        match file {
            Ok(file) if file.metadata().map_err(at(&path))?.is_file() => Ok(Some(file)),
            Ok(_) => Err(StorageError::Io(format!("{}: not a regular file", path.display()))),
            Err(e) if missing(&e) => self.check().map(|()| None),
            Err(e) => Err(at(&path)(e)),
        }
    }

    /// Locks the bucket of `si` against other processes and tasks until the lock is dropped.
    ///
    /// A bucket that is missing is made if `create` says so; otherwise there is no lock.
    pub(super) fn lock(&self, si: StorageIndex, hold: Hold, create: bool) -> Result<Option<BucketLock>, StorageError> {
        let path = self.bucket(si);
        for _ in 0..TRIES {
            let dir = match File::open(&path) {
                Ok(dir) => dir,
                Err(e) if !missing(&e) => return Err(at(&path)(e)),
                Err(_) if create => {
                    self.ensure_bucket(&self.shares, si)?;
                    continue;
                }
                Err(_) => return self.check().map(|()| None),
            };
            let how = match hold {
                Hold::Shared => FlockArg::LockShared,
                Hold::Exclusive => FlockArg::LockExclusive,
            };
            let lock = loop {
                match Flock::lock(dir.try_clone().map_err(at(&path))?, how) {
                    Ok(lock) => break lock,
                    Err((_, Errno::EINTR)) => {}
                    Err((_, e)) => return Err(at(&path)(e.into())),
                }
            };
            // Whoever held it before may have removed the directory with its last share.
            let held = lock.metadata().map_err(at(&path))?;
            if fs::metadata(&path).is_ok_and(|m| (m.dev(), m.ino()) == (held.dev(), held.ino())) {
                return Ok(Some(BucketLock { _lock: lock }));
            }
        }
        Err(StorageError::Io(format!("{}: comes and goes", path.display())))
    }

    /// Makes the directory of `si` below `top`, but never `top` itself.
    fn ensure_bucket(&self, top: &Path, si: StorageIndex) -> Result<(), StorageError> {
        let path = below(top, si);
        for dir in path.parent().into_iter().chain([path.as_path()]) {
            match ensure_dir(dir) {
                // Removed in between: whoever calls tries again.
                Err(e) if missing(&e) => return self.check(),
                other => other.map_err(at(dir))?,
            }
        }
        Ok(())
    }

    /// A new file in `incoming/`, named for `si` and `share` and unlike any other.
    pub(super) fn temporary(&self, si: StorageIndex, share: ShareNumber, rng: &Rng) -> Result<Temporary, StorageError> {
        let unique = data_encoding::HEXLOWER.encode(&rng.bytes::<12>());
        let path = below(&self.incoming, si).join(format!("{share}-{unique}"));
        for _ in 0..TRIES {
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    return Ok(Temporary { path, file, placed: false });
                }
                Err(e) if missing(&e) => {
                    ensure_dir(&self.incoming).map_err(at(&self.incoming))?;
                    self.ensure_bucket(&self.incoming, si)?;
                }
                Err(e) => return Err(at(&path)(e)),
            }
        }
        Err(StorageError::Io(format!("{}: comes and goes", path.display())))
    }

    /// Removes a complete share. The caller holds the bucket's lock.
    pub(super) fn remove_share(&self, si: StorageIndex, share: ShareNumber) -> Result<(), StorageError> {
        let path = self.bucket(si).join(share.to_string());
        match fs::remove_file(&path) {
            Err(e) if !missing(&e) => Err(at(&path)(e)),
            _ => Ok(()),
        }
    }

    /// Puts a temporary file into its place unless a share is there already.
    pub(super) fn publish(
        &self,
        temporary: &mut Temporary,
        si: StorageIndex,
        share: ShareNumber,
    ) -> Result<Published, StorageError> {
        let place = self.bucket(si).join(share.to_string());
        for _ in 0..TRIES {
            match rename_new(&temporary.path, &place) {
                Ok(()) => {
                    temporary.placed = true;
                    temporary.remove_empty_dirs();
                    return Ok(Published::Placed);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Published::Existed),
                Err(e) if !missing(&e) => return Err(at(&place)(e)),
                Err(_) if temporary.path.symlink_metadata().is_err() => return self.check().map(|()| Published::Gone),
                Err(_) => self.ensure_bucket(&self.shares, si)?,
            }
        }
        Err(StorageError::Io(format!("{}: comes and goes", place.display())))
    }

    /// Puts a temporary file over the share that stands in its place. The caller holds the bucket's lock.
    ///
    /// The new bytes reach the disk before the name does: after power loss there is the old version or the new one.
    pub(super) fn replace(
        &self,
        temporary: &mut Temporary,
        si: StorageIndex,
        share: ShareNumber,
    ) -> Result<(), StorageError> {
        let place = self.bucket(si).join(share.to_string());
        temporary.file.sync_data().map_err(at(&temporary.path))?;
        fs::rename(&temporary.path, &place).map_err(at(&place))?;
        temporary.placed = true;
        temporary.remove_empty_dirs();
        Ok(())
    }

    /// Removes what was left in `incoming/` before `before` (seconds since the epoch), and directories left empty.
    ///
    /// Best effort: what cannot be looked at or removed stays.
    pub(super) fn sweep(&self, before: i64) {
        for prefix in entries(&self.incoming) {
            for bucket in entries(&prefix) {
                for file in entries(&bucket) {
                    if file.symlink_metadata().is_ok_and(|m| m.mtime() < before) {
                        let _ = fs::remove_file(&file);
                    }
                }
                let _ = fs::remove_dir(&bucket);
            }
            let _ = fs::remove_dir(&prefix);
        }
    }
}

/// What became of a temporary file that was to be put into place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// It stands there now.
    Placed,
    /// A share stood there already and stays.
    Existed,
    /// It was idle for so long that somebody removed it.
    Gone,
}

/// How a bucket is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Together with other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// Holds a bucket's lock.
#[derive(Debug)]
pub(super) struct BucketLock {
    _lock: Flock<File>,
}

/// A file that is removed when dropped, unless it was put into place.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    pub(super) file: File,
    placed: bool,
}

impl Temporary {
    /// Removes the two directories above, if nobody else uses them.
    fn remove_empty_dirs(&self) {
        let mut above = self.path.ancestors().skip(1);
        let _ = above.next().map(fs::remove_dir);
        let _ = above.next().map(fs::remove_dir);
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.path);
            self.remove_empty_dirs();
        }
    }
}

fn below(top: &Path, si: StorageIndex) -> PathBuf {
    let name = si.to_string();
    top.join(&name[..2]).join(name)
}

/// A share's file name is its number in decimal, as it is printed.
pub(super) fn share_number(name: &str) -> Option<ShareNumber> {
    name.parse().ok().filter(|n: &ShareNumber| n.to_string() == name)
}

pub(super) fn ensure_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

/// Renames without replacing, also on file systems that cannot do it in one step.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// Whether a share's file has lost its head: what power loss can leave of one that was published and never synced.
///
/// No container begins like this, and nobody was told that such a share is safe: it counts as absent when its number
/// is written again.
pub(super) fn is_blank(file: &File) -> io::Result<bool> {
    Ok(read_up_to(file, 0, MAGIC_LEN as u64)?.iter().all(|&b| b == 0))
}

/// Up to `length` bytes at `offset`; fewer where the file ends.
pub(super) fn read_up_to(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    if length > ANSWER_LIMIT {
        return Err(io::Error::other("too many bytes asked for at once"));
    }
    let mut bytes = vec![0; length as usize];
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset.saturating_add(got as u64)) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}
