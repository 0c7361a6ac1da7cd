//! Attributes as a kernel wants them.

use std::time::Duration;

use crate::node::{Attributes, FileType, Timestamp};

/// An inode number. The root's is 1.
pub type Ino = u64;

/// The root of the file system.
pub const ROOT: Ino = 1;

/// The attributes of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Number, stable across mounts.
    pub ino: Ino,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: FileType,
    /// Permission and set-id bits.
    pub mode: u32,
    /// Links; 1 for a directory whose table is not loaded.
    pub nlink: u32,
    /// Owner shown.
    pub uid: u32,
    /// Group shown.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
}

/// Whose files they seem to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The mounter's: every file shows this uid, and the stored gid where it is among `groups`, else `gid`.
    Me {
        /// The mounter.
        uid: u32,
        /// The mounter's first group.
        gid: u32,
        /// All groups of the mounter.
        groups: Vec<u32>,
    },
    /// As stored; what nobody has set is the mounter's.
    Stored {
        /// The mounter.
        uid: u32,
        /// The mounter's first group.
        gid: u32,
    },
}

impl Owner {
    /// The ids shown for what is stored.
    pub fn shown(&self, attributes: &Attributes) -> (u32, u32) {
        match self {
            Owner::Me { uid, gid, groups } => (*uid, attributes.gid.filter(|g| groups.contains(g)).unwrap_or(*gid)),
            Owner::Stored { uid, gid } => (attributes.uid.unwrap_or(*uid), attributes.gid.unwrap_or(*gid)),
        }
    }
}

/// How the file system behaves.
#[derive(Clone, Debug)]
pub struct FsOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// Whose files they seem to be.
    pub owner: Owner,
    /// Longest wait of a lookup or read on the grid.
    pub deadline: Duration,
    /// Bytes of memory that reads may use together.
    pub memory: u64,
    /// What `close` and `fsync` wait for.
    pub durability: Durability,
    /// `user.tahoe.cap` tells the write capability, where there is one.
    pub write_caps: bool,
}

/// What `close` and `fsync` wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The journal: `close` for nothing, `fsync` until what was written survives power loss.
    #[default]
    Local,
    /// The grid too.
    Grid,
}

/// What the caller of an operation is, as far as the operation needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Permission bits that new inodes do not get, where no default access control list says what they get.
    pub umask: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// This time.
    At(Timestamp),
}

/// What `setattr` is to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission and set-id bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
}
