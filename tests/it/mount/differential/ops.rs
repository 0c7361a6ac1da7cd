//! Operations, and what comes of them.

use std::ffi::{CStr, OsStr, OsString};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Uid};
use rustix::fs::{Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::{self, Errno};

use super::facts::{Facts, When};

/// A path, from the root or from an open directory.
#[derive(Clone)]
pub struct At {
    pub slot: Option<usize>,
    pub path: OsString,
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.slot {
            Some(slot) => write!(f, "#{slot}:{:?}", self.path),
            None => write!(f, "{:?}", self.path),
        }
    }
}

impl At {
    /// Where the last name of the path stands.
    pub fn above(&self) -> At {
        let path = Path::new(&self.path).parent().filter(|path| *path != Path::new("")).unwrap_or(Path::new("."));
        At { slot: self.slot, path: path.into() }
    }
}

/// Bytes to be written, none of them zero.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    pub seed: usize,
    pub length: usize,
}

impl Data {
    fn bytes(self) -> Vec<u8> {
        (0..self.length).map(|i| (i * 131 + i / 251 + self.seed * 77) as u8 | 1).collect()
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Open {
        slot: usize,
        at: At,
        flags: OFlags,
        mode: u32,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        length: usize,
    },
    Pread {
        slot: usize,
        at: u64,
        length: usize,
    },
    Write {
        slot: usize,
        data: Data,
    },
    Pwrite {
        slot: usize,
        at: u64,
        data: Data,
    },
    Map {
        slot: usize,
        at: u64,
        data: Data,
    },
    Seek {
        slot: usize,
        to: SeekFrom,
    },
    Holes {
        slot: usize,
        at: u64,
    },
    Fsync {
        slot: usize,
    },
    Fdatasync {
        slot: usize,
    },
    Truncate {
        at: At,
        size: u64,
    },
    Ftruncate {
        slot: usize,
        size: u64,
    },
    Allocate {
        slot: usize,
        mode: FallocateFlags,
        at: u64,
        length: u64,
    },
    Copy {
        from: usize,
        at: u64,
        to: usize,
        to_at: u64,
        length: usize,
    },
    Rename {
        from: At,
        to: At,
        flags: RenameFlags,
    },
    Link {
        from: At,
        to: At,
        flags: AtFlags,
    },
    Unlink {
        at: At,
        flags: AtFlags,
    },
    Mkdir {
        at: At,
        mode: u32,
    },
    Mknod {
        at: At,
        kind: FileType,
        mode: u32,
        device: (u32, u32),
    },
    Symlink {
        target: OsString,
        at: At,
    },
    Readlink {
        at: At,
    },
    Stat {
        at: At,
        flags: AtFlags,
    },
    Chmod {
        at: At,
        mode: u32,
    },
    Fchmod {
        slot: usize,
        mode: u32,
    },
    Chown {
        at: At,
        uid: Option<u32>,
        gid: Option<u32>,
        flags: AtFlags,
    },
    Fchown {
        slot: usize,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Utimens {
        at: At,
        times: Timestamps,
        flags: AtFlags,
    },
    Futimens {
        slot: usize,
        times: Timestamps,
    },
    SetXattr {
        at: At,
        name: &'static str,
        data: Data,
        flags: XattrFlags,
    },
    FsetXattr {
        slot: usize,
        name: &'static str,
        data: Data,
        flags: XattrFlags,
    },
    GetXattr {
        at: At,
        name: &'static str,
        room: usize,
    },
    FgetXattr {
        slot: usize,
        name: &'static str,
        room: usize,
    },
    ListXattr {
        at: At,
        room: usize,
    },
    RemoveXattr {
        at: At,
        name: &'static str,
    },
    FremoveXattr {
        slot: usize,
        name: &'static str,
    },
    List {
        at: At,
    },
    /// Has the mount store what it has, beside what goes on.
    Flush,
    /// Looks at everything.
    Compare,
    /// Unmounts, forgets what was kept of the grid, mounts again and looks at everything.
    Remount,
}

/// What an operation gave.
#[derive(PartialEq)]
pub enum Answer {
    Done,
    Count(u64),
    Bytes(Vec<u8>),
    Names(Vec<(OsString, FileType)>),
    Facts(Facts),
    Times(When, When),
    /// Holes that are none.
    Wrong(String),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Answer::Done => write!(f, "done"),
            Answer::Count(n) => write!(f, "{n}"),
            Answer::Bytes(bytes) => {
                let mut hasher = DefaultHasher::new();
                bytes.hash(&mut hasher);
                write!(f, "{} bytes ({:x})", bytes.len(), hasher.finish() >> 40)
            }
            Answer::Names(names) => names.fmt(f),
            Answer::Facts(facts) => facts.fmt(f),
            Answer::Times(atime, mtime) => write!(f, "atime {atime:?}, mtime {mtime:?}"),
            Answer::Wrong(what) => f.write_str(what),
        }
    }
}

