//! Files that hold secrets or settings: modes, atomic replacement, locks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

use super::ConfigError;
use crate::util::{Survives, base32, replace_file};

/// More than any settings file holds, in bytes; a longer one is refused before it fills the memory.
const FILE_LIMIT: u64 = 16 << 20;

/// Makes `path` and what is missing above it, with mode 0700 where it is made.
///
/// # Errors
/// A directory could not be made.
pub fn make_private_dir(path: &Path) -> Result<(), ConfigError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| ConfigError::io(path, &e))
}

/// Replaces `path` by `content` with mode 0600: a temporary file beside it, synced, renamed, and the directory synced.
///
/// # Errors
/// The file could not be written; what was there before stays.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), ConfigError> {
    replace_file(path, &[content], 0o600, Survives::PowerLoss).map_err(|e| ConfigError::io(path, &e))
}

/// Replaces `path` by `bytes` in base32 and a newline, as [`write_private`] does.
///
/// # Errors
/// As of [`write_private`].
pub(super) fn write_base32(path: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    let mut text = Zeroizing::new(base32::encode(bytes));
    text.push('\n');
    write_private(path, text.as_bytes())
}

/// The 32 bytes that stand in `path` in base32; `None` when there is no such file.
///
/// # Errors
/// The file cannot be read, or is not base32 of 32 bytes.
pub(super) fn read_base32(path: &Path) -> Result<Option<[u8; 32]>, ConfigError> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    let bytes = base32::decode_array::<32>(text.trim());
    bytes.map(Some).map_err(|_| ConfigError::malformed(path, None, "is not base32 of 32 bytes"))
}

/// The text of `path`; `None` when there is no such file.
///
/// # Errors
/// The file could not be read, is larger than 16 MiB, or is not UTF-8.
pub fn read_optional(path: &Path) -> Result<Option<Zeroizing<String>>, ConfigError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| ConfigError::io(path, &e))?,
    };
    let length = file.metadata().map_err(|e| ConfigError::io(path, &e))?.len();
    if length > FILE_LIMIT {
        return Err(ConfigError::malformed(path, None, "is too large"));
    }
    // Room for the whole, so that no unzeroized copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(|e| ConfigError::io(path, &e))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(ConfigError::malformed(path, None, "is not UTF-8")),
    }
}

/// What a file was like when it was looked at: when that changes, it is to be read again. It is taken before the file is
/// read, so that what is written while it is read counts as a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: (i64, i64),
    /// Modes count too: whether the file can be read may hang on them.
    changed: (i64, i64),
    length: u64,
    file: (u64, u64),
}

impl Stamp {
    /// Looks at `path`, without reading it; `None` when there is no such file.
    ///
    /// # Errors
    /// It cannot be looked at, or is a link that leads nowhere.
    pub fn of(path: &Path) -> Result<Option<Stamp>, ConfigError> {
        match fs::metadata(path) {
            Ok(m) => Ok(Some(Stamp {
                modified: (m.mtime(), m.mtime_nsec()),
                changed: (m.ctime(), m.ctime_nsec()),
                length: m.len(),
                file: (m.dev(), m.ino()),
            })),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ConfigError::io(path, &e)),
            Err(_) if path.is_symlink() => Err(ConfigError::malformed(path, None, "is a link that leads nowhere")),
            Err(_) => Ok(None),
        }
    }
}

/// A lock on a file; given back when dropped, or when the process ends however it ends.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
    path: PathBuf,
}

/// How a [`Lock`] is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Together with others.
    Shared,
    /// Alone.
    Exclusive,
}

impl Lock {
    /// Takes the lock on `path` (made with mode 0600), waiting for it.
    ///
    /// # Errors
    /// The file could not be opened or locked.
    pub fn wait(path: &Path, kind: LockKind) -> Result<Lock, ConfigError> {
        let arg = if kind == LockKind::Shared { FlockArg::LockShared } else { FlockArg::LockExclusive };
        let taken = Lock::open(path).and_then(|f| Flock::lock(f, arg).map_err(|(_, e)| e.into()));
        Ok(Lock { file: taken.map_err(|e| ConfigError::io(path, &e))?, path: path.to_owned() })
    }

    /// Takes the lock on `path` unless another holds it: then `None`.
    ///
    /// # Errors
    /// The file could not be opened or locked.
    pub fn try_take(path: &Path, kind: LockKind) -> Result<Option<Lock>, ConfigError> {
        let shared = kind == LockKind::Shared;
        let arg = if shared { FlockArg::LockSharedNonblock } else { FlockArg::LockExclusiveNonblock };
        let file = Lock::open(path).map_err(|e| ConfigError::io(path, &e))?;
        match Flock::lock(file, arg) {
            Ok(file) => Ok(Some(Lock { file, path: path.to_owned() })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(ConfigError::io(path, &e.into())),
        }
    }

    fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    }

    /// Replaces what the locked file holds: a note for others on who has the lock.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn note(&mut self, content: &[u8]) -> Result<(), ConfigError> {
        let file: &mut File = &mut self.file;
        let written = io::Seek::rewind(file).and_then(|()| file.set_len(0)).and_then(|()| file.write_all(content));
        written.map_err(|e| ConfigError::io(&self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_stays_private() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("aliases");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1, "no temporary file is left");
        assert!(write_private(&top.path().join("missing/x"), b"").is_err());
    }

    #[test]
    fn locks_shut_each_other_out() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("lock");
        let first = Lock::try_take(&path, LockKind::Shared).unwrap().unwrap();
        let second = Lock::try_take(&path, LockKind::Shared).unwrap().unwrap();
        assert!(Lock::try_take(&path, LockKind::Exclusive).unwrap().is_none());
        drop((first, second));
        assert!(Lock::try_take(&path, LockKind::Exclusive).unwrap().is_some());
    }
}
