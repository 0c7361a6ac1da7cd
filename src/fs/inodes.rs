//! The inode table.
//!
//! Identity is (parent inode, name): the grid's graph may show one object under many names, a kernel wants one dentry
//! for a directory. Files with one birth id and one content are one, under however many names. Numbers derive from that
//! identity, so remounts agree; a rename keeps the number of a directory while it is mounted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::FsError;
use super::attr::{Ino, ROOT};
use crate::cap::Cap;
use crate::crypto::hash::sha256d;
use crate::node::{Attributes, Metadata, Name, Timestamp};
use crate::writeback::{DirId, Entry, FileObject, Seen, Target, is_same};

/// What an inode is.
#[derive(Clone)]
pub(super) enum Kind {
    Directory(DirId),
    Stored(Cap),
    /// A new file, or an immutable one that was changed.
    Staged(Arc<FileObject>),
    /// A mutable file, opened by this cap: one object for all its names.
    Mutable(Cap, Arc<FileObject>),
}

/// Whether a name leads to an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// That in its parent does.
    Named,
    /// Another client has removed it, or put something else there: a content that is changed here from then on is put
    /// back, for changed beats removed.
    Taken,
    /// It was removed or replaced here: what is open lives until it is closed.
    Removed,
}

pub(super) struct Inode {
    pub parent: Ino,
    pub name: Name,
    pub kind: Kind,
    pub attributes: Attributes,
    pub metadata: Metadata,
    pub seen: Seen,
    /// Of a mutable file whose times belong to another version than this one, by its mark: when it was first seen.
    pub sighted: Option<(String, Timestamp)>,
    /// How often the kernel has been told of it and not forgotten it.
    pub lookups: u64,
    pub handles: u32,
    pub link: Link,
    /// Further places of a file that has several; while it has any, `link` is [`Link::Named`].
    pub others: Vec<(Ino, Name)>,
    /// It has no place here, but names in directories that were not looked at.
    pub elsewhere: bool,
    /// How many inodes have this one for their parent: it stays as long as they do.
    below: usize,
}

impl Inode {
    pub fn root(dir: DirId, attributes: Attributes, metadata: Metadata) -> Inode {
        let kind = Kind::Directory(dir);
        Inode {
            parent: ROOT,
            name: "".into(),
            kind,
            attributes,
            metadata,
            seen: Seen::default(),
            sighted: None,
            lookups: 1,
            handles: 0,
            link: Link::Named,
            others: Vec::new(),
            elsewhere: false,
            below: 0,
        }
    }

    /// Whether any name leads to it.
    pub fn is_named(&self) -> bool {
        self.link == Link::Named || self.elsewhere
    }

    /// What its edge is to stand for.
    pub fn target(&self) -> Target {
        match &self.kind {
            Kind::Directory(dir) => Target::Directory(*dir),
            Kind::Stored(cap) => Target::Stored(cap.clone()),
            Kind::Staged(file) => Target::File(Arc::clone(file)),
            Kind::Mutable(cap, file) if cap.is_readonly() || file.write_cap().is_none() => Target::Stored(cap.clone()),
            Kind::Mutable(_, file) => Target::File(Arc::clone(file)),
        }
    }

    /// What its edge is to hold.
    pub fn entry(&self) -> Entry {
        let target = self.target();
        Entry { target, attributes: self.attributes.clone(), metadata: self.metadata.clone(), seen: self.seen.clone() }
    }

    /// Bytes, as far as they are known without the grid.
    pub fn size(&self) -> Option<u64> {
        match &self.kind {
            Kind::Directory(_) => Some(4096),
            Kind::Stored(cap) => cap.size(),
            Kind::Staged(file) | Kind::Mutable(_, file) => Some(file.size()),
        }
    }

    /// Takes over what is known of the times of a mutable file, which has changed since the edge was written.
    pub fn update_times(&mut self, now: Timestamp) {
        let Kind::Mutable(_, file) = &self.kind else { return };
        let written_here = file.is_dirty() || self.attributes.seen != file.own_mark();
        if let Some(times) = file.times().filter(|_| written_here) {
            self.attributes.mtime = Some(times.mtime);
            self.attributes.ctime = self.attributes.ctime.max(Some(times.ctime));
            self.attributes.seen = file.own_mark().or(self.attributes.seen.take());
            self.sighted = None;
            return;
        }
        let (known, mark) = (self.attributes.seen.as_ref(), file.mark());
        self.sighted = match mark.filter(|mark| known.is_some_and(|known| known != mark)) {
            Some(mark) if self.sighted.as_ref().is_none_or(|(seen, _)| *seen != mark) => Some((mark, now)),
            Some(_) => self.sighted.take(),
            None => None,
        };
    }

