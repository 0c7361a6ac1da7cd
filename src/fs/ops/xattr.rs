//! Extended attributes: those that tell about a file, which no program can set.

use std::sync::Arc;

use crate::fs::attr::{Ino, ROOT};
use crate::fs::inodes::{Kind, Link};
use crate::fs::{Filesystem, FsError};

/// Where a file stands on its way to the grid.
const STATE: &[u8] = b"user.tahoe.state";

impl Filesystem {
    /// The value of an extended attribute. `user.tahoe.state` is `local`, `uploading 40%`, `stored`, or `error: ` and why.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`] for all others.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if name != STATE {
            return Err(FsError::NoAttribute);
        }
        let state = self.lock();
        let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
        let place = match (ino, &self.root.edge) {
            (ROOT, edge) => edge.clone(),
            _ if inode.link != Link::Named => None,
            _ => Some((state.inodes.directory(inode.parent)?, Arc::clone(&inode.name))),
        };
        let (file, inside) = match &inode.kind {
            Kind::Staged(file) | Kind::Mutable(_, file) => (Some(file), None),
            Kind::Directory(dir) => (None, Some(*dir)),
            Kind::Stored(_) => (None, None),
        };
        Ok(self.writeback.standing(place, file, inside).to_string().into_bytes())
    }
}
