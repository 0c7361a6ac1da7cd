//! The engine between the file system and the grid: what names stand for now, and how that gets published.
//!
//! The file system submits changes; they show at once in [`Writeback::find`] and [`Writeback::list`], which lay what is
//! pending over the last table seen. Later, or when somebody waits, files are uploaded, and each directory gets *one*
//! publish for all that gathered there. Two orders are kept: a child exists on the grid before its edge, and across
//! directories the new link is published before the old one goes.
//!
//! Whatever is pending has its records in the journal before the call that made it is answered, and until the grid has
//! it and has passed its barrier.

mod circles;
mod conflict;
mod due;
mod ephemeral;
mod file;
mod kept;
mod links;
mod load;
mod merge;
mod news;
mod part;
mod publish;
mod queue;
mod reach;
mod restore;
mod spares;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cap::{Cap, StorageIndex};
use crate::crypto::Hash;
use crate::crypto::hash::sha256d;
use crate::journal::{Journal, JournalError, Spare};
use crate::node::{Attributes, Child, Directory, Expect, Metadata, Name, NodeError, NodeFactory, Table, Timestamp};
use crate::util::{Clock, Cx, Priority};

pub use conflict::Conflict;
pub use ephemeral::Ephemeral;
pub use file::{FileObject, Times};
pub use kept::{CRASH_POINTS, Kept};
pub use links::{LinkChange, Links, is_same};
pub use news::{Changed, LASTING, News};
pub use part::Part;
pub use queue::{Failure, QueueStatus, Scope, Standing};

use kept::{Key, Retired, Unkept};
use spares::Spares;

/// Renames that wait for each other are looked at so far.
const LONGEST_CHAIN: usize = 10_000;

/// A directory, on the grid or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirId(u64);

#[cfg(test)]
impl DirId {
    pub(crate) fn of_test(number: u64) -> DirId {
        DirId(number)
    }
}

/// What a name stands for.
#[derive(Clone)]
pub enum Target {
    /// Something on the grid.
    Stored(Cap),
    /// A file whose content is, or was, staged here.
    File(Arc<FileObject>),
    /// A directory that somebody has opened or made here.
    Directory(DirId),
}

/// What stands under a name, pending changes included.
#[derive(Clone)]
pub struct Entry {
    /// What it is.
    pub target: Target,
    /// Its POSIX attributes.
    pub attributes: Attributes,
    /// The metadata that the attributes will be written into: keys of others stay.
    pub metadata: Metadata,
    /// What stood on the grid under the name when the entry was looked at.
    pub seen: Seen,
}

/// What stood on the grid under a name, and when that was seen: a different cap there later is another's change, or
/// one that this mount has published since.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    cap: Option<Cap>,
    /// In changes submitted.
    at: u64,
}

impl Entry {
    fn of(name: &str, child: &Child, at: u64) -> Entry {
        Entry {
            target: Target::Stored(child.cap.clone()),
            attributes: Attributes::of(name, child),
            metadata: child.metadata.clone(),
            seen: Seen { cap: Some(child.cap.clone()), at },
        }
    }
}

/// A change to the tree, as the file system submits it.
pub enum Change {
    /// Puts an entry under a name, replacing what was there.
    Put {
        /// The directory.
        dir: DirId,
        /// The name in it.
        name: Name,
        /// What it is to stand for.
        entry: Entry,
        /// How much of a change it is.
        weight: Weight,
    },
    /// Removes a name.
    Remove {
        /// The directory.
        dir: DirId,
        /// The name in it.
        name: Name,
    },
    /// Moves an entry, replacing what was under the new name.
    Rename {
        /// Where it was.
        from: (DirId, Name),
        /// Where it goes.
        to: (DirId, Name),
        /// The entry, with the attributes it has now.
        entry: Entry,
    },
    /// The state of a file that has, or had, more than one name: put under all that are known.
    Spread {
        /// Its birth id.
        id: String,
        /// A name that it has in any case.
        place: Option<(DirId, Name)>,
        /// What they are to stand for.
        entry: Entry,
        /// How much of a change it is.
        weight: Weight,
    },
    /// A file gets a further name, or loses one.
    Links {
        /// Its birth id.
        id: String,
        /// What happens.
        change: LinkChange,
        /// When.
        at: Option<Timestamp>,
    },
    /// Forgets what is pending inside a directory that has been removed before it was ever published. One that is or may
    /// be on the grid may have other names, under which its changes count.
    Discard {
        /// The directory.
        dir: DirId,
    },
}

