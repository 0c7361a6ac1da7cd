//! Storage servers: the trait that all of them answer, and its backends.

pub mod fault;
pub mod gbs;
pub mod local;
pub mod memory;
mod ranges;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use crate::cap::StorageIndex;
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::util::{Cx, Stopped};

/// The number of a share on a server. Numbers at or above N exist on real servers and are ignored by readers.
pub type ShareNumber = u32;

/// A range of bytes wanted from a share: `offset`, `length`. Answers are cut at the share's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRange {
    /// First byte.
    pub offset: u64,
    /// Bytes wanted.
    pub length: u64,
}

/// Why a storage server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// It has no such share.
    #[error("no such share")]
    NoSuchShare,
    /// The write enabler is not the slot's.
    #[error("the write enabler is wrong")]
    BadWriteEnabler,
    /// It has no room.
    #[error("no space left")]
    NoSpace,
    /// The bytes differ from those already written at the same place.
    #[error("conflicting write")]
    Conflict,
    /// No upload of this share is under way with this secret.
    #[error("no such upload in progress")]
    NotInProgress,
    /// It cannot be reached, or may not be used.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It can be reached and does not let us in: what we know it by is not, or no longer, right.
    #[error("{0}")]
    Unauthorized(String),
    /// It answered what the protocol does not allow.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// An input/output error behind it.
    #[error("{0}")]
    Io(String),
    /// The caller's deadline, patience or cancellation.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Largest immutable share it accepts now; 0 when read-only.
    pub maximum_immutable_share_size: u64,
    /// Largest mutable share it accepts.
    pub maximum_mutable_share_size: u64,
    /// Free bytes, less what it reserves.
    pub available_space: u64,
}

/// The answer to an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Every complete share of the storage index on that server; their leases are renewed.
    pub already_have: BTreeSet<ShareNumber>,
    /// What may now be written. A number in neither set was refused or is being uploaded by somebody else.
    pub allocated: BTreeSet<ShareNumber>,
}

/// Names one upload: bytes that are written come with the secret they were allocated with.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadSecret(pub [u8; 20]);

/// A test on a mutable share: the bytes at `offset` must equal `specimen` (reads are cut at the end of the data).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestVector {
    /// First byte.
    pub offset: u64,
    /// Bytes to read, usually the specimen's length.
    pub size: u64,
    /// What must stand there.
    pub specimen: Bytes,
}

/// What is to be done to one mutable share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestWrite {
    /// All must hold, on every share of the request, before anything is written.
    pub test: Vec<TestVector>,
    /// Bytes to write, in order: offset and data. Holes are filled with zeros.
    pub write: Vec<(u64, Bytes)>,
    /// Cuts the share to this length after writing; 0 deletes it.
    pub new_length: Option<u64>,
}

/// The answer to a read-test-write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTestWriteAnswer {
    /// Whether the tests held and the writes were made.
    pub success: bool,
    /// For every share that existed before the writes, what the read vector found.
    pub data: BTreeMap<ShareNumber, Vec<Bytes>>,
}

/// Which of the two kinds of shares a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareKind {
    /// CHK.
    Immutable,
    /// SDMF and MDMF.
    Mutable,
}

/// A storage server: Tahoe-LAFS's IStorageServer, as the HTTP protocol has it (PROTOCOL 8).
///
/// Every method may be dropped at any time; what it had begun may or may not have been applied.
#[async_trait]
pub trait StorageServer: Send + Sync {
    /// What the server says of itself.
    async fn status(&self, cx: &Cx) -> Result<ServerStatus, StorageError>;

    /// The complete shares of `si`, of whichever kind they are.
    async fn list_shares(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError>;

    /// Starts the upload of `shares`, each exactly `size` bytes long, and renews the leases of those already there.
    async fn allocate(
        &self,
        cx: &Cx,
        si: StorageIndex,
        shares: &BTreeSet<ShareNumber>,
        size: u64,
        secret: &UploadSecret,
        lease: &LeaseSecrets,
    ) -> Result<Allocation, StorageError>;

    /// Writes bytes of a share under upload; `true` once every byte of it has arrived, which makes it visible.
    async fn write_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
        offset: u64,
        data: Bytes,
    ) -> Result<bool, StorageError>;

    /// Gives up the upload of a share.
    async fn abort_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError>;

    /// Reads ranges of one share, in the order asked; each is cut at the share's end.
    async fn read_share(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError>;

    /// Reads the same range of every mutable share of `si`, cut at each share's end. Shares above `last` are left out.
    async fn read_slots(
        &self,
        cx: &Cx,
        si: StorageIndex,
        last: ShareNumber,
        range: ReadRange,
    ) -> Result<BTreeMap<ShareNumber, Result<Bytes, StorageError>>, StorageError> {
        let numbers = self.list_shares(cx, ShareKind::Mutable, si).await?;
        let reads = numbers.into_iter().filter(|number| *number <= last).map(|number| async move {
            let read = self.read_share(cx, ShareKind::Mutable, si, number, &[range]).await;
            (number, read.map(|mut answer| answer.pop().unwrap_or_default()))
        });
        Ok(stream::iter(reads).buffer_unordered(READS_AT_ONCE).collect().await)
    }

    /// Tests, reads and writes mutable shares in one step.
    async fn read_test_write(
        &self,
        cx: &Cx,
        si: StorageIndex,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        shares: &BTreeMap<ShareNumber, TestWrite>,
        read: &[ReadRange],
    ) -> Result<ReadTestWriteAnswer, StorageError>;

    /// Renews or adds the lease on every share of `si`.
    async fn add_lease(&self, cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError>;

    /// Tells the server that a share of its is corrupt.
    async fn advise_corrupt(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError>;

    /// Whether it gives up requests that do not move by itself; otherwise who asks must limit each request in time.
    fn watches_itself(&self) -> bool {
        false
    }

    /// When bytes of any request to it last moved, where it watches that: then it lives, however long it takes to answer.
    fn moved(&self) -> Option<tokio::time::Instant> {
        None
    }

    /// What its clock showed, in seconds since the epoch, when its last answer came, where the protocol tells.
    fn date(&self) -> Option<(tokio::time::Instant, i64)> {
        None
    }

    /// The barrier: what was acknowledged before survives power loss once this returns (a remote server: its own affair).
    async fn sync(&self, cx: &Cx) -> Result<(), StorageError>;
}

/// Shares of one server that are read at a time.
const READS_AT_ONCE: usize = 8;
/// What every server says that it takes as a mutable share (PROTOCOL 8.4); the true limit is its space.
const MAXIMUM_MUTABLE_SHARE_SIZE: u64 = 69_105_000_000_000_000;
/// An upload to which nothing was written for longer than this is given up.
const UPLOAD_IDLE_SECONDS: i64 = 30 * 60;

impl TestWrite {
    /// One past the last byte written; refuses what no share can hold.
    fn end(&self) -> Result<u64, StorageError> {
        let mut ends = self.write.iter().map(|(offset, data)| offset.checked_add(data.len() as u64));
        let end = ends.try_fold(0, |end: u64, e| e.map(|e| end.max(e)));
        end.filter(|&e| e <= MAXIMUM_MUTABLE_SHARE_SIZE).ok_or_else(past_the_end)
    }
}

fn other_kind() -> StorageError {
    StorageError::Io("the share is of the other kind, mutable or immutable".into())
}

fn past_the_end() -> StorageError {
    StorageError::Io("a write beyond the share's end".into())
}
