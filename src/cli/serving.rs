//! A mount that is up: it answers its control socket, and ends by unmount, by signal or from outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::exit::{Exit, Failure, away};
use super::movement::Movement;
use super::notify::{self, Manager};
use super::output;
use super::pace::Pace;
use super::status::left_text;
use crate::cache::Lookups;
use crate::client::{self, Client};
use crate::control::{
    CacheStatus, Claim, ConflictStatus, ControlTarget, Failed, FailureStatus, JournalStatus, Left, Metrics,
    OperationStatus, OperationSum, OperationsStatus, ProgressSink, QueueStatus, ServerState, Status, UnusedServer,
    serve,
};
use crate::fs::{Filesystem, FsError};
use crate::fuse::{MountError, Mounted, find_mount};
use crate::grid::{Grid, LinkState, Server};
use crate::node::NodeFactory;
use crate::util::{OperationKind, OperationState, OperationSums, Operations, Outcome};
use crate::writeback::{Scope, Writeback};

/// How often somebody who waits hears how far it is.
const NEWS: Duration = Duration::from_millis(200);
/// The pause before what failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// What the service manager is asked for, again and again, while a drain goes on.
const MORE_TIME: Duration = Duration::from_secs(60);
/// The longest that a process stores what is left once a signal has asked it to end, also while that moves: who shuts a
/// machine down does not wait for ever.
const DRAIN_LIMIT: Duration = Duration::from_secs(600);
/// How long the last answers may take to be sent.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long the kernel may take to end a mount that is in no table any more; longer if it is still in use.
const UNMOUNTING: Duration = Duration::from_secs(3);

/// What is said where the mount has come up without the grid.
pub const AS_LAST_SEEN: &str = "the grid cannot be reached; directories are shown as they were last seen, and what is \
     written goes out when it can be; `tahoefs status` shows the servers";

/// What a mount is made of.
pub struct Parts {
    /// The client.
    pub client: Arc<Client>,
    /// The file system.
    pub fs: Arc<Filesystem>,
    /// The kernel's side.
    pub mounted: Mounted,
    /// The root, which no other mount has.
    pub claim: Claim,
    /// What the mount table shows.
    pub source: String,
    /// Whether nothing can be changed.
    pub read_only: bool,
    /// When it was mounted, in seconds since the epoch.
    pub since: i64,
    /// Whether the grid could not be asked, so that directories are shown as they were last seen.
    pub is_as_last_seen: bool,
    /// Where its figures can be read, if anywhere.
    pub metrics: Option<Metrics>,
}

/// A mount that is up.
pub struct Serving {
    target: Arc<Target>,
    claim: Claim,
    tracker: TaskTracker,
    tasks: Vec<JoinHandle<()>>,
    terminate: Signal,
    interrupt: Signal,
    is_as_last_seen: bool,
}

struct Target {
    client: Arc<Client>,
    fs: Arc<Filesystem>,
    mounted: Mounted,
    source: String,
    read_only: bool,
    since: i64,
    /// Somebody asked to leave without waiting.
    forced: AtomicBool,
    leave: Notify,
    /// It is mounted no more, and only stores what is left.
    drains: AtomicBool,
    /// A new mount wants the journal.
    make_way: Notify,
    pace: Pace,
}

/// A server as status shows it.
pub fn server_state(grid: &Grid, server: &Server) -> ServerState {
    let health = server.health();
    let (ago, last_error) = health.last_failure.unzip();
    let (state, unreachable_for, next_try) = match server.state() {
        LinkState::Connecting => ("connecting", None, None),
        LinkState::Connected => ("connected", None, None),
        LinkState::Unreachable { since, next_try } => ("unreachable", Some(since), Some(next_try)),
    };
    ServerState {
        nickname: server.info().nickname.clone(),
        id: server.info().id.clone(),
        address: Some(server.address()).filter(|address| !address.is_empty()),
        state: state.to_owned(),
        unreachable_for: unreachable_for.map(|t| t.as_secs_f64()),
        next_try: next_try.map(|t| t.as_secs_f64()),
        reachable: health.last_error.is_none() && unreachable_for.is_none(),
        latency_ms: health.latency.map(|l| l.as_secs_f64() * 1e3),
        last_error: last_error.map(|e| e.to_string()),
        last_error_ago: ago.map(|t| t.as_secs_f64()),
        uncertified: !grid.takes_new_shares(server),
        available: server.last_status().map(|status| status.available_space),
        sent: server.sent(),
        received: server.received(),
        answered: health.answered,
        failed: health.failed,
    }
}