/// How much of a change a [`Change::Put`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// One like any other.
    Full,
    /// The times of a directory have changed with the names in it. That alone is no reason to publish: it rides along with
    /// the next change, or with a flush of everything. It may come into the journal later, with [`Writeback::catch_up`].
    RidesAlong,
    /// A content has changed, and with it nothing but times: where the name stands for this content already, these times
    /// may come into the journal later too.
    Times,
}

/// How long the engine waits, and for what.
#[derive(Clone, Debug)]
pub struct WritebackOptions {
    /// What nobody waits for is published once its directory has been left alone for this long.
    pub idle: Duration,
    /// What was answered survives power loss once this long has passed.
    pub commit: Duration,
    /// How old a table may be before the grid is asked for a newer one.
    pub refresh: Duration,
    /// A wait on the grid fails once no byte was acknowledged for this long.
    pub patience: Duration,
    /// Bytes of memory that uploads may use together.
    pub memory: u64,
    /// New files of these names wait until somebody asks for them.
    pub ephemeral: Ephemeral,
}

impl Default for WritebackOptions {
    fn default() -> Self {
        WritebackOptions {
            idle: Duration::from_secs(2),
            commit: Duration::from_secs(5),
            refresh: Duration::from_secs(10),
            patience: Duration::from_secs(60),
            memory: 96 << 20,
            ephemeral: Ephemeral::default(),
        }
    }
}

/// The engine. One for each mounted root.
pub struct Writeback {
    factory: Arc<dyn NodeFactory>,
    journal: Journal,
    clock: Clock,
    host: String,
    options: WritebackOptions,
    base: Cx,
    state: Mutex<State>,
    unkept: Arc<Unkept>,
    spares: Spares,
    /// One at a time removes records.
    retiring: tokio::sync::Mutex<()>,
    changed: Notify,
    /// Upkeep has something to do.
    upkeep: Notify,
    /// A directory is watched.
    watching: Notify,
    /// Others of this machine have changed something.
    expired: Notify,
    /// When the grid could last not be asked, if nothing was had from it since.
    away: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    dirs: HashMap<DirId, Dir>,
    by_cap: HashMap<Hash, DirId>,
    next_seq: u64,
    /// What has changed since the journal was last told.
    touched: HashSet<Key>,
    /// What has newer times than the journal knows.
    lagging: HashSet<Key>,
    /// Directories that have a record.
    recorded: HashSet<DirId>,
    /// Directories made on the grid, whose caps are recorded after the next barrier: before it they are made anew by a
    /// replay.
    born: HashSet<DirId>,
    /// Some of what the journal held could not be used, and stays there.
    is_damaged: bool,
    /// What of that must not be forgotten.
    rescued: Vec<Arc<Spare>>,
    /// Published names, whose records go after the next barrier.
    retired: HashMap<(DirId, Name), Retired>,
    /// For a place that a rename made: the old places, whose removal waits for its publish.
    waiting_for: HashMap<(DirId, Name), Vec<(DirId, Name)>>,
    failures: Vec<(queue::Subject, Failure)>,
    /// How often [`Writeback::expire`] was called: what was asked for before is old.
    expiries: u64,
    /// When somebody was last told that what is in a directory lasts.
    watched: HashMap<DirId, Instant>,
    news: Arc<News>,
    /// The latest, oldest first.
    conflicts: VecDeque<Conflict>,
    /// The names of files that ever had two, as far as they were asked for. It is in step with the journal.
    links: HashMap<String, Links>,
    /// Those that can be read again are forgotten once there are so many.
    forget_links_at: usize,
    /// The files whose records name a directory by its local id.
    local_links: HashMap<DirId, HashSet<String>>,
    /// Mutable files whose content has changed and may not be stored, whether a name leads to them or not.
    contents: Vec<Content>,
}

