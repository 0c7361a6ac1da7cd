//! Running `tahoefs`: from a fixed place, as the right user, with a clean environment.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::account::Account;
use crate::{Exit, Refusal};

/// Where programs are looked for: never where a user's PATH points.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The `tahoefs` program that belongs to this one.
///
/// # Errors
/// There is none.
pub fn program() -> Result<PathBuf, Refusal> {
    let own = std::env::current_exe().map_err(|e| Refusal::system("/proc/self/exe", &e))?;
    let beside = own.parent().unwrap_or(Path::new("/usr/sbin"));
    let places = [beside.join("tahoefs"), beside.join("../bin/tahoefs"), PathBuf::from("/usr/bin/tahoefs")];
    let found = places.into_iter().find(|place| place.is_file());
    found.ok_or_else(|| Refusal { exit: Exit::System, message: "the program /usr/bin/tahoefs is missing".into() })
}

/// The user that this process runs for.
///
/// # Errors
/// The user database has no such user.
pub fn caller() -> Result<Account, Refusal> {
    // SAFETY: always succeeds.
    let uid = unsafe { libc::getuid() };
    account(uid)
}

/// The user with this id.
///
/// # Errors
/// The user database has no such user.
pub fn account(uid: libc::uid_t) -> Result<Account, Refusal> {
    let found = Account::of(uid).map_err(|e| Refusal::system("the user database", &e))?;
    found.ok_or_else(|| Refusal::usage(format!("there is no user number {uid}")))
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// Runs a program as `account` and returns how it ended. Its messages go where ours go.
///
/// # Errors
/// It cannot be started.
pub fn run<S: AsRef<OsStr>>(program: &Path, arguments: &[S], account: &Account) -> Result<ExitStatus, Refusal> {
    let mut command = Command::new(program);
    let name = OsStr::from_bytes(account.name.as_bytes());
    command.args(arguments).env_clear().env("PATH", PATH);
    command.env("HOME", &account.home).env("USER", name).env("LOGNAME", name);
    command.current_dir("/").stdin(Stdio::null());
    // SAFETY: always succeeds.
    let changes = unsafe { libc::getuid() != account.uid || libc::geteuid() != account.uid };
    let groups = if changes { account.groups() } else { Ok(Vec::new()) };
    let groups = groups.map_err(|e| Refusal::system("the groups of the user", &e))?;
    let account = account.clone();
    let prepare = move || -> io::Result<()> {
        // SAFETY: a plain system call that always succeeds.
        unsafe { libc::umask(0o077) };
        if changes { account.become_it(&groups) } else { Ok(()) }
    };
    // SAFETY: this process has one thread, and the closure makes system calls alone.
    unsafe { command.pre_exec(prepare) };
    command.status().map_err(|e| Refusal::system(program.display(), &e))
}

/// How `tahoefs` ended, in mount(8)'s codes; it has said why itself.
pub fn mapped(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(0), _) => 0,
        (Some(2), _) => Exit::Usage as u8,
        (None, Some(libc::SIGINT | libc::SIGTERM)) => Exit::Interrupted as u8,
        _ => Exit::Failed as u8,
    }
}

/// Goes into the mount namespace at `path`; the working directory is its root from then on.
///
/// # Errors
/// It cannot be entered.
pub fn enter(namespace: &OsStr) -> Result<(), Refusal> {
    use std::os::fd::AsRawFd;
    let failed = |e: io::Error| Refusal::system(Path::new(namespace).display(), &e);
    let file = std::fs::File::open(namespace).map_err(failed)?;
    // SAFETY: a plain system call on an open descriptor.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(failed(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_mount() {
        let mapped = |code: i32| mapped(ExitStatus::from_raw(code << 8));
        assert_eq!([0, 1, 2, 3, 4, 6, 7].map(mapped), [0, 32, 1, 32, 32, 32, 32]);
        assert_eq!(super::mapped(ExitStatus::from_raw(libc::SIGINT)), 8);
        assert_eq!(super::mapped(ExitStatus::from_raw(libc::SIGSEGV)), 32);
    }

    #[test]
    fn a_program_gets_a_clean_environment() {
        let me = caller().unwrap();
        let script =
            "test \"$HOME\" = \"$1\" && test \"$(env | grep -cvE '^(PATH|HOME|USER|LOGNAME|PWD|SHLVL|_)=')\" = 0";
        let arguments = [OsStr::new("-c"), OsStr::new(script), OsStr::new("sh"), me.home.as_os_str()];
        assert!(run(Path::new("/bin/sh"), &arguments, &me).unwrap().success());
    }
}
