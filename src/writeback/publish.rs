//! Publishing: uploads first, then one edit list for each directory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

use super::{DirId, Key, LONGEST_CHAIN, Pending, Seen, State, Target, Writeback, cap_key};
use crate::cap::Cap;
use crate::node::{Directory, Edit, EditOutcome, Freshness, Metadata, Name, NodeError};
use crate::util::{Cx, crash_point};

use super::file::FileObject;
use super::merge::Merged;
use super::part::Needs;
use super::queue::Subject;
use super::reach::{After, Before};

/// Files that are uploaded at the same time for one directory.
pub(super) const PARALLEL_UPLOADS: usize = 8;
/// Directories that are made at the same time in one.
const PARALLEL_BIRTHS: usize = 4;

/// One publish of a directory at a time.
type PublishLock = Arc<tokio::sync::Mutex<()>>;

/// Which files are uploaded although somebody has them open for writing.
#[derive(Clone)]
pub(super) enum Force {
    /// None; and no file at all is uploaded here.
    Stored,
    /// These alone.
    Files(Vec<Arc<FileObject>>),
    /// This one.
    File(Arc<FileObject>),
    /// All.
    Everything,
    /// What somebody needs; no others are uploaded, and no other directories made.
    Needed(Arc<Needs>),
    /// As before, and no file at all is uploaded here.
    NeededStored(Arc<Needs>),
}

impl Force {
    fn takes(&self, dir: DirId, name: &Name, file: &Arc<FileObject>) -> bool {
        let is_ready = || file.stored().is_some() && !file.is_held();
        match self {
            Force::Stored | Force::NeededStored(_) => is_ready(),
            Force::Needed(needs) => needs.has(dir, name) || is_ready(),
            Force::Files(forced) => !file.is_held() || forced.iter().any(|forced| Arc::ptr_eq(forced, file)),
            Force::File(forced) => Arc::ptr_eq(forced, file) || !file.is_held(),
            Force::Everything => true,
        }
    }

    /// Whether somebody waits for this file, and must hear if it could not be stored.
    fn concerns(&self, file: &Arc<FileObject>) -> bool {
        match self {
            Force::File(forced) => Arc::ptr_eq(forced, file),
            _ => true,
        }
    }

    /// Whether what is pending under a name is to be published, at the price of other publishes.
    pub(super) fn needs(&self, dir: DirId, name: &Name) -> bool {
        match self {
            Force::Needed(needs) | Force::NeededStored(needs) => needs.has(dir, name),
            Force::Stored | Force::Files(_) | Force::File(_) | Force::Everything => true,
        }
    }
}

/// An edit under way, and what it was made from.
pub(super) struct Attempt {
    pub name: Name,
    seq: u64,
    pub tried: Option<Cap>,
    edit: Edit,
    /// The oldest change that is in it.
    pub first: u64,
    /// Something is put there that was not.
    pub adds: bool,
}

/// A name that stands as it is wanted already.
pub(super) struct Satisfied {
    pub name: Name,
    cap: Cap,
    seq: u64,
    first: u64,
    /// It does so because this mount has put something there.
    pub adds: bool,
}

/// What a publish did.
pub(super) struct Done {
    pub attempts: Vec<(Attempt, EditOutcome)>,
    pub satisfied: Vec<Satisfied>,
    /// See [`State::install`].
    expiries: u64,
}

impl Done {
    fn is_empty(&self) -> bool {
        self.attempts.is_empty() && self.satisfied.is_empty()
    }

    /// The names that stand as they were wanted.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.applied().map(|attempt| &attempt.name).chain(self.satisfied.iter().map(|satisfied| &satisfied.name))
    }

    /// What stands on the grid as it was wanted.
    pub fn applied(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|(_, outcome)| matches!(outcome, EditOutcome::Applied)).map(|(attempt, _)| attempt)
    }
}

/// A file that was stored as it stood when `seq` was its newest change. It may have changed since.
struct Upload {
    file: Arc<FileObject>,
    cap: Cap,
    seq: u64,
}