/// Changed content that belongs into a mutable file.
struct Content {
    file: Arc<FileObject>,
    /// A name that it had, for messages.
    name: Name,
    /// The oldest change that may not be stored.
    first: u64,
    /// When the newest was made.
    changed: Instant,
}

/// One directory. Its invariant: what a user sees is `table` with `pending` laid over it.
struct Dir {
    node: Option<Arc<dyn Directory>>,
    cap: Option<Cap>,
    /// Under which it was made on the grid, by an earlier process maybe, before the last barrier that passed.
    unproven: Option<Cap>,
    table: Option<Arc<Table>>,
    /// The grid may have another table, and is to be asked before a publish: this one was seen by an earlier process, or
    /// nobody knows how a publish ended.
    is_doubtful: bool,
    checked: Option<Instant>,
    /// Directories in the table, and how many more there are with what is pending.
    directories: (usize, isize),
    pending: BTreeMap<Name, Pending>,
    /// What this mount has published, by name, and when.
    published_here: HashMap<Name, Seen>,
    /// The directory in which it was last put; meaningful while that edge is pending.
    home: Option<DirId>,
    /// It was made here, and no name has led others to it.
    is_new: bool,
    /// Where this mount last found it or put it; `None` once this mount has removed that name.
    parent: Option<Parent>,
    /// When something in it was last changed here.
    changed: Instant,
    publishing: Arc<tokio::sync::Mutex<()>>,
}

/// The name that led to a directory.
#[derive(Clone)]
struct Parent {
    dir: DirId,
    name: Name,
    attributes: Attributes,
    metadata: Metadata,
}

/// A directory on the grid that was removed here.
#[derive(Clone)]
struct Removed {
    cap: Cap,
    /// It had not passed the barrier.
    is_new: bool,
}

/// The wanted state of a name that differs from the published one.
struct Pending {
    wanted: Option<Entry>,
    /// The oldest and the newest change that is not published.
    first: u64,
    seq: u64,
    since: Instant,
    /// When the newest was made.
    changed: Instant,
    rides_along: bool,
    /// What stood there on the grid when the change was made.
    base: Option<Cap>,
    /// Every cap that was tried since: a publish may be applied though its answer is lost.
    tried: Vec<Cap>,
    /// What may stand there again after power loss, since publishes had not passed the barrier; and nothing, once a removal
    /// was tried.
    older: Vec<Option<Cap>>,
    /// Directories that were removed from under the name here, empty as they seemed, and that nothing is known of since.
    removed: Vec<Removed>,
    /// The new place of a renamed entry, which must be published first.
    after: Option<(DirId, Name)>,
    /// The record of the content that the record of this change names, and cannot do without.
    kept_file: Option<u64>,
}

impl Dir {
    /// Takes over a table that was seen.
    fn install(&mut self, table: Arc<Table>) {
        let published = table.entries.values().filter(|child| child.cap.is_directory()).count();
        self.table = Some(table);
        self.is_doubtful = false;
        self.checked = Some(Instant::now());
        let pending = self.pending.iter().map(|(name, pending)| self.more_directories(name, pending)).sum();
        self.directories = (published, pending);
    }

    /// Lays a change over the table.
    fn put(&mut self, name: Name, pending: Pending) {
        self.take(&name);
        self.directories.1 += self.more_directories(&name, &pending);
        self.pending.insert(name, pending);
    }

    /// Takes a change away.
    fn take(&mut self, name: &Name) -> Option<Pending> {
        let pending = self.pending.remove(name)?;
        self.directories.1 -= self.more_directories(name, &pending);
        Some(pending)
    }

