//! The call context: how long an operation may take, how urgent it is, and how it is stopped.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes of one memory unit; budgets are kept in these so that a large one still fits a semaphore.
const MEMORY_UNIT: u64 = 4096;

/// Who waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Nobody: filling a pool, probing for news.
    Idle,
    /// The write-back queue.
    Background,
    /// A system call or a command.
    Waiting,
}

/// Why [`Cx::run`] gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// No byte was acknowledged for as long as the context's patience lasts.
    #[error("nothing moved for too long")]
    Stalled,
    /// Somebody cancelled the operation.
    #[error("the operation was cancelled")]
    Cancelled,
}

/// Memory taken from a [`Cx`]'s budget; given back when dropped.
#[derive(Debug)]
pub struct MemoryPermit {
    _permit: OwnedSemaphorePermit,
}

/// What every asynchronous operation on the grid is given: deadline, patience, priority, memory budget and cancellation.
///
/// Cheap to clone. Derived contexts share the cancellation, the progress counter and the memory budget of their parent.
#[derive(Clone, Debug)]
pub struct Cx {
    deadline: Option<Instant>,
    patience: Option<Duration>,
    priority: Priority,
    cancel: CancellationToken,
    memory: Arc<Semaphore>,
    memory_units: u64,
    progress: Arc<Progress>,
}

/// When a byte was last acknowledged.
#[derive(Debug)]
struct Progress {
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
}

impl Progress {
    fn begin() -> Arc<Progress> {
        Arc::new(Progress { began: Instant::now(), last: AtomicU64::new(0) })
    }

    fn note(&self) {
        self.last.fetch_max(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

impl Cx {
    /// A context without limits in time, with `memory` bytes to share among all that is derived from it.
    pub fn new(priority: Priority, memory: u64) -> Cx {
        let memory_units = (memory / MEMORY_UNIT).clamp(1, Semaphore::MAX_PERMITS as u64);
        Cx {
            deadline: None,
            patience: None,
            priority,
            cancel: CancellationToken::new(),
            memory: Arc::new(Semaphore::new(memory_units as usize)),
            memory_units,
            progress: Progress::begin(),
        }
    }

    /// The same context, to end at the latest `limit` from now.
    pub fn with_timeout(&self, limit: Duration) -> Cx {
        let at = Instant::now() + limit;
        Cx { deadline: Some(self.deadline.map_or(at, |d| d.min(at))), ..self.clone() }
    }

    /// The same context, which gives up once no byte has been acknowledged for `patience`. It counts its own progress.
    pub fn with_patience(&self, patience: Duration) -> Cx {
        Cx { patience: Some(patience), progress: Progress::begin(), ..self.clone() }
    }

    /// The same context at another priority.
    pub fn with_priority(&self, priority: Priority) -> Cx {
        Cx { priority, ..self.clone() }
    }

    /// The same context with a cancellation of its own, which the parent's cancels too.
    pub fn child(&self) -> Cx {
        Cx { cancel: self.cancel.child_token(), ..self.clone() }
    }

    /// The same context without limits in time, for work that others will profit from when its first caller has
    /// given up. Progress counts for the caller too, and cancelling stops both.
    pub fn unhurried(&self) -> Cx {
        Cx { deadline: None, patience: None, ..self.clone() }
    }

    /// Bytes of the memory budget in all.
    pub fn memory_budget(&self) -> u64 {
        self.memory_units.saturating_mul(MEMORY_UNIT)
    }

    /// Who waits.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// How long nothing may move, where that is limited.
    pub fn patience(&self) -> Option<Duration> {
        self.patience
    }

    /// Stops everything that runs under this context.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Whether [`Cx::cancel`] was called here or on a parent.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Time left until the deadline; `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|d| d.saturating_duration_since(Instant::now()))
    }

    /// Notes that a server acknowledged bytes, or answered: what moves is not stalled.
    pub fn acknowledge(&self) {
        self.progress.note();
    }

    /// Waits for `bytes` of the shared memory budget; one request never waits for more than the whole.
    pub async fn memory(&self, bytes: u64) -> MemoryPermit {
        let units = bytes.div_ceil(MEMORY_UNIT).clamp(1, self.memory_units).min(u32::MAX as u64) as u32;
        let permit = Arc::clone(&self.memory).acquire_many_owned(units).await;
        MemoryPermit { _permit: permit.expect("the memory budget is never closed") }
    }

    /// Runs `work` until it ends, the deadline passes, nothing moves for too long, or somebody cancels.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Stopped> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Stopped::Cancelled),
            out = work => Ok(out),
            why = self.give_up() => Err(why),
        }
    }

    async fn give_up(&self) -> Stopped {
        let began = Instant::now();
        loop {
            let stalled_at = self.patience.map(|p| self.progress.last().max(began) + p);
            let Some(wake) = [self.deadline, stalled_at].into_iter().flatten().min() else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(wake).await;
            let now = Instant::now();
            if self.deadline.is_some_and(|d| d <= now) {
                return Stopped::Deadline;
            }
            if self.patience.is_some_and(|p| self.progress.last().max(began) + p <= now) {
                return Stopped::Stalled;
            }
        }
    }
}
