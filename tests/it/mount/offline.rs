//! Mounts while all stores are away, and daemons that were unmounted from outside.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::world::{World, said, tool};

fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|b| (b as u8).wrapping_mul(31) ^ seed).collect()
}

fn stores_away(world: &World) {
    let own = world.node_directory().join("tahoefs");
    fs::rename(own.join("stores"), own.join("away")).unwrap();
}

fn stores_back(world: &World) {
    let own = world.node_directory().join("tahoefs");
    fs::rename(own.join("away"), own.join("stores")).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The blocks of the file system, as `df` has them.
fn blocks(world: &World) -> u64 {
    let told = tool("stat", &["-f".as_ref(), "-c".as_ref(), "%b".as_ref(), world.mountpoint().as_os_str()]);
    told.trim().parse().unwrap()
}

fn leave_behind(world: &World) {
    let output = world.run(&["unmount".as_ref(), "--force".as_ref(), world.mountpoint().as_os_str()]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
}

/// Mounts, which must succeed, and returns what it said.
fn mount_offline(world: &World) -> String {
    let output = world.run(&["mount".as_ref(), world.mountpoint().as_os_str()]);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn without_its_stores_a_mount_shows_what_was_seen_and_takes_what_is_written() {
    let world = World::mounted();
    fs::create_dir_all(world.at("folder/inner")).unwrap();
    fs::write(world.at("folder/conspicuous name"), "short").unwrap();
    fs::write(world.at("folder/stored"), content(1, 80_000)).unwrap();
    fs::write(world.at("folder/inner/deep"), "deep").unwrap();
    std::os::unix::fs::symlink("folder/inner", world.at("link")).unwrap();
    let before = fs::metadata(world.at("folder/stored")).unwrap();
    let room = blocks(&world);
    world.unmount();

    stores_away(&world);
    let heard = mount_offline(&world);
    assert!(heard.contains("as they were last seen"), "{heard}");
    assert_eq!(blocks(&world), room, "the room is what was last known");
    assert_eq!(names(&world.mountpoint()), ["folder", "link"]);
    assert_eq!(names(&world.at("folder")), ["conspicuous name", "inner", "stored"]);
    assert_eq!(names(&world.at("link")), ["deep"]);
    assert_eq!(fs::read_to_string(world.at("folder/conspicuous name")).unwrap(), "short");
    let now = fs::metadata(world.at("folder/stored")).unwrap();
    assert_eq!((now.len(), now.modified().unwrap()), (80_000, before.modified().unwrap()));
    let error = fs::read(world.at("folder/stored")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));

    fs::create_dir_all(world.at("new/below")).unwrap();
    fs::write(world.at("new/below/large"), content(2, 300_000)).unwrap();
    fs::write(world.at("folder/small"), "written offline").unwrap();
    fs::rename(world.at("folder/inner/deep"), world.at("new/moved")).unwrap();
    fs::remove_dir(world.at("folder/inner")).unwrap();
    leave_behind(&world);

    fs::remove_file(world.node_directory().join("tahoefs/cache/space")).unwrap();
    mount_offline(&world);
    assert!(blocks(&world) > 0, "where nothing is known of the stores' room, the journal's is shown");
    let free = tool("stat", &["-f".as_ref(), "-c".as_ref(), "%a".as_ref(), world.mountpoint().as_os_str()]);
    assert!(free.trim().parse::<u64>().unwrap() > 0, "{free}");
    assert_eq!(names(&world.at("new")), ["below", "moved"]);
    assert!(fs::read(world.at("new/below/large")).unwrap() == content(2, 300_000));
    assert_eq!(fs::read_to_string(world.at("folder/small")).unwrap(), "written offline");
    assert_eq!(names(&world.at("folder")), ["conspicuous name", "small", "stored"]);

    stores_back(&world);
    let until = Instant::now() + Duration::from_secs(60);
    while !world.run(&["flush"]).status.success() {
        assert!(Instant::now() < until, "what was written does not go out");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(fs::read(world.at("folder/stored")).unwrap() == content(1, 80_000));
    world.unmount();

    // Nobody reads what is kept who has but the files.
    let tables = world.node_directory().join("tahoefs/cache/tables");
    assert!(names(&tables).len() >= 4, "{:?}", names(&tables));
    for name in names(&tables) {
        let kept = fs::read(tables.join(&name)).unwrap();
        for plain in ["conspicuous", "stored", "small", "moved", "URI:", "st_mode"] {
            assert!(!kept.windows(plain.len()).any(|w| w == plain.as_bytes()), "{name} shows {plain}");
        }
    }

    // Who has the stores and nothing of what is kept sees it all.
    fs::remove_dir_all(world.node_directory().join("tahoefs/cache")).unwrap();
    fs::remove_dir_all(world.node_directory().join("tahoefs/journal")).unwrap();
    world.mount(&[]);
    assert_eq!(names(&world.mountpoint()), ["folder", "link", "new"]);
    assert_eq!(names(&world.at("folder")), ["conspicuous name", "small", "stored"]);
    assert_eq!(fs::read_to_string(world.at("new/moved")).unwrap(), "deep");
    assert!(fs::read(world.at("new/below/large")).unwrap() == content(2, 300_000));
}

#[test]
fn what_was_never_seen_is_an_error_without_the_stores() {
    let world = World::mounted();
    fs::create_dir(world.at("d")).unwrap();
    fs::create_dir(world.at("e")).unwrap();
    fs::write(world.at("d/f"), "f").unwrap();
    fs::write(world.at("e/f"), "f").unwrap();
    world.unmount();
    let tables = world.node_directory().join("tahoefs/cache/tables");
    let kept = world.home().join("kept");
    fs::rename(&tables, &kept).unwrap();
    stores_away(&world);
    let refused = world.run(&["mount".as_ref(), world.mountpoint().as_os_str()]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    stores_back(&world);
    // Of this mount, only the root and `d` are kept.
    world.mount(&[]);
    names(&world.at("d"));
    world.unmount();
    stores_away(&world);
    mount_offline(&world);
    assert_eq!(names(&world.mountpoint()), ["d", "e"]);
    assert_eq!(names(&world.at("d")), ["f"]);
    let error = fs::read_dir(world.at("e")).and_then(|mut entries| entries.next().transpose()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    // A damaged table is no table.
    world.unmount();
    for name in names(&tables) {
        let mut bytes = fs::read(tables.join(&name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(tables.join(&name), bytes).unwrap();
    }
    let refused = world.run(&["mount".as_ref(), world.mountpoint().as_os_str()]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
}

#[test]
fn a_daemon_that_lost_its_mount_makes_way_for_a_new_one() {
    let world = World::mounted();
    fs::write(world.at("before"), "before").unwrap();
    world.ok(&["flush"]);
    stores_away(&world);
    fs::write(world.at("pending"), content(3, 200_000)).unwrap();
    let old = world.daemon();
    // Whoever is mounted is not put out.
    let second = world.home().join("second");
    let refused = world.run(&["mount".as_ref(), second.as_os_str()]);
    assert_eq!(refused.status.code(), Some(6), "{}", said(&refused));
    assert_eq!(world.daemon(), old);

    unmount_from_outside(&world).unwrap();
    assert!(!world.is_mounted());
    assert!(Path::new(&format!("/proc/{old}")).exists(), "it goes on storing what is left");
    mount_offline(&world);
    assert_ne!(world.daemon(), old);
    assert!(fs::read(world.at("pending")).unwrap() == content(3, 200_000));
    stores_back(&world);
    let until = Instant::now() + Duration::from_secs(60);
    while !world.run(&["flush"]).status.success() {
        assert!(Instant::now() < until, "what was written does not go out");
        std::thread::sleep(Duration::from_millis(500));
    }
    world.remount();
    assert!(fs::read(world.at("pending")).unwrap() == content(3, 200_000));
}

fn unmount_from_outside(world: &World) -> io::Result<()> {
    let fusermount = Command::new("fusermount3").arg("-u").arg(world.mountpoint()).status()?;
    if fusermount.success() { Ok(()) } else { Err(io::Error::other("fusermount3 refused")) }
}
