//! Changing attributes and size.

use crate::fs::attr::{Attr, Ino, ROOT, SetAttr, SetTime};
use crate::fs::inodes::Link;
use crate::fs::{Filesystem, FsError};
use crate::node::FileType;
use crate::writeback::Weight;

impl Filesystem {
    /// Changes attributes; a change of size is a change of the content.
    pub async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Attr, FsError> {
        self.check_changeable(ino)?;
        self.reach(ino).await?;
        let mut pinned = None;
        if let Some(size) = set.size {
            if self.lock().inodes.get(ino).ok_or(FsError::Stale)?.attributes.kind == FileType::Directory {
                return Err(FsError::IsDirectory);
            }
            self.check_authority(ino)?;
            pinned = Some(self.pin(ino)?);
            let file = self.stage(ino).await?;
            self.check_room(file.size(), size)?;
            file.truncate(size).await?;
        } else if set.mtime.is_some() {
            // The times will belong to the version that the grid holds now, where it can be asked.
            let _ = self.full_attr(ino).await;
        }
        let now = self.now();
        let resolve = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let kept = {
            let mut state = self.lock();
            let shown = self.attr(&state, ino)?.atime;
            let inode = state.inodes.get_mut(ino).ok_or(FsError::Stale)?;
            let attributes = &mut inode.attributes;
            if set.mtime.is_some() && set.size.is_none() {
                // Where none is kept, the time of the last change is shown, which is not to go along.
                attributes.atime.get_or_insert(shown);
            }
            if let Some(mode) = set.mode {
                attributes.mode = Some(mode & 0o7777);
            }
            attributes.uid = set.uid.or(attributes.uid);
            attributes.gid = set.gid.or(attributes.gid);
            attributes.atime = set.atime.map(resolve).or(attributes.atime);
            attributes.ctime = Some(now);
            let mtime = set.mtime.map(resolve);
            if set.size.is_some() {
                // Also should its name be gone.
                self.times_changed(&mut state, ino, mtime.unwrap_or(now), true);
            }
            match mtime {
                Some(mtime) => self.times_changed(&mut state, ino, mtime, false),
                None => self.submit(&mut state, ino, Weight::Full),
            }
            self.keep(state)
        };
        drop(pinned);
        kept.done().await?;
        if ino == ROOT {
            self.keep_root()?;
        }
        self.full_attr(ino).await
    }

    /// Refuses a change of an inode whose edge cannot be written.
    pub(in crate::fs) fn check_changeable(&self, ino: Ino) -> Result<(), FsError> {
        let dir = {
            let state = self.lock();
            let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
            if inode.link == Link::Removed {
                return if self.options.read_only { Err(FsError::ReadOnly) } else { Ok(()) };
            }
            state.inodes.directory(inode.parent)?
        };
        self.check_writeable(dir)
    }

    /// Refuses to let a file grow by more than the grid can hold: a hole takes no room here, but zeros do there.
    pub(super) fn check_room(&self, size: u64, grown: u64) -> Result<(), FsError> {
        let space = self.factory.space();
        if space.total > 0 && grown.saturating_sub(size) > space.free { Err(FsError::NoSpace) } else { Ok(()) }
    }
}
