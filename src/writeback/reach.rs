//! Directories that one client removes while another puts something into them.
//!
//! Two rules leave no name that was answered in a directory that nobody names. Who removes a directory looks at it before
//! that is published, and again after it: unless it is empty its name stays, or comes back. Who puts something into a
//! directory looks, after that is published, whether the directory is still named where it was, and names it again if it
//! is not. Each looks after it has published, so one of the two at least sees what the other did. What has not been
//! looked at stays pending, and in the journal: after a crash it is looked at again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::circles::Astray;
use super::publish::{Done, Force};
use super::{DirId, Entry, Key, Parent, Pending, Removed, Seen, State, Target, Writeback, cap_key};
use crate::cap::Cap;
use crate::node::{Attributes, FileType, Freshness, Metadata, Name, NodeError, Table};
use crate::util::Cx;

/// Directories that are looked at, or published before they go, at the same time.
const PARALLEL_LOOKS: usize = 4;
/// Directories in which one that has been moved is searched for.
const SEARCHED: usize = 64;

/// What a publish is about to take the names from, and what must stay out of it.
#[derive(Default)]
pub(super) struct Before {
    /// Names whose directories cannot be looked at, or are not emptied yet.
    pub held: HashSet<Name>,
    /// Directories by the names that are to go.
    going: HashMap<Name, Vec<Removed>>,
    /// What could not be looked at.
    pub error: Option<NodeError>,
}

impl Before {
    /// Whether all that would lose a name by this change was looked at, and is empty.
    pub fn has_looked_at(&self, name: &Name, pending: &Pending) -> bool {
        let looked = self.going.get(name).map_or(&[][..], Vec::as_slice);
        let is_known = |removed: &Removed| looked.iter().any(|known| known.cap == removed.cap);
        !self.held.contains(name) && pending.removed.iter().all(is_known)
    }
}

/// What was found out after a publish.
#[derive(Default)]
pub(super) struct After {
    /// Directories that are not empty, by the names that they have lost.
    full: Vec<(Name, Cap)>,
    /// Those that are.
    empty: Vec<(Name, Cap)>,
    standing: Standing,
    /// Directories that cannot be reached by the names to which they were moved.
    pub astray: Vec<Astray>,
    /// Names that must stay pending, for what was to be looked at could not be.
    pub unknown: HashSet<Name>,
    pub error: Option<NodeError>,
}

/// Whether a directory is named where it was.
#[derive(Default)]
pub(super) enum Standing {
    #[default]
    Named,
    /// By another name than was known.
    Moved(DirId, Name),
    Gone,
}

impl Writeback {
    /// Notes by which name a directory was found, with what attributes.
    pub fn led_to(&self, dir: DirId, parent: DirId, name: &Name, entry: &Entry) {
        self.state().led_to(dir, parent, name, entry);
    }

    /// The newest table of a directory.
    ///
    /// # Errors
    /// The grid cannot be asked. What was seen before does not do here.
    pub(super) async fn newest(&self, cx: &Cx, dir: DirId) -> Result<Option<Arc<Table>>, NodeError> {
        let expiries = self.state().expiries;
        let Some((node, _)) = self.node_of(dir) else { return Ok(None) };
        let is_older = node.probe(cx, Freshness::Newest).await?;
        let table = node.snapshot(cx, if is_older { Freshness::Newest } else { Freshness::Cached }).await?;
        *self.away() = None;
        self.state().install(dir, expiries);
        Ok(Some(table))
    }

