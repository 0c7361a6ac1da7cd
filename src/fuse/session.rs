//! Mounting and unmounting.
//!
//! The unmount is our own: before anything is unmounted the kernel's table must still show *our* mount at the path, and
//! the library's own unmount, which may hit somebody else's mount, never runs.

use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{ffi, io};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use tokio::runtime;

use super::adapter::Adapter;
use super::direct::mount_as_root;
use super::mounts::find_mount;
use super::notify;
use crate::fs::Filesystem;

/// Threads that read requests. Each only hands its request to a task.
const THREADS: usize = 2;
/// How often the end of a session is looked for.
const POLL: Duration = Duration::from_millis(50);

/// Who may use the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The mounter.
    #[default]
    Owner,
    /// The mounter and root.
    Root,
    /// Everybody, as far as modes allow.
    Other,
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// An existing directory, as an absolute path without symbolic links.
    pub mountpoint: PathBuf,
    /// What the mount table shows as the source. Everybody can read it.
    pub source: String,
    /// Who may use it.
    pub access: Access,
    /// Refuse changes in the kernel already.
    pub read_only: bool,
    /// Honour device files.
    pub dev: bool,
    /// Honour set-id bits.
    pub suid: bool,
    /// Run no program from it.
    pub no_exec: bool,
}

/// Why mounting or unmounting failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel or fusermount3 refused.
    #[error("{0}")]
    Refused(io::Error),
    /// The source holds characters that the mount table cannot.
    #[error("the name {0:?} cannot stand in the mount table: it holds a comma or a backslash")]
    Source(String),
    /// Files under the mountpoint are in use.
    #[error("it is in use: a program has a file open or its working directory there")]
    Busy,
}

/// A mounted file system.
pub struct Mounted {
    // Dropping fuser's session would unmount by path whatever stands there, so it is never dropped.
    session: ManuallyDrop<BackgroundSession>,
    mountpoint: PathBuf,
    id: u64,
}

/// Mounts `fs`; its requests run on `runtime`. The mount answers once this returns.
pub fn mount(spec: &MountSpec, fs: Arc<Filesystem>, runtime: runtime::Handle) -> Result<Mounted, MountError> {
    if spec.source.contains([',', '\\']) {
        return Err(MountError::Source(spec.source.clone()));
    }
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(spec.source.clone()),
        MountOption::Subtype("tahoefs".into()),
        MountOption::DefaultPermissions,
        if spec.read_only { MountOption::RO } else { MountOption::RW },
        if spec.dev { MountOption::Dev } else { MountOption::NoDev },
        if spec.suid { MountOption::Suid } else { MountOption::NoSuid },
        if spec.no_exec { MountOption::NoExec } else { MountOption::Exec },
    ];
    config.acl = match spec.access {
        Access::Owner => SessionACL::Owner,
        Access::Root => SessionACL::RootAndOwner,
        Access::Other => SessionACL::All,
    };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let (served, handle) = (Arc::clone(&fs), runtime.clone());
    let adapter = Adapter { fs, runtime };
    let session = match mount_as_root(spec).map_err(MountError::Refused)? {
        Some(device) => Session::from_fd(adapter, device, config.acl, config).inspect_err(|_| {
            // The failure to start is what counts; what stands there is ours, and dead.
            let _ = unmount_as_root(&spec.mountpoint, true);
        }),
        None => Session::new(adapter, &spec.mountpoint, &config),
    };
    let session = session.map_err(MountError::Refused)?;
    let session = ManuallyDrop::new(session.spawn().map_err(MountError::Refused)?);
    notify::begin(&served, session.notifier(), handle).map_err(MountError::Refused)?;
    let entry = find_mount(&spec.mountpoint).map_err(MountError::Refused)?;
    let entry = entry.ok_or_else(|| MountError::Refused(io::Error::other("the mount is gone again")))?;
    Ok(Mounted { session, mountpoint: spec.mountpoint.clone(), id: entry.id })
}

impl Mounted {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Whether the kernel still sends requests.
    pub fn is_alive(&self) -> bool {
        !self.session.guard.is_finished()
    }

    /// Waits until the file system is unmounted, by whomever.
    pub async fn ended(&self) {
        while self.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Unmounts. With `lazy` it goes from the tree at once and ends when the last user lets go of it.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        let ours = find_mount(&self.mountpoint).map_err(MountError::Refused)?.is_some_and(|m| m.id == self.id);
        if !ours {
            return Ok(());
        }
        if nix::unistd::geteuid().is_root() {
            unmount_as_root(&self.mountpoint, lazy)
        } else {
            ask_fusermount(&self.mountpoint, lazy)
        }
    }
}

fn unmount_as_root(mountpoint: &Path, lazy: bool) -> Result<(), MountError> {
    let path = ffi::CString::new(mountpoint.as_os_str().as_bytes()).map_err(|e| MountError::Refused(e.into()))?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that lives across the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::EBUSY) => Err(MountError::Busy),
        e => Err(MountError::Refused(e)),
    }
}

fn ask_fusermount(mountpoint: &Path, lazy: bool) -> Result<(), MountError> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mountpoint);
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output().map_err(MountError::Refused)?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(MountError::Busy),
        false => Err(MountError::Refused(io::Error::other(said.trim().to_owned()))),
    }
}
