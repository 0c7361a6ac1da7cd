//! Whether a directory can be mounted on.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use crate::fuse::find_mount;

/// A mountpoint that passed.
#[derive(Debug)]
pub struct Mountpoint {
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    made: bool,
}

/// Whether the mount at `path` has lost its process. `stat` alone may still be answered from the kernel's memory.
pub fn is_stale(path: &Path) -> bool {
    is_fuse(path) && nix::sys::statvfs::statvfs(&mounted_path(path)) == Err(nix::errno::Errno::ENOTCONN)
}

/// Whether a file system in user space is mounted at `path`.
pub fn is_fuse(path: &Path) -> bool {
    matches!(find_mount(&mounted_path(path)), Ok(Some(entry)) if entry.fs_type.starts_with("fuse"))
}

/// `path` without symbolic links above its last name: the root of a dead mount cannot be looked at.
pub fn mounted_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if !absolute.is_symlink() => canonical(parent).join(name),
        _ => canonical(&absolute),
    }
}

impl Mountpoint {
    /// Checks `path`, and makes the directory where it is missing. `apart` are directories of ours, and what they are,
    /// that must neither be inside it nor hold it: a mount that waits for itself waits for ever.
    ///
    /// # Errors
    /// One line that says what is wrong, exit code 6.
    pub fn prepare(path: &Path, apart: &[(&str, PathBuf)]) -> Result<Mountpoint, Failure> {
        let shown = path.display();
        let refused = |why: String| Failure::new(Exit::Mount, format!("{shown}: {why}"));
        let absolute = std::path::absolute(path).map_err(|e| refused(e.to_string()))?;
        if is_stale(&absolute) {
            return Err(refused(format!(
                "an earlier mount is still there, but its process is gone; `tahoefs unmount {shown}` removes it"
            )));
        }
        let real = canonical(&absolute);
        for (what, ours) in apart {
            let ours = canonical(ours);
            let name = format!("the {what} {}, which the mount itself needs", ours.display());
            if real.starts_with(&ours) {
                return Err(refused(format!("is inside {name}")));
            }
            if ours.starts_with(&real) {
                return Err(refused(format!("holds {name}")));
            }
        }
        let made = match fs::metadata(&absolute) {
            Ok(metadata) if !metadata.is_dir() => return Err(refused("is not a directory".into())),
            Ok(_) => false,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let make = DirBuilder::new().mode(0o700).create(&absolute);
                make.map_err(|e| refused(format!("cannot be made: {}", plain(&e))))?;
                true
            }
            Err(e) => return Err(refused(plain(&e))),
        };
        let mut mountpoint = Mountpoint { path: absolute, made };
        mountpoint.path = fs::canonicalize(&mountpoint.path).map_err(|e| refused(plain(&e)))?;
        match find_mount(&mountpoint.path) {
            Ok(None) => Ok(mountpoint),
            // Somebody has looked at an automount point, and waits for this.
            Ok(Some(entry)) if entry.fs_type == "autofs" => Ok(mountpoint),
            Ok(Some(entry)) => Err(refused(format!("{} is mounted there already; unmount that first", entry.source))),
            Err(e) => Err(refused(format!("the table of mounts cannot be read: {}", plain(&e)))),
        }
    }

    /// The mount is up: the directory stays.
    pub fn keep(&mut self) {
        self.made = false;
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        if self.made {
            // Nothing half-made is left; a directory that is in use by now stays.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn plain(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

/// `path` without symbolic links, as far as it exists.
pub fn canonical(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        if let Ok(real) = fs::canonicalize(at) {
            return missing.iter().rev().fold(real, |p, name| p.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                at = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_stands_apart_from_what_the_mount_needs() {
        let top = tempfile::tempdir().unwrap();
        let node = top.path().join("node");
        fs::create_dir_all(node.join("sub")).unwrap();
        std::os::unix::fs::symlink(&node, top.path().join("link")).unwrap();
        fs::write(top.path().join("file"), "").unwrap();
        let prepare = |path: PathBuf| Mountpoint::prepare(&path, &[("node directory", node.clone())]);
        for bad in ["node", "node/sub", "node/new", "link/sub", ".", "file", "missing/deeper", "/proc"] {
            let refused = prepare(top.path().join(bad)).unwrap_err();
            assert_eq!(refused.code, 6, "{bad}: {}", refused.message);
        }
        assert!(!node.join("new").exists());
        let mountpoint = prepare(top.path().join("mnt")).unwrap();
        assert!(mountpoint.path.is_dir());
        drop(mountpoint);
        assert!(!top.path().join("mnt").exists(), "a mount that did not come up leaves no folder");
        prepare(top.path().join("mnt")).unwrap().keep();
        assert!(top.path().join("mnt").exists());
    }
}