    async fn is_full(&self, cx: &Cx, removed: &Removed) -> Result<bool, NodeError> {
        let dir = self.directory(&removed.cap)?;
        let newest = match self.recover(cx, dir).await {
            Ok(true) => self.newest(cx, dir).await,
            Ok(false) => return Ok(false),
            Err(error) => Err(error),
        };
        match newest {
            Ok(table) => Ok(table.is_some_and(|table| !table.entries.is_empty())),
            // Power loss has taken it, before anybody was told that it would stay.
            Err(error) if error.is_lost() && removed.is_new => Ok(false),
            // Whatever is in it, its name is all that may lead there.
            Err(error) if error.is_final() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether a directory that was removed is on the grid. What is pending in one that power loss has taken is forgotten.
    async fn recover(&self, cx: &Cx, dir: DirId) -> Result<bool, NodeError> {
        let Some(publishing) = self.state().dirs.get(&dir).map(|d| Arc::clone(&d.publishing)) else { return Ok(false) };
        let _one = publishing.lock().await;
        if self.cap(dir).is_some() || self.find_again(cx, dir).await? {
            return Ok(true);
        }
        let kept = {
            let mut state = self.state();
            state.discard(dir);
            self.keep(&mut state)
        };
        kept.done().await?;
        Ok(false)
    }

    /// Publishes what is pending in directories that are about to go from `dir`, those below first: only then is it
    /// known whether they are empty. Returns what failed.
    pub(super) fn empty_first<'a>(
        &'a self,
        cx: &'a Cx,
        dir: DirId,
        force: &'a Force,
    ) -> BoxFuture<'a, Result<(), NodeError>> {
        Box::pin(async move {
            let levels = self.state().to_empty_first(dir, force);
            let mut result = Ok(());
            for level in levels.into_iter().rev() {
                let work = level.into_iter().map(|dir| async move {
                    if self.recover(cx, dir).await? { self.publish_this(cx, dir, force, false).await } else { Ok(()) }
                });
                let mut work = stream::iter(work).buffer_unordered(PARALLEL_LOOKS);
                while let Some(done) = work.next().await {
                    result = result.and(done);
                }
            }
            result
        })
    }

    /// Looks at the directories that a publish of `dir` would take the names from. Those that are not empty stay.
    pub(super) async fn look_before(&self, cx: &Cx, dir: DirId, force: &Force, links_only: bool) -> Before {
        let going = self.state().going(dir, force, links_only);
        let mut before = Before::default();
        let looks = stream::iter(going).map(|(name, removed)| async move {
            let waits = {
                let state = self.state();
                let id = state.by_cap.get(&cap_key(&removed.cap));
                id.and_then(|id| state.dirs.get(id)).is_some_and(|d| !d.pending.is_empty())
            };
            let full = if waits { Ok(None) } else { self.is_full(cx, &removed).await.map(Some) };
            (name, removed, full)
        });
        let looks: Vec<_> = looks.buffer_unordered(PARALLEL_LOOKS).collect().await;
        let mut full_ones: HashMap<Name, Vec<Cap>> = HashMap::new();
        for (name, removed, full) in looks {
            match full {
                Ok(Some(false)) => before.going.entry(name).or_default().push(removed),
                Ok(Some(true)) => full_ones.entry(name).or_default().push(removed.cap),
                Ok(None) => drop(before.held.insert(name)),
                Err(error) => {
                    before.held.insert(name);
                    before.error = Some(error);
                }
            }
        }
        before.going.retain(|name, _| !before.held.contains(name));
        for (name, full) in full_ones {
            self.state().stay(dir, &name, &full, self.clock.now_secs(), &self.host);
        }
        before
    }

    /// Looks, after a publish of `dir`, at what lost its name by it, and whether `dir` itself still has one.
    pub(super) async fn look_after(&self, cx: &Cx, dir: DirId, before: &Before, done: &Done) -> After {
        let applied = done.applied().map(|attempt| (&attempt.name, attempt.adds));
        let names: Vec<_> = applied.chain(done.satisfied.iter().map(|s| (&s.name, s.adds))).collect();
        let gone = names.iter().filter_map(|(name, _)| Some((*name, before.going.get(*name)?)));
        let gone = gone.flat_map(|(name, caps)| caps.iter().map(move |removed| (Arc::clone(name), removed.clone())));
        let gone: Vec<(Name, Removed)> = gone.collect();
        let mut after = After::default();
        let looks = stream::iter(gone).map(|(name, removed)| async move {
            let full = self.is_full(cx, &removed).await;
            (name, removed.cap, full)
        });
        let mut looks = looks.buffer_unordered(PARALLEL_LOOKS);
        while let Some((name, cap, full)) = looks.next().await {
            match full {
                Ok(true) => after.full.push((name, cap)),
                Ok(false) => after.empty.push((name, cap)),
                Err(error) => {
                    after.unknown.insert(name);
                    after.error = Some(error);
                }
            }
        }
        drop(looks);
        let added: Vec<_> = names.iter().filter(|(_, adds)| *adds).map(|(name, _)| Arc::clone(name)).collect();
        if !added.is_empty() {
            match self.look_up(cx, dir).await {
                Ok(standing) => after.standing = standing,
                Err(error) => {
                    after.unknown.extend(added);
                    after.error = Some(error);
                }
            }
        }
        self.look_for_circles(cx, dir, done, &mut after).await;
        after
    }

