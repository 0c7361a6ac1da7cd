//! Open files: reading, writing, and waiting for the grid.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::fs::attr::Ino;
use crate::fs::handles::{Handle, Open, OpenMode};
use crate::fs::inodes::{Kind, Link};
use crate::fs::{Durability, Filesystem, FsError};
use crate::journal::Room;
use crate::node::FileType;
use crate::writeback::{FileObject, Scope};

/// The pause of each write while the journal is nearly full.
const SLOWED: Duration = Duration::from_millis(20);
/// How often a write that does not fit looks again.
const LOOK: Duration = Duration::from_millis(100);
/// It gives up once nothing has left the journal for so long.
const STANDSTILL: Duration = Duration::from_secs(5);

/// An inode that counts as open. Not to be dropped with the state locked.
pub(super) struct Pinned<'a> {
    fs: &'a Filesystem,
    ino: Ino,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.fs.lock().inodes.close(self.ino);
    }
}

impl Filesystem {
    /// Opens a file.
    pub async fn open(&self, ino: Ino, mode: OpenMode) -> Result<Handle, FsError> {
        let kind = self.lock().inodes.get(ino).ok_or(FsError::Stale)?.kind.clone();
        let changes = mode.write || mode.truncate;
        if changes {
            self.check_changeable(ino)?;
            self.check_authority(ino)?;
            self.reach(ino).await?;
        }
        let _pinned = self.pin(ino)?;
        let (stored, staged) = match kind {
            Kind::Directory(_) => return Err(FsError::IsDirectory),
            _ if changes => (None, Some(self.stage_unread(ino)?)),
            Kind::Staged(_) | Kind::Mutable(..) => (None, None),
            Kind::Stored(cap) => (Some(self.factory.readable(&cap)?), None),
        };
        let handle = {
            let mut state = self.lock();
            state.inodes.get_mut(ino).ok_or(FsError::Stale)?.handles += 1;
            let writer = staged.clone().filter(|_| mode.write);
            if let Some(file) = &writer {
                file.open_writer();
            }
            let heard = staged.as_ref().map_or(0, |file| file.failures());
            state.handles.add(Open::File { ino, mode, stored, writer, heard })
        };
        if let (true, Some(file)) = (mode.truncate, staged) {
            let cut = file.truncate(0).await;
            if let Err(e) = cut {
                self.release(handle);
                return Err(e.into());
            }
            self.content_changed(ino).await?;
        }
        Ok(handle)
    }

    /// Reads up to `length` bytes; fewer only at the end of the file.
    pub async fn read(&self, ino: Ino, handle: Handle, offset: u64, length: u32) -> Result<Bytes, FsError> {
        let (kind, stored) = {
            let state = self.lock();
            let Some(Open::File { stored, .. }) = state.handles.get(handle) else {
                return Err(FsError::BadHandle);
            };
            (state.inodes.get(ino).ok_or(FsError::Stale)?.kind.clone(), stored.clone())
        };
        let cx = self.cx();
        let range = offset..offset.saturating_add(length.into());
        match (kind, stored) {
            (Kind::Directory(_), _) => Err(FsError::IsDirectory),
            (Kind::Staged(file) | Kind::Mutable(_, file), _) => {
                file.refresh(&cx).await?;
                Ok(cx.run(file.read(&cx, range)).await??)
            }
            (Kind::Stored(cap), stored) => {
                let file = match stored {
                    Some(file) => file,
                    None => self.factory.readable(&cap)?,
                };
                let parts = cx.run(file.read(&cx, std::slice::from_ref(&range))).await??;
                parts.into_iter().next().ok_or(FsError::Io)
            }
        }
    }

    /// Writes what a program wrote.
    pub async fn write(&self, ino: Ino, handle: Handle, offset: u64, data: Bytes) -> Result<(), FsError> {
        let file = self.begin_write(ino, handle, offset, &data).await?;
        file.write(offset, data).await?;
        self.content_changed(ino).await
    }

    /// Writes at the end of the file, which the program takes to be at `offset`.
    pub async fn append(&self, ino: Ino, handle: Handle, offset: u64, data: Bytes) -> Result<(), FsError> {
        let file = self.begin_write(ino, handle, offset, &data).await?;
        file.append(data).await?;
        self.content_changed(ino).await
    }

    async fn begin_write(
        &self,
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: &Bytes,
    ) -> Result<Arc<FileObject>, FsError> {
        self.check_writes(handle)?;
        let file = self.stage(ino).await?;
        self.check_room(file.size(), offset.saturating_add(data.len() as u64))?;
        self.make_room(data.len() as u64).await?;
        Ok(file)
    }

    /// Writes a page of a memory map, which has its place whatever handle the kernel picks for it.
    pub async fn write_page(&self, ino: Ino, handle: Handle, offset: u64, data: Bytes) -> Result<(), FsError> {
        self.check_writes(handle)?;
        self.make_room(data.len() as u64).await?;
        self.stage(ino).await?.write(offset, data).await?;
        self.content_changed(ino).await
    }

    pub(super) fn check_writes(&self, handle: Handle) -> Result<(), FsError> {
        match self.lock().handles.get(handle) {
            Some(Open::File { mode, .. }) if mode.write => Ok(()),
            _ => Err(FsError::BadHandle),
        }
    }

