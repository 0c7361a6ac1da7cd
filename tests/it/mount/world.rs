//! A home directory of its own with the real binary, and a real mount in it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A home with an embedded grid, or beside a node directory that stands elsewhere.
pub struct World {
    home: TempDir,
    node: PathBuf,
}

impl World {
    /// An empty home.
    pub fn new() -> World {
        World::new_in(&std::env::temp_dir())
    }

    /// An empty home below `folder`.
    pub fn new_in(folder: &Path) -> World {
        let home = tempfile::Builder::new().prefix("tahoefs-it-").tempdir_in(folder).expect("a temporary folder");
        World { node: home.path().join(".tahoefs"), home }
    }

    /// An empty home for the use of another program's node directory.
    pub fn adopting(node: &Path) -> World {
        let mut world = World::new();
        world.node = node.to_owned();
        world
    }

    /// A home with a node directory of its own, another machine's as it were, on the stores and the `tahoe:` of `other`.
    pub fn beside(other: &World) -> World {
        let world = World::new();
        world.ok(&["init"]);
        let (ours, theirs) = (world.node_directory(), other.node_directory());
        let stores = fs::read_to_string(theirs.join("tahoefs/config.toml")).expect("the stores");
        let begin = format!("path = \"{}/", theirs.join("tahoefs").display());
        let stores = stores.replace("path = \"", &begin);
        fs::write(ours.join("tahoefs/config.toml"), stores).expect("the stores");
        fs::copy(theirs.join("private/aliases"), ours.join("private/aliases")).expect("the aliases");
        world
    }

    /// A home whose `tahoe:` is mounted.
    pub fn mounted() -> World {
        let world = World::new();
        world.mount(&[]);
        world
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn node_directory(&self) -> PathBuf {
        self.node.clone()
    }

    pub fn store(&self, n: usize) -> PathBuf {
        let stores = self.node_directory().join("tahoefs/stores");
        let mut all: Vec<PathBuf> = fs::read_dir(stores).expect("stores").map(|e| e.expect("a store").path()).collect();
        all.sort();
        all[n].clone()
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.home().join("Tahoe")
    }

    /// A path in the mount.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mountpoint().join(path)
    }

    /// The binary, with this home and nothing else in its environment.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tahoefs"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home())
            .env("TAHOEFS_NODE_DIRECTORY", &self.node)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).current_dir(self.home());
        command
    }

    /// Runs the binary.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Runs the binary, which must succeed; returns what it printed.
    pub fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Mounts `tahoe:` with further arguments.
    pub fn mount(&self, extra: &[&str]) {
        let mut args = vec![OsStr::new("mount")];
        args.extend(extra.iter().map(OsStr::new));
        let mountpoint = self.mountpoint();
        args.push(mountpoint.as_os_str());
        self.ok(&args);
    }

    pub fn unmount(&self) {
        self.ok(&[OsStr::new("unmount"), self.mountpoint().as_os_str()]);
        assert!(!self.is_mounted(), "unmount returned while the mount still stands");
    }

    pub fn remount(&self) {
        self.unmount();
        self.mount(&[]);
    }

    /// Unmounts, forgets what was kept of the grid, and mounts again: what is read then comes from the stores.
    pub fn remount_cold(&self, options: &[&str]) {
        self.unmount();
        let cache = self.node_directory().join("tahoefs/cache");
        if cache.exists() {
            fs::remove_dir_all(cache).expect("the cache goes");
        }
        self.mount(options);
    }

    pub fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        table.lines().any(|line| line.split(' ').nth(4) == self.mountpoint().to_str())
    }

    /// The process behind the mount.
    pub fn daemon(&self) -> i32 {
        let status = self.ok(&[OsStr::new("status"), OsStr::new("--json"), self.mountpoint().as_os_str()]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("status is JSON");
        status["pid"].as_i64().expect("status has the pid") as i32
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.is_mounted() {
            return;
        }
        let mountpoint = self.mountpoint();
        let _ = self.run(&[OsStr::new("unmount"), OsStr::new("--force"), mountpoint.as_os_str()]);
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(&mountpoint).status();
        }
    }
}

/// What a command printed, for messages.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Runs another program, which must succeed; returns what it printed.
pub fn tool(program: &str, args: &[&OsStr]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e} (tests/run installs it)"));
    assert!(output.status.success(), "{program}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes a tree of every kind of thing that this version stores, with modes and times; about `files` files.
pub fn write_tree(root: &Path, files: usize) {
    for i in 0..files {
        let folder = root.join(format!("d{}/e{}", i % 7, i % 3));
        fs::create_dir_all(&folder).expect("a folder");
        let size = [0, 1, 55, 56, 4096, 70_000][i % 6] + i;
        let bytes: Vec<u8> = (0..size).map(|b| (b * 31 + i) as u8).collect();
        fs::write(folder.join(format!("file {i} \u{e9}.bin")), bytes).expect("a file");
    }
    std::os::unix::fs::symlink("d0/e0", root.join("link")).expect("a link");
    std::os::unix::fs::symlink("x/".repeat(100), root.join("long link")).expect("a link");
    fs::create_dir(root.join("empty")).expect("a folder");
}
