//! Going into the background: the parent waits until the mount answers, or passes on why it does not.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::path::PathBuf;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::exit::{Exit, Failure};
use super::log;

/// Which side of the fork this is.
pub enum Side {
    /// The parent, after the child has mounted or failed.
    Parent(Result<(), Failure>),
    /// The process that mounts.
    Child(Ready),
}

/// What is owed to the parent, if there is one.
pub struct Ready {
    pipe: Option<PipeWriter>,
}

/// Forks. Must be called before the runtime or any thread is started.
///
/// # Errors
/// The system refuses.
pub fn background() -> Result<Side, Failure> {
    let failed = |e: io::Error| Failure::io("going into the background", &e);
    let (mut reader, writer) = io::pipe().map_err(failed)?;
    // SAFETY: the process has one thread, so that nothing another thread held locked is locked for ever in the child.
    match unsafe { fork() }.map_err(|e| failed(e.into()))? {
        ForkResult::Child => Ok(Side::Child(Ready { pipe: Some(writer) })),
        ForkResult::Parent { .. } => {
            drop(writer);
            let mut said = Vec::new();
            reader.read_to_end(&mut said).map_err(failed)?;
            Ok(Side::Parent(match said.split_first() {
                Some((0, _)) => Ok(()),
                Some((&code, line)) => Err(Failure { code, message: String::from_utf8_lossy(line).into_owned() }),
                None => Err(Failure::new(Exit::Mount, "the mount's process ended before the mount answered")),
            }))
        }
    }
}

/// Raises the number of descriptors this process may have open as far as it may: staging files, stores and
/// connections take one each. What cannot be raised stays; running out is told to whoever needs one more.
pub fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, most, most)
    {
        tracing::debug!(%error, "the limit of open descriptors stays");
    }
}

/// Keeps secrets from core dumps, and from other processes of the user: none can trace this one, and its environment and
/// memory maps are root's. What the system refuses stays.
pub fn keep_memory_private() {
    if let Err(error) = set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0)) {
        tracing::debug!(%error, "core dumps stay possible");
    }
}

impl Ready {
    /// Nobody waits: the mount stays in the foreground.
    pub fn foreground() -> Ready {
        Ready { pipe: None }
    }

    /// Whether nobody waits.
    pub fn is_foreground(&self) -> bool {
        self.pipe.is_none()
    }

    /// The mount answers: in the background, leaves the terminal and the working directory, sends what is traced to
    /// `log_path`, and lets the parent go.
    ///
    /// # Errors
    /// The log or `/dev/null` cannot be opened.
    pub fn announce(&mut self, log_path: PathBuf) -> io::Result<()> {
        let Some(mut pipe) = self.pipe.take() else {
            return Ok(());
        };
        log::to_file(log_path)?;
        std::env::set_current_dir("/")?;
        setsid()?;
        let null: File = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        pipe.write_all(&[0])
    }

    /// The mount failed. Returns the failure again when no parent waits to pass it on.
    ///
    /// # Errors
    /// The failure.
    pub fn fail(self, failure: Failure) -> Result<u8, Failure> {
        // The parent has gone: the log is what is left.
        let Some(mut pipe) = self.pipe else {
            tracing::error!("{}", failure.message);
            return Err(failure);
        };
        let mut said = vec![failure.code.max(1)];
        said.extend_from_slice(failure.message.as_bytes());
        // A parent that was killed hears nothing; the exit code stays.
        let _ = pipe.write_all(&said);
        Ok(failure.code)
    }
}
