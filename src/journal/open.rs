//! The journal: opening, committing, the barrier, upkeep.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Notify;

use super::batch::Op;
use super::contents::Contents;
use super::keys::{Keys, NameHash, Place};
use super::queue::{Queue, Ticket, lock, log_of};
use super::room::Gauge;
use super::store::{Store, checkpoint};
use super::units::UnitFile;
use super::{Batch, JournalError, JournalOptions, LinkRecord, Replay, Room, Usage, load, rows, schema};
use crate::crypto::JournalKey;
use crate::util::{Cpu, Rng, crash_point};

/// After so many commits the log is copied into the database when nobody has committed for [`QUIET`].
const COMMITS_AT_REST: u64 = 1000;
/// A log that is longer is copied into the database at the next upkeep.
const LOG_IN_USE: u64 = 64 << 20;
/// A database that is empty and longer than this is made short.
const LARGE: u64 = 4 << 20;
/// How often a barrier syncs contents that are written on meanwhile, before writers wait for it.
const PASSES: usize = 3;
/// How long nobody has committed when it is quiet.
const QUIET: Duration = Duration::from_secs(1);

/// The journal of one mounted root. Clones share it; it is closed, and its lock given back, when the last clone and the
/// last file of it are dropped.
#[derive(Clone)]
pub struct Journal(pub(super) Arc<Shared>);

pub(super) struct Shared {
    folder: PathBuf,
    pub staging: PathBuf,
    database: PathBuf,
    pub keys: Keys,
    pub queue: Queue,
    /// Reads while others commit.
    reader: Mutex<Connection>,
    pub contents: Mutex<Contents>,
    /// The linked files that had a record when it was opened.
    linked: HashSet<NameHash>,
    /// Blocking file calls of reads and writes.
    pub disk: Cpu,
    /// Staging files with bytes that may not survive power loss.
    dirty: Mutex<HashMap<u64, Arc<UnitFile>>>,
    /// A staging file was made since the folder was last synced.
    named: AtomicBool,
    /// Barriers begun. What was committed before one began may survive power loss, so it must not be lost any more.
    pub barriers: AtomicU64,
    syncing: Arc<tokio::sync::Mutex<()>>,
    /// Barriers asked for, and those of them that are done.
    asked: AtomicU64,
    served: AtomicU64,
    next_id: AtomicU64,
    /// Records of files whose content is not needed any more.
    forgotten: Mutex<Vec<u64>>,
    forgot: Notify,
    options: JournalOptions,
    gauge: Mutex<Gauge>,
    staged_bytes: AtomicI64,
    /// Dropped last: who gets the lock finds the database closed.
    _lock: File,
}

/// A batch on its way into the journal; see [`Journal::enqueue`]. Dropping it does not take the batch back.
#[must_use = "the batch may have failed"]
pub struct Commit {
    shared: Arc<Shared>,
    ticket: Ticket,
}

