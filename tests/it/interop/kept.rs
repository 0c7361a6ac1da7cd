//! The reference's commands in a directory of ours: what they do not touch stays as it was, and of what they replace
//! nothing is shown that was another file's.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use super::{bytes, digest, root_cap, serve, set_time, stored, world};
use crate::mount::world::{World, tool};

/// The two forms of one name, and one that is no text.
const COMPOSED: &str = "\u{e9}.txt";
const DECOMPOSED: &str = "e\u{301}.txt";
const NO_TEXT: &[u8] = b"caf\xe9.txt";

/// All that a file system tells of a name but how many others there are.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    ino: u64,
    mode: u32,
    owner: (u32, u32),
    device: u64,
    times: [(i64, i64); 2],
    xattrs: String,
    /// Of its bytes, or a link's target.
    content: String,
}

fn known(path: &Path) -> Known {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kind = meta.file_type();
    let xattrs = ["-h", "-d", "-m", "-", "-e", "hex", "--absolute-names"].map(OsStr::new);
    let xattrs = tool("getfattr", &[&xattrs[..], &[path.as_os_str()]].concat());
    let content = match () {
        () if kind.is_symlink() => fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec(),
        () if kind.is_file() => fs::read(path).unwrap(),
        () => Vec::new(),
    };
    Known {
        ino: meta.ino(),
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        device: meta.rdev(),
        times: [(meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())],
        xattrs: xattrs.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"),
        content: digest(&content),
    }
}

/// What stands in `d`.
fn all(world: &World) -> BTreeMap<OsString, Known> {
    let entries = fs::read_dir(world.at("d")).unwrap();
    entries.map(|entry| entry.unwrap()).map(|entry| (entry.file_name(), known(&entry.path()))).collect()
}

/// A file in `d`, with attributes of all kinds.
fn file(world: &World, name: &OsStr, seed: usize) -> PathBuf {
    let path = world.at("d").join(name);
    fs::write(&path, bytes(1000 + 3000 * seed, seed)).unwrap();
    chown(&path, Some(1000 + seed as u32), Some(2000)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o4640)).unwrap();
    let value = format!("0x00ff{seed:02x}");
    for name in ["user.kept", "trusted.kept"] {
        tool("setfattr", &["-n".as_ref(), name.as_ref(), "-v".as_ref(), value.as_ref(), path.as_os_str()]);
    }
    set_time(&path, 1_200_000_000 + seed as u64, 987_654_321);
    path
}

#[test]
fn what_the_reference_does_in_a_directory_leaves_the_rest_as_it_was() {
    let world = world(3, 5);
    world.mount(&[]);
    fs::create_dir(world.at("d")).unwrap();
    fs::create_dir(world.at("e")).unwrap();
    let names = ["stays", "linked", "replaced", "moved", "removed", COMPOSED, DECOMPOSED];
    for (seed, name) in names.into_iter().map(OsStr::new).chain([OsStr::from_bytes(NO_TEXT)]).enumerate() {
        file(&world, name, seed);
    }
    fs::hard_link(world.at("d/linked"), world.at("d/linked too")).unwrap();
    fs::hard_link(world.at("d/linked"), world.at("e/linked")).unwrap();
    for name in ["d/pipe", "d/pipe replaced"] {
        nix::unistd::mkfifo(&world.at(name), Mode::from_bits_truncate(0o620)).unwrap();
    }
    for name in ["d/symlink", "d/symlink replaced"] {
        symlink("stays", world.at(name)).unwrap();
    }
    world.remount_cold(&[]);
    let before = all(&world);
    assert_eq!(before.len(), names.len() + 6);
    assert!(before[OsStr::new("stays")].xattrs.contains("trusted.kept"), "{:?}", before[OsStr::new("stays")]);
    world.unmount();
    let root = root_cap(&world);

    let mut grid = serve(&world, 3, 5);
    let tahoe = |args: &[&str]| grid.tahoe(args);
    tahoe(&["add-alias", "ours", &root]);
    // Each name is another one, and tells what it is.
    let listed = tahoe(&["ls", "ours:d"]);
    let listed: Vec<&str> = listed.lines().collect();
    assert_eq!(listed.len(), before.len(), "{listed:?}");
    assert!(listed.contains(&COMPOSED), "{listed:?}");
    for start in ["\u{e9}~", "caf\u{fffd}~"] {
        assert_eq!(listed.iter().filter(|n| n.starts_with(start) && n.ends_with(".txt")).count(), 1, "{listed:?}");
    }
    let dir = stored(&grid, &root)["d"].cap.clone();
    for name in &listed {
        let ours = before.values().filter(|known| known.mode & libc::S_IFMT == libc::S_IFREG);
        let content = digest(&grid.get(&dir, name));
        let is_ours = ours.into_iter().any(|known| known.content == content);
        assert!(is_ours || name.starts_with("pipe") || name.starts_with("symlink"), "{name}");
    }
    let theirs = bytes(3000, 50);
    let source = world.home().join("theirs");
    fs::write(&source, &theirs).unwrap();
    let source = source.to_str().unwrap();
    let replaced = ["replaced", "linked too", "pipe replaced", "symlink replaced"];
    for name in replaced.into_iter().chain(["added"]) {
        tahoe(&["put", source, &format!("ours:d/{name}")]);
    }
    tahoe(&["ln", "ours:d/stays", "ours:d/named twice"]);
    tahoe(&["mv", "ours:d/moved", "ours:d/moved by them"]);
    tahoe(&["unlink", "ours:d/removed"]);
    grid.stop();

    world.mount(&[]);
    let after = all(&world);
    let at = |name: &str| &after[OsStr::new(name)];
    for (name, was) in &before {
        if !["moved", "removed"].into_iter().chain(replaced).any(|touched| name == touched) {
            assert_eq!(&after[name], was, "{name:?}");
        }
    }
    // The reference gives a name that it makes nothing of what stood with the old one.
    for (name, of) in [("moved by them", "moved"), ("named twice", "stays")] {
        let (now, was) = (at(name), &before[OsStr::new(of)]);
        assert!(now.content == was.content && now.ino != was.ino, "{name}");
        assert_eq!((now.mode, &*now.xattrs), (libc::S_IFREG | 0o644, ""), "{name}");
    }
    for name in replaced.into_iter().chain(["added"]) {
        let now = at(name);
        assert_eq!((now.mode & libc::S_IFMT, now.device, &*now.xattrs), (libc::S_IFREG, 0, ""), "{name}");
        assert_eq!(now.content, digest(&theirs), "{name}");
        assert!(now.times.iter().all(|(secs, _)| *secs > 1_300_000_000), "{name}: {:?}", now.times);
        let inodes = after.values().filter(|known| known.ino == now.ino);
        assert_eq!((inodes.count(), fs::metadata(world.at("d").join(name)).unwrap().nlink()), (1, 1), "{name}");
    }
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(at("replaced").mode & 0o7777, 0o4640, "who may use the name stays as it was");
    assert!(fs::symlink_metadata(world.at("d/pipe")).unwrap().file_type().is_fifo());

    // The other names of a file are still its names, and the one that was replaced is none.
    assert_eq!(known(&world.at("e/linked")), before[OsStr::new("linked")]);
    fs::write(world.at("d/linked"), "through one name").unwrap();
    assert_eq!(fs::metadata(world.at("e/linked")).unwrap().nlink(), 2);
    world.unmount();
    let mut grid = serve(&world, 3, 5);
    assert_eq!(grid.get(&root, "e/linked"), b"through one name");
    assert!(grid.get(&root, "d/linked too") == theirs);
    grid.stop();
}
