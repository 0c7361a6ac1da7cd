//! Replay: what the journal held when it was opened becomes what is pending.
//!
//! What cannot be used stays in the journal, and nothing is removed that it may have been moved away from.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::file::Unreadable;
use super::{
    Content, DirId, Entry, FileObject, Key, Parent, Pending, Removed, Seen, State, Target, Writeback, cap_key,
};
use crate::cap::{Cap, StorageIndex};
use crate::journal::{DirRecord, EdgeRecord, FileRecord, Replay, Spare, Staged, Wanted, WantedTarget};
use crate::node::{Attributes, FileType, Freshness, Metadata, Name, NodeError, Readable};
use crate::util::Cx;

type Place = (DirId, Name);

/// A name as its record says, before files are opened.
struct Edge {
    place: Place,
    /// But for what is wanted.
    pending: Pending,
    wanted: Option<(Source, Entry)>,
}

/// Where the target of an entry comes from.
enum Source {
    Entry,
    File(u64),
    /// Of a file, or, where its record is gone, the entry.
    Copied(u64),
}

/// What could not be used.
#[derive(Default)]
struct Lost {
    records: usize,
    /// Where names were lost.
    dirs: HashSet<DirId>,
}

/// Files of the journal, by id.
#[derive(Default)]
struct Files {
    own: HashMap<u64, Arc<FileObject>>,
    /// Those that more than one name or file stands on.
    shared: HashMap<u64, Arc<Spare>>,
    mutable: HashMap<StorageIndex, Arc<FileObject>>,
}

/// Names of one file, by its birth id, that stand on one file of the journal have one object.
type Linked = HashMap<(String, u64), Arc<FileObject>>;

/// How often the files of the journal are needed, and under what they are stored.
#[derive(Default)]
struct Uses {
    count: HashMap<u64, usize>,
    caps: HashMap<u64, Cap>,
}

impl Writeback {
    /// Takes over what the journal held when it was opened. Returns how many records cannot be used: they stay there.
    pub fn restore(&self, replay: Replay) -> usize {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut lost = Lost { records: replay.damaged, ..Lost::default() };
        lost.dirs.extend(replay.damaged_in.iter().map(|dir| DirId(*dir)));
        let mut refused = HashMap::new();
        for (id, record) in &replay.dirs {
            if let Err(error) = self.restore_dir(state, *id, record) {
                tracing::error!(%error, "a directory of the journal cannot be used");
                lost.records += 1;
                refused.extend(record.cap.as_deref().and_then(|cap| Some((*id, parse(cap).ok()?))));
            }
        }
        let mut edges = Vec::new();
        for (dir, name, record) in replay.edges {
            let place = (DirId(dir), Name::from(name));
            match state.read_edge(place.clone(), record, &refused) {
                Ok(edge) => edges.push(edge),
                Err(error) => lost.name(place, &error),
            }
        }
        let mut is_damaged = lost.records > 0;
        let reachable = state.reachable(&edges);
        let (edges, unreachable): (Vec<_>, Vec<_>) = edges.into_iter().partition(|e| reachable.contains(&e.place.0));
        let files = self.restore_files(&replay.files, &edges, is_damaged, &mut lost);
        let (mut names, mut linked) = (Vec::new(), Linked::new());
        for edge in edges {
            match self.fill_in(&files, &mut linked, &edge) {
                Ok(wanted) => names.push((edge.place, Pending { wanted, ..edge.pending })),
                Err(error) => lost.name(edge.place, &error),
            }
        }
        is_damaged |= lost.records > 0;
        names.retain(|(place, pending)| pending.wanted.is_some() || !lost.holds_back(place, pending));
        for (place, pending) in names {
            state.take_over(place, pending);
        }
        state.cut_circles();
        for file in files.mutable.into_values() {
            let name = state.name_of(&file).unwrap_or_default();
            state.next_seq += 1;
            let (first, changed) = (state.next_seq, Instant::now());
            state.contents.push(Content { file, name, first, changed });
        }
        // What the replay itself has touched stands in the journal already.
        state.touched.clear();
        state.is_damaged = is_damaged;
        if is_damaged {
            state.rescued = files.shared.into_values().collect();
        } else {
            state.touched.extend(unreachable.into_iter().map(|edge| Key::Edge(edge.place.0, edge.place.1)));
            drop(self.keep(state));
        }
        for (dir, id) in &replay.linked_in {
            state.local_links.entry(DirId(*dir)).or_default().insert(id.clone());
        }
        drop(guard);
        // Known when the directory gets its cap.
        replay.linked_in.iter().for_each(|(_, id)| self.hold_links(id));
        self.wake();
        lost.records
    }