impl Journal {
    /// Opens the journal in `folder`, which is made, mode 0700, if it is not there, and reads all it holds.
    ///
    /// # Errors
    /// [`JournalError::Locked`] while another process has it open; [`JournalError::WrongKey`],
    /// [`JournalError::Version`] and [`JournalError::Damaged`] when it cannot be read at all. Damage to single records
    /// is no error: [`Replay::damaged`] counts it.
    pub fn open(folder: &Path, key: &JournalKey, options: JournalOptions) -> Result<(Journal, Replay), JournalError> {
        let staging = folder.join("staging");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&staging);
        made.and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)))
            .map_err(JournalError::io(folder))?;
        let mut mark = Mark::lock(folder)?;

        let database = folder.join("journal.db");
        let err = JournalError::store(&database);
        let keys = Keys::new(key, Rng::os());
        let conn = schema::open(&database, &keys, mark.is_set)?;
        mark.set()?;
        if schema::is_foreign(&conn, &keys) {
            return Err(JournalError::WrongKey(database));
        }
        let linked = load::linked(&conn).map_err(&err)?;
        let (replay, contents) = load::load(&conn, &keys, &staging);
        let found = staging_files(&staging).map_err(JournalError::io(&staging))?;
        let highest = found.keys().copied().max().unwrap_or(0);
        // Synced, so that what the records say survives before files go that no record names.
        let next_id = schema::reserve_ids(&conn, highest).map_err(&err)?;
        if replay.damaged == 0 {
            let wanted: HashSet<u64> = replay.files.iter().filter_map(|f| f.body.staging).collect();
            for number in found.keys().filter(|number| !wanted.contains(number)) {
                let path = staging.join(number.to_string());
                fs::remove_file(&path).map_err(JournalError::io(&path))?;
            }
        }
        let taken = staging_files(&staging).map_err(JournalError::io(&staging))?;
        let shared = Shared {
            folder: folder.to_owned(),
            staging,
            reader: Mutex::new(schema::connect(&database)?),
            queue: Queue::new(Store::new(conn, &database, contents), &database)?,
            database,
            keys,
            contents: Mutex::new(Contents::new()),
            linked,
            disk: Cpu::with_slots(8),
            dirty: Mutex::default(),
            named: AtomicBool::new(true),
            barriers: AtomicU64::new(1),
            syncing: Arc::default(),
            asked: AtomicU64::new(0),
            served: AtomicU64::new(0),
            next_id: AtomicU64::new(next_id),
            forgotten: Mutex::default(),
            forgot: Notify::new(),
            options,
            gauge: Mutex::default(),
            staged_bytes: AtomicI64::new(taken.values().sum::<u64>() as i64),
            _lock: mark.file,
        };
        Ok((Journal(Arc::new(shared)), replay))
    }

    /// An id that this journal has never given out, and never will again: for directories and files alike.
    pub fn next_id(&self) -> u64 {
        self.0.next_id()
    }

    /// The names of a linked file as they were when the journal was opened, or as they are now.
    pub fn link(&self, id: &str) -> Option<LinkRecord> {
        let shared = &self.0;
        if shared.linked.is_empty() {
            return None;
        }
        let hash = shared.keys.link(id);
        let body = shared.linked.contains(&hash).then(|| load::link(&lock(&shared.reader), &hash).ok()?)??;
        shared.keys.open(Place::Link(hash), &body).and_then(|json| LinkRecord::read(&json))
    }

    /// The files of which nobody needs the content any more, whose records are to be removed; each once.
    pub fn take_forgotten(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.0.forgotten))
    }

    /// Hands a file to [`Journal::take_forgotten`] once more.
    pub fn forget(&self, file: u64) {
        self.0.forget(file);
    }

    /// Puts a batch in line: it is committed after all that were put there before. The order of calls is the order in
    /// which they come to pass; a lock that guards it may be given up before the batch is committed.
    pub fn enqueue(&self, batch: Batch) -> Commit {
        let ops = batch.seal(&self.0.keys);
        Commit { ticket: self.0.queue.push(ops), shared: Arc::clone(&self.0) }
    }

    /// Commits a batch as a whole. It survives the end of the process once this returns, and power loss once a
    /// [`Journal::barrier`] that began later has returned. After an error nothing of it is there.
    pub async fn commit(&self, batch: Batch) -> Result<(), JournalError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.enqueue(batch).done().await
    }

    /// Waits until all that was answered before survives power loss: records and contents. Callers that come while
    /// one syncs share the next.
    pub async fn barrier(&self) -> Result<(), JournalError> {
        let shared = Arc::clone(&self.0);
        let mine = shared.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let one = Arc::clone(&shared.syncing).lock_owned().await;
        if shared.served.load(Ordering::Acquire) >= mine {
            return Ok(());
        }
        let sync = move || {
            let _one = one;
            let upto = shared.asked.load(Ordering::Acquire);
            shared.sync().inspect(|()| shared.served.store(upto, Ordering::Release))
        };
        blocking(sync).await
    }

    /// Whether `bytes` more of content fit into the limits. Cheap: the disk is measured now and then.
    pub fn room(&self, bytes: u64) -> Room {
        let shared = &self.0;
        lock(&shared.gauge).room(&shared.folder, &shared.options, shared.used(), bytes)
    }

    /// Empties the log, and gives the disk back what the database takes if it is empty: at the end of a mount, whose
    /// clones may live on until the process ends.
    pub async fn finish(&self) -> Result<(), JournalError> {
        self.barrier().await?;
        let shared = Arc::clone(&self.0);
        let work = move || {
            let _reader = lock(&shared.reader);
            shared.queue.store().finish()
        };
        blocking(work).await
    }

    /// What the journal holds, staging files as they were last measured.
    pub fn usage(&self) -> Usage {
        Usage { bytes: self.0.used(), limit: self.0.options.limit }
    }

    /// Whether upkeep has nothing to do, now or a little later, as long as nothing is committed or forgotten.
    pub fn is_at_rest(&self) -> bool {
        let shared = &self.0;
        let is_copied = shared.queue.store().uncopied() < COMMITS_AT_REST;
        is_copied && lock(&shared.forgotten).is_empty() && shared.database_length() <= LARGE
    }

    /// Waits until a file is forgotten; one that already was may count.
    pub async fn forgets(&self) {
        self.0.forgot.notified().await;
    }

    /// Upkeep, to be called every second or so: copies the log into the database when it has become long or nobody
    /// commits, measures the staging files, and gives back the space of a database that is empty.
    pub async fn maintain(&self) -> Result<(), JournalError> {
        let shared = Arc::clone(&self.0);
        if blocking(move || shared.measure()).await? {
            // The copy is synced: the contents that its records name come first.
            self.barrier().await?;
            let shared = Arc::clone(&self.0);
            blocking(move || shared.checkpoint()).await?;
        }
        let shared = Arc::clone(&self.0);
        blocking(move || shared.shrink()).await
    }
}

