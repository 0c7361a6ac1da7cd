//! A mount as the system sees it: the mount table, and the service manager.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::world::World;

/// How long a notification may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_mount_table_shows_type_and_source() {
    let world = World::mounted();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|l| l.contains(world.mountpoint().to_str().unwrap())).unwrap();
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!((fields[0], fields[2]), ("tahoe:", "fuse.tahoefs"), "{line}");
    for option in ["nosuid", "nodev", "default_permissions"] {
        assert!(fields[3].split(',').any(|o| o == option), "{line}");
    }
    world.unmount();
    world.mount(&["-o", "noexec,suid"]);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|l| l.contains(world.mountpoint().to_str().unwrap())).unwrap();
    assert!(line.contains("noexec") && !line.contains("nosuid"), "{line}");
}

#[test]
fn a_service_manager_hears_of_readiness_the_queue_and_the_end() {
    let world = World::new();
    let path = world.home().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |wanted: &str| {
        let mut heard = Vec::new();
        loop {
            let mut message = [0; 4096];
            let length = manager.recv(&mut message).unwrap_or_else(|e| panic!("{wanted}: {e}; heard {heard:?}"));
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.contains(wanted) {
                return;
            }
            heard.push(text);
        }
    };
    let mountpoint = world.mountpoint();
    let mut command = world.command(&["mount".as_ref(), "-f".as_ref(), mountpoint.as_os_str()]);
    command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = command.spawn().unwrap();
    hear("READY=1");
    assert!(world.is_mounted(), "ready means that the mount answers");
    hear("STATUS=everything is on the grid");
    fs::write(world.at("f"), vec![7; 100_000]).unwrap();
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).unwrap();
    hear("STOPPING=1\nEXTEND_TIMEOUT_USEC=");
    hear("STATUS=stopping: ");
    let status = daemon.wait().unwrap();
    let mut said = String::new();
    daemon.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success(), "{said}");
    assert!(!world.is_mounted());
}

#[test]
fn a_mount_in_the_background_tells_the_service_manager_nothing() {
    let world = World::new();
    let path = world.home().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let mountpoint = world.mountpoint();
    let mut command = world.command(&["-q".as_ref(), "mount".as_ref(), mountpoint.as_os_str()]);
    assert!(command.env("NOTIFY_SOCKET", &path).status().unwrap().success());
    world.unmount();
    assert!(manager.recv(&mut [0; 16]).is_err());
}
