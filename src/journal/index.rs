//! The local index: what has no edge on the grid to stand on. Today that is the attributes of mounted roots.
//!
//! It is no cache: what stands here stands nowhere else.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::cap::StorageIndex;
use crate::node::Metadata;

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
        let path = self.path(si);
        let temporary = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&metadata.to_json())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(&self.folder)?.sync_all()
    }

    fn path(&self, si: StorageIndex) -> PathBuf {
        self.folder.join(format!("{si}.json"))
    }
}
