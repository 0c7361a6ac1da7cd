//! Which servers take part in an upload, and what each of them holds, takes and refuses (PROTOCOL 10).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;

use super::ask::{Answer, Limits, Trial, ask_all, attempt, best_happiness};
use crate::cap::StorageIndex;
use crate::grid::placement::{Candidate, happiness, place};
use crate::grid::{Grid, Server};
use crate::node::NodeError;
use crate::storage::{Allocation, ShareNumber, StorageError, StorageServer, UploadSecret};
use crate::util::{Cx, Priority};

/// How long an upload that has failed waits for servers to confirm that they dropped its shares.
const ABORT_LIMIT: Duration = Duration::from_secs(5);

/// How many of the other servers' names follow one server's reason.
const NAMES: usize = 4;

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

/// What an uploader remembers of servers from one upload to the next.
#[derive(Clone, Default)]
pub(super) struct Memory {
    aborts: Aborts,
    limits: Limits,
}

/// The servers of one upload, and what is known of them. Servers are numbered by their place in the permuted order.
pub(super) struct Selection {
    pub servers: Vec<Arc<Server>>,
    /// What the servers held before.
    pub existing: ShareMap,
    /// Where the shares go that are to be written.
    pub allocated: BTreeMap<ShareNumber, usize>,
    /// What this upload has written.
    pub written: ShareMap,
    /// Shares that servers keep room for until they are complete or aborted.
    pub pending: Pending,
    wanted: Wanted,
    /// What each server holds or is about to, and whether it takes more.
    candidates: Vec<Candidate>,
    /// Placements that servers have agreed to.
    confirmed: BTreeSet<(ShareNumber, usize)>,
    /// Servers that refused for want of room.
    full: BTreeSet<usize>,
    /// What servers said that did not do what was asked: name and reason.
    reasons: Vec<(String, String)>,
    limits: Limits,
}

/// Finds room for an upload; where there is too little, those servers are tried as well that are set aside because they
/// could not be reached.
pub(super) async fn select(grid: &Grid, cx: &Cx, wanted: Wanted, memory: &Memory) -> Result<Selection, NodeError> {
    match select_once(grid, cx, wanted, memory).await {
        Err(NodeError::NotEnoughServers { .. } | NodeError::NoSpace) if grid.wake(cx).await => {
            select_once(grid, cx, wanted, memory).await
        }
        outcome => outcome,
    }
}

/// Asks the servers, places the shares and allocates room for them, again while servers refuse and others are left.
async fn select_once(grid: &Grid, cx: &Cx, wanted: Wanted, memory: &Memory) -> Result<Selection, NodeError> {
    memory.aborts.wait(wanted.storage_index).await;
    let mut servers = grid.permuted(wanted.storage_index);
    servers.retain(|s| grid.takes_new_shares(s));
    servers.truncate(2 * wanted.total as usize);
    let room = || Pending::new(grid, wanted.storage_index, servers.clone(), memory.aborts.clone());
    let mut pending = room();
    let trial = attempt(grid, cx, &servers, wanted, &memory.limits, &pending).await;
    if !matches!(trial, None | Some(Trial::Agreed(_))) {
        // A late abort of what was tried must not hit what is allocated now: the secrets are others.
        pending = room();
    }
    let mut selection = Selection {
        existing: ShareMap::new(),
        allocated: BTreeMap::new(),
        written: ShareMap::new(),
        pending,
        wanted,
        candidates: Vec::new(),
        confirmed: BTreeSet::new(),
        full: BTreeSet::new(),
        reasons: Vec::new(),
        limits: memory.limits.clone(),
        servers,
    };
    match trial {
        Some(Trial::Agreed(shares)) => selection.begin_empty(shares),
        Some(Trial::Found(holds)) => selection.begin_with(holds),
        None | Some(Trial::Open) => {
            let answers = ask_all(cx, &selection.servers, wanted, &memory.limits).await;
            selection.begin_after(answers);
        }
    }
    selection.place_all(grid, cx).await;
    let reached = selection.happiness(|_| true);
    if reached >= wanted.happy {
        return Ok(selection);
    }
    selection.pending.abort_all().await;
    Err(selection.unhappy(grid, reached))
}

impl Selection {
    /// All servers held nothing, and have agreed to the shares that they are given.
    fn begin_empty(&mut self, shares: Vec<BTreeSet<ShareNumber>>) {
        for (number, holds) in shares.into_iter().enumerate() {
            self.allocated.extend(holds.iter().map(|&share| (share, number)));
            self.confirmed.extend(holds.iter().map(|&share| (share, number)));
            self.candidates.push(Candidate { writable: true, holds });
        }
    }

