//! What a kernel keeps that is true no more.

use std::sync::Arc;

use super::inodes::{Kind, Link};
use super::{Filesystem, Ino, ROOT, State, names};
use crate::node::Name;
use crate::writeback::{Changed, DirId};

/// Something that a kernel must forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// A name, and the inode under it.
    Name {
        /// The directory.
        parent: Ino,
        /// The name as the kernel knows it.
        name: Vec<u8>,
    },
    /// The attributes of an inode, and its pages.
    Content(Ino),
    /// The attributes of an inode.
    Attributes(Ino),
}

impl Filesystem {
    /// Takes over what others have changed, for all inodes that the kernel may know; hands back what it must be told.
    pub fn stale(&self, changes: Vec<(DirId, Changed)>) -> Vec<Stale> {
        let mut state = self.lock();
        let mut stale = std::mem::take(&mut state.stale);
        // A file that has lost a name by which nobody knows it here has one link less.
        for id in self.writeback.linked_among(&changes) {
            stale.extend(state.inodes.of_id(&id).map(Stale::Attributes));
        }
        for (dir, changed) in changes {
            for parent in state.inodes.of_directory(dir) {
                let edges: Vec<Name> = match &changed {
                    Changed::Names(names) => names.iter().map(Arc::clone).collect(),
                    Changed::All => state.inodes.names_in(parent),
                };
                for edge in edges {
                    stale.extend(self.renew(&mut state, parent, dir, &edge));
                }
                stale.push(Stale::Attributes(parent));
            }
        }
        stale
    }

    /// What a path showed under a name was moved or removed here by another path, which is all that the kernel knows.
    pub(super) fn is_stale(&self, state: &mut State, parent: Ino, dir: DirId, edge: &Name) {
        let Some(inode) = state.inodes.at(parent, edge).and_then(|ino| state.inodes.get(ino)) else { return };
        if self.writeback.changed_here(dir, edge) {
            let name = names::shown(edge, inode.attributes.name.as_deref()).into_owned();
            state.stale.push(Stale::Name { parent, name });
        }
    }

    /// Has an inode, if there is one by this name, be what the name stands for now, as a lookup would.
    fn renew(&self, state: &mut State, parent: Ino, dir: DirId, edge: &Name) -> Vec<Stale> {
        let Some(old) = state.inodes.at(parent, edge) else { return Vec::new() };
        self.follow_conflict(state, old);
        let Some(inode) = state.inodes.get(old) else { return Vec::new() };
        let name = names::shown(edge, inode.attributes.name.as_deref()).into_owned();
        let is_directory = matches!(inode.kind, Kind::Directory(_));
        let stored = |kind: &Kind| match kind {
            Kind::Stored(cap) | Kind::Mutable(cap, _) => Some(cap.clone()),
            Kind::Staged(file) => file.stored(),
            Kind::Directory(_) => None,
        };
        let before = stored(&inode.kind);
        let bound = match self.writeback.find(dir, edge) {
            Some(entry) => self.bind(state, parent, edge, &entry).ok(),
            None => {
                self.is_gone(state, parent, edge);
                None
            }
        };
        match bound {
            Some(ino) if ino == old => {
                let is_renamed = self.writeback.find(dir, edge).is_some_and(|now| self.shown(dir, edge, &now) != name);
                let renamed = is_renamed.then_some(Stale::Name { parent, name });
                let is_same = is_directory || state.inodes.get(ino).is_some_and(|inode| stored(&inode.kind) == before);
                let stale = if is_same { Stale::Attributes(ino) } else { Stale::Content(ino) };
                renamed.into_iter().chain([stale]).collect()
            }
            other => {
                if let Some(new) = other {
                    state.inodes.release(new);
                }
                let mut stale = vec![Stale::Name { parent, name }];
                // Who has it open may ask how many names it has.
                stale.extend(state.inodes.get(old).map(|_| Stale::Attributes(old)));
                stale
            }
        }
    }

    /// Whether the kernel is told when others change what it was just told of an inode: for
    /// [`crate::writeback::LASTING`] at least.
    pub fn lasts(&self, ino: Ino) -> bool {
        let state = self.lock();
        let Some(inode) = state.inodes.get(ino).filter(|inode| inode.link == Link::Named) else { return false };
        let own = match &inode.kind {
            Kind::Directory(dir) => Some(*dir),
            Kind::Stored(_) | Kind::Staged(_) => None,
            // It changes without its directory.
            Kind::Mutable(..) => return false,
        };
        let above = if ino == ROOT { None } else { state.inodes.directory(inode.parent).ok() };
        let links = inode.attributes.id.as_deref().and_then(|id| self.writeback.links(id));
        let named = links.into_iter().flat_map(|links| links.names).map(|(dir, _)| dir);
        own.into_iter().chain(above).chain(named).all(|dir| self.writeback.is_watched(dir))
    }
}
