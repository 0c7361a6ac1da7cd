//! What the engine keeps in the journal: records of what is pending, until the grid has it and has passed its barrier.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::spares::Spares;
use super::{Dir, DirId, Entry, FileObject, Pending, State, Target, Writeback};
use crate::cap::Cap;
use crate::journal::{Batch, Commit, DirRecord, EdgeRecord, JournalError, Wanted, WantedTarget};
use crate::node::{Name, NodeError};
use crate::util::{Cx, Priority, crash_point};

/// The crash points of this room: each stands between two durable steps.
pub const CRASH_POINTS: &[&str] = &[
    "writeback.upload.begun",
    "writeback.upload.done",
    "writeback.in_place.written",
    "writeback.birth.recorded",
    "writeback.birth.made",
    "writeback.publish.recorded",
    "writeback.publish.made",
    "writeback.publish.noted",
    "writeback.rename.linked",
    "writeback.retire.barrier",
    "writeback.retire.removed",
];

/// Caps of a name that are remembered while no barrier passes.
const OLDER: usize = 32;

/// What has a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Dir(DirId),
    Edge(DirId, Name),
    Link(String),
}

/// A published name, which has not passed the barrier.
pub(super) struct Retired {
    /// When it was published, in changes submitted.
    at: u64,
    /// The record of the content that its record names, and cannot do without.
    kept_file: Option<u64>,
    /// What may stand there again after power loss.
    pub older: Vec<Option<Cap>>,
}

impl Pending {
    /// What may stand there now may stand there after power loss, before the barrier has passed.
    pub(super) fn note_older(&mut self) {
        let now = std::iter::once(self.base.clone()).chain(self.tried.iter().cloned().map(Some));
        for cap in now {
            if !self.older.contains(&cap) {
                self.older.push(cap);
            }
        }
        // The first is the likeliest, then the newest.
        let excess = self.older.len().saturating_sub(OLDER);
        self.older.drain(1..1 + excess);
    }
}

/// What the journal could not be told; it is told again with whatever comes next.
pub(super) type Unkept = Mutex<HashSet<Key>>;

/// Changes on their way into the journal. Dropping it does not take them back.
#[must_use = "the changes may not have been kept"]
pub struct Kept(Option<Sent>);

struct Sent {
    commit: Commit,
    keys: Vec<Key>,
    unkept: Arc<Unkept>,
}

impl Kept {
    /// Waits until the changes survive the end of the process.
    ///
    /// # Errors
    /// The journal cannot be written. The changes show nevertheless, and are kept with the next that are.
    pub async fn done(self) -> Result<(), JournalError> {
        let Some(Sent { commit, keys, unkept }) = self.0 else { return Ok(()) };
        commit.done().await.inspect_err(|_| unkept.lock().unwrap_or_else(|e| e.into_inner()).extend(keys))
    }
}

impl Writeback {
    /// Tells the journal what was touched. The order in which this is called, with the state locked, is that in which
    /// it comes to pass.
    pub(super) fn keep(&self, state: &mut State) -> Kept {
        let mut batch = Batch::new();
        let keys = self.tell(state, &mut batch);
        if keys.is_empty() {
            return Kept(None);
        }
        let commit = self.journal.enqueue(batch);
        Kept(Some(Sent { commit, keys: keys.into_iter().collect(), unkept: Arc::clone(&self.unkept) }))
    }

