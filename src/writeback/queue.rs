//! The queue: when what is pending gets published, who waits for it, and what is known of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::publish::Force;
use super::{DirId, FileObject, Target, Writeback};
use crate::node::NodeError;
use crate::util::Priority;

/// How often the queue looks whether something has become due.
const TICK: Duration = Duration::from_millis(250);
/// The longest pause after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Failures that are remembered.
const FAILURES: usize = 16;

/// What a caller waits for.
#[derive(Clone)]
pub enum Scope {
    /// The content of a file, and the edges that lead to it.
    File(Arc<FileObject>),
    /// The entries of a directory, and the edges that lead to it.
    Directory(DirId),
    /// Everything.
    All,
}

/// Something that could not be stored; it is kept and tried again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When, in seconds since the epoch.
    pub at: i64,
    /// The name concerned.
    pub name: String,
    /// What went wrong.
    pub error: NodeError,
}

/// What is not on the grid yet.
#[derive(Clone, Debug, Default)]
pub struct QueueStatus {
    /// Names whose wanted state is not published.
    pub changes: usize,
    /// Files among them whose content is not stored.
    pub files: usize,
    /// Bytes of these files.
    pub bytes: u64,
    /// The latest failures, oldest first.
    pub failures: Vec<Failure>,
}

impl Writeback {
    /// Publishes in the background, for ever: the owner runs it as a task.
    pub async fn run(&self) {
        let mut backoff = Duration::ZERO;
        loop {
            self.changed.notified().await;
            while self.has_pending() {
                sleep(TICK.max(backoff)).await;
                let cx = self.base.with_priority(Priority::Background);
                let work = self.due().into_iter().map(|dir| {
                    let cx = &cx;
                    async move {
                        cx.run(self.publish(cx, dir, &Force::Nothing, false))
                            .await
                            .unwrap_or_else(|e| Err(e.into()))
                    }
                });
                let results = join_all(work.collect::<Vec<_>>()).await;
                let failed = results.into_iter().filter_map(Result::err).next_back();
                backoff = match &failed {
                    None => Duration::ZERO,
                    Some(_) => (backoff * 2).clamp(Duration::from_secs(1), LONGEST_BACKOFF),
                };
                if let Some(error) = failed {
                    tracing::warn!(%error, retry_in = ?backoff, "changes could not be published; they are kept");
                    self.note_failure("", &error);
                }
            }
        }
    }

    /// Waits until what `scope` names is on the grid. An error leaves it pending: it is tried again.
    pub async fn settle(&self, scope: Scope) -> Result<(), NodeError> {
        let cx = self.base.with_priority(Priority::Waiting);
        cx.run(async {
            match scope {
                Scope::File(file) => match file.home() {
                    Some(dir) => self.settle_upwards(&cx, dir, Force::File(file)).await,
                    None => Ok(()),
                },
                Scope::Directory(dir) => self.settle_upwards(&cx, dir, Force::Nothing).await,
                Scope::All => self.settle_all(&cx).await,
            }
        })
        .await?
    }

    /// Waits for the barrier: what was settled before survives power loss, as far as the servers promise.
    pub async fn barrier(&self) -> Result<(), NodeError> {
        let cx = self.base.with_priority(Priority::Waiting);
        cx.run(self.factory.sync(&cx)).await?
    }

    async fn settle_upwards(&self, cx: &crate::util::Cx, dir: DirId, force: Force) -> Result<(), NodeError> {
        let mut done: VecDeque<DirId> = VecDeque::new();
        // A birth on the way changes the chain: its next link is looked up again until nothing new turns up.
        while let Some(next) = self.upwards(dir).into_iter().find(|id| !done.contains(id)) {
            self.publish(cx, next, &force, false).await?;
            done.push_back(next);
        }
        Ok(())
    }

    async fn settle_all(&self, cx: &crate::util::Cx) -> Result<(), NodeError> {
        loop {
            let (before, dirs) = {
                let state = self.state();
                let waiting = state
                    .dirs
                    .iter()
                    .filter(|(_, d)| d.node.is_some() && !d.pending.is_empty());
                (state.next_seq, waiting.map(|(id, _)| *id).collect::<Vec<_>>())
            };
            if dirs.is_empty() {
                return Ok(());
            }
            let work = dirs.iter().map(|dir| self.publish(cx, *dir, &Force::Everything, false));
            join_all(work).await.into_iter().collect::<Result<(), _>>()?;
            if self.state().next_seq == before && self.has_pending() {
                sleep(TICK).await;
            }
        }
    }

    /// What is not on the grid yet.
    pub fn status(&self) -> QueueStatus {
        let state = self.state();
        let mut status = QueueStatus {
            failures: state.failures.clone(),
            ..QueueStatus::default()
        };
        for pending in state.dirs.values().flat_map(|d| d.pending.values()) {
            status.changes += 1;
            if let Some(Target::File(file)) = pending.wanted.as_ref().map(|e| &e.target)
                && file.stored().is_none()
            {
                status.files += 1;
                status.bytes += file.size();
            }
        }
        status
    }

    pub(super) fn note_failure(&self, name: &str, error: &NodeError) {
        let failure = Failure {
            at: self.clock.now_secs(),
            name: name.to_owned(),
            error: error.clone(),
        };
        let failures = &mut self.state().failures;
        failures.push(failure);
        let excess = failures.len().saturating_sub(FAILURES);
        failures.drain(..excess);
    }

    fn has_pending(&self) -> bool {
        self.state().dirs.values().any(|d| !d.pending.is_empty())
    }

    /// Directories on the grid with a change that has waited long enough, and that nobody is still writing to.
    fn due(&self) -> Vec<DirId> {
        let now = Instant::now();
        let state = self.state();
        let due = |p: &super::Pending| {
            let held = matches!(p.wanted.as_ref().map(|e| &e.target), Some(Target::File(file)) if file.is_held());
            !p.rides_along && !held && now.duration_since(p.since) >= self.options.idle
        };
        let dirs = state
            .dirs
            .iter()
            .filter(|(_, d)| d.node.is_some() && d.pending.values().any(due));
        dirs.map(|(id, _)| *id).collect()
    }
}