/// The mount, or the directory beside it.
pub struct Side {
    pub root: PathBuf,
    base: Option<OwnedFd>,
    pub slots: Vec<Option<OwnedFd>>,
}

impl Side {
    pub fn new(root: PathBuf, slots: usize) -> Side {
        let mut side = Side { root, base: None, slots: (0..slots).map(|_| None).collect() };
        side.open();
        side
    }

    pub fn open(&mut self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.base = Some(fs::open(&self.root, flags, Mode::empty()).expect("the root"));
    }

    /// Closes everything, so that it can be unmounted.
    pub fn close(&mut self) {
        self.base = None;
        self.slots.fill_with(|| None);
    }

    fn fd(&self, slot: usize) -> Result<BorrowedFd<'_>, Errno> {
        Ok(self.slots[slot].as_ref().ok_or(Errno::BADF)?.as_fd())
    }

    fn base(&self, at: &At) -> Result<BorrowedFd<'_>, Errno> {
        match at.slot {
            Some(slot) => self.fd(slot),
            None => Ok(self.base.as_ref().ok_or(Errno::BADF)?.as_fd()),
        }
    }

    /// For calls that take no descriptor of a directory.
    fn path(&self, at: &At) -> Result<PathBuf, Errno> {
        Ok(Path::new(&format!("/proc/self/fd/{}", self.base(at)?.as_raw_fd())).join(&at.path))
    }

    pub fn stat(&self, at: &At, flags: AtFlags) -> Result<Stat, Errno> {
        fs::statat(self.base(at)?, &at.path, flags)
    }

    pub fn fstat(&self, slot: usize) -> Option<Stat> {
        fs::fstat(self.fd(slot).ok()?).ok()
    }

    /// Where a descriptor of a file stands.
    pub fn position(&self, slot: usize) -> Option<u64> {
        let fd = self.fd(slot).ok()?;
        let is_file = FileType::from_raw_mode(fs::fstat(fd).ok()?.st_mode) == FileType::RegularFile;
        fs::tell(fd).ok().filter(|_| is_file)
    }

    pub fn run(&mut self, op: &Op) -> Result<Answer, Errno> {
        if let Op::Close { slot } = op {
            self.slots[*slot] = None;
            return Ok(Answer::Done);
        }
        if let Op::Open { slot, at, flags, mode } = op {
            self.slots[*slot] = None;
            let base = self.base(at)?;
            let fd = fs::openat(base, &at.path, *flags | OFlags::NONBLOCK | OFlags::CLOEXEC, mode_of(*mode))?;
            self.slots[*slot] = Some(fd);
            return Ok(Answer::Done);
        }
        self.run_open(op)
    }

    fn run_open(&self, op: &Op) -> Result<Answer, Errno> {
        match op {
            Op::Open { .. } | Op::Close { .. } | Op::Flush | Op::Compare | Op::Remount => {}
            Op::Read { slot, length } => {
                let mut buffer = vec![0; *length];
                let read = io::read(self.fd(*slot)?, &mut buffer)?;
                buffer.truncate(read);
                return Ok(Answer::Bytes(buffer));
            }
            Op::Pread { slot, at, length } => {
                let mut buffer = vec![0; *length];
                let read = io::pread(self.fd(*slot)?, &mut buffer, *at)?;
                buffer.truncate(read);
                return Ok(Answer::Bytes(buffer));
            }
            Op::Write { slot, data } => return Ok(Answer::Count(io::write(self.fd(*slot)?, &data.bytes())? as u64)),
            Op::Pwrite { slot, at, data } => {
                return Ok(Answer::Count(io::pwrite(self.fd(*slot)?, &data.bytes(), *at)? as u64));
            }
            Op::Map { slot, at, data } => return write_mapped(self.fd(*slot)?, *at, &data.bytes()),
            Op::Seek { slot, to } => return Ok(Answer::Count(fs::seek(self.fd(*slot)?, *to)?)),
            Op::Holes { slot, at } => return holes(self.fd(*slot)?, *at),
            Op::Fsync { slot } => fs::fsync(self.fd(*slot)?)?,
            Op::Fdatasync { slot } => fs::fdatasync(self.fd(*slot)?)?,
            Op::Truncate { at, size } => {
                nix::unistd::truncate(&self.path(at)?, *size as i64).map_err(|e| Errno::from_raw_os_error(e as i32))?;
            }
            Op::Ftruncate { slot, size } => fs::ftruncate(self.fd(*slot)?, *size)?,
            Op::Allocate { slot, mode, at, length } => fs::fallocate(self.fd(*slot)?, *mode, *at, *length)?,
            Op::Copy { from, at, to, to_at, length } => {
                let (mut at, mut to_at) = (*at, *to_at);
                let (from, to) = (self.fd(*from)?, self.fd(*to)?);
                let copied = fs::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), *length)?;
                return Ok(Answer::Count(copied as u64));
            }
            Op::Rename { from, to, flags } => {
                fs::renameat_with(self.base(from)?, &from.path, self.base(to)?, &to.path, *flags)?;
            }
            Op::Link { from, to, flags } => {
                fs::linkat(self.base(from)?, &from.path, self.base(to)?, &to.path, *flags)?;
            }
            Op::Unlink { at, flags } => fs::unlinkat(self.base(at)?, &at.path, *flags)?,
            Op::Mkdir { at, mode } => fs::mkdirat(self.base(at)?, &at.path, mode_of(*mode))?,
            Op::Mknod { at, kind, mode, device } => {
                let device = fs::makedev(device.0, device.1);
                fs::mknodat(self.base(at)?, &at.path, *kind, mode_of(*mode), device)?;
            }
            Op::Symlink { target, at } => fs::symlinkat(target, self.base(at)?, &at.path)?,
            Op::Readlink { at } => {
                return Ok(Answer::Bytes(fs::readlinkat(self.base(at)?, &at.path, Vec::new())?.into_bytes()));
            }
            Op::Stat { at, flags } => return Ok(Answer::Facts(Facts::of(&self.stat(at, *flags)?))),
            Op::Chmod { at, mode } => fs::chmodat(self.base(at)?, &at.path, mode_of(*mode), AtFlags::empty())?,
            Op::Fchmod { slot, mode } => fs::fchmod(self.fd(*slot)?, mode_of(*mode))?,
            Op::Chown { at, uid, gid, flags } => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                fs::chownat(self.base(at)?, &at.path, uid, gid, *flags)?;
            }
            Op::Fchown { slot, uid, gid } => {
                fs::fchown(self.fd(*slot)?, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
            }
            Op::Utimens { at, times, flags } => {
                let before = self.stat(at, *flags)?;
                fs::utimensat(self.base(at)?, &at.path, times, *flags)?;
                return Ok(times_of(&self.stat(at, *flags)?, &before, times));
            }
            Op::Futimens { slot, times } => {
                let before = fs::fstat(self.fd(*slot)?)?;
                fs::futimens(self.fd(*slot)?, times)?;
                return Ok(times_of(&fs::fstat(self.fd(*slot)?)?, &before, times));
            }
            Op::SetXattr { at, name, data, flags } => {
                fs::lsetxattr(self.path(at)?, *name, &data.bytes(), *flags)?;
            }
            Op::FsetXattr { slot, name, data, flags } => {
                fs::fsetxattr(self.fd(*slot)?, *name, &data.bytes(), *flags)?;
            }
            Op::GetXattr { at, name, room } => {
                let path = self.path(at)?;
                return sized(*room, |buffer| fs::lgetxattr(&path, *name, buffer));
            }
            Op::FgetXattr { slot, name, room } => {
                let fd = self.fd(*slot)?;
                return sized(*room, |buffer| fs::fgetxattr(fd, *name, buffer));
            }
            Op::ListXattr { at, room } => {
                let path = self.path(at)?;
                let listed = sized(*room, |buffer| fs::llistxattr(&path, buffer))?;
                let Answer::Bytes(listed) = listed else { return Ok(listed) };
                let mut names: Vec<&[u8]> = listed.split_inclusive(|byte| *byte == 0).collect();
                names.sort_unstable();
                return Ok(Answer::Bytes(names.concat()));
            }
            Op::RemoveXattr { at, name } => fs::lremovexattr(self.path(at)?, *name)?,
            Op::FremoveXattr { slot, name } => fs::fremovexattr(self.fd(*slot)?, *name)?,
            Op::List { at } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let fd = fs::openat(self.base(at)?, &at.path, flags, Mode::empty())?;
                let mut names = Vec::new();
                let mut buffer = [MaybeUninit::uninit(); 4096];
                let mut listing = fs::RawDir::new(fd, &mut buffer);
                while let Some(entry) = listing.next() {
                    let entry = entry?;
                    names.push((name_of(entry.file_name()), entry.file_type()));
                }
                names.sort_by(|a, b| a.0.cmp(&b.0));
                return Ok(Answer::Names(names));
            }
        }
        Ok(Answer::Done)
    }
}

