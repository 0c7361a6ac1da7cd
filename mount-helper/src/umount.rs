//! `umount.tahoefs`: umount(8) returns once everything is on the grid.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::args::UmountArgs;
use crate::table::{self, Entry};
use crate::{Exit, Refusal, record, run};

/// `tahoefs`'s exit codes for a mount that its node directory does not know: nobody was asked to store anything.
const NOT_KNOWN: [i32; 2] = [3, 6];

/// Unmounts as umount(8) asks, and returns the exit code.
///
/// # Errors
/// Nothing was tried, or the kernel refuses.
pub fn umount(arguments: &[OsString]) -> Result<u8, Refusal> {
    let args = UmountArgs::parse(arguments)?;
    if let Some(namespace) = &args.namespace {
        run::enter(namespace)?;
    }
    // Not canonicalised: the root of a mount whose process is gone cannot be looked at, and umount(8) did it already.
    let dir = std::path::absolute(&args.dir).map_err(|e| Refusal::system(Path::new(&args.dir).display(), &e))?;
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

/// Asks the mount's process to store what is left and to unmount; where it cannot be asked, unmounts.
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
    let still = matches!(table::find(dir), Ok(Some(now)) if now.id == entry.id);
    if still && status.code().is_some_and(|code| NOT_KNOWN.contains(&code)) {
        eprintln!("umount.tahoefs: unmounting without waiting: its process stores what is left on its own");
        return detach(dir, entry, args.force);
    }
    Ok(run::mapped(status))
}

/// Takes the mount out of the tree; its process stores what is left and ends.
fn detach(dir: &Path, entry: &Entry, lazy: bool) -> Result<u8, Refusal> {
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
