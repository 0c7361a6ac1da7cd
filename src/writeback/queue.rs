//! Who waits for what is pending, and what is known of it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::time::sleep;

use super::part::Part;
use super::publish::{Force, PARALLEL_UPLOADS};
use super::{Conflict, Content, DirId, FileObject, LONGEST_CHAIN, Pending, State, Target, Writeback};
use crate::cap::{Cap, StorageIndex};
use crate::node::{Name, NodeError};
use crate::util::{Cx, Priority};

/// How long a wait that others must end looks away.
const TICK: Duration = Duration::from_millis(100);
/// The names that a [`QueueStatus`] gives.
const NAMES: usize = 3;
/// Failures that are remembered.
const FAILURES: usize = 16;

/// What a caller waits for.
#[derive(Clone)]
pub enum Scope {
    /// The content of a file, and the edges that lead to it.
    File(Arc<FileObject>),
    /// The entries of a directory, and the edges that lead to it.
    Directory(DirId),
    /// A name and all below, with what leads there.
    Part(Arc<Part>),
    /// Everything.
    All,
}

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The content of the file at this address, which something pending keeps alive.
    File(usize),
    Directory(DirId),
}

impl Subject {
    pub fn file(file: &Arc<FileObject>) -> Subject {
        Subject::File(Arc::as_ptr(file) as usize)
    }
}

/// Something that could not be stored; it is kept and tried again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When, in seconds since the epoch.
    pub at: i64,
    /// The name concerned.
    pub name: String,
    /// What went wrong.
    pub error: NodeError,
}

/// What is not on the grid yet.
#[derive(Clone, Debug, Default)]
pub struct QueueStatus {
    /// Names whose wanted state is not published.
    pub changes: usize,
    /// Files among them whose content is not stored.
    pub files: usize,
    /// Bytes of these files.
    pub bytes: u64,
    /// Some of the names, three at the most.
    pub names: Vec<Name>,
    /// What failed and is not solved, oldest first.
    pub failures: Vec<Failure>,
    /// The latest conflicts since the mount, 16 at the most, oldest first.
    pub conflicts: Vec<Conflict>,
}

/// Where something stands on its way to the grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the journal alone.
    Local,
    /// On its way: how much of it is sent, in percent.
    Uploading(u8),
    /// On the grid, under its name.
    Stored,
    /// In the journal alone, after a failure.
    Failed(NodeError),
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Local => f.write_str("local"),
            Standing::Uploading(percent) => write!(f, "uploading {percent}%"),
            Standing::Stored => f.write_str("stored"),
            Standing::Failed(error) => write!(f, "error: {error}"),
        }
    }
}

/// See [`Writeback::pulse`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    used: u64,
    changes: usize,
    files: usize,
    retired: usize,
    sent: u64,
}

impl QueueStatus {
    fn note(&mut self, name: &Name) {
        if self.names.len() < NAMES {
            self.names.push(Name::clone(name));
        }
    }
}

impl Writeback {
    /// Waits until all that `scope` names, as it was when this was called, is on the grid. An error leaves it pending: it
    /// is tried again.
    pub async fn settle(&self, scope: Scope) -> Result<(), NodeError> {
        let cx = self.base.with_priority(Priority::Waiting);
        let until = self.state().next_seq;
        cx.run(async {
            if let Scope::File(file) = &scope
                && file.is_mutable()
            {
                self.store_noted(&cx, file).await?;
            }
            while let Some(dirs) = self.outstanding(&scope, until) {
                let before = self.state().next_seq;
                let all = matches!(scope, Scope::All);
                let part = match &scope {
                    Scope::Part(part) => Some(Arc::new(self.state().needs(part, until).0)),
                    Scope::File(_) | Scope::Directory(_) | Scope::All => None,
                };
                let has = |dir: DirId, name: &Name| part.as_ref().is_none_or(|needs| needs.has(dir, name));
                let many = all || part.is_some();
                let uploaded = if many { self.store_all(&cx, until, has).await } else { Ok(()) };
                let force = match &scope {
                    Scope::File(file) => Force::File(Arc::clone(file)),
                    Scope::Directory(dir) => Force::Files(self.state().files_before(*dir, until)),
                    Scope::Part(_) | Scope::All => match (part.clone(), &uploaded) {
                        (Some(needs), Ok(())) => Force::Needed(needs),
                        (Some(needs), Err(_)) => Force::NeededStored(needs),
                        (None, Ok(())) => Force::Everything,
                        (None, Err(_)) => Force::Stored,
                    },
                };
                let work = dirs.iter().map(|dir| self.publish(&cx, *dir, &force, false));
                let contents = self.store_orphans(&cx, |content| {
                    let wanted = part.as_ref().map_or(all, |needs| needs.has_content(content));
                    wanted && content.first <= until
                });
                let (stored, published) = tokio::join!(contents, join_all(work));
                published.into_iter().chain([stored, uploaded]).collect::<Result<(), _>>()?;
                if self.state().next_seq == before && self.outstanding(&scope, until).is_some() {
                    sleep(TICK).await;
                }
            }
            Ok(())
        })
        .await?
    }

