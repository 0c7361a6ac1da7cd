//! Programs that people use, on a mount: what they leave is there after a remount without a cache.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::world::{World, said, tool, write_tree};

fn slash(path: &Path) -> String {
    format!("{}/", path.display())
}

/// What rsync would change to make a tree like another, all attributes and contents included.
fn differences(from: &Path, to: &Path) -> String {
    let flags = ["-aHAXScin", "--delete"];
    let paths = [slash(from), slash(to)];
    tool("rsync", &flags.iter().map(OsStr::new).chain(paths.iter().map(OsStr::new)).collect::<Vec<_>>())
}

fn git(repository: &Path, args: &[&str]) -> String {
    let settings = ["user.name=t", "user.email=t@example.org", "safe.directory=*", "protocol.file.allow=always"];
    let mut all: Vec<&OsStr> = vec!["-C".as_ref(), repository.as_os_str()];
    all.extend(settings.iter().flat_map(|setting| ["-c", setting]).map(OsStr::new));
    all.extend(args.iter().map(OsStr::new));
    tool("git", &all)
}

#[test]
fn git_commits_rebases_collects_and_clones() {
    let world = World::mounted();
    let repository = world.at("repo");
    fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "-q", "-b", "main"]);
    write_tree(&repository, 30);
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "first"]);
    git(&repository, &["checkout", "-qb", "side"]);
    for name in ["one", "two"] {
        fs::write(repository.join(name), name).unwrap();
        git(&repository, &["add", "-A"]);
        git(&repository, &["commit", "-qm", name]);
    }
    git(&repository, &["checkout", "-q", "main"]);
    fs::write(repository.join("three"), "three").unwrap();
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "three"]);
    git(&repository, &["rebase", "-q", "main", "side"]);
    git(&repository, &["gc", "-q", "--prune=now"]);
    let (log, local) = (git(&repository, &["log", "--format=%H %s"]), tempfile::tempdir().unwrap());
    assert_eq!(log.lines().count(), 4, "{log}");
    world.remount_cold(&[]);
    assert_eq!(git(&repository, &["status", "--porcelain"]), "");
    git(&repository, &["fsck", "--strict", "--full"]);
    let (out, back) = (local.path().join("out"), world.at("back"));
    git(local.path(), &["clone", "-q", "-b", "side", repository.to_str().unwrap(), out.to_str().unwrap()]);
    git(local.path(), &["clone", "-q", "-b", "side", "--no-local", out.to_str().unwrap(), back.to_str().unwrap()]);
    world.remount_cold(&[]);
    for clone in [&out, &back] {
        git(clone, &["fsck", "--strict", "--full"]);
        assert_eq!(
            (git(clone, &["status", "--porcelain"]), git(clone, &["log", "--format=%H %s"])),
            ("".into(), log.clone())
        );
    }
}

#[test]
fn vim_saves_with_a_swap_file_and_leaves_none() {
    let world = World::mounted();
    fs::write(world.at("text"), "one\ntwo\n").unwrap();
    let mut vim = Command::new("vim");
    vim.args([
        "-N",
        "-u",
        "NONE",
        "-i",
        "NONE",
        "-es",
        "-c",
        "set swapfile updatecount=1 backup writebackup backupskip=",
    ]);
    vim.args(["-c", "normal Gothree", "-c", "preserve", "-c", "wq"]).arg("text").current_dir(world.mountpoint());
    let output = vim.env("TERM", "dumb").stdin(Stdio::null()).output().expect("vim (tests/run installs it)");
    assert!(output.status.success(), "{}", said(&output));
    world.remount_cold(&[]);
    assert_eq!(fs::read_to_string(world.at("text")).unwrap(), "one\ntwo\nthree\n");
    assert_eq!(fs::read_to_string(world.at("text~")).unwrap(), "one\ntwo\n");
    assert_eq!(fs::read_dir(world.mountpoint()).unwrap().count(), 2);
}

