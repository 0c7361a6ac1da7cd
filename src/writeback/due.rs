//! What is done when nobody waits: contents are stored once they have been left alone, directories are published once
//! all in them is, and records go when they are not needed any more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::publish::{Force, PARALLEL_UPLOADS};
use super::queue::Subject;
use super::{Dir, DirId, Ephemeral, FileObject, Pending, State, Target, Writeback};
use crate::journal::Room;
use crate::node::NodeError;
use crate::util::{Cx, Priority};

/// How often the queue looks whether something has become due.
const TICK: Duration = Duration::from_millis(250);
/// How often times that changed with contents are kept, and the journal is looked after.
const UPKEEP: Duration = Duration::from_secs(1);
/// The same while nothing waits for either.
const AT_REST: Duration = Duration::from_secs(60);
/// Directories that are published at the same time.
const PARALLEL_PUBLISHES: usize = 4;
/// Changes that are many in any directory.
const MANY: usize = 1000;
/// A change is published at the latest this many idle times after it was made, although others follow.
const OLDEST: u32 = 15;
/// The pauses after a first failure, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// When something that failed is tried again.
struct Retry {
    at: Instant,
    pause: Duration,
}

/// How long things are left alone first, and what until somebody asks for it.
struct Leisure {
    idle: Duration,
    put_off: Ephemeral,
}

type Work<'a> = BoxFuture<'a, (Subject, Result<(), NodeError>)>;

impl Writeback {
    /// Stores, publishes and keeps house in the background, for ever: the owner runs it as a task.
    pub async fn run(&self) {
        tokio::join!(self.empty(), self.keep_house(), self.look_out());
    }

    async fn empty(&self) {
        let cx = self.base.with_priority(Priority::Background);
        let mut under_way: FuturesUnordered<Work<'_>> = FuturesUnordered::new();
        let mut busy: HashSet<Subject> = HashSet::new();
        let mut retries: HashMap<Subject, Retry> = HashMap::new();
        let (mut files, mut dirs) = (VecDeque::new(), VecDeque::new());
        let mut looked = None;
        loop {
            if under_way.is_empty() && !self.has_work() {
                retries.clear();
                self.changed.notified().await;
            }
            tokio::select! {
                Some((subject, result)) = under_way.next() => {
                    busy.remove(&subject);
                    self.pace(&mut retries, subject, result);
                }
                () = sleep(TICK) => {}
            }
            if looked.is_none_or(|at: Instant| at.elapsed() >= TICK) {
                looked = Some(Instant::now());
                let waits = |subject: &Subject| {
                    busy.contains(subject) || retries.get(subject).is_some_and(|retry| retry.at > Instant::now())
                };
                let pace = self.leisure();
                let state = self.state();
                files = state.due_files(&pace).into();
                files.retain(|file| !waits(&Subject::file(file)));
                dirs = state.due_dirs(&pace).into();
                dirs.retain(|dir| !waits(&Subject::Directory(*dir)));
            }
            let mut of_files = busy.iter().filter(|subject| matches!(subject, Subject::File(_))).count();
            let mut of_dirs = busy.len() - of_files;
            while of_files < PARALLEL_UPLOADS
                && let Some(file) = files.pop_front()
            {
                of_files += 1;
                busy.insert(Subject::file(&file));
                under_way.push(Box::pin(self.store_one(cx.child(), file)));
            }
            while of_dirs < PARALLEL_PUBLISHES
                && let Some(dir) = dirs.pop_front()
            {
                of_dirs += 1;
                busy.insert(Subject::Directory(dir));
                under_way.push(Box::pin(self.publish_one(cx.child(), dir)));
            }
        }
    }

    /// What is left alone first: nothing while writers are slowed down because the journal fills.
    fn leisure(&self) -> Leisure {
        match self.journal.room(0) {
            Room::Plenty => Leisure { idle: self.options.idle, put_off: self.options.ephemeral.clone() },
            _ => Leisure { idle: Duration::ZERO, put_off: Ephemeral::parse("") },
        }
    }

    async fn store_one(&self, cx: Cx, file: Arc<FileObject>) -> (Subject, Result<(), NodeError>) {
        let stored = cx.run(self.store_noted(&cx, &file)).await.unwrap_or_else(|e| Err(e.into()));
        (Subject::file(&file), stored)
    }

    async fn publish_one(&self, cx: Cx, dir: DirId) -> (Subject, Result<(), NodeError>) {
        let published = cx.run(self.publish(&cx, dir, &Force::Stored, false)).await.unwrap_or_else(|e| Err(e.into()));
        (Subject::Directory(dir), published)
    }

    /// Puts off what failed, longer each time.
    fn pace(&self, retries: &mut HashMap<Subject, Retry>, subject: Subject, result: Result<(), NodeError>) {
        let Err(error) = result else {
            // Something that must wait may be left there.
            retries.insert(subject, Retry { at: Instant::now() + TICK, pause: Duration::ZERO });
            return;
        };
        let before = retries.get(&subject).map_or(Duration::ZERO, |retry| retry.pause);
        let pause = (before * 2).clamp(PAUSES[0], PAUSES[1]);
        tracing::warn!(%error, retry_in = ?pause, "changes could not be published; they are kept");
        // Not all at once when the grid is back.
        let jitter = pause.mul_f64(f64::from(self.clock.now_nanos() as u32 % 256) / 1024.0);
        retries.insert(subject, Retry { at: Instant::now() + pause + jitter, pause });
    }