    /// The directories to publish next for `scope`, while changes of it up to `until` are pending.
    fn outstanding(&self, scope: &Scope, until: u64) -> Option<Vec<DirId>> {
        let (dir, wanted): (DirId, Option<&Arc<FileObject>>) = match scope {
            Scope::All => {
                let state = self.state();
                let older = |content: &&Content| content.first <= until && content.file.is_dirty();
                let contents: HashSet<_> =
                    state.contents.iter().filter(older).map(|content| Arc::as_ptr(&content.file)).collect();
                let waits = |p: &Pending| {
                    p.first <= until || p.file().is_some_and(|file| contents.contains(&Arc::as_ptr(file)))
                };
                let waiting = |d: &super::Dir| d.node.is_some() && d.pending.values().any(waits);
                let dirs: Vec<DirId> = state.dirs.iter().filter(|(_, d)| waiting(d)).map(|(id, _)| *id).collect();
                let orphans = state.orphans().any(|content| older(&content));
                return (orphans || !dirs.is_empty()).then_some(dirs);
            }
            Scope::Part(part) => {
                let state = self.state();
                let (needs, dirs) = state.needs(part, until);
                let older = |c: &&Content| c.first <= until && c.file.is_dirty() && needs.has_content(c);
                let orphans = state.orphans().any(|content| older(&content));
                return (orphans || !dirs.is_empty()).then_some(dirs);
            }
            Scope::File(file) => (self.home_of(file, until)?, Some(file)),
            Scope::Directory(dir) => (*dir, None),
        };
        let chain = self.upwards(dir);
        let state = self.state();
        let in_scope = |p: &Pending| match (wanted, p.wanted.as_ref().map(|e| &e.target)) {
            (Some(file), Some(Target::File(other))) => Arc::ptr_eq(file, other),
            (Some(_), _) => false,
            (None, Some(Target::File(file))) => !file.is_held(),
            (None, _) => true,
        };
        let of_dir = state.dirs.get(&dir)?.pending.values().any(|p| p.first <= until && in_scope(p));
        let own = of_dir.then_some(dir).filter(|dir| state.dirs.get(dir).is_some_and(|d| d.node.is_some()));
        let above = chain.iter().copied().find(|id| *id != dir);
        own.or(above).map(|next| vec![next])
    }

    /// Stores the contents under those names that were pending at `until` and are `wanted`, many at once. Goes on after
    /// a failure, which is handed back.
    async fn store_all(&self, cx: &Cx, until: u64, wanted: impl Fn(DirId, &Name) -> bool) -> Result<(), NodeError> {
        let mut files: Vec<(Name, Arc<FileObject>)> = Vec::new();
        {
            let state = self.state();
            let unstored = |(dir, name, p): (DirId, &Name, &Pending)| {
                let file = p.file().filter(|file| p.first <= until && file.stored().is_none() && wanted(dir, name))?;
                Some((Arc::clone(name), Arc::clone(file)))
            };
            files.extend(state.pending_places().filter_map(unstored));
        }
        let stored = stream::iter(files).map(|(name, file)| async move {
            let stored = cx.run(self.store(cx, &file)).await.unwrap_or_else(|e| Err(e.into()));
            stored.map(drop).inspect_err(|error| self.note_failure(Subject::file(&file), &name, error))
        });
        let stored: Vec<_> = stored.buffer_unordered(PARALLEL_UPLOADS).collect().await;
        stored.into_iter().collect()
    }

