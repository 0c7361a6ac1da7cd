//! Directories that the reference made, of every kind, in a mount.

use std::collections::BTreeMap;
use std::fs::{self, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tahoefs::crypto::hash::sha256d;
use tahoefs::node::Timestamp;
use tahoefs::util::base32;

use super::tree::{digest, mounted, seen};
use super::{bytes, serve, world};
use crate::mount::world::World;
use crate::tahoe::Grid;

/// A directory of the reference, and what a mount must show of it: digests of files, `None` for directories.
pub(super) struct Made {
    pub(super) cap: String,
    shown: BTreeMap<String, Option<String>>,
}

impl Made {
    fn new(cap: String) -> Made {
        Made { cap, shown: BTreeMap::new() }
    }

    fn show_below(&mut self, name: &str, below: &Made) {
        self.shown.insert(name.to_owned(), None);
        let below = below.shown.iter().map(|(path, content)| (format!("{name}/{path}"), content.clone()));
        self.shown.extend(below);
    }
}

/// Children for the web API.
#[derive(Default)]
struct Children(serde_json::Map<String, Value>);

impl Children {
    fn add(&mut self, name: &str, cap: &str) {
        let kind = if cap.starts_with("URI:DIR2") { "dirnode" } else { "filenode" };
        let mutable = ["URI:SSK:", "URI:MDMF:", "URI:DIR2:", "URI:DIR2-MDMF:"].iter().any(|p| cap.starts_with(p));
        let slot = if mutable { "rw_uri" } else { "ro_uri" };
        self.0.insert(name.to_owned(), json!([kind, {slot: cap}]));
    }

    fn json(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

/// Names that no kernel takes, and how they are shown.
fn odd_names() -> Vec<(String, String)> {
    let cut = |start: String, name: &str| format!("{start}~{}", base32::encode(&sha256d(name.as_bytes())[..10]));
    let (long, wide) = ("x".repeat(300), "\u{e9}".repeat(200));
    let shown_long = cut(format!("%{}", "x".repeat(199)), &long);
    let shown_wide = cut(format!("%{}", "\u{e9}".repeat(99)), &wide);
    let mut names = vec![(long, shown_long), (wide, shown_wide)];
    let plain = [("a/b", "%a%2Fb"), (".", "%%2E"), ("..", "%%2E%2E"), ("", "%"), ("nul\0", "%nul%00")];
    names.extend(plain.map(|(name, shown)| (name.to_owned(), shown.to_owned())));
    names
}

/// Files that may stand in any directory.
fn immutable_files(grid: &Grid) -> Vec<(String, String, Vec<u8>)> {
    let contents =
        [("empty", 0), ("literal", 30), ("small", 56), ("several segments", 2_500_000), ("\u{e9}t\u{e9} 100%", 4_000)];
    let put = |(i, (name, size)): (usize, &(&str, usize))| {
        let content = bytes(*size, i);
        ((*name).to_owned(), grid.put(&content, "CHK"), content)
    };
    contents.iter().enumerate().map(put).collect()
}

/// A literal directory, an immutable one, and one of each mutable format that holds the former and mutable files.
pub(super) fn make_directories(grid: &Grid) -> Vec<(&'static str, Made)> {
    let files = immutable_files(grid);
    let mut literal = Made::new(grid.mkdir_immutable(&json!({"x": ["filenode", {"ro_uri": "URI:LIT:nbswy3dp"}]})));
    literal.shown.insert("x".into(), Some(digest(b"hello")));
    let nothing = Made::new(grid.mkdir_immutable(&json!({})));
    let mut all = vec![("URI:DIR2-LIT:", literal), ("URI:DIR2-LIT:", nothing)];

    let fill = |children: &mut Children, made: &mut Made| {
        let mut add = |name: &str, shown: &str, cap: &str, content: &[u8]| {
            children.add(name, cap);
            made.shown.insert(shown.to_owned(), Some(digest(content)));
        };
        for (name, cap, content) in &files {
            add(name, name, cap, content);
        }
        for (name, shown) in odd_names() {
            let (_, cap, content) = &files[2];
            add(&name, &shown, cap, content);
        }
    };
    let mut immutable = Made::new(String::new());
    let mut children = Children::default();
    fill(&mut children, &mut immutable);
    for (name, (_, below)) in ["literal directory", "empty directory"].iter().zip(&all) {
        children.add(name, &below.cap);
        immutable.show_below(name, below);
    }
    immutable.cap = grid.mkdir_immutable(&children.json());
    all.push(("URI:DIR2-CHK:", immutable));

    for (format, prefix) in [("SDMF", "URI:DIR2:"), ("MDMF", "URI:DIR2-MDMF:")] {
        let mut made = Made::new(grid.mkdir(format));
        let mut children = Children::default();
        fill(&mut children, &mut made);
        for (name, size, format) in
            [("sdmf", 5_000, "SDMF"), ("mdmf", 300_000, "MDMF"), ("empty sdmf", 0, "SDMF"), ("empty mdmf", 0, "MDMF")]
        {
            let content = bytes(size, 40);
            children.add(name, &grid.put(&content, format));
            made.shown.insert(name.to_owned(), Some(digest(&content)));
        }
        for (i, (_, below)) in all.iter().enumerate() {
            let name = format!("directory {i}");
            children.add(&name, &below.cap);
            made.show_below(&name, below);
        }
        grid.set_children(&made.cap, &children.json());
        all.push((prefix, made));
    }
    all
}

/// Mounts `cap`, shows it to `look`, and unmounts.
pub(super) fn with_mounted(world: &World, cap: &str, look: impl FnOnce()) {
    let file = world.home().join("a.cap");
    fs::write(&file, cap).unwrap();
    world.mount(&["--cap-file", file.to_str().unwrap()]);
    look();
    world.unmount();
}

pub(super) fn assert_shown(world: &World, made: &Made) {
    let found: BTreeMap<String, Option<String>> = mounted(&world.mountpoint())
        .into_iter()
        .map(|(path, seen)| (path, (seen.kind() == libc::S_IFREG).then_some(seen.digest)))
        .collect();
    let names = |tree: &BTreeMap<String, Option<String>>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&made.shown));
    for (path, content) in &made.shown {
        assert_eq!(&found[path], content, "{path}");
    }
}

/// Nothing in the directory at `prefix` can be changed; `file` and `directory` are names in it.
fn assert_read_only(world: &World, prefix: &str, file: Option<&str>) {
    let at = |name: &str| world.at(prefix).join(name);
    let mut attempts =
        vec![fs::write(at("new"), ""), fs::create_dir(at("new")), std::os::unix::fs::symlink("target", at("new"))];
    if let Some(file) = file {
        attempts.extend([
            fs::write(at(file), "changed"),
            fs::remove_file(at(file)),
            fs::rename(at(file), at("new")),
            fs::set_permissions(at(file), Permissions::from_mode(0o600)),
        ]);
    }
    for (i, attempt) in attempts.into_iter().enumerate() {
        let error = attempt.err().unwrap_or_else(|| panic!("attempt {i} below {prefix:?} succeeded"));
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "attempt {i} below {prefix:?}");
    }
}