    /// What it is if its name stands for `kind` now; `None` if that is another's: who has it open keeps what was opened,
    /// and what was written here stays.
    fn shows(&self, kind: &Kind) -> Option<Kind> {
        let open = self.handles > 0;
        match (&self.kind, kind) {
            (Kind::Directory(old), Kind::Directory(new)) => (old == new).then(|| kind.clone()),
            (Kind::Directory(_), _) | (_, Kind::Directory(_)) => None,
            (Kind::Stored(old), Kind::Stored(new)) => (old == new || !open).then(|| kind.clone()),
            (Kind::Staged(ours), Kind::Stored(cap)) => match ours.stored() {
                Some(stored) if stored == *cap => Some(if open { self.kind.clone() } else { kind.clone() }),
                Some(_) => (!open).then(|| kind.clone()),
                // What was written last has not been submitted yet.
                None => ours.is_of(cap).then(|| self.kind.clone()),
            },
            (Kind::Mutable(_, old), Kind::Mutable(_, new)) => (Arc::ptr_eq(old, new) || !open).then(|| kind.clone()),
            (Kind::Staged(ours), Kind::Mutable(..)) if ours.stored().is_none() => None,
            (Kind::Mutable(..), _) | (_, Kind::Mutable(..)) => (!open).then(|| kind.clone()),
            // Opened anew since that was stored, while its edge is not published: what is written goes into ours.
            (Kind::Staged(ours), Kind::Staged(other)) if other.stored().is_some_and(|cap| ours.is_of(&cap)) => {
                Some(self.kind.clone())
            }
            (Kind::Staged(ours), Kind::Staged(other)) if ours.stored().is_none() => {
                Arc::ptr_eq(ours, other).then(|| kind.clone())
            }
            (_, Kind::Staged(_)) => Some(kind.clone()),
        }
    }

    /// Takes over what an edge says; of one that is not the first of several, what all have in common.
    fn update(&mut self, entry: &Entry, is_first: bool) {
        let name = if is_first { entry.attributes.name.clone() } else { self.attributes.name.take() };
        self.attributes = Attributes { name, ..entry.attributes.clone() };
        if is_first {
            self.metadata = entry.metadata.clone();
            self.seen = entry.seen.clone();
        }
    }

    /// A file that is stored and no longer open for writing needs no staging.
    pub fn unstage(&mut self) {
        if let Kind::Staged(file) = &self.kind
            && self.handles == 0
            && let Some(cap) = file.stored()
        {
            self.kind = Kind::Stored(cap);
        }
    }
}

pub(super) struct Inodes {
    by_number: HashMap<Ino, Inode>,
    /// Those that have a name, by parent and name.
    named: HashMap<Ino, HashMap<Name, Ino>>,
    /// Those from which another client took a name, the last for each place.
    taken: HashMap<(Ino, Name), Ino>,
    /// Those that show a directory.
    showing: HashMap<DirId, HashSet<Ino>>,
    /// Files by their birth ids: several where names of one are seen apart.
    by_id: HashMap<String, Vec<Ino>>,
}

impl Inodes {
    pub fn new(root: Inode) -> Inodes {
        let showing = match root.kind {
            Kind::Directory(dir) => HashMap::from([(dir, HashSet::from([ROOT]))]),
            Kind::Stored(_) | Kind::Staged(_) | Kind::Mutable(..) => HashMap::new(),
        };
        let by_number = HashMap::from([(ROOT, root)]);
        Inodes { by_number, named: HashMap::new(), taken: HashMap::new(), showing, by_id: HashMap::new() }
    }

    pub fn root(&self) -> &Inode {
        &self.by_number[&ROOT]
    }

