//! The local index: what has no edge on the grid to stand on. Today that is the attributes of mounted roots.
//!
//! It is no cache: what stands here stands nowhere else.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::cap::StorageIndex;
use crate::node::Metadata;
use crate::util::{Survives, replace_file};

/// The index folder, one small file for each mounted root.
#[derive(Debug)]
pub struct Index {
    folder: PathBuf,
    /// One writer at a time.
    writing: Mutex<()>,
}

impl Index {
    /// Uses `folder`, which is made, mode 0700, if it is not there.
    pub fn open(folder: &Path) -> io::Result<Index> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Index { folder: folder.to_owned(), writing: Mutex::default() })
    }

    /// The metadata kept for the root at `si`; empty when there is none.
    pub fn root(&self, si: StorageIndex) -> io::Result<Metadata> {
        match fs::read(self.path(si)) {
            Ok(json) => Metadata::parse(&json).map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Metadata::default()),
            Err(e) => Err(e),
        }
    }

    /// Keeps the metadata for the root at `si`; it survives power loss once this returns.
    pub fn set_root(&self, si: StorageIndex, metadata: &Metadata) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        replace_file(&self.path(si), &[&metadata.to_json()], 0o600, Survives::PowerLoss)
    }

    fn path(&self, si: StorageIndex) -> PathBuf {
        self.folder.join(format!("{si}.json"))
    }
}