impl Writeback {
    /// Publishes what is pending in a directory that is on the grid. With `links_only` whatever must wait for another
    /// directory is left out.
    pub(super) fn publish<'a>(
        &'a self,
        cx: &'a Cx,
        dir: DirId,
        force: &'a Force,
        links_only: bool,
    ) -> BoxFuture<'a, Result<(), NodeError>> {
        Box::pin(async move {
            let emptied = if links_only { Ok(()) } else { self.empty_first(cx, dir, force).await };
            self.publish_this(cx, dir, force, links_only).await.and(emptied)
        })
    }

    /// As [`Writeback::publish`]; directories that are about to go and have pending changes stay.
    pub(super) fn publish_this<'a>(
        &'a self,
        cx: &'a Cx,
        dir: DirId,
        force: &'a Force,
        links_only: bool,
    ) -> BoxFuture<'a, Result<(), NodeError>> {
        Box::pin(async move {
            let (uploaded, resolved) = self.resolve(cx, dir, force).await;
            let mut result = resolved;
            if !links_only {
                for place in self.places_to_link_first(dir, force) {
                    // What waits for that stays; the rest goes.
                    match self.publish_links(cx, place, force).await {
                        // Noted there. The file itself does not wait for it.
                        Err(_) if matches!(force, Force::File(_)) => {}
                        linked => result = result.and(linked),
                    }
                    crash_point("writeback.rename.linked");
                }
            }
            let Some((_, publishing)) = self.node_of(dir) else { return result };
            let _one = publishing.lock().await;
            let Some((node, _)) = self.node_of(dir) else { return result };
            match self.send(cx, dir, &*node, force, links_only, &uploaded).await {
                Ok(()) => self.solved(Subject::Directory(dir)),
                Err(error) => {
                    self.note_failure(Subject::Directory(dir), "", &error);
                    return Err(error);
                }
            }
            result
        })
    }

    /// Sends the edits that can be made now, in one publish.
    async fn send(
        &self,
        cx: &Cx,
        dir: DirId,
        node: &dyn Directory,
        force: &Force,
        links_only: bool,
        uploaded: &[Upload],
    ) -> Result<(), NodeError> {
        let (is_unseen, is_doubtful) = {
            let state = self.state();
            state.dirs.get(&dir).map_or((false, false), |d| (d.table.is_none(), d.is_doubtful))
        };
        if is_unseen {
            self.load(cx, dir, Freshness::Cached).await?;
        } else if is_doubtful {
            self.newest(cx, dir).await?;
        }
        let before = self.look_before(cx, dir, force, links_only).await;
        let (attempts, satisfied, kept) = {
            let mut state = self.state();
            let (attempts, satisfied) = state.attempts(dir, force, links_only, uploaded, &before);
            (attempts, satisfied, self.keep(&mut state))
        };
        // What is tried is known after a crash: then it is no other client's.
        kept.done().await?;
        let expiries = self.state().expiries;
        let mut outcomes = Vec::new();
        if !attempts.is_empty() {
            // What the new table names may have shares that power loss takes, and takes the place of what had none: the
            // records from which they are stored again must outlive it.
            self.journal.barrier().await?;
            crash_point("writeback.publish.recorded");
            let edits: Vec<Edit> = attempts.iter().map(|a| a.edit.clone()).collect();
            outcomes = node.modify(cx, &edits).await.inspect_err(|_| {
                if let Some(d) = self.state().dirs.get_mut(&dir) {
                    d.is_doubtful = true;
                }
            })?;
            tracing::info!(storage_index = ?node.storage_index(), changes = edits.len(), "published a directory");
            crash_point("writeback.publish.made");
        }
        let done = Done { attempts: attempts.into_iter().zip(outcomes).collect(), satisfied, expiries };
        let mut error = before.error.clone();
        if !done.is_empty() {
            let after = self.look_after(cx, dir, &before, &done).await;
            let merged = self.merge_all(cx, dir, &done.attempts).await;
            error = error.or_else(|| after.error.clone()).or_else(|| merged.error.clone());
            self.reconcile(dir, done, after, merged).await?;
            crash_point("writeback.publish.noted");
        }
        error.map_or(Ok(()), Err)
    }

    pub(super) fn node_of(&self, dir: DirId) -> Option<(Arc<dyn Directory>, PublishLock)> {
        let state = self.state();
        let d = state.dirs.get(&dir)?;
        Some((d.node.clone()?, Arc::clone(&d.publishing)))
    }

    /// Gives every child that is not on the grid a cap: uploads files, makes directories. Goes on after a failure, which
    /// is handed back where it concerns who waits.
    async fn resolve(&self, cx: &Cx, dir: DirId, force: &Force) -> (Vec<Upload>, Result<(), NodeError>) {
        let (mut files, mut dirs) = (Vec::new(), Vec::new());
        {
            let state = self.state();
            let Some(d) = state.dirs.get(&dir) else { return (Vec::new(), Ok(())) };
            for (name, pending) in &d.pending {
                match pending.wanted.as_ref().map(|e| &e.target) {
                    Some(Target::File(file)) if file.stored().is_none() && force.takes(dir, name, file) => {
                        if !force.concerns(file) && self.options.ephemeral.puts_off(name, pending) {
                            continue;
                        }
                        files.push((Arc::clone(name), Arc::clone(file), pending.seq));
                    }
                    Some(Target::Directory(child))
                        if force.needs(dir, name) && state.dirs.get(child).is_some_and(|c| c.cap.is_none()) =>
                    {
                        dirs.push(*child);
                    }
                    _ => {}
                }
            }
        }
        let (mut uploaded, mut result) = (Vec::new(), Ok(()));
        let mut uploads = stream::iter(files)
            .map(|(name, file, seq)| async move {
                let stored = self.store(cx, &file).await;
                (name, file, seq, stored)
            })
            .buffer_unordered(PARALLEL_UPLOADS);
        while let Some((name, file, seq, stored)) = uploads.next().await {
            match stored {
                Ok(cap) => uploaded.push(Upload { file, cap, seq }),
                Err(error) => {
                    self.note_failure(Subject::file(&file), &name, &error);
                    if force.concerns(&file) {
                        result = Err(error);
                    }
                }
            }
        }
        drop(uploads);
        let mut births = stream::iter(dirs).map(|child| self.birth(cx, child, force)).buffer_unordered(PARALLEL_BIRTHS);
        while let Some(born) = births.next().await {
            result = result.and(born);
        }
        drop(births);
        (uploaded, result)
    }

    /// Makes a directory on the grid, with all its children that are there.
    fn birth<'a>(&'a self, cx: &'a Cx, dir: DirId, force: &'a Force) -> BoxFuture<'a, Result<(), NodeError>> {
        Box::pin(async move {
            let Some(publishing) = self.state().dirs.get(&dir).map(|d| Arc::clone(&d.publishing)) else {
                return Ok(());
            };
            let one = publishing.lock().await;
            if self.cap(dir).is_some() {
                return Ok(());
            }
            if self.find_again(cx, dir).await? {
                drop(one);
                return self.publish(cx, dir, force, false).await;
            }
            let (uploaded, resolved) = self.resolve(cx, dir, force).await;
            let before = self.look_before(cx, dir, force, false).await;
            let (attempts, satisfied, kept, expiries) = {
                let mut state = self.state();
                let (attempts, satisfied) = state.attempts(dir, force, false, &uploaded, &before);
                (attempts, satisfied, self.keep(&mut state), state.expiries)
            };
            kept.done().await?;
            crash_point("writeback.birth.recorded");
            let children: Vec<(Name, Cap, Metadata)> = attempts
                .iter()
                .filter_map(|a| match &a.edit {
                    Edit::Link { name, cap, metadata, .. } => {
                        Some((Arc::clone(name), cap.clone(), metadata.clone().unwrap_or_default()))
                    }
                    Edit::Patch { .. } | Edit::Unlink { .. } => None,
                })
                .collect();
            let cap = self.factory.create_directory(cx, &children).await?;
            crash_point("writeback.birth.made");
            let node = self.factory.directory(&cap)?;
            node.snapshot(cx, Freshness::Cached).await?;
            self.state().is_born(dir, cap, node);
            let attempts = attempts.into_iter().map(|attempt| (attempt, EditOutcome::Applied)).collect();
            let done = Done { attempts, satisfied, expiries };
            let after = self.look_after(cx, dir, &before, &done).await;
            let error = before.error.or_else(|| after.error.clone());
            self.reconcile(dir, done, after, Merged::default()).await?;
            resolved.and(error.map_or(Ok(()), Err))
        })
    }

    /// Directories in which renamed entries must be linked before they may go from `dir`.
    fn places_to_link_first(&self, dir: DirId, force: &Force) -> Vec<DirId> {
        let state = self.state();
        let Some(d) = state.dirs.get(&dir) else {
            return Vec::new();
        };
        let mut places: Vec<DirId> = d
            .pending
            .iter()
            .filter(|(name, _)| force.needs(dir, name))
            .filter_map(|(_, p)| p.after.as_ref())
            .filter(|(to, name)| *to != dir && !state.is_linked(*to, name))
            .map(|(to, _)| *to)
            .collect();
        places.sort();
        places.dedup();
        places
    }

    /// Publishes the links pending in `dir`, by making it on the grid first where it is not there yet.
    async fn publish_links(&self, cx: &Cx, dir: DirId, force: &Force) -> Result<(), NodeError> {
        for dir in self.upwards(dir) {
            self.publish(cx, dir, force, true).await?;
        }
        Ok(())
    }

    /// The directories on the grid whose publish makes `dir` reachable, in the order in which to publish them.
    pub(super) fn upwards(&self, dir: DirId) -> Vec<DirId> {
        let state = self.state();
        let (mut chain, mut at) = (Vec::new(), Some(dir));
        while let Some(id) = at.filter(|id| !chain.contains(id)) {
            let Some(d) = state.dirs.get(&id) else { break };
            chain.push(id);
            at = d.home.filter(|home| state.names_pending(*home, id));
        }
        chain.retain(|id| state.dirs.get(id).is_some_and(|d| d.node.is_some()));
        chain
    }

    /// Takes over what a publish did, and what was looked at after it. What could not be looked at stays pending.
    async fn reconcile(&self, dir: DirId, done: Done, after: After, merged: Merged) -> Result<(), NodeError> {
        let firsts = done.attempts.iter().map(|(a, _)| a.first).chain(done.satisfied.iter().map(|s| s.first));
        let first = firsts.min().unwrap_or_default();
        let (date, host) = (self.clock.now_secs(), &self.host);
        let is_open = |name: &Name| after.unknown.contains(name) || merged.unknown.contains(name);
        let kept = {
            let mut state = self.state();
            if !done.attempts.is_empty() {
                state.install(dir, done.expiries);
            }
            for (attempt, outcome) in done.attempts {
                match outcome {
                    _ if is_open(&attempt.name) => {}
                    _ if merged.names.contains(&attempt.name) => state.done(dir, &attempt.name),
                    EditOutcome::Held => {}
                    EditOutcome::Applied => state.applied(dir, attempt),
                    EditOutcome::Conflict { found } => state.conflicted(dir, &attempt, found, date, host),
                }
            }
            for Satisfied { name, cap, seq, .. } in done.satisfied.into_iter().filter(|s| !is_open(&s.name)) {
                state.is_linked_for_others(dir, &name);
                state.stands(dir, &name, Some(cap), seq);
            }
            state.looked_after(dir, after, first, date, host);
            self.keep(&mut state)
        };
        Ok(kept.done().await?)
    }
}