    pub fn get(&self, ino: Ino) -> Option<&Inode> {
        self.by_number.get(&ino)
    }

    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.by_number.get_mut(&ino)
    }

    pub fn directory(&self, ino: Ino) -> Result<DirId, FsError> {
        match self.get(ino).ok_or(FsError::Stale)?.kind {
            Kind::Directory(dir) => Ok(dir),
            Kind::Stored(_) | Kind::Staged(_) | Kind::Mutable(..) => Err(FsError::NotDirectory),
        }
    }

    /// The number that what stands at a place has, or would get.
    pub fn number(&self, parent: Ino, name: &Name, entry: &Entry) -> Ino {
        let known = self.at(parent, name).or_else(|| self.of_file(entry));
        known.unwrap_or_else(|| self.new_number(parent, name, entry.attributes.id.as_deref()))
    }

    /// From its birth id, that of no other file; where there is none, from the place.
    fn new_number(&self, parent: Ino, name: &Name, id: Option<&str>) -> Ino {
        let number = |above: Ino, within: &str| {
            let hash = sha256d(&[&above.to_be_bytes(), within.as_bytes()].concat());
            u64::from_be_bytes(hash[..8].try_into().expect("eight bytes")) >> 1
        };
        let is_free = |n: &Ino| *n > ROOT && !self.by_number.contains_key(n);
        // No directory has the number 0.
        let of_file = id.map(|id| number(0, id)).filter(is_free);
        let first = of_file.unwrap_or_else(|| number(parent, name));
        (0..).map(|i| first.wrapping_add(i)).find(is_free).unwrap_or(first)
    }

    /// The inode of the file that an edge stands for, whatever name leads to it: one with this birth id and content, and
    /// rather one that has a name.
    pub fn of_file(&self, entry: &Entry) -> Option<Ino> {
        let named = |ino: &Ino| self.get(*ino).is_some_and(|inode| inode.link == Link::Named);
        self.all_of_file(entry).find(named).or_else(|| self.all_of_file(entry).next())
    }

    fn all_of_file(&self, entry: &Entry) -> impl Iterator<Item = Ino> {
        let is_it = |inode: &Inode| {
            let is_changed = match (&inode.kind, &entry.target) {
                (Kind::Staged(file), Target::Stored(cap)) => !file.has_content_of(cap),
                _ => false,
            };
            let is_same = inode.attributes.kind == entry.attributes.kind && is_same(&inode.target(), &entry.target);
            !is_changed && is_same
        };
        let known = entry.attributes.id.as_ref().and_then(|id| self.by_id.get(id)).into_iter().flatten();
        known.copied().filter(move |ino| self.get(*ino).is_some_and(is_it))
    }

    /// The inodes of the file with this birth id: several where its names are seen apart.
    pub fn of_id(&self, id: &str) -> impl Iterator<Item = Ino> {
        self.by_id.get(id).into_iter().flatten().copied()
    }

    /// What an inode is now, those are too that show its entry, `name` in `dir`, by other paths to `dir`.
    pub fn liken_others(&mut self, ino: Ino, dir: DirId, name: &Name) {
        let Some(above) = self.showing.get(&dir).filter(|above| above.len() > 1) else { return };
        let others = above.iter().filter_map(|above| self.at(*above, name)).filter(|other| *other != ino);
        for other in others.collect::<Vec<_>>() {
            self.liken(other, ino);
        }
    }

    /// Two inodes show one entry, and the first is what the second has become.
    fn liken(&mut self, ino: Ino, model: Ino) {
        let Some(model) = self.by_number.get(&model) else { return };
        let (kind, entry) = (model.kind.clone(), model.entry());
        let Some(inode) = self.by_number.get_mut(&ino) else { return };
        inode.kind = kind;
        inode.metadata = entry.metadata;
        let before = std::mem::replace(&mut inode.attributes, entry.attributes).id;
        self.know_by_id(ino, before);
    }

    /// A file has got a birth id.
    pub fn set_id(&mut self, ino: Ino, id: &str) {
        if let Some(inode) = self.by_number.get_mut(&ino) {
            let before = inode.attributes.id.replace(id.to_owned());
            self.know_by_id(ino, before);
        }
    }

    /// A file has the birth id that it has now, and had another, or none, before.
    fn know_by_id(&mut self, ino: Ino, before: Option<String>) {
        let now = self.by_number.get(&ino).and_then(|inode| inode.attributes.id.clone());
        if now == before {
            return;
        }
        if let Some(before) = before
            && let Some(known) = self.by_id.get_mut(&before)
        {
            known.retain(|known| *known != ino);
            if known.is_empty() {
                self.by_id.remove(&before);
            }
        }
        if let Some(now) = now {
            self.by_id.entry(now).or_default().push(ino);
        }
    }

    /// Gives a file a further place, or a place again; nothing is there.
    pub fn join(&mut self, ino: Ino, parent: Ino, name: Name) {
        let Some(inode) = self.by_number.get_mut(&ino) else { return };
        if inode.link != Link::Named {
            return self.relocate(ino, parent, name);
        }
        inode.others.push((parent, Arc::clone(&name)));
        self.named.entry(parent).or_default().insert(name, ino);
        if let Some(above) = self.by_number.get_mut(&parent) {
            above.below += 1;
        }
    }

    /// Takes a place away from whatever has it, which keeps its others.
    pub fn detach_at(&mut self, parent: Ino, name: &Name, link: Link) {
        let Some(ino) = self.at(parent, name) else { return };
        let Some(inode) = self.by_number.get_mut(&ino).filter(|inode| !inode.others.is_empty()) else {
            return self.detach(ino, link);
        };
        let place = (parent, Arc::clone(name));
        if (inode.parent, &inode.name) == (parent, name) {
            (inode.parent, inode.name) = inode.others.remove(0);
        } else {
            inode.others.retain(|other| *other != place);
        }
        self.leave(ino, &place);
        self.has_one_less_below(parent);
    }

    /// Gives what is at a place another one, from which whatever was there has been detached.
    pub fn relocate_at(&mut self, from: &(Ino, Name), parent: Ino, name: Name) {
        let Some(ino) = self.at(from.0, &from.1) else { return };
        let Some(inode) = self.by_number.get_mut(&ino) else { return };
        match inode.others.iter_mut().find(|other| *other == from) {
            None => self.relocate(ino, parent, name),
            Some(other) => {
                *other = (parent, Arc::clone(&name));
                self.leave(ino, from);
                self.named.entry(parent).or_default().insert(name, ino);
                if let Some(above) = self.by_number.get_mut(&parent) {
                    above.below += 1;
                }
                self.has_one_less_below(from.0);
            }
        }
    }

    /// The directories from `ino` up to the root.
    pub fn ancestors(&self, ino: Ino) -> impl Iterator<Item = &Inode> {
        let mut at = Some(ino);
        std::iter::from_fn(move || {
            let number = at?;
            let inode = self.get(number)?;
            at = (number != ROOT).then_some(inode.parent);
            Some(inode)
        })
    }

    /// Puts a new inode at a place that has none.
    pub fn add(&mut self, parent: Ino, name: Name, kind: Kind, attributes: Attributes, metadata: Metadata) -> Ino {
        let ino = self.new_number(parent, &name, attributes.id.as_deref());
        if let Kind::Directory(dir) = kind {
            self.showing.entry(dir).or_default().insert(ino);
        }
        if let Some(above) = self.by_number.get_mut(&parent) {
            above.below += 1;
        }
        let inode = Inode {
            parent,
            name: Arc::clone(&name),
            kind,
            attributes,
            metadata,
            seen: Seen::default(),
            sighted: None,
            lookups: 0,
            handles: 0,
            link: Link::Named,
            others: Vec::new(),
            elsewhere: false,
            below: 0,
        };
        self.named.entry(parent).or_default().insert(name, ino);
        self.by_number.insert(ino, inode);
        self.know_by_id(ino, None);
        ino
    }

    /// A place whose edge stands for a file that is shown elsewhere is given up by what nobody has open and has no other:
    /// its names were seen apart while a change came to one after the other.
    pub fn give_way(&mut self, parent: Ino, name: &Name, entry: &Entry) {
        let Some(ino) = self.at(parent, name) else { return };
        let is_alone = self.get(ino).is_some_and(|inode| inode.others.is_empty() && inode.handles == 0);
        let is_shown = |other: Ino| other != ino && self.get(other).is_some_and(|other| other.link == Link::Named);
        if is_alone && self.all_of_file(entry).any(is_shown) {
            self.detach(ino, Link::Removed);
        }
    }

    /// The inode at a place, made or brought up to date for `entry`, whose kind has been found out as `kind`.
    pub fn bind(&mut self, parent: Ino, name: &Name, kind: Kind, entry: &Entry) -> Ino {
        if let Some(ino) = self.at(parent, name)
            && let Some(inode) = self.by_number.get_mut(&ino)
        {
            // Its other names may stand for what it was.
            let is_its = inode.others.is_empty() || is_same(&inode.target(), &entry.target);
            match inode.shows(&kind).filter(|_| is_its) {
                Some(now) => {
                    inode.kind = now;
                    self.update(ino, parent, name, entry);
                    return ino;
                }
                None => self.detach_at(parent, name, Link::Taken),
            }
        }
        let ino = match (self.taken_before(parent, name, &kind), self.of_file(entry)) {
            (Some(ino), _) => {
                self.relocate(ino, parent, Arc::clone(name));
                ino
            }
            (None, Some(ino)) => {
                self.join(ino, parent, Arc::clone(name));
                if let Some(inode) = self.by_number.get_mut(&ino)
                    && inode.handles == 0
                {
                    inode.kind = kind;
                }
                ino
            }
            (None, None) => self.add(parent, Arc::clone(name), kind, entry.attributes.clone(), entry.metadata.clone()),
        };
        self.update(ino, parent, name, entry);
        ino
    }

    /// Takes over what the edge at one of its places says.
    fn update(&mut self, ino: Ino, parent: Ino, name: &Name, entry: &Entry) {
        let Some(inode) = self.by_number.get_mut(&ino) else { return };
        let is_first = (inode.parent, &inode.name) == (parent, name);
        let before = inode.attributes.id.clone();
        inode.update(entry, is_first);
        self.know_by_id(ino, before);
    }

    /// The inode of what is about to have a name at a place, where another client had taken its name.
    fn taken_before(&self, parent: Ino, name: &Name, kind: &Kind) -> Option<Ino> {
        let is_taken = |ino: &Ino| self.get(*ino).is_some_and(|inode| inode.link == Link::Taken);
        if let Kind::Directory(dir) = kind {
            return self.showing.get(dir)?.iter().copied().find(is_taken);
        }
        let ino = self.taken.get(&(parent, Arc::clone(name))).copied().filter(is_taken)?;
        let is_same = match (&self.get(ino)?.kind, kind) {
            (Kind::Stored(old), Kind::Stored(new)) => old == new,
            (Kind::Staged(ours), Kind::Stored(new)) => ours.is_of(new),
            (Kind::Staged(ours), Kind::Staged(new)) => Arc::ptr_eq(ours, new),
            (Kind::Mutable(_, ours), Kind::Mutable(_, new)) => Arc::ptr_eq(ours, new),
            _ => false,
        };
        is_same.then_some(ino)
    }

    /// The inodes that show a directory.
    pub fn of_directory(&self, dir: DirId) -> Vec<Ino> {
        self.showing.get(&dir).into_iter().flatten().copied().collect()
    }

    /// The names in a directory that have inodes.
    pub fn names_in(&self, parent: Ino) -> Vec<Name> {
        self.named.get(&parent).into_iter().flat_map(HashMap::keys).map(Arc::clone).collect()
    }

    /// The number at a place, if an inode is there.
    pub fn at(&self, parent: Ino, name: &Name) -> Option<Ino> {
        self.named.get(&parent)?.get(name).copied()
    }

    /// Takes the name away from an inode, and says by whom that was done; it lives on while the kernel knows it or it is
    /// open.
    pub fn detach(&mut self, ino: Ino, link: Link) {
        let Some(inode) = self.by_number.get_mut(&ino) else {
            return;
        };
        inode.link = link;
        let place = (inode.parent, Arc::clone(&inode.name));
        self.leave(ino, &place);
        if link == Link::Taken {
            self.taken.insert(place, ino);
        }
        self.release(ino);
    }

    /// Gives an inode a name, at a place from which whatever was there has been detached.
    pub fn relocate(&mut self, ino: Ino, parent: Ino, name: Name) {
        let Some(inode) = self.by_number.get_mut(&ino) else {
            return;
        };
        let old = (inode.parent, std::mem::replace(&mut inode.name, Arc::clone(&name)));
        inode.parent = parent;
        inode.link = Link::Named;
        inode.elsewhere = false;
        self.leave(ino, &old);
        self.named.entry(parent).or_default().insert(name, ino);
        if let Some(above) = self.by_number.get_mut(&parent) {
            above.below += 1;
        }
        self.has_one_less_below(old.0);
    }

    /// No table leads to an inode by a place any more.
    fn leave(&mut self, ino: Ino, place: &(Ino, Name)) {
        if self.taken.get(place) == Some(&ino) {
            self.taken.remove(place);
        }
        let Some(names) = self.named.get_mut(&place.0) else { return };
        if names.get(&place.1) == Some(&ino) {
            names.remove(&place.1);
            if names.is_empty() {
                self.named.remove(&place.0);
            }
        }
    }

    fn has_one_less_below(&mut self, parent: Ino) {
        if let Some(above) = self.by_number.get_mut(&parent) {
            above.below = above.below.saturating_sub(1);
            self.release(parent);
        }
    }

    /// A handle is closed.
    pub fn close(&mut self, ino: Ino) {
        if let Some(inode) = self.by_number.get_mut(&ino) {
            inode.handles = inode.handles.saturating_sub(1);
            self.release(ino);
        }
    }

    /// Drops an inode that nothing holds any more.
    pub fn release(&mut self, ino: Ino) {
        let Some(inode) = self.by_number.get_mut(&ino) else {
            return;
        };
        inode.unstage();
        if ino == ROOT || inode.lookups > 0 || inode.handles > 0 || inode.below > 0 {
            return;
        }
        let Some(mut inode) = self.by_number.remove(&ino) else { return };
        if let Kind::Directory(dir) = inode.kind
            && let Some(inodes) = self.showing.get_mut(&dir)
        {
            inodes.remove(&ino);
            if inodes.is_empty() {
                self.showing.remove(&dir);
            }
        }
        self.know_by_id(ino, inode.attributes.id.take());
        let first = (inode.parent, inode.name);
        for place in inode.others.into_iter().chain([first]) {
            self.leave(ino, &place);
            self.has_one_less_below(place.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cap::{FileCap, LitCap};
    use crate::crypto::JournalKey;
    use crate::journal::{Journal, JournalOptions};
    use crate::node::FileType;
    use crate::util::Rng;

    fn literal(content: &[u8]) -> Cap {
        Cap::File(FileCap::Lit(LitCap { data: content.to_vec() }))
    }

    fn entry(target: Target) -> Entry {
        let (attributes, metadata) = (Attributes::new(FileType::File), Metadata::default());
        Entry { target, attributes, metadata, seen: Seen::default() }
    }

    /// A directory that is told apart from others by its number.
    fn directory(number: u64) -> DirId {
        DirId::of_test(number)
    }

    fn empty() -> Inodes {
        Inodes::new(Inode::root(directory(0), Attributes::new(FileType::Directory), Metadata::default()))
    }

    fn add(inodes: &mut Inodes, parent: Ino, name: &str, kind: Kind) -> Ino {
        inodes.add(parent, name.into(), kind, Attributes::new(FileType::File), Metadata::default())
    }

    #[tokio::test]
    async fn what_was_written_and_is_not_submitted_yet_does_not_become_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let key = JournalKey::new([1; 32]);
        let (journal, _) = Journal::open(folder.path(), &key, JournalOptions::default()).unwrap();
        let (was, other, name) = (literal(b"was"), literal(b"other"), Name::from("f"));
        for (now, stays) in [(&was, true), (&other, false)] {
            let mut inodes = empty();
            let file = FileObject::new(journal.create_file(None).unwrap(), Some(was.clone()));
            file.write(0, bytes::Bytes::from_static(b"ours")).await.unwrap();
            let ino = add(&mut inodes, ROOT, &name, Kind::Staged(file));
            inodes.get_mut(ino).unwrap().lookups = 1;
            let bound = inodes.bind(ROOT, &name, Kind::Stored(now.clone()), &entry(Target::Stored(now.clone())));
            assert_eq!(bound == ino, stays);
            let inode = inodes.get(ino).unwrap();
            assert_eq!(inode.link, if stays { Link::Named } else { Link::Taken });
            assert!(matches!(inode.kind, Kind::Staged(_)));
        }
    }

    #[tokio::test]
    async fn what_was_opened_anew_is_not_what_it_was_before_again() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(folder.path(), &JournalKey::new([1; 32]), JournalOptions::default()).unwrap();
        let (was, name) = (literal(b"was"), Name::from("f"));
        let file = || FileObject::new(journal.create_file(None).unwrap(), Some(was.clone()));
        for is_written in [false, true] {
            // Its edge was not published yet, and holds the object by which it was stored.
            let (before, ours) = (file(), file());
            let mut inodes = empty();
            let ino = add(&mut inodes, ROOT, &name, Kind::Staged(Arc::clone(&ours)));
            inodes.get_mut(ino).unwrap().handles = 1;
            if is_written {
                ours.write(0, bytes::Bytes::from_static(b"ours")).await.unwrap();
            }
            let there = entry(Target::File(Arc::clone(&before)));
            assert_eq!(inodes.bind(ROOT, &name, Kind::Staged(before), &there), ino);
            let inode = inodes.get(ino).unwrap();
            assert!(matches!(&inode.kind, Kind::Staged(file) if Arc::ptr_eq(file, &ours)));
            assert_eq!(inode.link, Link::Named);
        }
    }

    #[test]
    fn the_tables_agree_whatever_is_done_and_nothing_stays() {
        let rng = Rng::seeded(7);
        let mut inodes = empty();
        let mut known: Vec<Ino> = vec![ROOT];
        for _ in 0..5000 {
            let [what, one, other, name] = rng.bytes::<4>();
            let pick = |n: u8| known[usize::from(n) % known.len()];
            let (ino, parent, name) = (pick(one), pick(other), Name::from(format!("n{}", name % 8)));
            let is_directory = |ino| inodes.directory(ino).is_ok();
            match what % 6 {
                0 | 1 if is_directory(parent) && inodes.at(parent, &name).is_none() => {
                    let dir = Kind::Directory(directory(u64::from(one % 16)));
                    let kind = if what % 6 == 0 { dir } else { Kind::Stored(literal(b"x")) };
                    let ino = add(&mut inodes, parent, &name, kind);
                    inodes.get_mut(ino).unwrap().lookups = 1;
                    known.push(ino);
                }
                2 if ino != ROOT => inodes.detach(ino, Link::Taken),
                3 if ino != ROOT => inodes.detach(ino, Link::Removed),
                4 if ino != ROOT && is_directory(parent) && !inodes.is_within(parent, ino) => {
                    if let Some(old) = inodes.at(parent, &name).filter(|old| *old != ino) {
                        inodes.detach(old, Link::Removed);
                    }
                    inodes.relocate(ino, parent, name);
                }
                5 if ino != ROOT => {
                    inodes.get_mut(ino).unwrap().lookups = 0;
                    inodes.release(ino);
                }
                _ => {}
            }
            known.retain(|ino| inodes.get(*ino).is_some());
            inodes.check();
        }
        for ino in known {
            if let Some(inode) = inodes.get_mut(ino).filter(|_| ino != ROOT) {
                inode.lookups = 0;
                inodes.release(ino);
            }
        }
        inodes.check();
        assert_eq!(inodes.by_number.len(), 1, "the root alone");
        assert!(inodes.named.is_empty() && inodes.taken.is_empty() && inodes.showing.len() == 1);
    }

    impl Inodes {
        fn is_within(&self, ino: Ino, above: Ino) -> bool {
            let mut at = ino;
            while at != ROOT && at != above {
                at = self.by_number[&at].parent;
            }
            at == above
        }

        /// Every table is what can be told from the inodes alone.
        fn check(&self) {
            let (mut named, mut showing, mut below) = (HashMap::new(), HashMap::new(), HashMap::new());
            for (ino, inode) in self.by_number.iter() {
                if let Kind::Directory(dir) = inode.kind {
                    showing.entry(dir).or_insert_with(HashSet::new).insert(*ino);
                }
                if *ino == ROOT {
                    continue;
                }
                *below.entry(inode.parent).or_insert(0) += 1;
                if inode.link == Link::Named {
                    let names = named.entry(inode.parent).or_insert_with(HashMap::new);
                    assert_eq!(names.insert(Arc::clone(&inode.name), *ino), None, "two at one place");
                }
            }
            assert_eq!(self.named, named);
            assert_eq!(self.showing, showing);
            for (ino, inode) in &self.by_number {
                assert_eq!(inode.below, below.get(ino).copied().unwrap_or_default());
            }
            let is_taken = |(place, ino): (&(Ino, Name), &Ino)| {
                self.get(*ino).is_some_and(|inode| {
                    inode.link == Link::Taken && (inode.parent, &inode.name) == (place.0, &place.1)
                })
            };
            assert!(self.taken.iter().all(is_taken));
        }
    }
}
