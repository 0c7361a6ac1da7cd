//! Changes to a directory.

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
}

impl Expect {
    /// Whether `found`, the cap that stands under the name, is allowed. Caps are compared by what they read.
    pub fn allows(&self, found: Option<&Cap>) -> bool {
        let Expect::OneOf(allowed) = self else { return true };
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
}
