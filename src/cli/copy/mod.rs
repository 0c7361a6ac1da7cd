//! `cp`: files and trees to the grid, from it, or within it.

mod down;
mod up;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::args::Cp;
use super::exit::{Exit, Failure};
use super::files::{find_as_named, split_last};
use super::folder::Folder;
use super::output;
use super::place::Place;
use super::session::Session;
use crate::cap::{Cap, StorageIndex};
use crate::client::{Client, ClientOptions, Found, ResolveError};
use crate::fs::edge_names;
use crate::node::{Child, Freshness, Name, NodeFactory, normalize};
use crate::util::Cx;

/// Files on their way at once.
const TRANSFERS: usize = 8;
/// Entries of one directory that are looked at at once.
const WIDTH: usize = 8;
/// Keys that are made for new directories while files are on their way.
const READY_KEYS: usize = 4;

/// FROM or TO.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Local(PathBuf),
    Grid(Place),
}

impl Operand {
    /// What has an alias, or is `-`, is on the grid; `./a:b` is a local file.
    fn parse(text: &OsStr) -> Result<Operand, Failure> {
        let Some(utf8) = text.to_str() else { return Ok(Operand::Local(text.into())) };
        let has_alias = utf8.split_once(':').is_some_and(|(alias, _)| !alias.contains('/'));
        if utf8 == "-" || has_alias { Place::parse(utf8).map(Operand::Grid) } else { Ok(Operand::Local(text.into())) }
    }
}

/// What is to be copied.
enum Source {
    /// What it was when it was looked at is what is copied, or nothing: see [`up::open_as`].
    Local(PathBuf, fs::Metadata),
    Grid {
        cap: Cap,
        /// The entry that names it, with what it says of it.
        child: Option<Child>,
        /// The directories that it is in, as far as they have been walked: a tree may contain itself.
        above: Vec<StorageIndex>,
    },
    /// A new directory of these.
    Group(Vec<Item>),
}

impl Source {
    fn is_directory(&self) -> bool {
        match self {
            Source::Local(_, metadata) => metadata.is_dir(),
            Source::Grid { cap, .. } => cap.is_directory(),
            Source::Group(_) => true,
        }
    }
}

/// Something on its way, and the name that it will have.
struct Item {
    name: Name,
    /// The local name by which it goes, in bytes.
    given: Option<Vec<u8>>,
    source: Source,
    /// Where it comes from, for messages.
    shown: String,
}

/// What came of it; `cp --json`.
#[derive(Serialize)]
struct Report {
    files: u64,
    directories: u64,
    bytes: u64,
    failed: Vec<String>,
    skipped: Vec<String>,
}

/// One run of `cp`.
struct Copier {
    client: Arc<Client>,
    transfers: Semaphore,
    bar: ProgressBar,
    recursive: bool,
    files: AtomicU64,
    directories: AtomicU64,
    bytes: AtomicU64,
    /// What could not be copied, while the rest could.
    failures: Mutex<Vec<Failure>>,
    /// Whether pipes, sockets and devices are made.
    special: bool,
    /// What was not copied because nobody asked for it.
    skipped: Mutex<Vec<Failure>>,
}

impl Copier {
    fn cx(&self) -> Cx {
        self.client.cx()
    }

