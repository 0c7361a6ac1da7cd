//! The file system: inodes, handles and POSIX rules over [`crate::writeback`], without FUSE.
//!
//! Architecture invariant: every change to the tree is made under one short lock, against tables that are in memory,
//! and goes through [`Writeback::submit`], as a whole; the call is answered once the journal has it. Whatever needs the grid is awaited before, without a lock, and looked at
//! again under it. No operation waits on the grid longer than its deadline.

mod acl;
mod attr;
mod error;
mod handles;
mod inodes;
mod links;
mod mutable;
mod names;
mod ops;
mod stale;
mod taken;

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cap::StorageIndex;
use crate::journal::{Index, Journal};
use crate::node::{Attributes, Child, FileType, Freshness, Metadata, Name, NodeFactory, Timestamp};
use crate::util::{Clock, Cx, Priority, Rng};
use crate::writeback::{Change, DirId, Kept, Scope, Target, Weight, Writeback};

pub use attr::{Attr, Caller, Durability, FsOptions, Ino, Owner, ROOT, SetAttr, SetTime};
pub use error::FsError;
pub use handles::{Handle, OpenMode};
pub use links::LINK_MAX;
pub use names::{edge_names, shown};
pub use ops::{Allocation, Listed, Place, Reader, RenameMode, Seek, SetMode, TARGET_MAX};
pub use stale::Stale;

use handles::Handles;
use inodes::{Inode, Inodes, Kind, Link};
use mutable::Mutables;

/// The directory that is mounted, and where its own attributes stand.
pub struct Root {
    /// The directory.
    pub dir: DirId,
    /// Where its shares are; `None` for a literal directory.
    pub storage_index: Option<StorageIndex>,
    /// The edge above it, for a mount of `alias:path`. Without one that can be written its attributes stand in the
    /// local index.
    pub edge: Option<(DirId, Name)>,
}

/// The file system of one mount.
pub struct Filesystem {
    options: FsOptions,
    writeback: Arc<Writeback>,
    factory: Arc<dyn NodeFactory>,
    index: Index,
    root: Root,
    clock: Clock,
    rng: Rng,
    reads: Cx,
    state: Mutex<State>,
}

struct State {
    inodes: Inodes,
    handles: Handles,
    mutables: Mutables,
    /// The root's attributes have changed since they were last written to the index.
    root_changed: bool,
    /// What the kernel is to be told with the next news.
    stale: Vec<Stale>,
    /// What the operation under way changes, until [`Filesystem::keep`].
    changes: Vec<Change>,
}

impl Filesystem {
    /// The file system under `root`. Must be given a `root.edge` whose directory was loaded.
    pub fn new(
        options: FsOptions,
        writeback: Arc<Writeback>,
        factory: Arc<dyn NodeFactory>,
        index: Index,
        root: Root,
        clock: Clock,
        rng: Rng,
    ) -> Result<Arc<Filesystem>, FsError> {
        let root = Root { edge: root.edge.filter(|(dir, _)| writeback.is_writeable(*dir)), ..root };
        let (mut attributes, metadata) = match (&root.edge, root.storage_index) {
            (Some((dir, name)), _) => {
                let entry = writeback.find(*dir, name).ok_or(FsError::NotFound)?;
                writeback.led_to(root.dir, *dir, name, &entry);
                (entry.attributes, entry.metadata)
            }
            (None, Some(si)) => {
                let metadata = index.root(si)?;
                let cap = writeback.cap(root.dir).ok_or(FsError::Stale)?;
                let child = Child { cap, metadata, packed: None };
                (Attributes::of("", &child), child.metadata)
            }
            (None, None) => (Attributes::new(FileType::Directory), Metadata::default()),
        };
        // Where nobody has set a time, it is that of first sight.
        attributes.mtime = attributes.mtime.or(Some(Timestamp::from_nanos(clock.now_nanos().into())));
        let state = State {
            inodes: Inodes::new(Inode::root(root.dir, attributes, metadata)),
            handles: Handles::default(),
            mutables: Mutables::default(),
            root_changed: false,
            stale: Vec::new(),
            changes: Vec::new(),
        };
        let reads = Cx::new(Priority::Waiting, options.memory);
        Ok(Arc::new(Filesystem {
            options,
            writeback,
            factory,
            index,
            root,
            clock,
            rng,
            reads,
            state: Mutex::new(state),
        }))
    }

    /// The engine behind it.
    pub fn writeback(&self) -> &Arc<Writeback> {
        &self.writeback
    }

    /// Waits until everything is on the grid and the barrier has passed.
    pub async fn settle(&self) -> Result<(), FsError> {
        self.settle_scope(Scope::All).await
    }

    /// Waits until `scope` is on the grid and the barrier has passed.
    pub async fn settle_scope(&self, scope: Scope) -> Result<(), FsError> {
        self.writeback.settle(scope).await?;
        self.keep_root()?;
        self.writeback.barrier().await?;
        // What no record needs any more makes room.
        Ok(self.journal().barrier().await?)
    }

