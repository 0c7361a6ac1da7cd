//! Mounts that die: at named points, at random moments, and with the disk below them.

mod kills;
mod points;
mod power;
mod steps;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::mount::world::{World, said};

/// The longest that a daemon may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon in the foreground.
struct Daemon(Child);

impl Daemon {
    /// Mounts, and waits until the mount answers. It may die at `crash_at`.
    fn start(world: &World, options: &[&str], crash_at: Option<&str>) -> Daemon {
        let mountpoint = world.mountpoint();
        let mut command = world.command(&["mount", "-f"]);
        command.args(options).arg(&mountpoint);
        command.envs(crash_at.map(|at| ("TAHOEFS_CRASH_AT", at)));
        let log = fs::File::create(world.home().join("daemon.log")).expect("a log");
        command.stdout(Stdio::null()).stderr(log);
        let mut daemon = Daemon(command.spawn().expect("the binary runs"));
        let until = Instant::now() + PATIENCE;
        while !world.is_mounted() {
            if let Some(status) = daemon.0.try_wait().expect("a child") {
                assert!(crash_at.is_some(), "the mount ended: {status}\n{}", log_of(world));
                break;
            }
            assert!(Instant::now() < until, "the mount does not come up\n{}", log_of(world));
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
    }

    /// Waits for its end.
    fn end(&mut self, world: &World) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.0.try_wait().expect("a child") {
                Some(status) => return status,
                None => assert!(Instant::now() < until, "the daemon does not end\n{}", log_of(world)),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

fn log_of(world: &World) -> String {
    fs::read_to_string(world.home().join("daemon.log")).unwrap_or_default()
}

/// Takes away the mount of a daemon that is dead.
fn clear(world: &World) {
    if world.is_mounted() {
        let status = Command::new("umount").arg("-l").arg(world.mountpoint()).status().expect("umount");
        assert!(status.success() && !world.is_mounted());
    }
}

/// What the grid alone says: the mount of a client without a journal.
fn mount_without_journal(world: &World) {
    let tahoefs = world.node_directory().join("tahoefs");
    let journal = tahoefs.join("journal");
    for root in fs::read_dir(&journal).expect("the journal") {
        // Who was unmounted lets go of it as the last thing, and closes the database by its path before.
        let lock = fs::File::open(root.expect("an entry").path().join("lock")).expect("its lock");
        lock.lock().expect("a lock");
    }
    fs::remove_dir_all(journal).expect("the journal");
    let _ = fs::remove_dir_all(tahoefs.join("index"));
    world.mount(&[]);
}

/// Nothing is on its way to the grid.
fn assert_drained(world: &World) {
    let status = world.ok(&["status".as_ref(), "--json".as_ref(), world.mountpoint().as_os_str()]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("status is JSON");
    assert_eq!(status["queue"]["left"]["changes"], 0, "{status}");
}

/// Bytes that tell where they belong.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| ((i.wrapping_mul(31) ^ (i >> 9)).wrapping_add(seed.wrapping_mul(101))) as u8).collect()
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Dir {
        mode: u32,
    },
    /// The mtime is known once it was set. Names of one file have one number, which says nothing else.
    File {
        content: Vec<u8>,
        mode: u32,
        mtime: Option<i64>,
        file: u64,
    },
}

type Tree = BTreeMap<PathBuf, Node>;

/// All below `top`.
fn tree(top: &Path) -> Tree {
    let (mut found, mut folders) = (Tree::new(), vec![top.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("attributes");
            let mode = meta.permissions().mode() & 0o7777;
            let name = path.strip_prefix(top).expect("below the top").to_owned();
            if meta.is_dir() {
                found.insert(name, Node::Dir { mode });
                folders.push(path);
            } else {
                let content = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert_eq!(meta.len(), content.len() as u64, "{}", path.display());
                found.insert(name, Node::File { content, mode, mtime: Some(meta.mtime()), file: meta.ino() });
            }
        }
    }
    found
}
