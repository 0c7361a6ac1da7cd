//! Between fuser's types and the file system's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, INodeNo, TimeOrNow};

use crate::fs::{Allocation, Attr, FsError, OpenMode, SetTime};
use crate::node::{FileType, Timestamp};

pub(super) fn errno(e: FsError) -> fuser::Errno {
    fuser::Errno::from_i32(e.errno())
}

pub(super) fn file_type(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::File => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::CharDevice => fuser::FileType::CharDevice,
    }
}

/// The kind that the type bits of mknod's mode ask for.
pub(super) fn kind_of_mode(mode: u32) -> Option<FileType> {
    use FileType::*;
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(File),
        libc::S_IFIFO => Some(Fifo),
        libc::S_IFSOCK => Some(Socket),
        libc::S_IFBLK => Some(BlockDevice),
        libc::S_IFCHR => Some(CharDevice),
        _ => None,
    }
}

pub(super) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 128 * 1024,
        flags: 0,
    }
}

fn system_time(t: Timestamp) -> SystemTime {
    let nanos = Duration::new(0, t.nanos);
    let whole = Duration::from_secs(t.secs.unsigned_abs());
    let secs = if t.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    secs.and_then(|at| at.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(match at.duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp::from_nanos(since.as_nanos() as i128),
            // This release of fuser takes nanoseconds away where they must be added.
            Err(before) => Timestamp {
                secs: 0i64.saturating_sub_unsigned(before.duration().as_secs()),
                nanos: before.duration().subsec_nanos(),
            },
        }),
    }
}

/// What fallocate(2)'s mode asks for, and whether the file may grow; `None` for what no mount can do.
pub(super) fn allocation(mode: i32) -> Option<(Allocation, bool)> {
    const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP_SIZE;
    const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_WITHIN: i32 = ZERO_RANGE | KEEP_SIZE;
    match mode {
        0 => Some((Allocation::Reserve, true)),
        KEEP_SIZE => Some((Allocation::Reserve, false)),
        PUNCH | ZERO_WITHIN => Some((Allocation::Zero, false)),
        ZERO_RANGE => Some((Allocation::Zero, true)),
        _ => None,
    }
}

/// The supplementary groups of a process; none where it is gone.
pub(super) fn groups_of(process: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

/// How open(2)'s flags open a file.
pub(super) fn open_mode(flags: i32) -> OpenMode {
    let write = flags & libc::O_ACCMODE != libc::O_RDONLY;
    OpenMode { write, truncate: flags & libc::O_TRUNC != 0 }
}
