//! Stores that are gone, emptied or corrupted.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::world::{World, said};

fn content(i: usize) -> Vec<u8> {
    (0..[30, 500, 80_000, 1_500_000][i % 4]).map(|b: usize| (b * 7 + i) as u8).collect()
}

fn fill(world: &World) {
    fs::create_dir(world.at("d")).unwrap();
    for i in 0..8 {
        fs::write(world.at(format!("d/{i}")), content(i)).unwrap();
    }
}

fn check(world: &World) {
    for i in 0..8 {
        assert!(fs::read(world.at(format!("d/{i}"))).unwrap() == content(i), "file {i}");
    }
}

fn shares(store: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![store.join("storage/shares")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Spoils every share of a store, but leaves containers parseable.
fn corrupt(store: &Path) {
    for share in shares(store) {
        let file = fs::OpenOptions::new().read(true).write(true).open(&share).unwrap();
        let length = file.metadata().unwrap().len();
        for offset in (12..length.saturating_sub(72)).step_by(97) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x55], offset).unwrap();
        }
    }
}

#[test]
fn two_lost_stores_of_five_do_no_harm_and_a_third_is_an_error() {
    let world = World::mounted();
    fill(&world);
    world.unmount();
    fs::remove_dir_all(world.store(0)).unwrap();
    let second = world.store(0);
    fs::remove_dir_all(second.join("storage/shares")).unwrap();
    fs::create_dir(second.join("storage/shares")).unwrap();
    world.mount(&[]);
    check(&world);
    world.unmount();
    let third = world.store(1);
    fs::rename(third.join("storage"), third.join("gone")).unwrap();
    // What the root was when it was last seen would do.
    fs::remove_dir_all(world.node_directory().join("tahoefs/cache")).unwrap();
    let output = world.run(&["mount".as_ref(), world.mountpoint().as_os_str()]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(!world.is_mounted());
    fs::rename(third.join("gone"), third.join("storage")).unwrap();
    world.mount(&[]);
    check(&world);
}

#[test]
fn stores_may_go_while_files_are_read() {
    let world = World::mounted();
    fill(&world);
    world.remount();
    fs::read_dir(world.at("d")).unwrap().for_each(drop);
    for n in [4, 2] {
        corrupt(&world.store(n));
        check(&world);
        world.remount();
        check(&world);
    }
    // With one more gone nothing is invented: what cannot be verified is an error.
    world.remount();
    assert_eq!(fs::read_dir(world.at("d")).unwrap().count(), 8);
    corrupt(&world.store(0));
    let mut errors = 0;
    for i in 0..8 {
        match fs::read(world.at(format!("d/{i}"))) {
            Ok(read) => assert!(read == content(i), "file {i} reads wrong bytes"),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::EIO));
                errors += 1;
            }
        }
    }
    assert_eq!(errors, 6, "all but the two literal files have no good shares left");
}

#[test]
fn a_store_that_cannot_be_written_is_told_by_close() {
    let world = World::mounted();
    world.unmount();
    world.mount(&["-o", "durability=grid"]);
    fs::write(world.at("before"), "before").unwrap();
    // Happiness is five of five stores: without one of them nothing can be placed well enough.
    let store = world.store(3);
    fs::rename(store.join("storage"), store.join("away")).unwrap();
    let mut file = fs::File::create(world.at("f")).unwrap();
    file.write_all(&content(2)).unwrap();
    let error = file.sync_all().expect_err("fsync must not lie");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::read_to_string(world.at("before")).unwrap(), "before");
    fs::rename(store.join("away"), store.join("storage")).unwrap();
    file.sync_all().expect("what failed is kept and goes out once it can");
    drop(file);
    world.remount();
    assert!(fs::read(world.at("f")).unwrap() == content(2));
}

#[test]
fn stores_that_come_back_are_written_again() {
    let world = World::mounted();
    fs::create_dir(world.at("d")).unwrap();
    fs::write(world.at("d/a"), content(1)).unwrap();
    world.ok(&["flush"]);
    let away = |n: usize| (world.store(n).join("storage"), world.store(n).join("away"));
    for (storage, away) in [away(0), away(1)] {
        fs::rename(storage, away).unwrap();
    }
    fs::write(world.at("d/b"), "short").unwrap();
    for (storage, away) in [away(0), away(1)] {
        fs::rename(away, storage).unwrap();
    }
    // Longer than it takes until a missing store is looked for again.
    std::thread::sleep(std::time::Duration::from_secs(12));
    fs::write(world.at("d/c"), "short").unwrap();
    fs::write(world.at("c"), "short").unwrap();
    world.unmount();
    fs::remove_dir_all(world.store(3).join("storage")).unwrap();
    fs::remove_dir_all(world.store(2).join("storage")).unwrap();
    world.mount(&[]);
    assert_eq!(fs::read_to_string(world.at("c")).unwrap(), "short");
    assert_eq!(fs::read_to_string(world.at("d/c")).unwrap(), "short");
    assert!(fs::read(world.at("d/a")).unwrap() == content(1));
}

#[test]
fn a_mount_whose_process_was_killed_is_removed_at_once() {
    let world = World::mounted();
    fs::write(world.at("file"), content(1)).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(world.daemon()), nix::sys::signal::Signal::SIGKILL).unwrap();
    let unmount = world.run(&["unmount", world.mountpoint().to_str().unwrap()]);
    assert_eq!(unmount.status.code(), Some(7), "{}", said(&unmount));
    assert!(!world.is_mounted());
    world.mount(&[]);
    assert!(fs::read(world.at("file")).unwrap() == content(1));
    world.unmount();
}