    /// All servers have room, and have said what they hold and renewed the leases on it.
    fn begin_with(&mut self, holds: Vec<BTreeSet<ShareNumber>>) {
        for (number, holds) in holds.into_iter().enumerate() {
            self.confirmed.extend(holds.iter().map(|&share| (share, number)));
            self.candidates.push(Candidate { writable: true, holds });
        }
        self.existing = held(&self.candidates);
    }

    /// Servers were asked what they hold and take.
    fn begin_after(&mut self, answers: Vec<Answer>) {
        for (number, Answer { candidate, trouble }) in answers.into_iter().enumerate() {
            match trouble {
                Some(StorageError::NoSpace) => drop(self.full.insert(number)),
                Some(error) => self.note(number, &error),
                None => {}
            }
            self.candidates.push(candidate);
        }
        self.existing = held(&self.candidates);
    }

    /// Happiness when, of the shares still to be written, only those that `live` names come to be.
    pub fn happiness(&self, live: impl Fn(ShareNumber) -> bool) -> usize {
        let mut map = self.existing.clone();
        self.written.iter().for_each(|(&share, servers)| map.entry(share).or_default().extend(servers));
        for (&share, &server) in self.allocated.iter().filter(|(share, _)| live(**share)) {
            map.entry(share).or_default().insert(server);
        }
        happiness(&map)
    }

    /// Whether the servers that are left can still hold the shares happily.
    pub fn is_possible(&self) -> bool {
        best_happiness(&self.candidates, self.wanted.total) >= self.wanted.happy
    }

    /// A share is complete.
    pub fn complete(&mut self, share: ShareNumber) {
        if let Some(number) = self.allocated.remove(&share) {
            self.pending.settled(number, share);
            self.written.entry(share).or_default().insert(number);
        }
    }

    /// A server has failed while `share` was written to it: it gets nothing more in this upload.
    pub fn lost(&mut self, share: ShareNumber, error: &StorageError) {
        let Some(number) = self.allocated.remove(&share) else { return };
        self.note(number, error);
        self.pending.abort(number, share);
        self.confirmed.remove(&(share, number));
        self.candidates[number].writable = false;
        self.candidates[number].holds.remove(&share);
        self.limits.forget(&self.servers[number]);
        if *error == StorageError::NoSpace {
            self.full.insert(number);
        }
    }

