//! Mounting with mount(2) as root. The library's own root mount has the type `fuse`; this one is what fusermount3 makes
//! for everybody else: type `fuse.tahoefs`, so that tools see whose it is and umount(8) finds its helper.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use nix::fcntl::{FcntlArg, fcntl};
use nix::mount::MsFlags;

use super::mounts::FS_TYPE;
use super::session::{Access, MountSpec};

/// Opens the device and mounts it. `None` where mount(2) is not for us: fusermount3 has to be asked.
pub fn mount_as_root(spec: &MountSpec) -> io::Result<Option<OwnedFd>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let device = open_device()?;
    let mode = fs::metadata(&spec.mountpoint)?.permissions().mode();
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        nix::unistd::getuid(),
        nix::unistd::getgid()
    );
    // With `allow_root` others are kept out by the session, which knows who asks.
    if spec.access != Access::Owner {
        data.push_str(",allow_other");
    }
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_RDONLY, spec.read_only);
    flags.set(MsFlags::MS_NODEV, !spec.dev);
    flags.set(MsFlags::MS_NOSUID, !spec.suid);
    flags.set(MsFlags::MS_NOEXEC, spec.no_exec);
    match nix::mount::mount(Some(spec.source.as_str()), &spec.mountpoint, Some(FS_TYPE), flags, Some(data.as_str())) {
        Ok(()) => Ok(Some(device)),
        // Root without the capability, as in a container.
        Err(nix::errno::Errno::EPERM) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn open_device() -> io::Result<OwnedFd> {
    let device: File = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    // Never one of the three that going into the background replaces.
    let fd = fcntl(&device, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: fcntl has just made this descriptor, and nobody else has it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}
