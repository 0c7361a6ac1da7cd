//! A part of the tree that somebody waits for, and what its publication needs outside of it.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Content, DirId, FileObject, Pending, State, Target, Writeback, cap_key};
use crate::cap::{Cap, StorageIndex};
use crate::node::Name;

/// A name and all below it, as they were when somebody asked.
#[derive(Debug)]
pub struct Part {
    place: (DirId, Name),
    dirs: HashSet<DirId>,
    /// Mutable files whose changed contents belong to it, by address, which counts while [`State::contents`] has them.
    contents: HashSet<usize>,
}

/// What must be on the grid for a [`Part`] to be there.
#[derive(Debug)]
pub(super) struct Needs {
    part: Arc<Part>,
    /// Names outside of it that must be published too: those that lead to it, and new ones of what was moved out of it.
    names: HashSet<(DirId, Name)>,
}

impl Needs {
    pub fn has(&self, dir: DirId, name: &Name) -> bool {
        self.part.dirs.contains(&dir) || self.names.contains(&(dir, Arc::clone(name)))
    }

    pub fn has_content(&self, content: &Content) -> bool {
        self.part.contents.contains(&address(&content.file))
    }
}

fn address(file: &Arc<FileObject>) -> usize {
    Arc::as_ptr(file) as usize
}

/// What can be reached from somewhere without asking the grid.
#[derive(Default)]
struct Reached {
    dirs: HashSet<DirId>,
    mutables: HashSet<StorageIndex>,
}

impl Writeback {
    /// What stands under a name, and all below. `root` is the directory from which everything can be reached: changes
    /// of which it is not known where they belong, as their directories were not looked at since the last mount, are
    /// taken for part of it.
    pub fn part(&self, dir: DirId, name: &Name, root: DirId) -> Part {
        let state = self.state();
        let (mut inside, mut known) = (Reached::default(), Reached::default());
        if let Some(top) = state.find(dir, name).and_then(|entry| state.lead(&entry.target, &mut inside)) {
            state.reach(top, &mut inside);
        }
        state.reach(root, &mut known);
        let lost: Vec<DirId> =
            state.dirs.iter().filter(|(_, d)| d.node.is_some() && !d.pending.is_empty()).map(|d| *d.0).collect();
        for dir in lost.into_iter().filter(|dir| !known.dirs.contains(dir)) {
            state.reach(dir, &mut inside);
        }
        let belongs = |content: &&Content| {
            let si = content.file.write_cap().and_then(|cap| cap.storage_index());
            si.is_none_or(|si| inside.mutables.contains(&si) || !known.mutables.contains(&si))
        };
        let contents = state.contents.iter().filter(belongs).map(|content| address(&content.file)).collect();
        Part { place: (dir, Arc::clone(name)), dirs: inside.dirs, contents }
    }
}

impl State {
    /// Adds `from` and all below it, as far as tables are in memory: nothing is pending elsewhere.
    fn reach(&self, from: DirId, reached: &mut Reached) {
        let mut next = vec![from];
        while let Some(id) = next.pop() {
            let Some(d) = self.dirs.get(&id).filter(|_| reached.dirs.insert(id)) else { continue };
            let published = d.table.iter().flat_map(|table| &table.entries);
            for (_, child) in published.filter(|(name, _)| !d.pending.contains_key(*name)) {
                next.extend(self.step(&child.cap, reached));
            }
            for entry in d.pending.values().filter_map(|p| p.wanted.as_ref()) {
                next.extend(self.lead(&entry.target, reached));
            }
        }
    }

    /// The directory that a target is, if it was ever opened; notes a mutable file.
    fn lead(&self, target: &Target, reached: &mut Reached) -> Option<DirId> {
        match target {
            Target::Directory(child) => Some(*child),
            Target::Stored(cap) => self.step(cap, reached),
            Target::File(file) => {
                reached.mutables.extend(file.write_cap().and_then(|cap| cap.storage_index()));
                None
            }
        }
    }

    /// The directory behind a cap, if it was ever opened; notes a mutable file.
    fn step(&self, cap: &Cap, reached: &mut Reached) -> Option<DirId> {
        if cap.is_directory() {
            return self.by_cap.get(&cap_key(cap)).copied();
        }
        reached.mutables.extend(cap.storage_index().filter(|_| cap.is_mutable()));
        None
    }

    /// What `part` needs of what was pending at `until`, and the directories on the grid that have some of it.
    pub(super) fn needs(&self, part: &Arc<Part>, until: u64) -> (Needs, Vec<DirId>) {
        let mut needs = Needs { part: Arc::clone(part), names: HashSet::new() };
        let is_old = |p: &Pending| {
            p.first <= until || p.file().is_some_and(|f| f.is_dirty() && part.contents.contains(&address(f)))
        };
        let mut next: Vec<(DirId, Name)> = Vec::new();
        let mut above: Vec<DirId> = vec![part.place.0];
        for (id, d) in part.dirs.iter().filter_map(|id| Some((*id, self.dirs.get(id)?))) {
            let old = d.pending.iter().filter(|(_, p)| is_old(p));
            next.extend(old.map(|(name, _)| (id, Arc::clone(name))));
        }
        let named = self.dirs.get(&part.place.0).and_then(|d| d.pending.get(&part.place.1));
        next.extend(named.filter(|p| is_old(p)).map(|_| part.place.clone()));
        let mut led = HashSet::new();
        loop {
            while let Some(place) = next.pop() {
                let pending = self.dirs.get(&place.0).and_then(|d| d.pending.get(&place.1));
                let Some(pending) = pending.filter(|_| !needs.names.contains(&place)) else { continue };
                next.extend(pending.after.clone().filter(|(dir, name)| !self.is_linked(*dir, name)));
                for emptied in self.unfinished(pending) {
                    let names = self.dirs.get(&emptied).into_iter().flat_map(|d| d.pending.keys());
                    next.extend(names.map(|name| (emptied, Arc::clone(name))));
                }
                above.push(place.0);
                needs.names.insert(place);
            }
            let Some(dir) = above.pop() else { break };
            let Some(d) = self.dirs.get(&dir).filter(|_| led.insert(dir)) else { continue };
            let is_edge = |p: &Pending| {
                let target = p.wanted.as_ref().map(|entry| &entry.target);
                matches!(target, Some(Target::Directory(id)) if *id == dir) && (d.cap.is_none() || p.first <= until)
            };
            let Some(home) = d.home else { continue };
            let edges = self.dirs.get(&home).into_iter().flat_map(|h| &h.pending).filter(|(_, p)| is_edge(p));
            next.extend(edges.map(|(name, _)| (home, Arc::clone(name))));
        }
        let mut dirs: HashSet<DirId> = needs.names.iter().map(|(dir, _)| *dir).collect();
        dirs.retain(|dir| self.dirs.get(dir).is_some_and(|d| d.node.is_some()));
        (needs, dirs.into_iter().collect())
    }
}
