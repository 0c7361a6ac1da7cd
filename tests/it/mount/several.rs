//! Two machines on one directory: random work at the same time, with a ledger of what must be there in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::world::World;

/// How long both work, and the variable that says otherwise.
const WORK: u64 = 15;
const SECONDS: &str = "TAHOEFS_TWO_MOUNTS_SECONDS";
const SEED: &str = "TAHOEFS_TWO_MOUNTS_SEED";
/// Directories that both use, and names in each that both write.
const FOLDERS: usize = 3;
const SHARED: usize = 2;
/// How long what is stored may take to show on the other machine.
const SEEN: Duration = Duration::from_secs(20);

/// A content, as the ledger knows it.
type Mark = (u64, usize);

fn mark(content: &[u8]) -> Mark {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    (hasher.finish(), content.len())
}

/// The contents of names that both write: all that were begun, those that were acknowledged, and those that somebody
/// has replaced or removed who had seen them.
#[derive(Default)]
struct Ledger {
    begun: HashSet<Mark>,
    acknowledged: HashMap<Mark, String>,
    superseded: HashSet<Mark>,
}

#[derive(Clone)]
struct OwnFile {
    path: PathBuf,
    content: Vec<u8>,
    mode: u32,
    /// Names of one file have one number.
    file: usize,
}

/// One machine's work.
struct Worker<'a> {
    world: &'a World,
    who: char,
    dice: Dice,
    count: usize,
    ledger: &'a Mutex<Ledger>,
    /// By their last names, which nobody else uses and which are used once.
    files: BTreeMap<String, OwnFile>,
    folders: Vec<PathBuf>,
    gone: BTreeSet<String>,
    /// The last few operations on each name, for messages.
    log: Vec<String>,
}