/// What is done on the grid, as status shows it.
fn operations(book: &Operations) -> OperationsStatus {
    let shown = |operation: OperationState| {
        let (state, error) = match operation.outcome {
            Outcome::Active => ("active", None),
            Outcome::Done => ("done", None),
            Outcome::GivenUp => ("given up", None),
            Outcome::Failed(why) => ("failed", Some(why)),
        };
        OperationStatus {
            kind: operation.kind.name().to_owned(),
            storage_index: operation.storage_index,
            began: operation.began,
            seconds: operation.took.as_secs_f64(),
            bytes: operation.bytes,
            size: operation.size,
            state: state.to_owned(),
            error,
        }
    };
    let sum = |kind: OperationKind| {
        let OperationSums { begun, failed, bytes } = book.sums(kind);
        OperationSum { kind: kind.name().to_owned(), begun, failed, bytes }
    };
    OperationsStatus {
        active: book.active().into_iter().map(shown).collect(),
        recent: book.recent().into_iter().map(shown).collect(),
        sums: OperationKind::ALL.map(sum).into(),
    }
}

fn cache_status(bytes: u64, limit: u64, Lookups { hits, misses }: Lookups) -> CacheStatus {
    CacheStatus { bytes, limit, hits, misses }
}

/// What is named and not used, as status shows it.
pub fn unused_servers(client: &Client) -> Vec<UnusedServer> {
    let shown = |s: client::UnusedServer| UnusedServer { nickname: s.nickname, id: s.id, reason: s.reason };
    client.unused_servers().into_iter().map(shown).collect()
}

fn out_of_time() -> Failed {
    let why = format!("it could not be stored in {} minutes", DRAIN_LIMIT.as_secs() / 60);
    Failed { message: why, exit: Exit::LeftBehind as u8 }
}

fn failed(failure: Failure) -> Failed {
    Failed { message: failure.message, exit: failure.code }
}

impl Target {
    fn writeback(&self) -> &Writeback {
        self.fs.writeback()
    }

    fn left(&self) -> Left {
        self.left_of(&Scope::All)
    }

    /// Bytes of shares that the servers have taken in all.
    fn sent(&self) -> u64 {
        self.client.grid().servers().iter().map(|server| server.sent()).sum()
    }

    fn left_of(&self, scope: &Scope) -> Left {
        let status = self.writeback().status_of(scope);
        let rate = self.pace.rate(self.sent());
        let encoding = self.client.grid().encoding();
        let shares = status.bytes as f64 * f64::from(encoding.total) / f64::from(encoding.needed);
        let eta = rate.filter(|_| status.bytes > 0).map(|rate| (shares / rate as f64).ceil() as u64);
        Left { changes: status.changes as u64, files: status.files as u64, bytes: status.bytes, rate, eta }
    }

