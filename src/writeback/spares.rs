//! Contents that are stored, and that the journal keeps until they have passed the barrier of the grid: power loss may
//! take their shares before it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{FileObject, Writeback, cap_key};
use crate::cap::Cap;
use crate::crypto::Hash;
use crate::journal::Spare;
use crate::node::NodeError;

/// By what they are stored under. Two files may have the same content.
#[derive(Default)]
pub(super) struct Spares(Mutex<HashMap<Hash, Vec<Arc<Spare>>>>);

impl Spares {
    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Vec<Arc<Spare>>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn put(&self, cap: &Cap, spare: Arc<Spare>) {
        self.lock().entry(cap_key(cap)).or_default().push(spare);
    }

    /// What the journal keeps of the file behind `cap`.
    pub fn get(&self, cap: &Cap) -> Option<Arc<Spare>> {
        self.lock().get(&cap_key(cap))?.last().map(Arc::clone)
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub fn all(&self) -> Vec<Arc<Spare>> {
        self.lock().values().flatten().map(Arc::clone).collect()
    }

    /// Lifts those of `spares` whose records are not in `needed`; hands back what [`Spare::lift`] does.
    pub fn lift(&self, spares: &[Arc<Spare>], needed: &HashSet<u64>) -> HashSet<u64> {
        let mut lifted = HashSet::new();
        for spare in spares {
            if spare.id().is_some_and(|id| !needed.contains(&id)) {
                lifted.extend(spare.lift());
            }
        }
        self.lock().retain(|_, spares| {
            spares.retain(|spare| spare.id().is_some());
            !spares.is_empty()
        });
        lifted
    }
}

impl Writeback {
    /// A file that begins as the stored one behind `cap`, which has `size` bytes.
    ///
    /// # Errors
    /// The cap cannot be opened, or the file is too large.
    pub fn begin_as(&self, cap: &Cap, size: u64) -> Result<Arc<FileObject>, NodeError> {
        let node = self.factory.readable(cap)?;
        if let Some(spare) = self.spares.get(cap) {
            return Ok(FileObject::over_spare(&self.journal, &spare, cap.clone()));
        }
        let staged = self.journal.create_file(Some((cap.to_uri(), node, size)));
        Ok(FileObject::new(staged.map_err(|e| NodeError::Source(e.to_string()))?, Some(cap.clone())))
    }
}
