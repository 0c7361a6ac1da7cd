//! Mutable files: servermap, retrieve, publish, and the loop that re-applies a change when others write (PROTOCOL 6).
//!
//! An SDMF file is written whole. Of an MDMF file only the segments that change are sent, to the servers that hold the rest.

mod encode;
mod file;
mod publish;
mod query;
mod retrieve;
mod servermap;
mod turns;
mod update;
mod write;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::cap::{MutableCap, StorageIndex};
use crate::crypto::{SigningKey, VerifyKey, WriteKey};
use crate::grid::{Grid, Server};
use crate::node::NodeError;
use crate::storage::{ShareKind, ShareNumber, StorageServer};
use crate::util::Cx;

use encode::Keys;

pub use file::{Change, MutableFile};
pub use servermap::{Breadth, KnownShare, Mode, ServerMap};

/// The largest content that is read whole or written, in bytes: more is taken for a hostile header.
pub const MAX_CONTENT: u64 = 1 << 30;

/// One mutable file on one grid, and the keys that were learned of it. Every key here has been checked against the cap.
struct Slot {
    grid: Arc<Grid>,
    cap: MutableCap,
    si: StorageIndex,
    public_key: OnceLock<(Bytes, VerifyKey)>,
    signing_key: OnceLock<SigningKey>,
}

impl Slot {
    fn new(grid: Arc<Grid>, cap: MutableCap) -> Slot {
        let si = cap.storage_index();
        Slot { grid, cap, si, public_key: OnceLock::new(), signing_key: OnceLock::new() }
    }

    fn write_key(&self) -> Option<&WriteKey> {
        self.cap.write_key()
    }

    /// What a new version is made with.
    fn keys(&self) -> Result<Keys, NodeError> {
        let (Some(write), Some(read)) = (self.write_key().cloned(), self.cap.read_key()) else {
            return Err(NodeError::NotWriteable);
        };
        match self.signing_key.get().cloned() {
            Some(signing) => Ok(Keys { read, write, signing }),
            None => Err(NodeError::Corrupt("no share holds a usable private key".into())),
        }
    }

    /// Tells a server about a corrupt share, without waiting for its answer.
    fn advise_corrupt(&self, cx: &Cx, server: &Arc<Server>, share: ShareNumber, reason: String) {
        let (cx, server, si) = (cx.clone(), Arc::clone(server), self.si);
        tracing::warn!(server = %server.info().nickname, storage_index = ?si, share, reason, "corrupt share");
        tokio::spawn(async move { server.advise_corrupt(&cx, ShareKind::Mutable, si, share, &reason).await });
    }
}
