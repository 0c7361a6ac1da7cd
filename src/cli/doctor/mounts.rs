//! Mounts: those whose process is gone, those of the node directory, and what is left of earlier ones.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

use super::super::exit::{Exit, Failure};
use super::super::output;
use super::super::status::left_text;
use super::{Finding, LOCAL_LIMIT, State, within};
use crate::cap::Cap;
use crate::config::{Aliases, NodeDir};
use crate::control::{Connection, ControlError, Running, Status, mountpoints, mounts, root_name};
use crate::fuse::{FS_TYPE, all_mounts};
use crate::journal;

/// How long a mount may take to say how large it is, which it knows.
const ANSWER: Duration = Duration::from_secs(3);
/// How often it is seen whether it has.
const POLL: Duration = Duration::from_millis(5);
/// How long its process may take to tell its state.
const STATUS: Duration = Duration::from_secs(5);
/// Failures of a queue that are shown.
const SHOWN: usize = 5;

const CHECK: &str = "mounts";

/// Mounts of tahoefs that this process sees and that do not answer. Those of `dir` are problems; others are of another node
/// directory, or of another user.
pub fn stale(dir: Option<&NodeDir>) -> Vec<Finding> {
    let ours = dir.cloned().and_then(|dir| within(LOCAL_LIMIT, move || mountpoints(&dir).unwrap_or_default()));
    let ours = ours.unwrap_or_default();
    let mut paths: Vec<PathBuf> = match all_mounts() {
        Ok(all) => all.into_iter().filter(|m| m.fs_type == FS_TYPE).map(|m| m.mountpoint).collect(),
        Err(e) => {
            let failure = Failure::io("/proc/self/mountinfo", &e);
            return vec![Finding::failure(CHECK, &failure, "mount /proc: `sudo mount -t proc proc /proc`")];
        }
    };
    paths.dedup();
    let all = paths.iter().filter(|path| ours.contains(path)).count();
    let said = answers(paths).into_iter();
    let findings: Vec<Finding> = said.filter_map(|(path, said)| judged(&path, ours.contains(&path), said)).collect();
    if findings.iter().any(|finding| finding.state == State::Problem) {
        return findings;
    }
    let sum = match all {
        0 => "no directory is mounted".to_owned(),
        1 => "one directory is mounted, and answers".to_owned(),
        n => format!("{n} directories are mounted, and answer"),
    };
    std::iter::once(Finding::ok(CHECK, sum)).chain(findings).collect()
}

/// What each mount says when it is asked how large it is; all are asked at once. Each is asked by a process of its own:
/// one that waits for a mount which has taken its question cannot end before the mount does.
fn answers(paths: Vec<PathBuf>) -> Vec<(PathBuf, Option<Result<(), Errno>>)> {
    let mut asked: Vec<io::Result<Child>> = paths.iter().map(|path| spawn(path)).collect();
    let until = Instant::now() + ANSWER;
    let said = asked.iter_mut().map(|child| match child {
        Ok(child) => loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(outcome(status.code())),
                Ok(None) if Instant::now() < until => thread::sleep(POLL),
                Ok(None) => {
                    // It ends when it can; nobody waits for that.
                    let _ = child.kill();
                    break None;
                }
                Err(e) => break Some(Err(errno(&e))),
            }
        },
        Err(e) => Some(Err(errno(e))),
    });
    let said: Vec<_> = said.collect();
    paths.into_iter().zip(said).collect()
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

fn outcome(code: Option<i32>) -> Result<(), Errno> {
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(code)),
        None => Err(Errno::EINTR),
    }
}

fn spawn(path: &Path) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(ASK_MOUNT).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(path.as_os_str().as_bytes())?;
    }
    Ok(child)
}

/// The command of such a process.
pub const ASK_MOUNT: &str = "ask-mount";

