//! Hard links: the names that share a file.
//!
//! Names whose edges have one birth id and one content are one file. What is known of its names stands in the journal,
//! one record for each file that ever had two here, also when nothing is pending: a change through one name is made to the
//! edges of all. Giving a file another name changes no edge but the new one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Change, Changed, DirId, Entry, FileObject, Key, State, Target, Weight, Writeback};
use crate::cap::Cap;
use crate::journal::{Batch, LinkRecord, LinkedIn};
use crate::node::{Attributes, Freshness, Name, NodeError, Timestamp};
use crate::util::Cx;

/// What is known of the names of a file.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Where they are.
    pub names: Vec<(DirId, Name)>,
    /// Whether there are no others, but for those that other clients have given it.
    pub is_exact: bool,
    /// When it last got or lost a name.
    pub changed: Option<Timestamp>,
    /// Whether it is as the journal had it when that was opened.
    is_as_read: bool,
}

/// How often what is known is looked for, which others may forget.
const ATTEMPTS: usize = 3;
/// Files with several names that are remembered, beside those whose names have changed.
const REMEMBERED: usize = 10_000;

/// What a file gets or loses.
#[derive(Clone, Debug)]
pub enum LinkChange {
    /// A name, where it has another.
    Add {
        /// The new one.
        place: (DirId, Name),
        /// The other.
        beside: (DirId, Name),
        /// Whether it had no others but that.
        is_exact: bool,
    },
    /// A name is gone.
    Remove((DirId, Name)),
    /// A name has become another.
    Move((DirId, Name), (DirId, Name)),
}

impl Links {
    fn add(&mut self, place: (DirId, Name)) {
        if !self.names.contains(&place) {
            self.names.push(place);
        }
    }

    /// How many links it has, at least, of which `known` are names that are known.
    fn count(&self, known: usize, is_linked: bool) -> u32 {
        let known = u32::try_from(known).unwrap_or(u32::MAX);
        if self.is_exact || known == 0 || !is_linked { known } else { known.max(2) }
    }
}

impl Writeback {
    /// What is known of the names of the file with this birth id, if it ever had two.
    pub fn links(&self, id: &str) -> Option<Links> {
        self.know_links(id);
        self.state().links.get(id).cloned()
    }

    /// Whether it ever had two names.
    pub fn is_linked(&self, id: &str) -> bool {
        self.know_links(id);
        self.state().links.contains_key(id)
    }

    /// How many links it has, at least, and when it last got or lost one.
    pub fn link_count(&self, id: &str, is_linked: bool) -> Option<(u32, Option<Timestamp>)> {
        self.know_links(id);
        let state = self.state();
        let links = state.links.get(id)?;
        let known = links.names.iter().filter(|(dir, name)| !state.is_anothers(*dir, name, id)).count();
        Some((links.count(known, is_linked), links.changed))
    }

    /// The birth ids of files that have, or had, a name among those that others have changed.
    pub fn linked_among(&self, changes: &[(DirId, Changed)]) -> Vec<String> {
        let changed: HashMap<DirId, &Changed> = changes.iter().map(|(dir, changed)| (*dir, changed)).collect();
        let is_among = |(dir, name): &(DirId, Name)| match changed.get(dir) {
            Some(Changed::Names(names)) => names.contains(name),
            Some(Changed::All) => true,
            None => false,
        };
        let state = self.state();
        let among = state.links.iter().filter(|(_, links)| links.names.iter().any(is_among));
        among.map(|(id, _)| id.clone()).collect()
    }

    /// Two names have been seen that lead to one file.
    pub fn saw_link(&self, id: &str, place: (DirId, Name), beside: (DirId, Name), is_exact: bool) {
        self.know_links(id);
        let mut state = self.state();
        let known = state.links.get(id).map_or(0, |links| links.names.len());
        if known == 0 || state.links.get(id).is_some_and(|links| !links.names.contains(&place)) {
            state.change_links(id.to_owned(), LinkChange::Add { place, beside, is_exact }, None);
        }
    }

    /// Loads the directories that have names of this file, and forgets names that are not its any more, or are lost with
    /// their directories.
    pub async fn reach_links(&self, cx: &Cx, id: &str) -> Result<(), NodeError> {
        let Some(links) = self.links(id) else { return Ok(()) };
        let dirs: HashSet<DirId> = links.names.iter().map(|(dir, _)| *dir).collect();
        let mut lost = HashSet::new();
        for dir in dirs {
            match self.load(cx, dir, Freshness::Cached).await {
                Err(error) if error.is_lost() => drop(lost.insert(dir)),
                loaded => drop(loaded?),
            }
        }
        let mut state = self.state();
        for (dir, name) in links.names {
            let is_its = !lost.contains(&dir)
                && state.find(dir, &name).is_some_and(|entry| entry.attributes.id.as_deref() == Some(id));
            if !is_its {
                state.unlink(id, &(dir, name));
            }
        }
        Ok(())
    }

