//! Mutable files: one object for each storage index, whatever the names and caps that lead to it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::attr::Ino;
use super::inodes::Kind;
use super::{Filesystem, FsError, State};
use crate::cap::{Cap, FileCap, StorageIndex};
use crate::node::{NodeError, Timestamp};
use crate::writeback::{FileObject, Times, Weight};

/// The objects in use. An inode, or a change that is not stored, keeps its object.
#[derive(Default)]
pub(super) struct Mutables {
    live: HashMap<StorageIndex, Live>,
    /// Dead ones are dropped once there are this many.
    sweep_at: usize,
}

struct Live {
    file: Weak<FileObject>,
    /// Numbers of inodes that showed it; some may be something else by now.
    inodes: HashSet<Ino>,
}

impl Filesystem {
    /// The object behind a mutable file's cap; `None` for other caps. A write cap gives it the authority.
    pub(super) fn mutable(&self, state: &mut State, cap: &Cap) -> Result<Option<Arc<FileObject>>, NodeError> {
        let (Cap::File(FileCap::Mutable(mutable)), Some(si)) = (cap, cap.storage_index()) else { return Ok(None) };
        if !mutable.is_mutable() {
            return Ok(None);
        }
        let file = match state.mutables.get(si) {
            Some(file) => file,
            None => {
                let file = match self.writeback.unstored(si) {
                    Some(file) => file,
                    None => FileObject::mutable(self.journal(), cap, self.factory.readable(cap)?),
                };
                state.mutables.put(si, &file);
                file
            }
        };
        if !cap.is_readonly() && file.write_cap().is_none() {
            // What cannot be written can be read still.
            match self.factory.writeable(cap) {
                Ok(node) => file.empower(cap.clone(), node),
                Err(error) => tracing::warn!(%error, "a mutable file cannot be written"),
            }
        }
        Ok(Some(file))
    }

    /// Refuses a change of the content of a file whose cap does not allow it.
    pub(super) fn check_authority(&self, ino: Ino) -> Result<(), FsError> {
        match &self.lock().inodes.get(ino).ok_or(FsError::Stale)?.kind {
            Kind::Mutable(cap, _) if cap.is_readonly() => Err(FsError::Denied),
            Kind::Mutable(_, file) if file.write_cap().is_none() => Err(FsError::Unsupported),
            _ => Ok(()),
        }
    }

    /// The content of an inode's file has changed, or its times were set: all names of a mutable file show that, and
    /// each edge that can be written will say it. `content` tells whether there is something to store.
    pub(super) fn times_changed(&self, state: &mut State, ino: Ino, mtime: Timestamp, content: bool) {
        let ctime = self.now();
        let Some(inode) = state.inodes.get_mut(ino) else { return };
        inode.attributes.mtime = Some(mtime);
        inode.attributes.ctime = Some(ctime);
        if let Kind::Mutable(cap, file) = &inode.kind {
            let (cap, file, name) = (cap.clone(), Arc::clone(file), Arc::clone(&inode.name));
            file.set_times(Times { mtime, ctime });
            if content {
                self.writeback.content_changed(&file, &name);
            }
            for other in state.mutables.inodes_of(&cap) {
                let shows = |kind: &Kind| matches!(kind, Kind::Mutable(_, shown) if Arc::ptr_eq(shown, &file));
                let Some(inode) = state.inodes.get_mut(other).filter(|inode| shows(&inode.kind)) else { continue };
                inode.attributes.mtime = Some(mtime);
                inode.attributes.ctime = Some(ctime);
                inode.attributes.seen = file.own_mark().or(inode.attributes.seen.take());
                inode.sighted = None;
                let parent = state.inodes.get(other).and_then(|inode| state.inodes.directory(inode.parent).ok());
                if other != ino && parent.is_some_and(|dir| self.check_writeable(dir).is_ok()) {
                    self.submit(state, other, Weight::Full);
                }
            }
        }
        self.submit(state, ino, if content { Weight::Times } else { Weight::Full });
    }
}

impl Mutables {
    fn get(&self, si: StorageIndex) -> Option<Arc<FileObject>> {
        self.live.get(&si)?.file.upgrade()
    }

    fn put(&mut self, si: StorageIndex, file: &Arc<FileObject>) {
        if self.live.len() >= self.sweep_at {
            self.live.retain(|_, live| live.file.strong_count() > 0);
            self.sweep_at = (self.live.len() * 2).max(64);
        }
        self.live.insert(si, Live { file: Arc::downgrade(file), inodes: HashSet::new() });
    }

    /// An inode shows the file behind `cap`.
    pub fn shown_by(&mut self, cap: &Cap, ino: Ino) {
        if let Some(live) = cap.storage_index().and_then(|si| self.live.get_mut(&si)) {
            live.inodes.insert(ino);
        }
    }

    fn inodes_of(&self, cap: &Cap) -> Vec<Ino> {
        let live = cap.storage_index().and_then(|si| self.live.get(&si));
        live.map_or_else(Vec::new, |live| live.inodes.iter().copied().collect())
    }
}
