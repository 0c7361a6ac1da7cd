//! The control socket of a mount: status, flush and unmount for other commands.
//!
//! Each mounted root has two files in `tahoefs/run/` of the node directory: `ROOT.lock`, held while the mount lives and
//! holding its pid and mountpoint as JSON, and the socket `ROOT.sock`. `ROOT` is a short hash of the root's storage index.
//! Over the socket a client sends one JSON object on a line and gets JSON objects on lines: any number of
//! `{"progress": …}`, then `{"done": …}`, `{"status": …}` or `{"error": {"message": …, "exit": …}}`. `docs/CLI.md` has the objects.

mod client;
mod metrics;
mod protocol;
mod run;
mod serve;

pub use client::{Connection, ControlError};
pub use metrics::Metrics;
pub use protocol::{
    CacheStatus, ConflictStatus, Failed, FailureStatus, JournalStatus, Left, MountNote, OperationStatus, OperationSum,
    OperationsStatus, QueueStatus, Reply, Request, ServerState, Status, UnusedServer,
};
pub use run::{Claim, ClaimError, Running, mountpoints, mounts, root_name};
pub use serve::{ControlTarget, ProgressSink, serve};