/// Asks the mount whose path stands on standard input how large it is; its error is the exit code.
pub fn ask() -> u8 {
    let mut path = Vec::new();
    let read = io::stdin().read_to_end(&mut path).map_err(|e| errno(&e));
    let path = PathBuf::from(OsString::from_vec(path));
    match read.and_then(|_| nix::sys::statvfs::statvfs(&path)) {
        Ok(_) => 0,
        Err(error) => error as i32 as u8,
    }
}

fn judged(path: &Path, is_ours: bool, said: Option<Result<(), Errno>>) -> Option<Finding> {
    let shown = path.display();
    let problem = |message: String, remedy: String| {
        Some(match is_ours {
            true => Finding::problem(CHECK, Exit::Mount, message, remedy),
            false => Finding::note(CHECK, message + "; it is of another node directory").with(remedy),
        })
    };
    match said {
        // What is mounted for somebody else is not ours to look into.
        Some(Ok(()) | Err(Errno::EACCES | Errno::EPERM)) => None,
        Some(Err(Errno::ENOTCONN)) => problem(
            format!(
                "{shown}: its process is gone (Transport endpoint is not connected); what it had not stored is kept"
            ),
            format!("`tahoefs unmount {shown}`, then mount it again"),
        ),
        Some(Err(e)) => problem(format!("{shown}: {e}"), format!("`tahoefs unmount --force {shown}`")),
        None => problem(
            format!("{shown}: no answer in {} seconds", ANSWER.as_secs()),
            format!("`tahoefs unmount --force {shown}`; if that hangs too, `fusermount3 -u -z {shown}`"),
        ),
    }
}

/// What the mounts of the node directory say of themselves.
pub fn running(dir: &NodeDir) -> Vec<Finding> {
    const CHECK: &str = "queue";
    let at = dir.clone();
    let found = match within(LOCAL_LIMIT, move || mounts(&at)) {
        Some(Ok(found)) => found,
        Some(Err(e)) => return vec![Finding::failure(CHECK, &e.into(), "see to it that this user can read it")],
        None => return vec![super::hangs(CHECK, &dir.path().display().to_string())],
    };
    let ask = |running: Running| {
        let place = running.note.mountpoint.clone();
        let asked = move || Connection::to(running)?.status_until(Instant::now() + STATUS);
        (place, within(STATUS * 2, asked))
    };
    found.into_iter().map(ask).flat_map(|(place, said)| told(&place, said)).collect()
}

