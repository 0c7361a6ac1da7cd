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

/// Shares of immutable files in all stores.
fn stored(world: &World) -> usize {
    let mut shares = 0;
    let mut next = vec![world.node_directory().join("tahoefs/stores")];
    while let Some(folder) = next.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let is_share = entry.file_name().to_string_lossy().chars().all(|c| c.is_ascii_digit());
            if entry.file_type().unwrap().is_dir() {
                next.push(entry.path());
            } else if is_share && !std::fs::read(entry.path()).unwrap().starts_with(b"Tahoe mutable container") {
                shares += 1;
            }
        }
    }
    shares
}

#[test]
fn hard_links_are_kept_and_cost_no_data() {
    use std::os::unix::fs::MetadataExt;

    let world = World::mounted();
    let source = tempfile::tempdir().unwrap();
    write_tree(source.path(), 30);
    let large = source.path().join("large");
    std::fs::write(&large, (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>())
        .unwrap();
    for i in 0..5 {
        let (from, to) = (source.path().join("d0/e0/file 0 \u{e9}.bin"), format!("d{i}/hard link"));
        std::fs::hard_link(from, source.path().join(to)).unwrap();
        std::fs::hard_link(&large, source.path().join(format!("large {i}"))).unwrap();
    }
    let run = |flags: &[&str], from: &std::path::Path, to: &std::path::Path| {
        let mut args: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
        let (from, to) = (slash(from), slash(to));
        args.extend([from.as_os_str(), to.as_os_str()]);
        tool("rsync", &args)
    };
    run(&["-aH"], source.path(), &world.at("one"));
    world.remount();
    assert_eq!(run(&["-aHi"], source.path(), &world.at("one")), "");
    let before = stored(&world);
    let link_dest = format!("--link-dest={}", world.at("one").display());
    run(&["-aH", &link_dest], source.path(), &world.at("two"));
    tool("cp", &["-al".as_ref(), world.at("two").as_os_str(), world.at("three").as_os_str()]);
    world.remount();
    assert!(before > 0 && stored(&world) == before, "{} shares, {before} before", stored(&world));
    let meta = |path: &str| std::fs::symlink_metadata(world.at(path)).unwrap();
    assert_eq!((meta("one/large").nlink(), meta("three/large 4").nlink()), (18, 18));
    assert_eq!(meta("one/large 0").ino(), meta("three/large 1").ino());
    assert_eq!(run(&["-aHi"], source.path(), &world.at("three")), "");
    let out = tempfile::tempdir().unwrap();
    run(&["-aH"], &world.at("three"), out.path());
    assert_eq!(run(&["-aHic", "--dry-run"], source.path(), out.path()), "");
    assert_eq!(std::fs::metadata(out.path().join("d2/hard link")).unwrap().nlink(), 6);
    // A change in one snapshot is one in all: they are one file.
    std::fs::write(world.at("two/d1/hard link"), "changed").unwrap();
    std::fs::remove_file(world.at("one/d3/hard link")).unwrap();
    world.remount();
    assert_eq!(std::fs::read_to_string(world.at("three/d4/hard link")).unwrap(), "changed");
    assert_eq!(meta("three/d4/hard link").nlink(), 17);
}