impl Op {
    /// The paths that it names, and the slots.
    pub fn places(&self) -> Vec<At> {
        match self {
            Op::Rename { from, to, .. } | Op::Link { from, to, .. } => vec![from.clone(), to.clone()],
            Op::Open { at, .. }
            | Op::Truncate { at, .. }
            | Op::Unlink { at, .. }
            | Op::Mkdir { at, .. }
            | Op::Mknod { at, .. }
            | Op::Symlink { at, .. }
            | Op::Readlink { at }
            | Op::Stat { at, .. }
            | Op::Chmod { at, .. }
            | Op::Chown { at, .. }
            | Op::Utimens { at, .. }
            | Op::SetXattr { at, .. }
            | Op::GetXattr { at, .. }
            | Op::ListXattr { at, .. }
            | Op::RemoveXattr { at, .. }
            | Op::List { at } => vec![at.clone()],
            _ => Vec::new(),
        }
    }
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode)
}

fn name_of(name: &CStr) -> OsString {
    OsStr::from_bytes(name.to_bytes()).to_owned()
}

/// The times of a file after they were set. Reading changes one of them on a local disk only, which may have one clock tick
/// for several changes.
fn times_of(stat: &Stat, before: &Stat, times: &Timestamps) -> Answer {
    let is_kept = (stat.st_atime, stat.st_atime_nsec) == (before.st_atime, before.st_atime_nsec);
    let is_left = times.last_access.tv_nsec == UTIME_OMIT;
    let atime = if is_left && is_kept { When::Kept } else { When::of(stat.st_atime, stat.st_atime_nsec as i64) };
    Answer::Times(atime, When::of(stat.st_mtime, stat.st_mtime_nsec as i64))
}

