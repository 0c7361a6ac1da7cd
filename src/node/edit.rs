//! Changes to a directory.

use std::collections::HashSet;

use super::{Child, Metadata, Name};
use crate::cap::Cap;

/// What an edit demands of the name it changes, on the version it is applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// One of these caps, or (`None`) no entry at all. A set, because a publish may have been applied although its
    /// answer was lost: then the name already holds a cap that we tried.
    OneOf(Vec<Option<Cap>>),
    /// One of these, and that an edit of the name `to`, which stands before it in the list, is made: what stood here goes
    /// there, and must not lose its name where that one is taken.
    Moved {
        /// The new name, in the same directory.
        to: Name,
        /// As in [`Expect::OneOf`].
        allowed: Vec<Option<Cap>>,
    },
}

impl Expect {
    /// Whether `found`, the cap that stands under the name, is allowed. Caps are compared by what they read.
    pub fn allows(&self, found: Option<&Cap>) -> bool {
        let (Expect::OneOf(allowed) | Expect::Moved { allowed, .. }) = self else { return true };
        let found = found.map(|cap| cap.readonly());
        allowed.iter().any(|a| a.as_ref().map(|cap| cap.readonly()) == found)
    }
}

/// One change to a directory.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Puts `cap` under `name`, whatever was there.
    Link {
        /// The name.
        name: Name,
        /// The child, with the most authority there is.
        cap: Cap,
        /// Replaces all keys but `tahoe`; `None` keeps those of the child that was there (PROTOCOL 7).
        metadata: Option<Metadata>,
        /// What may be there before.
        expect: Expect,
    },
    /// Sets (`Some`) or removes (`None`) top-level metadata keys of an existing child.
    Patch {
        /// The name.
        name: Name,
        /// Keys and their new values.
        keys: Vec<(String, Option<serde_json::Value>)>,
        /// What may be there before.
        expect: Expect,
    },
    /// Removes `name`; removing what is not there succeeds.
    Unlink {
        /// The name.
        name: Name,
        /// What may be there before.
        expect: Expect,
    },
}

/// What became of an [`Edit`].
#[derive(Clone, Debug)]
pub enum EditOutcome {
    /// It is published, or was already so.
    Applied,
    /// The name held something that `expect` does not allow; nothing was done.
    Conflict {
        /// What is there.
        found: Option<Child>,
    },
    /// The edit that it waits for was not made, and so this was not either.
    Held,
}

impl Edit {
    /// The name that it changes, and what may be there before.
    pub fn subject(&self) -> (&Name, &Expect) {
        match self {
            Edit::Link { name, expect, .. } | Edit::Patch { name, expect, .. } | Edit::Unlink { name, expect } => {
                (name, expect)
            }
        }
    }

    /// Makes edits in order with `make`, but for those that wait for one that was not made.
    pub fn in_order(edits: &[Edit], mut make: impl FnMut(&Edit) -> EditOutcome) -> Vec<EditOutcome> {
        let mut not_made: HashSet<&str> = HashSet::new();
        let mut one = |edit| {
            let (name, expect) = Edit::subject(edit);
            let outcome = match expect {
                Expect::Moved { to, .. } if not_made.contains(&**to) => EditOutcome::Held,
                _ => make(edit),
            };
            if !matches!(outcome, EditOutcome::Applied) {
                not_made.insert(name);
            }
            outcome
        };
        edits.iter().map(&mut one).collect()
    }
}