    /// How many directories there are more by one change.
    fn more_directories(&self, name: &Name, pending: &Pending) -> isize {
        let before = self.table.as_ref().and_then(|table| table.entries.get(name));
        let after = pending.wanted.as_ref().is_some_and(|entry| match &entry.target {
            Target::Directory(_) => true,
            Target::Stored(cap) => cap.is_directory(),
            Target::File(_) => false,
        });
        isize::from(after) - isize::from(before.is_some_and(|child| child.cap.is_directory()))
    }
}

impl Pending {
    /// The file that is wanted under the name, where its content is, or was, staged here.
    fn file(&self) -> Option<&Arc<FileObject>> {
        match &self.wanted.as_ref()?.target {
            Target::File(file) => Some(file),
            Target::Stored(_) | Target::Directory(_) => None,
        }
    }

    /// Whether nothing ever stood under the name.
    fn never_published(&self) -> bool {
        never_published(self.base.as_ref(), &self.tried, &self.older)
    }

    /// Whether the journal knows it with the content of `entry`, and differs in times at most.
    fn is_kept_as(&self, entry: &Entry) -> bool {
        let (Some(wanted), Some(file)) = (&self.wanted, self.file()) else { return false };
        let same_file = matches!(&entry.target, Target::File(other) if Arc::ptr_eq(file, other));
        let (mtime, ctime) = (wanted.attributes.mtime, wanted.attributes.ctime);
        same_file
            && (file.is_mutable() || self.kept_file.is_some() && self.kept_file == file.record())
            && wanted.attributes == Attributes { mtime, ctime, ..entry.attributes.clone() }
    }

    /// What the name may hold when `new` is published under it. `new` itself is among that: a publish that is made again,
    /// because another writer came between, may find what it has written, in a version that was built on it.
    fn expect(&self, dir: DirId, new: Option<&Cap>) -> Expect {
        let tried = self.tried.iter().chain(new).cloned().map(Some);
        let allowed = std::iter::once(self.base.clone()).chain(tried).chain(self.older.iter().cloned()).collect();
        match &self.after {
            Some((to, at)) if *to == dir => Expect::Moved { to: Arc::clone(at), allowed },
            _ => Expect::OneOf(allowed),
        }
    }
}

fn never_published(base: Option<&Cap>, tried: &[Cap], older: &[Option<Cap>]) -> bool {
    base.is_none() && tried.is_empty() && older.iter().all(Option::is_none)
}

impl Writeback {
    /// An engine that publishes through `factory` and keeps in `journal` what is not published. `host` names this
    /// machine in conflict names. Nothing is published in the background until [`Writeback::run`] is polled.
    pub fn new(
        factory: Arc<dyn NodeFactory>,
        journal: Journal,
        clock: Clock,
        host: String,
        options: WritebackOptions,
    ) -> Arc<Writeback> {
        let base = Cx::new(Priority::Background, options.memory).with_patience(options.patience);
        Arc::new(Writeback {
            factory,
            journal,
            clock,
            host,
            options,
            base,
            state: Mutex::default(),
            unkept: Arc::default(),
            spares: Spares::default(),
            retiring: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            upkeep: Notify::new(),
            watching: Notify::new(),
            expired: Notify::new(),
            away: Mutex::default(),
        })
    }

