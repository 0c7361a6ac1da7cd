//! A local directory that is filled from the grid. Names, kinds and contents are other people's: no link below it is
//! followed, whoever made it and whenever, because every directory is opened from the one above it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::exit::Failure;
use super::local::{PERMISSIONS, Target, part_name, unpacked_device};
use crate::node::{Attributes, FileType, Timestamp};

/// Opens a directory, not through a link.
const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A directory that is filled. It keeps no descriptor but that of the directory at the top: trees are wide.
#[derive(Clone, Debug)]
pub struct Folder {
    top: Arc<OwnedFd>,
    /// The names from the top to it.
    below: Vec<OsString>,
    path: PathBuf,
}

fn no_mode() -> Mode {
    Mode::empty()
}

fn timespec(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.secs, time.nanos.into())
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & PERMISSIONS)
}

impl Folder {
    /// The directory at `path`, which the user named: links on the way to it are followed.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = openat(AT_FDCWD, path, flags, no_mode())?;
        Ok(Folder { top: Arc::new(top), below: Vec::new(), path: path.to_owned() })
    }

    /// The path of `name` in it, for messages.
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    fn inside(&self, name: &OsStr) -> Folder {
        let mut inside = self.clone();
        inside.below.push(name.to_owned());
        inside.path.push(name);
        inside
    }

    /// A descriptor of it: fails where a directory on the way has become a link.
    fn descend(&self, flags: OFlag) -> io::Result<OwnedFd> {
        let Some((last, above)) = self.below.split_last() else {
            return Ok(openat(&*self.top, ".", DIRECTORY | flags, no_mode())?);
        };
        let mut at = None;
        for name in above {
            let from = at.as_ref().map_or((*self.top).as_fd(), |fd: &OwnedFd| fd.as_fd());
            at = Some(openat(from, name.as_os_str(), DIRECTORY | OFlag::O_PATH, no_mode())?);
        }
        let from = at.as_ref().map_or((*self.top).as_fd(), |fd| fd.as_fd());
        Ok(openat(from, last.as_os_str(), DIRECTORY | flags, no_mode())?)
    }

    fn handle(&self) -> io::Result<OwnedFd> {
        self.descend(OFlag::O_PATH)
    }

    /// Makes the directory `name`, unless there is one; `true` when it was made.
    ///
    /// # Errors
    /// Something else is there, a link to a directory too, or the system refuses.
    pub fn make(&self, name: &OsStr, attributes: Option<&Attributes>) -> io::Result<(Folder, bool)> {
        let mode = if attributes.is_some_and(|a| a.mode.is_some()) { 0o700 } else { 0o777 };
        let inside = self.inside(name);
        match mkdirat(self.handle()?, name, Mode::from_bits_truncate(mode)) {
            Ok(()) => Ok((inside, true)),
            Err(Errno::EEXIST) => match inside.handle() {
                Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err(io::ErrorKind::NotADirectory.into()),
                opened => opened.map(|_| (inside, false)),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// Gives a directory that was made and filled its mode and time.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish(&self, attributes: &Attributes) -> io::Result<()> {
        let directory = self.descend(OFlag::O_RDONLY)?;
        if let Some(mode) = attributes.mode {
            fchmod(&directory, permissions(mode))?;
        }
        match attributes.mtime.map(timespec) {
            Some(mtime) => Ok(futimens(&directory, &TimeSpec::UTIME_OMIT, &mtime)?),
            None => Ok(()),
        }
    }

    /// A file that is to stand at `name`, in place of whatever is there but a directory.
    ///
    /// # Errors
    /// The system refuses.
    pub fn file(&self, name: &OsStr, attributes: Option<&Attributes>) -> Result<Target, Failure> {
        let path = self.path_of(name);
        let folder = self.handle().map_err(|e| Failure::io(path.display(), &e))?;
        Target::whole(folder, name, path, attributes)
    }

    /// Makes a symbolic link to `target`, in place of what is there but a directory.
    ///
    /// # Errors
    /// The system refuses.
    pub fn make_symlink(&self, name: &OsStr, target: &[u8], attributes: &Attributes) -> io::Result<()> {
        let (folder, temporary) = (self.handle()?, part_name());
        symlinkat(OsStr::from_bytes(target), &folder, temporary.as_os_str())?;
        take_place(&folder, &temporary, name, attributes)
    }

    /// Makes a pipe, a socket or a device, in place of what is there but a directory.
    ///
    /// # Errors
    /// The system refuses; devices are for root.
    pub fn make_special(&self, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let kind = match attributes.kind {
            FileType::Fifo => SFlag::S_IFIFO,
            FileType::Socket => SFlag::S_IFSOCK,
            FileType::BlockDevice => SFlag::S_IFBLK,
            FileType::CharDevice => SFlag::S_IFCHR,
            FileType::File | FileType::Directory | FileType::Symlink => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let mode = permissions(attributes.mode.unwrap_or(0o600));
        let (folder, temporary) = (self.handle()?, part_name());
        mknodat(&folder, temporary.as_os_str(), kind, mode, unpacked_device(attributes.rdev))?;
        take_place(&folder, &temporary, name, attributes)
    }
}

fn take_place(folder: &OwnedFd, temporary: &OsStr, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
    let done = || -> io::Result<()> {
        if let Some(time) = attributes.mtime.map(timespec) {
            utimensat(folder, temporary, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        }
        Ok(renameat(folder, temporary, folder, name)?)
    };
    done().inspect_err(|_| {
        // What could not take its place is not left beside it.
        let _ = unlinkat(folder, temporary, UnlinkatFlags::NoRemoveDir);
    })
}

/// What is at `name` in `folder`, a link as a link; `None` if that cannot be said.
pub fn look(folder: &OwnedFd, name: &OsStr) -> Option<nix::sys::stat::FileStat> {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn write(folder: &Folder, name: &str) -> Result<(), Failure> {
        let mut target = folder.file(OsStr::new(name), None)?;
        target.write(b"new")?;
        target.finish()
    }

    #[test]
    fn links_are_replaced_and_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let outside = top.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        let into = top.path().join("into");
        fs::create_dir(&into).unwrap();
        symlink(&outside, into.join("a")).unwrap();
        symlink(top.path(), into.join("d")).unwrap();
        let folder = Folder::open(&into).unwrap();
        write(&folder, "a").unwrap();
        assert_eq!((fs::read(&outside).unwrap(), fs::read(into.join("a")).unwrap()), (b"kept".into(), b"new".into()));
        assert!(into.join("a").symlink_metadata().unwrap().is_file());
        let refused = folder.make(OsStr::new("d"), None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotADirectory);
        assert_eq!(fs::read_dir(&into).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn a_directory_that_becomes_a_link_is_not_gone_into() {
        let top = tempfile::tempdir().unwrap();
        let (into, outside) = (top.path().join("into"), top.path().join("outside"));
        fs::create_dir(&into).unwrap();
        fs::create_dir(&outside).unwrap();
        let (sub, made) = Folder::open(&into).unwrap().make(OsStr::new("sub"), None).unwrap();
        let (deep, _) = sub.make(OsStr::new("deep"), None).unwrap();
        assert!(made);
        let mut begun = deep.file(OsStr::new("begun"), None).unwrap();
        fs::rename(into.join("sub"), top.path().join("aside")).unwrap();
        fs::create_dir(outside.join("deep")).unwrap();
        symlink(&outside, into.join("sub")).unwrap();
        for folder in [&sub, &deep] {
            assert!(write(folder, "f").is_err());
            assert!(folder.make(OsStr::new("g"), None).is_err());
            assert!(folder.make_symlink(OsStr::new("l"), b"x", &Attributes::new(FileType::Symlink)).is_err());
            assert!(folder.finish(&Attributes::new(FileType::Directory)).is_err());
        }
        begun.write(b"x").unwrap();
        begun.finish().unwrap();
        assert!(top.path().join("aside/deep/begun").exists(), "it stays where it was begun");
        assert_eq!(fs::read_dir(outside.join("deep")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_replaced_gives_no_set_id_bits() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
        write(&Folder::open(top.path()).unwrap(), "f").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    }
}
