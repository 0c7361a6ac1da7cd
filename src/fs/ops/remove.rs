//! Removing names.

use crate::fs::attr::Ino;
use crate::fs::inodes::Link;
use crate::fs::{Filesystem, FsError, State};
use crate::node::{FileType, Freshness, Name};
use crate::writeback::{Change, DirId, Entry, Target};

impl Filesystem {
    /// Removes a name that is no directory. An open file lives on until it is closed; its upload is given up.
    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let dir = self.load(parent).await?;
        let kept = {
            let mut state = self.lock();
            self.check_writeable(dir)?;
            let (edge, entry) = self.find(dir, name)?.ok_or(FsError::NotFound)?;
            if entry.attributes.kind == FileType::Directory {
                return Err(FsError::IsDirectory);
            }
            self.meant(&mut state, parent, &edge, &entry)?;
            self.loses_name(&mut state, &entry, dir, &edge);
            self.remove(&mut state, parent, dir, edge);
            self.keep(state)
        };
        Ok(kept.done().await?)
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let dir = self.load(parent).await?;
        let (_, entry) = self.find(dir, name)?.ok_or(FsError::NotFound)?;
        let child = self.directory_of(&entry)?;
        self.writeback.load(&self.cx(), child, Freshness::Newest).await?;
        let kept = {
            let mut state = self.lock();
            self.check_writeable(dir)?;
            let (edge, entry) = self.find(dir, name)?.ok_or(FsError::NotFound)?;
            if self.directory_of(&entry)? != child {
                return Err(FsError::Busy);
            }
            if !self.writeback.is_empty(child) {
                return Err(FsError::NotEmpty);
            }
            self.meant(&mut state, parent, &edge, &entry)?;
            self.remove(&mut state, parent, dir, edge);
            state.changes.push(Change::Discard { dir: child });
            self.keep(state)
        };
        Ok(kept.done().await?)
    }

    /// The directory an entry stands for.
    pub(super) fn directory_of(&self, entry: &Entry) -> Result<DirId, FsError> {
        match &entry.target {
            Target::Directory(dir) => Ok(*dir),
            Target::Stored(cap) if cap.is_directory() => Ok(self.writeback.directory(cap)?),
            Target::Stored(_) | Target::File(_) => Err(FsError::NotDirectory),
        }
    }

    /// A name is removed or replaced here, by one path: whatever shows it, by any, lives until it is closed.
    pub(super) fn remove_inodes(&self, state: &mut State, by: Ino, dir: DirId, edge: &Name) {
        let now = self.now();
        for parent in state.inodes.of_directory(dir) {
            let Some(ino) = self.inode_at(state, parent, edge) else { continue };
            if parent != by {
                self.is_stale(state, parent, dir, edge);
            }
            if let Some(inode) = state.inodes.get_mut(ino) {
                inode.attributes.ctime = Some(now);
            }
            state.inodes.detach_at(parent, edge, Link::Removed);
            self.lives_elsewhere(state, ino, dir, edge);
        }
    }

    fn remove(&self, state: &mut State, parent: Ino, dir: DirId, edge: Name) {
        self.remove_inodes(state, parent, dir, &edge);
        state.changes.push(Change::Remove { dir, name: edge });
        self.touch_directory(state, parent);
    }
}
