//! One turn at a time for each mutable file, whichever objects in this process stand for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use crate::cap::StorageIndex;

/// The locks that somebody holds or waits for.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<StorageIndex, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// The lock of `si`; the same one for as long as anybody keeps it.
    pub(super) fn of(&self, si: StorageIndex) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(turn) = turns.get(&si).and_then(Weak::upgrade) {
            return turn;
        }
        if turns.len() >= 1024 && turns.len().is_power_of_two() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        turns.insert(si, Arc::downgrade(&turn));
        turn
    }
}
