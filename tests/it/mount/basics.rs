//! What a program sees: the sentences of docs/SEMANTICS.md about files, names and attributes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::world::World;

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().expect("the call fails").raw_os_error().expect("with an errno")
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 131 + i / 251) as u8).collect()
}

#[test]
fn what_is_written_is_there_after_a_remount() {
    let world = World::mounted();
    let sizes = [0, 1, 55, 56, 1_000, 131_072, 1_048_576, 1_048_577, 3_500_000];
    for size in sizes {
        fs::write(world.at(size.to_string()), bytes(size)).unwrap();
    }
    fs::create_dir_all(world.at("a/b/c")).unwrap();
    fs::write(world.at("a/b/c/deep"), "deep").unwrap();
    world.remount();
    for size in sizes {
        assert_eq!(fs::read(world.at(size.to_string())).unwrap(), bytes(size), "{size} bytes");
        assert_eq!(fs::metadata(world.at(size.to_string())).unwrap().len(), size as u64);
    }
    assert_eq!(fs::read_to_string(world.at("a/b/c/deep")).unwrap(), "deep");
}

#[test]
fn attributes_are_kept_to_the_nanosecond() {
    let world = World::mounted();
    let stamp = |secs, nanos| UNIX_EPOCH + Duration::new(secs, nanos);
    let times = fs::FileTimes::new().set_modified(stamp(1_234_567_890, 123_456_789)).set_accessed(stamp(1_111, 1));
    fs::write(world.at("f"), "x").unwrap();
    fs::create_dir(world.at("d")).unwrap();
    for path in ["f", "d"] {
        fs::set_permissions(world.at(path), fs::Permissions::from_mode(0o741)).unwrap();
        std::os::unix::fs::chown(world.at(path), Some(1234), Some(5678)).unwrap();
        File::open(world.at(path)).unwrap().set_times(times).unwrap();
    }
    let early = UNIX_EPOCH - Duration::new(1_000_000, 250_000_000);
    File::create(world.at("early")).unwrap().set_times(times.set_modified(early)).unwrap();
    File::open(world.mountpoint()).unwrap().set_times(times).unwrap();
    for round in ["at once", "after a remount"] {
        assert_eq!(fs::metadata(world.at("early")).unwrap().modified().unwrap(), early, "{round}");
        for path in ["f", "d", "."] {
            let m = fs::metadata(world.at(path)).unwrap();
            assert_eq!((m.mtime(), m.mtime_nsec()), (1_234_567_890, 123_456_789), "{path} {round}");
            assert_eq!((m.atime(), m.atime_nsec()), (1_111, 1), "{path} {round}");
            if path != "." {
                assert_eq!((m.mode() & 0o7777, m.uid(), m.gid()), (0o741, 1234, 5678), "{path} {round}");
            }
        }
        if round == "at once" {
            world.remount();
        }
    }
}

#[test]
fn a_write_changes_mtime_and_a_chmod_only_ctime() {
    let world = World::mounted();
    let before = SystemTime::now() - Duration::from_secs(1);
    let path = world.at("f");
    fs::write(&path, "x").unwrap();
    let first = fs::metadata(&path).unwrap();
    assert!(first.modified().unwrap() > before);
    std::thread::sleep(Duration::from_millis(20));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let second = fs::metadata(&path).unwrap();
    assert_eq!(second.modified().unwrap(), first.modified().unwrap());
    assert!((second.ctime(), second.ctime_nsec()) > (first.ctime(), first.ctime_nsec()));
    File::open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().accessed().unwrap(), first.accessed().unwrap());
    std::thread::sleep(Duration::from_millis(20));
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"y").unwrap();
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > first.modified().unwrap());
}

#[test]
fn what_is_appended_is_decided_at_each_write() {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let world = World::mounted();
    let path = world.at("f");
    fs::write(&path, "abc").unwrap();
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    let flags = fcntl_getfl(&file).unwrap();
    fcntl_setfl(&file, flags - OFlags::APPEND).unwrap();
    file.write_all_at(b"X", 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"Xbc");
    fcntl_setfl(&file, flags).unwrap();
    (&file).write_all(b"d").unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    fcntl_setfl(&file, fcntl_getfl(&file).unwrap() | OFlags::APPEND).unwrap();
    (&file).write_all(b"e").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"Xbcde");
}

