//! Finding names, and what is known of an inode without opening it.

use std::sync::Arc;

use crate::fs::attr::{Attr, Ino};
use crate::fs::inodes::Kind;
use crate::fs::names::{edge_names, is_odd, kept_name, shown};
use crate::fs::{Filesystem, FsError, State};
use crate::journal::Usage;
use crate::node::{FileType, Name, Space, names_of};
use crate::writeback::{DirId, Entry, Target};

/// The longest target a symbolic link can have.
pub const TARGET_MAX: u64 = 4095;

impl Filesystem {
    /// Finds a name; the kernel is told of the inode once more, until it forgets it.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        let dir = self.load(parent).await?;
        let ino = {
            let mut state = self.lock();
            let Some((edge, entry)) = self.find(dir, name)? else {
                self.is_none(&mut state, parent, dir, name)?;
                return Err(FsError::NotFound);
            };
            self.bind(&mut state, parent, &edge, &entry)?
        };
        self.remembered(ino).await
    }

    /// The attributes of an inode that the kernel is about to be told of, which is counted if they can be had.
    pub(in crate::fs) async fn remembered(&self, ino: Ino) -> Result<Attr, FsError> {
        // The size of a mutable file may not be had; its name can still be removed.
        let attr = match self.full_attr(ino).await {
            Ok(attr) => attr,
            Err(_) => self.attr(&self.lock(), ino)?,
        };
        self.lock().inodes.get_mut(ino).ok_or(FsError::Stale)?.lookups += 1;
        Ok(attr)
    }

    /// The kernel forgets `count` of the times it was told of an inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut state = self.lock();
        if let Some(inode) = state.inodes.get_mut(ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
        }
        state.inodes.release(ino);
    }

    /// The attributes of an inode.
    pub async fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        self.full_attr(ino).await
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let kind = {
            let state = self.lock();
            let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
            if inode.attributes.kind != FileType::Symlink {
                return Err(FsError::Invalid);
            }
            inode.kind.clone()
        };
        let cx = self.cx();
        let target = match kind {
            Kind::Directory(_) => return Err(FsError::Invalid),
            Kind::Staged(file) | Kind::Mutable(_, file) => {
                file.refresh(&cx).await?;
                cx.run(file.read(&cx, 0..TARGET_MAX)).await??.to_vec()
            }
            Kind::Stored(cap) => {
                let file = self.factory.readable(&cap)?;
                let parts = cx.run(file.read(&cx, std::slice::from_ref(&(0..TARGET_MAX)))).await??;
                parts.into_iter().next().ok_or(FsError::Io)?.to_vec()
            }
        };
        Ok(target)
    }

    /// Room on the grid, as last known; that of the journal, which takes what is written, where nothing is known.
    pub fn statfs(&self) -> Space {
        let space = self.factory.space();
        if space.total > 0 {
            return space;
        }
        let Usage { bytes, limit } = self.writeback.journal().usage();
        Space { total: limit, free: limit.saturating_sub(bytes) }
    }

    /// The edge's name and entry for a name as the kernel writes it. The directory must be loaded.
    pub(in crate::fs) fn find(&self, dir: DirId, name: &[u8]) -> Result<Option<(Name, Entry)>, FsError> {
        let is_it = |edge: &Name, entry: &Entry| self.shown(dir, edge, entry) == name;
        for edge in edge_names(name)? {
            if let Some(entry) = self.writeback.find(dir, &edge).filter(|entry| is_it(&edge, entry)) {
                return Ok(Some((edge, entry)));
            }
        }
        if name.first() != Some(&b'%') {
            return Ok(None);
        }
        let odd = self.writeback.list(dir).into_iter().filter(|(edge, _)| is_odd(edge));
        Ok(odd.into_iter().find(|(edge, entry)| is_it(edge, entry)))
    }

    /// The name under which a kernel sees an entry: of several with one name, which clients that have not heard of each other
    /// may make, the first has it.
    pub(in crate::fs) fn shown(&self, dir: DirId, edge: &Name, entry: &Entry) -> Vec<u8> {
        let given = entry.attributes.name.as_deref();
        let own = shown(edge, given);
        if *own == *edge.as_bytes() || given != Some(&*own) {
            return own.into_owned();
        }
        let is_before = |before: Name| {
            let there = self.writeback.find(dir, &before);
            there.is_some_and(|there| shown(&before, there.attributes.name.as_deref()) == own)
        };
        let is_first = !names_of(&own).take_while(|before| before != edge).any(is_before);
        if is_first { own.into_owned() } else { shown(edge, None).into_owned() }
    }

    /// An edge that has room for what is to be named so, and the name to be kept with it. What stands at `but` is no
    /// obstacle.
    pub(in crate::fs) fn free_edge(
        &self,
        dir: DirId,
        name: &[u8],
        but: Option<&Name>,
    ) -> Result<(Name, Option<Vec<u8>>), FsError> {
        let is_free = |edge: &Name| but == Some(edge) || self.writeback.find(dir, edge).is_none();
        let edge = edge_names(name)?.find(is_free).ok_or(FsError::Exists)?;
        let kept = kept_name(&edge, name);
        Ok((edge, kept))
    }

    /// Nothing is called so: whatever was has lost its name.
    pub(in crate::fs) fn is_none(
        &self,
        state: &mut State,
        parent: Ino,
        dir: DirId,
        name: &[u8],
    ) -> Result<(), FsError> {
        for edge in edge_names(name)? {
            if state.inodes.at(parent, &edge).is_some() && self.writeback.find(dir, &edge).is_none() {
                self.is_gone(state, parent, &edge);
            }
        }
        Ok(())
    }

    /// Whether a directory is `dir`, or below it by the path that its inode has.
    pub(in crate::fs) fn is_within(&self, state: &State, ino: Ino, dir: DirId) -> bool {
        let own = self.writeback.storage_index(dir);
        state.inodes.ancestors(ino).any(|inode| match inode.kind {
            Kind::Directory(above) => above == dir || own.is_some() && self.writeback.storage_index(above) == own,
            Kind::Stored(_) | Kind::Staged(_) | Kind::Mutable(..) => false,
        })
    }

    /// The inode of an entry that a kernel is about to move or remove, which knows it by no more than its name.
    ///
    /// # Errors
    /// [`FsError::Stale`] if the kernel was never told of it: what it means is something else that stood there before another
    /// client's. It looks again then, and tries once more.
    pub(in crate::fs) fn meant(
        &self,
        state: &mut State,
        parent: Ino,
        edge: &Name,
        entry: &Entry,
    ) -> Result<Ino, FsError> {
        let ino = self.bind(state, parent, edge, entry)?;
        if state.inodes.get(ino).is_some_and(|inode| inode.lookups > 0) {
            return Ok(ino);
        }
        state.inodes.release(ino);
        Err(FsError::Stale)
    }

    /// The inode of an entry, made or brought up to date.
    pub(in crate::fs) fn bind(
        &self,
        state: &mut State,
        parent: Ino,
        edge: &Name,
        entry: &Entry,
    ) -> Result<Ino, FsError> {
        let kind = match &entry.target {
            Target::Directory(dir) => Kind::Directory(*dir),
            Target::File(file) => match file.write_cap() {
                Some(cap) => Kind::Mutable(cap, Arc::clone(file)),
                None => Kind::Staged(Arc::clone(file)),
            },
            Target::Stored(cap) if cap.is_directory() => {
                let dir = self.writeback.directory(cap)?;
                if self.is_within(state, parent, dir) {
                    return Err(FsError::Loop);
                }
                Kind::Directory(dir)
            }
            // A cap that cannot be opened has a name all the same.
            Target::Stored(cap) => match self.mutable(state, cap) {
                Ok(Some(file)) => Kind::Mutable(cap.clone(), file),
                Ok(None) | Err(_) => Kind::Stored(cap.clone()),
            },
        };
        if let Kind::Directory(dir) = &kind
            && let Ok(above) = state.inodes.directory(parent)
        {
            self.writeback.led_to(*dir, above, edge, entry);
        }
        self.inode_at(state, parent, edge);
        state.inodes.give_way(parent, edge, entry);
        self.meets(state, parent, edge, entry);
        let ino = state.inodes.bind(parent, edge, kind, entry);
        if let Some(Kind::Mutable(cap, _)) = state.inodes.get(ino).map(|inode| inode.kind.clone()) {
            state.mutables.shown_by(&cap, ino);
        }
        Ok(ino)
    }
}
