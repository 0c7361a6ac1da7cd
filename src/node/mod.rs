//! What the rooms above see of the grid: traits and their vocabulary, named as Tahoe-LAFS's interfaces are.
//!
//! Nothing here does any work; `immutable`, `mutable` and `dirnode` implement these traits and `client` composes them.

mod attributes;
mod changes;
mod edit;
mod error;
mod metadata;
mod source;
mod table;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::cap::{Cap, StorageIndex};
use crate::util::Cx;

pub use attributes::{Attributes, FileType, Timestamp, cap_mark, fresh_id};
pub use changes::{Changes, FileVersion};
pub use edit::{Edit, EditOutcome, Expect};
pub use error::NodeError;
pub use metadata::{Metadata, NotAnObject, float};
pub use source::{BytesSource, Source};
pub use table::{Child, Name, Table, may_be_named, names_of, normalize};

/// How fresh a directory's table must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// What was last seen will do, if anything was.
    Cached,
    /// The newest version the grid holds, as far as few servers tell: one that others have stored with less happiness than
    /// is asked for here may be overlooked for a minute.
    Recent,
    /// The newest version the grid holds.
    Newest,
    /// What was last seen, by an earlier process too where that is kept; the grid is not asked.
    Kept,
}

/// A file that can be read (IReadable): CHK, LIT, SDMF or MDMF.
#[async_trait]
pub trait Readable: Send + Sync {
    /// Bytes of the file. Immutable files know it from their cap; mutable ones ask the grid.
    async fn size(&self, cx: &Cx) -> Result<u64, NodeError>;

    /// Reads byte ranges, in the order asked; each is cut at the end of the file. All bytes are verified.
    async fn read(&self, cx: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError>;

    /// Which version of a mutable file is read here, with its size; at most a few seconds old. `None` of a file that
    /// cannot change.
    async fn file_version(&self, cx: &Cx) -> Result<Option<FileVersion>, NodeError> {
        let _ = cx;
        Ok(None)
    }
}

/// A mutable file that can be written (IWriteable).
#[async_trait]
pub trait Writeable: Readable {
    /// Makes one new version of the file, with these changes, and returns it. It is published even if it changes nothing.
    ///
    /// With a `base` the changes are made to that version alone: [`NodeError::Changed`] with the newest one says that
    /// somebody else has written, and that what there may be of ours is not the newest. A version that an earlier call
    /// on this object made out of the base, and of which it could not say that it was stored, is none of somebody
    /// else's: the changes are made to it. Without a base they are made to whatever is newest, and when others write at
    /// the same time again and again, with waits between, until [`NodeError::Uncoordinated`] gives up.
    ///
    /// After any other error the new version may be there or not.
    ///
    /// An MDMF file is changed in place: only segments that the changes touch are sent, and what is in memory is N/k
    /// times these, with the whole file's where a server gets a share anew. Of an SDMF file everything is sent and is in
    /// memory.
    async fn write(&self, cx: &Cx, base: Option<&FileVersion>, changes: &Changes) -> Result<FileVersion, NodeError>;

    /// The most bytes that the file can hold.
    fn longest(&self) -> u64;

    /// Replaces the whole content, whatever it was.
    async fn overwrite(&self, cx: &Cx, content: Bytes) -> Result<(), NodeError> {
        self.write(cx, None, &Changes::whole(Arc::new(BytesSource(content)))).await.map(drop)
    }

    /// Writes `data` at `offset`, at most the current size; the file grows where it must.
    async fn update(&self, cx: &Cx, offset: u64, data: Bytes) -> Result<(), NodeError> {
        self.write(cx, None, &Changes::patch(offset, data)).await.map(drop)
    }
}

/// A directory (IDirectoryNode).
#[async_trait]
pub trait Directory: Send + Sync {
    /// Where its container's shares are; `None` for a literal directory.
    fn storage_index(&self) -> Option<StorageIndex>;

    /// Whether [`Directory::modify`] can succeed: the cap is a write cap.
    fn is_writeable(&self) -> bool;

    /// The table of children.
    async fn snapshot(&self, cx: &Cx, freshness: Freshness) -> Result<Arc<Table>, NodeError>;

    /// The newest table that was read or made here; the grid is not asked.
    fn last(&self) -> Option<Arc<Table>>;

    /// Whether the grid holds a newer version than the last snapshot; cheaper than fetching it. `freshness` says whether
    /// it may be overlooked ([`Freshness::Recent`]).
    async fn probe(&self, cx: &Cx, freshness: Freshness) -> Result<bool, NodeError>;

    /// Applies `edits` in one publish, on the newest version, again after an uncoordinated write; one outcome for each.
    ///
    /// An edit that finds what its `expect` does not allow is left out and reported; the others are applied.
    async fn modify(&self, cx: &Cx, edits: &[Edit]) -> Result<Vec<EditOutcome>, NodeError>;
}

/// Room for more files, for statfs. Bytes of file content, after the erasure code's expansion; each disk counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What the disks hold in all.
    pub total: u64,
    /// What is free.
    pub free: u64,
}

/// Makes nodes out of caps, and new files and directories on the grid (INodeMaker).
#[async_trait]
pub trait NodeFactory: Send + Sync {
    /// The directory behind `cap`. One object serves all callers for the same storage index and authority.
    fn directory(&self, cap: &Cap) -> Result<Arc<dyn Directory>, NodeError>;

    /// The file behind `cap`.
    fn readable(&self, cap: &Cap) -> Result<Arc<dyn Readable>, NodeError>;

    /// The mutable file behind `cap`, which must be a write cap.
    fn writeable(&self, cap: &Cap) -> Result<Arc<dyn Writeable>, NodeError>;

    /// Stores an immutable file (CHK, or LIT when short) and returns its cap.
    async fn store_file(&self, cx: &Cx, source: Arc<dyn Source>) -> Result<Cap, NodeError>;

    /// Makes a mutable directory with these children and returns its write cap.
    async fn create_directory(&self, cx: &Cx, children: &[(Name, Cap, Metadata)]) -> Result<Cap, NodeError>;

    /// The barrier: what was stored before survives power loss once this returns, as far as the servers promise.
    async fn sync(&self, cx: &Cx) -> Result<(), NodeError>;

    /// Room for more, as last measured; never asks the network.
    fn space(&self) -> Space;
}
