//! What the two sides must agree on.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, FileType, Stat};

/// When the test began, in seconds, or somewhat before that.
static BEGUN: LazyLock<i64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_secs() as i64 - 5);

/// A time that was set, or that of a change since the test began.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    Set(i64, i64),
    Changed,
    Kept,
}

impl When {
    pub fn of(seconds: i64, nanos: i64) -> When {
        let is_change = (*BEGUN..*BEGUN + 86_400).contains(&seconds);
        if is_change { When::Changed } else { When::Set(seconds, nanos) }
    }
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            When::Set(seconds, nanos) => write!(f, "{seconds}.{nanos:09}"),
            When::Changed => write!(f, "now"),
            When::Kept => write!(f, "kept"),
        }
    }
}

/// What stat says. How large a directory is is its file system's own matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    mode: String,
    uid: u32,
    gid: u32,
    links: u64,
    size: u64,
    device: u64,
    mtime: When,
}

impl Facts {
    pub fn of(stat: &Stat) -> Facts {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Facts {
            mode: format!("{kind:?} {:o}", stat.st_mode & 0o7777),
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink,
            size: if kind == FileType::Directory { 0 } else { stat.st_size as u64 },
            device: stat.st_rdev,
            mtime: When::of(stat.st_mtime, stat.st_mtime_nsec as i64),
        }
    }

    /// Whether the mount says this where the local file system says `local`.
    pub fn agrees(&self, local: &Facts) -> bool {
        // How many links a directory has is known once it was looked into.
        let links = if local.mode.starts_with("Dir") && self.links == 1 { self.links } else { local.links };
        *self == Facts { links, ..local.clone() }
    }
}

/// Which file it is, and when it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub ino: u64,
    pub mtime: (i64, i64),
    pub ctime: (i64, i64),
}

impl Stamp {
    pub fn of(stat: &Stat) -> Stamp {
        Stamp {
            ino: stat.st_ino,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

/// What stands under one name.
pub struct Item {
    facts: Facts,
    content: Option<Vec<u8>>,
    target: Option<PathBuf>,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// The first name of the same file.
    twin: PathBuf,
    stamp: Stamp,
    atime: (i64, i64),
}

pub type Tree = BTreeMap<PathBuf, Item>;

/// Everything below `root`, which itself has the empty name.
pub fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut next = vec![PathBuf::new()];
    while let Some(path) = next.pop() {
        let at = root.join(&path);
        if std::fs::symlink_metadata(&at).expect("its attributes").is_dir() {
            for entry in std::fs::read_dir(&at).expect("a directory").map(|entry| entry.expect("an entry")) {
                let its = std::fs::symlink_metadata(entry.path()).expect("its attributes");
                assert_eq!(entry.ino(), its.ino(), "{}: as listed, and as it is", entry.path().display());
                next.push(path.join(entry.file_name()));
            }
        }
        tree.insert(path, item(&at));
    }
    let mut first: HashMap<u64, PathBuf> = HashMap::new();
    for (path, item) in &mut tree {
        item.twin = first.entry(item.stamp.ino).or_insert_with(|| path.clone()).clone();
    }
    tree
}

fn item(path: &Path) -> Item {
    let content = std::fs::symlink_metadata(path).expect("its attributes").is_file();
    let content = content.then(|| std::fs::read(path).expect("its content"));
    let target = std::fs::read_link(path).ok();
    let mut listed = vec![0; 65_536];
    let length = fs::llistxattr(path, &mut listed[..]).expect("its extended attributes");
    let mut xattrs = BTreeMap::new();
    for name in listed[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let length = fs::lgetxattr(path, name, &mut value[..]).expect("its value");
        value.truncate(length);
        xattrs.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    let stat = fs::statat(fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).expect("its attributes");
    let atime = (stat.st_atime, stat.st_atime_nsec as i64);
    Item { facts: Facts::of(&stat), content, target, xattrs, twin: PathBuf::new(), stamp: Stamp::of(&stat), atime }
}

/// What is different on the mount, if anything is.
pub fn difference(mount: &Tree, local: &Tree) -> Option<String> {
    for (path, there) in local {
        let Some(here) = mount.get(path) else { return Some(format!("{path:?} is missing")) };
        if !here.facts.agrees(&there.facts) {
            return Some(format!("{path:?}: {:?}, not {:?}", here.facts, there.facts));
        }
        if here.content != there.content {
            let (here, there) = (here.content.as_deref(), there.content.as_deref());
            let at = here.unwrap_or_default().iter().zip(there.unwrap_or_default()).position(|(a, b)| a != b);
            return Some(format!("{path:?}: another content, first at {at:?}"));
        }
        if (&here.target, &here.xattrs, &here.twin) != (&there.target, &there.xattrs, &there.twin) {
            let (ours, theirs) = ((&here.xattrs, &here.twin), (&there.xattrs, &there.twin));
            return Some(format!("{path:?}: {:?} {ours:?}, not {:?} {theirs:?}", here.target, there.target));
        }
    }
    let more: Vec<_> = mount.keys().filter(|path| !local.contains_key(*path)).collect();
    (!more.is_empty()).then(|| format!("{more:?} should not be there"))
}

/// What a remount has changed that it should not have. Directories that were moved get new numbers.
pub fn forgotten(before: &Tree, after: &Tree) -> Option<String> {
    before.iter().find_map(|(path, was)| {
        let is = after.get(path)?;
        let number = |item: &Item| if item.content.is_some() { item.stamp.ino } else { 0 };
        let told = |item: &Item| (number(item), item.stamp.mtime, item.stamp.ctime, item.atime);
        (told(was) != told(is)).then(|| format!("{path:?}: {:?}, was {:?}", told(is), told(was)))
    })
}

/// The paths of `root` that lead to directories, and to others.
pub fn paths(root: &Path) -> (Vec<OsString>, Vec<OsString>) {
    let (mut directories, mut others) = (vec![OsString::from(".")], Vec::new());
    let mut next = vec![PathBuf::new()];
    while let Some(path) = next.pop() {
        let entries = std::fs::read_dir(root.join(&path)).expect("a directory");
        let mut entries: Vec<_> = entries.map(|entry| entry.expect("an entry")).collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let path = path.join(entry.file_name());
            if entry.file_type().expect("its type").is_dir() {
                directories.push(path.clone().into());
                next.push(path);
            } else {
                others.push(path.into());
            }
        }
    }
    (directories, others)
}
