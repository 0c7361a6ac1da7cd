//! Group commits: batches queue up, and whoever gets hold of the database commits all that wait there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::JournalError;
use super::batch::Op;
use super::store::Store;

/// Batches on their way into the database, in order.
pub(super) struct Queue {
    waiting: Mutex<Vec<Job>>,
    store: Mutex<Store>,
    inline_bytes: Arc<AtomicU64>,
    log: Mutex<Log>,
}

/// The log of the database, which this syncs itself: others commit meanwhile.
struct Log {
    path: PathBuf,
    file: File,
    /// As many commits survive power loss.
    synced: u64,
    /// A sync has failed: the kernel has forgotten that some of the log is not on the disk.
    failed: bool,
}

/// A batch, and where its result goes.
struct Job {
    ops: Vec<Op>,
    done: Option<Arc<Done>>,
}

type Done = Mutex<Option<Result<(), JournalError>>>;

/// A batch that was queued. Dropping it does not take the batch back.
pub(super) struct Ticket(Arc<Done>);

impl Queue {
    /// `database` is open in WAL mode, and stays so as long as `store` lives.
    pub fn new(store: Store, database: &Path) -> Result<Queue, JournalError> {
        let path = log_of(database);
        let file = File::open(&path).map_err(JournalError::io(&path))?;
        let log = Mutex::new(Log { path, file, synced: 0, failed: false });
        Ok(Queue { waiting: Mutex::default(), inline_bytes: store.inline_bytes(), store: Mutex::new(store), log })
    }

    /// Queues changes: they are committed together, after all that was queued before.
    pub fn push(&self, ops: Vec<Op>) -> Ticket {
        let done = Arc::default();
        lock(&self.waiting).push(Job { ops, done: Some(Arc::clone(&done)) });
        Ticket(done)
    }

    /// Queues the creation of a file, which is committed with or before whatever is queued after it.
    pub fn push_creation(&self, op: Op) {
        lock(&self.waiting).push(Job { ops: vec![op], done: None });
    }

    /// The result of a batch, after committing what is queued if nobody has. Blocks while another commits.
    pub fn wait(&self, ticket: &Ticket) -> Result<(), JournalError> {
        if let Some(result) = lock(&ticket.0).take() {
            return result;
        }
        self.drain(&mut lock(&self.store));
        lock(&ticket.0).take().expect("all that was queued has its result once somebody has drained the queue")
    }

    /// As [`Queue::wait`]; `None` where that would block.
    pub fn try_wait(&self, ticket: &Ticket) -> Option<Result<(), JournalError>> {
        let early = lock(&ticket.0).take();
        if early.is_some() {
            return early;
        }
        self.drain(&mut *self.store.try_lock().ok()?);
        lock(&ticket.0).take()
    }

    /// Commits all that is queued. Who wants to know whether it worked waits for its ticket.
    pub fn flush(&self) {
        self.drain(&mut lock(&self.store));
    }

    /// Commits all that is queued; it and all that was committed before survive power loss once this returns. Hands
    /// back the staging files that no record needs any more.
    ///
    /// `contents` syncs what records name, but for the staging files that it is given. Nobody commits between that and
    /// the end of this: no record survives whose content does not.
    pub fn sync(&self, contents: impl FnOnce(&[u64]) -> Result<(), JournalError>) -> Result<Vec<u64>, JournalError> {
        let mut log = lock(&self.log);
        let mut store = lock(&self.store);
        self.drain(&mut store);
        let commits = store.settle()?;
        contents(store.doomed())?;
        if commits > log.synced || log.failed {
            let synced = match log.failed {
                false => log.file.sync_data().map_err(JournalError::io(&log.path)),
                // What is in the log still reads as it was written: it goes where it can be synced once more.
                true => store.copy_log(),
            };
            log.failed = synced.is_err();
            synced?;
            log.synced = commits;
        }
        Ok(store.take_doomed())
    }

    /// Bytes of contents that stand in rows. Never waits.
    pub fn inline_bytes(&self) -> u64 {
        self.inline_bytes.load(Ordering::Relaxed)
    }

    /// The database itself, with nobody committing.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// One transaction for all. If that fails each has its own, and its own error.
    fn drain(&self, store: &mut Store) {
        let jobs = std::mem::take(&mut *lock(&self.waiting));
        if jobs.is_empty() {
            return;
        }
        let together = store.commit(jobs.iter().flat_map(|job| &job.ops));
        let is_lone = jobs.len() == 1;
        let mut together = Some(together);
        for job in jobs {
            let result = match &together {
                Some(Ok(())) => Ok(()),
                _ if is_lone => together.take().unwrap_or(Ok(())),
                _ => store.commit(job.ops.iter()),
            };
            match (job.done, result) {
                (Some(done), result) => *lock(&done) = Some(result),
                (None, Ok(())) => {}
                (None, Err(error)) => {
                    tracing::warn!(%error, "a file could not be put into the journal; it is tried again");
                    job.ops.into_iter().for_each(|op| store.owe(op));
                }
            }
        }
    }
}

/// Locks; what a panic left behind is as whole as before, because all changes are made at the end.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Where the log of the database at `path` is.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}
