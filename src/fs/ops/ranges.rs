//! Ranges of files: room for them, holes, where there is data, and copies without the way through a program.

use std::ops::Range;
use std::sync::Arc;

use crate::fs::attr::Ino;
use crate::fs::handles::{Handle, Open};
use crate::fs::inodes::Kind;
use crate::fs::{Filesystem, FsError};
use crate::journal::Room;
use crate::writeback::FileObject;

/// Bytes that a copy holds in memory.
const CHUNK: u64 = 4 << 20;
/// Bytes after which a copy answers: a program that waits for an answer cannot be ended. It asks for the rest again.
const AT_ONCE: u64 = 64 << 20;

/// What is done to a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Looks whether there is room for it; what is there stays.
    Reserve,
    /// Makes zeros of it.
    Zero,
}

/// What is looked for in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// Bytes that are kept somewhere.
    Data,
    /// Zeros that nobody wrote; the end of the file is one.
    Hole,
}

/// Where a copy begins, in an open file.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The file.
    pub ino: Ino,
    /// Open for it.
    pub handle: Handle,
    /// Bytes from its beginning.
    pub offset: u64,
}

impl Filesystem {
    /// Makes room, or zeros, in a file, which grows where `grows` says so and the range reaches further. Room is not set
    /// apart: what is refused would not fit now.
    pub async fn allocate(&self, at: Place, length: u64, what: Allocation, grows: bool) -> Result<(), FsError> {
        self.check_writes(at.handle)?;
        let end = at.offset.checked_add(length).filter(|end| *end <= i64::MAX as u64).ok_or(FsError::TooLarge)?;
        let file = self.stage(at.ino).await?;
        let size = file.size();
        if grows {
            self.check_room(size, end)?;
        }
        let is_changed = match what {
            Allocation::Zero => {
                if !file.carve(at.offset..end, grows).await? {
                    self.write_zeros(&file, at.offset..if grows { end } else { end.min(size) }).await?;
                }
                true
            }
            Allocation::Reserve => {
                if self.journal().room(length) == Room::Full {
                    return Err(FsError::NoSpace);
                }
                grows && file.grow(end).await?
            }
        };
        if is_changed { self.content_changed(at.ino).await } else { Ok(()) }
    }

    /// Writes zeros where there is data, piece by piece, and has the file reach to the end of the range at least.
    async fn write_zeros(&self, file: &FileObject, range: Range<u64>) -> Result<(), FsError> {
        let mut at = range.start;
        while let Some(data) = file.next_data(at).filter(|data| *data < range.end) {
            let hole = file.next_hole(data).unwrap_or(range.end);
            at = hole.min(range.end).min(data + CHUNK);
            self.make_room(at - data).await?;
            file.write(data, vec![0; (at - data) as usize].into()).await?;
        }
        file.grow(range.end).await?;
        Ok(())
    }

    /// The next data or hole, at `offset` or after it. What is stored is all data.
    ///
    /// # Errors
    /// [`FsError::Beyond`] behind the end of the file, and where there is no more data.
    pub async fn seek(&self, at: Place, what: Seek) -> Result<u64, FsError> {
        let kind = self.open_kind(at)?;
        let (file, size) = match &kind {
            Kind::Directory(_) => return Err(FsError::Invalid),
            Kind::Stored(cap) => (None, cap.size().unwrap_or(0)),
            Kind::Staged(file) | Kind::Mutable(_, file) => {
                file.refresh(&self.cx()).await?;
                (Some(file), file.size())
            }
        };
        if at.offset >= size {
            return Err(FsError::Beyond);
        }
        match (what, file) {
            (Seek::Data, Some(file)) => file.next_data(at.offset).ok_or(FsError::Beyond),
            (Seek::Data, None) => Ok(at.offset),
            (Seek::Hole, file) => Ok(file.and_then(|file| file.next_hole(at.offset)).unwrap_or(size)),
        }
    }

    /// Copies up to `length` bytes; returns how many. Fewer at the end of the file, and of much. The first bytes of a
    /// stored file that are copied to the same place of an empty one, and those that follow, are not copied but shared.
    pub async fn copy_range(&self, from: Place, to: Place, length: u64) -> Result<u64, FsError> {
        let kind = self.open_kind(from)?;
        self.check_writes(to.handle)?;
        let (size, stored) = match &kind {
            Kind::Directory(_) => return Err(FsError::IsDirectory),
            Kind::Stored(cap) => (cap.size().ok_or(FsError::Unsupported)?, Some(cap.clone())),
            Kind::Staged(file) => (file.size(), file.stored()),
            Kind::Mutable(_, file) => {
                file.refresh(&self.cx()).await?;
                (file.size(), None)
            }
        };
        let length = length.min(size.saturating_sub(from.offset));
        if length == 0 {
            return Ok(0);
        }
        let target = self.stage(to.ino).await?;
        let end = to.offset.checked_add(length).ok_or(FsError::TooLarge)?;
        self.check_room(target.size(), end)?;
        if let Some(cap) = stored.filter(|_| from.offset == to.offset && to.offset == target.size()) {
            let whole = self.writeback.begin_as(&cap, size)?;
            if target.continue_as(&whole, end).await? {
                self.content_changed(to.ino).await?;
                return Ok(length);
            }
        }
        let copied = self.copy_bytes(from, &target, to.offset, length.min(AT_ONCE)).await?;
        self.content_changed(to.ino).await?;
        Ok(copied)
    }

    async fn copy_bytes(
        &self,
        from: Place,
        target: &Arc<FileObject>,
        offset: u64,
        length: u64,
    ) -> Result<u64, FsError> {
        let mut copied = 0;
        while copied < length {
            let wanted = (length - copied).min(CHUNK) as u32;
            let next = async {
                let data = self.read(from.ino, from.handle, from.offset + copied, wanted).await?;
                self.make_room(data.len() as u64).await?;
                let bytes = data.len() as u64;
                target.write(offset + copied, data).await?;
                Ok(bytes)
            };
            match next.await {
                Ok(0) => break,
                Ok(bytes) => copied += bytes,
                Err(error) if copied == 0 => return Err(error),
                // Who asks for the rest is told.
                Err(_) => break,
            }
        }
        Ok(copied)
    }

    fn open_kind(&self, at: Place) -> Result<Kind, FsError> {
        let state = self.lock();
        let Some(Open::File { .. }) = state.handles.get(at.handle) else { return Err(FsError::BadHandle) };
        Ok(state.inodes.get(at.ino).ok_or(FsError::Stale)?.kind.clone())
    }
}
