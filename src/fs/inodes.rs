//! The inode table.
//!
//! Identity is (parent inode, name): the grid's graph may show one object under many names, a kernel wants one dentry
//! for a directory. Numbers derive from that identity, so remounts agree; a rename keeps the number while it is mounted.

use std::collections::HashMap;
use std::sync::Arc;

use super::FsError;
use super::attr::{Ino, ROOT};
use crate::cap::Cap;
use crate::crypto::hash::sha256d;
use crate::node::{Attributes, Metadata, Name, Timestamp};
use crate::writeback::{DirId, Entry, FileObject, Seen, Target};

/// What an inode is.
#[derive(Clone)]
pub(super) enum Kind {
    Directory(DirId),
    Stored(Cap),
    /// A new file, or an immutable one that was changed.
    Staged(Arc<FileObject>),
    /// A mutable file, opened by this cap: one object for all its names.
    Mutable(Cap, Arc<FileObject>),
}

pub(super) struct Inode {
    pub parent: Ino,
    pub name: Name,
    pub kind: Kind,
    pub attributes: Attributes,
    pub metadata: Metadata,
    pub seen: Seen,
    /// Of a mutable file whose times belong to another version than this one, by its mark: when it was first seen.
    pub sighted: Option<(String, Timestamp)>,
    /// How often the kernel has been told of it and not forgotten it.
    pub lookups: u64,
    pub handles: u32,
    /// No name leads to it any more.
    pub unlinked: bool,
}

impl Inode {
    pub fn root(dir: DirId, attributes: Attributes, metadata: Metadata) -> Inode {
        let kind = Kind::Directory(dir);
        Inode {
            parent: ROOT,
            name: "".into(),
            kind,
            attributes,
            metadata,
            seen: Seen::default(),
            sighted: None,
            lookups: 1,
            handles: 0,
            unlinked: false,
        }
    }

    /// What its edge is to hold.
    pub fn entry(&self) -> Entry {
        let target = match &self.kind {
            Kind::Directory(dir) => Target::Directory(*dir),
            Kind::Stored(cap) => Target::Stored(cap.clone()),
            Kind::Staged(file) => Target::File(Arc::clone(file)),
            Kind::Mutable(cap, file) if cap.is_readonly() || file.write_cap().is_none() => Target::Stored(cap.clone()),
            Kind::Mutable(_, file) => Target::File(Arc::clone(file)),
        };
        Entry { target, attributes: self.attributes.clone(), metadata: self.metadata.clone(), seen: self.seen.clone() }
    }

    /// Bytes, as far as they are known without the grid.
    pub fn size(&self) -> Option<u64> {
        match &self.kind {
            Kind::Directory(_) => Some(4096),
            Kind::Stored(cap) => cap.size(),
            Kind::Staged(file) | Kind::Mutable(_, file) => Some(file.size()),
        }
    }

    /// Takes over what is known of the times of a mutable file, which has changed since the edge was written.
    pub fn update_times(&mut self, now: Timestamp) {
        let Kind::Mutable(_, file) = &self.kind else { return };
        let written_here = file.is_dirty() || self.attributes.seen != file.own_mark();
        if let Some(times) = file.times().filter(|_| written_here) {
            self.attributes.mtime = Some(times.mtime);
            self.attributes.ctime = self.attributes.ctime.max(Some(times.ctime));
            self.attributes.seen = file.own_mark().or(self.attributes.seen.take());
            self.sighted = None;
            return;
        }
        let (known, mark) = (self.attributes.seen.as_ref(), file.mark());
        self.sighted = match mark.filter(|mark| known.is_some_and(|known| known != mark)) {
            Some(mark) if self.sighted.as_ref().is_none_or(|(seen, _)| *seen != mark) => Some((mark, now)),
            Some(_) => self.sighted.take(),
            None => None,
        };
    }

    /// A file that is stored and no longer open for writing needs no staging.
    pub fn unstage(&mut self) {
        if let Kind::Staged(file) = &self.kind
            && self.handles == 0
            && let Some(cap) = file.stored()
        {
            self.kind = Kind::Stored(cap);
        }
    }
}

pub(super) struct Inodes {
    by_number: HashMap<Ino, Inode>,
    by_place: HashMap<(Ino, Name), Ino>,
}

impl Inodes {
    pub fn new(root: Inode) -> Inodes {
        Inodes { by_number: HashMap::from([(ROOT, root)]), by_place: HashMap::new() }
    }

    pub fn root(&self) -> &Inode {
        &self.by_number[&ROOT]
    }

