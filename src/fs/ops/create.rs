//! New names: files, directories, symbolic links and special files.

use std::sync::Arc;

use bytes::Bytes;

use crate::cap::{Cap, FileCap, LitCap};
use crate::fs::attr::{Attr, Caller, Ino};
use crate::fs::handles::{Handle, Open, OpenMode};
use crate::fs::inodes::{Kind, Link};
use crate::fs::names::RECORD;
use crate::fs::ops::xattr::inherit;
use crate::fs::{Filesystem, FsError};
use crate::node::{Attributes, FileType, Metadata, fresh_id};
use crate::writeback::{FileObject, Weight};

const SET_GID: u32 = 0o2000;

impl Filesystem {
    /// Makes a file and opens it.
    pub async fn create(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        caller: Caller,
        open: OpenMode,
    ) -> Result<(Attr, Handle), FsError> {
        let file = FileObject::new(self.journal().create_file(None)?, None);
        let attr = self.add(parent, name, FileType::File, mode, 0, caller, Kind::Staged(Arc::clone(&file))).await?;
        let mut state = self.lock();
        let inode = state.inodes.get_mut(attr.ino).ok_or(FsError::Stale)?;
        inode.handles += 1;
        let writer = open.write.then_some(file);
        if let Some(file) = &writer {
            file.open_writer();
        }
        let handle = state.handles.add(Open::File { ino: attr.ino, mode: open, stored: None, writer, heard: 0 });
        Ok((attr, handle))
    }

    /// Makes a directory. It gets its cap when it is first published.
    pub async fn mkdir(&self, parent: Ino, name: &[u8], mode: u32, caller: Caller) -> Result<Attr, FsError> {
        let kind = Kind::Directory(self.writeback.new_directory());
        self.add(parent, name, FileType::Directory, mode, 0, caller, kind).await
    }

    /// Makes a symbolic link: a file whose content is the target.
    pub async fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], caller: Caller) -> Result<Attr, FsError> {
        let kind = if target.len() <= LitCap::LONGEST {
            Kind::Stored(Cap::File(FileCap::Lit(LitCap { data: target.to_vec() })))
        } else {
            let file = FileObject::new(self.journal().create_file(None)?, None);
            file.write(0, Bytes::copy_from_slice(target)).await?;
            Kind::Staged(file)
        };
        self.add(parent, name, FileType::Symlink, 0o777, 0, caller, kind).await
    }

    /// Makes a file or special file without opening it. Of a special file the grid holds an empty file; what it is
    /// stands in its attributes.
    pub async fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        kind: FileType,
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> Result<Attr, FsError> {
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            return Err(FsError::Invalid);
        }
        let empty = Cap::File(FileCap::Lit(LitCap { data: Vec::new() }));
        self.add(parent, name, kind, mode, rdev, caller, Kind::Stored(empty)).await
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a new inode, from four operations")]
    async fn add(
        &self,
        parent: Ino,
        name: &[u8],
        file_type: FileType,
        mode: u32,
        rdev: u32,
        caller: Caller,
        kind: Kind,
    ) -> Result<Attr, FsError> {
        self.make_room(RECORD).await?;
        let dir = self.load(parent).await?;
        let (ino, kept) = {
            let mut state = self.lock();
            self.check_writeable(dir)?;
            if self.find(dir, name)?.is_some() {
                return Err(FsError::Exists);
            }
            let (edge, given) = self.free_edge(dir, name, None)?;
            let above = state.inodes.get(parent).ok_or(FsError::Stale)?;
            if above.link != Link::Named {
                return Err(FsError::NotFound);
            }
            let inherited = above.attributes.mode.filter(|m| m & SET_GID != 0).map(|_| above.attributes.gid);
            let mut attributes = Attributes::new(file_type);
            let set_gid = if inherited.is_some() && file_type == FileType::Directory { SET_GID } else { 0 };
            let (mode, xattr) = inherit(&above.attributes, file_type, mode, caller.umask);
            attributes.mode = Some(mode & 0o7777 | set_gid);
            attributes.xattr = xattr;
            attributes.uid = Some(caller.uid);
            attributes.gid = inherited.unwrap_or(Some(caller.gid));
            attributes.rdev = rdev;
            attributes.name = given;
            let now = self.now();
            (attributes.mtime, attributes.ctime) = (Some(now), Some(now));
            if file_type != FileType::Directory {
                attributes.id = Some(fresh_id(&self.rng));
            }
            self.is_gone(&mut state, parent, &edge);
            let ino = state.inodes.add(parent, edge, kind, attributes, Metadata::default());
            self.submit(&mut state, ino, Weight::Full);
            self.touch_directory(&mut state, parent);
            (ino, self.keep(state))
        };
        kept.done().await?;
        self.remembered(ino).await
    }
}
