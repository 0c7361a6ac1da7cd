//! Exit codes, and the one line that says what went wrong.

use std::fmt;

use super::output;
use crate::cap::CapError;
use crate::client::ResolveError;
use crate::config::{ConfigError, IdentityError};
use crate::control::ControlError;
use crate::grid::Grid;
use crate::node::NodeError;

/// Servers that a failure names.
const NAMED_SERVERS: usize = 3;

/// The exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The operation failed.
    Failed = 1,
    /// The command line cannot be followed.
    Usage = 2,
    /// What was named is not there.
    NotFound = 3,
    /// Not enough shares, servers or room, or no answer in time.
    Grid = 4,
    /// The capability gives no write authority.
    NotWriteable = 5,
    /// Mount or FUSE trouble.
    Mount = 6,
    /// An unmount left work behind: it is not on the grid yet.
    LeftBehind = 7,
}

/// A command failed: one line that says what happened, to which path, and what to do, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The line. Never holds a cap.
    pub message: String,
}

impl Failure {
    /// A failure with this line.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { code: exit as u8, message: message.into() }
    }

    /// What happened to `path`.
    pub fn at(exit: Exit, path: impl fmt::Display, what: impl fmt::Display) -> Failure {
        let path = path.to_string();
        // `alias:` has its colon already.
        let colon = if path.ends_with(':') { "" } else { ":" };
        Failure::new(exit, format!("{path}{colon} {what}"))
    }

    /// The command line cannot be followed.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// What was asked of `path` failed on the grid.
    pub fn node(path: impl fmt::Display, error: &NodeError) -> Failure {
        let (exit, advice) = match error {
            NodeError::NotEnoughShares { .. } | NodeError::OutOfReach => {
                (Exit::Grid, "; are all servers there? `tahoefs status` shows them")
            }
            NodeError::NotEnoughServers { .. } | NodeError::LockedOut(_) => {
                (Exit::Grid, "; `tahoefs status` shows the servers")
            }
            NodeError::NoSpace => (Exit::Grid, "; free some, or add a store with `tahoefs store add DIR`"),
            NodeError::Stopped(_) => (Exit::Grid, "; `tahoefs status` shows the servers"),
            NodeError::NotWriteable => (Exit::NotWriteable, "; use a write capability"),
            NodeError::BadCap(_) => (Exit::Usage, ""),
            NodeError::Refused(_) => (Exit::Failed, ""),
            NodeError::Uncoordinated | NodeError::Changed(_) => (Exit::Failed, "; try again"),
            NodeError::WrongKind(_) | NodeError::Corrupt(_) | NodeError::TooLarge | NodeError::Source(_) => {
                (Exit::Failed, "")
            }
        };
        Failure::at(exit, path, format_args!("{error}{advice}"))
    }

    /// The failure, where too few servers could be used with those that could not, and why.
    pub fn with_servers(mut self, grid: &Grid) -> Failure {
        if self.code == Exit::Grid as u8
            && let Some(servers) = away(grid, &self.message)
        {
            self.message.push_str(&format!("; {servers}"));
        }
        self
    }

    /// `place` could not be followed; `base` is what its path begins with, such as `alias:`.
    pub fn resolve(base: &str, error: &ResolveError) -> Failure {
        match error {
            ResolveError::NotFound { path } => Failure::at(Exit::NotFound, format_args!("{base}{path}"), "not found"),
            ResolveError::NotADirectory { path } => {
                Failure::at(Exit::NotFound, format_args!("{base}{path}"), "is not a directory")
            }
            ResolveError::Node { path, error } => Failure::node(format_args!("{base}{path}"), error),
        }
    }

    /// A file of the local system could not be read or written.
    pub fn io(path: impl fmt::Display, error: &std::io::Error) -> Failure {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        let why = error.to_string();
        Failure::at(exit, path, why.split(" (os error").next().unwrap_or_default())
    }

    /// A cap from `source` cannot be used.
    pub fn cap(source: impl fmt::Display, error: &CapError) -> Failure {
        Failure::usage(format!("the capability from {source} cannot be used: {error}"))
    }
}

/// Which servers cannot be used, some with the reason; `None` where all can, or where `said` says so already.
pub fn away(grid: &Grid, said: &str) -> Option<String> {
    let away = grid.away();
    let named: Vec<String> = away
        .iter()
        .filter(|(_, why)| !said.contains(why))
        .take(NAMED_SERVERS)
        .map(|(name, why)| format!("{}: {}", output::shown(name), output::shown(why)))
        .collect();
    let more = if away.len() > named.len() { ", ..." } else { "" };
    let (n, all) = (away.len(), grid.servers().len());
    (!named.is_empty()).then(|| format!("{n} of {all} servers cannot be used ({}{more})", named.join(", ")))
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        let exit = match &error {
            ConfigError::NoNodeDir(_) | ConfigError::NotANodeDir(_) => Exit::NotFound,
            ConfigError::Io { missing: true, .. } => Exit::NotFound,
            ConfigError::Invalid(_) | ConfigError::Malformed { .. } | ConfigError::Unsupported { .. } => Exit::Usage,
            ConfigError::NoServers(_) => Exit::Grid,
            ConfigError::Io { .. } | ConfigError::Exists(_) | ConfigError::InUse(_) => Exit::Failed,
            ConfigError::Identity(IdentityError::Io { .. }) => Exit::NotFound,
            ConfigError::Identity(_) => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

impl Failure {
    /// The mount at `path` did not do what it was asked.
    pub fn control(path: impl fmt::Display, error: &ControlError) -> Failure {
        match error {
            ControlError::Failed(failed) => Failure { code: failed.exit, message: failed.message.clone() },
            ControlError::Config(error) => Failure::from(error.clone()),
            ControlError::NotMounted { .. } => Failure::new(
                Exit::Mount,
                format!("{error}; if it was mounted with another node directory, name that with -d DIR"),
            ),
            ControlError::Io(_) | ControlError::Malformed => Failure::new(Exit::Mount, format!("{path}: {error}")),
        }
    }
}
