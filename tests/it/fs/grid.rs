//! A grid of nodes in memory: what the file system sees of a real one, with faults on demand.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tahoefs::cap::{Cap, FileCap, LitCap, StorageIndex};
use tahoefs::node::*;
use tahoefs::util::Cx;

/// What [`NodeGrid`] does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refuses.
    Refuse,
    /// Does it, and says it failed.
    ApplyThenFail,
    /// Does it, and once more: another writer had built on a publish of which nobody knew how it ended.
    ApplyTwice,
}

#[derive(Clone, Default)]
struct State {
    files: HashMap<StorageIndex, Bytes>,
    dirs: HashMap<StorageIndex, Table>,
    /// Sequence number and content.
    mutables: HashMap<StorageIndex, (u64, Vec<u8>)>,
}

/// Directories and files by storage index.
#[derive(Default)]
pub struct NodeGrid {
    state: Mutex<State>,
    /// What stands when the power goes.
    synced: Mutex<State>,
    next: AtomicU64,
    faults: Mutex<Vec<Fault>>,
    publish_millis: AtomicU64,
    probe_millis: AtomicU64,
    pub publishes: AtomicUsize,
    pub probes: AtomicUsize,
    pub uploads: AtomicUsize,
    /// Files of exactly this many bytes are refused.
    pub unwanted: Mutex<Option<usize>>,
    /// See [`NodeGrid::hang_from`].
    heavy: Mutex<Option<usize>>,
    /// The barrier fails.
    pub unsynced: AtomicBool,
    /// Directories whose tables cannot be parsed.
    damaged: Mutex<Vec<StorageIndex>>,
    /// Directories that no server has just now.
    hidden: Mutex<Vec<StorageIndex>>,
    /// What is on the blacklist.
    pub refused: Mutex<Vec<Cap>>,
    /// See [`NodeGrid::hang`].
    hangs: AtomicBool,
    /// Bytes that were written into mutable files.
    pub written: AtomicUsize,
}

impl NodeGrid {
    pub fn new() -> Arc<NodeGrid> {
        Arc::default()
    }

    /// The next changes go wrong, the last of the list first.
    pub fn fail(&self, faults: &[Fault]) {
        *self.faults.lock().unwrap() = faults.to_vec();
    }

