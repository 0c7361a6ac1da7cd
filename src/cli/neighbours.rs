//! The mounts of the same node directory, which see the same tree: what was written there is stored before a command looks
//! at the grid, and what a command has changed they are told.

use std::time::Duration;

use tokio::time::Instant;

use super::session::Session;
use crate::config::NodeDir;
use crate::control::{Connection, ControlError, Left, Request, Running, mounts};

/// How long a command waits for what mounts have queued, and for their attention afterwards.
const STORING: Duration = Duration::from_secs(5);
const LISTENING: Duration = Duration::from_secs(2);

/// Has all mounts of `dir` store what they have queued, and says where that does not happen in time.
pub fn settle(session: &Session, dir: &NodeDir) {
    let deadline = Instant::now() + STORING;
    for mount in running(dir) {
        let place = mount.note.mountpoint.display().to_string();
        match ask(mount, &Request::Flush { path: None }, deadline) {
            Ok(left) if left.is_nothing() => {}
            Ok(_) | Err(ControlError::Io(_) | ControlError::Failed(_)) => session.speech.note(format!(
                "{place}: not all that was written there is on the grid yet, where this command works; \
                 `tahoefs flush` waits for it"
            )),
            // It has gone meanwhile.
            Err(error) => tracing::debug!(%error, %place, "a mount was not asked to store what it has queued"),
        }
    }
}

/// Tells all mounts of `dir` that something has changed.
pub fn refresh(dir: &NodeDir) {
    let deadline = Instant::now() + LISTENING;
    for mount in running(dir) {
        let place = mount.note.mountpoint.display().to_string();
        // It sees the change a little later by itself.
        if let Err(error) = ask(mount, &Request::Refresh, deadline) {
            tracing::debug!(%error, %place, "a mount was not told of a change");
        }
    }
}

fn running(dir: &NodeDir) -> Vec<Running> {
    mounts(dir).unwrap_or_else(|error| {
        tracing::debug!(%error, "mounts cannot be looked for");
        Vec::new()
    })
}

fn ask(mount: Running, request: &Request, deadline: Instant) -> Result<Left, ControlError> {
    Connection::to(mount)?.wait_until(request, deadline)
}
