//! Applying edits to a table.

use serde_json::Value;

use super::pack::Entries;
use crate::cap::Cap;
use crate::node::{Child, Edit, EditOutcome, Metadata, Name, normalize};

/// What became of a list of edits.
pub struct Applied {
    /// One for each edit.
    pub outcomes: Vec<EditOutcome>,
    /// Whether the table differs from before.
    pub changed: bool,
}

/// Applies `edits` in order at time `now` (seconds); those whose `expect` does not hold are left out.
pub fn apply(entries: &mut Entries, edits: &[Edit], now: f64) -> Applied {
    let mut changed = false;
    let outcomes = Edit::in_order(edits, |edit| apply_one(entries, edit, now, &mut changed));
    Applied { outcomes, changed }
}

fn apply_one(entries: &mut Entries, edit: &Edit, now: f64, changed: &mut bool) -> EditOutcome {
    let (name, expect) = edit.subject();
    let name = normalize(name);
    let found = find(entries, &name);
    let conflict = |found: Option<&Child>| EditOutcome::Conflict { found: found.cloned() };
    match edit {
        Edit::Unlink { .. } if found.is_none() => return EditOutcome::Applied,
        _ if !expect.allows(found.map(|child| &child.cap)) => return conflict(found),
        // What is hidden can be replaced or removed, not patched: its cap cannot be stored anew.
        Edit::Patch { .. } if !entries.shown.contains_key(&name) => return conflict(found),
        _ => {}
    }
    let new = match edit {
        Edit::Link { cap, metadata, .. } => linked(found, cap, metadata.as_ref(), now),
        Edit::Patch { keys, .. } => found.and_then(|old| patched(old, keys, now)),
        Edit::Unlink { .. } => {
            entries.shown.remove(&name);
            entries.hidden.retain(|(hidden, _)| *hidden != name);
            *changed = true;
            None
        }
    };
    if let Some(child) = new {
        entries.hidden.retain(|(hidden, _)| *hidden != name);
        entries.shown.insert(name, child);
        *changed = true;
    }
    EditOutcome::Applied
}

/// The child that a link makes of what was there, unless it is there already.
fn linked(old: Option<&Child>, cap: &Cap, given: Option<&Metadata>, now: f64) -> Option<Child> {
    let cap = stored_cap(cap, given.or(old.map(|old| &old.metadata)));
    if let Some(old) = old
        && old.cap == cap
        && given.is_none_or(|given| same_but_link_times(given, &old.metadata))
    {
        return None;
    }
    let metadata = old.map_or(&Metadata::default(), |old| &old.metadata).updated(given, now);
    Some(Child { cap, metadata, packed: None })
}

/// The child with some metadata keys set or removed, unless they are so already.
fn patched(old: &Child, keys: &[(String, Option<Value>)], now: f64) -> Option<Child> {
    let mut given = old.metadata.clone();
    for (key, value) in keys {
        match value {
            Some(value) => drop(given.map_mut().insert(key.clone(), value.clone())),
            None => drop(given.map_mut().shift_remove(key)),
        }
    }
    let cap = stored_cap(&old.cap, Some(&given));
    let changed = cap != old.cap || !same_but_link_times(&given, &old.metadata);
    changed.then(|| Child { cap, metadata: old.metadata.updated(Some(&given), now), packed: None })
}

/// What stands under `name`: what is shown, else an entry that is hidden, which an edit must not take for nothing.
fn find<'a>(entries: &'a Entries, name: &Name) -> Option<&'a Child> {
    let hidden = || entries.hidden.iter().rfind(|(hidden, _)| hidden == name).map(|(_, child)| child);
    entries.shown.get(name).or_else(hidden)
}

/// The cap that is stored: the read cap alone under metadata that says `no-write`.
pub(super) fn stored_cap(cap: &Cap, metadata: Option<&Metadata>) -> Cap {
    let no_write = metadata.and_then(|m| m.map().get("no-write")).is_some_and(|value| match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    });
    if no_write { cap.readonly() } else { cap.clone() }
}

/// Whether two are equal but for the `tahoe` dictionary, which a writer does not choose.
fn same_but_link_times(a: &Metadata, b: &Metadata) -> bool {
    let others = |m: &Metadata| m.map().len() - usize::from(m.map().contains_key("tahoe"));
    others(a) == others(b) && a.map().iter().all(|(key, value)| key == "tahoe" || b.map().get(key) == Some(value))
}