    /// Every publish takes this long from now on.
    pub fn publishes_take(&self, time: std::time::Duration) {
        self.publish_millis.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// Every look for a newer table takes this long from now on.
    pub fn probes_take(&self, time: std::time::Duration) {
        self.probe_millis.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// Uploads of `size` bytes and more never end, until this is called with `None`.
    pub fn hang_from(&self, size: Option<usize>) {
        *self.heavy.lock().unwrap() = size;
    }

    /// What is read never comes until this is called with `false`, and of directories nothing is kept.
    pub fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    async fn answer(&self) {
        tokio::task::yield_now().await;
        while self.hangs.load(Ordering::Relaxed) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// A directory can be read no more, or again.
    pub fn hide(&self, cap: &Cap, hidden: bool) {
        let si = cap.storage_index().unwrap();
        let mut all = self.hidden.lock().unwrap();
        if hidden { all.push(si) } else { all.retain(|other| *other != si) }
    }

    /// What is stored of a directory is no table.
    pub fn damage(&self, cap: &Cap) {
        self.damaged.lock().unwrap().push(cap.storage_index().unwrap());
    }

    /// No server has a directory any more.
    pub fn forget(&self, cap: &Cap) {
        self.state.lock().unwrap().dirs.remove(&cap.storage_index().unwrap());
    }

    /// Takes away all that was stored since the barrier last passed.
    pub fn lose_all(&self) {
        let synced = self.synced.lock().unwrap().clone();
        *self.state.lock().unwrap() = synced;
    }

    /// All that is there passes the barrier.
    pub fn sync(&self) {
        let now = self.state.lock().unwrap().clone();
        *self.synced.lock().unwrap() = now;
    }

    /// Takes away some of what was stored since the barrier last passed: each object is as it was then, or stays.
    pub fn lose_power(&self, seed: u64) {
        let (mut state, synced) = (self.state.lock().unwrap(), self.synced.lock().unwrap());
        let mut rng = seed;
        let mut goes = || {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            rng >> 62 != 0
        };
        let State { files, dirs, mutables } = &mut *state;
        lose(files, &synced.files, &mut goes);
        lose(dirs, &synced.dirs, &mut goes);
        lose(mutables, &synced.mutables, &mut goes);
    }

    fn check(&self, cap: &Cap) -> Result<(), NodeError> {
        if self.refused.lock().unwrap().contains(cap) { Err(NodeError::NotWriteable) } else { Ok(()) }
    }

    fn fault(&self) -> Option<Fault> {
        self.faults.lock().unwrap().pop()
    }

    /// Whether the next fault is a refusal, which then is used up: all that files and new directories know.
    fn refuses(&self) -> bool {
        self.faults.lock().unwrap().pop_if(|fault| *fault == Fault::Refuse).is_some()
    }

    /// A valid cap of a kind that nothing else has: `prefix` and two fields from a counter.
    fn fresh(&self, prefix: &str, suffix: &str) -> Cap {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&n.to_be_bytes());
        let (key, hash) = (tahoefs::util::base32::encode(&key), tahoefs::util::base32::encode(&[7; 32]));
        Cap::parse(&format!("{prefix}{key}:{hash}{suffix}")).expect("a well-formed cap")
    }

    /// A new, empty directory.
    pub fn empty_directory(&self) -> Cap {
        let cap = self.fresh("URI:DIR2:", "");
        self.state.lock().unwrap().dirs.insert(cap.storage_index().unwrap(), Table::default());
        cap
    }
}

impl NodeGrid {
    /// A mutable file, by its write cap: `SSK` or `MDMF`.
    pub fn mutable_file(&self, format: &str, content: &[u8]) -> Cap {
        let cap = self.fresh(&format!("URI:{format}:"), "");
        self.state.lock().unwrap().mutables.insert(cap.storage_index().unwrap(), (1, content.to_vec()));
        cap
    }

    /// What a mutable file holds.
    pub fn content(&self, cap: &Cap) -> Vec<u8> {
        self.state.lock().unwrap().mutables[&cap.storage_index().unwrap()].1.clone()
    }

    /// What another client does to a mutable file.
    pub fn overwrite(&self, cap: &Cap, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock().unwrap();
        let (seqnum, content) = state.mutables.get_mut(&cap.storage_index().unwrap()).unwrap();
        *seqnum += 1;
        change(content);
    }

    /// Puts `cap` under a name, as another client does.
    pub fn link(&self, dir: &Cap, name: &str, cap: &Cap) {
        let mut state = self.state.lock().unwrap();
        let child = Child { cap: cap.clone(), metadata: Metadata::default(), packed: None };
        state.dirs.get_mut(&dir.storage_index().unwrap()).unwrap().entries.insert(name.into(), child);
    }

    /// What stands under a name.
    pub fn child(&self, dir: &Cap, name: &str) -> Option<Child> {
        self.state.lock().unwrap().dirs[&dir.storage_index().unwrap()].entries.get(name).cloned()
    }
}

fn lose<T: Clone>(
    now: &mut HashMap<StorageIndex, T>,
    synced: &HashMap<StorageIndex, T>,
    goes: &mut impl FnMut() -> bool,
) {
    let mut all: Vec<_> = now.keys().copied().collect();
    all.sort();
    for si in all.into_iter().filter(|_| goes()) {
        match synced.get(&si) {
            Some(before) => drop(now.insert(si, before.clone())),
            None => drop(now.remove(&si)),
        }
    }
}

/// The handle that implements the factory: nodes keep the grid alive.
#[derive(Clone)]
pub struct Factory(pub Arc<NodeGrid>);

struct Dir {
    grid: Arc<NodeGrid>,
    si: StorageIndex,
    writeable: bool,
    cached: Mutex<Option<Arc<Table>>>,
}

struct File {
    grid: Arc<NodeGrid>,
    bytes: Bytes,
}

#[async_trait]
impl Readable for File {
    async fn size(&self, _cx: &Cx) -> Result<u64, NodeError> {
        Ok(self.bytes.len() as u64)
    }

    async fn read(&self, _cx: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        self.grid.answer().await;
        let length = self.bytes.len() as u64;
        let cut = |r: &Range<u64>| self.bytes.slice(r.start.min(length) as usize..r.end.min(length) as usize);
        Ok(ranges.iter().map(cut).collect())
    }
}

/// A mutable file, read as it is at the time.
struct MutableFile {
    grid: Arc<NodeGrid>,
    si: StorageIndex,
}

/// What a mutable file may hold at most.
pub const LONGEST: u64 = 100_000;

fn version(seqnum: u64, content: &[u8]) -> FileVersion {
    FileVersion { seqnum, root_hash: [3; 32], size: content.len() as u64 }
}

#[async_trait]
impl Readable for MutableFile {
    async fn size(&self, cx: &Cx) -> Result<u64, NodeError> {
        Ok(self.file_version(cx).await?.unwrap().size)
    }

    async fn read(&self, _cx: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        self.grid.answer().await;
        let state = self.grid.state.lock().unwrap();
        let (_, content) = &state.mutables[&self.si];
        let length = content.len() as u64;
        let cut = |r: &Range<u64>| &content[r.start.min(length) as usize..r.end.min(length) as usize];
        Ok(ranges.iter().map(|r| Bytes::copy_from_slice(cut(r))).collect())
    }

    async fn file_version(&self, _cx: &Cx) -> Result<Option<FileVersion>, NodeError> {
        self.grid.answer().await;
        let state = self.grid.state.lock().unwrap();
        let (seqnum, content) = &state.mutables[&self.si];
        Ok(Some(version(*seqnum, content)))
    }
}

#[async_trait]
impl Writeable for MutableFile {
    async fn write(&self, _cx: &Cx, _: Option<&FileVersion>, changes: &Changes) -> Result<FileVersion, NodeError> {
        tokio::task::yield_now().await;
        let mut writes = Vec::new();
        for range in changes.dirty() {
            let read = changes.source().read_at(range.start, (range.end - range.start) as usize).await;
            writes.push((range.start as usize, read.map_err(|e| NodeError::Source(e.to_string()))?));
        }
        let fault = self.grid.fault();
        if fault == Some(Fault::Refuse) {
            return Err(NodeError::NoSpace);
        }
        let mut state = self.grid.state.lock().unwrap();
        let (seqnum, content) = state.mutables.get_mut(&self.si).unwrap();
        content.resize(changes.size_after(content.len() as u64) as usize, 0);
        for (start, data) in writes {
            content[start..start + data.len()].copy_from_slice(&data);
            self.grid.written.fetch_add(data.len(), Ordering::Relaxed);
        }
        *seqnum += 1;
        match fault {
            Some(Fault::ApplyThenFail) => Err(NodeError::Uncoordinated),
            _ => Ok(version(*seqnum, content)),
        }
    }

    fn longest(&self) -> u64 {
        LONGEST
    }
}

#[async_trait]
impl Directory for Dir {
    fn storage_index(&self) -> Option<StorageIndex> {
        Some(self.si)
    }

    fn is_writeable(&self) -> bool {
        self.writeable
    }

    async fn snapshot(&self, _cx: &Cx, freshness: Freshness) -> Result<Arc<Table>, NodeError> {
        match freshness {
            Freshness::Kept if self.grid.hangs.load(Ordering::Relaxed) => {
                return Err(NodeError::NotEnoughShares { found: 0, needed: 3, all_answered: true });
            }
            Freshness::Cached if self.cached.lock().unwrap().is_some() => tokio::task::yield_now().await,
            _ => self.grid.answer().await,
        }
        let mut cached = self.cached.lock().unwrap();
        if let (Freshness::Cached, Some(table)) = (freshness, &*cached) {
            return Ok(Arc::clone(table));
        }
        if self.grid.hidden.lock().unwrap().contains(&self.si) {
            return Err(NodeError::NotEnoughShares { found: 0, needed: 3, all_answered: false });
        }
        if self.grid.damaged.lock().unwrap().contains(&self.si) {
            return Err(NodeError::Corrupt("no table".into()));
        }
        let state = self.grid.state.lock().unwrap();
        let lost = NodeError::NotEnoughShares { found: 0, needed: 3, all_answered: true };
        let table = Arc::new(state.dirs.get(&self.si).cloned().ok_or(lost)?);
        *cached = Some(Arc::clone(&table));
        Ok(table)
    }

    fn last(&self) -> Option<Arc<Table>> {
        self.cached.lock().unwrap().clone()
    }

    async fn probe(&self, _cx: &Cx, _freshness: Freshness) -> Result<bool, NodeError> {
        self.grid.probes.fetch_add(1, Ordering::Relaxed);
        let time = self.grid.probe_millis.load(Ordering::Relaxed);
        if time > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(time)).await;
        }
        if self.grid.hidden.lock().unwrap().contains(&self.si) {
            return Err(NodeError::OutOfReach);
        }
        Ok(true)
    }

