//! What other clients have changed in directories that are in use: looked for in the background, and told to whoever
//! keeps names and attributes, the kernel.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use super::{DirId, State, Writeback};
use crate::node::{Freshness, Name, Table};
use crate::util::{Cx, Priority};

/// How long names and attributes may be kept that [`Writeback::is_watched`] says will be told of.
pub const LASTING: Duration = Duration::from_secs(60);
/// How long a directory is watched after that was last said: a little longer.
const WATCHED_FOR: Duration = Duration::from_secs(70);
/// Directories that are watched at the same time.
const WATCHED: usize = 64;
/// Directories that are asked for at the same time.
const PARALLEL_PROBES: usize = 4;
/// Names of a directory that are told one by one.
const NAMES: usize = 1024;
/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(500);

/// Changes by others that nobody has taken yet: at most [`NAMES`] names for each directory that is watched.
#[derive(Default)]
pub struct News {
    told: Mutex<HashMap<DirId, Changed>>,
    bell: Condvar,
    is_heard: AtomicBool,
}

/// Names in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These.
    Names(HashSet<Name>),
    /// Any.
    All,
}

impl News {
    /// Somebody is going to listen from now on.
    pub fn listen(&self) {
        self.is_heard.store(true, Ordering::Relaxed);
    }

    /// Takes what there is; waits for it for so long, on a thread that may.
    pub fn wait(&self, limit: Duration) -> Vec<(DirId, Changed)> {
        let told = self.told.lock().unwrap_or_else(|e| e.into_inner());
        let waited = self.bell.wait_timeout_while(told, limit, |told| told.is_empty());
        let (mut told, _) = waited.unwrap_or_else(|e| e.into_inner());
        told.drain().collect()
    }

    pub(super) fn tell(&self, dir: DirId, names: Vec<Name>) {
        if names.is_empty() || !self.is_heard.load(Ordering::Relaxed) {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(|e| e.into_inner());
        let changed = told.entry(dir).or_insert_with(|| Changed::Names(HashSet::new()));
        if let Changed::Names(known) = changed {
            known.extend(names);
            if known.len() > NAMES {
                *changed = Changed::All;
            }
        }
        drop(told);
        self.bell.notify_all();
    }
}

impl Writeback {
    /// Where changes by others in watched directories are told.
    pub fn news(&self) -> Arc<News> {
        Arc::clone(&self.state().news)
    }

    /// A name in a directory that several paths lead to was changed here; `false` if nobody listens.
    pub fn changed_here(&self, dir: DirId, name: &Name) -> bool {
        let news = self.news();
        news.tell(dir, vec![Arc::clone(name)]);
        news.is_heard.load(Ordering::Relaxed)
    }

    /// Somebody looks at a directory: it is watched from now on, unless too many others are.
    pub fn watch(&self, dir: DirId) {
        let mut state = self.state();
        if !state.news.is_heard.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        if !state.watched.contains_key(&dir) && state.watched.len() >= WATCHED {
            state.watched.retain(|_, used| used.elapsed() < WATCHED_FOR);
        }
        if state.watched.contains_key(&dir) || state.watched.len() < WATCHED {
            state.watched.insert(dir, now);
            drop(state);
            self.watching.notify_one();
        }
    }

    /// Whether changes by others in a directory are told for [`LASTING`] at least.
    pub fn is_watched(&self, dir: DirId) -> bool {
        let mut state = self.state();
        match state.watched.get_mut(&dir) {
            Some(used) if used.elapsed() < WATCHED_FOR => {
                *used = Instant::now();
                true
            }
            _ => false,
        }
    }

    /// Looks again and again, for ever, whether others have changed directories that are watched.
    pub(super) async fn look_out(&self) {
        let cx = self.base.with_priority(Priority::Background);
        loop {
            let watched = {
                let mut state = self.state();
                state.watched.retain(|_, used| used.elapsed() < WATCHED_FOR);
                state.watched.len()
            };
            if watched == 0 {
                self.watching.notified().await;
            }
            tokio::select! {
                () = sleep(self.options.refresh.max(SHORTEST)) => {}
                () = self.expired.notified() => {}
            }
            if !self.is_grid_away() {
                self.look_at_watched(&cx.child()).await;
            }
        }
    }