    /// What stands at `path`, below the root, and all below it.
    pub async fn scope(&self, path: &Path) -> Result<Scope, FsError> {
        let (mut dir, mut place) = (self.root.dir, None);
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            let Component::Normal(name) = name else { return Err(FsError::Invalid) };
            self.writeback.load(&self.cx(), dir, Freshness::Cached).await?;
            let (edge, entry) = self.find(dir, name.as_bytes())?.ok_or(FsError::NotFound)?;
            place = Some((dir, edge));
            dir = match entry.target {
                Target::Directory(child) => child,
                Target::Stored(cap) if cap.is_directory() => self.writeback.directory(&cap)?,
                _ if names.peek().is_none() => break,
                _ => return Err(FsError::NotDirectory),
            };
        }
        let Some((dir, name)) = place else { return Ok(Scope::All) };
        Ok(Scope::Part(Arc::new(self.writeback.part(dir, &name, self.root.dir))))
    }

    /// Writes the root's attributes to the index, where they belong there and have changed.
    fn keep_root(&self) -> Result<(), FsError> {
        let (Some(si), None) = (self.root.storage_index, &self.root.edge) else {
            return Ok(());
        };
        let metadata = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.root_changed) {
                return Ok(());
            }
            let root = state.inodes.root();
            let cap = self.writeback.cap(self.root.dir).ok_or(FsError::Stale)?;
            root.attributes.write_into(&root.metadata, &cap)
        };
        self.index.set_root(si, &metadata).inspect_err(|_| self.lock().root_changed = true)?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The context of one operation.
    fn cx(&self) -> Cx {
        self.reads.with_timeout(self.options.deadline)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock.now_nanos().into())
    }

    /// The directory behind an inode, its table loaded.
    async fn load(&self, ino: Ino) -> Result<DirId, FsError> {
        let dir = self.lock().inodes.directory(ino)?;
        self.writeback.load(&self.cx(), dir, Freshness::Cached).await?;
        self.writeback.watch(dir);
        Ok(dir)
    }

    /// Refuses a change in a directory that cannot be changed.
    fn check_writeable(&self, dir: DirId) -> Result<(), FsError> {
        if self.options.read_only || !self.writeback.is_writeable(dir) { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    /// The present state of an inode is to be kept in its edge.
    fn submit(&self, state: &mut State, ino: Ino, weight: Weight) {
        self.follow_conflict(state, ino);
        match state.inodes.get(ino).map(|inode| inode.link) {
            Some(Link::Named) => {}
            Some(_) if self.is_elsewhere(state, ino) => {}
            Some(Link::Taken) if weight == Weight::Times && self.put_back(state, ino) => {}
            Some(Link::Taken | Link::Removed) | None => return,
        }
        if self.spread(state, ino, weight) {
            return;
        }
        let Some(inode) = state.inodes.get(ino) else { return };
        let place = match (ino, &self.root.edge) {
            (ROOT, Some((dir, name))) => Some((*dir, Arc::clone(name))),
            (ROOT, None) => {
                state.root_changed = true;
                None
            }
            _ => state.inodes.directory(inode.parent).ok().map(|dir| (dir, Arc::clone(&inode.name))),
        };
        let Some((dir, name)) = place else { return };
        let Some(inode) = state.inodes.get(ino) else { return };
        let entry = inode.entry();
        state.inodes.liken_others(ino, dir, &name);
        state.changes.push(Change::Put { dir, name, entry, weight });
    }

    /// Submits what an operation changes. Its call is answered once [`Kept::done`] has returned.
    fn keep(&self, mut state: MutexGuard<'_, State>) -> Kept {
        self.writeback.submit(std::mem::take(&mut state.changes))
    }

    fn journal(&self) -> &Journal {
        self.writeback.journal()
    }

    /// A name was made, moved or removed in this directory.
    fn touch_directory(&self, state: &mut State, ino: Ino) {
        let now = self.now();
        if let Some(inode) = state.inodes.get_mut(ino) {
            inode.attributes.mtime = Some(now);
            inode.attributes.ctime = Some(now);
        }
        self.submit(state, ino, Weight::RidesAlong);
    }

    /// The attributes of an inode, those of a mutable file as they were last seen.
    fn attr(&self, state: &State, ino: Ino) -> Result<Attr, FsError> {
        let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
        let attributes = &inode.attributes;
        let (uid, gid) = self.options.owner.shown(attributes);
        let directory = attributes.kind == FileType::Directory;
        let id = attributes.id.as_deref();
        let links = id.and_then(|id| self.writeback.link_count(id, attributes.linked));
        let named = match links {
            _ if inode.link != Link::Named => 0,
            None if attributes.linked => 2,
            _ => 1,
        };
        let nlink = match &inode.kind {
            Kind::Directory(_) if inode.link != Link::Named => 0,
            Kind::Directory(dir) => self.writeback.count_directories(*dir).map_or(1, |n| n.saturating_add(2)),
            Kind::Stored(_) | Kind::Staged(_) | Kind::Mutable(..) => links.map_or(named, |(count, _)| count.max(named)),
        };
        let sighted = inode.sighted.as_ref().map(|(_, at)| *at);
        let mtime = sighted.or(attributes.mtime);
        Ok(Attr {
            ino,
            size: inode.size().unwrap_or(0),
            kind: attributes.kind,
            mode: attributes.mode.unwrap_or(if directory { 0o755 } else { 0o644 }),
            nlink,
            uid,
            gid,
            rdev: attributes.rdev,
            atime: attributes.atime.or(mtime).unwrap_or_default(),
            mtime: mtime.unwrap_or_default(),
            ctime: attributes
                .ctime
                .or(mtime)
                .max(sighted)
                .max(links.and_then(|(_, changed)| changed))
                .unwrap_or_default(),
        })
    }

    /// The attributes of an inode; of a mutable file the grid is asked.
    async fn full_attr(&self, ino: Ino) -> Result<Attr, FsError> {
        let mutable = match &self.lock().inodes.get(ino).ok_or(FsError::Stale)?.kind {
            Kind::Mutable(_, file) => Some(Arc::clone(file)),
            Kind::Directory(_) | Kind::Stored(_) | Kind::Staged(_) => None,
        };
        if let Some(file) = mutable {
            file.refresh(&self.cx()).await?;
        }
        let mut state = self.lock();
        let now = self.now();
        state.inodes.get_mut(ino).ok_or(FsError::Stale)?.update_times(now);
        self.attr(&state, ino)
    }
}