    fn restore_dir(&self, state: &mut State, id: u64, record: &DirRecord) -> Result<(), NodeError> {
        let cap = record.cap.as_deref().map(parse).transpose()?;
        let unproven = record.unproven.as_deref().map(parse).transpose()?;
        let node = cap.as_ref().map(|cap| self.factory.directory(cap)).transpose()?;
        if let Some(cap) = cap.as_ref().or(unproven.as_ref()) {
            state.by_cap.insert(cap_key(cap), DirId(id));
        }
        let is_new = cap.is_none();
        let id = state.add(DirId(id), node, cap);
        state.recorded.insert(id);
        if let Some(dir) = state.dirs.get_mut(&id) {
            dir.home = record.home.map(DirId);
            dir.unproven = unproven;
            let (attributes, metadata) = (Attributes::new(FileType::Directory), Metadata::default());
            let parent = record.parent.clone();
            dir.parent =
                parent.map(|(parent, name)| Parent { dir: DirId(parent), name: name.into(), attributes, metadata });
            dir.table = is_new.then(Arc::default);
            dir.is_new = is_new;
        }
        Ok(())
    }

    /// Looks for a directory that an earlier process has made and that may not have passed the barrier; returns whether it
    /// is there. Others may have put something into it: it is made anew only if it is lost.
    pub(super) async fn find_again(&self, cx: &Cx, dir: DirId) -> Result<bool, NodeError> {
        let Some(cap) = self.state().dirs.get(&dir).and_then(|d| d.unproven.clone()) else { return Ok(false) };
        let node = self.factory.directory(&cap)?;
        match node.snapshot(cx, Freshness::Newest).await {
            Ok(_) => {}
            Err(error) if error.is_lost() => return Ok(false),
            Err(error) => return Err(error),
        }
        let kept = {
            let mut state = self.state();
            state.is_born(dir, cap, node);
            let expiries = state.expiries;
            state.install(dir, expiries);
            self.keep(&mut state)
        };
        kept.done().await?;
        Ok(true)
    }

    /// Opens the files that `edges` need, and those that belong into mutable ones. The others are forgotten, unless
    /// something that is damaged may have named them.
    fn restore_files(&self, records: &[FileRecord], edges: &[Edge], is_damaged: bool, lost: &mut Lost) -> Files {
        let records = bases_first(records);
        let uses = Uses::of(&records, edges);
        let mut files = Files::default();
        for record in records {
            let count = uses.count.get(&record.id).copied().unwrap_or(0);
            if count == 0 && !record.in_place {
                if !is_damaged {
                    self.journal.forget(record.id);
                }
                continue;
            }
            let restored = if record.in_place {
                self.restore_mutable(record, &mut files)
            } else {
                self.reopen(record, &files).map(|staged| match uses.caps.get(&record.id).filter(|_| count > 1) {
                    Some(cap) => {
                        let node = self.factory.readable(cap).unwrap_or_else(|e| Arc::new(Unreadable(e)));
                        let spare = Spare::new(Arc::new(staged), cap.to_uri(), node);
                        files.shared.insert(record.id, spare);
                    }
                    None => {
                        let cap = uses.caps.get(&record.id).cloned();
                        files.own.insert(record.id, FileObject::stored_before(staged, cap));
                    }
                })
            };
            if let Err(error) = restored {
                tracing::error!(%error, "a file of the journal cannot be used");
                lost.records += 1;
            }
        }
        files
    }

    fn reopen(&self, record: &FileRecord, files: &Files) -> Result<Staged, NodeError> {
        let staged = match record.over.and_then(|over| files.shared.get(&over)) {
            Some(spare) => self.journal.reopen_over(record, spare),
            None => {
                let cap = record.base.as_deref().map(parse).transpose()?;
                let node = cap.as_ref().map(|cap| self.factory.readable(cap)).transpose()?;
                self.journal.reopen_file(record, node)
            }
        };
        staged.map_err(|e| NodeError::Source(e.to_string()))
    }

    /// Opens changes of a mutable file. Records of one file are made one after the other.
    fn restore_mutable(&self, record: &FileRecord, files: &mut Files) -> Result<(), NodeError> {
        let cap = parse(record.base.as_deref().unwrap_or_default())?;
        let si = cap.storage_index().ok_or(NodeError::WrongKind("a mutable file"))?;
        let node = self.factory.writeable(&cap)?;
        let staged = self.journal.reopen_file(record, Some(Arc::clone(&node) as Arc<dyn Readable>));
        let staged = staged.map_err(|e| NodeError::Source(e.to_string()))?;
        let file = FileObject::replayed(staged, cap, node, record.stored.clone(), files.mutable.remove(&si));
        files.mutable.insert(si, file);
        Ok(())
    }