    /// Removes records that are not needed any more, and sees to it that what was answered survives power loss.
    async fn keep_house(&self) {
        let cx = self.base.with_priority(Priority::Background);
        let mut tick = interval(UPKEEP.min(self.options.commit.max(Duration::from_millis(100))));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut committed = Instant::now();
        let mut is_at_rest = false;
        loop {
            if is_at_rest {
                tokio::select! {
                    () = self.upkeep.notified() => {}
                    () = self.journal.forgets() => {}
                    () = sleep(AT_REST) => {}
                }
                (committed, is_at_rest) = (Instant::now(), false);
            }
            tick.tick().await;
            let mut kept = self.catch_up().done().await;
            // Seldom, unless writers wait for room: the barrier of a grid on the same disk slows down whoever waits for
            // that disk.
            let commits = self.journal.room(0) != Room::Plenty || committed.elapsed() >= self.options.commit;
            if commits {
                committed = Instant::now();
                if let Err(error) = self.retire(&cx.child()).await {
                    tracing::warn!(%error, "records of what is published stay for now");
                }
                kept = kept.and(self.journal.barrier().await);
            }
            match kept.and(self.journal.maintain().await) {
                Ok(()) => is_at_rest = commits && self.is_at_rest(),
                Err(error) => tracing::error!(%error, "the journal is in trouble"),
            }
        }
    }

    /// Whether nothing is to be kept or removed until something changes.
    fn is_at_rest(&self) -> bool {
        self.unkept().is_empty()
            && !self.has_work()
            && self.spares.is_empty()
            && self.state().is_at_rest()
            && self.journal.is_at_rest()
    }

    /// Whether anything is to be stored or published that does not wait until somebody asks for it, or for something else.
    fn has_work(&self) -> bool {
        let put_off = self.leisure().put_off;
        let mut state = self.state();
        state.contents.retain(|content| content.file.is_dirty());
        let mut pending = state.dirs.values().flat_map(|d| &d.pending);
        !state.contents.is_empty() || pending.any(|(name, p)| !p.rides_along && !put_off.puts_off(name, p))
    }
}

impl State {
    fn is_at_rest(&self) -> bool {
        let records = self.born.is_empty() && self.retired.is_empty() && !self.has_leftovers();
        records && self.lagging.is_empty() && self.touched.is_empty()
    }

    /// Files that have been left alone for long enough and nobody has open for writing.
    fn due_files(&self, leisure: &Leisure) -> Vec<Arc<FileObject>> {
        let quiet = |file: &Arc<FileObject>, changed: Instant| {
            !file.is_held() && changed.elapsed() >= file.patience(leisure.idle) && file.stored().is_none()
        };
        let all = self.dirs.values().flat_map(|d| &d.pending);
        let wanted = all.filter(|(name, pending)| !leisure.put_off.puts_off(name, pending));
        let named = wanted.filter_map(|(_, p)| p.file().filter(|file| quiet(file, p.changed)));
        let orphans =
            self.orphans().filter(|content| quiet(&content.file, content.changed)).map(|content| &content.file);
        let mut seen = HashSet::new();
        named.chain(orphans).filter(|file| seen.insert(Arc::as_ptr(file))).map(Arc::clone).collect()
    }

    /// Directories on the grid that are to be published.
    fn due_dirs(&self, leisure: &Leisure) -> Vec<DirId> {
        let mut known = HashMap::new();
        let mut due = |(id, d): &(&DirId, &Dir)| {
            let ready: Vec<_> = d.pending.values().filter(|p| !p.rides_along && self.can_go(p)).collect();
            let is_old = ready.iter().any(|p| p.since.elapsed() >= leisure.idle * OLDEST);
            let entries = d.table.as_ref().map_or(0, |table| table.entries.len());
            // What is published so grows by half at least: all publishes together cost a few times the last.
            let is_large = ready.len() > MANY.max(entries);
            d.node.is_some() && !ready.is_empty() && (is_large || is_old || self.is_ripe(**id, leisure, &mut known))
        };
        let mut on_grid: Vec<_> = self.dirs.iter().filter(|(_, d)| !d.pending.is_empty()).collect();
        on_grid.sort_by_key(|(id, _)| **id);
        on_grid.into_iter().filter(|dir| due(dir)).map(|(id, _)| *id).collect()
    }

    /// Whether a change can be published now: what it names is stored and nobody is writing to it, and it does not wait
    /// for one that cannot.
    fn can_go(&self, pending: &Pending) -> bool {
        let is_stored = |p: &Pending| p.file().is_none_or(|file| !file.is_held() && file.stored().is_some());
        let first = pending.after.as_ref().and_then(|(dir, name)| self.dirs.get(dir)?.pending.get(name));
        is_stored(pending) && first.is_none_or(is_stored)
    }

    /// Whether a directory, and all in it that is not on the grid, has been left alone and lacks nothing.
    fn is_ripe(&self, dir: DirId, leisure: &Leisure, known: &mut HashMap<DirId, bool>) -> bool {
        if let Some(ripe) = known.get(&dir) {
            return *ripe;
        }
        known.insert(dir, true);
        let Some(d) = self.dirs.get(&dir) else { return true };
        let ripe = d.changed.elapsed() >= leisure.idle
            && d.pending.iter().all(|(name, p)| match p.wanted.as_ref().map(|entry| &entry.target) {
                Some(Target::File(file)) => {
                    file.is_held() || file.stored().is_some() || leisure.put_off.puts_off(name, p)
                }
                Some(Target::Directory(child)) if self.dirs.get(child).is_some_and(|c| c.cap.is_none()) => {
                    self.is_ripe(*child, leisure, known)
                }
                _ => true,
            });
        known.insert(dir, ripe);
        ripe
    }
}