    async fn modify(&self, _cx: &Cx, edits: &[Edit]) -> Result<Vec<EditOutcome>, NodeError> {
        tokio::task::yield_now().await;
        let time = self.grid.publish_millis.load(Ordering::Relaxed);
        if time > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(time)).await;
        }
        if self.grid.hidden.lock().unwrap().contains(&self.si) {
            return Err(NodeError::OutOfReach);
        }
        let fault = self.grid.fault();
        if fault == Some(Fault::Refuse) {
            return Err(NodeError::NotEnoughServers { happiness: 0, wanted: 5, reason: String::new() });
        }
        self.grid.publishes.fetch_add(1, Ordering::Relaxed);
        let outcomes = {
            let mut state = self.grid.state.lock().unwrap();
            let table = state.dirs.get_mut(&self.si).unwrap();
            let mut outcomes = Edit::in_order(edits, |edit| apply(table, edit));
            if fault == Some(Fault::ApplyTwice) {
                outcomes = Edit::in_order(edits, |edit| apply(table, edit));
            }
            *self.cached.lock().unwrap() = Some(Arc::new(table.clone()));
            outcomes
        };
        match fault {
            Some(Fault::ApplyThenFail) => Err(NodeError::Uncoordinated),
            _ => Ok(outcomes),
        }
    }
}