    /// A name of this file was removed by another client.
    pub fn lost_link(&self, id: &str, dir: DirId, name: &Name) {
        if self.is_linked(id) {
            self.state().unlink(id, &(dir, Arc::clone(name)));
        }
    }

    /// Sees to it that what is known of a file's names is there from now on.
    pub(super) fn hold_links(&self, id: &str) {
        // Others may forget it in between.
        for _ in 0..ATTEMPTS {
            self.know_links(id);
            if let Some(links) = self.state().links.get_mut(id) {
                links.is_as_read = false;
                return;
            }
        }
    }

    /// Takes over what the journal knows.
    pub(super) fn know_links(&self, id: &str) {
        if self.state().links.contains_key(id) {
            return;
        }
        let Some(record) = self.journal.link(id).filter(|record| record.id == id) else { return };
        let place = |(dir, name): (LinkedIn, String)| {
            let dir = match dir {
                LinkedIn::Cap(cap) => self.directory(&Cap::parse(&cap).ok()?).ok()?,
                LinkedIn::Directory(id) => Some(DirId(id)).filter(|id| self.state().dirs.contains_key(id))?,
            };
            Some((dir, Name::from(name)))
        };
        let names = record.names.into_iter().filter_map(place).collect();
        let changed = record.changed.map(|(secs, nanos)| Timestamp { secs, nanos });
        let links = Links { names, is_exact: record.is_exact, changed, is_as_read: true };
        let mut state = self.state();
        if state.links.len() >= state.forget_links_at {
            state.links.retain(|_, links| !links.is_as_read);
            state.forget_links_at = state.links.len() + REMEMBERED;
        }
        state.links.entry(id.to_owned()).or_insert(links);
    }
}

impl State {
    pub(super) fn change_links(&mut self, id: String, change: LinkChange, at: Option<Timestamp>) {
        match change {
            LinkChange::Add { place, beside, is_exact } => {
                let links = self.links.entry(id.clone()).or_insert(Links { is_exact, ..Links::default() });
                links.add(beside.clone());
                links.add(place.clone());
                for (dir, name) in [place, beside] {
                    if let Some(file) = self.dirs.get(&dir).and_then(|d| d.pending.get(&name)?.file()) {
                        file.has_many_names();
                    }
                }
            }
            LinkChange::Remove(place) => self.unlink(&id, &place),
            LinkChange::Move(from, to) => self.relink(Some(&id), &from, &to),
        }
        if let Some(links) = self.links.get_mut(&id) {
            links.changed = links.changed.max(at);
            links.is_as_read = false;
            self.touched.insert(Key::Link(id));
        }
    }

    /// Whether what was last seen of a directory has nothing, or another file, under a name that the file with this birth id
    /// had.
    fn is_anothers(&self, dir: DirId, name: &Name, id: &str) -> bool {
        let Some(d) = self.dirs.get(&dir) else { return false };
        match (d.pending.get(name), &d.table) {
            (Some(pending), _) => pending.wanted.as_ref().and_then(|entry| entry.attributes.id.as_deref()) != Some(id),
            (None, Some(table)) => table.entries.get(name).and_then(|child| Attributes::id_of(child)) != Some(id),
            (None, None) => false,
        }
    }

    fn unlink(&mut self, id: &str, place: &(DirId, Name)) {
        let Some(links) = self.links.get_mut(id) else { return };
        links.names.retain(|known| known != place);
        links.is_as_read = false;
        self.touched.insert(Key::Link(id.to_owned()));
    }

    /// What stands at a place has another name now.
    pub(super) fn relink(&mut self, id: Option<&str>, from: &(DirId, Name), to: &(DirId, Name)) {
        let Some((id, links)) = id.and_then(|id| Some((id, self.links.get_mut(id)?))) else { return };
        if let Some(known) = links.names.iter_mut().find(|known| *known == from) {
            *known = to.clone();
            links.is_as_read = false;
            self.touched.insert(Key::Link(id.to_owned()));
        }
    }

