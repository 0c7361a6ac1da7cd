//! Whether this user can mount at all: the device, the helper, and mounts that others may use.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::super::exit::Exit;
use super::Finding;

/// Where the parts of FUSE stand.
pub struct System {
    /// The device.
    pub device: PathBuf,
    /// The settings of the helper.
    pub conf: PathBuf,
    /// `$PATH`.
    pub path: OsString,
    /// Whether mount(2) is for us.
    pub is_root: bool,
}

impl System {
    /// This computer, for who runs this process.
    pub fn this() -> System {
        System {
            device: "/dev/fuse".into(),
            conf: "/etc/fuse.conf".into(),
            path: std::env::var_os("PATH").unwrap_or_default(),
            is_root: nix::unistd::geteuid().is_root(),
        }
    }

    /// The helper, where the library that mounts looks for it.
    fn helper(&self) -> Option<PathBuf> {
        let folders: Vec<PathBuf> = std::env::split_paths(&self.path).collect();
        let also = ["/sbin", "/bin"].map(PathBuf::from);
        let in_all = |name: &'static str| folders.iter().chain(&also).map(move |folder| folder.join(name));
        in_all("fusermount3").chain(in_all("fusermount")).find(|path| path.is_file())
    }
}

pub fn look(system: &System) -> Vec<Finding> {
    let mut findings = vec![device(system), helper(system)];
    findings.extend(allow_other(system));
    findings
}

fn device(system: &System) -> Finding {
    const CHECK: &str = "fuse";
    const CONTAINER: &str = "a container must be started with `--device /dev/fuse --cap-add SYS_ADMIN`";
    let shown = system.device.display();
    let problem = |message: String, remedy: &str| Finding::problem(CHECK, Exit::Mount, message, remedy);
    match OpenOptions::new().read(true).write(true).open(&system.device) {
        Ok(_) => Finding::ok(CHECK, format!("{shown} can be opened")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            problem(format!("{shown} is not there"), &format!("`sudo modprobe fuse`; {CONTAINER}"))
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let remedy = format!("`sudo chmod a+rw {shown}`, or join its group and log in anew; {CONTAINER}");
            problem(format!("{shown} may not be opened by this user"), &remedy)
        }
        Err(e) => problem(format!("{shown} cannot be opened: {e}"), &format!("`sudo modprobe fuse`; {CONTAINER}")),
    }
}

fn helper(system: &System) -> Finding {
    const CHECK: &str = "fusermount";
    const INSTALL: &str = "install FUSE 3: `sudo apt install fuse3`, or `sudo dnf install fuse3`";
    let Some(path) = system.helper() else {
        let message = "fusermount3 is not there";
        return match system.is_root {
            true => Finding::note(CHECK, format!("{message}; root does not need it, other users do")).with(INSTALL),
            false => Finding::problem(CHECK, Exit::Mount, format!("{message}, which mounts for users"), INSTALL),
        };
    };
    let shown = path.display();
    if !system.is_root {
        if nix::unistd::access(&path, AccessFlags::X_OK).is_err() {
            let remedy = format!("join the group of {shown} (`sudo usermod -aG GROUP $USER`) and log in anew");
            return Finding::problem(CHECK, Exit::Mount, format!("{shown} may not be run by this user"), remedy);
        }
        if !is_set_uid_root(&path) {
            let message = format!("{shown} is not set-user-id root, so it can mount for no user");
            return Finding::problem(CHECK, Exit::Mount, message, format!("`sudo chmod u+s {shown}`, or {INSTALL}"));
        }
    }
    Finding::ok(CHECK, format!("{shown} is there"))
}

fn is_set_uid_root(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o4000 != 0)
}

fn allow_other(system: &System) -> Option<Finding> {
    const CHECK: &str = "allow-other";
    if system.is_root {
        return None;
    }
    let shown = system.conf.display();
    let text = match fs::read_to_string(&system.conf) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => {
            let message = format!("{shown} cannot be read, so nobody knows whether it has user_allow_other: {e}");
            return Some(Finding::note(CHECK, message).with(format!("`sudo chmod a+r {shown}`")));
        }
    };
    if text.lines().any(|line| line.trim() == "user_allow_other") {
        return Some(Finding::ok(CHECK, format!("{shown} has user_allow_other")));
    }
    let message = format!("{shown} does not have user_allow_other, so -o allow_other and -o allow_root are refused");
    let remedy = format!("if others are to use your mounts: `echo user_allow_other | sudo tee -a {shown}`");
    Some(Finding::note(CHECK, message).with(remedy))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::State;
    use super::*;

    /// The states of the three, for a system in a folder that `make` has filled.
    fn found(is_root: bool, make: impl FnOnce(&Path)) -> Vec<(&'static str, State)> {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("bin")).unwrap();
        make(top.path());
        let system = System {
            device: top.path().join("device"),
            conf: top.path().join("fuse.conf"),
            path: top.path().join("bin").into_os_string(),
            is_root,
        };
        let findings = look(&system);
        for finding in &findings {
            assert_eq!(finding.exit.is_some(), finding.state == State::Problem, "{finding:?}");
            assert_eq!(finding.remedy.is_none(), finding.state == State::Ok, "{finding:?}");
        }
        findings.into_iter().map(|finding| (finding.check, finding.state)).collect()
    }

    fn helper_of_mode(top: &Path, mode: u32) {
        fs::write(top.join("bin/fusermount3"), "").unwrap();
        fs::set_permissions(top.join("bin/fusermount3"), fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_keeps_a_user_from_mounting_is_found() {
        let whole = |top: &Path| {
            fs::write(top.join("device"), "").unwrap();
            fs::write(top.join("fuse.conf"), "# a comment\n user_allow_other\n").unwrap();
            helper_of_mode(top, 0o4755);
        };
        // Who runs the tests may not be root, and then owns the helper.
        let helper = if nix::unistd::geteuid().is_root() { State::Ok } else { State::Problem };
        let all = [("fuse", State::Ok), ("fusermount", helper), ("allow-other", State::Ok)];
        assert_eq!(found(false, whole), all);
        let bare = |top: &Path| {
            whole(top);
            fs::remove_file(top.join("device")).unwrap();
            fs::write(top.join("fuse.conf"), "#user_allow_other\n").unwrap();
            helper_of_mode(top, 0o755);
        };
        let all = [("fuse", State::Problem), ("fusermount", State::Problem), ("allow-other", State::Note)];
        assert_eq!(found(false, bare), all);
        let locked = |top: &Path| {
            whole(top);
            fs::remove_file(top.join("device")).unwrap();
            // Not even root opens a folder for writing.
            fs::create_dir(top.join("device")).unwrap();
            helper_of_mode(top, 0o644);
        };
        assert_eq!(found(false, locked)[..2], [("fuse", State::Problem), ("fusermount", State::Problem)]);
    }

    #[test]
    fn root_needs_the_device_alone() {
        let device = |top: &Path| fs::write(top.join("device"), "").unwrap();
        let states = found(true, device);
        assert_eq!(states[0], ("fuse", State::Ok));
        assert!(states.iter().all(|(_, state)| *state <= State::Note), "{states:?}");
    }
}