    /// Waits until all of `scope` is on the grid. Messages speak of `place`.
    async fn settle(&self, scope: &Scope, place: &Path, progress: Option<&ProgressSink>) -> Result<(), Failed> {
        let work = async {
            // Somebody waits: what is back is to be used, before its time has come.
            let (cx, servers) = (self.client.cx(), self.client.grid().servers());
            join_all(servers.iter().filter(|server| server.is_down()).map(|server| server.wake(&cx))).await;
            let place = place.display();
            self.writeback().settle(scope.clone()).await.map_err(|e| failed(Failure::node(&place, &e)))?;
            let rest = self.fs.settle_scope(scope.clone()).await;
            rest.map_err(|e| failed(Failure::new(Exit::Failed, format!("{place}: {e}"))))
        };
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(NEWS) => if let Some(progress) = progress {
                    progress.note(self.left_of(scope));
                },
            }
        }
    }

    async fn settle_all(&self, progress: Option<&ProgressSink>) -> Result<(), Failed> {
        self.settle(&Scope::All, self.mounted.mountpoint(), progress).await
    }

    /// Stores what is left, again after failures of the grid, for as long as the client's patience lasts without anything
    /// moving, and until `end` at the longest.
    async fn store_what_is_left(&self, end: Option<Instant>, progress: Option<&ProgressSink>) -> Result<(), Failed> {
        let patience = self.client.cx().patience().unwrap_or_default();
        let mut wait = Movement::begin(patience, end, &self.left(), self.sent());
        let mut said = String::new();
        loop {
            let attempt = self.settle_all(progress);
            let ended = match wait.end() {
                Some(end) => tokio::time::timeout_at(end, attempt).await.unwrap_or_else(|_| Err(out_of_time())),
                None => attempt.await,
            };
            let Err(failed) = ended else { return Ok(()) };
            wait.failed(&self.left(), self.sent());
            if wait.is_over() || failed.exit != Exit::Grid as u8 {
                return Err(failed);
            }
            if failed.message != said {
                tracing::warn!("{}; trying again", failed.message);
                said.clone_from(&failed.message);
            }
            let again = Instant::now() + TRY_AGAIN;
            tokio::time::sleep_until(wait.end().map_or(again, |end| end.min(again))).await;
        }
    }

    fn unmount_failed(&self, error: &MountError) -> Failed {
        let place = self.mounted.mountpoint().display();
        Failed { message: format!("{place}: {error}; it stays mounted"), exit: Exit::Mount as u8 }
    }

    /// `failed` with what is left of `scope`, and `advice`.
    fn not_settled(&self, scope: &Scope, failed: Failed, advice: &str) -> Failed {
        let status = self.writeback().status_of(scope);
        let left = self.left_of(scope);
        if left.is_nothing() {
            return failed;
        }
        let names: Vec<String> = status.names.iter().map(|name| output::shown(name)).collect();
        let more = if status.changes > names.len() { ", ..." } else { "" };
        let (left, names) = (left_text(&left), names.join(", "));
        let servers = away(self.client.grid(), &failed.message).map_or_else(String::new, |servers| servers + "; ");
        let message = format!("{}; {servers}not stored yet: {left} ({names}{more}); {advice}", failed.message);
        Failed { message, ..failed }
    }
}

#[async_trait]
impl ControlTarget for Target {
    async fn status(&self) -> Status {
        let queue = self.writeback().status();
        let failures =
            queue.failures.iter().map(|f| FailureStatus { at: f.at, name: f.name.clone(), error: f.error.to_string() });
        let conflicts = queue.conflicts.iter().map(|c| ConflictStatus {
            at: c.at,
            path: c.path.clone(),
            kept_as: c.kept_as.as_ref().map(ToString::to_string),
        });
        let usage = self.writeback().journal().usage();
        Status {
            pid: std::process::id(),
            mountpoint: self.mounted.mountpoint().to_owned(),
            source: self.source.clone(),
            read_only: self.read_only,
            since: self.since,
            queue: QueueStatus { left: self.left(), failures: failures.collect(), conflicts: conflicts.collect() },
            unused: unused_servers(&self.client),
            servers: {
                let grid = self.client.grid();
                grid.servers().iter().map(|s| server_state(grid, s)).collect()
            },
            cache: {
                let cache = self.client.cache();
                cache_status(cache.weight(), cache.capacity(), cache.lookups())
            },
            disk_cache: self.client.blocks().map(|kept| cache_status(kept.bytes(), kept.limit(), kept.lookups())),
            journal: JournalStatus { bytes: usage.bytes, limit: usage.limit },
            operations: operations(self.client.grid().operations()),
        }
    }

