//! `mount.tahoefs`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::account::Account;
use crate::args::MountArgs;
use crate::{Refusal, automount, record, run, table};

/// Mounts as mount(8) asks, and returns the exit code once the mount answers or has failed.
///
/// # Errors
/// Nothing was tried.
pub fn mount(arguments: &[OsString]) -> Result<u8, Refusal> {
    let args = MountArgs::parse(arguments)?;
    let dir = std::path::absolute(&args.dir).map_err(|e| Refusal::system(Path::new(&args.dir).display(), &e))?;
    // Before anything is looked at: what is found is what is used.
    if let Some(namespace) = &args.namespace {
        run::enter(namespace)?;
    }
    let account = user(args.user.as_deref())?;
    let program = run::program()?;
    let line = command_line(&args, &dir);
    if args.verbose {
        let shown: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
        println!("mount.tahoefs: runs {} {}", program.display(), shown.join(" "));
    }
    if args.fake {
        return Ok(0);
    }
    if run::is_root() && account.uid != 0 {
        let given = automount::give(&dir, &account);
        given.map_err(|e| Refusal::system(dir.display(), &e))?;
    }
    let code = run::mapped(run::run(&program, &line, &account)?);
    if code == 0 && run::is_root() {
        let real = dir.canonicalize().unwrap_or(dir);
        let noted = match (table::find(&real), &args.node_directory) {
            (Ok(Some(entry)), Some(node_directory)) => record::write(&entry, node_directory),
            // What an earlier mount of this number left.
            (Ok(Some(entry)), None) => {
                record::forget(&entry);
                Ok(())
            }
            (Ok(None), _) => Ok(()),
            (Err(e), _) => Err(e),
        };
        if let Err(e) = noted {
            eprintln!("mount.tahoefs: mounted, but umount will not find its node directory: {e}");
        }
    }
    Ok(code)
}

/// What `tahoefs` is told.
fn command_line(args: &MountArgs, dir: &Path) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["mount".into()];
    if !args.options.is_empty() {
        line.extend(["-o".into(), args.options.join(",").into()]);
    }
    line.push("--".into());
    line.extend(args.what.as_ref().map(OsString::from));
    line.push(OsStr::new(dir).to_owned());
    line
}

/// Who runs the mount: `wanted`, which only root may choose freely, or the caller.
fn user(wanted: Option<&str>) -> Result<Account, Refusal> {
    let caller = run::caller()?;
    let Some(wanted) = wanted else { return Ok(caller) };
    let found = Account::find(wanted).map_err(|e| Refusal::system("the user database", &e))?;
    let found = found.ok_or_else(|| Refusal::usage(format!("uid={wanted}: there is no such user")))?;
    if found.uid != caller.uid && !run::is_root() {
        return Err(Refusal::usage(format!("uid={wanted}: only root mounts for somebody else")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_passed_on() {
        let words = ["work:a b", "/mnt", "-o", "rw,user,memory=64M"].map(OsString::from);
        let args = MountArgs::parse(&words).unwrap();
        assert_eq!(command_line(&args, Path::new("/mnt")), ["mount", "-o", "rw,memory=64M", "--", "work:a b", "/mnt"]);
        let args = MountArgs::parse(&["none", "/mnt"].map(OsString::from)).unwrap();
        assert_eq!(command_line(&args, Path::new("/mnt")), ["mount", "--", "/mnt"]);
    }

    #[test]
    fn users_must_exist() {
        assert_eq!(user(None).unwrap().uid, run::caller().unwrap().uid);
        assert_eq!(user(Some("no such user")).unwrap_err().exit, crate::Exit::Usage);
    }
}
