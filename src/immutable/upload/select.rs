//! Which servers take part in an upload, and what each of them holds, takes and refuses (PROTOCOL 10).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;

use crate::cap::StorageIndex;
use crate::grid::placement::{Candidate, happiness, place};
use crate::grid::{Grid, Server};
use crate::node::NodeError;
use crate::storage::{Allocation, ShareKind, ShareNumber, StorageError, StorageServer, UploadSecret};
use crate::util::{Cx, Priority};

/// How long a server is waited for that failed or was late a while ago.
const SUSPECT_LIMIT: Duration = Duration::from_secs(2);

/// How long an upload that has failed waits for servers to confirm that they dropped its shares.
const ABORT_LIMIT: Duration = Duration::from_secs(5);

/// The longest explanation of a failed upload, in characters.
const REASON_LIMIT: usize = 200;

/// Which servers hold which share.
pub(super) type ShareMap = BTreeMap<ShareNumber, BTreeSet<usize>>;

/// What is looked for: where `total` shares of `share_size` bytes may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub storage_index: StorageIndex,
    pub total: u32,
    pub happy: usize,
    pub share_size: u64,
}

/// The servers of one upload. Servers are numbered by their place in the permuted order.
pub(super) struct Selection {
    pub servers: Vec<Arc<Server>>,
    /// What the servers held before.
    pub existing: ShareMap,
    /// Where the shares go that are to be written.
    pub allocated: BTreeMap<ShareNumber, usize>,
    /// Shares that servers keep room for until they are complete or aborted.
    pub pending: Pending,
}

impl Selection {
    /// Happiness when, of the shares to be written, only those that `live` names come to be.
    pub fn happiness(&self, live: impl Fn(ShareNumber) -> bool) -> usize {
        let mut map = self.existing.clone();
        for (&share, &server) in self.allocated.iter().filter(|(share, _)| live(**share)) {
            map.entry(share).or_default().insert(server);
        }
        happiness(&map)
    }
}

/// Finds room for an upload; where there is too little, those servers are tried as well that are set aside because they
/// could not be reached.
pub(super) async fn select(grid: &Grid, cx: &Cx, wanted: Wanted, aborts: &Aborts) -> Result<Selection, NodeError> {
    match select_once(grid, cx, wanted, aborts).await {
        Err(NodeError::NotEnoughServers { .. } | NodeError::NoSpace) if grid.wake(cx).await => {
            select_once(grid, cx, wanted, aborts).await
        }
        outcome => outcome,
    }
}

/// Asks the servers, places the shares and allocates room for them, again while servers refuse and others are left.
async fn select_once(grid: &Grid, cx: &Cx, wanted: Wanted, aborts: &Aborts) -> Result<Selection, NodeError> {
    aborts.wait(wanted.storage_index).await;
    let mut servers = grid.permuted(wanted.storage_index);
    servers.retain(|s| grid.takes_new_shares(s));
    servers.truncate(2 * wanted.total as usize);
    let asked = join_all(servers.iter().map(|server| ask(cx, server, wanted))).await;
    let mut round = Round { wanted, candidates: Vec::new(), full: BTreeSet::new(), reasons: Vec::new() };
    for (number, (candidate, trouble)) in asked.into_iter().enumerate() {
        match trouble {
            Some(StorageError::NoSpace) => {
                round.full.insert(number);
            }
            Some(error) => round.note(&servers[number], &error),
            None => {}
        }
        round.candidates.push(candidate);
    }
    let existing = held(&round.candidates);
    let pending = Pending::new(grid, wanted.storage_index, servers.clone(), aborts.clone());
    let mut selection = Selection { servers, existing, allocated: BTreeMap::new(), pending };
    round.allocate(grid, cx, &mut selection).await;

    let reached = selection.happiness(|_| true);
    if reached >= wanted.happy {
        return Ok(selection);
    }
    selection.pending.abort_all().await;
    Err(round.unhappy(reached))
}

/// What one server holds and takes. The error is [`StorageError::NoSpace`] for one that has no room.
async fn ask(cx: &Cx, server: &Server, wanted: Wanted) -> (Candidate, Option<StorageError>) {
    let suspect = server.is_set_aside() || server.health().last_error.is_some();
    let cx = if suspect { cx.with_timeout(SUSPECT_LIMIT) } else { cx.clone() };
    let (status, listed) =
        futures::join!(server.status(&cx), server.list_shares(&cx, ShareKind::Immutable, wanted.storage_index));
    let mut holds = match listed {
        Ok(holds) => holds,
        Err(error) => return (Candidate::default(), Some(error)),
    };
    holds.retain(|&share| share < wanted.total);
    match status {
        Ok(status) if status.maximum_immutable_share_size >= wanted.share_size => {
            (Candidate { writable: true, holds }, None)
        }
        Ok(_) => (Candidate { writable: false, holds }, Some(StorageError::NoSpace)),
        Err(error) => (Candidate { writable: false, holds }, Some(error)),
    }
}

