//! fallocate, holes, copies within the mount, O_DIRECT.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::unistd::{Whence, lseek};

use super::dice::Dice;
use super::world::{World, tool};

const KEEP: FallocateFlags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(KEEP);
const ZERO: FallocateFlags = FallocateFlags::FALLOC_FL_ZERO_RANGE;

/// Not a zero among them.
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    (0..n as u64).map(|i| (i * 131 + i / 251 + seed * 77) as u8 | 1).collect()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn ranges_behave_as_on_a_local_disk() {
    let world = World::mounted();
    let local = tempfile::tempdir().unwrap();
    let mut dice = Dice::new(7);
    let mut below = |limit: usize| dice.roll(limit) as u64;
    for round in 0..3u64 {
        // Beyond what stands in rows of the journal, and what does; the second and third time over what is stored.
        let (name, longest, most) = if round == 1 { ("small", 40_000, 9000) } else { ("large", 3_000_000, 400_000) };
        let paths = [world.at(name), local.path().join(name)];
        let files = [open(&paths[0]), open(&paths[1])];
        for step in 0..200 {
            let (at, length) = (below(longest), 1 + below(most));
            let (to, data) = (below(longest), bytes(step, length as usize));
            let what = below(9);
            let results = files.each_ref().map(|file| {
                let allocate = |mode| fallocate(file, mode, at as i64, length as i64).map(|()| 0);
                let done = match what {
                    0..=2 => return file.write_all_at(&data, at).map(|()| 0).map_err(|e| e.raw_os_error()),
                    3 => allocate(PUNCH),
                    4 => allocate(ZERO),
                    5 => allocate(ZERO | KEEP),
                    6 => allocate(FallocateFlags::empty()),
                    7 => allocate(KEEP),
                    _ if length % 3 == 0 => return file.set_len(at).map(|()| 0).map_err(|e| e.raw_os_error()),
                    _ => copy_file_range(file, Some(&mut (at as i64)), file, Some(&mut (to as i64)), length as usize),
                };
                done.map_err(|e| Some(e as i32))
            });
            assert_eq!(results[0], results[1], "step {step}: {what} of {length} at {at} (to {to})");
            assert_eq!(files[0].metadata().unwrap().len(), files[1].metadata().unwrap().len(), "step {step}: {what}");
            if step % 10 == 0 {
                assert!(fs::read(&paths[0]).unwrap() == fs::read(&paths[1]).unwrap(), "step {step}: {what}");
            }
        }
        drop(files);
        world.remount_cold(&[]);
        assert!(fs::read(&paths[0]).unwrap() == fs::read(&paths[1]).unwrap(), "after a remount");
    }
}

#[test]
fn fallocate_reserves_punches_and_refuses_what_cannot_be() {
    let world = World::mounted();
    let file = open(&world.at("f"));
    fallocate(&file, FallocateFlags::empty(), 0, 1000).unwrap();
    assert_eq!((file.metadata().unwrap().len(), fs::read(world.at("f")).unwrap()), (1000, vec![0; 1000]));
    fallocate(&file, KEEP, 0, 5000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1000);
    for (mode, at) in [(FallocateFlags::empty(), 1 << 50), (ZERO, 1 << 50), (KEEP, 0)] {
        assert_eq!(fallocate(&file, mode, at, 1 << 50), Err(Errno::ENOSPC), "{mode:?}");
    }
    for mode in [FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, FallocateFlags::FALLOC_FL_INSERT_RANGE] {
        assert_eq!(fallocate(&file, mode, 0, 4096), Err(Errno::EOPNOTSUPP), "{mode:?}");
    }
    assert_eq!(file.metadata().unwrap().len(), 1000);
    let before = file.metadata().unwrap();
    file.write_all_at(&bytes(1, 1000), 0).unwrap();
    fallocate(&file, PUNCH, 100, 200).unwrap();
    let expected = [&bytes(1, 1000)[..100], &[0; 200], &bytes(1, 1000)[300..]].concat();
    assert!(fs::read(world.at("f")).unwrap() == expected);
    let after = file.metadata().unwrap();
    assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()), "a hole is a change");
}

