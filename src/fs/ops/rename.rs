//! Renaming.

use std::sync::Arc;

use crate::fs::attr::Ino;
use crate::fs::inodes::Link;
use crate::fs::names::kept_name;
use crate::fs::{Filesystem, FsError, State};
use crate::node::{Attributes, FileType, Freshness, Name};
use crate::writeback::{Change, DirId, Entry, LinkChange};

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
            let replaced = self.find(to_dir, new_name)?;
            let (to, given) = match &replaced {
                Some((edge, _)) => (Arc::clone(edge), kept_name(edge, new_name)),
                None => self.free_edge(to_dir, new_name, (from_dir == to_dir).then_some(&from))?,
            };
            if replaced.is_some() && mode == RenameMode::NoReplace {
                return Err(FsError::Exists);
            }
            if from_dir == to_dir && from == to && entry.attributes.name == given {
                return Ok(());
            }
            let is_directory = entry.attributes.kind == FileType::Directory;
            let ino = self.meant(&mut state, parent, &from, &entry)?;
            if let Some((_, replaced)) = &replaced
                && (from_dir, &from) != (to_dir, &to)
                && self.is_inode_of(&state, ino, replaced)
            {
                // Two names of one file: nothing is done.
                return Ok(());
            }
            if is_directory && self.is_within(&state, new_parent, self.directory_of(&entry)?) {
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
                self.loses_name(&mut state, &replaced, to_dir, &to);
                self.remove_inodes(&mut state, new_parent, to_dir, &to);
            }
            let now = self.now();
            self.relocate(&mut state, (parent, from_dir, &from), (new_parent, to_dir, &to));
            let paths = state.inodes.of_directory(to_dir);
            for above in &paths {
                let shown = state.inodes.at(*above, &to);
                let Some(inode) = shown.and_then(|shown| state.inodes.get_mut(shown)) else { continue };
                inode.attributes.ctime = Some(now);
                if inode.name == to && paths.contains(&inode.parent) {
                    inode.attributes.name = given.clone();
                }
            }
            let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
            let attributes = Attributes { name: given, ..inode.attributes.clone() };
            let entry = Entry { target: inode.target(), attributes, metadata: entry.metadata, seen: entry.seen };
            if let Some(id) = entry.attributes.id.clone().filter(|id| self.writeback.is_linked(id)) {
                let change = LinkChange::Move((from_dir, Arc::clone(&from)), (to_dir, Arc::clone(&to)));
                state.changes.push(Change::Links { id, change, at: Some(now) });
            }
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

    /// What stands at a place, in the directory there, gets another place, by whatever path it is shown: what a path of the
    /// old directory showed is shown by one of the new directory, or by none if it has fewer.
    fn relocate(&self, state: &mut State, from: (Ino, DirId, &Name), to: (Ino, DirId, &Name)) {
        let ((parent, from_dir, from), (new_parent, to_dir, to)) = (from, to);
        if (from_dir, from) == (to_dir, to) {
            return;
        }
        let moved = state.inodes.at(parent, from).and_then(|ino| state.inodes.directory(ino).ok());
        let mut free = state.inodes.of_directory(to_dir);
        free.iter().for_each(|above| self.is_gone(state, *above, to));
        free.retain(|above| *above != new_parent && moved.is_none_or(|dir| !self.is_within(state, *above, dir)));
        let mut others = state.inodes.of_directory(from_dir);
        others.retain(|above| *above != parent && self.inode_at(state, *above, from).is_some());
        others.sort_by_key(|above| !free.contains(above));
        state.inodes.relocate_at(&(parent, Arc::clone(from)), new_parent, Arc::clone(to));
        for above in others {
            self.is_stale(state, above, from_dir, from);
            let path = free.iter().position(|path| *path == above).or_else(|| free.len().checked_sub(1));
            match path.map(|path| free.swap_remove(path)) {
                Some(path) => state.inodes.relocate_at(&(above, Arc::clone(from)), path, Arc::clone(to)),
                None => state.inodes.detach_at(above, from, Link::Taken),
            }
        }
    }
}