impl State {
    /// A directory is on the grid, and is not known to have passed the barrier.
    pub(super) fn is_born(&mut self, dir: DirId, cap: Cap, node: Arc<dyn Directory>) {
        let Some(d) = self.dirs.get_mut(&dir) else { return };
        let unproven = d.unproven.replace(cap.clone()).filter(|before| *before != cap);
        d.node = Some(node);
        d.cap = Some(cap.clone());
        if let Some(lost) = unproven {
            self.by_cap.remove(&cap_key(&lost));
        }
        self.by_cap.insert(cap_key(&cap), dir);
        self.born.insert(dir);
        self.touched.insert(Key::Dir(dir));
    }

    /// Whether a renamed entry stands under its new name on the grid, or is wanted nowhere any more.
    pub(super) fn is_linked(&self, dir: DirId, name: &str) -> bool {
        self.dirs.get(&dir).is_none_or(|d| d.pending.get(name).is_none_or(|p| p.wanted.is_none()))
    }

    /// Whether an edge from `parent` to `child` is pending.
    fn names_pending(&self, parent: DirId, child: DirId) -> bool {
        let is_child =
            |p: &Pending| matches!(p.wanted.as_ref().map(|e| &e.target), Some(Target::Directory(id)) if *id == child);
        self.dirs.get(&parent).is_some_and(|d| d.pending.values().any(is_child))
    }