    /// Places and allocates until every share has a home or no server is left that has not refused. Each round but
    /// the last takes a server out, so there are no more of them than servers. What was agreed before stays, but for
    /// shares that move to where they add to happiness.
    pub async fn place_all(&mut self, grid: &Grid, cx: &Cx) {
        loop {
            let mut requests: BTreeMap<usize, BTreeSet<ShareNumber>> = BTreeMap::new();
            for (share, server) in place(&self.candidates, self.wanted.total) {
                if !self.confirmed.contains(&(share, server)) {
                    requests.entry(server).or_default().insert(share);
                }
            }
            if requests.is_empty() {
                return;
            }
            let answers = join_all(requests.iter().map(|(&number, shares)| {
                let server = &self.servers[number];
                let lease = grid.lease(self.wanted.storage_index, server);
                let secret = self.pending.expect(number, shares);
                let Wanted { storage_index, share_size, .. } = self.wanted;
                async move { server.allocate(cx, storage_index, shares, share_size, &secret, &lease).await }
            }))
            .await;
            let mut changed = false;
            for ((number, shares), answer) in requests.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        changed |= self.agreed(number, &shares, &answer);
                        self.confirmed.extend(shares.iter().map(|&share| (share, number)));
                    }
                    Err(error) => changed |= self.failed(number, &shares, &error),
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Takes an answer in; `true` when the server refused a share.
    fn agreed(&mut self, number: usize, asked: &BTreeSet<ShareNumber>, answer: &Allocation) -> bool {
        for &share in answer.already_have.iter().filter(|&&share| share < self.wanted.total) {
            let ours = self.written.get(&share).is_some_and(|servers| servers.contains(&number));
            if !ours && self.allocated.get(&share) != Some(&number) {
                self.existing.entry(share).or_default().insert(number);
                self.candidates[number].holds.insert(share);
            }
        }
        for &share in answer.allocated.intersection(asked) {
            self.candidates[number].holds.insert(share);
            if let Some(before) = self.allocated.insert(share, number) {
                // The share moves to where it adds to happiness.
                self.candidates[before].holds.remove(&share);
                self.confirmed.remove(&(share, before));
                self.pending.abort(before, share);
            }
        }
        for &share in asked.difference(&answer.allocated) {
            self.pending.settled(number, share);
        }
        let refused = asked.iter().any(|s| !answer.allocated.contains(s) && !answer.already_have.contains(s));
        if refused {
            self.note(number, &"it refused some shares, or others are uploading them");
            self.limits.forget(&self.servers[number]);
            self.candidates[number].writable = false;
            self.full.insert(number);
        }
        refused
    }

    /// Takes a failure in; `true` when that changes what the next round would place.
    fn failed(&mut self, number: usize, asked: &BTreeSet<ShareNumber>, error: &StorageError) -> bool {
        self.note(number, error);
        self.limits.forget(&self.servers[number]);
        if *error == StorageError::NoSpace {
            self.full.insert(number);
        }
        asked.iter().for_each(|&share| self.pending.abort(number, share));
        let was = self.candidates[number].clone();
        self.candidates[number].writable = false;
        // A full server fails so although it holds what it listed; one that is gone holds nothing.
        if matches!(error, StorageError::Unreachable(_) | StorageError::Unauthorized(_) | StorageError::Stopped(_)) {
            self.candidates[number].holds.clear();
            for map in [&mut self.existing, &mut self.written] {
                map.retain(|_, servers| {
                    servers.remove(&number);
                    !servers.is_empty()
                });
            }
            let lost: Vec<ShareNumber> =
                self.allocated.iter().filter(|(_, s)| **s == number).map(|(share, _)| *share).collect();
            for share in lost {
                self.allocated.remove(&share);
                self.pending.abort(number, share);
            }
        }
        was != self.candidates[number]
    }

    fn note(&mut self, number: usize, what: &dyn std::fmt::Display) {
        self.reasons.push((self.servers[number].name(), what.to_string()));
    }

    /// Why `reached` is all the happiness there is.
    pub fn unhappy(&self, grid: &Grid, reached: usize) -> NodeError {
        let mut roomy = self.candidates.clone();
        self.full.iter().for_each(|&number| roomy[number].writable = true);
        if best_happiness(&roomy, self.wanted.total) >= self.wanted.happy {
            return NodeError::NoSpace;
        }
        NodeError::NotEnoughServers {
            happiness: reached,
            wanted: self.wanted.happy,
            reason: explain(&self.reasons, grid.locked_out(), grid.uncertified()),
        }
    }
}

/// What keeps us out everywhere, or the first server's reason and who else had one.
fn explain(reasons: &[(String, String)], locked_out: Option<String>, uncertified: Option<String>) -> String {
    if let Some(why) = locked_out {
        return why;
    }
    let mut parts: Vec<String> = uncertified.into_iter().collect();
    if let Some((first, why)) = reasons.first() {
        parts.push(format!("{first}: {why}"));
        let others: BTreeSet<&str> = reasons.iter().map(|(name, _)| &**name).filter(|name| name != first).collect();
        let names = others.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
        let rest = if others.len() > NAMES { " and others" } else { "" };
        match others.len() {
            0 => {}
            1 => parts.push(format!("and 1 more server: {names}")),
            n => parts.push(format!("and {n} more servers: {names}{rest}")),
        }
    }
    parts.join("; ")
}

pub(super) fn held(candidates: &[Candidate]) -> ShareMap {
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
struct Aborts(Arc<Mutex<HashMap<StorageIndex, Vec<JoinHandle<()>>>>>);

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
    pub fn expect(&self, server: usize, shares: &BTreeSet<ShareNumber>) -> UploadSecret {
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

    /// Gives up all but what servers of these numbers may keep, and waits a little for the others to say so.
    pub async fn abort_but(&self, late: &BTreeSet<usize>) {
        let (left, prompt) =
            std::mem::take(&mut *self.lock()).into_iter().partition(|(server, _)| late.contains(server));
        *self.lock() = left;
        self.spawn(prompt);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_said_in_full_and_the_others_are_counted() {
        let long = "a reason ".repeat(50);
        let reasons = |count: usize| -> Vec<(String, String)> {
            (0..count).map(|n| (format!("server {n}"), if n == 0 { long.clone() } else { "other".into() })).collect()
        };
        assert_eq!(explain(&[], None, None), "");
        assert_eq!(explain(&reasons(1), None, None), format!("server 0: {long}"));
        assert_eq!(explain(&reasons(2), None, None), format!("server 0: {long}; and 1 more server: server 1"));
        let names = "server 1, server 2, server 3, server 4";
        assert_eq!(explain(&reasons(5), None, None), format!("server 0: {long}; and 4 more servers: {names}"));
        let text = explain(&reasons(9), None, Some("not certified".into()));
        assert_eq!(text, format!("not certified; server 0: {long}; and 8 more servers: {names} and others"));
        assert_eq!(explain(&reasons(9), Some("locked out".into()), Some("x".into())), "locked out");
    }
}
