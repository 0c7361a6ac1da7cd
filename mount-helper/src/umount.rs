//! `umount.tahoefs`: umount(8) returns once everything is on the grid.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::args::UmountArgs;
use crate::table::{self, Entry};
use crate::{Exit, Refusal, record, run};

/// `tahoefs`'s exit codes where there is no node directory, or the mount is not one of it, or did not answer.
const NOT_KNOWN: [i32; 2] = [3, 6];

/// Unmounts as umount(8) asks, and returns the exit code.
///
/// # Errors
/// Nothing was tried, or the kernel refuses.
pub fn umount(arguments: &[OsString]) -> Result<u8, Refusal> {
    let args = UmountArgs::parse(arguments)?;
    // Not canonicalised: the root of a mount whose process is gone cannot be looked at, and umount(8) did it already.
    let dir = std::path::absolute(&args.dir).map_err(|e| Refusal::system(Path::new(&args.dir).display(), &e))?;
    if let Some(namespace) = &args.namespace {
        run::enter(namespace)?;
    }
    let entry = table::find(&dir).map_err(|e| Refusal::system("/proc/self/mountinfo", &e))?;
    let Some(entry) = entry.filter(|e| e.fs_type == "fuse.tahoefs") else {
        return Err(Refusal { exit: Exit::Failed, message: format!("{}: is no tahoefs mount", dir.display()) });
    };
    let node_directory = if run::is_root() { record::read(&entry) } else { None };
    let outcome =
        if args.lazy { detach(&dir, &entry, true) } else { ask(&args, &dir, &entry, node_directory.as_deref()) };
    if run::is_root() && matches!(outcome, Ok(0)) {
        record::forget(&entry);
    }
    outcome
}

/// What follows when `tahoefs unmount` has ended.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Its own exit code, and what it said, is the answer.
    Report,
    /// The note of the node directory was an earlier mount's.
    AskElsewhere,
    /// Nobody was to be waited for.
    Detach,
    /// Whether everything is on the grid could not be learned.
    Refuse,
}

/// Decides by `tahoefs`'s exit code, whether the mount `stands` still, whether its node directory was `noted`, and
/// `force`. Nothing but success means that all is on the grid.
fn next(code: Option<i32>, stands: bool, noted: bool, force: bool) -> Next {
    match code {
        Some(0) => Next::Report,
        Some(code) if stands && NOT_KNOWN.contains(&code) => match (noted, force) {
            (true, _) => Next::AskElsewhere,
            (false, true) => Next::Detach,
            (false, false) => Next::Refuse,
        },
        _ => Next::Report,
    }
}

/// Asks the mount's process to store what is left and to unmount.
fn ask(args: &UmountArgs, dir: &Path, entry: &Entry, node_directory: Option<&str>) -> Result<u8, Refusal> {
    let mut line: Vec<&OsStr> = Vec::new();
    if let Some(node_directory) = node_directory {
        line.extend([OsStr::new("-d"), OsStr::new(node_directory)]);
    }
    if !args.verbose {
        line.push(OsStr::new("-q"));
    }
    line.push(OsStr::new("unmount"));
    line.extend(args.force.then_some(OsStr::new("--force")));
    line.extend([OsStr::new("--"), dir.as_os_str()]);
    let status = run::run(&run::program()?, &line, &run::account(entry.user)?)?;
    match next(status.code(), stands(dir, entry), node_directory.is_some(), args.force) {
        Next::Report => Ok(run::mapped(status)),
        Next::AskElsewhere => {
            record::forget(entry);
            ask(args, dir, entry, None)
        }
        Next::Detach => {
            eprintln!("umount.tahoefs: unmounting without waiting: its process stores what is left on its own");
            detach(dir, entry, true)
        }
        Next::Refuse => Err(Refusal {
            exit: Exit::Failed,
            message: format!(
                "{0}: it stays mounted, because whether everything is on the grid could not be learned: \
                 `tahoefs -d NODE_DIRECTORY unmount {0}` asks where it was mounted with another node directory; \
                 `umount -l {0}` takes it out of the tree, and its process goes on storing",
                dir.display()
            ),
        }),
    }
}

/// Whether what is mounted at `dir` is still this mount: while somebody waits, another may take its place.
fn stands(dir: &Path, entry: &Entry) -> bool {
    matches!(table::find(dir), Ok(Some(now)) if now == *entry)
}

/// Takes the mount out of the tree; its process stores what is left and ends.
fn detach(dir: &Path, entry: &Entry, lazy: bool) -> Result<u8, Refusal> {
    if !stands(dir, entry) {
        return Ok(0);
    }
    if !run::is_root() {
        let lazily = lazy.then_some(OsStr::new("-z"));
        let line: Vec<&OsStr> = [OsStr::new("-u")].into_iter().chain(lazily).chain([dir.as_os_str()]).collect();
        return Ok(run::mapped(run::run(Path::new("/usr/bin/fusermount3"), &line, &run::account(entry.user)?)?));
    }
    let path = CString::new(dir.as_os_str().as_bytes()).map_err(|e| Refusal::system(dir.display(), &e.into()))?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that lives across the call.
    match unsafe { libc::umount2(path.as_ptr(), flags) } {
        0 => Ok(0),
        _ => Err(Refusal { exit: Exit::Failed, message: format!("{}: {}", dir.display(), io::Error::last_os_error()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_means_that_all_is_stored() {
        for code in [None, Some(1), Some(2), Some(3), Some(4), Some(6), Some(7)] {
            for (stands, noted) in [(false, false), (false, true), (true, false), (true, true)] {
                let next = next(code, stands, noted, false);
                assert_ne!(next, Next::Detach, "{code:?} {stands} {noted}");
            }
        }
        assert_eq!(next(Some(6), true, false, false), Next::Refuse);
        assert_eq!(next(Some(3), true, true, true), Next::AskElsewhere);
        assert_eq!(next(Some(6), true, false, true), Next::Detach);
        assert_eq!(next(Some(4), true, true, false), Next::Report);
        assert_eq!(next(Some(6), false, true, false), Next::Report);
        assert_eq!(next(Some(0), true, true, false), Next::Report);
    }
}