    async fn flush(&self, path: Option<PathBuf>, progress: ProgressSink) -> Result<Left, Failed> {
        let path = path.unwrap_or_default();
        let place = self.mounted.mountpoint().join(&path);
        let scope = self.fs.scope(&path).await.map_err(|error| {
            let exit = match error {
                FsError::NotFound | FsError::NotDirectory => Exit::NotFound,
                _ => Exit::Failed,
            };
            failed(Failure::at(exit, place.display(), error))
        })?;
        let settled = self.settle(&scope, &place, Some(&progress)).await;
        settled.map_err(|failed| {
            let advice = "it is kept and tried again; `tahoefs status` shows how far it is";
            self.not_settled(&scope, failed, advice)
        })?;
        Ok(self.left_of(&scope))
    }

    async fn refresh(&self) -> Left {
        self.writeback().expire();
        self.left()
    }

    async fn unmount(&self, force: bool, progress: ProgressSink) -> Result<Left, Failed> {
        if force {
            self.forced.store(true, Ordering::Release);
            self.mounted.unmount(true).map_err(|e| self.unmount_failed(&e))?;
            if let Err(error) = self.writeback().journal().barrier().await {
                tracing::error!(%error, "what is left may not survive power loss");
            }
            let left = self.left();
            self.leave.notify_one();
            return Ok(left);
        }
        let settled = self.store_what_is_left(None, Some(&progress)).await;
        settled.map_err(|failed| {
            let advice = "it stays mounted and this is tried again: unmount once `tahoefs status` shows that all is on \
                 the grid, or with --force, which leaves it in the journal for the next mount";
            let failed = self.not_settled(&Scope::All, failed, advice);
            Failed { exit: Exit::LeftBehind as u8, ..failed }
        })?;
        self.mounted.unmount(false).map_err(|e| self.unmount_failed(&e))?;
        self.mounted.ended().await;
        // What was written while it was being unmounted.
        let settled = self.settle_all(Some(&progress)).await;
        if let Err(failed) = &settled {
            tracing::error!("{}", failed.message);
        }
        self.leave.notify_one();
        Ok(self.left())
    }

    async fn make_way(&self) -> Result<Left, Failed> {
        let place = self.mounted.mountpoint();
        let ended = self.drains.load(Ordering::Acquire)
            // The kernel tells a little later than the table of mounts.
            || matches!(find_mount(place), Ok(None))
                && tokio::time::timeout(UNMOUNTING, self.mounted.ended()).await.is_ok();
        if !ended {
            let place = place.display();
            return Err(Failed { message: format!("{place}: it is mounted there"), exit: Exit::Mount as u8 });
        }
        self.make_way.notify_one();
        Ok(self.left())
    }
}

impl Serving {
    /// Starts the queue and the control socket.
    ///
    /// # Errors
    /// The system refuses; the mount is taken down again.
    pub fn begin(parts: Parts) -> Result<Serving, Failure> {
        let Parts { client, fs, mounted, claim, source, read_only, since, is_as_last_seen, metrics } = parts;
        let begun = signals().and_then(|signals| Ok((signals, claim.listener()?)));
        let ((terminate, interrupt), listener) = match begun {
            Ok(begun) => begun,
            Err(e) => {
                // The failure to start is what counts.
                let _ = mounted.unmount(true);
                return Err(Failure::io("the control socket", &e));
            }
        };
        let (forced, drains) = (AtomicBool::new(false), AtomicBool::new(false));
        let (leave, make_way, pace) = (Notify::new(), Notify::new(), Pace::default());
        let target =
            Arc::new(Target { client, fs, mounted, source, read_only, since, forced, leave, drains, make_way, pace });
        let tracker = TaskTracker::new();
        let writeback = Arc::clone(target.fs.writeback());
        let mut tasks = vec![
            tokio::spawn(async move { writeback.run().await }),
            tokio::spawn({
                let (target, tracker) = (Arc::clone(&target), tracker.clone());
                async move { serve(listener, target, tracker).await }
            }),
        ];
        tasks.extend(metrics.map(|metrics| {
            let target: Arc<dyn ControlTarget> = Arc::clone(&target) as _;
            tokio::spawn(async move { metrics.serve(target).await })
        }));
        Ok(Serving { target, claim, tracker, tasks, terminate, interrupt, is_as_last_seen })
    }