fn apply(table: &mut Table, edit: &Edit) -> EditOutcome {
    let (name, expect) = edit.subject();
    let found = table.entries.get(name).cloned();
    if !expect.allows(found.as_ref().map(|child| &child.cap)) {
        return EditOutcome::Conflict { found };
    }
    match edit {
        Edit::Link { cap, metadata, .. } => {
            let metadata = metadata.clone().or(found.map(|f| f.metadata)).unwrap_or_default();
            table.entries.insert(Arc::clone(name), Child { cap: cap.clone(), metadata, packed: None });
        }
        Edit::Patch { keys, .. } => {
            let Some(child) = table.entries.get_mut(name) else { return EditOutcome::Conflict { found: None } };
            for (key, value) in keys {
                match value {
                    Some(value) => drop(child.metadata.map_mut().insert(key.clone(), value.clone())),
                    None => drop(child.metadata.map_mut().shift_remove(key)),
                }
            }
        }
        Edit::Unlink { .. } => drop(table.entries.remove(name)),
    }
    EditOutcome::Applied
}

#[async_trait]
impl NodeFactory for Factory {
    fn directory(&self, cap: &Cap) -> Result<Arc<dyn Directory>, NodeError> {
        self.0.check(cap)?;
        let si = cap.storage_index().filter(|_| cap.is_directory()).ok_or(NodeError::WrongKind("a directory"))?;
        Ok(Arc::new(Dir { grid: Arc::clone(&self.0), si, writeable: !cap.is_readonly(), cached: Mutex::default() }))
    }

