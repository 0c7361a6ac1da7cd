//! What goes wrong in the file system, and the errno that says so.

use std::io;

use crate::journal::JournalError;
use crate::node::NodeError;
use crate::util::Stopped;

/// Why a file system operation failed. One name for each errno that a user can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// ENOENT
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST
    #[error("file exists")]
    Exists,
    /// ENOTDIR
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY
    #[error("directory not empty")]
    NotEmpty,
    /// EROFS
    #[error("read-only file system")]
    ReadOnly,
    /// EACCES
    #[error("permission denied")]
    Denied,
    /// EPERM
    #[error("operation not permitted")]
    NotPermitted,
    /// EINVAL
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG
    #[error("file name too long")]
    NameTooLong,
    /// ELOOP
    #[error("too many levels of directories: a directory holds itself")]
    Loop,
    /// EMLINK
    #[error("too many links")]
    TooManyLinks,
    /// EBADF
    #[error("bad file handle")]
    BadHandle,
    /// ESTALE
    #[error("stale file")]
    Stale,
    /// EOPNOTSUPP
    #[error("operation not supported")]
    Unsupported,
    /// ENOSPC
    #[error("no space left")]
    NoSpace,
    /// EFBIG
    #[error("file too large")]
    TooLarge,
    /// ENODATA
    #[error("no such attribute")]
    NoAttribute,
    /// ENXIO
    #[error("nothing is there")]
    Beyond,
    /// EBUSY
    #[error("another client keeps changing this")]
    Busy,
    /// EIO
    #[error("input/output error")]
    Io,
}

impl FsError {
    /// The errno of Linux.
    pub fn errno(self) -> i32 {
        match self {
            FsError::NotFound => libc::ENOENT,
            FsError::Exists => libc::EEXIST,
            FsError::NotDirectory => libc::ENOTDIR,
            FsError::IsDirectory => libc::EISDIR,
            FsError::NotEmpty => libc::ENOTEMPTY,
            FsError::ReadOnly => libc::EROFS,
            FsError::Denied => libc::EACCES,
            FsError::NotPermitted => libc::EPERM,
            FsError::Invalid => libc::EINVAL,
            FsError::NameTooLong => libc::ENAMETOOLONG,
            FsError::Loop => libc::ELOOP,
            FsError::TooManyLinks => libc::EMLINK,
            FsError::BadHandle => libc::EBADF,
            FsError::Stale => libc::ESTALE,
            FsError::Unsupported => libc::EOPNOTSUPP,
            FsError::NoSpace => libc::ENOSPC,
            FsError::TooLarge => libc::EFBIG,
            FsError::NoAttribute => libc::ENODATA,
            FsError::Beyond => libc::ENXIO,
            FsError::Busy => libc::EBUSY,
            FsError::Io => libc::EIO,
        }
    }
}

impl From<NodeError> for FsError {
    fn from(e: NodeError) -> FsError {
        match e {
            NodeError::NoSpace => FsError::NoSpace,
            NodeError::NotWriteable => FsError::ReadOnly,
            NodeError::Refused(_) => FsError::Denied,
            NodeError::TooLarge => FsError::TooLarge,
            NodeError::Uncoordinated | NodeError::Changed(_) => FsError::Busy,
            NodeError::WrongKind(_) => FsError::Unsupported,
            NodeError::NotEnoughShares { .. }
            | NodeError::OutOfReach
            | NodeError::LockedOut(_)
            | NodeError::NotEnoughServers { .. }
            | NodeError::BadCap(_)
            | NodeError::Corrupt(_)
            | NodeError::Source(_)
            | NodeError::Stopped(Stopped::Deadline | Stopped::Stalled | Stopped::Cancelled) => FsError::Io,
        }
    }
}

impl From<Stopped> for FsError {
    fn from(stopped: Stopped) -> FsError {
        NodeError::from(stopped).into()
    }
}

impl From<io::Error> for FsError {
    fn from(e: io::Error) -> FsError {
        match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => FsError::NoSpace,
            Some(libc::EFBIG) => FsError::TooLarge,
            _ => match e.kind() {
                io::ErrorKind::StorageFull => FsError::NoSpace,
                io::ErrorKind::FileTooLarge => FsError::TooLarge,
                io::ErrorKind::InvalidInput => FsError::Invalid,
                _ => FsError::Io,
            },
        }
    }
}

impl From<JournalError> for FsError {
    fn from(e: JournalError) -> FsError {
        io::Error::from(e).into()
    }
}
