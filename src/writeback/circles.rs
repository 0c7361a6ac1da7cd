//! Directories that clients move into each other at the same time.
//!
//! Of a move the new name is published first, and the old one goes after it. Two of them, of one directory into another and
//! of that into the first, are each right, and together would leave both where nobody can reach them. So who has taken away
//! an old name walks from the new one up to what is mounted. Where that leads back to the directory, or to one that has no
//! name, the move is undone. Each walks after it has published, so one of the two at least sees what the other did.

use std::collections::HashSet;
use std::sync::Arc;

use super::publish::Done;
use super::reach::{After, Standing};
use super::{Change, DirId, Entry, Pending, State, Target, Writeback, cap_key};
use crate::cap::Cap;
use crate::node::{Name, NodeError};
use crate::util::Cx;

/// A directory that cannot be reached by its new name.
pub(super) struct Astray {
    /// The name that it has lost.
    pub name: Name,
    dir: DirId,
}

impl Writeback {
    /// Looks, after a publish of `dir`, whether the directories that were moved away by it can be reached.
    pub(super) async fn look_for_circles(&self, cx: &Cx, dir: DirId, done: &Done, after: &mut After) {
        let moved = self.state().moved_away(dir, done);
        for (name, child) in moved {
            match self.leads_up(cx, child).await {
                Ok(true) => {}
                Ok(false) => after.astray.push(Astray { name, dir: child }),
                Err(error) => {
                    after.unknown.insert(name);
                    after.error = Some(error);
                }
            }
        }
    }

    /// Whether the names above a directory lead to what is mounted, as far as this mount has seen it.
    async fn leads_up(&self, cx: &Cx, dir: DirId) -> Result<bool, NodeError> {
        let (mut seen, mut at) = (HashSet::from([dir]), dir);
        loop {
            let known = self.state().dirs.get(&at).and_then(|d| Some(d.parent.as_ref()?.dir));
            at = match (self.look_up(cx, at).await?, known) {
                (Standing::Moved(above, _), _) | (Standing::Named, Some(above)) => above,
                (Standing::Named, None) => return Ok(true),
                (Standing::Gone, _) => return Ok(false),
            };
            if !seen.insert(at) {
                return Ok(false);
            }
        }
    }
}

impl State {
    /// Directories whose old names in `dir` a publish has taken away, since they were moved into others.
    fn moved_away(&self, dir: DirId, done: &Done) -> Vec<(Name, DirId)> {
        let Some(d) = self.dirs.get(&dir) else { return Vec::new() };
        let moved = |name: &Name| {
            let pending: &Pending = d.pending.get(name)?;
            let base = pending.base.as_ref().filter(|base| base.is_directory())?;
            let child = *self.by_cap.get(&cap_key(base))?;
            let is_there = matches!(&pending.wanted, Some(Entry { target: Target::Directory(id), .. }) if *id == child);
            let parent = self.dirs.get(&child)?.parent.as_ref()?;
            (!is_there && parent.dir != dir).then(|| (Arc::clone(name), child))
        };
        done.names().filter_map(moved).collect()
    }

    /// Gives a directory that cannot be reached by its new name the old one again, in `dir`, or a conflict name where that is
    /// taken. Who waits for what is as old as `first` waits for that.
    pub(super) fn move_back(&mut self, dir: DirId, astray: &Astray, first: u64, now_secs: i64, host: &str) {
        let Astray { name, dir: child } = astray;
        let Some((cap, parent)) = self.dirs.get(child).and_then(|d| Some((d.cap.clone()?, d.parent.clone()?))) else {
            return;
        };
        tracing::warn!(
            name = &**name,
            "another client has moved what this directory was moved into; it has its old name again"
        );
        let is_free = self.find(dir, name).is_none();
        let place = if is_free { Arc::clone(name) } else { self.fresh_name(dir, name, now_secs, host) };
        let (from, to) = ((parent.dir, Arc::clone(&parent.name)), (dir, Arc::clone(&place)));
        let Some(entry) = self.find(from.0, &from.1).filter(|entry| leads_to(entry, *child, &cap)) else {
            return self.name_again(dir, name, &cap, first, now_secs, host);
        };
        let places = [from.clone(), to.clone()];
        self.change(Change::Rename { from, to, entry: Entry { target: Target::Directory(*child), ..entry } });
        for (dir, name) in &places {
            self.as_old_as(*dir, name, first);
            self.tell(*dir, name);
        }
        self.note_conflict(dir, name, Some(place).filter(|place| place != name), now_secs);
    }
}

fn leads_to(entry: &Entry, dir: DirId, cap: &Cap) -> bool {
    match &entry.target {
        Target::Directory(id) => *id == dir,
        Target::Stored(other) => other.readonly() == cap.readonly(),
        Target::File(_) => false,
    }
}