    /// Whether `dir` is named where it was.
    pub(super) async fn look_up(&self, cx: &Cx, dir: DirId) -> Result<Standing, NodeError> {
        let (parent, name, cap) = {
            let state = self.state();
            let Some(d) = state.dirs.get(&dir) else { return Ok(Standing::Named) };
            // Without a name that is known nobody was told one. One that is yet to be published is looked after then.
            let (Some(parent), Some(cap)) = (&d.parent, &d.cap) else { return Ok(Standing::Named) };
            if state.will_name(parent.dir, dir, cap) {
                return Ok(Standing::Named);
            }
            (parent.dir, Arc::clone(&parent.name), cap.readonly())
        };
        let is_it = |found: &Cap| found.is_directory() && found.readonly() == cap;
        if !self.is_writeable(parent) {
            return Ok(Standing::Named);
        }
        let table = match self.newest(cx, parent).await {
            Ok(Some(table)) => table,
            Ok(None) => return Ok(Standing::Named),
            // Nobody can name anything there.
            Err(error) if error.is_final() => return Ok(Standing::Named),
            Err(error) => return Err(error),
        };
        if table.entries.get(&name).is_some_and(|child| is_it(&child.cap)) {
            return Ok(Standing::Named);
        }
        let named_in =
            |table: &Table| table.entries.iter().find(|(_, child)| is_it(&child.cap)).map(|(name, _)| Arc::clone(name));
        if let Some(name) = named_in(&table) {
            return Ok(Standing::Moved(parent, name));
        }
        // Another client may have moved it to where this mount has looked.
        let mut others: Vec<(Option<Instant>, DirId)> = {
            let state = self.state();
            let others = state.dirs.iter().filter(|(id, d)| **id != parent && d.node.is_some() && d.table.is_some());
            others.map(|(id, d)| (d.checked, *id)).collect()
        };
        others.sort_by(|a, b| b.cmp(a));
        others.truncate(SEARCHED);
        let looks = stream::iter(others).map(|(_, id)| async move { (id, self.newest(cx, id).await) });
        let mut looks = looks.buffer_unordered(PARALLEL_LOOKS);
        while let Some((id, table)) = looks.next().await {
            if let Ok(Some(table)) = table
                && let Some(name) = named_in(&table)
            {
                return Ok(Standing::Moved(id, name));
            }
        }
        Ok(Standing::Gone)
    }
}

impl State {
    pub(super) fn led_to(&mut self, dir: DirId, parent: DirId, name: &Name, entry: &Entry) {
        let Some(d) = self.dirs.get_mut(&dir) else { return };
        match &mut d.parent {
            Some(known) if known.dir == parent && known.name == *name => {
                if known.attributes != entry.attributes {
                    known.attributes = entry.attributes.clone();
                    known.metadata = entry.metadata.clone();
                }
            }
            known => {
                let (attributes, metadata) = (entry.attributes.clone(), entry.metadata.clone());
                *known = Some(Parent { dir: parent, name: Arc::clone(name), attributes, metadata });
                if self.recorded.contains(&dir) {
                    self.touched.insert(Key::Dir(dir));
                }
            }
        }
    }

    /// This mount takes the name away from what has it; hands back a directory that is or may be on the grid.
    pub(super) fn leaves(&mut self, parent: DirId, name: &Name) -> Option<Removed> {
        let dir = match &self.find(parent, name)?.target {
            Target::Directory(dir) => *dir,
            Target::Stored(cap) => *self.by_cap.get(&cap_key(cap))?,
            Target::File(_) => return None,
        };
        let d = self.dirs.get_mut(&dir)?;
        if d.parent.as_ref().is_some_and(|known| known.dir == parent && known.name == *name) {
            d.parent = None;
            if self.recorded.contains(&dir) {
                self.touched.insert(Key::Dir(dir));
            }
        }
        let is_new = d.cap.is_none() || self.born.contains(&dir);
        let cap = d.cap.clone().or_else(|| d.unproven.clone()).filter(Cap::is_mutable)?;
        Some(Removed { cap, is_new })
    }

