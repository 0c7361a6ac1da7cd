//! What is done on the grid: what runs, the latest that has ended, and sums. All of it is bounded, and holds no secret.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Clock;

/// Operations that have ended and are remembered.
const RECENT: usize = 32;
/// Reads of one file that follow each other within this are one operation.
const LULL: Duration = Duration::from_secs(5);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationKind {
    /// An immutable file is stored.
    Upload,
    /// Segments of an immutable file are fetched.
    Download,
    /// A version of a mutable file, a directory mostly, is stored.
    Publish,
    /// A mutable file is fetched.
    Retrieve,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [OperationKind; 4] =
        [OperationKind::Upload, OperationKind::Download, OperationKind::Publish, OperationKind::Retrieve];

    /// Its name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            OperationKind::Upload => "upload",
            OperationKind::Download => "download",
            OperationKind::Publish => "publish",
            OperationKind::Retrieve => "retrieve",
        }
    }

    /// Whether what concerns one file and follows closely is one operation.
    fn is_of_parts(self) -> bool {
        matches!(self, OperationKind::Download | OperationKind::Retrieve)
    }
}

/// How an operation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs.
    Active,
    /// It has succeeded.
    Done,
    /// Nobody wanted it any more.
    GivenUp,
    /// It has failed, and why.
    Failed(String),
}

/// An operation as it stood when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationState {
    /// What is done.
    pub kind: OperationKind,
    /// The first characters of the storage index.
    pub storage_index: String,
    /// When it began, in seconds since the epoch.
    pub began: i64,
    /// How long it has taken.
    pub took: Duration,
    /// Bytes of content that are through.
    pub bytes: u64,
    /// Bytes of the whole file.
    pub size: u64,
    /// How it stands.
    pub outcome: Outcome,
}

/// Sums over all operations of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationSums {
    /// Begun.
    pub begun: u64,
    /// Of these those that failed, not those that were given up.
    pub failed: u64,
    /// Bytes of content that went through.
    pub bytes: u64,
}

/// The book of operations. Clones share it.
#[derive(Clone)]
pub struct Operations {
    clock: Clock,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    next: u64,
    active: Vec<Entry>,
    recent: VecDeque<Entry>,
    sums: [OperationSums; 4],
}

struct Entry {
    id: u64,
    /// Who works at it.
    users: usize,
    began: Instant,
    ended: Instant,
    state: OperationState,
}

