//! The main job: a real tree, in and out, by rsync.

use std::ffi::OsStr;

use super::world::{World, tool, write_tree};

fn slash(path: &std::path::Path) -> std::ffi::OsString {
    let mut text = path.as_os_str().to_owned();
    text.push("/");
    text
}

#[test]
fn a_tree_goes_in_and_a_second_run_sends_nothing() {
    let world = World::mounted();
    let source = tempfile::tempdir().unwrap();
    write_tree(source.path(), 150);
    tool("rsync", &["-a".as_ref(), &slash(source.path()), &slash(&world.mountpoint())]);
    for _ in 0..2 {
        let changes = tool("rsync", &["-ai".as_ref(), &slash(source.path()), &slash(&world.mountpoint())]);
        assert_eq!(changes, "", "the idle run must list nothing, the root included");
        tool(
            "diff",
            &["-r".as_ref(), "--no-dereference".as_ref(), source.path().as_os_str(), world.mountpoint().as_os_str()],
        );
        world.remount();
    }
    let out = tempfile::tempdir().unwrap();
    tool("rsync", &["-a".as_ref(), &slash(&world.mountpoint()), &slash(out.path())]);
    let back = tool("rsync", &["-aic".as_ref(), "--dry-run".as_ref(), &slash(source.path()), &slash(out.path())]);
    assert_eq!(back, "");
}

#[test]
fn deletions_and_in_place_updates_go_in() {
    let world = World::mounted();
    let source = tempfile::tempdir().unwrap();
    write_tree(source.path(), 40);
    let sync = |flags: &[&str]| {
        let (from, to) = (slash(source.path()), slash(&world.mountpoint()));
        let mut args: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
        args.extend([from.as_os_str(), to.as_os_str()]);
        tool("rsync", &args)
    };
    sync(&["-a"]);
    std::fs::remove_dir_all(source.path().join("d3")).unwrap();
    std::fs::write(source.path().join("d0/e0/file 0 \u{e9}.bin"), "changed").unwrap();
    std::fs::rename(source.path().join("d1"), source.path().join("renamed")).unwrap();
    sync(&["-a", "--delete", "--inplace"]);
    world.remount();
    assert_eq!(sync(&["-aic", "--delete"]), "");
}

#[test]
fn git_works_in_the_mount() {
    let world = World::mounted();
    let repository = world.at("repo");
    let git = |args: &[&str]| {
        let mut all: Vec<&OsStr> =
            ["-C".as_ref(), repository.as_os_str(), "-c".as_ref(), "user.name=t".as_ref()].to_vec();
        all.extend(["-c", "user.email=t@example.org", "-c", "safe.directory=*"].iter().map(OsStr::new));
        all.extend(args.iter().map(OsStr::new));
        tool("git", &all)
    };
    std::fs::create_dir(&repository).unwrap();
    git(&["init", "-q"]);
    write_tree(&repository, 30);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "first"]);
    world.remount();
    git(&["fsck", "--strict"]);
    assert_eq!(git(&["status", "--porcelain"]), "");
}
