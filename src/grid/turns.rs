//! One turn at a time for each mutable file, whichever objects in this process stand for it, and the newest version of it
//! that this process has met.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cap::StorageIndex;
use crate::share::Version;

/// The most mutable files that are remembered while nobody has them in hand.
const REMEMBERED: usize = 16 * 1024;

/// What this process knows of one mutable file, however many objects stand for it.
#[derive(Default)]
pub struct Turn {
    lock: tokio::sync::Mutex<()>,
    met: Mutex<Met>,
}

#[derive(Default)]
struct Met {
    newest: Option<Newest>,
    highest_seqnum: u64,
}

/// The newest version that was read or stored by this process.
#[derive(Clone, Debug)]
pub struct Newest {
    /// The version.
    pub version: Arc<Version>,
    /// The tub ids of servers that shares of it were seen on.
    pub holders: BTreeSet<[u8; 20]>,
    /// Whether this process stored it, on as many servers as are wanted.
    pub stored: bool,
}

impl Turn {
    /// Waits until no other operation on the file is under way.
    pub async fn take(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.lock.lock().await
    }

    /// The newest version that was read or stored.
    pub fn newest(&self) -> Option<Newest> {
        self.lock_met().newest.clone()
    }

    /// The highest sequence number of any version that was read or stored, whether or not it is forgotten; 0 without one.
    pub fn highest_seqnum(&self) -> u64 {
        self.lock_met().highest_seqnum
    }

    /// Notes a version that was read or stored. Of two with one sequence number that which was stored here counts.
    pub fn met(&self, met: Newest) {
        let mut known = self.lock_met();
        known.highest_seqnum = known.highest_seqnum.max(met.version.header.seqnum);
        match &mut known.newest {
            Some(old) if old.version == met.version => {
                old.holders.extend(met.holders);
                old.stored |= met.stored;
            }
            Some(old) if old.version.header.seqnum > met.version.header.seqnum => {}
            Some(old) if old.version.header.seqnum == met.version.header.seqnum && old.stored && !met.stored => {}
            _ => known.newest = Some(met),
        }
    }

    /// Forgets the newest version: the servers do not have it any more.
    pub fn forget(&self) {
        self.lock_met().newest = None;
    }

    fn lock_met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The turns of all mutable files that were in use lately.
#[derive(Default)]
pub(super) struct Turns(Mutex<Table>);

#[derive(Default)]
struct Table {
    turns: HashMap<StorageIndex, (u64, Arc<Turn>)>,
    /// Grows with every use.
    now: u64,
}

impl Turns {
    /// That of `si`; the same one for as long as anybody keeps it, and after that until many others have come.
    pub(super) fn of(&self, si: StorageIndex) -> Arc<Turn> {
        let mut table = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let Table { turns, now } = &mut *table;
        *now += 1;
        if let Some((used, turn)) = turns.get_mut(&si) {
            *used = *now;
            return Arc::clone(turn);
        }
        if turns.len() >= REMEMBERED && turns.len() % (REMEMBERED / 4) == 0 {
            let mut idle: Vec<u64> =
                turns.values().filter(|(_, turn)| Arc::strong_count(turn) == 1).map(|(used, _)| *used).collect();
            idle.sort_unstable();
            let recent = idle.get(idle.len() / 2).copied().unwrap_or(0);
            turns.retain(|_, (used, turn)| *used >= recent || Arc::strong_count(turn) > 1);
        }
        let turn = Arc::default();
        turns.insert(si, (*now, Arc::clone(&turn)));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn si(n: u64) -> StorageIndex {
        let mut si = [0; 16];
        si[..8].copy_from_slice(&n.to_be_bytes());
        StorageIndex(si)
    }

    #[test]
    fn what_was_used_lately_or_is_in_hand_is_remembered() {
        let turns = Turns::default();
        let held = turns.of(si(0));
        let early = Arc::downgrade(&turns.of(si(1)));
        for n in 2..40_000 {
            turns.of(si(n));
            turns.of(si(2));
        }
        assert!(Arc::ptr_eq(&held, &turns.of(si(0))));
        assert!(early.upgrade().is_none());
        assert!(turns.0.lock().unwrap().turns.contains_key(&si(2)));
        assert!(turns.0.lock().unwrap().turns.len() <= REMEMBERED);
    }
}
