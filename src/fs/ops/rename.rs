//! Renaming.

use std::sync::Arc;

use crate::fs::attr::Ino;
use crate::fs::inodes::Link;
use crate::fs::names::edge_name;
use crate::fs::{Filesystem, FsError};
use crate::node::{FileType, Freshness};
use crate::writeback::Change;

/// What a rename does when the new name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces what is there.
    Replace,
    /// Fails with EEXIST.
    NoReplace,
}

impl Filesystem {
    /// Moves an entry; within a directory that is one publish.
    pub async fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let (from_dir, to_dir) = (self.load(parent).await?, self.load(new_parent).await?);
        if let Some((_, replaced)) = self.find(to_dir, new_name)?
            && replaced.attributes.kind == FileType::Directory
        {
            self.writeback.load(&self.cx(), self.directory_of(&replaced)?, Freshness::Newest).await?;
        }
        let kept = {
            let mut state = self.lock();
            self.check_writeable(from_dir)?;
            self.check_writeable(to_dir)?;
            if [parent, new_parent]
                .iter()
                .any(|ino| state.inodes.get(*ino).is_none_or(|inode| inode.link != Link::Named))
            {
                return Err(FsError::NotFound);
            }
            let (from, entry) = self.find(from_dir, name)?.ok_or(FsError::NotFound)?;
            let (fresh, given) = edge_name(new_name)?;
            let replaced = self.find(to_dir, new_name)?;
            let to = replaced.as_ref().map_or(fresh, |(edge, _)| Arc::clone(edge));
            if replaced.is_some() && mode == RenameMode::NoReplace {
                return Err(FsError::Exists);
            }
            if from_dir == to_dir && from == to && entry.attributes.name == given {
                return Ok(());
            }
            let is_directory = entry.attributes.kind == FileType::Directory;
            let ino = self.bind(&mut state, parent, &from, &entry)?;
            if is_directory
                && state.inodes.ancestors(new_parent).any(|above| above.parent == parent && above.name == from)
            {
                return Err(FsError::Invalid);
            }
            if let Some((_, replaced)) = replaced.filter(|_| (from_dir, &from) != (to_dir, &to)) {
                match (is_directory, replaced.attributes.kind == FileType::Directory) {
                    (true, false) => return Err(FsError::NotDirectory),
                    (false, true) => return Err(FsError::IsDirectory),
                    (false, false) => {}
                    (true, true) => {
                        let dir = self.directory_of(&replaced)?;
                        if !self.writeback.is_empty(dir) {
                            return Err(FsError::NotEmpty);
                        }
                        state.changes.push(Change::Discard { dir });
                    }
                }
                self.remove_inodes(&mut state, to_dir, &to);
            }
            if state.inodes.at(new_parent, &to) != Some(ino) {
                self.is_gone(&mut state, new_parent, &to);
            }
            let now = self.now();
            state.inodes.relocate(ino, new_parent, Arc::clone(&to));
            let inode = state.inodes.get_mut(ino).ok_or(FsError::Stale)?;
            inode.attributes.ctime = Some(now);
            inode.attributes.name = given;
            let entry = inode.entry();
            state.changes.push(Change::Rename { from: (from_dir, from), to: (to_dir, to), entry });
            state.inodes.release(ino);
            self.touch_directory(&mut state, parent);
            if new_parent != parent {
                self.touch_directory(&mut state, new_parent);
            }
            self.keep(state)
        };
        Ok(kept.done().await?)
    }
}
