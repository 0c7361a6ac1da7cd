//! Hard links: files with several names.

use std::sync::Arc;

use super::inodes::{Kind, Link};
use super::names::RECORD;
use super::{Attr, Filesystem, FsError, Ino, State};
use crate::node::{Metadata, Name, fresh_id};
use crate::writeback::{Change, DirId, Entry, LinkChange, Seen, Weight, is_same};

/// Names that a file can have: the record of them is written anew with each.
pub const LINK_MAX: usize = 1000;

impl Filesystem {
    /// Gives a file a further name. No other edge of it is changed, and nothing of its content is stored for that.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        self.check_changeable(ino)?;
        self.make_room(RECORD).await?;
        let dir = self.load(parent).await?;
        self.reach(ino).await?;
        let kept = {
            let mut state = self.lock();
            self.check_writeable(dir)?;
            if self.find(dir, name)?.is_some() {
                return Err(FsError::Exists);
            }
            let (edge, given) = self.free_edge(dir, name, None)?;
            if state.inodes.get(parent).ok_or(FsError::Stale)?.link != Link::Named {
                return Err(FsError::NotFound);
            }
            self.is_gone(&mut state, parent, &edge);
            self.follow_conflict(&mut state, ino);
            let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
            if matches!(inode.kind, Kind::Directory(_)) {
                return Err(FsError::NotPermitted);
            }
            let links = inode.attributes.id.as_deref().and_then(|id| self.writeback.links(id));
            if links.as_ref().is_some_and(|links| links.names.len() >= LINK_MAX) {
                return Err(FsError::TooManyLinks);
            }
            let beside = match inode.link {
                Link::Named => (state.inodes.directory(inode.parent)?, Arc::clone(&inode.name)),
                _ if !inode.elsewhere => return Err(FsError::NotFound),
                _ => links.and_then(|links| links.names.first().cloned()).ok_or(FsError::NotFound)?,
            };
            let is_exact = !inode.attributes.linked;
            if inode.attributes.id.is_none() {
                let id = fresh_id(&self.rng);
                state.inodes.set_id(ino, &id);
                self.submit(&mut state, ino, Weight::Full);
            }
            let now = self.now();
            let inode = state.inodes.get_mut(ino).ok_or(FsError::Stale)?;
            inode.attributes.linked = true;
            inode.attributes.ctime = Some(now);
            let id = inode.attributes.id.clone().ok_or(FsError::Stale)?;
            let mut entry = Entry { metadata: Metadata::default(), seen: Seen::default(), ..inode.entry() };
            entry.attributes.name = given;
            let place = (dir, Arc::clone(&edge));
            state.changes.push(Change::Put { dir, name: Arc::clone(&edge), entry, weight: Weight::Full });
            let change = LinkChange::Add { place, beside, is_exact };
            state.changes.push(Change::Links { id, change, at: Some(now) });
            state.inodes.join(ino, parent, edge);
            self.touch_directory(&mut state, parent);
            self.keep(state)
        };
        kept.done().await?;
        self.remembered(ino).await
    }

    /// Sees to it that a change can be made to all names of a file.
    pub(super) async fn reach(&self, ino: Ino) -> Result<(), FsError> {
        let id = self.lock().inodes.get(ino).ok_or(FsError::Stale)?.attributes.id.clone();
        match id.filter(|id| self.writeback.is_linked(id)) {
            Some(id) => Ok(self.writeback.reach_links(&self.cx(), &id).await?),
            None => Ok(()),
        }
    }

    /// Whether a file has no place in the inode table, and names all the same.
    pub(super) fn is_elsewhere(&self, state: &State, ino: Ino) -> bool {
        state.inodes.get(ino).is_some_and(|inode| inode.link != Link::Named && inode.elsewhere)
    }

    /// Submits the state of a file that has, or had, several names to all of them; `false` if it is none such.
    pub(super) fn spread(&self, state: &mut State, ino: Ino, weight: Weight) -> bool {
        let Some(inode) = state.inodes.get(ino) else { return false };
        let Some(id) = inode.attributes.id.clone().filter(|id| self.writeback.is_linked(id)) else { return false };
        let own = (inode.link == Link::Named).then(|| state.inodes.directory(inode.parent).ok()).flatten();
        let place = own.map(|dir| (dir, Arc::clone(&inode.name)));
        let mut entry = inode.entry();
        entry.attributes.linked = true;
        state.changes.push(Change::Spread { id, place, entry, weight });
        true
    }

    /// A name is about to be removed or replaced here.
    pub(super) fn loses_name(&self, state: &mut State, entry: &Entry, dir: DirId, name: &Name) {
        let Some(id) = entry.attributes.id.clone().filter(|id| self.writeback.is_linked(id)) else { return };
        let change = LinkChange::Remove((dir, Arc::clone(name)));
        state.changes.push(Change::Links { id, change, at: Some(self.now()) });
    }

    /// The last place of a file was removed: it may have names beside that.
    pub(super) fn lives_elsewhere(&self, state: &mut State, ino: Ino, dir: DirId, name: &Name) {
        let Some(inode) = state.inodes.get_mut(ino).filter(|inode| inode.link == Link::Removed) else { return };
        let links = inode.attributes.id.as_deref().and_then(|id| self.writeback.links(id));
        let others = links.into_iter().flat_map(|links| links.names).filter(|(at, other)| (*at, other) != (dir, name));
        inode.elsewhere = others.count() > 0;
    }

    /// Whether an edge stands for what an inode shows.
    pub(super) fn is_inode_of(&self, state: &State, ino: Ino, entry: &Entry) -> bool {
        state.inodes.of_file(entry) == Some(ino)
    }

    /// Takes note of two names for one file, before the second is looked at.
    pub(super) fn meets(&self, state: &mut State, parent: Ino, edge: &Name, entry: &Entry) {
        let (None, Some(id), Ok(here)) =
            (state.inodes.at(parent, edge), entry.attributes.id.as_deref(), state.inodes.directory(parent))
        else {
            return;
        };
        let place = (here, Arc::clone(edge));
        let shown = state.inodes.of_file(entry).and_then(|ino| state.inodes.get(ino));
        if let Some(inode) = shown.filter(|inode| inode.link == Link::Named) {
            let (above, name) = (inode.parent, Arc::clone(&inode.name));
            let is_exact = !inode.attributes.linked && !entry.attributes.linked;
            let Ok(dir) = state.inodes.directory(above) else { return };
            let there = self.writeback.find(dir, &name);
            if there.is_some_and(|there| there.attributes.id.as_deref() == Some(id)) {
                if place != (dir, Arc::clone(&name)) {
                    self.writeback.saw_link(id, place, (dir, name), is_exact);
                }
                return;
            }
            // Another client has given it this name instead.
            self.is_gone(state, above, &name);
        }
        let Some(links) = self.writeback.links(id).filter(|links| !links.names.contains(&place)) else { return };
        let known = links.names.iter().filter_map(|(dir, name)| self.writeback.find(*dir, name));
        let mut its = known.filter(|there| there.attributes.id.as_deref() == Some(id));
        if its.all(|there| is_same(&there.target, &entry.target)) {
            self.writeback.saw_link(id, place.clone(), place, links.is_exact);
        }
    }
}
