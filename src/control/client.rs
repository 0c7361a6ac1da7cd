//! The commands' side of the control socket. Blocking: it needs no runtime.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::time::Instant;

use super::{Failed, Left, Reply, Request, Running, Status, mounts};
use crate::config::{ConfigError, NodeDir};

/// More than any answer is long, in bytes.
const REPLY_LIMIT: u64 = 4 << 20;

/// Why a mount did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No mount is there.
    #[error("no mount of {node} is at {path}")]
    NotMounted {
        /// The path that was asked for.
        path: String,
        /// The node directory.
        node: String,
    },
    /// The node directory cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The connection broke.
    #[error("its process does not answer: {0}")]
    Io(#[from] io::Error),
    /// The mount answered, but not what the protocol allows.
    #[error("its process answers in a way that is not understood; is it another version?")]
    Malformed,
    /// The request failed.
    #[error("{}", .0.message)]
    Failed(Failed),
}

/// A connection to one mount, good for one request.
pub struct Connection {
    running: Running,
    stream: UnixStream,
}

impl Connection {
    /// Connects to a mount.
    ///
    /// # Errors
    /// It does not listen.
    pub fn to(running: Running) -> Result<Connection, ControlError> {
        let stream = running.connect()?;
        Ok(Connection { running, stream })
    }

    /// Connects to the mount of `dir` that is at `mountpoint`.
    ///
    /// # Errors
    /// There is none, or it does not listen.
    pub fn at(dir: &NodeDir, mountpoint: &Path) -> Result<Connection, ControlError> {
        let found = mounts(dir)?.into_iter().find(|m| m.note.mountpoint == mountpoint);
        let running = found.ok_or_else(|| ControlError::NotMounted {
            path: mountpoint.display().to_string(),
            node: dir.path().display().to_string(),
        })?;
        Connection::to(running)
    }

    /// The mount.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// What the mount says of itself.
    ///
    /// # Errors
    /// The connection breaks or the request fails.
    pub fn status(self) -> Result<Status, ControlError> {
        self.ask(&Request::Status, |_| (), None).and_then(status)
    }

    /// As [`Connection::status`], until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`Connection::status`], or there was no answer in time.
    pub fn status_until(self, deadline: Instant) -> Result<Status, ControlError> {
        self.ask(&Request::Status, |_| (), Some(deadline)).and_then(status)
    }

    /// Sends a flush or an unmount and waits; `progress` hears how far it is. Returns what is left.
    ///
    /// # Errors
    /// The connection breaks or the request fails.
    pub fn wait(self, request: &Request, progress: impl FnMut(Left)) -> Result<Left, ControlError> {
        self.ask(request, progress, None).and_then(done)
    }

    /// As [`Connection::wait`], until `deadline` at the latest; the mount goes on with it.
    ///
    /// # Errors
    /// As [`Connection::wait`], or there was no answer in time.
    pub fn wait_until(self, request: &Request, deadline: Instant) -> Result<Left, ControlError> {
        self.ask(request, |_| (), Some(deadline)).and_then(done)
    }

    fn ask(
        mut self,
        request: &Request,
        mut progress: impl FnMut(Left),
        deadline: Option<Instant>,
    ) -> Result<Reply, ControlError> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        self.stream.write_all(&line)?;
        let mut reader = BufReader::new(self.stream);
        loop {
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
                reader.get_ref().set_read_timeout(Some(left))?;
            }
            let mut line = String::new();
            if (&mut reader).take(REPLY_LIMIT).read_line(&mut line)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            match serde_json::from_str(&line).map_err(|_| ControlError::Malformed)? {
                Reply::Progress(left) => progress(left),
                Reply::Error(failed) => return Err(ControlError::Failed(failed)),
                done => return Ok(done),
            }
        }
    }
}

fn status(reply: Reply) -> Result<Status, ControlError> {
    match reply {
        Reply::Status(status) => Ok(*status),
        _ => Err(ControlError::Malformed),
    }
}

fn done(reply: Reply) -> Result<Left, ControlError> {
    match reply {
        Reply::Done(left) => Ok(left),
        _ => Err(ControlError::Malformed),
    }
}
