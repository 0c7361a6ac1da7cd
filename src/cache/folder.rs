//! A folder of files that are bounded in bytes together: what was not used for the longest time goes first.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::util::Clock;

/// What is used again counts as used now once it has not been for this long.
pub(super) const USED: Duration = Duration::from_secs(3600);

/// The folder. Several processes may have it open.
pub(super) struct Folder {
    path: PathBuf,
    limit: u64,
    clock: Clock,
    /// Bytes of all files; `None` until they have been counted.
    total: Mutex<Option<u64>>,
}

impl Folder {
    /// The folder at `path`, which is made (mode 0700) if it is missing. Nothing is counted yet.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: PathBuf, limit: u64, clock: Clock) -> io::Result<Folder> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Folder { path, limit, clock, total: Mutex::new(None) })
    }

    /// The most bytes that all files take together.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes of all files, as far as they have been counted.
    pub fn total(&self) -> u64 {
        self.total.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0)
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The time.
    pub fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(self.clock.now_nanos()).unwrap_or(0))
    }

    /// A file is used.
    pub fn used(&self, file: &File) -> io::Result<()> {
        let now = self.now();
        let idle = now.duration_since(file.metadata()?.modified()?).unwrap_or(Duration::MAX);
        if idle >= USED { file.set_modified(now) } else { Ok(()) }
    }

    /// A file of `after` bytes has taken the place of one of `before` bytes. Makes room where there is none.
    pub fn replaced(&self, before: u64, after: u64) {
        let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = match *total {
            Some(known) => known.saturating_sub(before).saturating_add(after),
            None => self.files().iter().map(|(_, _, length)| length).sum(),
        };
        *total = Some(if sum > self.limit { self.evict() } else { sum });
    }

    /// All files, leftovers of processes that were killed included: when each was last used, and its length.
    pub fn files(&self) -> Vec<(SystemTime, PathBuf, u64)> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata()
                && metadata.is_file()
            {
                files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path(), metadata.len()));
            }
        }
        files
    }

    /// Removes what was not used for the longest time, until an eighth of the room is free; returns what is left.
    fn evict(&self) -> u64 {
        let mut files = self.files();
        // Others may have written too.
        let mut total = files.iter().map(|(_, _, length)| length).sum();
        if total <= self.limit {
            return total;
        }
        files.sort();
        for (_, path, length) in files {
            if total <= self.limit - self.limit / 8 {
                break;
            }
            match fs::remove_file(&path) {
                Ok(()) => total -= length,
                Err(error) if error.kind() == io::ErrorKind::NotFound => total -= length,
                Err(error) => tracing::debug!(%error, "what was kept cannot be removed"),
            }
        }
        total
    }
}
