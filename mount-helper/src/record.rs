//! Which node directory a mount has, for umount: a small file under `/run`, which root alone writes and reads.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::table::Entry;

const FOLDER: &str = "/run/tahoefs";

fn file(folder: &Path, entry: &Entry) -> PathBuf {
    folder.join(format!("{}-{}", entry.id, entry.user))
}

/// Notes `node_directory` for the mount.
pub fn write(entry: &Entry, node_directory: &str) -> io::Result<()> {
    write_in(Path::new(FOLDER), entry, node_directory)
}

/// The node directory that was noted for the mount.
pub fn read(entry: &Entry) -> Option<String> {
    fs::read_to_string(file(Path::new(FOLDER), entry)).ok()
}

/// Forgets the mount.
pub fn forget(entry: &Entry) {
    // A note that stays is overwritten by the next mount that gets the number.
    let _ = fs::remove_file(file(Path::new(FOLDER), entry));
}

fn write_in(folder: &Path, entry: &Entry, node_directory: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = file(folder, entry);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(node_directory.as_bytes())
}