    /// The edits that can be made now. What is tried is remembered first: a publish may be applied though its answer
    /// is lost.
    fn attempts(
        &mut self,
        dir: DirId,
        force: &Force,
        links_only: bool,
        uploaded: &[Upload],
        before: &Before,
    ) -> (Vec<Attempt>, Vec<Satisfied>) {
        let Some(d) = self.dirs.get(&dir) else { return Default::default() };
        let uploaded: HashMap<_, _> = uploaded.iter().map(|upload| (Arc::as_ptr(&upload.file), upload)).collect();
        let (mut attempts, mut satisfied) = (Vec::new(), Vec::new());
        for (name, pending) in &d.pending {
            let waits = pending.after.as_ref().is_some_and(|(to, at)| *to != dir && !self.is_linked(*to, at));
            if waits || links_only && pending.wanted.is_none() || !before.has_looked_at(name, pending) {
                continue;
            }
            let (name, mut seq, first) = (Arc::clone(name), pending.seq, pending.first);
            let Some(entry) = &pending.wanted else {
                let edit = Edit::Unlink { name: Arc::clone(&name), expect: pending.expect(dir, None) };
                attempts.push(Attempt { name, seq, tried: None, edit, first, adds: false });
                continue;
            };
            let cap = match &entry.target {
                Target::Stored(cap) => Some(cap.clone()),
                Target::Directory(child) => self.dirs.get(child).and_then(|c| c.cap.clone()),
                Target::File(file) => match uploaded.get(&Arc::as_ptr(file)) {
                    // What somebody waited for is linked, although the file has changed since.
                    Some(upload) if file.stored().is_none() => {
                        seq = upload.seq;
                        Some(upload.cap.clone())
                    }
                    _ => file.stored().filter(|_| force.takes(dir, &name, file)),
                },
            };
            let Some(cap) = cap else { continue };
            let expect = pending.expect(dir, Some(&cap));
            let adds = pending.base.as_ref().map(Cap::readonly) != Some(cap.readonly());
            let mut attributes = entry.attributes.clone();
            if let Target::File(file) = &entry.target {
                attributes.seen = file.own_mark().or(attributes.seen);
            }
            let published = d.table.as_ref().and_then(|t| t.entries.get(&name));
            let edit = match published.filter(|child| child.cap.readonly() == cap.readonly()) {
                Some(child) => {
                    let keys = child.metadata.difference(&attributes.write_into(&child.metadata, &cap));
                    if keys.is_empty() {
                        satisfied.push(Satisfied { name, cap, seq, first, adds });
                        continue;
                    }
                    Edit::Patch { name: Arc::clone(&name), keys, expect }
                }
                None => {
                    let metadata = Some(attributes.write_into(&entry.metadata, &cap));
                    Edit::Link { name: Arc::clone(&name), cap: cap.clone(), metadata, expect }
                }
            };
            attempts.push(Attempt { name, seq, tried: Some(cap), edit, first, adds });
        }
        self.keep_with_their_links(dir, &mut attempts, &mut satisfied);
        if let Some(d) = self.dirs.get_mut(&dir) {
            for attempt in &attempts {
                let Some(pending) = d.pending.get_mut(&attempt.name) else { continue };
                match &attempt.tried {
                    Some(cap) if pending.tried.contains(cap) => continue,
                    Some(cap) => pending.tried.push(cap.clone()),
                    None if pending.older.contains(&None) => continue,
                    None => pending.older.push(None),
                }
                self.touched.insert(Key::Edge(dir, Arc::clone(&attempt.name)));
            }
        }
        (attempts, satisfied)
    }

