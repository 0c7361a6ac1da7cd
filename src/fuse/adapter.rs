//! fuser's callbacks.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime;

use super::convert::{self, errno, open_mode, set_time};
use crate::fs::{Caller, Filesystem, FsError, Handle, Place, Reader, RenameMode, Seek, SetAttr, SetMode};
use crate::node::FileType;
use crate::writeback::LASTING;

/// How long the kernel may hold names and attributes without asking, where it is not told of changes.
const UNTOLD: Duration = Duration::from_secs(1);
/// The largest read or write; what the kernel allows by default.
const MAX_IO: u32 = 1 << 20;
/// Requests that the kernel may have under way in the background.
const MAX_BACKGROUND: u16 = 64;
/// The most that an answer can say was copied, in whole pages.
const MOST_COPIED: u64 = 0xffff_f000;
/// Block size in statfs.
const BLOCK: u32 = 4096;
const GENERATION: Generation = Generation(0);

/// What fuser calls.
pub(super) struct Adapter {
    pub fs: Arc<Filesystem>,
    pub runtime: runtime::Handle,
}

impl Adapter {
    /// Runs `work`: here as far as it goes without waiting, since most requests wait for nothing and a change of thread
    /// costs more than they do; the rest as a task of its own.
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Filesystem>) -> F) {
        let _runtime = self.runtime.enter();
        let mut work = Box::pin(work(Arc::clone(&self.fs)));
        if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.runtime.spawn(work);
        }
    }
}

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask }
}

/// Whether who asks is in a group, or root.
fn is_member(uid: u32, gid: u32, process: u32) -> impl FnOnce(u32) -> bool {
    move |group| uid == 0 || gid == group || convert::groups_of(process).contains(&group)
}

/// How long the kernel may hold what it is told of an inode.
fn ttl(fs: &Filesystem, ino: u64) -> Duration {
    if fs.lasts(ino) { LASTING } else { UNTOLD }
}