    fn readable(&self, cap: &Cap) -> Result<Arc<dyn Readable>, NodeError> {
        self.0.check(cap)?;
        if let Cap::File(FileCap::Lit(lit)) = cap {
            return Ok(Arc::new(File { grid: Arc::clone(&self.0), bytes: lit.data.clone().into() }));
        }
        let si = cap.storage_index().ok_or(NodeError::WrongKind("a file"))?;
        if cap.is_mutable() {
            return Ok(Arc::new(MutableFile { grid: Arc::clone(&self.0), si }));
        }
        let bytes = self.0.state.lock().unwrap().files.get(&si).cloned();
        let bytes = bytes.ok_or(NodeError::NotEnoughShares { found: 0, needed: 3, all_answered: true })?;
        Ok(Arc::new(File { grid: Arc::clone(&self.0), bytes }))
    }

    fn writeable(&self, cap: &Cap) -> Result<Arc<dyn Writeable>, NodeError> {
        let si = cap.storage_index().filter(|_| cap.is_mutable()).ok_or(NodeError::WrongKind("a mutable file"))?;
        let node = MutableFile { grid: Arc::clone(&self.0), si };
        if cap.is_readonly() { Err(NodeError::NotWriteable) } else { Ok(Arc::new(node)) }
    }

    async fn store_file(&self, _cx: &Cx, source: Arc<dyn Source>) -> Result<Cap, NodeError> {
        self.0.uploads.fetch_add(1, Ordering::Relaxed);
        let size = source.size();
        let bytes = source.read_at(0, size as usize).await.map_err(|e| NodeError::Source(e.to_string()))?;
        while self.0.heavy.lock().unwrap().is_some_and(|heavy| bytes.len() >= heavy) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        if self.0.refuses() || self.0.unwanted.lock().unwrap().is_some_and(|length| length == bytes.len()) {
            return Err(NodeError::NoSpace);
        }
        if bytes.len() <= LitCap::LONGEST {
            return Ok(Cap::File(FileCap::Lit(LitCap { data: bytes.to_vec() })));
        }
        let cap = self.0.fresh("URI:CHK:", &format!(":3:5:{size}"));
        self.0.state.lock().unwrap().files.insert(cap.storage_index().unwrap(), bytes);
        Ok(cap)
    }

    async fn create_directory(&self, _cx: &Cx, children: &[(Name, Cap, Metadata)]) -> Result<Cap, NodeError> {
        if self.0.refuses() {
            return Err(NodeError::NoSpace);
        }
        self.0.publishes.fetch_add(1, Ordering::Relaxed);
        let cap = self.0.empty_directory();
        let mut state = self.0.state.lock().unwrap();
        let table = state.dirs.get_mut(&cap.storage_index().unwrap()).unwrap();
        for (name, cap, metadata) in children {
            let child = Child { cap: cap.clone(), metadata: metadata.clone(), packed: None };
            table.entries.insert(Arc::clone(name), child);
        }
        Ok(cap)
    }

    async fn sync(&self, _cx: &Cx) -> Result<(), NodeError> {
        let now = self.0.state.lock().unwrap().clone();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        if self.0.unsynced.load(Ordering::Relaxed) {
            return Err(NodeError::NoSpace);
        }
        *self.0.synced.lock().unwrap() = now;
        Ok(())
    }

    fn space(&self) -> Space {
        Space { total: 1 << 40, free: 1 << 39 }
    }
}
