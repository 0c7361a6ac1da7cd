//! Why the journal could not be opened or written.

use std::io;
use std::path::{Path, PathBuf};

use crate::node::NodeError;

/// Why the journal could not be opened or written. Texts hold no name, no cap and no content.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has the journal open.
    #[error("another mount drains this journal ({0}): wait until it has ended, or unmount it")]
    Locked(PathBuf),
    /// The records were sealed under another key.
    #[error("{0} does not open with this key: it belongs to another node directory, or the key was replaced")]
    WrongKey(PathBuf),
    /// The journal was written by another version.
    #[error("{path} has format {found}, this version reads {ours}: empty it with the version that wrote it", ours = super::schema::VERSION)]
    Version {
        /// The database.
        path: PathBuf,
        /// Its format; 0 when it is no journal at all.
        found: i64,
    },
    /// What stands on the disk cannot be understood.
    #[error(
        "{path} is damaged ({why}): nothing was deleted; keep a copy of its folder, and move the folder away to start with an empty one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk has no room.
    #[error("no space left for {0}")]
    Full(PathBuf),
    /// A file that the batch changes was never created, or its creation failed.
    #[error("there is no file {0} in the journal")]
    NoSuchFile(u64),
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The database refused.
    #[error("{path}: {why}")]
    Store {
        /// The database.
        path: PathBuf,
        /// What it said.
        why: String,
    },
}

impl JournalError {
    /// For `map_err`: an error of the operating system at `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> JournalError + use<> {
        let path = path.to_owned();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => JournalError::Full(path),
            _ => JournalError::Io { path, error },
        }
    }

    /// For `map_err`: an error of the database at `path`.
    pub(super) fn store(path: &Path) -> impl Fn(rusqlite::Error) -> JournalError + use<> {
        let path = path.to_owned();
        move |error| {
            let (path, why) = (path.clone(), error.to_string());
            match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => JournalError::Full(path),
                Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                    JournalError::Damaged { path, why }
                }
                _ => JournalError::Store { path, why },
            }
        }
    }
}

impl From<JournalError> for io::Error {
    fn from(error: JournalError) -> io::Error {
        let kind = match &error {
            JournalError::Full(_) => io::ErrorKind::StorageFull,
            JournalError::Locked(_) => io::ErrorKind::ResourceBusy,
            JournalError::Io { error, .. } => error.kind(),
            JournalError::NoSuchFile(_) => io::ErrorKind::NotFound,
            JournalError::WrongKey(_) | JournalError::Version { .. } | JournalError::Damaged { .. } => {
                io::ErrorKind::InvalidData
            }
            JournalError::Store { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl From<JournalError> for NodeError {
    fn from(error: JournalError) -> NodeError {
        match error {
            JournalError::Full(_) => NodeError::NoSpace,
            other => NodeError::Source(other.to_string()),
        }
    }
}