    pub(super) fn unkept(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.unkept.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Puts into a batch what was touched, and what could not be told before.
    fn tell(&self, state: &mut State, batch: &mut Batch) -> HashSet<Key> {
        let mut keys: HashSet<Key> = std::mem::take(&mut state.touched);
        keys.extend(self.unkept().drain());
        for key in &keys {
            state.lagging.remove(key);
            match key {
                Key::Dir(dir) => state.record_dir(*dir, batch, true),
                Key::Edge(dir, name) => state.record_edge(*dir, name, batch, &self.spares),
                Key::Link(id) => state.record_links(id, batch),
            }
        }
        keys
    }

    /// Waits for the barrier of the grid, as far as the servers promise, and removes the records of what is published.
    pub async fn barrier(&self) -> Result<(), NodeError> {
        let cx = self.base.with_priority(Priority::Waiting);
        self.retire(&cx).await
    }

    /// Removes the records of what is published, once that has passed the barrier.
    pub(super) async fn retire(&self, cx: &Cx) -> Result<(), NodeError> {
        let _one = self.retiring.lock().await;
        // In this order: what named a file that nobody needs any more is told to the journal by then.
        let mut files = self.journal.take_forgotten();
        let spares = self.spares.all();
        let (names, born) = {
            let state = self.state();
            let nothing = files.is_empty() && spares.is_empty() && state.retired.is_empty() && state.born.is_empty();
            if nothing && !state.has_leftovers() {
                return Ok(());
            }
            let names: Vec<_> = state.retired.iter().map(|(place, retired)| (place.clone(), retired.at)).collect();
            (names, state.born.clone())
        };
        crash_point("writeback.retire.barrier");
        if let Err(error) = cx.run(self.factory.sync(cx)).await.unwrap_or_else(|e| Err(e.into())) {
            files.into_iter().for_each(|file| self.journal.forget(file));
            return Err(error);
        }
        let (commit, keys, gone, known) = {
            let mut state = self.state();
            let mut batch = Batch::new();
            // Those that were published anew meanwhile stay.
            let mut gone = HashMap::new();
            for (place, at) in names {
                if state.retired.get(&place).is_some_and(|retired| retired.at == at) {
                    gone.extend(state.retired.remove_entry(&place));
                }
            }
            let needed: HashSet<u64> = state.retired.values().filter_map(|retired| retired.kept_file).collect();
            let lifted = self.spares.lift(&spares, &needed);
            for file in self.journal.take_forgotten() {
                if lifted.contains(&file) { files.push(file) } else { self.journal.forget(file) }
            }
            files.retain(|file| {
                let is_needed = needed.contains(file);
                if is_needed {
                    self.journal.forget(*file);
                }
                !is_needed
            });
            // What names a file that goes names its cap from now on.
            let naming = state.naming(&files.iter().copied().collect());
            state.touched.extend(naming);
            let mut keys = self.tell(&mut state, &mut batch);
            // Before the records of what is in them go.
            for dir in &born {
                state.born.remove(dir);
                state.record_dir(*dir, &mut batch, true);
                keys.extend(state.record_links_in(*dir, &mut batch).into_iter().map(Key::Link));
            }
            for (dir, name) in gone.keys() {
                if state.dirs.get(dir).is_none_or(|d| !d.pending.contains_key(name)) {
                    batch.remove_edge(dir.0, name);
                }
            }
            files.iter().for_each(|file| batch.remove_file(*file));
            let mut known = HashSet::new();
            if state.retired.is_empty() && state.has_leftovers() {
                known = std::mem::take(&mut state.recorded);
                known.iter().for_each(|dir| batch.remove_dir(dir.0));
            }
            (self.journal.enqueue(batch), keys, gone, known)
        };
        let removed = commit.done().await;
        if removed.is_err() {
            // Nothing of that is in the journal: it is to be done still.
            let mut state = self.state();
            for (place, retired) in gone {
                state.retired.entry(place).or_insert(retired);
            }
            state.born.extend(born);
            state.recorded.extend(known);
            files.into_iter().for_each(|file| self.journal.forget(file));
            self.unkept().extend(keys);
        }
        crash_point("writeback.retire.removed");
        // Records that stay are published once more after a restart, which changes nothing.
        Ok(removed?)
    }
}

impl State {
    /// All that is pending.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.pending_places().map(|(_, _, pending)| pending)
    }

    pub(super) fn pending_places(&self) -> impl Iterator<Item = (DirId, &Name, &Pending)> {
        self.dirs.iter().flat_map(|(id, d)| d.pending.iter().map(|(name, p)| (*id, name, p)))
    }

    /// A name under which `file` is wanted and not published.
    pub(super) fn name_of(&self, file: &Arc<FileObject>) -> Option<Name> {
        self.places_of(file).next().map(|(_, name)| Arc::clone(name))
    }

    fn places_of(&self, file: &Arc<FileObject>) -> impl Iterator<Item = (DirId, &Name)> {
        let wants = |p: &Pending| p.file().is_some_and(|other| Arc::ptr_eq(other, file));
        self.pending_places().filter(move |(_, _, p)| wants(p)).map(|(dir, name, _)| (dir, name))
    }

    /// The records of all names under which `file` is wanted are to be made anew.
    pub(super) fn touch_names_of(&mut self, file: &Arc<FileObject>) {
        let keys: Vec<_> = self.places_of(file).map(|(dir, name)| Key::Edge(dir, Arc::clone(name))).collect();
        self.touched.extend(keys);
    }

    /// Whether there is nothing but records of directories left to go.
    pub(super) fn has_leftovers(&self) -> bool {
        !self.recorded.is_empty() && !self.is_damaged && self.pending().next().is_none()
    }

