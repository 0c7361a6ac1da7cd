//! What the journal keeps of a stored content until that has passed the barrier of the grid.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::Staged;
use super::queue::lock;
use crate::node::{NodeError, Readable};
use crate::util::Cx;

/// A stored content that the journal has too. It never changes. It is read from the journal until [`Spare::lift`], from
/// the grid from then on.
pub struct Spare {
    staged: Mutex<Option<Arc<Staged>>>,
    cap: String,
    size: u64,
    node: Arc<dyn Readable>,
}

impl Spare {
    /// The content of `staged`, which nobody changes from now on, and which is stored under `cap`, that opens as `node`.
    pub fn new(staged: Arc<Staged>, cap: String, node: Arc<dyn Readable>) -> Arc<Spare> {
        let size = staged.size();
        Arc::new(Spare { staged: Mutex::new(Some(staged)), cap, size, node })
    }

    /// The id of its record in the journal, before it is lifted.
    pub fn id(&self) -> Option<u64> {
        self.staged()?.id()
    }

    /// The grid keeps what it has: the journal need not any more. Hands back the ids of its record and of those that it
    /// stands on: each goes once [`super::Journal::take_forgotten`] has handed it out too, after the last read of it.
    pub fn lift(&self) -> Vec<u64> {
        let mut ids = Vec::new();
        let top = lock(&self.staged).take();
        let mut at = top.clone();
        while let Some(staged) = at {
            ids.extend(staged.id());
            at = staged.base().and_then(|spare| spare.staged());
        }
        ids
    }

    /// Bytes of the content.
    pub fn bytes(&self) -> u64 {
        self.size
    }

    /// Its cap.
    pub fn cap(&self) -> &str {
        &self.cap
    }

    pub(super) fn staged(&self) -> Option<Arc<Staged>> {
        lock(&self.staged).clone()
    }
}

#[async_trait]
impl Readable for Spare {
    async fn size(&self, _cx: &Cx) -> Result<u64, NodeError> {
        Ok(self.size)
    }

    async fn read(&self, cx: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        match self.staged() {
            Some(staged) => staged.read_ranges(cx, ranges).await,
            None => self.node.read(cx, ranges).await,
        }
    }
}

impl fmt::Debug for Spare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spare").field("id", &self.id()).field("size", &self.size).finish()
    }
}
