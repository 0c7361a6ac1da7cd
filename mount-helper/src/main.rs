//! `mount.tahoefs` and `umount.tahoefs`: what mount(8) and umount(8) call for a file system of type `tahoefs`.
//!
//! One program under several names; the name decides. It runs as root when mount(8) does, so it is small: it reads its
//! arguments, takes the identity of the user whose mount it is, and runs `tahoefs` from a fixed place with a clean
//! environment. It stays in mount(8)'s process group until the mount answers: that is how the kernel tells the
//! mounter of an automount point from somebody who has to wait for it.

mod account;
mod args;
mod automount;
mod mount;
mod record;
mod run;
mod table;
mod umount;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

/// The exit codes of mount(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Wrong invocation, or not permitted.
    Usage = 1,
    /// The system refuses.
    System = 2,
    /// Ended by the user.
    Interrupted = 8,
    /// It could not be mounted or unmounted.
    Failed = 32,
}

/// Why nothing was done: one line, which never holds a capability.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    exit: Exit,
    message: String,
}

impl Refusal {
    fn usage(message: impl Into<String>) -> Refusal {
        Refusal { exit: Exit::Usage, message: message.into() }
    }

    fn system(what: impl fmt::Display, error: &std::io::Error) -> Refusal {
        Refusal { exit: Exit::System, message: format!("{what}: {error}") }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let rest: Vec<OsString> = arguments.collect();
    let outcome = if name.starts_with("umount") { umount::umount(&rest) } else { mount::mount(&rest) };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => {
            eprintln!("{name}: {}", refusal.message.replace('\n', " "));
            ExitCode::from(refusal.exit as u8)
        }
    }
}