impl Worker<'_> {
    fn note(&mut self, what: String) {
        self.log.push(what);
    }

    /// What was done under a name.
    fn about(&self, name: &str) -> String {
        let is_in = |line: &&String| line.split([' ', '/']).any(|word| word == name);
        self.log.iter().filter(is_in).cloned().collect::<Vec<_>>().join("; ")
    }

    fn fresh_name(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.who, self.count)
    }

    fn fresh_content(&mut self) -> Vec<u8> {
        self.count += 1;
        let length = [0, 40, 100, 5_000, 70_000][self.dice.roll(5)];
        let mut content = format!("{} {}\n", self.who, self.count).into_bytes();
        content.extend((0..length).map(|i| (i * 31 + self.count) as u8));
        content
    }

    fn any_folder(&mut self) -> PathBuf {
        let shared: Vec<PathBuf> = (0..FOLDERS).map(|n| format!("d{n}").into()).collect();
        match self.dice.roll(FOLDERS + 1) {
            0 => self.dice.pick(&self.folders).unwrap_or_else(|| shared[0].clone()),
            n => shared[n - 1].clone(),
        }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.world.at(path)
    }

    fn step(&mut self) {
        let names: Vec<String> = self.files.keys().cloned().collect();
        let own = self.dice.pick(&names);
        match (self.dice.roll(23), own) {
            (0..3, _) | (3..12, None) => self.create(),
            (3 | 4, Some(name)) => self.rewrite(&name),
            (5, Some(name)) => self.append(&name),
            (6, Some(name)) => self.replace(&name),
            (7 | 8, Some(name)) => self.rename(&name),
            (9, Some(name)) => self.unlink(&name),
            (10, Some(name)) => self.chmod(&name),
            (11, Some(name)) => self.read_back(&name),
            (12, _) => self.folder(),
            (13..16, Some(name)) => self.link(&name),
            _ => {
                let name = format!("d{}/s{}", self.dice.roll(FOLDERS), self.dice.roll(SHARED));
                match self.shared(Path::new(&name)) {
                    Ok(()) => {}
                    // The other machine's work.
                    Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
                    Err(e) => panic!("{} on {name}: {e}", self.who),
                }
            }
        }
    }

    fn create(&mut self) {
        let (name, folder, content) = (self.fresh_name(), self.any_folder(), self.fresh_content());
        let path = folder.join(&name);
        self.note(format!("create {} {:?}", path.display(), mark(&content)));
        match self.dice.roll(3) {
            // As a shell does: made, and written through another descriptor.
            0 => {
                fs::File::create_new(self.at(&path)).unwrap();
                fs::write(self.at(&path), &content).unwrap();
            }
            1 => {
                let mut file = fs::File::create_new(self.at(&path)).unwrap();
                file.write_all(&content).unwrap();
                file.sync_all().unwrap();
            }
            _ => fs::write(self.at(&path), &content).unwrap(),
        }
        self.own(name, path, content);
    }

    /// A file that is there is its own from now on.
    fn own(&mut self, name: String, path: PathBuf, content: Vec<u8>) {
        let mode = fs::metadata(self.at(&path)).unwrap().permissions().mode() & 0o7777;
        self.count += 1;
        self.files.insert(name, OwnFile { path, content, mode, file: self.count });
    }

    /// Changes what is known of a file, under all of its names.
    fn change(&mut self, name: &str, change: impl Fn(&mut OwnFile)) {
        let file = self.files[name].file;
        self.files.values_mut().filter(|own| own.file == file).for_each(change);
    }

    /// Gives a file a further name.
    fn link(&mut self, name: &str) {
        let (old, fresh) = (self.files[name].clone(), self.fresh_name());
        let path = self.any_folder().join(&fresh);
        self.note(format!("link {} to {}", old.path.display(), path.display()));
        fs::hard_link(self.at(&old.path), self.at(&path)).unwrap();
        self.files.insert(fresh, OwnFile { path, ..old });
    }

    fn rewrite(&mut self, name: &str) {
        let content = self.fresh_content();
        let path = self.files[name].path.clone();
        self.note(format!("rewrite {} {:?}", path.display(), mark(&content)));
        fs::write(self.at(&path), &content).unwrap();
        self.change(name, |own| own.content.clone_from(&content));
    }

    fn append(&mut self, name: &str) {
        let more = self.fresh_content();
        let path = self.files[name].path.clone();
        self.note(format!("append {}", path.display()));
        let mut file = OpenOptions::new().append(true).open(self.at(&path)).unwrap();
        file.write_all(&more).unwrap();
        self.change(name, |own| own.content.extend(&more));
    }

    /// As editors save.
    fn replace(&mut self, name: &str) {
        let (content, path) = (self.fresh_content(), self.files[name].path.clone());
        let aside = path.with_file_name(self.fresh_name());
        self.note(format!("replace {} by {} {:?}", path.display(), aside.display(), mark(&content)));
        fs::write(self.at(&aside), &content).unwrap();
        fs::rename(self.at(&aside), self.at(&path)).unwrap();
        self.gone.insert(aside.file_name().unwrap().to_str().unwrap().to_owned());
        self.own(name.to_owned(), path, content);
    }

    fn rename(&mut self, name: &str) {
        let mut file = self.files.remove(name).unwrap();
        let fresh = self.fresh_name();
        let to = self.any_folder().join(&fresh);
        self.note(format!("rename {} to {}", file.path.display(), to.display()));
        fs::rename(self.at(&file.path), self.at(&to)).unwrap();
        file.path = to;
        self.files.insert(fresh, file);
        self.gone.insert(name.to_owned());
    }

    fn unlink(&mut self, name: &str) {
        let file = self.files.remove(name).unwrap();
        self.note(format!("unlink {}", file.path.display()));
        fs::remove_file(self.at(&file.path)).unwrap();
        self.gone.insert(name.to_owned());
    }

    fn chmod(&mut self, name: &str) {
        let mode = [0o600, 0o644, 0o755][self.dice.roll(3)];
        let path = self.files[name].path.clone();
        self.note(format!("chmod {mode:o} {}", path.display()));
        fs::set_permissions(self.at(&path), fs::Permissions::from_mode(mode)).unwrap();
        self.change(name, |own| own.mode = mode);
    }

    /// A file is what it was made, and its names are those that it was given.
    fn read_back(&mut self, name: &str) {
        let file = &self.files[name];
        let names: Vec<_> = self.files.values().filter(|own| own.file == file.file).map(|own| &own.path).collect();
        let stat = |path: &Path| fs::metadata(self.at(path)).map(|meta| (meta.ino(), meta.nlink())).unwrap();
        let (ino, nlink) = stat(&file.path);
        assert_eq!(nlink, names.len() as u64, "{names:?} ({})", self.about(name));
        names.iter().for_each(|other| assert_eq!(stat(other), (ino, nlink), "{names:?}"));
        let found = fs::read(self.at(&file.path)).unwrap();
        assert!(found == file.content, "{}: {:?}, not {:?}", file.path.display(), mark(&found), mark(&file.content));
    }

    /// Makes, renames or removes a directory of its own, which goes with the files of its own that are in it.
    fn folder(&mut self) {
        let place = self.dice.roll(self.folders.len() + 1);
        let Some(old) = self.folders.get(place).cloned() else {
            let path = PathBuf::from(format!("d{}", self.dice.roll(FOLDERS))).join(self.fresh_name());
            self.note(format!("mkdir {}", path.display()));
            fs::create_dir(self.at(&path)).unwrap();
            return self.folders.push(path);
        };
        let last = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        if self.files.values().any(|file| file.path.starts_with(&old)) {
            let to = PathBuf::from(format!("d{}", self.dice.roll(FOLDERS))).join(self.fresh_name());
            self.note(format!("rename folder {} to {}", old.display(), to.display()));
            fs::rename(self.at(&old), self.at(&to)).unwrap();
            for file in self.files.values_mut() {
                if let Ok(rest) = file.path.strip_prefix(&old) {
                    file.path = to.join(rest);
                }
            }
            self.folders[place] = to;
        } else {
            self.note(format!("rmdir {}", old.display()));
            fs::remove_dir(self.at(&old)).unwrap();
            self.folders.remove(place);
        }
        self.gone.insert(last(&old));
    }

    fn begin(&self, content: &[u8]) {
        self.ledger.lock().unwrap().begun.insert(mark(content));
    }

    fn acknowledge(&self, content: &[u8], what: &str) {
        let mut ledger = self.ledger.lock().unwrap();
        ledger.acknowledged.insert(mark(content), format!("{} {what}", self.who));
    }

    /// What was read under a shared name is replaced now by who has seen it.
    fn supersede(&mut self, content: &[u8], path: &Path) {
        self.is_known(content, path);
        self.ledger.lock().unwrap().superseded.insert(mark(content));
    }

    /// What was read under a shared name was written by somebody.
    fn is_known(&self, content: &[u8], path: &Path) {
        let ledger = self.ledger.lock().unwrap();
        let known = content.is_empty() || ledger.begun.contains(&mark(content));
        let head = String::from_utf8_lossy(&content[..content.len().min(20)]).into_owned();
        assert!(known, "{}: nobody wrote what is in {}: {:?} {head:?}", self.who, path.display(), mark(content));
    }

    /// Works on a name that both use, in ways that tell what content was replaced or removed.
    fn shared(&mut self, path: &Path) -> io::Result<()> {
        let place = self.at(path);
        match self.dice.roll(6) {
            0 | 1 => {
                let content = self.fresh_content();
                self.note(format!("shared create {} {:?}", path.display(), mark(&content)));
                self.begin(&content);
                let mut file = fs::File::create_new(&place)?;
                file.write_all(&content).unwrap();
                drop(file);
                self.acknowledge(&content, &format!("made {}", path.display()));
            }
            2 => {
                let mut file = OpenOptions::new().read(true).write(true).open(&place)?;
                let mut old = Vec::new();
                file.read_to_end(&mut old).unwrap();
                let content = self.fresh_content();
                self.note(format!("shared overwrite {} {:?} by {:?}", path.display(), mark(&old), mark(&content)));
                self.supersede(&old, path);
                self.begin(&content);
                file.set_len(0).unwrap();
                file.rewind().unwrap();
                file.write_all(&content).unwrap();
                drop(file);
                self.acknowledge(&content, &format!("overwrote {}", path.display()));
            }
            3 => {
                let mut file = OpenOptions::new().read(true).append(true).open(&place)?;
                let mut old = Vec::new();
                file.read_to_end(&mut old).unwrap();
                let content = [old.clone(), self.fresh_content()].concat();
                self.note(format!("shared append {} {:?} to {:?}", path.display(), mark(&content), mark(&old)));
                self.supersede(&old, path);
                self.begin(&content);
                file.write_all(&content[old.len()..]).unwrap();
                drop(file);
                self.acknowledge(&content, &format!("appended to {}", path.display()));
            }
            4 => {
                let name = self.fresh_name();
                let to = PathBuf::from(format!("d{}", self.dice.roll(FOLDERS))).join(&name);
                fs::rename(&place, self.at(&to))?;
                let content = fs::read(self.at(&to)).unwrap();
                self.note(format!("shared take {} {:?} as {}", path.display(), mark(&content), to.display()));
                // What both take at once has two names from then on. It is nobody's own.
                if self.dice.roll(2) == 0 {
                    self.supersede(&content, path);
                    fs::remove_file(self.at(&to)).unwrap();
                    self.gone.insert(name);
                } else {
                    self.is_known(&content, path);
                }
            }
            _ => {
                let mode = [0o600, 0o644, 0o755][self.dice.roll(3)];
                self.note(format!("shared chmod {}", path.display()));
                fs::set_permissions(&place, fs::Permissions::from_mode(mode))?;
            }
        }
        Ok(())
    }

    fn work(&mut self, until: Instant) {
        while Instant::now() < until {
            self.step();
            match self.dice.roll(60) {
                0 => drop(self.world.ok(&["flush"])),
                1 => thread::sleep(Duration::from_millis(2_500)),
                n => thread::sleep(Duration::from_millis(n as u64 / 2)),
            }
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Node {
    mode: u32,
    mtime: (i64, i64),
    /// Of a file.
    content: Option<Vec<u8>>,
}

type Tree = BTreeMap<PathBuf, Node>;

/// All below a folder, unless it changes while it is looked at.
fn tree(top: &Path) -> io::Result<Tree> {
    let (mut found, mut folders) = (Tree::new(), vec![top.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let (mode, mtime) = (meta.permissions().mode(), (meta.mtime(), meta.mtime_nsec()));
            let content = if meta.is_dir() { None } else { Some(fs::read(&path)?) };
            let is_whole = content.as_ref().is_none_or(|content| content.len() as u64 == meta.len());
            if !is_whole {
                return Err(io::Error::other(format!("{} is torn", path.display())));
            }
            if meta.is_dir() {
                folders.push(path.clone());
            }
            let node = Node { mode, mtime: if meta.is_dir() { (0, 0) } else { mtime }, content };
            found.insert(path.strip_prefix(top).unwrap().to_owned(), node);
        }
    }
    Ok(found)
}

fn differences(ours: &Tree, theirs: &Tree) -> Vec<String> {
    let paths: BTreeSet<&PathBuf> = ours.keys().chain(theirs.keys()).collect();
    let shown = |node: Option<&Node>| {
        node.map(|n| format!("{:o} {:?} {:?}", n.mode, n.mtime, n.content.as_ref().map(|c| mark(c))))
    };
    let differ = paths.into_iter().filter(|path| ours.get(*path) != theirs.get(*path));
    differ
        .map(|path| format!("{}: {:?} / {:?}", path.display(), shown(ours.get(path)), shown(theirs.get(path))))
        .collect()
}

/// The tree that both show, once they agree.
fn agreed(ours: &World, theirs: &World) -> Tree {
    let until = Instant::now() + SEEN;
    loop {
        let both = tree(&ours.mountpoint()).and_then(|a| Ok((a, tree(&theirs.mountpoint())?)));
        let why = match both {
            Ok((a, b)) if a == b => return a,
            Ok((a, b)) => differences(&a, &b).join("\n"),
            Err(e) => e.to_string(),
        };
        assert!(Instant::now() < until, "the trees differ:\n{why}");
        thread::sleep(Duration::from_millis(500));
    }
}

fn two_machines() -> (World, World) {
    let ours = World::new();
    ours.mount(&["-o", "refresh=1"]);
    let theirs = World::beside(&ours);
    theirs.mount(&["-o", "refresh=1"]);
    (ours, theirs)
}

/// Conflicts that a mount tells of.
const TOLD: usize = 16;

/// A path and the name that the other copy has.
type Conflict = (String, Option<String>);

/// The conflicts that a mount tells of.
fn conflicts(world: &World) -> Vec<Conflict> {
    let mountpoint = world.mountpoint();
    let status = world.ok(&["status", "--json", mountpoint.to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let conflicts = status["queue"]["conflicts"].as_array().expect("conflicts").iter();
    conflicts.map(|conflict| (text(&conflict["path"]).unwrap(), text(&conflict["kept_as"]))).collect()
}

#[test]
fn a_conflict_is_told_where_it_was_found() {
    let (ours, theirs) = two_machines();
    fs::create_dir(ours.at("d")).unwrap();
    ours.ok(&["flush"]);
    agreed(&ours, &theirs);
    fs::write(ours.at("d/report.txt"), "ours").unwrap();
    fs::write(theirs.at("d/report.txt"), "theirs").unwrap();
    ours.ok(&["flush"]);
    theirs.ok(&["flush"]);
    let found = agreed(&ours, &theirs);
    let copy = found.keys().find(|path| path.to_str().unwrap().contains("(conflict ")).expect("a copy");
    let name = copy.file_name().unwrap().to_str().unwrap();
    assert_eq!(conflicts(&theirs), [("d/report.txt".to_owned(), Some(name.to_owned()))]);
    assert_eq!(conflicts(&ours), []);
    let shown = theirs.ok(&["status"]);
    assert!(shown.contains(&format!("d/report.txt: both stay, one as {name}")), "{shown}");
    ours.unmount();
    theirs.unmount();
}

/// Longer than the refresh interval, much shorter than the kernel may keep what it was told.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn the_kernel_is_told_what_another_machine_has_changed() {
    let (ours, theirs) = two_machines();
    fs::create_dir(ours.at("d")).unwrap();
    for name in ["changed", "removed", "mode"] {
        fs::write(ours.at("d").join(name), "old").unwrap();
    }
    ours.ok(&["flush"]);
    agreed(&ours, &theirs);
    let at = |name: &str| theirs.at("d").join(name);
    let mut open = fs::File::open(at("changed")).unwrap();
    for _ in 0..3 {
        for name in ["changed", "removed", "mode"] {
            assert_eq!(fs::read(at(name)).unwrap(), b"old");
            fs::metadata(at(name)).unwrap();
        }
        thread::sleep(Duration::from_millis(1200));
    }
    fs::write(ours.at("d/changed.new"), "new content").unwrap();
    fs::rename(ours.at("d/changed.new"), ours.at("d/changed")).unwrap();
    fs::remove_file(ours.at("d/removed")).unwrap();
    fs::set_permissions(ours.at("d/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(ours.at("d/added"), "added").unwrap();
    ours.ok(&["flush"]);
    // Names that the kernel has: it does not ask for their directory.
    let until = Instant::now() + TOLD_WITHIN;
    let shows = || {
        let size = fs::metadata(at("changed")).map(|meta| meta.len());
        let mode = fs::metadata(at("mode")).map(|meta| meta.permissions().mode() & 0o777);
        (size.ok(), fs::metadata(at("removed")).is_ok(), mode.ok())
    };
    while shows() != (Some(11), false, Some(0o600)) {
        assert!(Instant::now() < until, "{:?}", shows());
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(fs::read(at("changed")).unwrap(), b"new content");
    let mut old = String::new();
    open.read_to_string(&mut old).unwrap();
    assert_eq!(old, "old", "who has it open keeps what was opened");
    let names = fs::read_dir(theirs.at("d")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>(), ["added", "changed", "mode"].map(str::to_owned).into());
    assert_eq!(fs::read(at("added")).unwrap(), b"added");
    drop(open);
    ours.unmount();
    theirs.unmount();
}

#[test]
fn who_writes_on_loses_nothing_when_the_kernel_was_told_of_anothers_change() {
    let (ours, theirs) = two_machines();
    for name in ["replaced.txt", "removed"] {
        fs::write(ours.at(name), "old").unwrap();
    }
    ours.ok(&["flush"]);
    agreed(&ours, &theirs);
    let open = |name: &str| OpenOptions::new().append(true).open(theirs.at(name)).unwrap();
    let (mut replaced, mut removed) = (open("replaced.txt"), open("removed"));
    fs::write(ours.at("new"), "theirs").unwrap();
    fs::rename(ours.at("new"), ours.at("replaced.txt")).unwrap();
    fs::remove_file(ours.at("removed")).unwrap();
    ours.ok(&["flush"]);
    let until = Instant::now() + TOLD_WITHIN;
    while [&replaced, &removed].iter().any(|file| file.metadata().unwrap().nlink() != 0) {
        assert!(Instant::now() < until, "the kernel was not told");
        let _ = (fs::metadata(theirs.at("replaced.txt")), fs::metadata(theirs.at("removed")));
        thread::sleep(Duration::from_millis(100));
    }
    for file in [&mut replaced, &mut removed] {
        file.write_all(b" and more").unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(fs::metadata(theirs.at("removed")).unwrap().ino(), removed.metadata().unwrap().ino());
    drop((replaced, removed));
    theirs.ok(&["flush"]);
    let found = agreed(&ours, &theirs);
    let content = |path: &Path| found[path].content.as_deref().unwrap();
    assert_eq!(content(Path::new("replaced.txt")), b"theirs");
    assert_eq!(content(Path::new("removed")), b"old and more");
    let copy = found.keys().find(|path| path.to_str().unwrap().contains("replaced (conflict ")).expect("a copy");
    assert_eq!(content(copy), b"old and more");
    assert_eq!(found.len(), 3);
    ours.unmount();
    theirs.unmount();
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn two_mounts_under_random_work_end_equal_with_everything_there() {
    let (ours, theirs) = two_machines();
    for n in 0..FOLDERS {
        fs::create_dir(ours.at(format!("d{n}"))).unwrap();
    }
    ours.ok(&["flush"]);
    agreed(&ours, &theirs);
    let pids = (ours.daemon(), theirs.daemon());
    let ledger = Mutex::new(Ledger::default());
    let seed = number(SEED, 1);
    let until = Instant::now() + Duration::from_secs(number(SECONDS, WORK));
    let worker = |world, who, seed| Worker {
        world,
        who,
        dice: Dice::new(seed),
        count: 0,
        ledger: &ledger,
        files: BTreeMap::new(),
        folders: Vec::new(),
        gone: BTreeSet::new(),
        log: Vec::new(),
    };
    let mut workers = [worker(&ours, 'a', seed), worker(&theirs, 'b', seed + 1_000_000)];
    thread::scope(|scope| workers.iter_mut().for_each(|worker| drop(scope.spawn(|| worker.work(until)))));

    ours.ok(&["flush"]);
    theirs.ok(&["flush"]);
    let found = agreed(&ours, &theirs);
    assert_eq!((ours.daemon(), theirs.daemon()), pids);

    let mut wrong = Vec::new();
    let last = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let all: BTreeSet<String> = found.keys().map(|path| last(path)).collect();
    for worker in &workers {
        let about = |name: &str| worker.about(name);
        for (name, file) in &worker.files {
            match found.get(&file.path) {
                Some(node) if node.content.as_ref() == Some(&file.content) && node.mode & 0o7777 == file.mode => {}
                Some(node) => wrong.push(format!(
                    "{} is {:o} {:?}, not {:o} {:?} ({})",
                    file.path.display(),
                    node.mode,
                    node.content.as_ref().map(|c| mark(c)),
                    file.mode,
                    mark(&file.content),
                    about(name)
                )),
                None => wrong.push(format!("{} is missing ({})", file.path.display(), about(name))),
            }
        }
        for world in [&ours, &theirs] {
            let mut files: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
            for own in worker.files.values() {
                let ino = fs::metadata(world.at(&own.path)).map_or(0, |meta| meta.ino());
                let (first, names) = files.entry(own.file).or_insert((ino, 0));
                *names += 1;
                if *first != ino {
                    wrong.push(format!("{} is a file of its own", own.path.display()));
                }
            }
            for own in worker.files.values() {
                let (nlink, names) = (fs::metadata(world.at(&own.path)).map_or(0, |m| m.nlink()), files[&own.file].1);
                // The other machine does not know that a file which had two names has one left.
                let may_be_two = !std::ptr::eq(world, worker.world) && names == 1 && nlink == 2;
                if nlink != names && !may_be_two {
                    wrong.push(format!("{} has {nlink} links instead of {names}", own.path.display()));
                }
            }
        }
        for name in worker.gone.intersection(&all) {
            wrong.push(format!("{name} is there again ({})", about(name)));
        }
        // Nobody else writes under the names of one.
        let of_own = |name: &&String| name.starts_with(&format!("{}-", worker.who)) && name.contains("conflict");
        wrong.extend(all.iter().filter(of_own).map(|name| {
            let stem = name.split(' ').next().unwrap_or(name);
            format!("{name}: a conflict with nobody ({})", about(stem))
        }));
    }
    let ledger = ledger.lock().unwrap();
    let contents: HashSet<Mark> = found.values().filter_map(|node| node.content.as_deref().map(mark)).collect();
    for (content, what) in &ledger.acknowledged {
        if !ledger.superseded.contains(content) && !contents.contains(content) {
            wrong.push(format!("{content:?} is lost: {what}"));
        }
    }
    let copies = all.iter().filter(|name| name.contains("(conflict ")).count();
    let steps: usize = workers.iter().map(|worker| worker.log.len()).sum();
    println!("{steps} steps, {} entries, {copies} conflict copies", found.len());
    let told = [conflicts(&ours), conflicts(&theirs)];
    let is_told = |name: &&String| told.iter().flatten().any(|(_, kept_as)| kept_as.as_ref() == Some(*name));
    let untold: Vec<_> = all.iter().filter(|name| name.contains("(conflict ") && !is_told(name)).collect();
    // Only the latest are told.
    assert!(untold.is_empty() || told.iter().any(|told| told.len() >= TOLD), "{untold:?}, not in {told:?}");
    if !wrong.is_empty() {
        for worker in &workers {
            let log = worker.log.iter().filter(|line| line.starts_with("shared"));
            log.for_each(|line| println!("{} {line}", worker.who));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    ours.unmount();
    theirs.unmount();
}