impl Commit {
    /// Waits until the batch is committed.
    pub async fn done(self) -> Result<(), JournalError> {
        match self.shared.queue.try_wait(&self.ticket) {
            Some(result) => result,
            None => {
                let disk = self.shared.disk.clone();
                disk.run(move || self.wait()).await
            }
        }
    }

    /// As [`Commit::done`], blocking the thread.
    pub fn wait(self) -> Result<(), JournalError> {
        self.shared.queue.wait(&self.ticket)
    }
}

impl Shared {
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Nobody needs the content of this file any more.
    pub fn forget(&self, file: u64) {
        lock(&self.forgotten).push(file);
        self.forgot.notify_one();
    }

    /// Commits changes. Blocks.
    pub fn commit(&self, ops: Vec<Op>) -> io::Result<()> {
        let ticket = self.queue.push(ops);
        self.queue.wait(&ticket).map_err(io::Error::from)
    }

    /// The content of a file that stands in rows. Blocks.
    pub fn content(&self, id: u64) -> io::Result<Arc<Vec<u8>>> {
        if let Some(content) = lock(&self.contents).get(id) {
            return Ok(content);
        }
        let damaged = |why: String| JournalError::Damaged { path: self.database.clone(), why };
        let content = rows::read(&lock(&self.reader), &self.keys, id).map_err(|e| damaged(e.to_string()))?;
        let content = content.ok_or_else(|| damaged(format!("the content of file {id} does not verify")))?;
        Ok(Arc::new(content))
    }

    /// A new staging file. Blocks.
    pub fn create_staging(&self) -> io::Result<UnitFile> {
        let number = self.next_id();
        let file = UnitFile::create(&self.staging, number, self.keys.staging(number))?;
        self.named.store(true, Ordering::Release);
        Ok(file)
    }

    /// Notes that `file` has been written to, after it was.
    pub fn dirtied(&self, file: &Arc<UnitFile>) {
        self.staged_bytes.fetch_add(file.grown(), Ordering::Relaxed);
        lock(&self.dirty).insert(file.number, Arc::clone(file));
    }

    /// The names of all staging files survive power loss once this returns.
    pub fn sync_names(&self) -> io::Result<()> {
        if self.named.swap(false, Ordering::AcqRel)
            && let Err(error) = File::open(&self.staging).and_then(|folder| folder.sync_all())
        {
            self.named.store(true, Ordering::Release);
            return Err(error);
        }
        Ok(())
    }