fn entry(reply: ReplyEntry, fs: &Filesystem, result: Result<crate::fs::Attr, FsError>) {
    match result {
        Ok(attr) => reply.entry(&ttl(fs, attr.ino), &convert::attr(&attr), GENERATION),
        Err(e) => reply.error(errno(e)),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

fn xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, FsError>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(e)),
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What is asked for is listed one by one: this release of fuser cannot serve every capability it knows.
        // FUSE_ATOMIC_O_TRUNC is not: with it a program that runs is emptied before the kernel answers ETXTBSY.
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            // Default access control lists take the place of the umask.
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK;
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(MAX_IO);
        let _ = config.set_max_readahead(MAX_IO);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        self.spawn(|fs| async move { entry(reply, &fs, fs.lookup(parent.0, &name).await) });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.spawn(|fs| async move {
            match fs.getattr(ino.0).await {
                Ok(attr) => reply.attr(&ttl(&fs, attr.ino), &convert::attr(&attr)),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        self.spawn(|fs| async move {
            match fs.setattr(ino.0, set).await {
                Ok(attr) => reply.attr(&ttl(&fs, attr.ino), &convert::attr(&attr)),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(reply, size, self.fs.getxattr(ino.0, name.as_bytes()));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let reader = if req.uid() == 0 { Reader::Privileged } else { Reader::Any };
        xattr(reply, size, self.fs.listxattr(ino.0, reader));
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => SetMode::Any,
            libc::XATTR_CREATE => SetMode::Create,
            libc::XATTR_REPLACE => SetMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let is_member = is_member(req.uid(), req.gid(), req.pid());
        self.spawn(move |fs| async move { empty(reply, fs.setxattr(ino.0, &name, &value, mode, is_member).await) });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.spawn(move |fs| async move { empty(reply, fs.removexattr(ino.0, &name).await) });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.spawn(|fs| async move {
            match fs.readlink(ino.0).await {
                Ok(target) => reply.data(&target),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(req, umask));
        let Some(kind) = convert::kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
        self.spawn(|fs| async move { entry(reply, &fs, fs.mknod(parent.0, &name, kind, mode, rdev, caller).await) });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(req, umask));
        self.spawn(|fs| async move { entry(reply, &fs, fs.mkdir(parent.0, &name, mode, caller).await) });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.spawn(|fs| async move { empty(reply, fs.unlink(parent.0, &name).await) });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.spawn(|fs| async move { empty(reply, fs.rmdir(parent.0, &name).await) });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (link_name.as_bytes().to_vec(), target.as_os_str().as_bytes().to_vec());
        let caller = caller(req, 0);
        self.spawn(|fs| async move { entry(reply, &fs, fs.symlink(parent.0, &name, &target, caller).await) });
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let name = newname.as_bytes().to_vec();
        self.spawn(|fs| async move { entry(reply, &fs, fs.link(ino.0, newparent.0, &name).await) });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags.bits() {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (name, newname) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        self.spawn(|fs| async move { empty(reply, fs.rename(parent.0, &name, newparent.0, &newname, mode).await) });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mode = open_mode(flags.0);
        self.spawn(|fs| async move {
            match fs.open(ino.0, mode).await {
                Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.spawn(|fs| async move {
            match fs.read(ino.0, Handle(fh.0), offset, size).await {
                Ok(data) => reply.data(&data),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        // A program may change this while the file is open.
        let appends = flags.0 & libc::O_APPEND != 0;
        self.spawn(|fs| async move {
            let written = data.len() as u32;
            let result = match (mapped, appends) {
                (true, _) => fs.write_page(ino.0, Handle(fh.0), offset, data).await,
                (false, true) => fs.append(ino.0, Handle(fh.0), offset, data).await,
                (false, false) => fs.write(ino.0, Handle(fh.0), offset, data).await,
            };
            match result {
                Ok(()) => reply.written(written),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn flush(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.spawn(|fs| async move { empty(reply, fs.flush(ino.0, Handle(fh.0)).await) });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(Handle(fh.0));
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.spawn(move |fs| async move { empty(reply, fs.fsync(ino.0, Handle(fh.0)).await) });
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some((what, grows)) = convert::allocation(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let at = Place { ino: ino.0, handle: Handle(fh.0), offset };
        self.spawn(move |fs| async move { empty(reply, fs.allocate(at, length, what, grows).await) });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let at = Place { ino: ino.0, handle: Handle(fh.0), offset };
        self.spawn(move |fs| async move {
            match fs.seek(at, what).await {
                Ok(found) => reply.offset(found as i64),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = Place { ino: ino_in.0, handle: Handle(fh_in.0), offset: offset_in };
        let to = Place { ino: ino_out.0, handle: Handle(fh_out.0), offset: offset_out };
        self.spawn(move |fs| async move {
            match fs.copy_range(from, to, len.min(MOST_COPIED)).await {
                Ok(copied) => reply.written(copied as u32),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.spawn(|fs| async move {
            match fs.opendir(ino.0).await {
                Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.spawn(|fs| async move {
            let entries = match fs.readdir(Handle(fh.0), offset == 0).await {
                Ok(entries) => entries,
                Err(e) => return reply.error(errno(e)),
            };
            for (i, listed) in entries.iter().enumerate().skip(offset as usize) {
                let name = OsStr::from_bytes(&listed.name);
                if reply.add(INodeNo(listed.ino), i as u64 + 1, convert::file_type(listed.kind), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.spawn(|fs| async move {
            let entries = match fs.readdir(Handle(fh.0), offset == 0).await {
                Ok(entries) => entries,
                Err(e) => return reply.error(errno(e)),
            };
            for (i, listed) in entries.iter().enumerate().skip(offset as usize) {
                // An entry without attributes makes the kernel look the name up itself when somebody wants them.
                let known = fs.attach(ino.0, listed).await;
                let lasting = known.as_ref().map_or(UNTOLD, |attr| ttl(&fs, attr.ino));
                let attr = known.map_or_else(|| unknown(listed.kind), |attr| convert::attr(&attr));
                let name = OsStr::from_bytes(&listed.name);
                if reply.add(INodeNo(listed.ino), i as u64 + 1, name, &lasting, &attr, GENERATION) {
                    if let Some(attr) = known {
                        fs.forget(attr.ino, 1);
                    }
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.fs.releasedir(Handle(fh.0));
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.spawn(|fs| async move { empty(reply, fs.fsyncdir(ino.0).await) });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let space = self.fs.statfs();
        let (blocks, free) = (space.total / u64::from(BLOCK), space.free / u64::from(BLOCK));
        reply.statfs(blocks, free, free, blocks, free, BLOCK, 255, BLOCK);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, caller, open) = (name.as_bytes().to_vec(), caller(req, umask), open_mode(flags));
        self.spawn(|fs| async move {
            match fs.create(parent.0, &name, mode, caller, open).await {
                Ok((attr, handle)) => {
                    let handle = FileHandle(handle.0);
                    reply.created(&ttl(&fs, attr.ino), &convert::attr(&attr), GENERATION, handle, FopenFlags::empty());
                }
                Err(e) => reply.error(errno(e)),
            }
        });
    }
}

/// What readdirplus says of an entry whose attributes it does not give: the number 0, and the type.
fn unknown(kind: FileType) -> fuser::FileAttr {
    let epoch = Default::default();
    let (ino, size, mode, nlink, uid, gid, rdev) = (0, 0, 0, 1, 0, 0, 0);
    let attr =
        crate::fs::Attr { ino, size, kind, mode, nlink, uid, gid, rdev, atime: epoch, mtime: epoch, ctime: epoch };
    convert::attr(&attr)
}