    /// A descriptor is closed. Tells what went wrong with the content since this handle last heard of it; with
    /// [`Durability::Grid`] waits until it, and the edges that lead to it, are on the grid.
    pub async fn flush(&self, ino: Ino, handle: Handle) -> Result<(), FsError> {
        let file = {
            let state = self.lock();
            let Some(Open::File { mode, .. }) = state.handles.get(handle) else {
                return Err(FsError::BadHandle);
            };
            let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
            match &inode.kind {
                Kind::Staged(file) if mode.write && inode.is_named() => Arc::clone(file),
                Kind::Mutable(cap, file) if mode.write && !cap.is_readonly() => Arc::clone(file),
                _ => return Ok(()),
            }
        };
        self.writeback.catch_up().done().await?;
        match self.options.durability {
            Durability::Grid => Ok(self.writeback.settle(Scope::File(file)).await?),
            Durability::Local => self.tell_failure(handle, &file),
        }
    }

    /// Tells each handle once that the content could not be stored, unless that is solved.
    fn tell_failure(&self, handle: Handle, file: &FileObject) -> Result<(), FsError> {
        let mut state = self.lock();
        let Some(Open::File { heard, .. }) = state.handles.get_mut(handle) else { return Err(FsError::BadHandle) };
        match file.failed_since(*heard) {
            Some((failures, error)) => {
                *heard = failures;
                Err(error.into())
            }
            None => Ok(()),
        }
    }

    /// Waits until what was changed survives power loss; with [`Durability::Grid`] also until the content, and the edges
    /// that lead to it, are on the grid and past the barrier. Tells what went wrong as [`Filesystem::flush`] does.
    pub async fn fsync(&self, ino: Ino, handle: Handle) -> Result<(), FsError> {
        self.writeback.catch_up().done().await?;
        self.journal().barrier().await?;
        if self.options.durability == Durability::Local {
            let file = match &self.lock().inodes.get(ino).ok_or(FsError::Stale)?.kind {
                Kind::Staged(file) | Kind::Mutable(_, file) => Arc::clone(file),
                Kind::Stored(_) | Kind::Directory(_) => return Ok(()),
            };
            return self.tell_failure(handle, &file);
        }
        let scope = {
            let state = self.lock();
            let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
            match &inode.kind {
                Kind::Mutable(cap, file) if !cap.is_readonly() => Scope::File(Arc::clone(file)),
                Kind::Staged(file) if inode.is_named() => Scope::File(Arc::clone(file)),
                Kind::Staged(_) => return Ok(()),
                _ if inode.link != Link::Named => return Ok(()),
                Kind::Stored(_) | Kind::Mutable(..) => Scope::Directory(state.inodes.directory(inode.parent)?),
                Kind::Directory(dir) => Scope::Directory(*dir),
            }
        };
        self.writeback.settle(scope).await?;
        Ok(self.writeback.barrier().await?)
    }

    /// The last descriptor of a handle is closed.
    pub fn release(&self, handle: Handle) {
        let mut state = self.lock();
        let Some(Open::File { ino, writer, .. }) = state.handles.remove(handle) else {
            return;
        };
        if let Some(file) = writer {
            file.close_writer();
        }
        state.inodes.close(ino);
    }

    /// The staged form of a file, which begins as what is stored; its size is known.
    pub(super) async fn stage(&self, ino: Ino) -> Result<Arc<FileObject>, FsError> {
        let file = self.stage_unread(ino)?;
        file.refresh(&self.cx()).await?;
        Ok(file)
    }

    /// Has an inode stay what it is from when its content begins to be changed until that is submitted.
    pub(super) fn pin(&self, ino: Ino) -> Result<Pinned<'_>, FsError> {
        self.lock().inodes.get_mut(ino).ok_or(FsError::Stale)?.handles += 1;
        Ok(Pinned { fs: self, ino })
    }

    /// As [`Filesystem::stage`], but the size of a mutable file may be out of date.
    fn stage_unread(&self, ino: Ino) -> Result<Arc<FileObject>, FsError> {
        let mut state = self.lock();
        let inode = state.inodes.get_mut(ino).ok_or(FsError::Stale)?;
        let cap = match &inode.kind {
            Kind::Directory(_) => return Err(FsError::IsDirectory),
            Kind::Staged(file) => return Ok(Arc::clone(file)),
            Kind::Mutable(_, file) if inode.attributes.kind == FileType::File => return Ok(Arc::clone(file)),
            Kind::Mutable(..) => return Err(FsError::Unsupported),
            Kind::Stored(cap) => cap.clone(),
        };
        let size = cap.size().filter(|_| inode.attributes.kind == FileType::File).ok_or(FsError::Unsupported)?;
        let file = self.writeback.begin_as(&cap, size)?;
        inode.kind = Kind::Staged(Arc::clone(&file));
        Ok(file)
    }

    /// Slows who writes while the journal is nearly full. What does not fit waits as long as the journal is being
    /// emptied, and is refused when that stands still or there is nothing that could go.
    pub(in crate::fs) async fn make_room(&self, bytes: u64) -> Result<(), FsError> {
        let mut last = None;
        loop {
            match self.journal().room(bytes) {
                Room::Plenty => return Ok(()),
                Room::Tight => {
                    tokio::time::sleep(SLOWED).await;
                    return Ok(());
                }
                Room::Full => {}
            }
            let pulse = self.writeback.pulse().ok_or(FsError::NoSpace)?;
            match last {
                Some((before, at)) if before == pulse && Instant::now() >= at + STANDSTILL => {
                    return Err(FsError::NoSpace);
                }
                Some((before, _)) if before == pulse => {}
                _ => last = Some((pulse, Instant::now())),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn content_changed(&self, ino: Ino) -> Result<(), FsError> {
        let now = self.now();
        let kept = {
            let mut state = self.lock();
            self.times_changed(&mut state, ino, now, true);
            self.keep(state)
        };
        Ok(kept.done().await?)
    }
}
