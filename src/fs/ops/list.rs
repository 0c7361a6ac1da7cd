//! Listing directories: a snapshot is taken when one is opened, and offsets index it.

use std::sync::Arc;

use crate::fs::attr::{Attr, Ino};
use crate::fs::handles::{Handle, Open};
use crate::fs::{Durability, Filesystem, FsError};
use crate::node::{FileType, Name};
use crate::writeback::{Entry, Scope, Target};

/// One name in a listing.
#[derive(Clone)]
pub struct Listed {
    /// The name as the kernel sees it.
    pub name: Vec<u8>,
    /// The inode number that it has, or would get.
    pub ino: Ino,
    /// What it is.
    pub kind: FileType,
    /// `None` for `.` and `..`.
    edge: Option<(Name, Entry)>,
}

impl Filesystem {
    /// Opens a directory.
    pub async fn opendir(&self, ino: Ino) -> Result<Handle, FsError> {
        self.load(ino).await?;
        Ok(self.lock().handles.add(Open::Directory { ino, entries: None }))
    }

    /// The snapshot behind a handle, taken when it is first read, and anew when it is read from the start again.
    pub async fn readdir(&self, handle: Handle, from_start: bool) -> Result<Arc<Vec<Listed>>, FsError> {
        let (ino, entries) = match self.lock().handles.get(handle) {
            Some(Open::Directory { ino, entries }) => (*ino, entries.clone()),
            _ => return Err(FsError::BadHandle),
        };
        if let Some(entries) = entries.filter(|_| !from_start) {
            return Ok(entries);
        }
        let fresh = Arc::new(self.listing(ino).await?);
        if let Some(Open::Directory { entries, .. }) = self.lock().handles.get_mut(handle) {
            *entries = Some(Arc::clone(&fresh));
        }
        Ok(fresh)
    }

    /// The attributes of a listed name, of which the kernel is told once more; `None` for `.` and `..`, and for what
    /// has no inode a kernel could hold.
    pub async fn attach(&self, parent: Ino, listed: &Listed) -> Option<Attr> {
        let (edge, _) = listed.edge.as_ref()?;
        let ino = {
            let mut state = self.lock();
            let dir = state.inodes.directory(parent).ok()?;
            let entry = self.writeback.find(dir, edge)?;
            self.bind(&mut state, parent, edge, &entry).ok()?
        };
        self.remembered(ino).await.ok()
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: Handle) {
        self.lock().handles.remove(handle);
    }

    /// Waits until the entries of a directory survive power loss; with [`Durability::Grid`] also until they, and the
    /// edges that lead to it, are on the grid.
    pub async fn fsyncdir(&self, ino: Ino) -> Result<(), FsError> {
        let dir = self.lock().inodes.directory(ino)?;
        self.writeback.catch_up().done().await?;
        self.journal().barrier().await?;
        if self.options.durability == Durability::Local {
            return Ok(());
        }
        self.writeback.settle(Scope::Directory(dir)).await?;
        self.keep_root()?;
        Ok(self.writeback.barrier().await?)
    }

    async fn listing(&self, ino: Ino) -> Result<Vec<Listed>, FsError> {
        let dir = self.load(ino).await?;
        let children = self.writeback.list(dir);
        // Who lists a directory often walks into those below.
        let below = children.iter().filter_map(|(_, entry)| match &entry.target {
            Target::Stored(cap) if cap.is_directory() => Some(cap.clone()),
            Target::Stored(_) | Target::File(_) | Target::Directory(_) => None,
        });
        let (below, writeback, cx): (Vec<_>, _, _) = (below.collect(), Arc::clone(&self.writeback), self.cx());
        if !below.is_empty() {
            tokio::spawn(async move { writeback.look_ahead(&cx, below).await });
        }
        let state = self.lock();
        let parent = state.inodes.get(ino).ok_or(FsError::Stale)?.parent;
        let special = |name: &[u8], ino| Listed { name: name.to_vec(), ino, kind: FileType::Directory, edge: None };
        let mut listing = vec![special(b".", ino), special(b"..", parent)];
        listing.extend(children.into_iter().map(|(edge, entry)| Listed {
            name: self.shown(dir, &edge, &entry),
            ino: state.inodes.number(ino, &edge, &entry),
            kind: entry.attributes.kind,
            edge: Some((edge, entry)),
        }));
        Ok(listing)
    }
}