    /// Leaves out what waits for the link of a renamed entry in the same directory, unless that is made in the same publish,
    /// before it.
    fn keep_with_their_links(&self, dir: DirId, attempts: &mut Vec<Attempt>, satisfied: &mut Vec<Satisfied>) {
        let Some(d) = self.dirs.get(&dir) else { return };
        loop {
            let names = attempts.iter().map(|a| &a.name).chain(satisfied.iter().map(|s| &s.name));
            let made: HashSet<Name> = names.map(Arc::clone).collect();
            let goes = |name: &Name| match d.pending.get(name).and_then(|pending| pending.after.as_ref()) {
                Some((to, at)) if *to == dir => made.contains(at) || self.is_linked(dir, at),
                _ => true,
            };
            attempts.retain(|attempt| goes(&attempt.name));
            satisfied.retain(|satisfied| goes(&satisfied.name));
            if attempts.len() + satisfied.len() == made.len() {
                break;
            }
        }
        // What waits stands behind what it waits for.
        attempts.sort_by_cached_key(|attempt| {
            let next = |at: Name| {
                let after = d.pending.get(&at)?.after.as_ref();
                after.filter(|(to, _)| *to == dir).map(|(_, name)| Arc::clone(name))
            };
            std::iter::successors(Some(Arc::clone(&attempt.name)), |at| next(Arc::clone(at)))
                .take(LONGEST_CHAIN)
                .count()
        });
    }