    /// The names whose records cannot do without one of these files.
    fn naming(&self, files: &HashSet<u64>) -> Vec<Key> {
        let names = |p: &Pending| p.kept_file.is_some_and(|file| files.contains(&file));
        let of = |(dir, d): (&DirId, &Dir)| {
            let named = d.pending.iter().filter(|(_, p)| names(p));
            named.map(|(name, _)| Key::Edge(*dir, Arc::clone(name))).collect::<Vec<_>>()
        };
        self.dirs.iter().flat_map(of).collect()
    }

    /// A name is published, as `pending` wanted it: its record goes after the next barrier.
    pub(super) fn retire(&mut self, place: (DirId, Name), mut pending: Pending) {
        self.next_seq += 1;
        pending.note_older();
        let retired = Retired { at: self.next_seq, kept_file: pending.kept_file, older: pending.older };
        self.retired.insert(place, retired);
    }

    /// Puts the record of a directory, where there is none or it is `changed`.
    pub(super) fn record_dir(&mut self, dir: DirId, batch: &mut Batch, changed: bool) {
        let Some(d) = self.dirs.get(&dir) else { return };
        let is_new = !self.recorded.contains(&dir);
        // One that has no record yet gets it with the first that names it.
        if is_new == changed {
            return;
        }
        self.recorded.insert(dir);
        // One that has not passed the barrier may be gone after power loss: it is made anew then.
        let cap = d.cap.as_ref().filter(|_| !self.born.contains(&dir)).map(Cap::to_uri);
        let parent = d.parent.as_ref().map(|parent| (parent.dir, parent.name.to_string()));
        let unproven = d.unproven.as_ref().filter(|_| cap.is_none()).map(Cap::to_uri);
        let record = DirRecord {
            cap,
            unproven,
            home: d.home.map(|home| home.0),
            parent: parent.as_ref().map(|(parent, name)| (parent.0, name.clone())),
        };
        batch.put_dir(dir.0, record);
        // It may have to be named again, and so on upwards.
        if let Some((parent, _)) = parent {
            self.record_dir(parent, batch, false);
        }
    }

    fn record_edge(&mut self, dir: DirId, name: &Name, batch: &mut Batch, spares: &Spares) {
        let Some(pending) = self.dirs.get(&dir).and_then(|d| d.pending.get(name)) else {
            // The record of what is published stays until that has passed the barrier.
            if !self.retired.contains_key(&(dir, Arc::clone(name))) {
                batch.remove_edge(dir.0, name);
            }
            return;
        };
        let stored = |cap: &Cap, record: Option<u64>| match record {
            Some(id) => WantedTarget::Copied(cap.to_uri(), id),
            None => WantedTarget::Cap(cap.to_uri()),
        };
        let wanted = pending.wanted.as_ref().map(|entry| {
            let target = match &entry.target {
                Target::Directory(child) => WantedTarget::Directory(child.0),
                Target::Stored(cap) => stored(cap, spares.get(cap).and_then(|spare| spare.id())),
                Target::File(file) => match (file.write_cap(), file.stored(), file.record()) {
                    // Its content has a record of its own.
                    (Some(cap), ..) => stored(&cap, None),
                    (None, Some(cap), id) => stored(&cap, id),
                    (None, None, id) => WantedTarget::File(id.unwrap_or_default()),
                },
            };
            Wanted {
                target,
                attributes: entry.attributes.clone(),
                metadata: entry.metadata.clone(),
                seen: entry.seen.cap.as_ref().map(Cap::to_uri),
                seen_at: entry.seen.at,
            }
        });
        let named = [
            Some(dir),
            pending.after.as_ref().map(|(dir, _)| *dir),
            match &pending.wanted {
                Some(Entry { target: Target::Directory(child), .. }) => Some(*child),
                _ => None,
            },
        ];
        let record = EdgeRecord {
            wanted,
            base: pending.base.as_ref().map(Cap::to_uri),
            tried: pending.tried.iter().map(Cap::to_uri).collect(),
            older: pending.older.iter().map(|cap| cap.as_ref().map(Cap::to_uri)).collect(),
            removed: pending.removed.iter().map(|removed| (removed.cap.to_uri(), removed.is_new)).collect(),
            after: pending.after.as_ref().map(|(dir, name)| (dir.0, name.to_string())),
            first: pending.first,
            seq: pending.seq,
            rides_along: pending.rides_along,
        };
        let kept_file = match record.wanted.as_ref().map(|wanted| &wanted.target) {
            Some(WantedTarget::File(id)) => Some(*id),
            _ => None,
        };
        named.into_iter().flatten().for_each(|dir| self.record_dir(dir, batch, false));
        batch.put_edge(dir.0, name, record);
        if let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(name)) {
            pending.kept_file = kept_file;
        }
    }
}
