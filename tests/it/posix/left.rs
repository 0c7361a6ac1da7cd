//! What operations leave is there after an unmount, with the cache gone, and a remount.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

use super::{OPTIONS, is_root};
use crate::mount::world::World;

/// What lstat says of each name, and where links point. How many links a directory has is known once it was read.
fn seen(root: &Path) -> BTreeMap<PathBuf, (Vec<i128>, Option<OsString>)> {
    let mut all = BTreeMap::new();
    let mut next = vec![root.to_owned()];
    while let Some(path) = next.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        let links = if m.is_dir() { 0 } else { m.nlink() };
        let ino = if m.is_dir() { 0 } else { m.ino() };
        let numbers = [m.mode().into(), m.uid().into(), m.gid().into(), links.into(), ino.into()];
        let more = [m.rdev().into(), m.len().into(), m.atime().into(), m.atime_nsec().into(), m.mtime().into()];
        let last = [m.mtime_nsec().into(), m.ctime().into(), m.ctime_nsec().into()];
        let target = m.is_symlink().then(|| fs::read_link(&path).unwrap().into_os_string());
        if m.is_dir() {
            next.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.insert(path, ([&numbers[..], &more, &last].concat(), target));
    }
    all
}

fn set_times(path: &Path, atime: (i64, i64), mtime: (i64, i64)) {
    let [atime, mtime] = [atime, mtime].map(|(secs, nanos)| TimeSpec::new(secs, nanos));
    utimensat(AT_FDCWD, path, &atime, &mtime, UtimensatFlags::NoFollowSymlink).unwrap();
}

fn make(kind: SFlag, path: &Path, device: (u64, u64)) {
    mknod(path, kind, Mode::from_bits_truncate(0o640), makedev(device.0, device.1)).unwrap();
}

fn change(world: &World) {
    for mode in [0, 0o644, 0o751, 0o1777, 0o2755, 0o4711, 0o6777, 0o7777] {
        let path = world.at(format!("mode {mode:o}"));
        fs::write(&path, [mode as u8; 70]).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    make(SFlag::S_IFIFO, &world.at("fifo"), (0, 0));
    make(SFlag::S_IFCHR, &world.at("char"), (1, 3));
    make(SFlag::S_IFBLK, &world.at("block"), (4095, 0xf_ffff));
    drop(UnixListener::bind(world.at("socket")).unwrap());
    symlink("short", world.at("link")).unwrap();
    symlink("x/".repeat(2047), world.at("long link")).unwrap();
    for (i, name) in ["fifo", "char", "block", "socket", "link", "long link", "mode 644"].iter().enumerate() {
        let id = 100_000 + i as u32;
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id + 50));
        nix::unistd::fchownat(
            AT_FDCWD,
            &world.at(name),
            Some(uid),
            Some(gid),
            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .unwrap();
        let i = i as i64;
        set_times(&world.at(name), (1_000_000_000 + i, 999_999_999 - i), (-1_000_000 - i, i + 1));
    }
    // Past 2038, and 2106.
    set_times(&world.at("mode 751"), (4_294_967_295, 1), (9_000_000_000, 999_999_999));
    let dir = world.at("dir");
    fs::create_dir(&dir).unwrap();
    for i in 0..5 {
        fs::create_dir(dir.join(format!("below {i}"))).unwrap();
    }
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o3770)).unwrap();
    fs::rename(dir.join("below 1"), world.at("moved")).unwrap();
    fs::remove_dir(dir.join("below 2")).unwrap();
    set_times(&dir, (5, 5), (6, 6));
    fs::rename(world.at("fifo"), dir.join("fifo")).unwrap();
    fs::rename(world.at("mode 0"), world.at("mode 644")).unwrap();
    for (i, name) in ["mode 644", "dir/fifo", "char", "socket", "link"].iter().enumerate() {
        for n in 0..=i {
            fs::hard_link(world.at(name), dir.join(format!("{n} of {}", name.replace('/', " ")))).unwrap();
        }
    }
    fs::remove_file(world.at("socket")).unwrap();
    fs::rename(dir.join("0 of char"), world.at("0 of char")).unwrap();
    fs::remove_file(dir.join("1 of char")).unwrap();
}

#[test]
fn attributes_outlive_the_mount_and_its_cache() {
    if !is_root("posix::left::attributes_outlive_the_mount_and_its_cache") {
        return;
    }
    let world = super::mounted();
    change(&world);
    let before = seen(&world.mountpoint());
    world.unmount();
    fs::remove_dir_all(world.node_directory().join("tahoefs/cache")).unwrap();
    world.mount(&OPTIONS);
    let after = seen(&world.mountpoint());
    for (path, was) in &before {
        assert_eq!(after.get(path), Some(was), "{}", path.display());
    }
    assert_eq!(after.len(), before.len());
}

#[test]
fn two_names_are_not_exchanged() {
    let world = World::mounted();
    let [a, b] = ["a", "b"].map(|name| world.at(name));
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    let exchanged = renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE);
    assert_eq!(exchanged, Err(nix::errno::Errno::EINVAL));
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"a".to_vec(), b"b".to_vec()));
    world.unmount();
}
