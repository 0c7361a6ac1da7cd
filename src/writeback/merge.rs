//! Two directories that were made under one name at the same time: both are one from then on, the one that was there first.
//!
//! Ours becomes the other: what it holds is linked into that one, as changes like any other, and whoever has it open goes
//! on in that one. Names that stand in both are conflicts of their own: of directories, merged likewise.

use std::collections::HashSet;
use std::sync::Arc;

use super::publish::Attempt;
use super::{DirId, Entry, Key, Seen, State, Target, Writeback, cap_key};
use crate::cap::Cap;
use crate::node::{Child, Directory, EditOutcome, Freshness, Name, NodeError, Table};
use crate::util::Cx;

/// Directories of ours that have met others under their names.
#[derive(Default)]
pub(super) struct Merged {
    /// Those that are the others now.
    pub names: HashSet<Name>,
    /// Those that could not be looked at: it is tried again.
    pub unknown: HashSet<Name>,
    pub error: Option<NodeError>,
}

impl Writeback {
    /// Merges the new directories of ours among `attempts` that have met others under their names in `dir`. One that can
    /// be read by nobody is left alone: ours gets a conflict name.
    pub(super) async fn merge_all(&self, cx: &Cx, dir: DirId, attempts: &[(Attempt, EditOutcome)]) -> Merged {
        let mut all = Merged::default();
        for (attempt, outcome) in attempts {
            let EditOutcome::Conflict { found: Some(found) } = outcome else { continue };
            let name = &attempt.name;
            let Some(ours) = self.state().new_directory_at(dir, name, found) else { continue };
            match self.merge(cx, ours, &found.cap, attempt.first).await {
                Ok(true) => {
                    tracing::info!(name = &**name, "another client has made this directory too; they are one now");
                    all.names.insert(Arc::clone(name));
                }
                Ok(false) => {}
                Err(error) if error.is_final() => {
                    tracing::warn!(name = &**name, %error, "another client has made this directory too; it cannot be read");
                }
                Err(error) => {
                    all.unknown.insert(Arc::clone(name));
                    all.error = Some(error);
                }
            }
        }
        all
    }

    /// Makes `ours` the directory behind `cap`. Who publishes the directory above holds its lock; that of `ours`, below it,
    /// keeps publishes away that still go to what it was.
    async fn merge(&self, cx: &Cx, ours: DirId, cap: &Cap, first: u64) -> Result<bool, NodeError> {
        let theirs = self.factory.directory(cap)?;
        let Some((node, publishing)) = self.node_of(ours) else { return Ok(false) };
        let _one = publishing.lock().await;
        let held = node.snapshot(cx, Freshness::Newest).await?;
        let there = theirs.snapshot(cx, Freshness::Newest).await?;
        let kept = {
            let mut state = self.state();
            // Somebody has opened the other one meanwhile, by another name.
            if state.by_cap.contains_key(&cap_key(cap)) {
                return Ok(false);
            }
            state.become_other(ours, cap, theirs, there, &held, first);
            self.keep(&mut state)
        };
        kept.done().await?;
        Ok(true)
    }
}

impl State {
    /// The directory that is wanted under a name, if it was made here, nobody else can have it, and `found` is one into
    /// which it can be merged.
    fn new_directory_at(&self, dir: DirId, name: &Name, found: &Child) -> Option<DirId> {
        let cap = &found.cap;
        let is_fit = cap.is_directory() && cap.is_mutable() && !cap.is_readonly() && self.is_named_as(dir, name, found);
        let pending = self.dirs.get(&dir)?.pending.get(name)?;
        let Target::Directory(ours) = pending.wanted.as_ref()?.target else { return None };
        let is_new = self.dirs.get(&ours)?.is_new;
        (is_fit && is_new && !self.by_cap.contains_key(&cap_key(cap))).then_some(ours)
    }

    /// `held` is what has been published in what `ours` was, `there` what stands in the other.
    fn become_other(
        &mut self,
        ours: DirId,
        cap: &Cap,
        node: Arc<dyn Directory>,
        there: Arc<Table>,
        held: &Table,
        first: u64,
    ) {
        let Some(d) = self.dirs.get_mut(&ours) else { return };
        let pending = std::mem::take(&mut d.pending);
        let old = d.cap.replace(cap.clone());
        d.unproven = None;
        d.node = Some(node);
        d.directories.1 = 0;
        d.published_here.clear();
        d.is_new = false;
        d.install(there);
        if let Some(old) = old {
            self.by_cap.remove(&cap_key(&old));
        }
        self.by_cap.insert(cap_key(cap), ours);
        self.born.remove(&ours);
        self.touched.insert(Key::Dir(ours));
        self.touch_links_in(ours);
        // What was published in ours is published anew, or was removed: a replay must not do either again.
        let done: Vec<_> = self.retired.keys().filter(|(dir, _)| *dir == ours).cloned().collect();
        for place in done {
            self.retired.remove(&place);
            self.touched.insert(Key::Edge(place.0, place.1));
        }
        let at = self.next_seq;
        for (name, child) in held.entries.iter().filter(|(name, _)| !pending.contains_key(*name)) {
            let mut entry = Entry::of(name, child, at);
            // It may have to be merged in its turn.
            if let Some(child) = self.by_cap.get(&cap_key(&child.cap)) {
                entry.target = Target::Directory(*child);
            }
            self.want(ours, Arc::clone(name), Some(entry), Seen { cap: None, at }, false, None);
            self.as_old_as(ours, name, first);
        }
        for (name, before) in pending {
            self.touched.insert(Key::Edge(ours, Arc::clone(&name)));
            let first = before.first.min(first);
            let (base, tried, older) = (None, Vec::new(), Vec::new());
            let changed = super::Pending { base, tried, older, rides_along: false, first, ..before };
            // What was removed never was in the other.
            if changed.wanted.is_some()
                && let Some(d) = self.dirs.get_mut(&ours)
            {
                d.put(name, changed);
            }
        }
    }

    pub(super) fn as_old_as(&mut self, dir: DirId, name: &Name, first: u64) {
        if let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(name)) {
            pending.first = pending.first.min(first);
        }
    }

    /// Others can reach a directory from now on, and all that is published below it.
    pub(super) fn is_known_to_others(&mut self, dir: DirId) {
        let mut next = vec![dir];
        while let Some(id) = next.pop() {
            let Some(d) = self.dirs.get_mut(&id).filter(|d| d.is_new) else { continue };
            d.is_new = false;
            let children = d.table.iter().flat_map(|table| table.entries.values()).filter(|c| c.cap.is_directory());
            let caps: Vec<_> = children.map(|child| cap_key(&child.cap)).collect();
            next.extend(caps.iter().filter_map(|cap| self.by_cap.get(cap)));
        }
    }
}