    /// The journal, for contents that are about to be staged.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Something is to be stored, published or kept.
    fn wake(&self) {
        self.changed.notify_one();
        self.upkeep.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The directory behind `cap`. The same cap always gives the same directory.
    pub fn directory(&self, cap: &Cap) -> Result<DirId, NodeError> {
        let key = cap_key(cap);
        if let Some(id) = self.state().by_cap.get(&key) {
            return Ok(*id);
        }
        let node = self.factory.directory(cap)?;
        let mut state = self.state();
        if let Some(id) = state.by_cap.get(&key) {
            return Ok(*id);
        }
        let id = state.add(DirId(self.journal.next_id()), Some(node), Some(cap.clone()));
        state.by_cap.insert(key, id);
        Ok(id)
    }

    /// A new, empty directory, which has no cap before its first publish.
    pub fn new_directory(&self) -> DirId {
        let mut state = self.state();
        let id = state.add(DirId(self.journal.next_id()), None, None);
        if let Some(dir) = state.dirs.get_mut(&id) {
            dir.table = Some(Arc::default());
            dir.is_new = true;
        }
        id
    }

    /// Whether changes to `dir` can be published.
    pub fn is_writeable(&self, dir: DirId) -> bool {
        self.state().dirs.get(&dir).is_some_and(|d| d.node.as_ref().is_none_or(|n| n.is_writeable()))
    }

    /// The cap of `dir`, once it is on the grid.
    pub fn cap(&self, dir: DirId) -> Option<Cap> {
        self.state().dirs.get(&dir)?.cap.clone()
    }

    /// Where the shares of `dir` are, once it is on the grid.
    pub fn storage_index(&self, dir: DirId) -> Option<StorageIndex> {
        self.state().dirs.get(&dir)?.cap.as_ref()?.storage_index()
    }

    /// Has every directory loaded again before it is next shown.
    pub fn expire(&self) {
        let mut state = self.state();
        state.expiries += 1;
        state.dirs.values_mut().for_each(|dir| dir.checked = None);
        drop(state);
        self.expired.notify_one();
    }

    /// What stands under `name`. The directory must have been loaded, else nothing but pending changes is seen.
    pub fn find(&self, dir: DirId, name: &str) -> Option<Entry> {
        self.state().find(dir, name)
    }

    /// All entries in code point order. As [`Writeback::find`], of a loaded directory.
    pub fn list(&self, dir: DirId) -> Vec<(Name, Entry)> {
        let state = self.state();
        let at = state.next_seq;
        let Some(d) = state.dirs.get(&dir) else { return Vec::new() };
        let published = d.table.iter().flat_map(|t| &t.entries).filter(|(name, _)| !d.pending.contains_key(*name));
        let mut all: Vec<_> = published.map(|(name, child)| (Arc::clone(name), Entry::of(name, child, at))).collect();
        all.extend(d.pending.iter().filter_map(|(name, p)| Some((Arc::clone(name), p.wanted.clone()?))));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Whether `dir` has no entries.
    pub fn is_empty(&self, dir: DirId) -> bool {
        let state = self.state();
        let Some(d) = state.dirs.get(&dir) else { return true };
        let published = d.table.iter().flat_map(|t| t.entries.keys()).any(|name| !d.pending.contains_key(name));
        !published && !d.pending.values().any(|p| p.wanted.is_some())
    }

    /// How many of the entries are directories; `None` before the directory is loaded.
    pub fn count_directories(&self, dir: DirId) -> Option<u32> {
        let state = self.state();
        let d = state.dirs.get(&dir)?;
        d.table.as_ref()?;
        u32::try_from(d.directories.0.checked_add_signed(d.directories.1)?).ok()
    }

    /// Makes changes, together. They show at once; they are published when their directories have been left alone, or
    /// when somebody waits for them. They survive the end of the process once [`Kept::done`] has returned.
    pub fn submit(&self, changes: Vec<Change>) -> Kept {
        for change in &changes {
            if let Change::Spread { id, .. } | Change::Links { id, .. } = change {
                self.hold_links(id);
            }
        }
        let mut state = self.state();
        for change in changes {
            state.change(change);
        }
        let kept = self.keep(&mut state);
        drop(state);
        self.wake();
        kept
    }

    /// Tells the journal all times that it does not know yet.
    pub fn catch_up(&self) -> Kept {
        let mut state = self.state();
        let lagging = std::mem::take(&mut state.lagging);
        state.touched.extend(lagging);
        self.keep(&mut state)
    }

    /// Has the journal hold all that is left, so that it survives power loss: the last thing of a mount.
    pub async fn leave(&self) -> Result<(), JournalError> {
        self.catch_up().done().await?;
        self.journal.barrier().await
    }

    /// The content of a mutable file has changed. It will be stored even if its name is gone by then: others may have
    /// its cap.
    pub fn content_changed(&self, file: &Arc<FileObject>, name: &Name) {
        {
            let mut state = self.state();
            state.next_seq += 1;
            let first = state.next_seq;
            match state.contents.iter_mut().find(|content| Arc::ptr_eq(&content.file, file)) {
                Some(content) => content.changed = Instant::now(),
                None => {
                    let (file, name) = (Arc::clone(file), Arc::clone(name));
                    state.contents.push(Content { file, name, first, changed: Instant::now() });
                }
            }
        }
        self.wake();
    }
}

/// What stands for a directory's cap in [`State::by_cap`].
fn cap_key(cap: &Cap) -> Hash {
    sha256d(cap.to_uri().as_bytes())
}

impl State {
    fn change(&mut self, change: Change) {
        match change {
            Change::Put { dir, name, entry, weight } => {
                let key = Key::Edge(dir, Arc::clone(&name));
                let before = self.dirs.get(&dir).and_then(|d| d.pending.get(&name));
                let may_lag = match weight {
                    Weight::Full => false,
                    Weight::RidesAlong => true,
                    Weight::Times => before.is_some_and(|p| p.is_kept_as(&entry)),
                };
                let lags = may_lag && !self.touched.contains(&key);
                let base = entry.seen.clone();
                self.want(dir, name, Some(entry), base, weight == Weight::RidesAlong, None);
                if lags {
                    self.touched.remove(&key);
                    self.lagging.insert(key);
                }
            }
            Change::Remove { dir, name } => {
                let base = self.published(dir, &name);
                let removed = self.leaves(dir, &name);
                self.want(dir, Arc::clone(&name), None, base, false, None);
                self.note_removed(dir, &name, removed);
            }
            Change::Rename { from, to, entry } => {
                let (was_from, was_to) = (self.published(from.0, &from.1), self.published(to.0, &to.1));
                let removed = if from == to { None } else { self.leaves(to.0, &to.1) };
                self.want(to.0, Arc::clone(&to.1), Some(entry), was_to, false, None);
                self.note_removed(to.0, &to.1, removed);
                if from != to {
                    self.moved(&from, &to);
                    self.want(from.0, from.1, None, was_from, false, Some(to));
                }
            }
            Change::Spread { id, place, entry, weight } => self.spread(&id, place, &entry, weight),
            Change::Links { id, change, at } => self.change_links(id, change, at),
            Change::Discard { dir } => {
                if self.dirs.get(&dir).is_some_and(|d| d.unproven.is_none()) {
                    self.discard(dir);
                }
            }
        }
    }

    /// Forgets what is pending in a directory that is not on the grid.
    fn discard(&mut self, dir: DirId) {
        if let Some(d) = self.dirs.get_mut(&dir).filter(|d| d.cap.is_none()) {
            d.directories.1 = 0;
            let names = std::mem::take(&mut d.pending).into_keys();
            self.touched.extend(names.map(|name| Key::Edge(dir, name)));
        }
    }

    fn add(&mut self, id: DirId, node: Option<Arc<dyn Directory>>, cap: Option<Cap>) -> DirId {
        let dir = Dir {
            node,
            cap,
            unproven: None,
            table: None,
            is_doubtful: false,
            checked: None,
            directories: (0, 0),
            pending: BTreeMap::new(),
            published_here: HashMap::new(),
            home: None,
            is_new: false,
            parent: None,
            changed: Instant::now(),
            publishing: Arc::default(),
        };
        self.dirs.insert(id, dir);
        id
    }

    fn find(&self, dir: DirId, name: &str) -> Option<Entry> {
        let (dir, at) = (self.dirs.get(&dir)?, self.next_seq);
        match dir.pending.get(name) {
            Some(pending) => pending.wanted.clone(),
            None => dir.table.as_ref()?.entries.get(name).map(|child| Entry::of(name, child, at)),
        }
    }

    /// Records the wanted state of a name. A name that is wanted as it is published needs nothing, so creating and
    /// removing cancel out. `base` is what the change was made from.
    fn want(
        &mut self,
        dir_id: DirId,
        name: Name,
        wanted: Option<Entry>,
        base: Seen,
        rides_along: bool,
        after: Option<(DirId, Name)>,
    ) {
        self.next_seq += 1;
        let seq = self.next_seq;
        match wanted.as_ref().map(|e| &e.target) {
            Some(Target::Directory(child)) => {
                if let Some(d) = self.dirs.get_mut(child).filter(|d| d.home != Some(dir_id)) {
                    d.home = Some(dir_id);
                    self.touched.insert(Key::Dir(*child));
                }
                if let Some(entry) = &wanted {
                    self.led_to(*child, dir_id, &name, entry);
                }
            }
            Some(Target::File(file)) => file.set_home(dir_id),
            _ => {}
        }
        let Some(dir) = self.dirs.get_mut(&dir_id) else { return };
        let changed = Instant::now();
        if !rides_along {
            dir.changed = changed;
        }
        self.touched.insert(Key::Edge(dir_id, Arc::clone(&name)));
        let old = dir.take(&name);
        let (first, since) = old.as_ref().map_or_else(|| (seq, changed), |p| (p.first, p.since));
        let rides_along = rides_along && old.as_ref().is_none_or(|p| p.rides_along);
        let kept_file = old.as_ref().and_then(|p| p.kept_file);
        let removed = old.as_ref().map_or_else(Vec::new, |p| p.removed.clone());
        let place = (dir_id, Arc::clone(&name));
        let (base, tried, older, waited_for) = match old {
            Some(p) => (p.base, p.tried, p.older, p.after),
            None => {
                let ours = dir.published_here.get(&name).filter(|ours| ours.at > base.at);
                let older = self.retired.get(&place).map_or_else(Vec::new, |retired| retired.older.clone());
                (ours.cloned().unwrap_or(base).cap, Vec::new(), older, None)
            }
        };
        let never_published = never_published(base.as_ref(), &tried, &older);
        if wanted.is_none() && never_published {
            // They were renamed to here.
            removed.into_iter().for_each(|removed| self.note_removed(dir_id, &name, Some(removed)));
            return;
        }
        let after = after.or(waited_for).filter(|to| !never_published && !self.waits_for(to, &place));
        if let Some(to) = &after {
            let waiting = self.waiting_for.entry(to.clone()).or_default();
            if !waiting.contains(&place) {
                waiting.push(place);
            }
        }
        let pending =
            Pending { wanted, first, seq, since, changed, rides_along, base, tried, older, removed, after, kept_file };
        self.dirs.get_mut(&dir_id).expect("the directory was just there").put(name, pending);
    }

    /// Whether `from` waits, through however many others, for `place`. Names that were swapped across directories
    /// would wait for each other; the one that closes the circle does not wait.
    fn waits_for(&self, from: &(DirId, Name), place: &(DirId, Name)) -> bool {
        let next = |at: &(DirId, Name)| self.dirs.get(&at.0)?.pending.get(&at.1)?.after.clone();
        std::iter::successors(Some(from.clone()), next).take(LONGEST_CHAIN).any(|at| at == *place)
    }

    /// What is published under a name, as far as is known.
    fn published(&self, dir: DirId, name: &str) -> Seen {
        let table = self.dirs.get(&dir).and_then(|d| d.table.as_ref());
        let cap = table.and_then(|t| t.entries.get(name)).map(|child| child.cap.clone());
        Seen { cap, at: self.next_seq }
    }

    /// An entry whose publish others wait for has moved on: they wait for its new place, unless that waits for them.
    fn moved(&mut self, from: &(DirId, Name), to: &(DirId, Name)) {
        let Some(waiting) = self.waiting_for.remove(from) else { return };
        for place in waiting {
            let after = (!self.waits_for(to, &place)).then(|| to.clone());
            if let Some(pending) = self.dirs.get_mut(&place.0).and_then(|d| d.pending.get_mut(&place.1))
                && pending.after.as_ref() == Some(from)
            {
                pending.after = after.clone();
                self.touched.insert(Key::Edge(place.0, Arc::clone(&place.1)));
                if after.is_some() {
                    self.waiting_for.entry(to.clone()).or_default().push(place);
                }
            }
        }
    }
}
