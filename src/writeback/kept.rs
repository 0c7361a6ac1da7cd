//! What the engine keeps in the journal: records of what is pending, until the grid has it and has passed its barrier.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::{Content, DirId, Entry, FileObject, Pending, Seen, State, Target, Writeback, cap_key};
use crate::cap::Cap;
use crate::journal::{Batch, Commit, DirRecord, EdgeRecord, FileRecord, JournalError, Replay, Wanted, WantedTarget};
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

/// What has a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Dir(DirId),
    Edge(DirId, Name),
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
        let mut keys: HashSet<Key> = std::mem::take(&mut state.touched);
        state.lagging.retain(|key| !keys.contains(key));
        keys.extend(self.unkept.lock().unwrap_or_else(|e| e.into_inner()).drain());
        if keys.is_empty() {
            return Kept(None);
        }
        let mut batch = Batch::new();
        for key in &keys {
            match key {
                Key::Dir(dir) => state.record_dir(*dir, &mut batch, true),
                Key::Edge(dir, name) => state.record_edge(*dir, name, &mut batch),
            }
        }
        let commit = self.journal.enqueue(batch);
        Kept(Some(Sent { commit, keys: keys.into_iter().collect(), unkept: Arc::clone(&self.unkept) }))
    }

    /// Waits for the barrier of the grid, as far as the servers promise, and removes the records of what is published.
    pub async fn barrier(&self) -> Result<(), NodeError> {
        let cx = self.base.with_priority(Priority::Waiting);
        self.retire(&cx).await
    }

    /// Removes the records of what is published, once that has passed the barrier.
    pub(super) async fn retire(&self, cx: &Cx) -> Result<(), NodeError> {
        let _one = self.retiring.lock().await;
        self.release_settled();
        // In this order: the names of a file that nobody needs any more are retired or removed by then.
        let files = self.journal.take_forgotten();
        let (names, born) = {
            let mut state = self.state();
            let has_leftovers = !state.recorded.is_empty() && state.pending().next().is_none();
            if files.is_empty() && state.retired.is_empty() && state.born.is_empty() && !has_leftovers {
                return Ok(());
            }
            (std::mem::take(&mut state.retired), state.born.clone())
        };
        crash_point("writeback.retire.barrier");
        if let Err(error) = cx.run(self.factory.sync(cx)).await.unwrap_or_else(|e| Err(e.into())) {
            files.into_iter().for_each(|file| self.journal.forget(file));
            self.state().retired.extend(names);
            return Err(error);
        }
        let commit = {
            let mut state = self.state();
            let mut batch = Batch::new();
            // Before the records of what is in them go.
            for dir in born {
                state.born.remove(&dir);
                state.record_dir(dir, &mut batch, true);
            }
            for (dir, name) in &names {
                if state.dirs.get(dir).is_none_or(|d| !d.pending.contains_key(name)) {
                    batch.remove_edge(dir.0, name);
                }
            }
            files.iter().for_each(|file| batch.remove_file(*file));
            if state.retired.is_empty() && state.pending().next().is_none() {
                state.recorded.drain().for_each(|dir| batch.remove_dir(dir.0));
            }
            self.journal.enqueue(batch)
        };
        let removed = commit.done().await;
        crash_point("writeback.retire.removed");
        // Records that stay are published once more after a restart, which changes nothing.
        Ok(removed?)
    }

    /// Lets go of staged contents that are stored. What is still needed, or in use right now, is looked at again the
    /// next time.
    fn release_settled(&self) {
        let mut state = self.state();
        let settled = std::mem::take(&mut state.settled);
        if settled.is_empty() {
            return;
        }
        let wanted: HashSet<_> = state.pending().filter_map(|p| p.file().map(Arc::as_ptr)).collect();
        let rest = settled.into_iter().filter(|file| {
            let is_free = !file.is_mutable() && !wanted.contains(&Arc::as_ptr(file)) && Arc::strong_count(file) > 1;
            is_free && (file.is_held() || !file.release(&*self.factory))
        });
        state.settled = rest.collect();
    }

    /// Takes over what the journal held when it was opened.
    ///
    /// # Errors
    /// Nothing of it is lost by one: the records stay.
    pub fn restore(&self, replay: Replay) -> Result<(), NodeError> {
        let mut state = self.state();
        for (id, record) in &replay.dirs {
            let cap = record.cap.as_deref().map(parse).transpose()?;
            let node = cap.as_ref().map(|cap| self.factory.directory(cap)).transpose()?;
            if let Some(cap) = &cap {
                state.by_cap.insert(cap_key(cap), DirId(*id));
            }
            let is_new = cap.is_none();
            let id = state.add(DirId(*id), node, cap);
            state.recorded.insert(id);
            if let Some(dir) = state.dirs.get_mut(&id) {
                dir.home = record.home.map(DirId);
                dir.table = is_new.then(Arc::default);
            }
        }
        let mut files = HashMap::new();
        for record in &replay.files {
            if let Some(file) = self.reopen(record)? {
                files.insert(record.id, file);
            }
        }
        for (dir, name, record) in replay.edges {
            state.replay(DirId(dir), name.into(), record, &files)?;
        }
        for file in files.into_values().filter(|file| file.is_mutable()) {
            let named =
                state.pending_places().find(|(_, _, p)| p.file().is_some_and(|other| Arc::ptr_eq(other, &file)));
            let name = named.map_or_else(|| Name::from(""), |(_, name, _)| Arc::clone(name));
            state.next_seq += 1;
            let (first, changed) = (state.next_seq, Instant::now());
            state.contents.push(Content { file, name, first, changed });
        }
        // What the replay itself has touched stands in the journal already.
        state.touched.clear();
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The file behind a record; `None` where nothing of it is to be stored.
    fn reopen(&self, record: &FileRecord) -> Result<Option<Arc<FileObject>>, NodeError> {
        let cap = record.base.as_deref().map(parse).transpose()?;
        let node = cap.as_ref().map(|cap| self.factory.readable(cap)).transpose()?;
        let staged = self.journal.reopen_file(record, node.clone());
        let staged = staged.map_err(|e| NodeError::Source(e.to_string()))?;
        match (cap, node) {
            (Some(_), _) if record.in_place && record.stored.is_some() => Ok(None),
            (Some(cap), Some(node)) if record.in_place => {
                let file = FileObject::mutable_with(staged, node);
                file.empower(cap.clone(), self.factory.writeable(&cap)?);
                Ok(Some(file))
            }
            _ => Ok(Some(FileObject::new(staged, None))),
        }
    }
}