    /// What is wanted under a name.
    fn fill_in(&self, files: &Files, linked: &mut Linked, edge: &Edge) -> Result<Option<Entry>, NodeError> {
        let Some((source, entry)) = &edge.wanted else { return Ok(None) };
        let mut staged = |id: &u64| {
            let over = || {
                let spare = files.shared.get(id)?;
                Some(FileObject::stored_before(self.journal.over_spare(spare), parse(spare.cap()).ok()))
            };
            let file = match (files.own.get(id), &entry.attributes.id) {
                (Some(own), _) => Arc::clone(own),
                (None, None) => over()?,
                (None, Some(birth)) => match linked.get(&(birth.clone(), *id)) {
                    Some(file) => Arc::clone(file),
                    None => {
                        let file = over()?;
                        linked.insert((birth.clone(), *id), Arc::clone(&file));
                        file
                    }
                },
            };
            Some(Target::File(file))
        };
        let target = match (source, &entry.target) {
            (Source::File(id), _) => staged(id).ok_or(NodeError::WrongKind("a file of the journal"))?,
            (Source::Copied(id), stored) => staged(id).unwrap_or_else(|| stored.clone()),
            (Source::Entry, Target::Stored(cap)) if cap.is_mutable() && !cap.is_readonly() => {
                let changed = cap.storage_index().and_then(|si| files.mutable.get(&si));
                changed.map_or_else(|| entry.target.clone(), |file| Target::File(Arc::clone(file)))
            }
            (Source::Entry, target) => target.clone(),
        };
        if let Target::File(file) = &target {
            if file.home().is_some() {
                file.has_many_names();
            }
            file.set_home(edge.place.0);
        }
        Ok(Some(Entry { target, ..entry.clone() }))
    }
}

impl Lost {
    fn name(&mut self, place: Place, error: &NodeError) {
        tracing::error!(name = &*place.1, %error, "what this name stands for in the journal cannot be used");
        self.records += 1;
        self.dirs.insert(place.0);
    }

    /// Whether what is removed there may have been moved to where it was lost.
    fn holds_back(&self, (dir, _): &Place, pending: &Pending) -> bool {
        self.dirs.contains(dir) || pending.after.as_ref().is_some_and(|(to, _)| self.dirs.contains(to))
    }
}

impl Uses {
    /// `records` are [`bases_first`].
    fn of(records: &[&FileRecord], edges: &[Edge]) -> Uses {
        let mut uses = Uses::default();
        for edge in edges {
            match &edge.wanted {
                Some((Source::File(id), _)) => *uses.count.entry(*id).or_default() += 1,
                Some((Source::Copied(id), Entry { target: Target::Stored(cap), .. })) => {
                    *uses.count.entry(*id).or_default() += 1;
                    uses.caps.insert(*id, cap.clone());
                }
                _ => {}
            }
        }
        // Whether a file is needed is known before what it stands on is looked at.
        for record in records.iter().rev().filter(|record| !record.in_place) {
            let is_used = uses.count.contains_key(&record.id);
            let cap = record.base.as_deref().and_then(|cap| parse(cap).ok());
            if let (true, Some(over), Some(cap)) = (is_used, record.over, cap) {
                // Never to be changed, also where no name stands on it.
                *uses.count.entry(over).or_default() += 2;
                uses.caps.insert(over, cap);
            }
        }
        uses
    }
}

impl State {
    fn read_edge(&self, place: Place, record: EdgeRecord, refused: &HashMap<u64, Cap>) -> Result<Edge, NodeError> {
        if !self.dirs.contains_key(&place.0) {
            return Err(NodeError::WrongKind("a directory of the journal"));
        }
        let wanted = record.wanted.map(|wanted| self.read_wanted(wanted, refused)).transpose()?;
        let optional = |cap: &Option<String>| cap.as_deref().map(parse).transpose();
        let removed = |(cap, is_new): &(String, bool)| parse(cap).map(|cap| Removed { cap, is_new: *is_new });
        let now = Instant::now();
        let pending = Pending {
            wanted: None,
            first: record.first,
            seq: record.seq,
            since: now,
            changed: now,
            rides_along: record.rides_along,
            base: optional(&record.base)?,
            tried: record.tried.iter().map(|cap| parse(cap)).collect::<Result<_, _>>()?,
            older: record.older.iter().map(optional).collect::<Result<_, _>>()?,
            removed: record.removed.iter().map(removed).collect::<Result<_, _>>()?,
            after: record.after.map(|(dir, name)| (DirId(dir), Name::from(name))),
            kept_file: match &wanted {
                Some((Source::File(id) | Source::Copied(id), _)) => Some(*id),
                _ => None,
            },
        };
        Ok(Edge { place, pending, wanted })
    }

