//! The node directory: whether it is there, whether others can look into it, whether its settings can be used.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use nix::unistd::AccessFlags;

use super::super::exit::{Exit, Failure};
use super::super::output;
use super::super::session::Session;
use super::{Finding, LOCAL_LIMIT, hangs, within};
use crate::config::{Aliases, Announcements, ConfigError, GridConfig, Located, NodeDir, Stores};
use crate::util::Clock;

/// The folders that hold secrets.
const SECRET: [&str; 2] = ["private", "tahoefs"];
/// How far ahead of this computer's clock a file's time may be.
const AHEAD: i64 = 120;
/// More files than those of a node directory that are worth a look.
const FILES: usize = 1000;

const CHECK: &str = "node-directory";

/// The node directory, if there is one; says what it is.
pub fn find(session: &Session, findings: &mut Vec<Finding>) -> Option<NodeDir> {
    let asked = session.clone();
    let located = within(LOCAL_LIMIT, move || asked.locate());
    let is_named = session.given.is_some() || std::env::var_os("TAHOEFS_NODE_DIRECTORY").is_some_and(|v| !v.is_empty());
    match located {
        Some(Ok(Located::Found(dir))) => {
            findings.push(Finding::ok(CHECK, dir.path().display().to_string()));
            return Some(dir);
        }
        Some(Ok(Located::Absent(dir))) if !is_named => {
            let message = format!("there is none yet at {}", dir.path().display());
            findings.push(Finding::note(CHECK, message).with("`tahoefs mount MOUNTPOINT` or `tahoefs init` makes one"));
        }
        Some(Ok(Located::Absent(dir))) => {
            let failure = Failure::from(ConfigError::NoNodeDir(dir.path().to_owned()));
            findings.push(Finding::failure(CHECK, &failure, "`tahoefs -d DIR init` makes one"));
        }
        Some(Err(failure)) => findings.push(Finding::failure(CHECK, &failure, "name the right one with -d DIR")),
        None => findings.push(hangs(CHECK, "the node directory")),
    }
    None
}

/// Whether this user can use it, and others cannot look into it.
pub fn permissions(dir: &NodeDir) -> Vec<Finding> {
    const CHECK: &str = "permissions";
    let shown = dir.path().display();
    let top = match fs::metadata(dir.path()) {
        Ok(top) => top,
        Err(e) => return vec![Finding::failure(CHECK, &Failure::io(shown, &e), "see to it that it can be read")],
    };
    let mut findings = Vec::new();
    let me = nix::unistd::geteuid();
    if me.is_root() && top.uid() != 0 {
        let message = format!("{shown} belongs to the user {}: what root makes there that user cannot read", top.uid());
        findings.push(Finding::warning(
            CHECK,
            message,
            format!("run tahoefs as that user: `sudo -u '#{}' …`", top.uid()),
        ));
    }
    let folders: Vec<PathBuf> = SECRET.iter().map(|name| dir.path().join(name)).filter(|path| path.exists()).collect();
    let unusable = |path: &&PathBuf| {
        nix::unistd::access(path.as_path(), AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).is_err()
    };
    for path in std::iter::once(&dir.path().to_owned()).chain(&folders).filter(unusable) {
        let message = format!("{} cannot be written by this user", path.display());
        let remedy = format!("`sudo chown -R $USER {shown}`, unless its disk is read-only");
        findings.push(Finding::problem(CHECK, Exit::Failed, message, remedy));
    }
    // Where nobody else gets through the directory above, what is in it is safe.
    if top.mode() & 0o077 != 0 {
        for path in folders.iter().filter(|path| is_open(path)) {
            let message = format!("{} is open to other users, and holds secrets", path.display());
            findings.push(Finding::warning(CHECK, message, format!("`chmod -R go-rwx {}`", path.display())));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "this user can use it, and nobody else can look into it"));
    }
    findings
}

fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}

/// Whether its files can be used.
pub fn settings(dir: &NodeDir) -> Vec<Finding> {
    const CHECK: &str = "settings";
    const MEND: &str = "mend the file that is named; tahoefs changes none of them by itself";
    let unusable = |error: ConfigError| Finding::failure(CHECK, &error.into(), MEND);
    let config = match GridConfig::load(dir) {
        Ok(config) => config,
        Err(error) => return vec![unusable(error)],
    };
    let others = [Stores::load(dir).map(drop), Aliases::load(dir).map(drop)];
    let mut findings: Vec<Finding> = others.into_iter().filter_map(Result::err).map(unusable).collect();
    match Announcements::load(dir, &config) {
        Ok(found) => findings.extend(found.warnings.into_iter().map(|warning| Finding::warning(CHECK, warning, MEND))),
        Err(error) => findings.push(unusable(error)),
    }
    if findings.is_empty() {
        let shares = config.shares;
        let (needed, happy, total) = (shares.needed, shares.happy, shares.total);
        findings.push(Finding::ok(
            CHECK,
            format!("any {needed} of {total} shares make a file, which must be on {happy} servers"),
        ));
    }
    findings
}

/// Whether the clock was set back: then a file of the node directory was changed in the future.
pub fn clock(dir: &NodeDir) -> Vec<Finding> {
    let now = Clock::system().now_secs();
    let folders = [dir.path().to_owned(), dir.path().join("private"), dir.own(""), dir.own("journal")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten()).take(FILES);
    let newest = files.filter_map(|entry| Some((changed(&entry).ok()?, entry.path()))).max();
    match newest {
        Some((at, path)) if at > now + AHEAD => {
            let (path, at, now) = (path.display(), output::time(at), output::time(now));
            let message = format!("{path} was changed at {at}, and this computer's clock shows {now}: it was set back");
            vec![Finding::warning("clock", message, SET_CLOCK)]
        }
        _ => Vec::new(),
    }
}

/// What to do about a clock.
pub const SET_CLOCK: &str = "`sudo timedatectl set-ntp true`, then `timedatectl` shows whether it is right";

fn changed(entry: &fs::DirEntry) -> io::Result<i64> {
    let modified = entry.metadata()?.modified()?;
    Ok(modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64))
}