    /// The mutable file at `si`, while it has changes that are not stored.
    pub fn unstored(&self, si: StorageIndex) -> Option<Arc<FileObject>> {
        let of = |file: &FileObject| file.write_cap().and_then(|cap| cap.storage_index()) == Some(si);
        self.state().contents.iter().find(|content| of(&content.file)).map(|content| Arc::clone(&content.file))
    }

    /// Where the thing named at `place`, with this content or these entries, stands.
    pub fn standing(
        &self,
        places: &[(DirId, Name)],
        file: Option<&Arc<FileObject>>,
        inside: Option<DirId>,
    ) -> Standing {
        if let Some(file) = file.filter(|file| file.is_dirty() || !file.is_mutable() && file.stored().is_none()) {
            return match (file.uploading(), file.failed_since(0)) {
                (Some(percent), _) => Standing::Uploading(percent),
                (None, Some((_, error))) => Standing::Failed(error),
                (None, None) => Standing::Local,
            };
        }
        let state = self.state();
        let failed = |dir: DirId| {
            let of = |(subject, _): &&(Subject, Failure)| *subject == Subject::Directory(dir);
            state.failures.iter().find(of).map(|(_, failure)| Standing::Failed(failure.error.clone()))
        };
        let is_pending =
            |(dir, name): &&(DirId, Name)| state.dirs.get(dir).is_some_and(|d| d.pending.contains_key(name));
        let inside = inside.filter(|dir| state.dirs.get(dir).is_some_and(|d| !d.pending.is_empty()));
        let named = places.iter().filter(is_pending).map(|(dir, _)| *dir);
        let waiting: Vec<DirId> = inside.into_iter().chain(named).collect();
        let is_local = (!waiting.is_empty()).then_some(Standing::Local);
        waiting.into_iter().find_map(failed).or(is_local).unwrap_or(Standing::Stored)
    }

    /// How far the journal is emptied: equal as long as nothing moves. `None` when it holds nothing that could go.
    pub fn pulse(&self) -> Option<Pulse> {
        let state = self.state();
        let mut pulse = Pulse { used: self.journal.usage().bytes, retired: state.retired.len(), ..Pulse::default() };
        let mut can_go = !state.retired.is_empty() || !self.spares.is_empty();
        for pending in state.pending() {
            pulse.changes += 1;
            match pending.file() {
                Some(file) if file.stored().is_none() => {
                    pulse.files += 1;
                    pulse.sent += file.sent().unwrap_or_default();
                    can_go |= !file.is_held();
                }
                _ => can_go = true,
            }
        }
        can_go.then_some(pulse)
    }

    /// What is not on the grid yet.
    pub fn status(&self) -> QueueStatus {
        self.status_of(&Scope::All)
    }

    /// What of a part, or of everything, is not on the grid yet. Failures and conflicts are those of everything.
    pub fn status_of(&self, scope: &Scope) -> QueueStatus {
        let state = self.state();
        let part = match scope {
            Scope::Part(part) => Some(state.needs(part, u64::MAX).0),
            Scope::File(_) | Scope::Directory(_) | Scope::All => None,
        };
        let mut status = QueueStatus {
            failures: state.failures.iter().map(|(_, failure)| failure.clone()).collect(),
            conflicts: state.conflicts.iter().cloned().collect(),
            ..QueueStatus::default()
        };
        let has_content = |content: &Content| part.as_ref().is_none_or(|needs| needs.has_content(content));
        for content in state.orphans().filter(|content| content.file.is_dirty() && has_content(content)) {
            status.changes += 1;
            status.files += 1;
            status.bytes += content.file.size();
            status.note(&content.name);
        }
        let has = |dir: DirId, name: &Name| part.as_ref().is_none_or(|needs| needs.has(dir, name));
        for (_, name, pending) in state.pending_places().filter(|(dir, name, _)| has(*dir, name)) {
            status.changes += 1;
            status.note(name);
            if let Some(file) = pending.file()
                && file.stored().is_none()
            {
                status.files += 1;
                status.bytes += file.size();
            }
        }
        status
    }

    /// Stores the content of a file.
    pub(super) async fn store(&self, cx: &Cx, file: &Arc<FileObject>) -> Result<Cap, NodeError> {
        let before = self.state().next_seq;
        let cap = file.store(cx, &*self.factory, &self.spares).await?;
        self.solved(Subject::file(file));
        let mut state = self.state();
        if !file.is_mutable() && file.may_be_elsewhere() {
            // One name is published before another: by the cap, a process after this one knows that they are one file.
            state.touch_names_of(file);
        }
        if let Some(at) = state.contents.iter().position(|content| Arc::ptr_eq(&content.file, file)) {
            // It may have been written to since.
            if file.is_dirty() { state.contents[at].first = before + 1 } else { drop(state.contents.swap_remove(at)) }
        }
        Ok(cap)
    }