    /// A publish has put there what was tried.
    fn applied(&mut self, dir: DirId, attempt: Attempt) {
        self.is_linked_for_others(dir, &attempt.name);
        let Some(d) = self.dirs.get(&dir) else { return };
        let there = d.table.as_ref().and_then(|table| table.entries.get(&attempt.name));
        let is_ours = there.map(|child| child.cap.readonly()) == attempt.tried.as_ref().map(Cap::readonly);
        if !is_ours {
            // Another client was quick.
            self.tell(dir, &attempt.name);
        }
        self.stands(dir, &attempt.name, attempt.tried, attempt.seq);
    }

    /// What was wanted under a name, up to the change `seq`, stands there: nothing that is made from it later is a conflict
    /// with it, whatever is known by then of what was pending.
    fn stands(&mut self, dir: DirId, name: &Name, cap: Option<Cap>, seq: u64) {
        self.next_seq += 1;
        let at = self.next_seq;
        let Some(d) = self.dirs.get_mut(&dir) else { return };
        d.published_here.insert(Arc::clone(name), Seen { cap: cap.clone(), at });
        if let Some(pending) = d.pending.get_mut(name) {
            pending.note_older();
            pending.base = cap;
            pending.tried.clear();
        }
        self.settled(dir, name, seq);
    }

    /// A name is published: where others can see it, they can reach the directory that it is wanted for.
    fn is_linked_for_others(&mut self, dir: DirId, name: &Name) {
        let wanted = self.dirs.get(&dir).filter(|d| !d.is_new).and_then(|d| d.pending.get(name)?.wanted.as_ref());
        if let Some(&Target::Directory(child)) = wanted.map(|entry| &entry.target) {
            self.is_known_to_others(child);
        }
    }

    /// All changes of a name up to `seq` are published.
    fn settled(&mut self, dir: DirId, name: &Name, seq: u64) {
        match self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(name)) {
            Some(pending) if pending.seq != seq => {
                pending.first = pending.first.max(seq + 1);
                self.touched.insert(Key::Edge(dir, Arc::clone(name)));
            }
            _ => self.done(dir, name),
        }
    }

    /// A name stands as it is wanted: nothing is pending there, and what waited for it may go on. Its record stays until
    /// that has passed the barrier.
    pub(super) fn done(&mut self, dir: DirId, name: &Name) {
        let place = (dir, Arc::clone(name));
        if let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.take(name)) {
            let key = Key::Edge(dir, Arc::clone(name));
            self.touched.remove(&key);
            self.lagging.remove(&key);
            self.retire(place.clone(), pending);
        }
        for (dir, name) in self.waiting_for.remove(&place).unwrap_or_default() {
            if let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(&name))
                && pending.after.as_ref() == Some(&place)
            {
                pending.after = None;
                self.touched.insert(Key::Edge(dir, name));
            }
        }
    }
}