#[test]
fn directories_that_the_reference_made_are_shown_whatever_their_kind() {
    let world = world(3, 5);
    let mut grid = serve(&world, 3, 5);
    let all = make_directories(&grid);
    let read_cap = |made: &Made| grid.list_json(&made.cap, "")[1]["ro_uri"].as_str().unwrap().to_owned();
    let read_caps: Vec<String> = all.iter().map(|(_, made)| read_cap(made)).collect();
    grid.stop();

    for ((prefix, made), read_cap) in all.iter().zip(read_caps) {
        assert!(made.cap.starts_with(prefix), "{prefix}: {}", made.cap);
        let file = made.shown.keys().find(|name| ["x", "small"].contains(&name.as_str()));
        with_mounted(&world, &read_cap, || {
            assert_shown(&world, made);
            assert_read_only(&world, "", file.map(String::as_str));
        });
        if read_cap == made.cap {
            continue;
        }
        with_mounted(&world, &made.cap, || {
            assert_shown(&world, made);
            assert_read_only(&world, "directory 0", Some("x"));
            assert_read_only(&world, "directory 2", Some("small"));
        });
    }

    let (_, sdmf) = &all[3];
    with_mounted(&world, &sdmf.cap, || {
        fs::rename(world.at("%a%2Fb"), world.at("no longer odd")).unwrap();
        fs::remove_file(world.at("%%2E%2E")).unwrap();
        fs::set_permissions(world.at("%"), Permissions::from_mode(0o600)).unwrap();
    });
    let mut grid = serve(&world, 3, 5);
    let listing = grid.list_json(&sdmf.cap, "");
    let names = &listing[1]["children"];
    assert_eq!((names.get("a/b"), names.get("..")), (None, None));
    assert!(names.get("no longer odd").is_some());
    assert_eq!(names[""][1]["metadata"]["st_mode"], 0o100_600);
    grid.stop();
}

#[test]
fn an_archive_of_the_backup_command_shows_its_times_and_modes() {
    let world = world(3, 5);
    let source = tempfile::tempdir().unwrap();
    let at = |path: &str| -> PathBuf { source.path().join(path) };
    fs::create_dir_all(at("folder/below")).unwrap();
    // From the leaves up: what is made in a folder changes its time.
    let things = [
        ("folder/below/file", Some(100_000), 0o640),
        ("folder/\u{e9}", Some(10), 0o755),
        ("empty", Some(0), 0o400),
        ("folder/below", None, 0o750),
        ("folder", None, 0o711),
    ];
    for (i, (path, size, mode)) in things.into_iter().enumerate() {
        if let Some(size) = size {
            fs::write(at(path), bytes(size, i)).unwrap();
        }
        fs::set_permissions(at(path), Permissions::from_mode(mode)).unwrap();
        // The archive holds times as floats, which carry microseconds.
        let time = UNIX_EPOCH + Duration::new(1_300_000_000 + i as u64, 123_456_000);
        fs::File::open(at(path)).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    let mut grid = serve(&world, 3, 5);
    let root = grid.mkdir("SDMF");
    grid.tahoe(&["add-alias", "archive", &root]);
    grid.tahoe(&["backup", source.path().to_str().unwrap(), "archive:"]);
    grid.stop();

    with_mounted(&world, &root, || {
        assert_eq!(fs::read_dir(world.at("Archives")).unwrap().count(), 1);
        for (i, (path, _, mode)) in things.into_iter().enumerate() {
            let (original, shown) = (seen(&at(path)), seen(&world.at("Latest").join(path)));
            assert_eq!(shown.mode & 0o7777, mode, "{path}");
            assert_eq!(shown.kind(), original.kind(), "{path}");
            assert_eq!(shown.mtime, Timestamp { secs: 1_300_000_000 + i as i64, nanos: 123_456_000 }, "{path}");
            assert_eq!(shown.digest, original.digest, "{path}");
        }
        assert_read_only(&world, "Latest", Some("empty"));
    });
}
