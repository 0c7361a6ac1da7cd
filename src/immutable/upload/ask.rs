//! What servers say when an upload asks them for room: what they hold already, and what they take.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::select::{Pending, Wanted, held};
use crate::grid::placement::{Candidate, happiness, place};
use crate::grid::{Grid, Server};
use crate::storage::{Allocation, ShareKind, ShareNumber, StorageError, StorageServer};
use crate::util::Cx;

/// How long a server is waited for that failed or was late a while ago.
const SUSPECT_LIMIT: Duration = Duration::from_secs(2);

/// How long it is waited for where the others suffice; more if they took longer.
const SUSPECT_GRACE: Duration = Duration::from_millis(250);

/// How long any server is waited for once others suffice.
const LATE_GRACE: Duration = Duration::from_secs(5);

/// How long a server that was late counts as suspect.
const LATE_ASIDE: Duration = Duration::from_secs(60);

/// How long a server's word on the largest share it takes counts. One that has become full meanwhile refuses.
const LIMIT_HOLDS: Duration = Duration::from_secs(30);

/// The largest share that each server takes, by its id, and when it said so.
#[derive(Clone, Default)]
pub(super) struct Limits {
    known: Arc<Mutex<HashMap<String, (Instant, u64)>>>,
    /// Held by the upload that asks all servers for theirs.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Limits {
    fn get(&self, server: &Server) -> Option<u64> {
        let limits = self.known.lock().unwrap_or_else(|e| e.into_inner());
        limits.get(&server.info().id).filter(|(at, _)| at.elapsed() < LIMIT_HOLDS).map(|(_, limit)| *limit)
    }

    fn set(&self, server: &Server, limit: u64) {
        let mut limits = self.known.lock().unwrap_or_else(|e| e.into_inner());
        limits.insert(server.info().id.clone(), (Instant::now(), limit));
    }

    /// Asks those servers that have not said it of late; several uploads at once ask them together. Who does not answer
    /// in time is set aside.
    async fn learn(&self, cx: &Cx, servers: &[Arc<Server>], wanted: Wanted) {
        let _asking = self.asking.lock().await;
        let suspect: Vec<bool> = servers.iter().map(|s| is_suspect(s)).collect();
        let is_known = |server: &Server| self.get(server).is_some();
        if suspect.contains(&true) || servers.iter().all(|s| is_known(s)) {
            return;
        }
        let asking = servers.iter().enumerate().map(|(number, server)| async move {
            if !is_known(server)
                && let Ok(status) = server.status(cx).await
            {
                self.set(server, status.maximum_immutable_share_size);
            }
            let writable = self.get(server).is_some_and(|limit| limit >= wanted.share_size);
            (number, Candidate { writable, holds: BTreeSet::new() })
        });
        let answers = gather(asking, &suspect, wanted, |candidate| candidate).await;
        let late = answers.iter().zip(servers).filter(|(answer, _)| answer.is_none());
        late.for_each(|(_, server)| server.set_aside(LATE_ASIDE));
    }

    /// The server has refused something: it is to be asked again.
    pub fn forget(&self, server: &Server) {
        self.known.lock().unwrap_or_else(|e| e.into_inner()).remove(&server.info().id);
    }
}

/// What one server holds and takes. The trouble is [`StorageError::NoSpace`] for one that has no room.
#[derive(Clone, Default)]
pub(super) struct Answer {
    pub candidate: Candidate,
    pub trouble: Option<StorageError>,
}

/// Asks all servers at once. Each may take as long as a request may, but once those that have answered suffice, the
/// others are waited for a little only, and less those of which nothing is to be hoped; who is late drops out.
pub(super) async fn ask_all(cx: &Cx, servers: &[Arc<Server>], wanted: Wanted, limits: &Limits) -> Vec<Answer> {
    let suspect: Vec<bool> = servers.iter().map(|s| is_suspect(s)).collect();
    let asking =
        servers.iter().zip(&suspect).enumerate().map(|(number, (server, &suspect))| async move {
            (number, ask(cx, server, suspect, wanted, limits).await)
        });
    let answers = gather(asking, &suspect, wanted, |answer| &answer.candidate).await;
    let or_late = |(answer, server): (Option<Answer>, &Arc<Server>)| {
        answer.unwrap_or_else(|| {
            server.set_aside(LATE_ASIDE);
            let trouble = Some(StorageError::Unreachable("no answer in time".into()));
            Answer { candidate: Candidate::default(), trouble }
        })
    };
    answers.into_iter().zip(servers).map(or_late).collect()
}