#[test]
fn files_are_changed_in_place() {
    let world = World::mounted();
    let path = world.at("f");
    let mut expected = bytes(2_500_000);
    fs::write(&path, &expected).unwrap();
    world.remount();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for (offset, length) in [(0usize, 10usize), (1_048_570, 20), (2_499_990, 10), (700_000, 100_000)] {
        let patch = vec![0xaa; length];
        file.write_all_at(&patch, offset as u64).unwrap();
        expected[offset..offset + length].copy_from_slice(&patch);
    }
    let mut middle = vec![0; 200_000];
    file.read_exact_at(&mut middle, 650_000).unwrap();
    assert_eq!(middle, expected[650_000..850_000]);
    file.set_len(1_900_000).unwrap();
    expected.truncate(1_900_000);
    file.set_len(2_000_000).unwrap();
    expected.resize(2_000_000, 0);
    drop(file);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"the end").unwrap();
    expected.extend_from_slice(b"the end");
    drop(file);
    world.remount();
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn a_hole_reads_as_zeros() {
    let world = World::mounted();
    let file = File::create(world.at("f")).unwrap();
    file.write_all_at(b"end", 3_000_000).unwrap();
    drop(file);
    world.remount();
    let mut expected = vec![0; 3_000_000];
    expected.extend_from_slice(b"end");
    assert!(fs::read(world.at("f")).unwrap() == expected);
}

#[test]
fn o_trunc_and_o_append_do_what_they_say() {
    let world = World::mounted();
    let path = world.at("f");
    fs::write(&path, "long content").unwrap();
    File::create(&path).unwrap().write_all(b"short").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "short");
    let mut a = OpenOptions::new().append(true).open(&path).unwrap();
    let mut b = OpenOptions::new().append(true).open(&path).unwrap();
    a.write_all(b"-a").unwrap();
    b.write_all(b"-b").unwrap();
    a.write_all(b"-c").unwrap();
    drop((a, b));
    world.remount();
    assert_eq!(fs::read_to_string(&path).unwrap(), "short-a-b-c");
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    let world = World::mounted();
    let path = world.at("f");
    fs::write(&path, "content").unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
    file.write_all(b"CON").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "CONtent");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.sync_all().unwrap();
    drop(file);
    world.remount();
    assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
}

#[test]
fn a_rename_replaces_and_keeps_open_files() {
    let world = World::mounted();
    fs::write(world.at("old"), "old").unwrap();
    fs::write(world.at("new"), "new").unwrap();
    let mut replaced = File::open(world.at("old")).unwrap();
    let inode = fs::metadata(world.at("new")).unwrap().ino();
    fs::rename(world.at("new"), world.at("old")).unwrap();
    assert_eq!(fs::metadata(world.at("old")).unwrap().ino(), inode);
    let mut text = String::new();
    replaced.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    drop(replaced);
    fs::create_dir_all(world.at("x/y")).unwrap();
    fs::write(world.at("x/y/z"), "z").unwrap();
    fs::create_dir(world.at("w")).unwrap();
    fs::rename(world.at("x/y"), world.at("w/v")).unwrap();
    fs::rename(world.at("old"), world.at("w/v/old")).unwrap();
    for _ in 0..2 {
        assert_eq!(fs::read_to_string(world.at("w/v/old")).unwrap(), "new");
        assert_eq!(fs::read_to_string(world.at("w/v/z")).unwrap(), "z");
        assert_eq!(errno(fs::metadata(world.at("new"))), libc::ENOENT);
        assert_eq!(errno(fs::metadata(world.at("x/y"))), libc::ENOENT);
        world.remount();
    }
}

