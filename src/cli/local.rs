//! Local files: what they are to the grid, and how they are made from what it holds.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, makedev};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::exit::{Exit, Failure};
use super::folder::look;
use crate::node::{Attributes, FileType, Timestamp};

/// What a copied file keeps of its mode: set-id bits were for another machine's users.
pub const PERMISSIONS: u32 = 0o777;

/// What kind of thing a local file is.
pub fn kind_of(metadata: &fs::Metadata) -> FileType {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => FileType::Directory,
        () if kind.is_symlink() => FileType::Symlink,
        () if kind.is_fifo() => FileType::Fifo,
        () if kind.is_socket() => FileType::Socket,
        () if kind.is_block_device() => FileType::BlockDevice,
        () if kind.is_char_device() => FileType::CharDevice,
        () => FileType::File,
    }
}

/// `attributes` with what a local file is and says of itself.
pub fn describe(mut attributes: Attributes, metadata: &fs::Metadata) -> Attributes {
    let time = |secs: i64, nanos: i64| Timestamp::from_nanos(i128::from(secs) * 1_000_000_000 + i128::from(nanos));
    attributes.kind = kind_of(metadata);
    attributes.mode = Some(metadata.mode() & 0o7777);
    attributes.uid = Some(metadata.uid());
    attributes.gid = Some(metadata.gid());
    attributes.mtime = Some(time(metadata.mtime(), metadata.mtime_nsec()));
    attributes.ctime = Some(time(metadata.ctime(), metadata.ctime_nsec()));
    attributes.rdev = match attributes.kind {
        FileType::BlockDevice | FileType::CharDevice => packed_device(metadata.rdev()),
        _ => 0,
    };
    attributes
}

