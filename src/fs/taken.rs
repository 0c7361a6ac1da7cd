//! Names that other clients take away from what is open here, or give to something else.
//!
//! Two rules keep what is written: a file whose name a conflict has given to another goes on under its own new name; and
//! one whose name was taken while nothing of it was pending is put back with the first change of its content.

use std::sync::Arc;

use super::inodes::{Kind, Link};
use super::names::{kept_name, shown};
use super::{Filesystem, Ino, State};
use crate::node::{Name, fresh_id};
use crate::writeback::Target;

impl Filesystem {
    /// The inode at a place, once one that a conflict has given another name is there no more.
    pub(super) fn inode_at(&self, state: &mut State, parent: Ino, edge: &Name) -> Option<Ino> {
        let ino = state.inodes.at(parent, edge)?;
        self.follow_conflict(state, ino);
        state.inodes.at(parent, edge)
    }

    /// Nothing stands under a name any more, and this mount has not removed it.
    pub(super) fn is_gone(&self, state: &mut State, parent: Ino, edge: &Name) {
        if let Some(ino) = self.inode_at(state, parent, edge) {
            let id = state.inodes.get(ino).and_then(|inode| inode.attributes.id.clone());
            state.inodes.detach_at(parent, edge, Link::Taken);
            if let (Some(id), Ok(dir)) = (id, state.inodes.directory(parent)) {
                self.writeback.lost_link(&id, dir, edge);
            }
        }
    }

    /// Gives an inode the name that a conflict has given to its file.
    pub(super) fn follow_conflict(&self, state: &mut State, ino: Ino) {
        let Some(inode) = state.inodes.get(ino).filter(|inode| inode.link == Link::Named) else { return };
        let (Kind::Staged(file) | Kind::Mutable(_, file)) = &inode.kind else { return };
        let file = Arc::clone(file);
        let places = inode.others.iter().cloned().chain([(inode.parent, Arc::clone(&inode.name))]);
        for (parent, old) in places.collect::<Vec<_>>() {
            if let Ok(dir) = state.inodes.directory(parent)
                && let Some(name) = file.take_conflict_name(dir, &old)
            {
                state.inodes.detach_at(parent, &name, Link::Taken);
                state.inodes.relocate_at(&(parent, Arc::clone(&old)), parent, Arc::clone(&name));
                if let Some(inode) = state.inodes.get_mut(ino)
                    && (inode.parent, &inode.name) == (parent, &name)
                {
                    inode.attributes.name = kept_name(&name, &shown(&old, inode.attributes.name.as_deref()));
                }
                // It may be another file than the one that has its name.
                if let Some(id) = self.writeback.find(dir, &name).and_then(|now| now.attributes.id) {
                    state.inodes.set_id(ino, &id);
                }
            }
        }
    }

    /// Gives an inode a place; another that is there loses it.
    fn name_inode(&self, state: &mut State, ino: Ino, parent: Ino, name: Name) {
        if state.inodes.at(parent, &name).is_some_and(|other| other != ino) {
            state.inodes.detach_at(parent, &name, Link::Taken);
        }
        state.inodes.relocate(ino, parent, name);
    }

    /// Names a file again from which another client took the name, and whose content was changed since: as it was named
    /// if that is free, else by a conflict name. `false` if it has gone for good, with a directory that was removed here.
    pub(super) fn put_back(&self, state: &mut State, ino: Ino) -> bool {
        let Some(inode) = state.inodes.get(ino) else { return false };
        // A mutable file stands where its cap says, whatever names lead to it.
        let Kind::Staged(file) = &inode.kind else { return false };
        let (parent, name, file) = (inode.parent, Arc::clone(&inode.name), Arc::clone(file));
        if state.inodes.ancestors(parent).any(|above| above.link == Link::Removed) {
            return false;
        }
        let Ok(dir) = state.inodes.directory(parent) else { return false };
        let is_own = |target: &Target| match target {
            Target::File(other) => Arc::ptr_eq(other, &file),
            Target::Stored(cap) => file.is_of(cap),
            Target::Directory(_) => false,
        };
        let found = self.writeback.find(dir, &name);
        let (place, seen) = match found {
            Some(found) if is_own(&found.target) => (name, found.seen),
            Some(found) => {
                let id = state.inodes.get(ino).and_then(|inode| inode.attributes.id.as_ref());
                if id.is_some_and(|id| found.attributes.id.as_ref() == Some(id) && !self.writeback.is_linked(id)) {
                    state.inodes.set_id(ino, &fresh_id(&self.rng));
                }
                self.writeback.beside(dir, &name)
            }
            None => {
                tracing::warn!(
                    name = &*name,
                    "another client has removed this file, which is written to; it is put back"
                );
                (name, self.writeback.nothing_seen())
            }
        };
        self.name_inode(state, ino, parent, place);
        if let Some(inode) = state.inodes.get_mut(ino) {
            inode.seen = seen;
        }
        true
    }
}