    fn copied_file(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Passes over what nobody asked for.
    fn skip(&self, what: Failure) -> Result<(), Failure> {
        self.skipped.lock().unwrap_or_else(|e| e.into_inner()).push(what);
        Ok(())
    }

    fn copied_directory(&self) {
        self.directories.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps a failure that concerns one file alone, so that the others are copied; hands back one that concerns all.
    fn note<T>(&self, outcome: Result<Option<T>, Failure>) -> Result<Option<T>, Failure> {
        match outcome {
            Err(failure) if failure.code != Exit::Grid as u8 && failure.code != Exit::NotWriteable as u8 => {
                self.failures.lock().unwrap_or_else(|e| e.into_inner()).push(failure);
                Ok(None)
            }
            outcome => outcome,
        }
    }

    /// The children of a directory, as they are to be copied.
    async fn children(&self, item: &Item) -> Result<Vec<Item>, Failure> {
        match &item.source {
            Source::Group(_) => Ok(Vec::new()),
            Source::Local(path, seen) => Ok(self.local_children(path, seen)?),
            Source::Grid { cap, above, .. } => {
                let named = |e| Failure::node(&item.shown, &e);
                let own = cap.storage_index();
                if own.is_some_and(|si| above.contains(&si)) {
                    return Err(Failure::at(Exit::Failed, &item.shown, "contains itself"));
                }
                let table = self.client.directory(cap).map_err(named)?;
                let table = table.snapshot(&self.cx(), Freshness::Newest).await.map_err(named)?;
                let above: Vec<StorageIndex> = above.iter().copied().chain(own).collect();
                let child = |(name, child): (&Name, &Child)| Item {
                    name: Arc::clone(name),
                    given: None,
                    shown: joined(&item.shown, name),
                    source: Source::Grid { cap: child.cap.clone(), child: Some(child.clone()), above: above.clone() },
                };
                Ok(table.entries.iter().map(child).collect())
            }
        }
    }

    fn local_children(&self, path: &Path, seen: &fs::Metadata) -> Result<Vec<Item>, Failure> {
        let failed = |e| Failure::io(path.display(), &e);
        let mut items = Vec::new();
        // Through the descriptor: by its name it might be another directory by now, or a link to one.
        let directory = up::open_as(path, seen)?;
        let through = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
        for entry in fs::read_dir(through).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = path.join(entry.file_name());
            let item = entry.metadata().map_err(|e| Failure::io(path.display(), &e)).and_then(|metadata| {
                let (name, given) = local_name(&entry.file_name(), &path)?;
                let (given, shown) = (Some(given), path.display().to_string());
                Ok(Some(Item { name, given, shown, source: Source::Local(path, metadata) }))
            });
            items.extend(self.note(item)?);
        }
        Ok(items)
    }

    /// Reads FROM.
    async fn source(&self, from: &Operand) -> Result<(Source, Option<(Name, Option<Vec<u8>>)>, String), Failure> {
        let (source, name, shown) = match from {
            Operand::Local(path) => {
                let slash = path.as_os_str().as_bytes().ends_with(b"/");
                let metadata = if self.recursive && !slash { fs::symlink_metadata(path) } else { fs::metadata(path) };
                let metadata = metadata.map_err(|e| Failure::io(path.display(), &e))?;
                if !self.recursive && !metadata.is_file() && !metadata.is_dir() {
                    let what = "is not a regular file; with -r it is copied as what it is";
                    return Err(Failure::at(Exit::Failed, path.display(), what));
                }
                let name = path.file_name().map(|name| local_name(name, path)).transpose()?;
                let name = name.map(|(name, given)| (name, Some(given)));
                // Below, links are kept; this one the user named.
                let named = fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) && !metadata.is_symlink();
                let real = if named { real_path(path)? } else { path.clone() };
                (Source::Local(real, metadata), name, path.display().to_string())
            }
            Operand::Grid(place) => {
                let Found { cap, child, edge, .. } = find_as_named(&self.client, &self.cx(), place).await?;
                let name = edge.map(|(_, name)| (name, None));
                (Source::Grid { cap, child, above: Vec::new() }, name, place.shown())
            }
        };
        if source.is_directory() && !self.recursive {
            return Err(Failure::at(Exit::Usage, shown, "is a directory; -r copies it"));
        }
        Ok((source, name, shown))
    }

    /// Reads all FROMs; `true` when they are one file, which TO may name. A directory without a name, such as an alias's
    /// own, stands for what is in it.
    async fn sources(&self, from: &[Operand]) -> Result<(Vec<Item>, bool), Failure> {
        let mut one = from.len() == 1;
        let mut items = Vec::new();
        for from in from {
            let (source, name, shown) = self.source(from).await?;
            one &= !source.is_directory();
            match name {
                Some((name, given)) => items.push(Item { name, given, source, shown }),
                None if source.is_directory() => {
                    let item = Item { name: "".into(), given: None, source, shown };
                    items.extend(self.children(&item).await?);
                }
                // To be named by TO.
                None => items.push(Item { name: "".into(), given: None, source, shown }),
            }
        }
        Ok((items, one))
    }
}

/// A path below another, for messages.
fn joined(above: &str, name: &str) -> String {
    let separator = if above.ends_with([':', '/']) { "" } else { "/" };
    format!("{above}{separator}{name}")
}

