//! `tahoefs/run/`: one lock and one socket for each mounted root.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::MountNote;
use crate::cap::Cap;
use crate::config::{ConfigError, Lock, LockKind, NodeDir, read_optional};
use crate::crypto::hash::sha256d;
use crate::util::base32;

/// The name of a root's files: 16 characters of a hash of its storage index, so that all caps of a directory, whatever
/// they grant, are one root; a literal directory goes by its content.
pub fn root_name(root: &Cap) -> String {
    let hash = match root.storage_index() {
        Some(si) => sha256d(&si.0),
        None => sha256d(root.readonly().to_uri().as_bytes()),
    };
    base32::encode(&hash[..10])
}

/// Why a root could not be claimed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another mount has it.
    #[error("it is mounted already{}; unmount that first", holder(.0))]
    Taken(Option<Running>),
    /// The files could not be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

fn holder(holder: &Option<Running>) -> String {
    let text = |n: &MountNote| format!(" at {} by process {}", n.mountpoint.display(), n.pid);
    holder.as_ref().map_or_else(String::new, |holder| text(&holder.note))
}

/// A root that this process has for itself, and the socket where it listens.
pub struct Claim {
    /// Kept for its effect: the root is free again when it is dropped.
    _lock: Lock,
    socket: PathBuf,
    listener: UnixListener,
}

impl Claim {
    /// Claims `root` for the mount at `mountpoint`.
    ///
    /// # Errors
    /// Another mount has it, or the files cannot be made.
    pub fn take(dir: &NodeDir, root: &Cap, mountpoint: &Path) -> Result<Claim, ClaimError> {
        let run = dir.make_own("run")?;
        let name = root_name(root);
        let lock_path = run.join(format!("{name}.lock"));
        let Some(mut lock) = Lock::try_take(&lock_path, LockKind::Exclusive)? else {
            let note = read_note(&lock_path);
            return Err(ClaimError::Taken(note.map(|note| Running { note, lock: lock_path })));
        };
        let note = MountNote { pid: std::process::id(), mountpoint: mountpoint.to_owned() };
        let text = serde_json::to_vec(&note).map_err(|e| ConfigError::Invalid(e.to_string()))?;
        lock.note(&text)?;
        let socket = run.join(format!("{name}.sock"));
        let listener = bind(&run, &socket).map_err(|e| ConfigError::io(&socket, &e))?;
        Ok(Claim { _lock: lock, socket, listener })
    }

    /// The listening socket, non-blocking, for the runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A socket that stays is replaced by the next mount.
        let _ = fs::remove_file(&self.socket);
    }
}

/// A path of at most a few dozen bytes to `name` in `folder`: sockets refuse paths above 107 bytes.
fn short_path(folder: &File, name: &Path) -> PathBuf {
    let name = name.file_name().unwrap_or_default();
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}

fn bind(run: &Path, socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let folder = File::open(run)?;
    let path = short_path(&folder, socket);
    let listener = UnixListener::bind(&path)?;
    // Nobody else comes through the folder; this is for one whose mode somebody has changed.
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn read_note(lock: &Path) -> Option<MountNote> {
    let text = read_optional(lock).ok()??;
    serde_json::from_str(&text).ok()
}

/// A mount that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its process and mountpoint.
    pub note: MountNote,
    lock: PathBuf,
}

impl Running {
    /// Connects to its socket.
    ///
    /// # Errors
    /// It does not listen (any more).
    pub fn connect(&self) -> io::Result<UnixStream> {
        let folder = File::open(self.lock.parent().unwrap_or(Path::new("/")))?;
        UnixStream::connect(short_path(&folder, &self.lock.with_extension("sock")))
    }

    /// Whether its process still holds the root.
    pub fn is_held(&self) -> bool {
        !matches!(Lock::try_take(&self.lock, LockKind::Shared), Ok(Some(_)))
    }
}

/// All mounts of a node directory that are up.
///
/// # Errors
/// The folder cannot be read.
pub fn mounts(dir: &NodeDir) -> Result<Vec<Running>, ConfigError> {
    Ok(noted(dir)?.into_iter().filter(Running::is_held).collect())
}

/// Where the roots of a node directory are mounted, or were last.
///
/// # Errors
/// The folder cannot be read.
pub fn mountpoints(dir: &NodeDir) -> Result<Vec<PathBuf>, ConfigError> {
    Ok(noted(dir)?.into_iter().map(|running| running.note.mountpoint).collect())
}

/// All mounts that a node directory knows of, by mountpoint.
fn noted(dir: &NodeDir) -> Result<Vec<Running>, ConfigError> {
    let run = dir.own("run");
    let entries = match fs::read_dir(&run) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(ConfigError::io(&run, &e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let lock = entry.map_err(|e| ConfigError::io(&run, &e))?.path();
        if lock.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        found.extend(read_note(&lock).map(|note| Running { note, lock }));
    }
    found.sort_by(|a, b| a.note.mountpoint.cmp(&b.note.mountpoint));
    Ok(found)
}