/// What is known of the servers while shares are placed.
struct Round {
    wanted: Wanted,
    candidates: Vec<Candidate>,
    /// Servers that refused for want of room.
    full: BTreeSet<usize>,
    reasons: Vec<String>,
}

impl Round {
    /// Places and allocates until every share has a home or no server is left that has not refused. Each round but
    /// the last takes a server out, so there are no more of them than servers.
    async fn allocate(&mut self, grid: &Grid, cx: &Cx, selection: &mut Selection) {
        let mut confirmed: BTreeSet<(ShareNumber, usize)> = BTreeSet::new();
        loop {
            let mut requests: BTreeMap<usize, BTreeSet<ShareNumber>> = BTreeMap::new();
            for (share, server) in place(&self.candidates, self.wanted.total) {
                if !confirmed.contains(&(share, server)) {
                    requests.entry(server).or_default().insert(share);
                }
            }
            if requests.is_empty() {
                return;
            }
            let answers = join_all(requests.iter().map(|(&number, shares)| {
                let server = &selection.servers[number];
                let lease = grid.lease(self.wanted.storage_index, server);
                let secret = selection.pending.expect(number, shares);
                let Wanted { storage_index, share_size, .. } = self.wanted;
                async move { server.allocate(cx, storage_index, shares, share_size, &secret, &lease).await }
            }))
            .await;
            let mut changed = false;
            for ((number, shares), answer) in requests.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        changed |= self.allocated(selection, number, &shares, &answer);
                        confirmed.extend(shares.iter().map(|&share| (share, number)));
                    }
                    Err(error) => changed |= self.failed(selection, number, &shares, &error),
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Takes an answer in; `true` when the server refused a share.
    fn allocated(
        &mut self,
        selection: &mut Selection,
        number: usize,
        asked: &BTreeSet<ShareNumber>,
        answer: &Allocation,
    ) -> bool {
        for &share in answer.already_have.iter().filter(|&&share| share < self.wanted.total) {
            if selection.allocated.get(&share) != Some(&number) {
                selection.existing.entry(share).or_default().insert(number);
                self.candidates[number].holds.insert(share);
            }
        }
        for &share in answer.allocated.intersection(asked) {
            self.candidates[number].holds.insert(share);
            if let Some(before) = selection.allocated.insert(share, number) {
                // The share moves to where it adds to happiness.
                self.candidates[before].holds.remove(&share);
                selection.pending.abort(before, share);
            }
        }
        for &share in asked.difference(&answer.allocated) {
            selection.pending.settled(number, share);
        }
        let refused = asked.iter().any(|s| !answer.allocated.contains(s) && !answer.already_have.contains(s));
        if refused {
            self.note(&selection.servers[number], &"it refused some shares, or others are uploading them");
            self.candidates[number].writable = false;
            self.full.insert(number);
        }
        refused
    }

    /// Takes a failure in; `true` when that changes what the next round would place.
    fn failed(
        &mut self,
        selection: &mut Selection,
        number: usize,
        asked: &BTreeSet<ShareNumber>,
        error: &StorageError,
    ) -> bool {
        self.note(&selection.servers[number], error);
        if *error == StorageError::NoSpace {
            self.full.insert(number);
        }
        asked.iter().for_each(|&share| selection.pending.abort(number, share));
        let candidate = &mut self.candidates[number];
        let was = candidate.clone();
        candidate.writable = false;
        // A full server fails so although it holds what it listed; one that is gone holds nothing.
        if matches!(error, StorageError::Unreachable(_) | StorageError::Stopped(_)) {
            candidate.holds.clear();
            selection.existing.retain(|_, servers| {
                servers.remove(&number);
                !servers.is_empty()
            });
            let lost: Vec<ShareNumber> =
                selection.allocated.iter().filter(|(_, s)| **s == number).map(|(share, _)| *share).collect();
            for share in lost {
                selection.allocated.remove(&share);
                selection.pending.abort(number, share);
            }
        }
        was != *candidate
    }

    fn note(&mut self, server: &Server, what: &dyn std::fmt::Display) {
        let name = if server.info().nickname.is_empty() { &server.info().id } else { &server.info().nickname };
        self.reasons.push(format!("{name}: {what}"));
    }

    fn unhappy(self, reached: usize) -> NodeError {
        let mut roomy = self.candidates.clone();
        self.full.iter().for_each(|&number| roomy[number].writable = true);
        let mut possible = held(&roomy);
        for (share, server) in place(&roomy, self.wanted.total) {
            possible.entry(share).or_default().insert(server);
        }
        if happiness(&possible) >= self.wanted.happy {
            return NodeError::NoSpace;
        }
        NodeError::NotEnoughServers {
            happiness: reached,
            wanted: self.wanted.happy,
            reason: self.reasons.join("; ").chars().take(REASON_LIMIT).collect(),
        }
    }
}

fn held(candidates: &[Candidate]) -> ShareMap {
    let mut map = ShareMap::new();
    for (number, candidate) in candidates.iter().enumerate() {
        for &share in &candidate.holds {
            map.entry(share).or_default().insert(number);
        }
    }
    map
}

/// Aborts that servers have not confirmed yet: a new upload of the same storage index waits for them a little, because
/// servers refuse shares that are being uploaded already.
#[derive(Clone, Default)]
pub(super) struct Aborts(Arc<Mutex<HashMap<StorageIndex, Vec<JoinHandle<()>>>>>);

impl Aborts {
    fn add(&self, si: StorageIndex, task: JoinHandle<()>) {
        let mut tasks = self.lock();
        tasks.retain(|_, tasks| tasks.iter().any(|task| !task.is_finished()));
        tasks.entry(si).or_default().push(task);
    }

