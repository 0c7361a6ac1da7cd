//! POSIX as other people test it, on a real mount, as root.

mod left;
mod suite;

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::mount::world::{World, said};

/// A mount that every user may use as root mounts it, with devices and set-id programs.
fn mounted() -> World {
    let world = World::new();
    std::fs::set_permissions(world.home(), std::fs::Permissions::from_mode(0o755)).unwrap();
    world.mount(&OPTIONS);
    world
}

const OPTIONS: [&str; 2] = ["-o", "allow_other,dev,suid"];

/// Whether the test named `name` is to go on here, for this is root; else it has been run by way of sudo.
fn is_root(name: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "--preserve-env=PATH,TMPDIR,TAHOEFS_TEST_RUN,XDG_CACHE_HOME,HOME", "--"]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "--nocapture"]).arg(OsStr::new(name));
    let output = command.output().expect("sudo runs");
    assert!(output.status.success() && said(&output).contains("1 passed"), "{}", said(&output));
    println!("{}", String::from_utf8_lossy(&output.stdout));
    false
}