#[test]
fn renames_and_removals_fail_as_posix_says() {
    let world = World::mounted();
    fs::create_dir_all(world.at("d/sub")).unwrap();
    fs::create_dir(world.at("empty")).unwrap();
    fs::write(world.at("f"), "f").unwrap();
    assert_eq!(errno(fs::remove_dir(world.at("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(world.at("f"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(world.at("d"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(world.at("f"), world.at("d"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(world.at("d"), world.at("f"))), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(world.at("empty"), world.at("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(world.at("d"), world.at("d/sub/d"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(world.at("none"), world.at("f"))), libc::ENOENT);
    assert_eq!(errno(fs::create_dir(world.at("d"))), libc::EEXIST);
    assert_eq!(errno(OpenOptions::new().write(true).create_new(true).open(world.at("f"))), libc::EEXIST);
    assert_eq!(errno(File::create(world.at("x".repeat(256)))), libc::ENAMETOOLONG);
    fs::rename(world.at("d"), world.at("empty")).unwrap();
    assert!(world.at("empty/sub").is_dir());
}

#[test]
fn symbolic_links_keep_their_targets() {
    let world = World::mounted();
    let long = "t/".repeat(2_000);
    symlink("target", world.at("short")).unwrap();
    symlink(&long, world.at("long")).unwrap();
    world.remount();
    assert_eq!(fs::read_link(world.at("short")).unwrap(), Path::new("target"));
    assert_eq!(fs::read_link(world.at("long")).unwrap(), Path::new(&long));
    assert!(fs::symlink_metadata(world.at("short")).unwrap().is_symlink());
    assert_eq!(fs::symlink_metadata(world.at("short")).unwrap().len(), 6);
}

#[test]
fn names_come_back_as_they_were_given() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let world = World::mounted();
    let (composed, decomposed) = ("\u{e9}".as_bytes(), "e\u{301}".as_bytes());
    let names: [&[u8]; 6] = [composed, decomposed, "u\u{308}".as_bytes(), b"not \xff utf-8", b"%2F", b" blank "];
    let path = |name: &[u8]| world.at(OsString::from_vec(name.to_vec()));
    assert_eq!(fs::metadata(path(decomposed)).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    for name in names {
        fs::write(path(name), name).unwrap();
    }
    world.remount();
    let mut listed: Vec<Vec<u8>> =
        fs::read_dir(world.mountpoint()).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect();
    listed.sort();
    let mut expected = names.map(<[u8]>::to_vec).to_vec();
    expected.sort();
    assert_eq!(listed, expected);
    for name in names {
        assert_eq!(fs::read(path(name)).unwrap(), name);
    }
    fs::remove_file(path(composed)).unwrap();
    fs::rename(path(decomposed), path(composed)).unwrap();
    world.remount();
    assert_eq!(fs::read(path(composed)).unwrap(), decomposed);
    assert!(!path(decomposed).exists());
}

#[test]
fn a_listing_is_whole_however_long() {
    let world = World::mounted();
    for i in 0..700 {
        File::create(world.at(format!("{i:04}"))).unwrap();
    }
    let count = || fs::read_dir(world.mountpoint()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>().len();
    assert_eq!(count(), 700);
    world.remount();
    assert_eq!(count(), 700);
    for entry in fs::read_dir(world.mountpoint()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(count(), 0);
    world.remount();
    assert_eq!(count(), 0);
}

#[test]
fn inode_numbers_survive_a_remount() {
    let world = World::mounted();
    fs::create_dir(world.at("d")).unwrap();
    fs::write(world.at("d/f"), "f").unwrap();
    let inodes = || ["d", "d/f", "."].map(|p| fs::metadata(world.at(p)).unwrap().ino());
    let before = inodes();
    world.remount();
    assert_eq!(inodes(), before);
}

#[test]
fn memory_maps_read_and_write() {
    let world = World::mounted();
    let path = world.at("f");
    fs::write(&path, bytes(100_000)).unwrap();
    world.remount();
    let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[50000:50005]=b'hello'\nm.flush()\nm.close()\nf.close()";
    super::world::tool("python3", &["-c".as_ref(), script.as_ref(), path.as_os_str()]);
    world.remount();
    let mut expected = bytes(100_000);
    expected[50_000..50_005].copy_from_slice(b"hello");
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn a_file_that_cannot_fit_is_refused() {
    let world = World::mounted();
    let file = File::create(world.at("f")).unwrap();
    assert_eq!(errno(file.set_len(1 << 50)), libc::ENOSPC);
    assert_eq!(errno(file.write_all_at(b"x", 1 << 50)), libc::ENOSPC);
    assert_eq!(file.metadata().unwrap().len(), 0);
}

#[test]
fn statfs_tells_of_one_disk_once() {
    let world = World::mounted();
    let stat = |path: &Path| {
        let text = super::world::tool("stat", &["-f".as_ref(), "-c".as_ref(), "%S %b %a".as_ref(), path.as_os_str()]);
        let n: Vec<u64> = text.split_whitespace().map(|f| f.parse().unwrap()).collect();
        (n[0] * n[1], n[0] * n[2])
    };
    let (total, free) = stat(&world.mountpoint());
    let (disk_total, disk_free) = stat(world.home());
    // 3-of-5 on one disk: three fifths of it.
    assert!(total <= disk_total * 3 / 5 && total > disk_total / 2, "{total} of {disk_total}");
    assert!(free <= disk_free * 3 / 5 + (1 << 30) && free > 0, "{free} of {disk_free}");
}