impl Entry {
    fn seen(&self, ended: Instant) -> OperationState {
        OperationState { took: ended.saturating_duration_since(self.began), ..self.state.clone() }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operation under way. Dropped before its end it was given up.
pub struct Operation {
    id: u64,
    book: Arc<Mutex<Book>>,
    outcome: Outcome,
}

impl Operations {
    /// An empty book.
    pub fn new(clock: Clock) -> Operations {
        Operations { clock, book: Arc::default() }
    }

    /// Notes that `kind` is begun with the file of `size` bytes at `storage_index`, of which the first characters are
    /// kept. Reads of one file that overlap or follow each other closely are one operation.
    pub fn begin(&self, kind: OperationKind, storage_index: impl Display, size: u64) -> Operation {
        let storage_index: String = storage_index.to_string().chars().take(8).collect();
        let now = Instant::now();
        let mut book = lock(&self.book);
        let is_same = |entry: &Entry| entry.state.kind == kind && entry.state.storage_index == storage_index;
        let id = match kind.is_of_parts() {
            true => book.join(now, is_same),
            false => None,
        };
        let id = id.unwrap_or_else(|| {
            let id = book.next;
            book.next += 1;
            book.sums[kind as usize].begun += 1;
            let (began, took, outcome) = (self.clock.now_secs(), Duration::ZERO, Outcome::Active);
            let state = OperationState { kind, storage_index, began, took, bytes: 0, size, outcome };
            book.active.push(Entry { id, users: 1, began: now, ended: now, state });
            id
        });
        Operation { id, book: Arc::clone(&self.book), outcome: Outcome::GivenUp }
    }

    /// What runs, the oldest first.
    pub fn active(&self) -> Vec<OperationState> {
        let now = Instant::now();
        lock(&self.book).active.iter().map(|entry| entry.seen(now)).collect()
    }

    /// The latest that have ended, the oldest of them first.
    pub fn recent(&self) -> Vec<OperationState> {
        lock(&self.book).recent.iter().map(|entry| entry.seen(entry.ended)).collect()
    }

    /// The sums of one kind.
    pub fn sums(&self, kind: OperationKind) -> OperationSums {
        lock(&self.book).sums[kind as usize]
    }
}

impl Book {
    /// Takes part in an operation that runs, or has ended well just now.
    fn join(&mut self, now: Instant, is_same: impl Fn(&Entry) -> bool) -> Option<u64> {
        if let Some(entry) = self.active.iter_mut().find(|entry| is_same(entry)) {
            entry.users += 1;
            return Some(entry.id);
        }
        let goes_on = |entry: &Entry| {
            is_same(entry) && !matches!(entry.state.outcome, Outcome::Failed(_)) && now < entry.ended + LULL
        };
        let at = self.recent.iter().rposition(goes_on)?;
        let mut entry = self.recent.remove(at)?;
        entry.users = 1;
        entry.state.outcome = Outcome::Active;
        let id = entry.id;
        self.active.push(entry);
        Some(id)
    }

    fn leave(&mut self, id: u64, outcome: Outcome) {
        let Some(at) = self.active.iter().position(|entry| entry.id == id) else { return };
        let entry = &mut self.active[at];
        entry.users -= 1;
        // A failure of one part is that of the whole; else the last one says how it went.
        if !matches!(entry.state.outcome, Outcome::Failed(_))
            && (entry.users == 0 || matches!(outcome, Outcome::Failed(_)))
        {
            if matches!(outcome, Outcome::Failed(_)) {
                self.sums[entry.state.kind as usize].failed += 1;
            }
            entry.state.outcome = outcome;
        }
        if entry.users > 0 {
            return;
        }
        entry.ended = Instant::now();
        let entry = self.active.remove(at);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(entry);
    }
}

impl Operation {
    /// So many bytes more are through.
    pub fn advance(&self, bytes: u64) {
        let mut book = lock(&self.book);
        if let Some(entry) = book.active.iter_mut().find(|entry| entry.id == self.id) {
            entry.state.bytes += bytes;
            let kind = entry.state.kind;
            book.sums[kind as usize].bytes += bytes;
        }
    }

    /// It has ended like this.
    pub fn end<T, E: Display>(mut self, outcome: &Result<T, E>) {
        self.outcome = match outcome {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        };
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::GivenUp);
        lock(&self.book).leave(self.id, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Operations {
        Operations::new(Clock::held_at(7_000_000_000))
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_becomes_what_has_run() {
        let book = book();
        let upload = book.begin(OperationKind::Upload, "abcdefghijkl", 100);
        upload.advance(40);
        tokio::time::advance(Duration::from_secs(2)).await;
        let active = book.active();
        assert_eq!((active.len(), active[0].bytes, active[0].took), (1, 40, Duration::from_secs(2)));
        assert_eq!((&*active[0].storage_index, active[0].began, active[0].size), ("abcdefgh", 7, 100));
        upload.advance(60);
        upload.end(&Ok::<(), String>(()));
        tokio::time::advance(Duration::from_secs(60)).await;
        let recent = book.recent();
        assert_eq!(
            (recent[0].took, recent[0].bytes, &recent[0].outcome),
            (Duration::from_secs(2), 100, &Outcome::Done)
        );
        assert!(book.active().is_empty());
        drop(book.begin(OperationKind::Upload, "b", 1));
        book.begin(OperationKind::Upload, "c", 1).end(&Err::<(), _>("no servers"));
        let outcomes: Vec<Outcome> = book.recent().into_iter().map(|o| o.outcome).collect();
        assert_eq!(outcomes, [Outcome::Done, Outcome::GivenUp, Outcome::Failed("no servers".into())]);
        assert_eq!(book.sums(OperationKind::Upload), OperationSums { begun: 3, failed: 1, bytes: 100 });
        assert_eq!(book.sums(OperationKind::Publish), OperationSums::default());
    }

    #[tokio::test(start_paused = true)]
    async fn reads_of_a_file_that_follow_each_other_are_one() {
        let book = book();
        let first = book.begin(OperationKind::Download, "a", 9);
        let beside = book.begin(OperationKind::Download, "a", 9);
        book.begin(OperationKind::Download, "other", 9).end(&Ok::<(), String>(()));
        first.advance(1);
        first.end(&Ok::<(), String>(()));
        assert_eq!(book.active().len(), 1);
        beside.advance(2);
        beside.end(&Ok::<(), String>(()));
        tokio::time::advance(LULL / 2).await;
        let next = book.begin(OperationKind::Download, "a", 9);
        next.advance(4);
        next.end(&Ok::<(), String>(()));
        let recent = book.recent();
        assert_eq!((recent.len(), recent[1].bytes, recent[1].took), (2, 7, LULL / 2));
        tokio::time::advance(LULL * 2).await;
        let later = book.begin(OperationKind::Download, "a", 9);
        let failing = book.begin(OperationKind::Download, "a", 9);
        failing.end(&Err::<(), _>("no shares"));
        later.end(&Ok::<(), String>(()));
        assert_eq!(book.recent().last().unwrap().outcome, Outcome::Failed("no shares".into()));
        assert_eq!(book.sums(OperationKind::Download), OperationSums { begun: 3, failed: 1, bytes: 7 });
        // Publishes of one directory are each their own.
        let one = book.begin(OperationKind::Publish, "a", 9);
        let two = book.begin(OperationKind::Publish, "a", 9);
        assert_eq!(book.active().len(), 2);
        drop((one, two));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_latest_are_remembered() {
        let book = book();
        for n in 0..RECENT + 5 {
            book.begin(OperationKind::Publish, n, 1).end(&Ok::<(), String>(()));
        }
        let recent = book.recent();
        assert_eq!((recent.len(), &*recent[0].storage_index), (RECENT, "5"));
        assert_eq!(book.sums(OperationKind::Publish).begun, RECENT as u64 + 5);
    }
}