#[test]
fn holes_are_found_while_a_file_is_local_and_it_is_all_data_once_stored() {
    let world = World::mounted();
    let path = world.at("f");
    let file = open(&path);
    let next = |file: &File, what, at| lseek(file, at, what);
    file.set_len(10_000_000).unwrap();
    assert_eq!(next(&file, Whence::SeekData, 0), Err(Errno::ENXIO));
    assert_eq!(next(&file, Whence::SeekHole, 5), Ok(5));
    file.write_all_at(&bytes(1, 200_000), 1_000_000).unwrap();
    assert_eq!(next(&file, Whence::SeekData, 0), Ok(1_000_000));
    assert_eq!(next(&file, Whence::SeekHole, 1_100_000), Ok(1_200_000));
    assert_eq!(next(&file, Whence::SeekData, 1_200_000), Err(Errno::ENXIO));
    assert_eq!(next(&file, Whence::SeekHole, 10_000_000), Err(Errno::ENXIO));
    drop(file);
    world.remount_cold(&[]);
    let file = open(&path);
    let sought = [(Whence::SeekData, 5, 5), (Whence::SeekHole, 5, 10_000_000)];
    for (what, at, found) in sought {
        assert_eq!(next(&file, what, at), Ok(found));
    }
    fallocate(&file, PUNCH, 1_050_000, 100_000).unwrap();
    assert_eq!(next(&file, Whence::SeekHole, 0), Ok(1_050_000));
    assert_eq!(next(&file, Whence::SeekData, 1_050_000), Ok(1_150_000));
    assert_eq!(next(&file, Whence::SeekHole, 1_150_000), Ok(10_000_000));
}

#[test]
fn copies_within_the_mount_are_the_same_also_after_a_remount() {
    let world = World::mounted();
    let content = bytes(1, 3_000_000);
    fs::write(world.at("fresh"), &content).unwrap();
    tool("cp", &["-p".as_ref(), world.at("fresh").as_os_str(), world.at("copy of fresh").as_os_str()]);
    world.remount_cold(&[]);
    tool("cp", &["-p".as_ref(), world.at("fresh").as_os_str(), world.at("copy of stored").as_os_str()]);
    let (from, to) = (open(&world.at("fresh")), open(&world.at("in pieces")));
    let (mut there, mut here) = (0, 0);
    for _ in 0..3 {
        copy_file_range(&from, Some(&mut there), &to, Some(&mut here), 1_000_000).unwrap();
    }
    to.write_all_at(b"changed", 2_500_000).unwrap();
    drop((from, to));
    // What was shared is a file of its own.
    fs::write(world.at("copy of fresh"), "other").unwrap();
    for round in ["at once", "after a remount"] {
        assert!(fs::read(world.at("fresh")).unwrap() == content, "{round}");
        assert!(fs::read(world.at("copy of stored")).unwrap() == content, "{round}");
        assert_eq!(fs::read(world.at("copy of fresh")).unwrap(), b"other", "{round}");
        let mut changed = content.clone();
        changed[2_500_000..2_500_007].copy_from_slice(b"changed");
        assert!(fs::read(world.at("in pieces")).unwrap() == changed, "{round}");
        if round == "at once" {
            world.remount_cold(&[]);
        }
    }
}

#[test]
fn o_direct_reads_and_writes() {
    let world = World::mounted();
    let content = bytes(1, 1_500_000);
    fs::write(world.at("f"), &content).unwrap();
    world.remount();
    for round in 0..2 {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(world.at("f")).unwrap();
        let mut read = vec![0; 8192];
        file.read_exact_at(&mut read, 4096 * 100).unwrap();
        assert!(read == content[409_600..417_792], "round {round}");
        file.write_all_at(&vec![9; 8192], 4096 * 200).unwrap();
        let mut expected = content.clone();
        expected[819_200..827_392].fill(9);
        assert!(fs::read(world.at("f")).unwrap() == expected, "round {round}");
        drop(file);
        world.remount_cold(&[]);
    }
}