/// `path` without a link as its last name.
fn real_path(path: &Path) -> Result<PathBuf, Failure> {
    fs::canonicalize(path).map_err(|e| Failure::io(path.display(), &e))
}

fn local_name(name: &OsStr, path: &Path) -> Result<(Name, Vec<u8>), Failure> {
    let given = name.as_bytes().to_vec();
    let name = edge_names(&given).map_err(|e| Failure::at(Exit::Failed, path.display(), e))?.next();
    let name = name.ok_or_else(|| Failure::at(Exit::Failed, path.display(), "has no name"))?;
    Ok((name, given))
}

/// Refuses sources that would take each other's place.
fn check_names(items: &[Item], shown: &str) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for item in items {
        if item.name.is_empty() {
            return Err(Failure::at(
                Exit::Usage,
                shown,
                "is a directory; say the name that the capability is to have in it",
            ));
        }
        if !seen.insert(item.given.as_deref().unwrap_or(item.name.as_bytes())) {
            let what =
                format_args!("is not the only FROM that would be named {}; copy them one after another", item.name);
            return Err(Failure::at(Exit::Usage, &item.shown, what));
        }
    }
    Ok(())
}

/// Where it all goes.
enum To {
    /// A directory that is there.
    Directory,
    /// A file that is there.
    File,
    Missing,
}

fn operands(args: &Cp) -> Result<(Vec<Operand>, Operand), Failure> {
    let parsed: Vec<Operand> = args.operands.iter().map(|o: &OsString| Operand::parse(o)).collect::<Result<_, _>>()?;
    let Some((to, from)) = parsed.split_last() else { return Err(Failure::usage("cp: say FROM and TO")) };
    let from: Vec<Operand> =
        args.cap_file.iter().map(|f| Operand::Grid(Place::File(f.clone()))).chain(from.iter().cloned()).collect();
    if from.is_empty() {
        return Err(Failure::usage("cp: say FROM and TO"));
    }
    if from.iter().chain([to]).filter(|o| **o == Operand::Grid(Place::Stdin)).count() > 1 {
        return Err(Failure::usage("cp: two capabilities cannot both come from standard input"));
    }
    if matches!(to, Operand::Local(_)) && from.iter().any(|from| matches!(from, Operand::Local(_))) {
        return Err(Failure::usage("cp: neither FROM nor TO is on the grid; name it alias:path"));
    }
    Ok((from, to.clone()))
}

pub fn cp(session: &Session, args: &Cp) -> Result<(), Failure> {
    let (from, to) = operands(args)?;
    let ready_keys = if args.recursive && matches!(to, Operand::Grid(_)) { READY_KEYS } else { 0 };
    let options = ClientOptions { ready_keys, ..ClientOptions::default() };
    session.with_tree(matches!(to, Operand::Grid(_)), options, async |client| {
        let copier = Copier {
            transfers: Semaphore::new(TRANSFERS),
            bar: session.speech.bytes("copying", 0),
            recursive: args.recursive,
            files: AtomicU64::default(),
            directories: AtomicU64::default(),
            bytes: AtomicU64::default(),
            failures: Mutex::default(),
            special: args.special,
            skipped: Mutex::default(),
            client,
        };
        let outcome = copier.run(&from, &to).await;
        copier.bar.finish_and_clear();
        outcome?;
        let failures = copier.failures.into_inner().unwrap_or_else(|e| e.into_inner());
        let skipped = copier.skipped.into_inner().unwrap_or_else(|e| e.into_inner());
        for skipped in &skipped {
            session.speech.note(format!("tahoefs: skipped: {}", skipped.message));
        }
        if args.json {
            let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
            output::json(&Report {
                files: load(&copier.files),
                directories: load(&copier.directories),
                bytes: load(&copier.bytes),
                failed: failures.iter().map(|f| f.message.clone()).collect(),
                skipped: skipped.into_iter().map(|f| f.message).collect(),
            })?;
        }
        let mut failures = failures;
        let Some(mut last) = failures.pop() else { return Ok(()) };
        for failure in &failures {
            output::error(&failure.message);
        }
        if !failures.is_empty() {
            last.message.push_str(&format!(" (and {} more, said above)", failures.len()));
        }
        Err(last)
    })
}

