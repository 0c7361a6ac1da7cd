//! What happens when another client has changed the name that we were about to change.

use std::sync::Arc;

use super::publish::Attempt;
use super::{DirId, Key, Seen, State, Target, Writeback};
use crate::cap::Cap;
use crate::node::{Attributes, Child, Name, fresh_id, names_of};
use crate::util::{Rng, Utc};

/// Names are at most this many bytes for a kernel.
const NAME_MAX: usize = 255;
/// Conflicts that are remembered.
const CONFLICTS: usize = 16;

/// Two clients have changed one name at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// When this was found out, in seconds since the epoch.
    pub at: i64,
    /// The name, below what is mounted as far as that is known.
    pub path: String,
    /// The name in the same directory that the other copy has got; `None` for a directory that was removed and filled at
    /// the same time, and stays.
    pub kept_as: Option<Name>,
}

impl Writeback {
    /// A conflict name beside `name`, under which another client has stored something else than what is open here; and
    /// that nothing stood there.
    pub fn beside(&self, dir: DirId, name: &Name) -> (Name, Seen) {
        let mut state = self.state();
        let now_secs = self.clock.now_secs();
        let fresh = state.fresh_name(dir, name, now_secs, &self.host);
        tracing::warn!(name = &**name, kept_as = &*fresh, "another client stored a different file here; both stay");
        state.note_conflict(dir, name, Some(Arc::clone(&fresh)), now_secs);
        (fresh, Seen { cap: None, at: state.next_seq })
    }

    /// That nothing stands now under a name that has just been looked for.
    pub fn nothing_seen(&self) -> Seen {
        Seen { cap: None, at: self.state().next_seq }
    }
}