fn parse(cap: &str) -> Result<Cap, NodeError> {
    Ok(Cap::parse(cap)?)
}

impl State {
    /// All that is pending.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.pending_places().map(|(_, _, pending)| pending)
    }

    pub(super) fn pending_places(&self) -> impl Iterator<Item = (DirId, &Name, &Pending)> {
        self.dirs.iter().flat_map(|(id, d)| d.pending.iter().map(|(name, p)| (*id, name, p)))
    }

    /// Puts the record of a directory, where there is none or it is `changed`.
    fn record_dir(&mut self, dir: DirId, batch: &mut Batch, changed: bool) {
        let Some(d) = self.dirs.get(&dir) else { return };
        let is_new = !self.recorded.contains(&dir);
        // One that has no record yet gets it with the first that names it.
        if is_new == changed {
            return;
        }
        self.recorded.insert(dir);
        // One that has not passed the barrier may be gone after power loss: it is made anew then.
        let cap = d.cap.as_ref().filter(|_| !self.born.contains(&dir)).map(Cap::to_uri);
        batch.put_dir(dir.0, DirRecord { cap, home: d.home.map(|home| home.0) });
    }

    fn record_edge(&mut self, dir: DirId, name: &Name, batch: &mut Batch) {
        let Some(pending) = self.dirs.get(&dir).and_then(|d| d.pending.get(name)) else {
            return batch.remove_edge(dir.0, name);
        };
        let wanted = pending.wanted.as_ref().map(|entry| {
            let target = match &entry.target {
                Target::Directory(child) => WantedTarget::Directory(child.0),
                Target::Stored(cap) => WantedTarget::Cap(cap.to_uri()),
                Target::File(file) => match (file.record(), file.stored().or_else(|| file.write_cap())) {
                    (None, Some(cap)) => WantedTarget::Cap(cap.to_uri()),
                    (id, _) => WantedTarget::File(id.unwrap_or_default()),
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
            after: pending.after.as_ref().map(|(dir, name)| (dir.0, name.to_string())),
            first: pending.first,
            seq: pending.seq,
            rides_along: pending.rides_along,
        };
        let kept_file = pending.file().and_then(|file| file.record());
        named.into_iter().flatten().for_each(|dir| self.record_dir(dir, batch, false));
        batch.put_edge(dir.0, name, record);
        if let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(name)) {
            pending.kept_file = kept_file;
        }
    }

    fn replay(
        &mut self,
        dir: DirId,
        name: Name,
        record: EdgeRecord,
        files: &HashMap<u64, Arc<FileObject>>,
    ) -> Result<(), NodeError> {
        let wanted = match record.wanted {
            None => None,
            Some(wanted) => {
                let target = match wanted.target {
                    WantedTarget::Cap(cap) => Some(Target::Stored(parse(&cap)?)),
                    WantedTarget::Directory(id) => {
                        Some(DirId(id)).filter(|id| self.dirs.contains_key(id)).map(Target::Directory)
                    }
                    WantedTarget::File(id) => files.get(&id).map(|file| Target::File(Arc::clone(file))),
                };
                let Some(target) = target else {
                    tracing::error!(name = &*name, "what this name stands for in the journal cannot be read");
                    return Ok(());
                };
                let seen = Seen { cap: wanted.seen.as_deref().map(parse).transpose()?, at: wanted.seen_at };
                Some(Entry { target, attributes: wanted.attributes, metadata: wanted.metadata, seen })
            }
        };
        if let Some(Target::File(file)) = wanted.as_ref().map(|entry| &entry.target) {
            file.set_home(dir);
        }
        let after = record.after.map(|(dir, name)| (DirId(dir), Name::from(name)));
        let place = (dir, Arc::clone(&name));
        let now = Instant::now();
        let pending = Pending {
            wanted,
            first: record.first,
            seq: record.seq,
            since: now,
            changed: now,
            rides_along: record.rides_along,
            base: record.base.as_deref().map(parse).transpose()?,
            tried: record.tried.iter().map(|cap| parse(cap)).collect::<Result<_, _>>()?,
            after: after.clone(),
            kept_file: None,
        };
        self.next_seq = self.next_seq.max(record.seq);
        if let Some(d) = self.dirs.get_mut(&dir) {
            d.put(name, pending);
            if let Some(to) = after {
                self.waiting_for.entry(to).or_default().push(place);
            }
        }
        Ok(())
    }
}