impl Copier {
    async fn run(&self, from: &[Operand], to: &Operand) -> Result<(), Failure> {
        let (items, one) = self.sources(from).await?;
        match to {
            Operand::Local(path) => self.to_local(items, one, path).await,
            Operand::Grid(place) => {
                self.to_grid(items, one, place).await?;
                self.client.sync(&self.cx()).await.map_err(|e| Failure::node(place.shown(), &e))
            }
        }
    }

    /// Whether `to`, which is `kind`, names the `one` file that is copied, rather than the directory that all goes into.
    fn takes_name(kind: &To, one: bool, slash: bool, shown: &str) -> Result<bool, Failure> {
        match kind {
            To::Directory => Ok(false),
            To::File if slash || !one => Err(Failure::at(Exit::Failed, shown, "is not a directory")),
            To::Missing if slash && one => {
                Err(Failure::at(Exit::NotFound, shown, "is no directory yet; make it, or leave the slash away"))
            }
            To::File | To::Missing => Ok(one),
        }
    }

    async fn to_local(&self, mut items: Vec<Item>, one: bool, path: &Path) -> Result<(), Failure> {
        let shown = path.display().to_string();
        let kind = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => To::Directory,
            Ok(_) => To::File,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => To::Missing,
            Err(e) => return Err(Failure::io(&shown, &e)),
        };
        let slash = path.as_os_str().as_bytes().ends_with(b"/");
        if Copier::takes_name(&kind, one, slash, &shown)? {
            if let Some(item) = items.pop() {
                let fetched = self.fetch_to(&item, path).await;
                self.note(fetched.map(Some))?;
            }
            return Ok(());
        }
        check_names(&items, &shown)?;
        if matches!(kind, To::Missing) {
            fs::create_dir_all(path).map_err(|e| Failure::io(&shown, &e))?;
            self.copied_directory();
        }
        let folder = Folder::open(path).map_err(|e| Failure::io(&shown, &e))?;
        self.fetch_all(items, &folder).await
    }

    async fn to_grid(&self, mut items: Vec<Item>, one: bool, place: &Place) -> Result<(), Failure> {
        let (shown, cx) = (place.shown(), self.cx());
        let root = place.root(&self.client)?;
        let slash = matches!(place, Place::Alias { slash: true, .. });
        let found = match self.client.resolve(&cx, &root, place.path()).await {
            Ok(found) => Some(found),
            Err(ResolveError::NotFound { .. }) => None,
            Err(e) => return Err(Failure::resolve(&place.base(), &e)),
        };
        let kind = match &found {
            Some(found) if found.cap.is_directory() => To::Directory,
            Some(_) => To::File,
            None => To::Missing,
        };
        let takes_name = Copier::takes_name(&kind, one, slash, &shown)?;
        if !takes_name {
            check_names(&items, &shown)?;
        }
        let parent = match found {
            Some(Found { cap, edge: None, .. }) if takes_name => {
                if let Some(item) = items.pop() {
                    let written = self.overwrite(&item, &cap, &shown).await;
                    self.note(written.map(Some))?;
                }
                return Ok(());
            }
            Some(Found { edge: Some((parent, name)), .. }) if takes_name => {
                items.iter_mut().for_each(|item| item.name = Arc::clone(&name));
                parent
            }
            Some(Found { cap, .. }) => cap,
            None => {
                let Some((above, name)) = split_last(place.path()) else {
                    return Err(Failure::at(Exit::Usage, &shown, "say the name that it is to have"));
                };
                let name = normalize(name);
                if takes_name {
                    items.iter_mut().for_each(|item| item.name = Arc::clone(&name));
                } else {
                    let source = Source::Group(items);
                    items = vec![Item { name, given: None, source, shown: shown.clone() }];
                }
                let parent = self.client.make_directories(&cx, &root, above).await;
                parent.map_err(|e| Failure::resolve(&place.base(), &e))?
            }
        };
        if takes_name {
            // The name is TO's: that FROM's had other bytes says nothing of it.
            items.iter_mut().for_each(|item| item.given = None);
        }
        self.store_all(items, Some(&parent), &shown).await?;
        Ok(())
    }
}
