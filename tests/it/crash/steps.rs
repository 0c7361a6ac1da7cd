//! A scripted workload, step by step, in a mount and in a model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};

use super::{Node, Tree, World, bytes, said};

/// What a step does, below the mount point.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Mkdir(&'static str),
    Rmdir(&'static str),
    Create(&'static str),
    /// Writes so many bytes from the beginning.
    Write(&'static str, usize),
    Truncate(&'static str, usize),
    /// Makes zeros of so many bytes at an offset.
    Punch(&'static str, usize, usize),
    /// Copies all of a file over the beginning of another.
    Copy(&'static str, &'static str),
    Chmod(&'static str, u32),
    Utimens(&'static str, i64),
    Rename(&'static str, &'static str),
    /// Gives a file a further name.
    Link(&'static str, &'static str),
    Unlink(&'static str),
    /// Waits for the grid.
    Flush,
    Unmount,
}

use Step::*;

/// The workload.
pub const STEPS: &[Step] = &[
    Create("empty"),
    Create("small"),
    Write("small", 100),
    Mkdir("a"),
    Create("a/medium"),
    Write("a/medium", 100_000),
    Chmod("a/medium", 0o600),
    Link("a/medium", "medium too"),
    Flush,
    Mkdir("b"),
    Mkdir("b/c"),
    Create("b/c/large"),
    Write("b/c/large", 3_000_000),
    Utimens("b/c/large", 1_000_000_000),
    Create("small.tmp"),
    Write("small.tmp", 300),
    Link("small", "a/old small"),
    Link("medium too", "b/c/medium"),
    Write("a/medium", 70_000),
    Rename("small.tmp", "small"),
    Flush,
    Write("a/old small", 200),
    Chmod("b/c/medium", 0o640),
    Unlink("medium too"),
    Rename("a/old small", "b/old small"),
    Link("b/old small", "small too"),
    Create("a/twin"),
    Copy("b/c/large", "a/twin"),
    Punch("a/twin", 500_000, 300_000),
    Create("a/both"),
    Copy("small", "a/both"),
    Copy("a/twin", "a/both"),
    Rename("a/medium", "b/medium"),
    Rename("b/c", "a/c"),
    Truncate("a/c/large", 2_000_000),
    Punch("a/c/large", 1_500_000, 1_000_000),
    Utimens("small", 1_234_567_890),
    Chmod("b", 0o700),
    Create("a/passing"),
    Write("a/passing", 5000),
    Unlink("a/passing"),
    Unlink("empty"),
    Flush,
    Rename("b/medium", "a/medium"),
    Truncate("a/c/medium", 60_000),
    Unlink("b/old small"),
    Write("small too", 250),
    Rmdir("b"),
    Write("mutable", 200_000),
    Flush,
    Truncate("mutable", 1000),
    Rename("small", "a/c/small"),
    Unmount,
];

impl Step {
    /// Takes it in the mount.
    pub fn take(self, world: &World) -> io::Result<()> {
        let command = |args: &[&str]| {
            let output = world.command(args).arg(world.mountpoint()).output()?;
            if output.status.success() { Ok(()) } else { Err(io::Error::other(said(&output))) }
        };
        let open = |path: &str| OpenOptions::new().write(true).open(world.at(path));
        match self {
            Mkdir(path) => DirBuilder::new().mode(0o755).create(world.at(path)),
            Rmdir(path) => fs::remove_dir(world.at(path)),
            Create(path) => OpenOptions::new().write(true).create_new(true).mode(0o644).open(world.at(path)).map(drop),
            Write(path, length) => open(path)?.write_all_at(&bytes(length as u64, length), 0),
            Truncate(path, length) => open(path)?.set_len(length as u64),
            Punch(path, at, length) => {
                let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                Ok(fallocate(open(path)?, mode, at as i64, length as i64)?)
            }
            Copy(from, to) => {
                let from = File::open(world.at(from))?;
                let length = from.metadata()?.len() as usize;
                let copied = copy_file_range(&from, Some(&mut 0), open(to)?, Some(&mut 0), length)?;
                if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
            Chmod(path, mode) => fs::set_permissions(world.at(path), Permissions::from_mode(mode)),
            Utimens(path, time) => {
                File::open(world.at(path))?.set_modified(UNIX_EPOCH + Duration::from_secs(time as u64))
            }
            Rename(from, to) => fs::rename(world.at(from), world.at(to)),
            Link(from, to) => fs::hard_link(world.at(from), world.at(to)),
            Unlink(path) => fs::remove_file(world.at(path)),
            Flush => command(&["flush"]),
            Unmount => command(&["unmount"]),
        }
    }

    /// Takes it in the model.
    pub fn model(self, tree: &mut Tree) {
        let at = |path: &str| Path::new(path).to_owned();
        let source = match self {
            Copy(from, _) => tree.get(Path::new(from)).cloned(),
            _ => None,
        };
        let mut change = |path: &str, to: &dyn Fn(&mut Vec<u8>)| {
            names_of(tree, path).for_each(|node| {
                let Node::File { content, mtime, .. } = node else { unreachable!("a file") };
                to(content);
                *mtime = None;
            });
        };
        match self {
            Mkdir(path) => drop(tree.insert(at(path), Node::Dir { mode: 0o755 })),
            Create(path) => {
                let is_taken = |n: &u64| tree.values().any(|node| matches!(node, Node::File { file, .. } if file == n));
                let file = (0..).find(|n| !is_taken(n)).expect("a number is free");
                tree.insert(at(path), Node::File { content: Vec::new(), mode: 0o644, mtime: None, file });
            }
            Write(path, length) => change(path, &|content| {
                content.resize(content.len().max(length), 0);
                content[..length].copy_from_slice(&bytes(length as u64, length));
            }),
            Truncate(path, length) => change(path, &|content| content.resize(length, 0)),
            Punch(path, at, length) => change(path, &|content| {
                let size = content.len();
                content[at..size.min(at + length)].fill(0);
            }),
            Copy(_, path) => change(path, &|content| {
                let Some(Node::File { content: copied, .. }) = &source else { panic!("{source:?} is copied") };
                content.resize(content.len().max(copied.len()), 0);
                content[..copied.len()].copy_from_slice(copied);
            }),
            Chmod(path, to) => match tree.get_mut(Path::new(path)) {
                Some(Node::Dir { mode }) => *mode = to,
                _ => names_of(tree, path).for_each(|node| {
                    let Node::File { mode, .. } = node else { unreachable!("a file") };
                    *mode = to;
                }),
            },
            Utimens(path, time) => names_of(tree, path).for_each(|node| {
                let Node::File { mtime, .. } = node else { unreachable!("a file") };
                *mtime = Some(time);
            }),
            Link(from, to) => {
                let node = tree[Path::new(from)].clone();
                tree.insert(at(to), node);
            }
            Rename(from, to) => {
                let moved: Vec<_> = tree.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for old in moved {
                    let node = tree.remove(&old).expect("it was there");
                    let below = old.strip_prefix(from).expect("it begins so");
                    let new = if below.as_os_str().is_empty() { at(to) } else { at(to).join(below) };
                    tree.insert(new, node);
                }
            }
            Unlink(path) | Rmdir(path) => drop(tree.remove(Path::new(path))),
            Flush | Unmount => {}
        }
    }

    /// The file that is written to piece by piece.
    fn written(self) -> Option<&'static str> {
        match self {
            Write(path, _) | Copy(_, path) => Some(path),
            _ => None,
        }
    }
}

/// All names of the file at a path.
fn names_of<'a>(tree: &'a mut Tree, path: &str) -> impl Iterator<Item = &'a mut Node> {
    let number = match tree.get(Path::new(path)) {
        Some(Node::File { file, .. }) => *file,
        other => panic!("{path} is {other:?}"),
    };
    tree.values_mut().filter(move |node| matches!(node, Node::File { file, .. } if *file == number))
}

/// Whether `found` is what was answered, `before`, with all of `step` or none of it; or, of a write, pieces.
pub fn agrees(found: &Tree, before: &Tree, step: Option<Step>) -> Result<(), String> {
    let Some(step) = step else { return equal(found, before) };
    let mut after = before.clone();
    step.model(&mut after);
    let (Err(first), Err(second)) = (equal(found, before), equal(found, &after)) else { return Ok(()) };
    let mixed = || {
        let path = Path::new(step.written()?);
        let content = |tree: &Tree| match tree.get(path) {
            Some(Node::File { content, .. }) => Some(content.clone()),
            _ => None,
        };
        let (old, new, is) = (content(before)?, content(&after)?, content(found)?);
        let of_either = |(i, b): (usize, &u8)| old.get(i) == Some(b) || new.get(i) == Some(b);
        let fits = (old.len()..=new.len()).contains(&is.len()) && is.iter().enumerate().all(of_either);
        let mut rest = after.clone();
        names_of(&mut rest, step.written()?).for_each(|node| {
            let Node::File { content, .. } = node else { unreachable!("a file") };
            content.clone_from(&is);
        });
        Some(fits && equal(found, &rest).is_ok())
    };
    if mixed() == Some(true) { Ok(()) } else { Err(format!("not before {step:?}: {first}; and not after: {second}")) }
}

fn equal(found: &Tree, wanted: &Tree) -> Result<(), String> {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    if names(found) != names(wanted) {
        return Err(format!("{:?} instead of {:?}", names(found), names(wanted)));
    }
    if files(found) != files(wanted) {
        return Err(format!("{:?} instead of {:?} are files with these names", files(found), files(wanted)));
    }
    for (path, node) in wanted {
        let fits = match (node, &found[path]) {
            (Node::Dir { mode }, Node::Dir { mode: is }) => mode == is,
            (Node::File { content, mode, mtime, .. }, Node::File { content: c, mode: m, mtime: t, .. }) => {
                content == c && mode == m && mtime.is_none_or(|mtime| Some(mtime) == *t)
            }
            _ => false,
        };
        if !fits {
            return Err(format!("{} is {} instead of {}", path.display(), shown(&found[path]), shown(node)));
        }
    }
    Ok(())
}

/// The names of each file.
fn files(tree: &Tree) -> BTreeSet<Vec<&PathBuf>> {
    let mut files: BTreeMap<u64, Vec<&PathBuf>> = BTreeMap::new();
    for (path, node) in tree {
        if let Node::File { file, .. } = node {
            files.entry(*file).or_default().push(path);
        }
    }
    files.into_values().collect()
}

fn shown(node: &Node) -> String {
    match node {
        Node::Dir { mode } => format!("a folder, mode {mode:o}"),
        Node::File { content, mode, mtime, .. } => format!("{} bytes, mode {mode:o}, mtime {mtime:?}", content.len()),
    }
}