    /// Takes the mount down because of `failure`.
    pub async fn abandon(self, failure: Failure) -> Result<u8, Failure> {
        if let Err(error) = self.target.mounted.unmount(true) {
            tracing::error!(%error, "the mount could not be taken down");
        }
        self.tasks.iter().for_each(JoinHandle::abort);
        Err(failure)
    }

    /// Serves until the mount is gone, tells `manager` how it goes, and returns the exit code.
    ///
    /// # Errors
    /// None so far: what was left behind is the exit code 7.
    pub async fn run(mut self, mut manager: Manager) -> Result<u8, Failure> {
        let target = Arc::clone(&self.target);
        if self.is_as_last_seen {
            tracing::warn!("{AS_LAST_SEEN}");
        }
        manager.ready(&target.left());
        // Only a signal sets one, for all that is stored from then on.
        let mut end = None;
        loop {
            tokio::select! {
                () = target.mounted.ended() => break,
                () = target.leave.notified() => break,
                _ = self.terminate.recv() => break end = Some(self.drain(&mut manager).await),
                _ = self.interrupt.recv() => break end = Some(self.drain(&mut manager).await),
                () = tokio::time::sleep(notify::NEWS) => {
                    manager.queue(&target.left());
                    // What is known of the room is there for a mount that comes up without the grid.
                    target.client.space();
                }
            }
        }
        let forced = target.forced.load(Ordering::Acquire);
        target.drains.store(true, Ordering::Release);
        let rest = async {
            tokio::select! {
                biased;
                () = target.make_way.notified() => tracing::info!("a new mount takes the journal over"),
                stored = target.store_what_is_left(end, None) => if let Err(failed) = stored {
                    tracing::error!("{}", failed.message);
                },
            }
        };
        if !forced {
            self.unless_signalled(&mut manager, rest).await;
        }
        if let Err(error) = target.writeback().leave().await {
            tracing::error!(%error, "what is left may not survive power loss");
        }
        self.tracker.close();
        if tokio::time::timeout(LAST_ANSWERS, self.tracker.wait()).await.is_err() {
            tracing::warn!("a client of the control socket did not take its answer");
        }
        self.tasks.iter().for_each(JoinHandle::abort);
        let left = target.left();
        if left.is_nothing()
            && let Err(error) = target.writeback().journal().finish().await
        {
            tracing::warn!(%error, "the journal is empty but not small");
        }
        target.client.put_back();
        drop(self.claim);
        if left.is_nothing() {
            return Ok(Exit::Done as u8);
        }
        tracing::error!("unmounted; the journal keeps for the next mount: {}", left_text(&left));
        Ok(Exit::LeftBehind as u8)
    }

    /// A signal asked to end: store what is left, as long as that moves and there is time, and unmount even if it is in use.
    /// What could not be stored by then stays in the journal. Returns the end of that time, which is that of the process.
    async fn drain(&mut self, manager: &mut Manager) -> Instant {
        let target = Arc::clone(&self.target);
        let end = Instant::now() + DRAIN_LIMIT;
        let stored = target.store_what_is_left(Some(end), None);
        if let Err(failed) = self.unless_signalled(manager, stored).await {
            tracing::error!("{}", failed.message);
            target.forced.store(true, Ordering::Release);
        }
        if let Err(error) = target.mounted.unmount(true) {
            tracing::error!(%error, "the mount could not be taken down");
        }
        end
    }

    /// A second signal ends the process at once. Until `work` ends, which it does by itself when nothing moves, the
    /// service manager is asked for time.
    async fn unless_signalled<T>(&mut self, manager: &mut Manager, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            manager.draining(&self.target.left(), MORE_TIME);
            tokio::select! {
                done = &mut work => return done,
                _ = self.terminate.recv() => std::process::exit(Exit::LeftBehind as i32),
                _ = self.interrupt.recv() => std::process::exit(Exit::LeftBehind as i32),
                () = tokio::time::sleep(notify::NEWS) => {}
            }
        }
    }
}

fn signals() -> std::io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}
