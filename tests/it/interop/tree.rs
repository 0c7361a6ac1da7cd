//! A tree as programs see it in a mount, and as the reference sees it through its web API.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;
use tahoefs::crypto::hash::sha256d;
use tahoefs::node::{Timestamp, normalize};
use tahoefs::util::base32;

use crate::tahoe::Grid;

/// What stands at a path in a mount.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Of a file's bytes or a link's target; empty for a directory.
    pub digest: String,
}

impl Seen {
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

/// Everything below a root, by path.
pub type Tree = BTreeMap<String, Seen>;

pub fn digest(bytes: &[u8]) -> String {
    base32::encode(&sha256d(bytes)[..16])
}

/// Reads everything below `root`.
pub fn mounted(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.unwrap_or_else(|e| panic!("in {}: {e}", folder.display())).path();
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("a name in UTF-8").to_owned();
            let earlier = tree.insert(name, seen(&path));
            assert!(earlier.is_none(), "{} is listed twice", path.display());
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    tree
}

/// What stands at one path.
pub fn seen(path: &Path) -> Seen {
    let named = |e| panic!("{}: {e}", path.display());
    let m = fs::symlink_metadata(path).unwrap_or_else(named);
    let digest = match m.mode() & libc::S_IFMT {
        libc::S_IFDIR => String::new(),
        libc::S_IFLNK => digest(fs::read_link(path).unwrap().as_os_str().as_bytes()),
        _ => digest(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
    };
    let time = |secs, nanos: i64| Timestamp { secs, nanos: nanos as u32 };
    Seen {
        mode: m.mode(),
        uid: m.uid(),
        gid: m.gid(),
        size: m.size(),
        mtime: time(m.mtime(), m.mtime_nsec()),
        ctime: time(m.ctime(), m.ctime_nsec()),
        digest,
    }
}

/// Holds two trees against each other; the message names only what differs.
pub fn assert_same(found: &Tree, expected: &Tree) {
    let mut differences = Vec::new();
    for (path, seen) in found {
        match expected.get(path) {
            None => differences.push(format!("{path:?} should not be there: {seen:?}")),
            Some(other) if other != seen => {
                differences.push(format!("{path:?}\n      is {seen:?}\n  should {other:?}"));
            }
            Some(_) => {}
        }
    }
    let missing = expected.keys().filter(|path| !found.contains_key(*path));
    differences.extend(missing.map(|path| format!("{path:?} is missing")));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What the reference knows of a child.
pub struct Stored {
    pub is_directory: bool,
    /// The strongest cap.
    pub cap: String,
    pub size: Option<u64>,
    pub metadata: Value,
}

impl Stored {
    /// When it was linked, as a mount shows times that come from there.
    pub fn linked(&self) -> Timestamp {
        let secs = self.metadata["tahoe"]["linkmotime"].as_f64().expect("every link has a time");
        Timestamp::from_float(secs)
    }
}

/// Everything below the directory `cap`, by path.
pub fn stored(grid: &Grid, cap: &str) -> BTreeMap<String, Stored> {
    let mut tree = BTreeMap::new();
    let mut folders = vec![(String::new(), cap.to_owned())];
    while let Some((prefix, cap)) = folders.pop() {
        let listing = grid.list_json(&cap, "");
        for (name, child) in listing[1]["children"].as_object().expect("a directory") {
            let path = format!("{prefix}{name}");
            let about = &child[1];
            let cap = about["rw_uri"].as_str().or(about["ro_uri"].as_str()).expect("a cap").to_owned();
            let is_directory = child[0] == "dirnode";
            if is_directory {
                folders.push((format!("{path}/"), cap.clone()));
            }
            let (size, metadata) = (about["size"].as_u64(), about["metadata"].clone());
            let stored = Stored { is_directory, cap, size, metadata };
            tree.insert(path, stored);
        }
    }
    tree
}

/// Holds what the reference lists and reads below `root` against what a mount showed: names, types, every byte. With
/// `times`, the modification times and modes in the metadata too, which the mount must then have written for all.
pub fn assert_stored(grid: &Grid, root: &str, shown: &Tree, times: bool) {
    let stored = stored(grid, root);
    let names: Vec<String> = shown.keys().map(|path| normalize(path).to_string()).collect();
    let mut expected: Vec<&String> = names.iter().collect();
    expected.sort();
    assert_eq!(stored.keys().collect::<Vec<_>>(), expected);
    for (path, seen) in shown {
        let stored = &stored[&*normalize(path)];
        assert_eq!(stored.is_directory, seen.kind() == libc::S_IFDIR, "{path}");
        if !stored.is_directory {
            assert_eq!(stored.size, Some(seen.size), "{path}");
            assert_eq!(digest(&grid.get(&stored.cap, "")), seen.digest, "{path}");
        }
        if times {
            assert_eq!(stored.metadata["mtime"].as_f64(), Some(seen.mtime.as_float()), "{path}");
            assert_eq!(stored.metadata["st_mode"].as_u64(), Some(seen.mode.into()), "{path}");
        }
    }
}

/// Lets the reference read every share of everything below `root`: all must be there and good.
pub fn assert_healthy(grid: &Grid, root: &str, objects: usize, total: u32) {
    let reports = grid.deep_verify(root);
    assert_eq!(reports.len(), objects);
    for report in reports {
        let results = &report["check-results"]["results"];
        assert_eq!(results["healthy"], true, "{report}");
        if report["storage-index"] != "" {
            assert_eq!(results["count-shares-good"], total, "{report}");
            assert_eq!(results["count-corrupt-shares"], 0, "{report}");
        }
    }
}
