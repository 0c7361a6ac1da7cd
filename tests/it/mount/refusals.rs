//! What is refused: one clear line, the right exit code, nothing half-made.

use std::ffi::OsStr;
use std::fs;

use super::world::{World, said};

fn refused<S: AsRef<OsStr>>(world: &World, args: &[S], code: i32, says: &str) {
    let output = world.run(args);
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(says), "expected {says:?} in: {stderr}");
    assert_eq!(stderr.trim().lines().count(), 1, "one line: {stderr}");
}

#[test]
fn a_second_mount_of_the_same_root() {
    let world = World::mounted();
    let second = world.home().join("Second");
    refused(&world, &["mount".as_ref(), second.as_os_str()], 6, "mounted");
    assert!(!second.exists() || fs::read_dir(&second).unwrap().next().is_none());
    fs::write(world.at("f"), "the first mount is not disturbed").unwrap();
}

#[test]
fn a_mountpoint_inside_the_node_directory_or_around_it() {
    let world = World::new();
    world.ok(&["init"]);
    let inside = world.node_directory().join("mnt");
    refused(&world, &["mount".as_ref(), inside.as_os_str()], 6, "node directory");
    assert!(!inside.exists());
    refused(&world, &["mount".as_ref(), world.home().as_os_str()], 6, "node directory");
}

#[test]
fn a_mountpoint_that_is_no_folder() {
    let world = World::new();
    let file = world.home().join("file");
    fs::write(&file, "").unwrap();
    refused(&world, &["mount".as_ref(), file.as_os_str()], 6, "not a directory");
}

#[test]
fn caps_that_cannot_be_mounted() {
    let world = World::new();
    world.ok(&["init"]);
    let cap = world.home().join("cap");
    let mountpoint = world.mountpoint();
    let mount = ["mount".as_ref(), "--cap-file".as_ref(), cap.as_os_str(), mountpoint.as_os_str()];
    fs::write(&cap, "URI:DIR2:nonsense").unwrap();
    refused(&world, &mount, 2, "malformed");
    fs::write(&cap, "URI:LIT:mnxw45dfnz2a").unwrap();
    refused(&world, &mount, 1, "directory");
    fs::write(&cap, "URI:DIR2-RO:aaaaaaaaaaaaaaaaaaaaaaaaaa:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
        .unwrap();
    refused(&world, &mount, 4, "shares");
    assert!(!world.is_mounted());
    refused(&world, &["mount", "URI:DIR2:xyz", "m"], 2, "--cap-file");
}

#[test]
fn a_missing_node_directory() {
    let world = World::new();
    refused(&world, &["-d".as_ref(), world.home().join("none").as_os_str(), "status".as_ref()], 3, "none");
    assert!(!world.home().join("none").exists());
}

#[test]
fn a_read_only_mount_and_a_read_only_cap_refuse_changes() {
    let world = World::mounted();
    fs::write(world.at("f"), "f").unwrap();
    world.unmount();
    world.mount(&["-o", "ro"]);
    assert_eq!(fs::write(world.at("g"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read_to_string(world.at("f")).unwrap(), "f");
    world.unmount();
    let caps: serde_json::Value = serde_json::from_str(&world.ok(&["list-aliases", "--json"])).unwrap();
    let read_cap = caps["tahoe"]["readonly"].as_str().expect("list-aliases --json gives the read cap");
    let file = world.home().join("read.cap");
    fs::write(&file, read_cap).unwrap();
    world.mount(&["--cap-file", file.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(world.at("f")).unwrap(), "f");
    for result in [
        fs::write(world.at("g"), ""),
        fs::write(world.at("f"), "changed"),
        fs::remove_file(world.at("f")),
        fs::create_dir(world.at("d")),
        fs::rename(world.at("f"), world.at("h")),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
}

#[test]
fn secrets_stay_out_of_sight() {
    let world = World::mounted();
    fs::write(world.at("f"), "f".repeat(100)).unwrap();
    let pid = world.daemon();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let mut seen = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for file in ["cmdline", "environ"] {
        seen.push_str(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()));
    }
    seen.push_str(&world.ok(&["status", "--json"]));
    for entry in fs::read_dir(world.node_directory().join("tahoefs")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name().is_some_and(|n| n.to_string_lossy().contains("log")) {
            seen.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    let aliases = fs::read_to_string(world.node_directory().join("private/aliases")).unwrap();
    for secret in aliases.split(':').map(str::trim).filter(|part| part.len() >= 26) {
        assert!(!seen.contains(secret), "a part of a cap is in plain sight");
    }
    assert!(!seen.contains("URI:"));
}