    /// Puts `entry` under all names of a file, each of which keeps what is its own. Those that other clients have given to
    /// something else are its names no more.
    pub(super) fn spread(&mut self, id: &str, place: Option<(DirId, Name)>, entry: &Entry, weight: Weight) {
        let names = self.links.get(id).map_or_else(Vec::new, |links| links.names.clone());
        if let Target::File(file) = &entry.target {
            file.has_many_names();
        }
        for (dir, name) in names {
            if place.as_ref() == Some(&(dir, Arc::clone(&name))) {
                continue;
            }
            let Some(d) = self.dirs.get(&dir) else { continue };
            if d.node.is_some() && d.table.is_none() && !d.pending.contains_key(&name) {
                // Nothing is known of it.
                continue;
            }
            let is_writeable = d.node.as_ref().is_none_or(|node| node.is_writeable());
            let there = self.find(dir, &name).filter(|there| {
                let is_its = there.attributes.id.as_deref() == Some(id);
                is_writeable && is_its && is_same(&there.target, &entry.target)
            });
            match there {
                Some(there) => {
                    let attributes = Attributes { name: there.attributes.name, ..entry.attributes.clone() };
                    let target = entry.target.clone();
                    let entry = Entry { target, attributes, metadata: there.metadata, seen: there.seen };
                    self.change(Change::Put { dir, name, entry, weight });
                }
                None => self.unlink(id, &(dir, name)),
            }
        }
        if let Some((dir, name)) = place {
            if let Some(links) = self.links.get_mut(id)
                && !links.names.contains(&(dir, Arc::clone(&name)))
            {
                links.add((dir, Arc::clone(&name)));
                links.is_as_read = false;
                self.touched.insert(Key::Link(id.to_owned()));
            }
            let mut entry = entry.clone();
            // What is another's there is a conflict.
            if let Some(there) = self.find(dir, &name).filter(|there| is_same(&there.target, &entry.target)) {
                entry.attributes.name = there.attributes.name;
                (entry.metadata, entry.seen) = (there.metadata, there.seen);
            }
            self.change(Change::Put { dir, name, entry, weight });
        }
    }

    pub(super) fn record_links(&mut self, id: &str, batch: &mut Batch) {
        let Some(links) = self.links.get(id).cloned() else { return };
        if links.names.is_empty() {
            return batch.remove_link(id);
        }
        let mut names = Vec::new();
        for (dir, name) in links.names {
            let cap = self.dirs.get(&dir).and_then(|d| d.cap.as_ref()).filter(|_| !self.born.contains(&dir));
            let linked_in = match cap {
                Some(cap) => LinkedIn::Cap(cap.to_uri()),
                None => {
                    self.local_links.entry(dir).or_default().insert(id.to_owned());
                    self.record_dir(dir, batch, false);
                    LinkedIn::Directory(dir.0)
                }
            };
            names.push((linked_in, name.to_string()));
        }
        let changed = links.changed.map(|at| (at.secs, at.nanos));
        batch.put_link(LinkRecord { id: id.to_owned(), names, is_exact: links.is_exact, changed });
    }

    /// The records of linked files that name this directory by its local id, which its cap replaces.
    pub(super) fn record_links_in(&mut self, dir: DirId, batch: &mut Batch) -> HashSet<String> {
        let ids = self.local_links.remove(&dir).unwrap_or_default();
        ids.iter().for_each(|id| self.record_links(id, batch));
        ids
    }

    /// A directory has another cap.
    pub(super) fn touch_links_in(&mut self, dir: DirId) {
        let names_it = |links: &Links| links.names.iter().any(|(at, _)| *at == dir);
        let ids = self.links.iter().filter(|(_, links)| names_it(links)).map(|(id, _)| Key::Link(id.clone()));
        self.touched.extend(ids);
    }
}

/// Whether two edges have one content, or one that was made from the other's.
pub fn is_same(one: &Target, other: &Target) -> bool {
    let is_made_from = |file: &Arc<FileObject>, cap: &Cap| {
        let is_own = file.is_of(cap) || file.began_as(cap);
        is_own || file.write_cap().is_some_and(|own| own.storage_index() == cap.storage_index())
    };
    match (one, other) {
        // One that is stored and closed is opened anew as another object, also before its edges are published.
        (Target::File(one), Target::File(other)) => {
            let follows = |new, old: &FileObject| old.stored().is_some_and(|cap| is_made_from(new, &cap));
            Arc::ptr_eq(one, other) || follows(one, other) || follows(other, one)
        }
        (Target::Stored(cap), Target::File(file)) | (Target::File(file), Target::Stored(cap)) => {
            is_made_from(file, cap)
        }
        (Target::Stored(one), Target::Stored(other)) => one.readonly() == other.readonly(),
        (Target::Directory(_), _) | (_, Target::Directory(_)) => false,
    }
}