    pub(super) async fn store_noted(&self, cx: &Cx, file: &Arc<FileObject>) -> Result<(), NodeError> {
        let Err(error) = self.store(cx, file).await else { return Ok(()) };
        let name = {
            let state = self.state();
            let content = state.contents.iter().find(|c| Arc::ptr_eq(&c.file, file)).map(|c| Arc::clone(&c.name));
            content.or_else(|| state.name_of(file))
        };
        let name = name.unwrap_or_default();
        self.note_failure(Subject::file(file), &name, &error);
        Err(error)
    }

    /// Stores the changed mutable files that are `wanted` and that no publish of a directory will store.
    pub(super) async fn store_orphans(&self, cx: &Cx, wanted: impl Fn(&Content) -> bool) -> Result<(), NodeError> {
        let files: Vec<Arc<FileObject>> =
            self.state().orphans().filter(|content| wanted(content)).map(|content| Arc::clone(&content.file)).collect();
        let stored = stream::iter(files).map(|file| async move {
            let stored = cx.run(self.store_noted(cx, &file)).await;
            stored.unwrap_or_else(|e| Err(e.into()))
        });
        let stored: Vec<_> = stored.buffer_unordered(PARALLEL_UPLOADS).collect().await;
        stored.into_iter().collect()
    }

    /// The directory where an edge of `file` is pending. It may have names in several.
    fn home_of(&self, file: &Arc<FileObject>, until: u64) -> Option<DirId> {
        if !file.may_be_elsewhere() {
            return file.home();
        }
        let state = self.state();
        let names = |p: &Pending| p.first <= until && p.file().is_some_and(|other| Arc::ptr_eq(file, other));
        let named = state.dirs.iter().find(|(_, d)| d.pending.values().any(names)).map(|(id, _)| *id);
        named.or_else(|| file.home())
    }

    pub(super) fn note_failure(&self, subject: Subject, name: &str, error: &NodeError) {
        let failure = Failure { at: self.clock.now_secs(), name: name.to_owned(), error: error.clone() };
        let failures = &mut self.state().failures;
        failures.retain(|(of, _)| *of != subject);
        failures.push((subject, failure));
        let excess = failures.len().saturating_sub(FAILURES);
        failures.drain(..excess);
    }

    /// What had failed has succeeded, or is not wanted any more.
    pub(super) fn solved(&self, subject: Subject) {
        self.state().failures.retain(|(of, _)| *of != subject);
    }
}

impl State {
    /// The files without whose publish elsewhere what was removed from `dir` up to `until` cannot go.
    fn files_before(&self, dir: DirId, until: u64) -> Vec<Arc<FileObject>> {
        let pending = |place: &(DirId, Name)| self.dirs.get(&place.0)?.pending.get(&place.1);
        let (mut files, mut seen, mut next) = (Vec::new(), HashSet::from([dir]), vec![dir]);
        while let Some(dir) = next.pop() {
            for own in self.dirs.get(&dir).into_iter().flat_map(|d| d.pending.values()).filter(|p| p.first <= until) {
                let after = |at: &(DirId, Name)| pending(at)?.after.clone();
                let chain = std::iter::successors(own.after.clone(), after).take(LONGEST_CHAIN);
                files.extend(chain.filter_map(|place| pending(&place)?.file().map(Arc::clone)));
                // What goes is emptied first.
                next.extend(self.unfinished(own).filter(|dir| seen.insert(*dir)));
            }
        }
        files
    }

    /// Changed contents of mutable files under no pending name: no publish of a directory will store them.
    pub(super) fn orphans(&self) -> impl Iterator<Item = &Content> {
        let pending = self.dirs.values().filter(|d| d.node.is_some()).flat_map(|d| d.pending.values());
        let files = pending.filter_map(|p| p.file().map(Arc::as_ptr));
        let named: HashSet<*const FileObject> = if self.contents.is_empty() { HashSet::new() } else { files.collect() };
        self.contents.iter().filter(move |content| !named.contains(&Arc::as_ptr(&content.file)))
    }
}