    /// What was removed at a place is to be looked at when that is published.
    pub(super) fn note_removed(&mut self, dir: DirId, name: &Name, removed: Option<Removed>) {
        let Some(removed) = removed else { return };
        let mut place = Some((dir, Arc::clone(name)));
        if self.dirs.get(&dir).is_none_or(|d| !d.pending.contains_key(name)) {
            // It had been renamed to there, and this had not been published.
            let cap = removed.cap.readonly();
            let old = |p: &Pending| p.wanted.is_none() && p.base.as_ref().is_some_and(|base| base.readonly() == cap);
            let mut places = self.pending_places();
            place = places.find(|(_, _, p)| old(p)).map(|(dir, name, _)| (dir, Arc::clone(name)));
        }
        if let Some((dir, name)) = place
            && let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(&name))
        {
            pending.removed.push(removed);
            self.touched.insert(Key::Edge(dir, name));
        }
    }

    /// Directories that a publish would take the names from.
    fn going(&self, dir: DirId, force: &Force, links_only: bool) -> Vec<(Name, Removed)> {
        let pending = self.dirs.get(&dir).into_iter().flat_map(|d| &d.pending);
        let going = pending.filter(|(name, p)| !(links_only && p.wanted.is_none()) && force.needs(dir, name));
        going.flat_map(|(name, p)| p.removed.iter().map(|removed| (Arc::clone(name), removed.clone()))).collect()
    }

    /// Directories with pending changes that were removed from under a name.
    pub(super) fn unfinished<'a>(&'a self, pending: &'a Pending) -> impl Iterator<Item = DirId> + 'a {
        let known = pending.removed.iter().filter_map(|removed| self.by_cap.get(&cap_key(&removed.cap)).copied());
        known.filter(|id| self.dirs.get(id).is_some_and(|d| !d.pending.is_empty()))
    }

    /// Directories with pending changes that go from `dir`, then those that go from these, and so on.
    fn to_empty_first(&self, dir: DirId, force: &Force) -> Vec<Vec<DirId>> {
        let (mut seen, mut levels, mut level) = (HashSet::from([dir]), Vec::new(), vec![dir]);
        loop {
            let mut next = Vec::new();
            for (id, d) in level.iter().filter_map(|id| Some((*id, self.dirs.get(id)?))) {
                let names = d.pending.iter().filter(|(name, _)| id != dir || force.needs(dir, name));
                let below = names.flat_map(|(_, pending)| self.unfinished(pending));
                next.extend(below.filter(|below| seen.insert(*below)));
            }
            if next.is_empty() {
                return levels;
            }
            levels.push(next.clone());
            level = next;
        }
    }

    /// Directories that were to lose this name are not empty: what is in them was put there by another client.
    fn stay(&mut self, dir: DirId, name: &Name, full: &[Cap], now_secs: i64, host: &str) {
        let Some(d) = self.dirs.get(&dir) else { return };
        let Some(pending) = d.pending.get(name) else { return };
        let was_removed = |cap: &&Cap| pending.removed.iter().any(|removed| removed.cap == **cap);
        let there = d.table.as_ref().and_then(|t| t.entries.get(name)).cloned();
        let is_there = |cap: &Cap| there.as_ref().is_some_and(|child| child.cap.readonly() == cap.readonly());
        let (named, nameless): (Vec<Cap>, Vec<Cap>) =
            full.iter().filter(was_removed).cloned().partition(|cap| is_there(cap));
        let (is_removal, first) = (pending.wanted.is_none(), pending.first);
        tracing::warn!(name = &**name, "another client has put something into this directory; it is not removed");
        if let (Some(cap), Some(there)) = (named.first(), &there) {
            let fresh = if is_removal { None } else { self.set_aside(dir, name, Some(there), now_secs, host) };
            self.done(dir, name);
            self.note_conflict(dir, name, fresh, now_secs);
            if let Some(id) = self.by_cap.get(&cap_key(cap)).copied() {
                let entry = Entry::of(name, there, self.next_seq);
                self.led_to(id, dir, name, &entry);
            }
        } else if is_removal {
            self.done(dir, name);
        } else {
            nameless.iter().for_each(|cap| self.forget_removed(dir, name, cap));
        }
        for cap in nameless {
            self.name_again(dir, name, &cap, first, now_secs, host);
        }
    }

    fn forget_removed(&mut self, dir: DirId, name: &Name, cap: &Cap) {
        if let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(name)) {
            pending.removed.retain(|removed| removed.cap != *cap);
            self.touched.insert(Key::Edge(dir, Arc::clone(name)));
        }
    }

    /// Takes over what was found after a publish of `dir`, whose oldest change was `first`.
    pub(super) fn looked_after(&mut self, dir: DirId, after: After, first: u64, now_secs: i64, host: &str) {
        for (name, cap) in after.full.iter().chain(&after.empty) {
            self.forget_removed(dir, name, cap);
        }
        for (name, cap) in after.full {
            tracing::warn!(name = &*name, "another client has put something into this directory; it is not removed");
            self.name_again(dir, &name, &cap, first, now_secs, host);
        }
        for astray in after.astray.iter().filter(|astray| !after.unknown.contains(&astray.name)) {
            self.move_back(dir, astray, first, now_secs, host);
        }
        let Some(d) = self.dirs.get_mut(&dir) else { return };
        let (Some(parent), Some(cap)) = (&mut d.parent, d.cap.clone()) else { return };
        match after.standing {
            Standing::Named => {}
            Standing::Moved(to, name) => {
                (parent.dir, parent.name) = (to, name);
                if self.recorded.contains(&dir) {
                    self.touched.insert(Key::Dir(dir));
                }
            }
            Standing::Gone => {
                let (above, name) = (parent.dir, Arc::clone(&parent.name));
                tracing::warn!(
                    name = &*name,
                    "another client has removed this directory while something was put into it; it is named again"
                );
                self.name_again(above, &name, &cap, first, now_secs, host);
            }
        }
    }

    /// Whether a link to the directory `child` is yet to be published in `parent`.
    fn will_name(&self, parent: DirId, child: DirId, cap: &Cap) -> bool {
        let same = |other: &Cap| other.readonly() == cap.readonly();
        let links = |p: &Pending| match p.wanted.as_ref().map(|entry| &entry.target) {
            Some(Target::Directory(id)) => *id == child && !p.base.as_ref().is_some_and(same),
            Some(Target::Stored(new)) => same(new) && !p.base.as_ref().is_some_and(same),
            Some(Target::File(_)) | None => false,
        };
        self.dirs.get(&parent).is_none_or(|d| d.pending.values().any(links))
    }

    /// Has a directory that lost its name named again, by a conflict name where the old one is taken. Who waits for what
    /// is as old as `first` waits for that.
    pub(super) fn name_again(&mut self, dir: DirId, name: &Name, cap: &Cap, first: u64, now_secs: i64, host: &str) {
        let Some(child) = self.by_cap.get(&cap_key(cap)).copied() else { return };
        let target = Target::Directory(child);
        let is_it = |target: &Target| match target {
            Target::Directory(id) => *id == child,
            Target::Stored(other) => other.readonly() == cap.readonly(),
            Target::File(_) => false,
        };
        let Some(d) = self.dirs.get_mut(&dir) else { return };
        let known = d.pending.get(name).and_then(|p| p.wanted.clone()).filter(|entry| is_it(&entry.target));
        if known.is_some() {
            // Its attributes were to be changed.
            d.take(name);
        }
        let entry = known.unwrap_or_else(|| {
            let parent = self.dirs.get(&child).and_then(|c| c.parent.as_ref());
            let (attributes, metadata) = parent.map_or_else(
                || (Attributes::new(FileType::Directory), Metadata::default()),
                |parent| (parent.attributes.clone(), parent.metadata.clone()),
            );
            Entry { target: target.clone(), attributes, metadata, seen: Seen::default() }
        });
        let is_free = self.find(dir, name).is_none_or(|found| is_it(&found.target));
        let place = if is_free { Arc::clone(name) } else { self.fresh_name(dir, name, now_secs, host) };
        let base = Seen { cap: None, at: self.next_seq };
        self.want(dir, Arc::clone(&place), Some(Entry { target, ..entry }), base, false, None);
        if let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(&place)) {
            pending.base = None;
            pending.first = pending.first.min(first);
        }
        self.note_conflict(dir, name, Some(place).filter(|place| place != name), now_secs);
    }
}