/// A device number as FUSE writes it: 12 bits of major among 20 of minor.
fn packed_device(device: u64) -> u32 {
    let (major, minor) = (nix::sys::stat::major(device) as u32, nix::sys::stat::minor(device) as u32);
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// The device number that [`packed_device`] wrote.
pub fn unpacked_device(rdev: u32) -> u64 {
    makedev(((rdev >> 8) & 0xfff).into(), ((rdev & 0xff) | (rdev >> 12) & 0xf_ff00).into())
}

/// A name that nothing of ours has, for what is not complete yet.
pub fn part_name() -> OsString {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    // The name itself may be as long as names can be.
    format!(".tahoefs-{}-{number}.part", std::process::id()).into()
}

/// Where a fetched file goes: a new file beside its place, renamed at the end, so that nothing half-made is left.
pub enum Target {
    /// Standard output.
    Stdout,
    /// Written into, whatever it is.
    InPlace { file: File, path: PathBuf },
    File {
        file: File,
        /// The directory that both names are in.
        folder: OwnedFd,
        temporary: OsString,
        name: OsString,
        /// For messages.
        path: PathBuf,
        /// Set at the end, so that nobody sees the content before its mode is right.
        permissions: Option<Permissions>,
        mtime: Option<SystemTime>,
        kept: bool,
    },
}

impl Target {
    /// A file that the user named. A file of its own is replaced whole; a device, a pipe, a link or a file with other
    /// names is written into. What `attributes` say of mode and time is set on it; else a file that is replaced keeps its
    /// owner and mode.
    ///
    /// # Errors
    /// It is a directory or cannot be opened.
    pub fn file(path: &Path, attributes: Option<&Attributes>) -> Result<Target, Failure> {
        let replaceable = |m: &fs::Metadata| m.is_file() && m.nlink() == 1;
        let is_directory = || Failure::at(Exit::Failed, path.display(), "is a directory; name a file in it");
        let names_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir();
        let (false, Some(name)) = (names_directory, path.file_name()) else { return Err(is_directory()) };
        let failed = |e: io::Error| Failure::io(path.display(), &e);
        if fs::symlink_metadata(path).is_ok_and(|m| !replaceable(&m)) {
            // A link may lead to what is not there yet.
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(failed)?;
            return Ok(Target::InPlace { file, path: path.to_owned() });
        }
        let above = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(above);
        Target::whole(folder.map_err(failed)?.into(), name, path.to_owned(), attributes)
    }

    /// A file that is to stand at `name` in `folder`, in place of whatever is there but a directory. `path` is what
    /// messages call it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn whole(
        folder: OwnedFd,
        name: &OsStr,
        path: PathBuf,
        attributes: Option<&Attributes>,
    ) -> Result<Target, Failure> {
        let there = look(&folder, name).filter(|m| m.st_mode & libc::S_IFMT == libc::S_IFREG);
        let mode = attributes.and_then(|a| a.mode).or(there.as_ref().map(|m| m.st_mode));
        let permissions = mode.map(|m| Permissions::from_mode(m & PERMISSIONS));
        let mtime = attributes.and_then(|a| a.mtime).and_then(system_time);
        let first = Mode::from_bits_truncate(if permissions.is_some() { 0o600 } else { 0o666 });
        let temporary = part_name();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&folder, temporary.as_os_str(), flags, first);
        let file = File::from(file.map_err(|e| Failure::io(path.display(), &e.into()))?);
        if let Some(there) = there {
            // Only root can give a file away; whoever cannot keeps it.
            let _ = std::os::unix::fs::fchown(&file, Some(there.st_uid), Some(there.st_gid));
        }
        let name = name.to_owned();
        Ok(Target::File { file, folder, temporary, name, path, permissions, mtime, kept: false })
    }

    /// Appends.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self {
            Target::Stdout => io::stdout().lock().write_all(data).map_err(|e| Failure::io("standard output", &e)),
            Target::File { file, path, .. } | Target::InPlace { file, path } => {
                file.write_all(data).map_err(|e| Failure::io(path.display(), &e))
            }
        }
    }

    /// All is written: the file takes its place.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Target::Stdout => io::stdout().lock().flush().map_err(|e| Failure::io("standard output", &e)),
            Target::InPlace { .. } => Ok(()),
            Target::File { file, folder, temporary, name, path, permissions, mtime, kept } => {
                let done = || -> io::Result<()> {
                    if let Some(permissions) = &*permissions {
                        file.set_permissions(permissions.clone())?;
                    }
                    if let Some(mtime) = &*mtime {
                        file.set_times(FileTimes::new().set_modified(*mtime))?;
                    }
                    Ok(renameat(&*folder, temporary.as_os_str(), &*folder, name.as_os_str())?)
                };
                done().map_err(|e| Failure::io(path.display(), &e))?;
                *kept = true;
                Ok(())
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Target::File { folder, temporary, kept: false, .. } = self {
            // The failure that led here is reported already.
            let _ = unlinkat(&*folder, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn system_time(time: Timestamp) -> Option<SystemTime> {
    let part = Duration::from_nanos(time.nanos.into());
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let second = if time.secs < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    second?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_keep_their_numbers() {
        for (major, minor) in [(1, 3), (8, 17), (259, 0x12345)] {
            let device = makedev(major, minor);
            assert_eq!(unpacked_device(packed_device(device)), device);
        }
        assert_eq!(packed_device(makedev(1, 3)), 0x103);
    }

    #[test]
    fn times_before_the_epoch_are_times() {
        let time = Timestamp::from_nanos(-1);
        let before = SystemTime::UNIX_EPOCH.duration_since(system_time(time).unwrap()).unwrap();
        assert_eq!(before, Duration::from_nanos(1));
    }

    #[test]
    fn a_file_that_is_replaced_is_never_readable_for_more_than_before() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("private");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let mut target = Target::file(&path, None).unwrap();
        target.write(b"new").unwrap();
        let Target::File { temporary, .. } = &target else { panic!("a file of its own is replaced whole") };
        assert_eq!(fs::metadata(top.path().join(temporary)).unwrap().mode() & 0o777, 0o600);
        target.finish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