    fn read_wanted(&self, wanted: Wanted, refused: &HashMap<u64, Cap>) -> Result<(Source, Entry), NodeError> {
        // Of a file of its own the target is filled in later.
        let (source, target) = match wanted.target {
            WantedTarget::Cap(cap) => (Source::Entry, Target::Stored(parse(&cap)?)),
            WantedTarget::Copied(cap, id) => (Source::Copied(id), Target::Stored(parse(&cap)?)),
            WantedTarget::File(id) => (Source::File(id), Target::Directory(DirId(id))),
            WantedTarget::Directory(id) => match (self.dirs.contains_key(&DirId(id)), refused.get(&id)) {
                (true, _) => (Source::Entry, Target::Directory(DirId(id))),
                (false, Some(cap)) => (Source::Entry, Target::Stored(cap.clone())),
                (false, None) => return Err(NodeError::WrongKind("a directory of the journal")),
            },
        };
        let seen = Seen { cap: wanted.seen.as_deref().map(parse).transpose()?, at: wanted.seen_at };
        Ok((source, Entry { target, attributes: wanted.attributes, metadata: wanted.metadata, seen }))
    }

    /// The directories that are or may be on the grid, and those that will be there once these names are published. What is in others was
    /// removed with them.
    fn reachable(&self, edges: &[Edge]) -> HashSet<DirId> {
        let mut below: HashMap<DirId, Vec<DirId>> = HashMap::new();
        for edge in edges {
            if let Some((Source::Entry, Entry { target: Target::Directory(child), .. })) = &edge.wanted {
                below.entry(edge.place.0).or_default().push(*child);
            }
        }
        let on_grid = self.dirs.iter().filter(|(_, d)| d.cap.is_some() || d.unproven.is_some()).map(|(id, _)| *id);
        let mut to_do: VecDeque<DirId> = on_grid.collect();
        let mut found = HashSet::new();
        while let Some(dir) = to_do.pop_front() {
            if found.insert(dir) {
                to_do.extend(below.get(&dir).into_iter().flatten());
            }
        }
        found
    }

    fn take_over(&mut self, place: Place, pending: Pending) {
        self.next_seq = self.next_seq.max(pending.seq);
        if let Some(to) = &pending.after {
            self.waiting_for.entry(to.clone()).or_default().push(place.clone());
        }
        if let Some(d) = self.dirs.get_mut(&place.0) {
            d.put(place.1, pending);
        }
    }

    /// Names that wait for each other would wait for ever.
    fn cut_circles(&mut self) {
        let waiting: Vec<Place> = self.waiting_for.values().flatten().cloned().collect();
        for place in waiting {
            let mut seen = HashSet::from([place.clone()]);
            let mut at = place.clone();
            while let Some(next) = self.dirs.get(&at.0).and_then(|d| d.pending.get(&at.1)?.after.clone()) {
                if !seen.insert(next.clone()) {
                    if let Some(pending) = self.dirs.get_mut(&place.0).and_then(|d| d.pending.get_mut(&place.1)) {
                        pending.after = None;
                    }
                    break;
                }
                at = next;
            }
        }
    }
}

/// The records with what a file stands on before it, which may have a lower or a higher id: a file goes on as another.
fn bases_first(records: &[FileRecord]) -> Vec<&FileRecord> {
    let by_id: HashMap<u64, &FileRecord> = records.iter().map(|record| (record.id, record)).collect();
    let (mut placed, mut order) = (HashSet::new(), Vec::with_capacity(records.len()));
    for record in records {
        // From this one down to what is in its place already.
        let mut chain = Vec::new();
        let mut next = Some(record);
        while let Some(record) = next.filter(|record| placed.insert(record.id)) {
            chain.push(record);
            next = record.over.and_then(|over| by_id.get(&over).copied());
        }
        order.extend(chain.into_iter().rev());
    }
    order
}

fn parse(cap: &str) -> Result<Cap, NodeError> {
    Ok(Cap::parse(cap)?)
}
