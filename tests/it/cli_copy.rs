//! `cp`, `mv`, `ln` and what `put --json` says: the binary itself.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tahoefs::client::{Client, ClientOptions};
use tahoefs::config::NodeDir;
use tahoefs::node::{Attributes, BytesSource, FileType, Metadata, Name, NodeFactory};

use crate::cli::{Home, content, text};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// What is below a local directory: kinds, modes, times and contents.
fn tree(top: &Path) -> BTreeMap<String, String> {
    fn walk(top: &Path, at: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let what = match metadata.file_type() {
                kind if kind.is_symlink() => format!("-> {:?}", fs::read_link(&path).unwrap()),
                kind if kind.is_fifo() => "pipe".into(),
                kind if kind.is_dir() => "directory".into(),
                _ => format!(
                    "{:x}",
                    fs::read(&path).unwrap().iter().fold(7u64, |h, b| h.wrapping_mul(31) + u64::from(*b))
                ),
            };
            let mode = if metadata.is_symlink() { 0 } else { metadata.mode() & 0o777 };
            let row = format!("{what} {mode:o} {}.{}", metadata.mtime(), metadata.mtime_nsec());
            found.insert(path.strip_prefix(top).unwrap().display().to_string(), row);
            if metadata.is_dir() {
                walk(top, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(top, top, &mut found);
    found
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// A directory with one of each.
fn make_tree(home: &Home) -> std::path::PathBuf {
    let top = home.path("tree");
    fs::create_dir_all(top.join("sub/deeper")).unwrap();
    fs::create_dir(top.join("empty dir")).unwrap();
    fs::write(top.join("small"), "small").unwrap();
    fs::write(top.join("sub/large"), content(300_000)).unwrap();
    fs::write(top.join("sub/e\u{301}"), "not in normal form").unwrap();
    fs::write(top.join("sub/\u{e9}"), "in normal form").unwrap();
    fs::write(top.join("sub/deeper/empty"), "").unwrap();
    symlink("sub/large", top.join("link")).unwrap();
    symlink("/nowhere at all", top.join("sub/dangling")).unwrap();
    nix::unistd::mkfifo(&top.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
    fs::set_permissions(top.join("small"), Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(top.join("sub/large"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(top.join("sub/deeper"), Permissions::from_mode(0o711)).unwrap();
    for (path, seconds) in
        [("small", 1), ("sub/large", 1_000_000_000), ("sub/deeper", 2_000), ("sub", 3_000), ("empty dir", 4)]
    {
        set_time(&top.join(path), seconds);
    }
    top
}

#[test]
fn trees_go_to_the_grid_and_come_back() {
    let home = Home::with_alias();
    let top = make_tree(&home);
    let before = tree(&top);
    let said = json(&home.ok(["cp", "-r", "--json", "tree", "tahoe:"]));
    assert_eq!((&said["files"], &said["directories"], &said["failed"]), (&8.into(), &4.into(), &Value::Array(vec![])));
    assert_eq!(home.ok(["ls", "tahoe:tree"]), "empty dir\nlink\npipe\nsmall\nsub\n");
    assert_eq!(home.ok(["cp", "-r", "--special", "tahoe:tree", "back"]), "");
    assert_eq!(tree(&home.path("back/tree")), before);

    // An alias's own directory stands for what is in it, and a directory that is there is filled.
    fs::create_dir(home.path("there")).unwrap();
    home.ok(["cp", "-r", "--special", "tahoe:", "there"]);
    assert_eq!(tree(&home.path("there/tree")), before);

    // Within the grid, and once more onto what is there.
    home.ok(["cp", "-r", "tahoe:tree", "tahoe:copy/of it"]);
    home.ok(["cp", "-r", "--special", "tahoe:copy/of it/tree", "again"]);
    assert_eq!(tree(&home.path("again/tree")), before);
    let listing = home.ok(["ls", "--json", "tahoe:tree/sub"]);
    home.ok(["cp", "-r", "tree/", "tahoe:"]);
    assert_eq!(home.ok(["ls", "--json", "tahoe:tree/sub"]), listing);
    home.ok(["cp", "-r", "tahoe:tree", "back"]);

    // A link that the user names is followed, with a slash or where nothing is recursive.
    symlink("tree/sub", home.path("to sub")).unwrap();
    home.ok(["cp", "-r", "to sub/", "tahoe:followed"]);
    let listing = home.ok(["ls", "tahoe:followed/to sub"]);
    let marked = listing.strip_prefix("dangling\ndeeper\nlarge\n\u{e9}\n\u{e9}~").expect("two names of one form");
    assert_eq!(marked.lines().count(), 1);
    let said = |name: &str| home.ok(["get", &format!("tahoe:followed/to sub/{name}")]);
    assert_eq!((said("\u{e9}"), said("e\u{301}")), ("in normal form".into(), "not in normal form".into()));
    home.ok(["cp", "tree/link", "tahoe:followed/file"]);
    assert_eq!(home.ok_with(["get", "tahoe:followed/file"], b""), content(300_000));
}

#[test]
fn special_files_are_made_on_demand_alone() {
    let home = Home::with_alias();
    make_tree(&home);
    home.ok(["cp", "-r", "tree", "tahoe:"]);
    let output = home.run(["cp", "-r", "--json", "tahoe:tree", "out"], b"");
    let (said, report) = (text(&output.stderr), json(&text(&output.stdout)));
    assert!(output.status.success() && said.contains("tahoe:tree/pipe") && said.contains("--special"), "{said}");
    assert_eq!((report["skipped"].as_array().unwrap().len(), &report["files"]), (1, &7.into()));
    assert!(!home.path("out/tree/pipe").exists() && home.path("out/tree/small").exists());
    home.fails(1, ["cp", "tahoe:tree/pipe", "pipe"]);
    home.ok(["cp", "--special", "tahoe:tree/pipe", "pipe"]);
    assert!(fs::metadata(home.path("pipe")).unwrap().file_type().is_fifo());
}

/// Makes a directory out of any entries and names it `evil:`.
fn hostile(home: &Home, entries: &[(&str, FileType, &[u8])]) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cap = runtime.block_on(async {
        let client = Client::open(NodeDir::at(home.path(".tahoefs")), ClientOptions::default()).await.unwrap();
        let cx = client.cx();
        let mut children = Vec::new();
        for (name, kind, content) in entries {
            let source = Arc::new(BytesSource(content.to_vec().into()));
            let cap = client.store_file(&cx, source).await.unwrap();
            let mut attributes = Attributes::new(*kind);
            attributes.mode = Some(0o6755);
            attributes.rdev = 0x103;
            let metadata = attributes.write_into(&Metadata::default(), &cap);
            children.push((Name::from(*name), cap, metadata));
        }
        client.create_directory(&cx, &children).await.unwrap()
    });
    home.ok_with(["add-alias", "evil"], cap.to_uri().as_bytes());
}

#[test]
fn a_hostile_tree_writes_nowhere_else() {
    let home = Home::initialised();
    fs::create_dir(home.path("victim")).unwrap();
    home.write("victim/file", b"kept");
    let victim = home.path("victim/file");
    // `a/b` is shown as `%a%2Fb`: a link first, then a file under its name.
    hostile(
        &home,
        &[
            ("%a%2Fb", FileType::Symlink, victim.as_os_str().as_encoded_bytes()),
            ("a/b", FileType::File, b"through the link"),
            ("device", FileType::CharDevice, b""),
            ("program", FileType::File, b"#!/bin/sh"),
            ("there", FileType::File, b"through another"),
        ],
    );
    fs::create_dir(home.path("out")).unwrap();
    symlink(&victim, home.path("out/there")).unwrap();
    let output = home.run(["cp", "-r", "evil:", "out"], b"");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("evil:a/b") && said.contains("%a%2Fb") && said.contains("evil:device"), "{said}");
    assert_eq!(fs::read(&victim).unwrap(), b"kept");
    assert_eq!(fs::read_link(home.path("out/%a%2Fb")).unwrap(), victim);
    assert_eq!(fs::read(home.path("out/there")).unwrap(), b"through another");
    assert_eq!(fs::metadata(home.path("out/program")).unwrap().mode() & 0o7777, 0o755, "no set-id bits");
    assert!(!home.path("out/device").exists());
}

#[test]
fn an_interrupted_copy_goes_on_and_nothing_is_published_twice() {
    let home = Home::with_alias();
    fs::create_dir_all(home.path("d/sub")).unwrap();
    home.write("d/a", &content(10_000));
    home.ok(["cp", "-r", "d", "tahoe:"]);
    let stored = |home: &Home| {
        let mut sizes: Vec<_> = walk_files(&home.store(1).join("storage/shares"));
        sizes.sort();
        sizes
    };
    let before = stored(&home);
    home.ok(["cp", "-r", "d", "tahoe:"]);
    assert_eq!(stored(&home), before, "nothing has changed, so nothing was written");
    home.write("d/sub/b", &content(20_000));
    home.ok(["cp", "-r", "d", "tahoe:"]);
    assert_eq!(home.ok_with(["get", "tahoe:d/sub/b"], b""), content(20_000));
    assert_eq!(stored(&home).len(), before.len() + 1, "one file, in the directory that was there");
}

/// Paths and times of change below a directory.
fn walk_files(top: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(top).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk_files(&path));
        } else {
            found.push((path.clone(), fs::metadata(&path).unwrap().len()));
        }
    }
    found
}

#[test]
fn to_is_a_directory_or_a_new_name() {
    let home = Home::with_alias();
    home.write("x", b"x");
    home.write("y", b"y");
    home.ok(["mkdir", "tahoe:dir"]);
    home.ok(["cp", "x", "tahoe:"]);
    home.ok(["cp", "x", "tahoe:new/on the way/name"]);
    home.ok(["cp", "x", "tahoe:dir"]);
    home.ok(["cp", "x", "y", "tahoe:both"]);
    home.ok(["cp", "y", "tahoe:x"]);
    assert_eq!(home.ok(["ls", "tahoe:"]), "both\ndir\nnew\nx\n");
    assert_eq!(home.ok(["ls", "tahoe:both"]), "x\ny\n");
    assert_eq!((home.ok(["get", "tahoe:x"]), home.ok(["get", "tahoe:dir/x"])), ("y".into(), "x".into()));
    assert_eq!(home.ok(["get", "tahoe:new/on the way/name"]), "x");

    home.ok(["cp", "tahoe:x", "out"]);
    assert_eq!(fs::read(home.path("out")).unwrap(), b"y");
    home.ok(["cp", "tahoe:dir/x", "out"]);
    assert_eq!(fs::read(home.path("out")).unwrap(), b"x", "what is there is replaced");
    home.ok(["cp", "tahoe:both/x", "tahoe:both/y", "several"]);
    assert_eq!(fs::read(home.path("several/y")).unwrap(), b"y");
    home.ok(["cp", "tahoe:x", "several"]);
    assert_eq!(fs::read(home.path("several/x")).unwrap(), b"y");
    fs::write(home.path("a:b"), "colon").unwrap();
    home.ok(["cp", "./a:b", "tahoe:"]);
    assert_eq!(home.ok(["get", "tahoe:a:b"]), "colon");
}

#[test]
fn copies_that_cannot_be_are_refused() {
    let home = Home::with_alias();
    home.write("x", b"x");
    fs::create_dir_all(home.path("d/sub")).unwrap();
    home.write("d/x", b"x");
    home.ok(["cp", "x", "tahoe:file"]);
    home.ok(["mkdir", "tahoe:dir/x"]);
    for (code, arguments) in [
        (2, &["cp", "x"][..]),
        (2, &["cp"]),
        (2, &["cp", "x", "y"]),
        (2, &["cp", "-", "-"]),
        (2, &["cp", "d", "tahoe:"]),
        (2, &["cp", "tahoe:dir", "out"]),
        (2, &["cp", "x", "d/x", "tahoe:"]),
        (3, &["cp", "nothing", "tahoe:"]),
        (3, &["cp", "tahoe:nothing", "out"]),
        (3, &["cp", "x", "nosuch:"]),
        (3, &["cp", "x", "tahoe:missing/"]),
        (3, &["cp", "x", "tahoe:file/below"]),
        (3, &["cp", "tahoe:file", "missing/"]),
        (3, &["cp", "tahoe:file", "missing/name"]),
        (1, &["cp", "-r", "d", "tahoe:file"]),
        (1, &["cp", "x", "tahoe:file/"]),
        (1, &["cp", "x", "tahoe:dir"]),
        (1, &["cp", "tahoe:file", "d/x/"]),
        (1, &["cp", "-r", "tahoe:dir", "x"]),
    ] {
        home.fails(code, arguments);
    }
    assert_eq!(home.ok(["ls", "tahoe:"]), "dir\nfile\n");
    assert_eq!(fs::read(home.path("d/x")).unwrap(), b"x");
    assert!(!home.path("out").exists() && !home.path("missing").exists());
    let json = json(&home.ok(["list-aliases", "--json"]));
    home.ok_with(["add-alias", "ro"], json["tahoe"]["readonly"].as_str().unwrap().as_bytes());
    home.fails(5, ["cp", "x", "ro:y"]);
    home.fails(5, ["cp", "-r", "d", "ro:"]);
    home.fails(5, ["mv", "ro:file", "tahoe:y"]);
    home.fails(5, ["mv", "tahoe:file", "ro:y"]);
    home.fails(5, ["ln", "tahoe:file", "ro:y"]);
    home.ok(["cp", "ro:file", "out"]);
    home.empty_stores(3);
    home.fails(4, ["cp", "-r", "tahoe:", "gone"]);
}

#[test]
fn one_bad_file_does_not_keep_the_others() {
    let home = Home::with_alias();
    fs::create_dir_all(home.path("d/clash")).unwrap();
    home.write("d/a", b"a");
    home.write("d/z", b"z");
    home.ok(["mkdir", "tahoe:d"]);
    home.ok_with(["put", "-", "tahoe:d/clash"], b"a file");
    assert!(home.fails(1, ["cp", "-r", "d", "tahoe:"]).contains("d/clash"));
    assert_eq!(home.ok(["ls", "tahoe:d"]), "a\nclash\nz\n");
    assert_eq!(home.ok(["get", "tahoe:d/clash"]), "a file");

    let output = home.run(["cp", "-r", "--json", "d", "tahoe:"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&text(&output.stdout))["failed"].as_array().unwrap().len(), 1);

    // A tree that contains itself ends.
    home.ok(["ln", "tahoe:d", "tahoe:d/again"]);
    home.fails(1, ["cp", "-r", "tahoe:d", "out"]);
    assert_eq!(fs::read(home.path("out/d/z")).unwrap(), b"z");
}

#[test]
fn mutable_files_are_written_into_and_copied_as_what_they_hold() {
    let home = Home::with_alias();
    home.write("one", &content(1_000));
    home.ok_with(["put", "--format=SDMF", "-", "tahoe:m"], b"before");
    let before = home.ok(["ls", "--json", "tahoe:m"]);
    home.ok(["cp", "tahoe:m", "tahoe:copy"]);
    assert_eq!(json(&home.ok(["ls", "--json", "tahoe:copy"]))["entries"][0]["format"], "LIT");
    home.ok(["cp", "one", "tahoe:m"]);
    assert_eq!(home.ok_with(["get", "tahoe:m"], b""), content(1_000));
    assert_eq!(
        json(&home.ok(["ls", "--json", "tahoe:m"]))["entries"][0]["format"],
        json(&before)["entries"][0]["format"]
    );
    home.ok(["cp", "tahoe:copy", "tahoe:m"]);
    assert_eq!(home.ok(["get", "tahoe:m"]), "before");

    // Behind a capability there is no name, and need be none.
    let cap = text(&home.ok_with(["put", "--format=SDMF", "-"], b"x"));
    home.ok_with(["cp", "one", "-"], cap.as_bytes());
    assert_eq!(home.ok_with(["get", "-"], cap.as_bytes()), content(1_000));
}

#[test]
fn capabilities_come_from_files_and_standard_input() {
    let home = Home::with_alias();
    home.write("x", b"x");
    let directory = home.ok(["mkdir"]);
    home.write("dircap", directory.as_bytes());
    home.ok_with(["cp", "x", "-"], directory.as_bytes());
    home.ok(["cp", "-r", "--cap-file", "dircap", "tahoe:in"]);
    assert_eq!(home.ok(["get", "tahoe:in/x"]), "x");
    home.ok_with(["cp", "-r", "-", "out"], directory.as_bytes());
    assert_eq!(fs::read(home.path("out/x")).unwrap(), b"x");
    let cap = text(&home.ok_with(["put"], &content(500)));
    home.write("filecap", cap.as_bytes());
    home.ok(["cp", "--cap-file", "filecap", "file"]);
    assert_eq!(fs::read(home.path("file")).unwrap(), content(500));
    home.fails(2, ["cp", "--cap-file", "filecap", "tahoe:"]);
    home.fails_with(2, ["cp", "-", "out"], cap.as_bytes());
    home.ok(["cp", "--cap-file", "filecap", "tahoe:named"]);
    home.ok(["ln", "--cap-file", "filecap", "tahoe:linked"]);
    home.fails(2, ["ln", "--cap-file", "filecap", "tahoe:"]);
    home.fails(2, ["ln", "--cap-file", "filecap", "tahoe:a", "tahoe:b"]);
    home.ok_with(["mv", "tahoe:named", "-"], directory.as_bytes());
    assert_eq!(home.ok_with(["ls", "-"], directory.as_bytes()), b"named\nx\n");
    home.fails_with(2, ["mv", "-", "tahoe:y"], cap.as_bytes());
    assert_eq!(home.ok(["ls"]), "in\nlinked\n");
}

#[test]
fn names_move() {
    let home = Home::with_alias();
    for (name, data) in [("a", "a"), ("b", "b"), ("dir/c", "c"), ("dir/sub/d", "d")] {
        home.ok_with(["put", "-", &format!("tahoe:{name}")], data.as_bytes());
    }
    let entry = |name: &str| json(&home.ok(["ls", "--json", &format!("tahoe:{name}")]))["entries"][0].clone();
    let ls = |place: &str| home.ok(["ls", place]);
    let before = entry("a");
    home.ok(["mv", "tahoe:a", "tahoe:new"]);
    assert_eq!((entry("new")["size"].clone(), ls("tahoe:")), (before["size"].clone(), "b\ndir\nnew\n".into()));
    // Onto itself nothing happens, however it is written.
    home.ok(["mv", "tahoe:new", "tahoe:new"]);
    home.ok(["mv", "tahoe:new", "tahoe:"]);
    home.ok(["mv", "tahoe:dir", "tahoe:dir"]);
    assert_eq!(home.ok(["get", "tahoe:new"]), "a");
    // Onto a file it replaces, into a directory it goes under its own name, on the way directories are made.
    home.ok(["mv", "tahoe:new", "tahoe:b"]);
    assert_eq!((home.ok(["get", "tahoe:b"]), ls("tahoe:")), ("a".into(), "b\ndir\n".into()));
    home.ok(["mv", "tahoe:b", "tahoe:dir"]);
    home.ok(["mv", "tahoe:dir/b", "tahoe:dir/sub/"]);
    home.ok(["mv", "tahoe:dir/c", "tahoe:x/y/z"]);
    assert_eq!(
        (ls("tahoe:"), ls("tahoe:dir"), ls("tahoe:dir/sub")),
        ("dir\nx\n".into(), "sub\n".into(), "b\nd\n".into())
    );
    home.ok(["mv", "tahoe:dir/sub", "tahoe:x"]);
    assert_eq!(home.ok(["get", "tahoe:x/sub/d"]), "d");
    for (code, arguments) in [
        (3, &["mv", "tahoe:nothing", "tahoe:y"][..]),
        (3, &["mv", "tahoe:x/sub/d", "tahoe:missing/"]),
        (3, &["mv", "tahoe:x/sub/d/", "tahoe:y"]),
        (3, &["mv", "tahoe:x/sub/d", "tahoe:x/y/z/"]),
        (1, &["mv", "tahoe:x", "tahoe:x/y"]),
        (1, &["mv", "tahoe:x", "tahoe:x/y/deeper/name"]),
        (2, &["mv", "tahoe:", "tahoe:y"]),
        (2, &["mv", "tahoe:x"]),
    ] {
        home.fails(code, arguments);
    }
    home.ok(["mkdir", "tahoe:other/y"]);
    home.fails(1, ["mv", "tahoe:x/y", "tahoe:other"]);
    assert_eq!(
        (ls("tahoe:"), ls("tahoe:x"), ls("tahoe:x/y")),
        ("dir\nother\nx\n".into(), "sub\ny\n".into(), "z\n".into())
    );
}

#[test]
fn links_are_more_names_for_the_same() {
    let home = Home::with_alias();
    home.ok_with(["put", "--format=SDMF", "-", "tahoe:m"], b"one");
    home.ok(["mkdir", "tahoe:dir"]);
    home.ok(["ln", "tahoe:m", "tahoe:dir/other"]);
    home.ok(["ln", "tahoe:m", "tahoe:dir"]);
    home.ok_with(["put", "-", "tahoe:dir/other"], b"two");
    assert_eq!((home.ok(["get", "tahoe:m"]), home.ok(["get", "tahoe:dir/m"])), ("two".into(), "two".into()));
    home.ok(["ln", "tahoe:dir", "tahoe:same"]);
    home.ok_with(["put", "-", "tahoe:same/new"], b"x");
    assert_eq!(home.ok(["ls", "tahoe:dir"]), "m\nnew\nother\n");
    home.ok(["ln", "tahoe:same/new", "tahoe:same/new"]);
    home.ok(["ln", "tahoe:same/new", "tahoe:m"]);
    assert_eq!(home.ok(["get", "tahoe:m"]), "x", "a file is replaced");
    home.fails(3, ["ln", "tahoe:nothing", "tahoe:y"]);
    home.fails(3, ["ln", "tahoe:m", "tahoe:missing/"]);
    home.fails(2, ["ln", "tahoe:m"]);
    home.fails(2, ["ln", "-", "-"]);
    home.ok(["mkdir", "tahoe:x/dir"]);
    home.fails(1, ["ln", "tahoe:dir", "tahoe:x"]);
    home.ok(["unlink", "tahoe:same"]);
    assert_eq!(home.ok(["ls"]), "dir\nm\nx\n");
}

#[test]
fn get_leaves_files_as_private_as_they_were_and_follows_links() {
    let home = Home::with_alias();
    home.ok_with(["put", "-", "tahoe:x"], b"new");
    let private = home.write("private", b"old");
    fs::set_permissions(&private, Permissions::from_mode(0o600)).unwrap();
    home.ok(["get", "tahoe:x", "private"]);
    assert_eq!((fs::metadata(&private).unwrap().mode() & 0o777, fs::read(&private).unwrap()), (0o600, b"new".to_vec()));
    symlink("not there yet", home.path("link")).unwrap();
    home.ok(["get", "tahoe:x", "link"]);
    assert_eq!(fs::read(home.path("not there yet")).unwrap(), b"new");
    assert!(home.path("link").is_symlink());
}

#[test]
fn put_tells_how_it_went() {
    let home = Home::with_alias();
    let file = home.write("file", &content(10_000));
    let first = json(&home.ok([OsStr::new("put"), OsStr::new("--json"), file.as_os_str()]));
    assert!(first["cap"].as_str().unwrap().starts_with("URI:CHK:"));
    assert!(first["verifycap"].as_str().unwrap().starts_with("URI:CHK-Verifier:"));
    let counts =
        |said: &Value| (said["file_size"].clone(), said["pushed_shares"].clone(), said["preexisting_shares"].clone());
    assert_eq!(counts(&first), (10_000.into(), 5.into(), 0.into()));
    assert_eq!((&first["happiness"], &first["uri_extension_data"]["segment_size"]), (&5.into(), &10_002.into()));
    assert_eq!(first["uri_extension_data"]["codec_params"], "10002-3-5");
    let hash = first["uri_extension_hash"].as_str().unwrap();
    assert!(first["cap"].as_str().unwrap().contains(hash));
    let (shares, servers) = (first["sharemap"].as_object().unwrap(), first["servermap"].as_object().unwrap());
    assert_eq!((shares.len(), servers.len()), (5, 5));
    for (share, holders) in shares {
        for holder in holders.as_array().unwrap() {
            let held = servers[holder.as_str().unwrap()].as_array().unwrap();
            assert!(held.contains(&share.parse::<u64>().unwrap().into()));
            assert!(first["nicknames"][holder.as_str().unwrap()].as_str().unwrap().starts_with("store-"));
        }
    }
    assert!(first["timings"]["total"].as_f64().unwrap() >= first["timings"]["encode_and_push"].as_f64().unwrap());

    let again = json(&home.ok(["put", "--json", "file", "tahoe:file"]));
    assert_eq!((&again["cap"], counts(&again)), (&first["cap"], (10_000.into(), 0.into(), 5.into())));
    let literal = json(&text(&home.ok_with(["put", "--json"], b"short")));
    assert_eq!((counts(&literal), &literal["uri_extension_data"]), ((5.into(), 0.into(), 0.into()), &Value::Null));
    let mutable = json(&text(&home.ok_with(["put", "--json", "--format=SDMF", "-", "tahoe:m"], b"short")));
    assert!(mutable["cap"].as_str().unwrap().starts_with("URI:SSK:"));
}