    pub fn get(&self, ino: Ino) -> Option<&Inode> {
        self.by_number.get(&ino)
    }

    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.by_number.get_mut(&ino)
    }

    pub fn directory(&self, ino: Ino) -> Result<DirId, FsError> {
        match self.get(ino).ok_or(FsError::Stale)?.kind {
            Kind::Directory(dir) => Ok(dir),
            Kind::Stored(_) | Kind::Staged(_) | Kind::Mutable(..) => Err(FsError::NotDirectory),
        }
    }

    /// The number that (parent, name) has, or would get.
    pub fn number(&self, parent: Ino, name: &Name) -> Ino {
        if let Some(ino) = self.by_place.get(&(parent, Arc::clone(name))) {
            return *ino;
        }
        let hash = sha256d(&[&parent.to_be_bytes(), name.as_bytes()].concat());
        let first = u64::from_be_bytes(hash[..8].try_into().expect("eight bytes")) >> 1;
        (0..).map(|i| first.wrapping_add(i)).find(|n| *n > ROOT && !self.by_number.contains_key(n)).unwrap_or(first)
    }

    /// The directories from `ino` up to the root.
    pub fn ancestors(&self, ino: Ino) -> impl Iterator<Item = &Inode> {
        let mut at = Some(ino);
        std::iter::from_fn(move || {
            let number = at?;
            let inode = self.get(number)?;
            at = (number != ROOT).then_some(inode.parent);
            Some(inode)
        })
    }

    /// Puts a new inode at a place that has none.
    pub fn add(&mut self, parent: Ino, name: Name, kind: Kind, attributes: Attributes, metadata: Metadata) -> Ino {
        let ino = self.number(parent, &name);
        let inode = Inode {
            parent,
            name: Arc::clone(&name),
            kind,
            attributes,
            metadata,
            seen: Seen::default(),
            sighted: None,
            lookups: 0,
            handles: 0,
            unlinked: false,
        };
        self.by_place.insert((parent, name), ino);
        self.by_number.insert(ino, inode);
        ino
    }

    /// The inode at a place, made or brought up to date for `entry`, whose kind has been found out as `kind`.
    pub fn bind(&mut self, parent: Ino, name: &Name, kind: Kind, entry: &Entry) -> Ino {
        let place = (parent, Arc::clone(name));
        if let Some(ino) = self.by_place.get(&place).copied()
            && let Some(inode) = self.by_number.get_mut(&ino)
        {
            // Who has it open keeps what was opened: other content gets an inode of its own.
            let open = inode.handles > 0;
            let now = match (&inode.kind, &kind) {
                (Kind::Directory(old), Kind::Directory(new)) => (old == new).then(|| kind.clone()),
                (Kind::Directory(_), _) | (_, Kind::Directory(_)) => None,
                (Kind::Stored(old), Kind::Stored(new)) => (old == new || !open).then(|| kind.clone()),
                (Kind::Staged(ours), Kind::Stored(cap)) => match ours.stored() {
                    Some(stored) if stored == *cap => Some(if open { inode.kind.clone() } else { kind.clone() }),
                    Some(_) => (!open).then(|| kind.clone()),
                    // Ours is yet to be published.
                    None => Some(inode.kind.clone()),
                },
                (Kind::Mutable(_, old), Kind::Mutable(_, new)) => {
                    (Arc::ptr_eq(old, new) || !open).then(|| kind.clone())
                }
                (Kind::Staged(ours), Kind::Mutable(..)) if ours.stored().is_none() => Some(inode.kind.clone()),
                (Kind::Mutable(..), _) | (_, Kind::Mutable(..)) => (!open).then(|| kind.clone()),
                (_, Kind::Staged(_)) => Some(kind.clone()),
            };
            if let Some(now) = now {
                inode.kind = now;
                inode.attributes = entry.attributes.clone();
                inode.metadata = entry.metadata.clone();
                inode.seen = entry.seen.clone();
                return ino;
            }
            self.detach(ino);
        }
        let ino = self.add(parent, Arc::clone(name), kind, entry.attributes.clone(), entry.metadata.clone());
        if let Some(inode) = self.by_number.get_mut(&ino) {
            inode.seen = entry.seen.clone();
        }
        ino
    }

    /// The inodes that show a directory.
    pub fn of_directory(&self, dir: DirId) -> Vec<Ino> {
        let shows = |inode: &Inode| matches!(inode.kind, Kind::Directory(shown) if shown == dir);
        self.by_number.iter().filter(|(_, inode)| shows(inode)).map(|(ino, _)| *ino).collect()
    }

    /// The names in a directory that have inodes.
    pub fn names_in(&self, parent: Ino) -> Vec<Name> {
        self.by_place.keys().filter(|(above, _)| *above == parent).map(|(_, name)| Arc::clone(name)).collect()
    }

    /// The number at a place, if an inode is there.
    pub fn at(&self, parent: Ino, name: &Name) -> Option<Ino> {
        self.by_place.get(&(parent, Arc::clone(name))).copied()
    }

    /// Takes the name away from an inode; it lives on while the kernel knows it or it is open.
    pub fn detach(&mut self, ino: Ino) {
        let Some(inode) = self.by_number.get_mut(&ino) else {
            return;
        };
        inode.unlinked = true;
        let place = (inode.parent, Arc::clone(&inode.name));
        self.by_place.remove(&place);
        self.release(ino);
    }

    /// Gives an inode another place, from which whatever was there has been detached.
    pub fn relocate(&mut self, ino: Ino, parent: Ino, name: Name) {
        let Some(inode) = self.by_number.get_mut(&ino) else {
            return;
        };
        let old = (inode.parent, std::mem::replace(&mut inode.name, Arc::clone(&name)));
        inode.parent = parent;
        self.by_place.remove(&old);
        self.by_place.insert((parent, name), ino);
    }

    /// Drops an inode that nothing holds any more.
    pub fn release(&mut self, ino: Ino) {
        let Some(inode) = self.by_number.get_mut(&ino) else {
            return;
        };
        inode.unstage();
        if ino == ROOT || inode.lookups > 0 || inode.handles > 0 {
            return;
        }
        let place = (inode.parent, Arc::clone(&inode.name));
        self.by_number.remove(&ino);
        if self.by_place.get(&place) == Some(&ino) {
            self.by_place.remove(&place);
        }
    }
}