#[test]
fn cargo_builds_a_crate() {
    let world = World::mounted();
    let cargo = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO")).args(args).current_dir(world.at("hello")).stdin(Stdio::null()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    fs::create_dir_all(world.at("hello/src")).unwrap();
    fs::write(world.at("hello/Cargo.toml"), "[package]\nname = \"hello\"\nedition = \"2024\"\n[workspace]\n").unwrap();
    fs::write(world.at("hello/src/main.rs"), "fn main() { println!(\"hello\"); }\n").unwrap();
    assert_eq!(cargo(&["run", "-q", "--offline", "--target-dir", "target"]), "hello\n");
    world.remount_cold(&[]);
    assert_eq!(tool(world.at("hello/target/debug/hello").to_str().unwrap(), &[]), "hello\n");
}

/// A tree with holes, lists of who may use it, and attributes.
fn rich_tree(root: &Path) {
    write_tree(root, 40);
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 5000], 1_500_000).unwrap();
    tool("setfattr", &["-n".as_ref(), "user.a".as_ref(), "-v".as_ref(), "b".as_ref(), root.join("sparse").as_os_str()]);
    tool("setfacl", &["-m".as_ref(), "u:4321:rw".as_ref(), root.join("sparse").as_os_str()]);
    fs::hard_link(root.join("sparse"), root.join("d1/the same")).unwrap();
    tool("setfacl", &["-dm".as_ref(), "u:4321:rwx".as_ref(), root.join("empty").as_os_str()]);
}

#[test]
fn tar_keeps_all_attributes_both_ways() {
    let world = World::mounted();
    let local = tempfile::tempdir().unwrap();
    let (source, back) = (local.path().join("source"), local.path().join("back"));
    for dir in [&source, &back, &world.at("in")] {
        fs::create_dir(dir).unwrap();
    }
    rich_tree(&source);
    let tar = |how: &str, archive: &Path, dir: &Path| {
        let flags = ["--acls", "--xattrs", "--xattrs-include=user.*", "-S", "-p", how];
        let mut args: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
        args.extend(["-f".as_ref(), archive.as_os_str(), "-C".as_ref(), dir.as_os_str()]);
        if how == "-c" {
            args.push(".".as_ref());
        }
        tool("tar", &args);
    };
    tar("-c", &world.at("out.tar"), &source);
    tar("-x", &world.at("out.tar"), &world.at("in"));
    assert_eq!(differences(&source, &world.at("in")), "");
    world.remount_cold(&[]);
    assert_eq!(differences(&source, &world.at("in")), "");
    tar("-c", &local.path().join("back.tar"), &world.at("in"));
    tar("-x", &local.path().join("back.tar"), &back);
    assert_eq!(differences(&source, &back), "");
}

#[test]
fn rsync_with_everything_goes_both_ways() {
    let world = World::mounted();
    let local = tempfile::tempdir().unwrap();
    let (source, back) = (local.path().join("source"), local.path().join("back"));
    for dir in [&source, &back, &world.at("in")] {
        fs::create_dir(dir).unwrap();
    }
    rich_tree(&source);
    let sync = |flags: &[&str], from: &Path, to: &Path| {
        let paths = [slash(from), slash(to)];
        let always = ["-aHAXS", "--delete"];
        let args = always.iter().chain(flags).map(OsStr::new).chain(paths.iter().map(OsStr::new));
        tool("rsync", &args.collect::<Vec<_>>())
    };
    let there = world.at("in");
    sync(&[], &source, &there);
    for flags in [&["--inplace", "--no-whole-file"][..], &["--partial", "--no-whole-file"], &["--partial-dir=.parts"]] {
        assert_eq!(sync(&["-i"], &source, &there), "", "{flags:?}");
        // Changed in the middle, cut, grown, moved, gone.
        let change = |name: &str, content: &[u8]| fs::write(source.join(name), content).unwrap();
        change("sparse", &[9; 1_000_000]);
        change("d0/e0/file 0 \u{e9}.bin", flags[0].as_bytes());
        change(&format!("new {}", flags.len()), &[3; 300_000]);
        fs::create_dir_all(source.join(flags[0])).unwrap();
        fs::rename(source.join("empty"), source.join(flags[0]).join("empty")).unwrap();
        fs::create_dir(source.join("empty")).unwrap();
        sync(flags, &source, &there);
        assert_eq!(differences(&source, &there), "", "{flags:?}");
        world.remount_cold(&[]);
        assert_eq!(differences(&source, &there), "", "{flags:?}");
    }
    sync(&[], &there, &back);
    assert_eq!(sync(&["-i"], &there, &back), "");
    assert_eq!(differences(&source, &back), "");
}
