//! Finding shares: servers are asked in permuted order, a few at a time, for as long as more shares are wanted.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::share::Share;
use crate::cap::StorageIndex;
use crate::grid::{Grid, Server};
use crate::storage::{ShareKind, ShareNumber, StorageError, StorageServer};
use crate::util::Cx;

/// Queries that are waited for at a time.
const IN_FLIGHT: usize = 10;

/// A query that takes longer no longer keeps others from being made.
const PROMPT: Duration = Duration::from_secs(2);

/// Servers that failed are asked last for so long.
pub(super) const ASIDE: Duration = Duration::from_secs(30);

/// The shares of one file, as far as they have been found.
#[derive(Default)]
pub(super) struct Finder {
    shares: Mutex<Vec<Arc<Share>>>,
    exhausted: AtomicBool,
    search: tokio::sync::Mutex<Search>,
}

type Answer = (Arc<Server>, Result<BTreeSet<ShareNumber>, StorageError>);

#[derive(Default)]
struct Search {
    began: bool,
    left: VecDeque<Arc<Server>>,
    queries: JoinSet<Answer>,
    /// When the queries that still count were made, oldest first.
    made: VecDeque<Instant>,
}

impl Finder {
    /// The shares found so far.
    pub fn shares(&self) -> Vec<Arc<Share>> {
        self.lock().clone()
    }

    /// Whether every server has been asked and has answered or failed.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Acquire)
    }

    /// Forgets what was found, so that all servers are asked once more.
    pub async fn restart(&self) {
        let mut search = self.search.lock().await;
        *search = Search::default();
        self.lock().clear();
        self.exhausted.store(false, Ordering::Release);
    }

    /// Goes on until a server answers, or it is time to ask another, or all have been asked. May be dropped at any
    /// time: queries under way are kept.
    pub async fn advance(&self, grid: &Grid, cx: &Cx, si: StorageIndex, total: u32) {
        let mut search = self.search.lock().await;
        if self.is_exhausted() {
            return;
        }
        if !search.began {
            search.began = true;
            let (last, first): (Vec<_>, Vec<_>) = grid.permuted(si).into_iter().partition(|s| s.is_set_aside());
            search.left = first.into_iter().chain(last).collect();
        }
        while search.made.front().is_some_and(|made| made.elapsed() >= PROMPT) {
            search.made.pop_front();
        }
        while search.made.len() < IN_FLIGHT {
            let Some(server) = search.left.pop_front() else { break };
            search.made.push_back(Instant::now());
            let cx = cx.clone();
            search.queries.spawn(async move {
                let answer = server.list_shares(&cx, ShareKind::Immutable, si).await;
                (server, answer)
            });
        }
        let widen = match (search.left.is_empty(), search.made.front()) {
            (false, Some(made)) => *made + PROMPT,
            _ => Instant::now() + PROMPT,
        };
        let mut answer = tokio::select! {
            answer = search.queries.join_next() => answer,
            () = tokio::time::sleep_until(widen) => return,
        };
        while let Some(one) = answer {
            search.made.pop_front();
            if let Ok((server, answer)) = one {
                self.take_in(server, answer, total);
            }
            answer = search.queries.try_join_next();
        }
        if search.queries.is_empty() && search.left.is_empty() {
            self.exhausted.store(true, Ordering::Release);
        }
    }

    fn take_in(&self, server: Arc<Server>, answer: Result<BTreeSet<ShareNumber>, StorageError>, total: u32) {
        match answer {
            Ok(numbers) => {
                let found = numbers.into_iter().filter(|&number| number < total);
                self.lock().extend(found.map(|number| Arc::new(Share::new(Arc::clone(&server), number))));
            }
            Err(StorageError::Stopped(_)) => {}
            Err(_) => server.set_aside(ASIDE),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Share>>> {
        self.shares.lock().unwrap_or_else(|e| e.into_inner())
    }
}
