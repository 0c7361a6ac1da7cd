//! Why a node could not be read or written.

use super::FileVersion;
use crate::cap::CapError;
use crate::util::Stopped;

/// Why a node could not be read or written. Texts never hold a cap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Fewer than k good shares were found.
    #[error("only {found} good shares were found, {needed} are needed")]
    NotEnoughShares {
        /// Distinct good shares.
        found: usize,
        /// k.
        needed: usize,
        /// Every server was asked and has answered: the others are lost, and not merely out of reach.
        all_answered: bool,
    },
    /// A version that was read or stored before, or that others seem to have stored, cannot be had just now: the servers
    /// that hold it do not answer. Nothing was written, for that would take its changes back.
    #[error("the newest version is out of reach: servers that hold it do not answer")]
    OutOfReach,
    /// No server lets us in; one is named, and what it said.
    #[error("{0}")]
    LockedOut(String),
    /// Shares could not be placed on enough servers.
    #[error("shares can be placed on {happiness} servers only, {wanted} are wanted{}", hint(.reason))]
    NotEnoughServers {
        /// Servers of happiness reached.
        happiness: usize,
        /// Servers of happiness asked for.
        wanted: usize,
        /// What the servers that refused said, shortened; may be empty.
        reason: String,
    },
    /// The servers have no room.
    #[error("the servers have no space left")]
    NoSpace,
    /// The cap gives no authority to write.
    #[error("the capability gives no write authority")]
    NotWriteable,
    /// The cap names something else than what was asked for, or nothing that can be opened.
    #[error("the capability is not {0}")]
    WrongKind(&'static str),
    /// The cap is malformed.
    #[error(transparent)]
    BadCap(#[from] CapError),
    /// What was decoded does not verify, or a directory's table cannot be parsed.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// The node directory's list of refused objects (`access.blacklist`) has it.
    #[error("access is refused by access.blacklist{}", because(.0))]
    Refused(String),
    /// Others kept writing at the same time.
    #[error("another client keeps changing this at the same time")]
    Uncoordinated,
    /// Somebody else has changed the file: it is of this version now.
    #[error("another client has changed this meanwhile")]
    Changed(FileVersion),
    /// Larger than the format allows.
    #[error("too large")]
    TooLarge,
    /// The source of an upload could not be read.
    #[error("reading what was to be stored: {0}")]
    Source(String),
    /// The caller's deadline, patience or cancellation.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl NodeError {
    /// Whether all servers say that it is not there.
    pub fn is_lost(&self) -> bool {
        matches!(self, NodeError::NotEnoughShares { all_answered: true, .. })
    }

    /// Whether asking the same servers again is of no use.
    pub fn is_final(&self) -> bool {
        self.is_lost()
            || matches!(
                self,
                NodeError::WrongKind(_)
                    | NodeError::BadCap(_)
                    | NodeError::Corrupt(_)
                    | NodeError::Refused(_)
                    | NodeError::TooLarge
            )
    }

    /// Whether the servers could not be asked, or too few of them: what was seen before may still be so.
    pub fn is_away(&self) -> bool {
        matches!(
            self,
            NodeError::NotEnoughShares { .. }
                | NodeError::NotEnoughServers { .. }
                | NodeError::OutOfReach
                | NodeError::LockedOut(_)
                | NodeError::Stopped(Stopped::Deadline | Stopped::Stalled)
        )
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn hint(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}
