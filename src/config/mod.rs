//! The node directory and what stands in it (PROTOCOL 11): settings, secrets, aliases, stores and their identities.

mod aliases;
mod announcements;
mod blacklist;
mod dir;
mod files;
mod grid;
mod grid_managers;
pub mod identity;
mod ini;
mod journal_key;
mod keys;
mod known_grid;
mod nurl;
mod secrets;
mod setup;
mod stores;
mod yaml;

use std::io;
use std::path::{Path, PathBuf};

pub use aliases::{Aliases, check_alias_name};
pub use announcements::{Announcement, Announcements, FilesSeen, Unusable};
pub use blacklist::Blacklist;
pub use dir::{Located, NodeDir, locate};
pub use files::{Lock, LockKind, Stamp, make_private_dir, read_optional, write_private};
pub use grid::GridConfig;
pub use grid_managers::{Certificate, GridManagers, Permission};
pub use identity::{Identity, IdentityError};
pub use ini::{Ini, IniError};
pub use keys::{Imported, export_keys, import_keys};
pub use nurl::{BadNurl, Nurl, furl_tub_id};
pub use secrets::Secrets;
pub use setup::{InitOptions, ShareCounts, add_store, init, move_store, remove_store};
pub use stores::{StoreEntry, Stores};

/// Why the node directory cannot be used. Texts name files and lines, never what a secret file holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory could not be read or written.
    #[error("{}: {why}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        why: String,
        /// Whether the reason is that it does not exist.
        missing: bool,
    },
    /// A file does not hold what it should.
    #[error("{}{}: {why}", path.display(), at(.line))]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Line from 1, where one can be named.
        line: Option<usize>,
        /// What is wrong with it.
        why: String,
    },
    /// A setting that would be unsafe to ignore, or that asks for what is not there yet.
    #[error("{}, line {line}: `{setting}` is not supported yet; {advice}", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// Line from 1.
        line: usize,
        /// The setting, as `[section] option = value`.
        setting: String,
        /// What may be done.
        advice: &'static str,
    },
    /// There is no node directory.
    #[error("there is no node directory at {}: make one with `tahoefs init`, or name another with -d DIR", .0.display())]
    NoNodeDir(PathBuf),
    /// The directory is something else.
    #[error("{} is not a node directory: it has no tahoe.cfg", .0.display())]
    NotANodeDir(PathBuf),
    /// Something is there already, which is not overwritten.
    #[error("{} already exists; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Another process uses it.
    #[error("{0}")]
    InUse(String),
    /// There is no server that could be used.
    #[error("{0}")]
    NoServers(String),
    /// A store's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

fn at(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |l| format!(", line {l}"))
}

impl ConfigError {
    /// An input/output error at `path`.
    pub fn io(path: &Path, error: &io::Error) -> ConfigError {
        let missing = error.kind() == io::ErrorKind::NotFound;
        // The number in "(os error 2)" says nothing that the words do not.
        let why = error.to_string();
        let why = why.split(" (os error").next().unwrap_or_default().to_owned();
        ConfigError::Io { path: path.to_owned(), why, missing }
    }

    /// `path` does not hold what it should.
    pub fn malformed(path: &Path, line: Option<usize>, why: impl Into<String>) -> ConfigError {
        ConfigError::Malformed { path: path.to_owned(), line, why: why.into() }
    }
}