    async fn wait(&self, si: StorageIndex) {
        let tasks = self.lock().remove(&si).unwrap_or_default();
        let _ = tokio::time::timeout(ABORT_LIMIT, join_all(tasks)).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StorageIndex, Vec<JoinHandle<()>>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The room that servers keep for an upload. What is neither complete nor aborted when this is dropped is aborted in
/// the background.
pub(super) struct Pending {
    storage_index: StorageIndex,
    servers: Vec<Arc<Server>>,
    secrets: Vec<UploadSecret>,
    shares: Mutex<BTreeSet<(usize, ShareNumber)>>,
    aborts: Aborts,
}

impl Pending {
    fn new(grid: &Grid, storage_index: StorageIndex, servers: Vec<Arc<Server>>, aborts: Aborts) -> Pending {
        let secrets = servers.iter().map(|_| UploadSecret(grid.rng().bytes())).collect();
        Pending { storage_index, servers, secrets, shares: Mutex::default(), aborts }
    }

    /// The secret that belongs to a server.
    pub fn secret(&self, server: usize) -> UploadSecret {
        self.secrets[server].clone()
    }

    /// Notes that room is about to be asked for.
    fn expect(&self, server: usize, shares: &BTreeSet<ShareNumber>) -> UploadSecret {
        self.lock().extend(shares.iter().map(|&share| (server, share)));
        self.secret(server)
    }

    /// Notes that a share is complete, or that no room was given.
    pub fn settled(&self, server: usize, share: ShareNumber) {
        self.lock().remove(&(server, share));
    }

    /// Gives up one share, in the background.
    pub fn abort(&self, server: usize, share: ShareNumber) {
        if self.lock().remove(&(server, share)) {
            self.spawn(BTreeSet::from([(server, share)]));
        }
    }

    /// Gives up all that is left, and waits a little for the servers to say so.
    pub async fn abort_all(&self) {
        let left = std::mem::take(&mut *self.lock());
        self.spawn(left);
        self.aborts.wait(self.storage_index).await;
    }

    fn spawn(&self, shares: BTreeSet<(usize, ShareNumber)>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if shares.is_empty() {
            return;
        }
        let si = self.storage_index;
        let jobs: Vec<_> = shares
            .into_iter()
            .map(|(server, share)| (Arc::clone(&self.servers[server]), self.secret(server), share))
            .collect();
        let task = runtime.spawn(async move {
            let cx = Cx::new(Priority::Background, 1);
            // Servers forget uploads by themselves after half an hour; a failure here needs no answer.
            join_all(jobs.iter().map(|(server, secret, share)| server.abort_share(&cx, si, *share, secret))).await;
        });
        self.aborts.add(si, task);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(usize, ShareNumber)>> {
        self.shares.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let left = std::mem::take(&mut *self.lock());
        self.spawn(left);
    }
}