impl State {
    /// Settles a conflict over `name`, under which `found` stands now. Changed beats removed; a change of attributes
    /// yields to a new file; two different files both stay, ours under a conflict name.
    pub(super) fn conflicted(
        &mut self,
        dir: DirId,
        attempt: &Attempt,
        found: Option<Child>,
        now_secs: i64,
        host: &str,
    ) {
        let name = &attempt.name;
        self.tell(dir, name);
        let Some(pending) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get(name)) else { return };
        // Under a cap that was there before, only attributes have changed.
        let same = |a: &Cap, b: &Cap| a.readonly() == b.readonly();
        let is_same = matches!((&attempt.tried, &pending.base), (Some(tried), Some(base)) if same(tried, base));
        // It may have been written to since.
        let is_content = !is_same
            || pending
                .file()
                .is_some_and(|file| !file.is_mutable() && file.stored().as_ref() != attempt.tried.as_ref());
        if !is_content || pending.wanted.is_none() {
            tracing::warn!(name = &**name, "another client changed this name at the same time; its change stays");
            return self.done(dir, name);
        }
        if found.is_none() {
            self.touched.insert(Key::Edge(dir, Arc::clone(name)));
            let Some(d) = self.dirs.get_mut(&dir) else { return };
            if let Some(pending) = d.take(name) {
                d.put(Arc::clone(name), super::Pending { base: None, tried: Vec::new(), ..pending });
            }
            return;
        }
        let has_same_name = found.as_ref().is_some_and(|found| self.is_named_as(dir, name, found));
        if let Some(fresh) = self.set_aside(dir, name, found.as_ref(), now_secs, host)
            && has_same_name
        {
            tracing::warn!(name = &**name, kept_as = &*fresh, "another client stored a different file here; both stay");
            self.note_conflict(dir, name, Some(fresh), now_secs);
        }
    }

    /// Whether what is wanted under `name` was given the same name as `found`, which stands there.
    pub(super) fn is_named_as(&self, dir: DirId, name: &Name, found: &Child) -> bool {
        let wanted = self.dirs.get(&dir).and_then(|d| d.pending.get(name)?.wanted.as_ref());
        wanted.is_some_and(|entry| entry.attributes.name == Attributes::of(name, found).name)
    }

    /// Whether a file whose name `found` has got is to be another file from then on: they were one, which has no further
    /// names.
    fn needs_new_id(&self, own: &Attributes, place: &(DirId, Name), found: &Attributes) -> bool {
        let links = own.id.as_ref().and_then(|id| self.links.get(id));
        let is_only = links.is_none_or(|links| links.names.iter().all(|known| known == place));
        own.id.is_some() && own.id == found.id && is_only && !own.linked
    }

    /// What is wanted under `name`, where `found` stands, is wanted under another name instead, which is returned: a conflict
    /// name, or where the two were given different names, its own.
    pub(super) fn set_aside(
        &mut self,
        dir: DirId,
        name: &Name,
        found: Option<&Child>,
        now_secs: i64,
        host: &str,
    ) -> Option<Name> {
        let given = self.dirs.get(&dir)?.pending.get(name)?.wanted.as_ref()?.attributes.name.clone();
        let given = given.unwrap_or_else(|| name.as_bytes().to_vec());
        let is_other = found.is_some_and(|found| !self.is_named_as(dir, name, found));
        let own = is_other.then(|| names_of(&given).find(|name| !self.is_taken(dir, name))).flatten();
        let given = own.is_some().then_some(given);
        let fresh = own.unwrap_or_else(|| self.fresh_name(dir, name, now_secs, host));
        self.touched.insert(Key::Edge(dir, Arc::clone(name)));
        let pending = self.dirs.get_mut(&dir)?.take(name)?;
        let mut entry = pending.wanted?;
        entry.attributes.name = given;
        let place = (dir, Arc::clone(name));
        match found.is_some_and(|found| self.needs_new_id(&entry.attributes, &place, &Attributes::of(name, found))) {
            true => entry.attributes.id = Some(fresh_id(&Rng::os())),
            false => self.relink(entry.attributes.id.as_deref(), &place, &(dir, Arc::clone(&fresh))),
        }
        if let Target::File(file) = &entry.target {
            file.set_conflict_name(dir, Arc::clone(name), Arc::clone(&fresh));
        }
        self.want(dir, Arc::clone(&fresh), Some(entry), Seen::default(), false, None);
        // It is as old as what it was made from: who waits for that waits for it.
        if let Some(moved) = self.dirs.get_mut(&dir).and_then(|d| d.pending.get_mut(&fresh)) {
            moved.first = pending.first;
        }
        self.moved(&(dir, Arc::clone(name)), &(dir, Arc::clone(&fresh)));
        Some(fresh)
    }

    /// Remembers a conflict, for who asks for the status.
    pub(super) fn note_conflict(&mut self, dir: DirId, name: &str, kept_as: Option<Name>, at: i64) {
        let (mut path, mut above) = (name.to_owned(), Some(dir));
        let mut seen = Vec::new();
        while let Some(parent) = above.and_then(|dir| self.dirs.get(&dir)?.parent.as_ref()) {
            if seen.contains(&parent.dir) {
                break;
            }
            seen.push(parent.dir);
            path = format!("{}/{path}", parent.name);
            above = Some(parent.dir);
        }
        if self.conflicts.len() >= CONFLICTS {
            self.conflicts.pop_front();
        }
        self.conflicts.push_back(Conflict { at, path, kept_as });
    }

    /// A conflict name that nothing has.
    pub(super) fn fresh_name(&self, dir: DirId, name: &str, now_secs: i64, host: &str) -> Name {
        let fresh = (1..).map(|n| conflict_name(name, now_secs, host, n)).find(|name| !self.is_taken(dir, name));
        fresh.expect("some number is free")
    }

    fn is_taken(&self, dir: DirId, name: &str) -> bool {
        self.dirs.get(&dir).is_some_and(|d| {
            d.pending.contains_key(name) || d.table.as_ref().is_some_and(|t| t.entries.contains_key(name))
        })
    }
}

/// `name (conflict DATE HOST).ext`, the n-th of its kind, in at most 255 bytes.
fn conflict_name(name: &str, now_secs: i64, host: &str, n: u32) -> Name {
    let Utc { year, month, day, .. } = Utc::at(now_secs);
    let count = if n > 1 { format!(" {n}") } else { String::new() };
    let note = format!(" (conflict {year:04}-{month:02}-{day:02} {host}{count})");
    let (stem, ext) = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= 16 => name.split_at(dot),
        _ => (name, ""),
    };
    let mut keep = stem.len().min(NAME_MAX.saturating_sub(note.len() + ext.len()));
    while !stem.is_char_boundary(keep) {
        keep -= 1;
    }
    format!("{}{note}{ext}", &stem[..keep]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_names_keep_the_extension_and_fit() {
        assert_eq!(&*conflict_name("a.txt", 0, "box", 1), "a (conflict 1970-01-01 box).txt");
        assert_eq!(&*conflict_name(".profile", 0, "box", 2), ".profile (conflict 1970-01-01 box 2)");
        let long = "\u{e9}".repeat(127);
        assert!(conflict_name(&long, 0, "box", 1).len() <= NAME_MAX);
    }
}