    async fn look_at_watched(&self, cx: &Cx) {
        let (due, expiries): (Vec<_>, u64) = {
            let state = self.state();
            let dirs = state.watched.keys().filter_map(|id| Some((*id, state.dirs.get(id)?)));
            // What somebody has looked at since the last time is fresh enough.
            let half = self.options.refresh / 2;
            let due = dirs.filter(|(_, d)| d.table.is_some() && d.checked.is_none_or(|at| at.elapsed() >= half));
            (due.filter_map(|(id, d)| Some((id, d.node.clone()?))).collect(), state.expiries)
        };
        stream::iter(due)
            .for_each_concurrent(PARALLEL_PROBES, |(dir, node)| async move {
                if self.is_grid_away() {
                    return;
                }
                let asked = Instant::now();
                match cx.run(node.probe(cx, Freshness::Recent)).await.unwrap_or_else(|e| Err(e.into())) {
                    Ok(true) => drop(self.load(cx, dir, Freshness::Newest).await),
                    Ok(false) => {
                        let mut state = self.state();
                        let is_new = state.expiries == expiries;
                        if let Some(d) = state.dirs.get_mut(&dir).filter(|_| is_new) {
                            d.checked = d.checked.max(Some(asked));
                        }
                    }
                    Err(error) if error.is_away() => self.grid_is_away(),
                    Err(error) => tracing::debug!(%error, "a directory in use could not be looked at"),
                }
            })
            .await;
    }
}

impl State {
    /// Takes over the newest table of a directory, after something that set out when there had been so many expiries. What
    /// shows other than before is told.
    pub(super) fn install(&mut self, dir: DirId, expiries: u64) {
        let is_watched = self.watched.contains_key(&dir);
        let Some(d) = self.dirs.get_mut(&dir) else { return };
        // Whatever was read or made meanwhile is in it.
        let Some(table) = d.node.as_ref().and_then(|node| node.last()) else { return };
        let mut changed = match &d.table {
            Some(old) if is_watched && !Arc::ptr_eq(old, &table) => differences(old, &table),
            _ => Vec::new(),
        };
        changed.retain(|name| !d.pending.contains_key(name));
        d.install(table);
        if expiries != self.expiries {
            d.checked = None;
        }
        self.news.tell(dir, changed);
    }

    /// What a name shows is another's now.
    pub(super) fn tell(&self, dir: DirId, name: &Name) {
        if self.watched.contains_key(&dir) {
            self.news.tell(dir, vec![Arc::clone(name)]);
        }
    }
}

/// The names under which two tables differ.
fn differences(old: &Table, new: &Table) -> Vec<Name> {
    let is_other = |name: &Name, child| {
        let was: Option<&crate::node::Child> = old.entries.get(name);
        let now: &crate::node::Child = child;
        was.is_none_or(|was| was.cap != now.cap || was.metadata != now.metadata)
    };
    let there = new.entries.iter().filter(|(name, child)| is_other(name, child)).map(|(name, _)| name);
    let gone = old.entries.keys().filter(|name| !new.entries.contains_key(*name));
    there.chain(gone).map(Arc::clone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_become_all_and_nobody_listening_costs_nothing() {
        let news = News::default();
        let name = |n: usize| -> Name { format!("n{n}").into() };
        news.tell(DirId(1), vec![name(1)]);
        assert_eq!(news.wait(Duration::ZERO), []);
        news.listen();
        news.tell(DirId(1), vec![name(1)]);
        news.tell(DirId(1), vec![name(2), name(1)]);
        let two = Changed::Names(HashSet::from([name(1), name(2)]));
        assert_eq!(news.wait(Duration::ZERO), [(DirId(1), two)]);
        news.tell(DirId(1), (0..=NAMES).map(name).collect());
        news.tell(DirId(1), vec![name(1)]);
        assert_eq!(news.wait(Duration::ZERO), [(DirId(1), Changed::All)]);
    }
}