    /// The barrier. A file that could not be synced stays in the way of all later ones as long as a record names it.
    fn sync(&self) -> Result<(), JournalError> {
        self.barriers.fetch_add(1, Ordering::AcqRel);
        // Most of it while others commit, the rest while they wait.
        for _ in 0..PASSES {
            let doomed = self.queue.store().doomed().to_vec();
            if self.sync_contents(&doomed)? == 0 {
                break;
            }
        }
        crash_point("journal.barrier.data");
        let doomed = self.queue.sync(|doomed| self.sync_contents(doomed).map(drop))?;
        crash_point("journal.barrier.synced");
        for number in doomed {
            let path = self.staging.join(number.to_string());
            let bytes = fs::metadata(&path).map_or(0, |m| m.blocks() * 512);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "a staging file that is not needed stays until the next start");
            }
            self.staged_bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
            crash_point("journal.barrier.unlinked");
        }
        Ok(())
    }

    /// Contents written so far survive power loss once this returns, but for the staging files that are `doomed`.
    /// Returns how many had been written to.
    fn sync_contents(&self, doomed: &[u64]) -> Result<usize, JournalError> {
        let mut dirty: Vec<_> = std::mem::take(&mut *lock(&self.dirty)).into_values().collect();
        dirty.retain(|file| !doomed.contains(&file.number));
        for (i, file) in dirty.iter().enumerate() {
            if let Err(error) = file.sync() {
                lock(&self.dirty).extend(dirty[i..].iter().map(|file| (file.number, Arc::clone(file))));
                return Err(JournalError::io(&self.staging)(error));
            }
        }
        self.sync_names().map_err(JournalError::io(&self.staging))?;
        Ok(dirty.len())
    }

    /// Bytes that contents take.
    fn used(&self) -> u64 {
        self.queue.inline_bytes() + self.staged_bytes.load(Ordering::Relaxed).max(0) as u64
    }

    fn database_length(&self) -> u64 {
        fs::metadata(&self.database).map_or(0, |m| m.len())
    }

    /// Gives the disk back what the database takes, once it is empty and nobody commits.
    fn shrink(&self) -> Result<(), JournalError> {
        if self.database_length() <= LARGE {
            return Ok(());
        }
        let _reader = lock(&self.reader);
        let mut store = self.queue.store();
        if store.last_commit().elapsed() >= QUIET && store.is_empty()? { store.shrink() } else { Ok(()) }
    }

    fn measure_staging(&self) -> Result<u64, JournalError> {
        let before = self.staged_bytes.load(Ordering::Relaxed);
        let files = staging_files(&self.staging).map_err(JournalError::io(&self.staging))?;
        let bytes = files.values().sum::<u64>();
        // What grew meanwhile may count twice until the next time, and is not forgotten.
        self.staged_bytes.fetch_add(bytes as i64 - before, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Measures the staging files. Returns whether the log is to be copied into the database.
    fn measure(&self) -> Result<bool, JournalError> {
        self.measure_staging()?;
        let length = fs::metadata(log_of(&self.database)).map_or(0, |m| m.len());
        let store = self.queue.store();
        let commits = store.uncopied();
        let is_quiet = store.last_commit().elapsed() >= QUIET;
        Ok(commits > 0 && length > LOG_IN_USE || commits >= COMMITS_AT_REST && is_quiet)
    }

    fn checkpoint(&self) -> Result<(), JournalError> {
        // Most of it while others commit, the rest while they wait.
        checkpoint(&lock(&self.reader), "PASSIVE").map_err(JournalError::store(&self.database))?;
        self.queue.store().copy_log()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.flush();
    }
}

/// The lock of a folder. Once the database is made it says so, so that one that is gone is not taken for a new one.
struct Mark {
    path: PathBuf,
    file: File,
    is_set: bool,
}

impl Mark {
    fn lock(folder: &Path) -> Result<Mark, JournalError> {
        let path = folder.join("lock");
        let open = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(JournalError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(JournalError::io(&path)(error)),
        }
        let is_set = file.metadata().map_err(JournalError::io(&path))?.len() > 0;
        Ok(Mark { path, file, is_set })
    }

    fn set(&mut self) -> Result<(), JournalError> {
        if self.is_set {
            return Ok(());
        }
        let text = b"Held by the mount that drains this journal.\n";
        let folder = self.path.parent().map_or(Ok(()), |folder| File::open(folder).and_then(|f| f.sync_all()));
        let written = folder.and_then(|()| self.file.write_all(text)).and_then(|()| self.file.sync_all());
        self.is_set = true;
        written.map_err(JournalError::io(&self.path))
    }
}

/// Staging files by number, with the bytes of the disk that each takes.
fn staging_files(folder: &Path) -> io::Result<HashMap<u64, u64>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.insert(number, entry.metadata().map_or(0, |m| m.blocks() * 512));
        }
    }
    Ok(found)
}

/// Runs what may take long beside reads and writes, not in their slots. It ends although nobody waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    Cpu::with_slots(1).run(work).await
}
