//! What is said over the control socket. The JSON is stable; `docs/CLI.md` documents it.
//!
//! No untagged or flattened types with numbers in them: serde cannot read those where numbers keep their spelling.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// What the mount says of itself.
    Status,
    /// Wait until all below a path is on the grid.
    Flush {
        /// Relative to the mountpoint; `None` is everything.
        #[serde(default)]
        path: Option<PathBuf>,
    },
    /// Ask the grid again before directories are next shown: somebody has changed some of them.
    Refresh,
    /// Store what is left and unmount.
    Unmount {
        /// Unmount without waiting.
        #[serde(default)]
        force: bool,
    },
    /// End, if it is mounted no more and only stores what is left: that stays in the journal, which a new mount wants.
    Yield,
}

/// What the mount answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// How far it is; more follows.
    Progress(Left),
    /// The answer to a status.
    Status(Box<Status>),
    /// A flush, a refresh, an unmount or a yield is done; what is not on the grid.
    Done(Left),
    /// It failed.
    Error(Failed),
}

/// What is not on the grid yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Names whose wanted state is not published.
    pub changes: u64,
    /// Files among them whose content is not stored.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Bytes of shares that left for the servers in the last seconds, per second; absent when nothing moves.
    #[serde(default)]
    pub rate: Option<u64>,
    /// Seconds until the content is stored, at this rate.
    #[serde(default)]
    pub eta: Option<u64>,
}

impl Left {
    /// Whether everything is on the grid.
    pub fn is_nothing(&self) -> bool {
        self.amount() == (0, 0, 0)
    }

    /// Changes, files and bytes.
    pub fn amount(&self) -> (u64, u64, u64) {
        (self.changes, self.files, self.bytes)
    }
}

/// A request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// One line: what happened, to which path, what to do. Never a cap.
    pub message: String,
    /// The exit code of the command that asked.
    pub exit: u8,
}

/// What a mount says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The process that serves the mount.
    pub pid: u32,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// What is mounted: `alias:path`, or `tahoe:` and a short storage index.
    pub source: String,
    /// Whether nothing can be changed.
    pub read_only: bool,
    /// When it was mounted, in seconds since the epoch.
    pub since: i64,
    /// What is not on the grid yet.
    pub queue: QueueStatus,
    /// The servers.
    pub servers: Vec<ServerState>,
    /// What the node directory names and is not used.
    #[serde(default)]
    pub unused: Vec<UnusedServer>,
    /// The cache of segments in memory.
    pub cache: CacheStatus,
    /// The blocks of files on disk; `None` where none are kept.
    pub disk_cache: Option<CacheStatus>,
    /// Contents that are not on the grid yet, or in use.
    #[serde(default)]
    pub journal: JournalStatus,
    /// What is done on the grid, now and of late.
    #[serde(default)]
    pub operations: OperationsStatus,
}

/// Operations on the grid.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationsStatus {
    /// Those that run, the oldest first.
    pub active: Vec<OperationStatus>,
    /// The latest that have ended, the oldest of them first.
    pub recent: Vec<OperationStatus>,
    /// Since the mount, of each kind.
    pub sums: Vec<OperationSum>,
}

/// An operation on the grid.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// `upload`, `download`, `publish` or `retrieve`.
    pub kind: String,
    /// The first characters of the storage index.
    pub storage_index: String,
    /// When it began, in seconds since the epoch.
    pub began: i64,
    /// How long it has taken, in seconds.
    pub seconds: f64,
    /// Bytes of content that are through.
    pub bytes: u64,
    /// Bytes of the whole file.
    pub size: u64,
    /// `active`, `done`, `given up` or `failed`.
    pub state: String,
    /// Why it has failed.
    pub error: Option<String>,
}

/// Sums over operations of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSum {
    /// Which.
    pub kind: String,
    /// Begun.
    pub begun: u64,
    /// Failed, of these.
    pub failed: u64,
    /// Bytes of content that went through.
    pub bytes: u64,
}

/// The queue of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// What is not on the grid yet.
    pub left: Left,
    /// The latest failures, oldest first; what failed is kept and tried again.
    pub failures: Vec<FailureStatus>,
    /// The latest conflicts with other clients since the mount, oldest first.
    #[serde(default)]
    pub conflicts: Vec<ConflictStatus>,
}

/// Two clients have changed one name at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictStatus {
    /// When this was found out, in seconds since the epoch.
    pub at: i64,
    /// The name, below the mountpoint.
    pub path: String,
    /// The name beside it that one of the two has now; `None` for a directory that one client removed and another filled,
    /// and that stays.
    pub kept_as: Option<String>,
}

/// Something that could not be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureStatus {
    /// When, in seconds since the epoch.
    pub at: i64,
    /// The name concerned; may be empty.
    pub name: String,
    /// What went wrong.
    pub error: String,
}

/// A server, and how it has fared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerState {
    /// What people call it.
    pub nickname: String,
    /// `v0-…`.
    pub id: String,
    /// `HOST:PORT`; `None` for a store.
    #[serde(default)]
    pub address: Option<String>,
    /// `connecting`, `connected` or `unreachable`.
    #[serde(default)]
    pub state: String,
    /// Seconds since it could be reached, while it cannot.
    #[serde(default)]
    pub unreachable_for: Option<f64>,
    /// Seconds until it is tried again, while it is set aside.
    #[serde(default)]
    pub next_try: Option<f64>,
    /// Whether its last request was answered.
    pub reachable: bool,
    /// Smoothed time of an answer in milliseconds, once there was one.
    pub latency_ms: Option<f64>,
    /// The last error, until the server has done without one for an hour.
    pub last_error: Option<String>,
    /// Seconds since then.
    #[serde(default)]
    pub last_error_ago: Option<f64>,
    /// Whether grid managers are configured and none of them certifies it, so that it gets no new shares.
    #[serde(default)]
    pub uncertified: bool,
    /// Free bytes as it last said, where it was ever asked.
    pub available: Option<u64>,
    /// Bytes of shares that it was sent and took.
    #[serde(default)]
    pub sent: u64,
    /// Bytes of shares that came from it.
    #[serde(default)]
    pub received: u64,
    /// Requests that it answered.
    #[serde(default)]
    pub answered: u64,
    /// Requests that failed.
    #[serde(default)]
    pub failed: u64,
}

/// A server, or another service, that the node directory names and that is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedServer {
    /// What people call it; may be empty.
    pub nickname: String,
    /// Its id, if it is a server.
    pub id: Option<String>,
    /// Why it is not used.
    pub reason: String,
}

/// A cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Bytes in use.
    pub bytes: u64,
    /// The most it uses.
    pub limit: u64,
    /// How often a block was there.
    #[serde(default)]
    pub hits: u64,
    /// How often it was not.
    #[serde(default)]
    pub misses: u64,
}

/// The contents in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Bytes that they take.
    pub bytes: u64,
    /// The most that they may take.
    pub limit: u64,
}

/// What a lock file says of the mount that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountNote {
    /// The process that serves the mount.
    pub pid: u32,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
}