/// What a call fills a buffer with, or how much it would.
fn sized(room: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<Answer, Errno> {
    let mut buffer = vec![0; room];
    let filled = fill(&mut buffer)?;
    if room == 0 {
        return Ok(Answer::Count(filled as u64));
    }
    buffer.truncate(filled);
    Ok(Answer::Bytes(buffer))
}

/// Writes as much of `data` through a shared map as lies within the file.
fn write_mapped(fd: BorrowedFd, at: u64, data: &[u8]) -> Result<Answer, Errno> {
    const PAGE: u64 = 4096;
    let stat = fs::fstat(fd)?;
    let size = if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile { stat.st_size as u64 } else { 1 };
    let end = size.min(at + data.len() as u64);
    if at >= end {
        return Ok(Answer::Count(0));
    }
    let begin = at - at % PAGE;
    let (length, skipped) = ((end - begin) as usize, (at - begin) as usize);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, placed by the kernel, changes no memory that is in use.
    let map =
        unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), begin as i64) };
    if map == libc::MAP_FAILED {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).expect("an errno"));
    }
    // SAFETY: the mapping is `length` bytes long and nobody else's; the file is not cut meanwhile.
    let synced = unsafe {
        std::ptr::copy_nonoverlapping(data.as_ptr(), map.cast::<u8>().add(skipped), length - skipped);
        let synced = libc::msync(map, length, libc::MS_SYNC);
        libc::munmap(map, length);
        synced
    };
    assert_eq!(synced, 0, "msync: {}", std::io::Error::last_os_error());
    Ok(Answer::Count(end - at))
}

/// Looks whether what is told of holes is true: how many are found is the file system's own matter.
fn holes(fd: BorrowedFd, at: u64) -> Result<Answer, Errno> {
    let stat = fs::fstat(fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Answer::Done);
    }
    // The descriptor may be for writing alone, and the file without a name.
    let Ok(content) = std::fs::read(format!("/proc/self/fd/{}", fd.as_raw_fd())) else { return Ok(Answer::Done) };
    let position = fs::tell(fd)?;
    let (data, hole) = (fs::seek(fd, SeekFrom::Data(at)), fs::seek(fd, SeekFrom::Hole(at)));
    fs::seek(fd, SeekFrom::Start(position))?;
    if at >= content.len() as u64 {
        return if data == hole { Err(data.unwrap_err()) } else { Ok(Answer::Wrong(format!("{data:?}, {hole:?}"))) };
    }
    let rest = &content[at as usize..];
    let is_right = match data {
        Ok(data) => (at..content.len() as u64).contains(&data) && rest[..(data - at) as usize].iter().all(|b| *b == 0),
        Err(Errno::NXIO) => rest.iter().all(|byte| *byte == 0),
        Err(_) => false,
    } && match hole {
        Ok(hole) if hole == content.len() as u64 => true,
        Ok(hole) => hole >= at && content.get(hole as usize) == Some(&0),
        Err(_) => false,
    };
    Ok(if is_right { Answer::Done } else { Answer::Wrong(format!("data {data:?}, hole {hole:?}")) })
}
