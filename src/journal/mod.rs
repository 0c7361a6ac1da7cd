//! What is kept on the local disk until the grid has it: records of what is wanted, contents of files, and the index of
//! root attributes.
//!
//! A [`Journal`] is a folder: `journal.db` (SQLite, with its log), `staging/` for contents that do not fit a row, `lock`.
//! What a call has answered survives the end of the process; what [`Journal::barrier`] has answered survives power
//! loss. The order that keeps this is always the same: data, then the record, then the answer; and the other way round
//! when something goes: the record, a barrier, then the data. All but numbers is encrypted under one key.

mod batch;
mod contents;
mod error;
mod extents;
mod index;
mod keys;
mod left;
mod load;
mod open;
mod queue;
mod records;
mod room;
mod rows;
mod schema;
mod spare;
mod staged;
mod store;
mod units;

pub use batch::Batch;
pub use error::JournalError;
pub use index::Index;
pub use left::{LeftBehind, left_behind};
pub use load::{FileRecord, Replay};
pub use open::{Commit, Journal};
pub use records::{DirRecord, EdgeRecord, LinkRecord, LinkedIn, Wanted, WantedTarget};
pub use room::{JournalOptions, Room, Usage};
pub use spare::Spare;
pub use staged::Staged;

/// The crash points of this room: each stands between two durable steps.
pub const CRASH_POINTS: &[&str] = &[
    "journal.commit.begun",
    "journal.commit.done",
    "journal.write.data",
    "journal.spill.data",
    "journal.spill.switched",
    "journal.empty.switched",
    "journal.barrier.data",
    "journal.barrier.synced",
    "journal.barrier.unlinked",
];