fn told(place: &Path, said: Option<Result<Status, ControlError>>) -> Vec<Finding> {
    const CHECK: &str = "queue";
    let shown = place.display();
    let remedy = format!("`tahoefs unmount --force {shown}`, then mount it again; nothing is lost");
    let status = match said {
        Some(Ok(status)) => status,
        Some(Err(e)) => return vec![Finding::failure(CHECK, &Failure::control(shown, &e), remedy)],
        None => {
            let message = format!("{shown}: its process does not answer");
            return vec![Finding::problem(CHECK, Exit::Mount, message, remedy)];
        }
    };
    let mut findings = Vec::new();
    let all = status.queue.failures.len();
    for failure in status.queue.failures.iter().rev().take(SHOWN) {
        let what = if failure.name.is_empty() { "a directory".to_owned() } else { output::shown(&failure.name) };
        let message = format!("{shown}: {what} could not be stored at {}: {}", output::time(failure.at), failure.error);
        let remedy = format!("it is kept and tried again; `tahoefs flush {shown}` tries now");
        findings.push(Finding::warning(CHECK, message, remedy));
    }
    if all > SHOWN {
        let message = format!("{shown}: {} more could not be stored", all - SHOWN);
        findings.push(Finding::warning(CHECK, message, format!("`tahoefs status {shown}` shows all")));
    }
    if status.journal.bytes > status.journal.limit / 4 * 3 {
        let taken = format!("{} of {}", output::size(status.journal.bytes), output::size(status.journal.limit));
        let message = format!("{shown}: the journal is nearly full: {taken}; writers wait while it fills");
        let remedy = "make the servers reachable so that it empties, or mount with a larger -o journal-size=";
        findings.push(Finding::warning("journal", message, remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{shown}: {}", left_text(&status.queue.left))));
    }
    findings
}

/// What earlier mounts have left in journals that nobody has open.
pub fn left_behind(dir: &NodeDir) -> Vec<Finding> {
    const CHECK: &str = "journal";
    let folder = dir.own("journal");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            let failure = Failure::io(folder.display(), &e);
            return vec![Finding::failure(CHECK, &failure, "see to it that this user can read it")];
        }
    };
    let aliases = Aliases::load(dir).unwrap_or_default();
    let roots: Vec<(String, String)> = aliases
        .iter()
        .filter_map(|(alias, cap)| Some((root_name(&Cap::parse(cap).ok()?), format!("{alias}:"))))
        .collect();
    let mut findings = Vec::new();
    for journal in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let root = journal.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names: Vec<&str> =
            roots.iter().filter(|(name, _)| *name == root).map(|(_, alias)| alias.as_str()).collect();
        let (named, what) = match names.is_empty() {
            true => (format!("{}: ", journal.display()), "WHAT".to_owned()),
            false => (format!("{} ", names.join(", ")), names.join(" or ")),
        };
        match journal::left_behind(&journal) {
            Ok(None) => {}
            Ok(Some(left)) if left == journal::LeftBehind::default() => {}
            Ok(Some(journal::LeftBehind { changes, files })) => {
                let left = format!("{} and {}", output::count(changes, "change"), output::count(files, "file"));
                let message = format!("{named}an earlier mount has left {left} here that may not be on the grid");
                let remedy = format!("mount it again, and they go out: `tahoefs mount {what} MOUNTPOINT`");
                findings.push(Finding::warning(CHECK, message, remedy));
            }
            Err(e) => {
                let message = e.to_string();
                let remedy = "keep a copy of its folder before you try anything";
                findings.push(Finding::problem(CHECK, Exit::Failed, message, remedy));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_is_dead_or_hangs_is_told_from_one_that_is_not_ours() {
        let path = Path::new("/mnt/x");
        assert_eq!(judged(path, true, Some(Ok(()))), None);
        assert_eq!(judged(path, true, Some(Err(Errno::EACCES))), None);
        let foreign = judged(path, false, Some(Err(Errno::ENOTCONN))).unwrap();
        assert_eq!((foreign.state, foreign.exit), (State::Note, None));
        let dead = judged(path, true, Some(Err(Errno::ENOTCONN))).unwrap();
        assert_eq!((dead.state, dead.exit), (State::Problem, Some(6)));
        assert!(dead.message.contains("Transport endpoint") && dead.remedy.unwrap().contains("tahoefs unmount /mnt/x"));
        assert_eq!([Some(0), Some(107), None].map(outcome), [Ok(()), Err(Errno::ENOTCONN), Err(Errno::EINTR)]);
        assert!(judged(path, true, None).unwrap().message.contains("no answer"));
    }

    #[test]
    fn failures_and_a_full_journal_are_told() {
        let mut status = Status::default();
        status.journal.limit = 100;
        let told = |status: &Status| super::told(Path::new("/mnt/x"), Some(Ok(status.clone())));
        assert_eq!(told(&status).iter().map(|f| f.state).collect::<Vec<_>>(), [State::Ok]);
        status.journal.bytes = 80;
        let failure = |n: i64| crate::control::FailureStatus { at: n, name: format!("f{n}"), error: "why".into() };
        status.queue.failures = (0..7).map(failure).collect();
        let found = told(&status);
        assert_eq!(found.len(), SHOWN + 2);
        assert!(found.iter().all(|f| f.state == State::Warning));
        assert!(found[0].message.contains("f6 could not be stored"), "the latest first: {found:?}");
        let hangs = super::told(Path::new("/mnt/x"), None);
        assert_eq!((hangs[0].state, hangs[0].exit), (State::Problem, Some(6)));
    }
}