/// Whether nothing much is to be hoped of a server.
fn is_suspect(server: &Server) -> bool {
    server.is_set_aside() || server.health().last_error.is_some()
}

/// Waits for the servers' answers, by their numbers; there is none of those that are late.
async fn gather<T>(
    asking: impl Iterator<Item = impl Future<Output = (usize, T)>>,
    suspect: &[bool],
    wanted: Wanted,
    candidate: impl Fn(&T) -> &Candidate,
) -> Vec<Option<T>> {
    let began = Instant::now();
    let mut asking: FuturesUnordered<_> = asking.collect();
    let mut answers: Vec<Option<T>> = suspect.iter().map(|_| None).collect();
    let mut give_up: Option<Instant> = None;
    loop {
        let late = async {
            match give_up {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = asking.next() => match answer {
                Some((number, answer)) => answers[number] = Some(answer),
                None => break,
            },
            () = late => break,
        }
        if asking.is_empty() {
            break;
        }
        let only_suspects = answers.iter().zip(suspect).all(|(answer, suspect)| answer.is_some() || *suspect);
        let candidates =
            || answers.iter().map(|a| a.as_ref().map_or_else(Candidate::default, |a| candidate(a).clone()));
        if (give_up.is_none() || only_suspects) && suffice(candidates().collect(), wanted) {
            let wait = if only_suspects { SUSPECT_GRACE.max(began.elapsed()) } else { LATE_GRACE };
            give_up = Some(give_up.unwrap_or(Instant::now() + wait).min(Instant::now() + wait));
        }
    }
    answers
}

/// Whether the servers that have answered can hold the shares happily.
fn suffice(candidates: Vec<Candidate>, wanted: Wanted) -> bool {
    // Placing many shares on many servers takes a while, and is in vain before there are enough of them.
    let useful = candidates.iter().filter(|c| c.writable || !c.holds.is_empty()).count();
    useful >= wanted.happy && best_happiness(&candidates, wanted.total) >= wanted.happy
}

/// The happiness that a placement on these servers would have.
pub(super) fn best_happiness(candidates: &[Candidate], total: u32) -> usize {
    let mut map = held(candidates);
    for (share, server) in place(candidates, total) {
        map.entry(share).or_default().insert(server);
    }
    happiness(&map)
}

async fn ask(cx: &Cx, server: &Server, suspect: bool, wanted: Wanted, limits: &Limits) -> Answer {
    let cx = if suspect { cx.with_timeout(SUSPECT_LIMIT) } else { cx.clone() };
    let known = limits.get(server);
    let limit = async {
        match known {
            Some(limit) => Ok(limit),
            None => server.status(&cx).await.map(|status| status.maximum_immutable_share_size),
        }
    };
    let listing = server.list_shares(&cx, ShareKind::Immutable, wanted.storage_index);
    let (limit, listed) = futures::join!(limit, listing);
    let mut holds = match listed {
        Ok(holds) => holds,
        Err(error) => return Answer { candidate: Candidate::default(), trouble: Some(error) },
    };
    holds.retain(|&share| share < wanted.total);
    let (writable, trouble) = match limit {
        Ok(limit) => {
            if known.is_none() {
                limits.set(server, limit);
            }
            let fits = limit >= wanted.share_size;
            (fits, (!fits).then_some(StorageError::NoSpace))
        }
        Err(error) => (false, Some(error)),
    };
    Answer { candidate: Candidate { writable, holds }, trouble }
}

/// How an upload without questions began.
pub(super) enum Trial {
    /// Nobody held anything, and all keep room for these shares.
    Agreed(Vec<BTreeSet<ShareNumber>>),
    /// Some hold shares, as every one of them said, and no room is kept.
    Found(Vec<BTreeSet<ShareNumber>>),
    /// Somebody refused, failed or was late: they are to be asked, and no room is kept where anybody answered.
    Open,
}

/// Allocates at once what would be placed if no server held anything, without asking what they hold: the answers tell
/// (PROTOCOL 8.5), so that a file that is new costs a server one request less.
///
/// There is none where it would probably be in vain or might miss a share: each server must have said of late that it
/// has the room, must be expected to answer, and must be given a share, as servers of which nothing is asked say
/// nothing of what they hold.
pub(super) async fn attempt(
    grid: &Grid,
    cx: &Cx,
    servers: &[Arc<Server>],
    wanted: Wanted,
    limits: &Limits,
    pending: &Pending,
) -> Option<Trial> {
    let fits = servers.len() <= wanted.total as usize && servers.len() >= wanted.happy.max(1);
    if !fits {
        return None;
    }
    limits.learn(cx, servers, wanted).await;
    if servers.iter().any(|server| is_suspect(server)) {
        return None;
    }
    let empty = vec![Candidate { writable: true, holds: BTreeSet::new() }; servers.len()];
    let mut asked = vec![BTreeSet::new(); servers.len()];
    for (share, number) in place(&empty, wanted.total) {
        asked[number].insert(share);
    }
    let has_room = |(server, shares): (&Arc<Server>, &BTreeSet<ShareNumber>)| {
        let size = wanted.share_size.checked_mul(shares.len() as u64);
        !shares.is_empty() && limits.get(server).zip(size).is_some_and(|(limit, size)| size <= limit)
    };
    if !servers.iter().zip(&asked).all(has_room) {
        return None;
    }

    let asking = servers.iter().zip(&asked).enumerate().map(|(number, (server, shares))| {
        let lease = grid.lease(wanted.storage_index, server);
        let secret = pending.expect(number, shares);
        async move {
            let answer = server.allocate(cx, wanted.storage_index, shares, wanted.share_size, &secret, &lease).await;
            (number, take_in(answer, shares, wanted))
        }
    });
    let answers = gather(asking, &vec![false; servers.len()], wanted, |(candidate, _)| candidate).await;
    let late: BTreeSet<usize> = (0..servers.len()).filter(|&number| answers[number].is_none()).collect();
    late.iter().for_each(|&number| servers[number].set_aside(LATE_ASIDE));
    let all_well = answers.iter().flatten().filter(|(candidate, _)| candidate.writable).count() == servers.len();
    if all_well && answers.iter().flatten().all(|(candidate, _)| candidate.holds.is_empty()) {
        return Some(Trial::Agreed(asked));
    }

    for (number, answer) in answers.iter().enumerate() {
        if let Some((_, Some(allocated))) = answer {
            asked[number].difference(allocated).for_each(|&share| pending.settled(number, share));
        }
        if !answer.as_ref().is_some_and(|(candidate, _)| candidate.writable) {
            limits.forget(&servers[number]);
        }
    }
    pending.abort_but(&late).await;
    if !all_well {
        return Some(Trial::Open);
    }
    Some(Trial::Found(answers.into_iter().flatten().map(|(candidate, _)| candidate.holds).collect()))
}

/// What a server holds and whether it agreed to everything else that was asked, and what it keeps room for if it says.
fn take_in(
    answer: Result<Allocation, StorageError>,
    asked: &BTreeSet<ShareNumber>,
    wanted: Wanted,
) -> (Candidate, Option<BTreeSet<ShareNumber>>) {
    let Ok(Allocation { already_have, allocated }) = answer else {
        return (Candidate::default(), None);
    };
    let writable = asked.iter().all(|share| allocated.contains(share) || already_have.contains(share));
    let holds = already_have.into_iter().filter(|&share| share < wanted.total).collect();
    (Candidate { writable, holds }, Some(allocated))
}
