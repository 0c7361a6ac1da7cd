//! Sending a new version: place, test and write (PROTOCOL 6.7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};

use super::Slot;
use super::encode::{Code, NewVersion};
use super::servermap::{ServerMap, happiness};
use super::update::Again;
use crate::grid::Server;
use crate::grid::placement::{Candidate, place};
use crate::node::NodeError;
use crate::share::Version;
use crate::storage::{ReadRange, ReadTestWriteAnswer, ShareNumber, StorageError, StorageServer, TestVector, TestWrite};
use crate::util::Cx;

/// How long servers whose last request failed too are waited for once all others have answered.
const GRACE: Duration = Duration::from_secs(3);

/// Why a publish failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unpublished {
    /// Somebody else has written; some of our shares may be out.
    #[error("somebody else has written meanwhile")]
    Uncoordinated,
    /// Anything else.
    #[error("{0}")]
    Failed(NodeError),
}

impl From<NodeError> for Unpublished {
    fn from(error: NodeError) -> Unpublished {
        Unpublished::Failed(error)
    }
}

/// A version that is out.
pub(super) struct Published {
    /// What was written.
    pub version: Arc<Version>,
    /// Which server holds what now, as far as it answered.
    pub map: ServerMap,
    /// Whether every share that was to be written was acknowledged, so that the map can be published from again.
    pub complete: bool,
}

/// Sends a new version, whose sequence number is above everything that `map` has seen, to the places of `goal`: over every
/// share that is known. It is published once k shares have reached as many servers of happiness as are wanted.
///
/// Its blocks are at hand, or else are made `again` for a few shares at a time.
pub(super) async fn publish(
    cx: &Cx,
    slot: &Arc<Slot>,
    mut map: ServerMap,
    mut goal: Goal,
    new: &mut NewVersion,
    again: Option<&Again<'_>>,
) -> Result<Published, Unpublished> {
    let mut outcome = Outcome::default();
    let mut written = BTreeSet::new();
    // What a server did not take goes to one that did: once, or until enough have. But a new version may not come about by this alone where
    // servers do not answer: they may hold a newer one, which others can read.
    let is_new = goal.places.iter().all(|place| !map.shares().contains_key(place));
    for round in 0..=map.servers().len() {
        let writes: Vec<_> = goal.places.difference(&written).copied().collect();
        written.extend(writes.iter().copied());
        let numbers: Vec<ShareNumber> =
            writes.iter().map(|(_, number)| *number).collect::<BTreeSet<_>>().into_iter().collect();
        for numbers in numbers.chunks(again.map_or(usize::MAX, |again| again.at_once)) {
            let writes: Vec<_> = writes.iter().filter(|(_, number)| numbers.contains(number)).copied().collect();
            if let Some(again) = again {
                let is_whole = |place: &&(usize, ShareNumber)| !is_patched(&map, new, place);
                let whole = writes.iter().filter(is_whole).map(|(_, number)| *number).collect();
                again.make(&mut new.segments, &numbers.iter().copied().collect(), &whole).await?;
            }
            write_all(cx, slot, &map, &goal, writes, new, &mut outcome).await?;
            if outcome.uncoordinated {
                break;
            }
        }
        let go_on = !outcome.uncoordinated
            && match goal.falls_short(&outcome.placed) {
                None => round == 0,
                Some(_) => is_new || outcome.all_answered(),
            };
        // A share of which only the changes are at hand stays away until the next writer.
        let at_hand = |number: ShareNumber| again.is_some() || new.whole(number as usize).is_some();
        if !go_on || !goal.replace(&map, &outcome.failed, at_hand) {
            break;
        }
    }
    if outcome.uncoordinated {
        return Err(Unpublished::Uncoordinated);
    }
    if let Some(short) = goal.falls_short(&outcome.placed) {
        return Err(outcome.error(short).into());
    }
    let version = Arc::clone(&new.version);
    for (server, number) in &outcome.placed {
        map.wrote(*server, *number, &version);
    }
    // A server that has no room, and had no share before, lacks nothing that a survey would find.
    let lacks = |(place, error): (&(usize, ShareNumber), &StorageError)| {
        *error != StorageError::NoSpace || map.shares().contains_key(place) || map.bad().contains_key(place)
    };
    let complete = !outcome.failed.iter().any(lacks);
    let (seqnum, shares, failed) = (version.header.seqnum, outcome.placed.len(), outcome.failed.len());
    tracing::info!(storage_index = ?slot.si, seqnum, shares, failed, "published a version of a mutable file");
    Ok(Published { version, map, complete })
}

/// How far a layout is from what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Short {
    reached: usize,
    wanted: usize,
}

/// Which shares go where.
pub(super) struct Goal {
    needed: usize,
    total: ShareNumber,
    /// Servers of happiness that must take their shares.
    wanted: usize,
    places: BTreeSet<(usize, ShareNumber)>,
    may_take: Vec<usize>,
}

impl Goal {
    /// Every share that is known, good or bad and of whatever version, where it is; the others to the servers that have
    /// the fewest, in permuted order; and further copies to servers that would have none otherwise, as long as that makes
    /// for more servers of happiness.
    pub fn new(slot: &Slot, map: &ServerMap, code: Code) -> Goal {
        let total = ShareNumber::from(code.total);
        let known = map.shares().keys().chain(map.bad().keys()).copied();
        let places: BTreeSet<_> = known.filter(|(_, number)| *number < total).collect();
        let permitted = |server: &usize| slot.grid.takes_new_shares(&map.servers()[*server]);
        let mut may_take: Vec<usize> =
            (0..map.servers().len()).filter(permitted).filter(|server| !map.has_failed(*server)).collect();
        if may_take.is_empty() {
            may_take = (0..map.servers().len()).filter(permitted).collect();
        }
        let wanted = wanted(slot, code);
        let mut goal = Goal { needed: code.needed.into(), total, wanted, places, may_take };
        goal.assign(|_| true);
        let answers = |server: &usize| !map.has_failed(*server);
        goal.spread(map, answers, |_| true);
        tracing::trace!(storage_index = ?slot.si, shares = goal.places.len(), "places for a new version");
        goal
    }

    /// Fails when the servers that can be reached, as far as is known, cannot be enough: then nothing is to be written, for
    /// that would leave them at a version which others cannot see, and nobody was told of.
    pub fn check(&self, map: &ServerMap) -> Result<(), NodeError> {
        let away = |server: usize| map.has_failed(server) || map.servers()[server].is_down();
        let open = self.places.iter().filter(|(server, _)| !away(*server)).copied().collect();
        let Some(Short { reached, wanted }) = self.falls_short(&open) else {
            return Ok(());
        };
        let silent = (0..map.servers().len()).filter(|server| away(*server)).count();
        let reason = match silent {
            0 => String::new(),
            _ => format!("{silent} of {} servers do not answer", map.servers().len()),
        };
        Err(NodeError::NotEnoughServers { happiness: reached, wanted, reason })
    }

    /// What is lacking if these shares are placed: servers of happiness, or else distinct shares.
    fn falls_short(&self, placed: &BTreeSet<(usize, ShareNumber)>) -> Option<Short> {
        let happy = happiness(placed.iter().copied());
        let distinct = placed.iter().map(|(_, number)| number).collect::<BTreeSet<_>>().len();
        match () {
            () if happy < self.wanted => Some(Short { reached: happy, wanted: self.wanted }),
            () if distinct < self.needed => Some(Short { reached: distinct, wanted: self.needed }),
            () => None,
        }
    }

    /// Adds copies of shares for servers without one, as long as the servers of happiness become more by that.
    fn spread(&mut self, map: &ServerMap, answers: impl Fn(&usize) -> bool, may: impl Fn(ShareNumber) -> bool) {
        let candidate = |server: usize| Candidate {
            writable: self.may_take.contains(&server),
            holds: self.places.range((server, 0)..(server + 1, 0)).map(|(_, number)| *number).collect(),
        };
        let servers: Vec<usize> = (0..map.servers().len()).filter(answers).collect();
        let candidates: Vec<Candidate> = servers.iter().map(|server| candidate(*server)).collect();
        let placed = place(&candidates, self.total).into_iter().map(|(number, at)| (servers[at], number));
        self.places.extend(placed.filter(|(_, number)| may(*number)));
    }

    /// The share numbers of which somebody holds nothing, or not `version`: all that need whole shares.
    pub fn whole(&self, map: &ServerMap, version: &Version) -> BTreeSet<ShareNumber> {
        let holds = |place: &&(usize, ShareNumber)| map.shares().get(place).is_some_and(|s| *s.version == *version);
        self.places.iter().filter(|place| !holds(place)).map(|(_, number)| *number).collect()
    }

    /// Gives every share number that has no place, and may have one, one; whether there was one to give.
    fn assign(&mut self, may: impl Fn(ShareNumber) -> bool) -> bool {
        let held: BTreeSet<ShareNumber> = self.places.iter().map(|(_, number)| *number).collect();
        let mut any = false;
        for number in (0..self.total).filter(|number| !held.contains(number) && may(*number)) {
            let load = |server: &&usize| self.places.range((**server, 0)..(**server + 1, 0)).count();
            let Some(&server) = self.may_take.iter().min_by_key(load) else {
                break;
            };
            any |= self.places.insert((server, number));
        }
        any
    }

    /// Finds new places for shares that failed everywhere; whether there are any.
    fn replace(
        &mut self,
        map: &ServerMap,
        failed: &BTreeMap<(usize, ShareNumber), StorageError>,
        may: impl Fn(ShareNumber) -> bool,
    ) -> bool {
        let down: BTreeSet<usize> = failed.keys().map(|(server, _)| *server).collect();
        self.may_take.retain(|server| !down.contains(server));
        self.places.retain(|place| !failed.contains_key(place));
        let before = self.places.len();
        self.assign(&may);
        self.spread(map, |server| !map.has_failed(*server) && !down.contains(server), may);
        self.places.len() > before
    }
}

/// Servers of happiness that a file of this code must reach: as many as an upload, but no more than it has shares.
pub(super) fn wanted(slot: &Slot, code: Code) -> usize {
    usize::from(slot.grid.encoding().happy).min(code.total.into())
}

#[derive(Default)]
struct Outcome {
    placed: BTreeSet<(usize, ShareNumber)>,
    failed: BTreeMap<(usize, ShareNumber), StorageError>,
    uncoordinated: bool,
}

impl Outcome {
    /// Whether every server that did not take its share said so.
    fn all_answered(&self) -> bool {
        self.failed.values().all(|error| !matches!(error, StorageError::Unreachable(_) | StorageError::Stopped(_)))
    }

    /// Why too few shares were placed.
    fn error(&self, short: Short) -> NodeError {
        let mut reasons: Vec<String> = Vec::new();
        for error in self.failed.values() {
            if let StorageError::Stopped(stopped) = error {
                return NodeError::Stopped(*stopped);
            }
            let text = error.to_string();
            if !reasons.contains(&text) && reasons.len() < 3 {
                reasons.push(text);
            }
        }
        if !self.failed.is_empty() && self.failed.values().all(|e| *e == StorageError::NoSpace) {
            return NodeError::NoSpace;
        }
        NodeError::NotEnoughServers { happiness: short.reached, wanted: short.wanted, reason: reasons.join("; ") }
    }
}

/// Sends one read-test-write for each share and notes what became of it.
async fn write_all(
    cx: &Cx,
    slot: &Arc<Slot>,
    map: &ServerMap,
    goal: &Goal,
    writes: Vec<(usize, ShareNumber)>,
    new: &NewVersion,
    outcome: &mut Outcome,
) -> Result<(), Unpublished> {
    let checkstring = &Bytes::from(new.version.header.checkstring());
    let read = ReadRange { offset: 0, length: checkstring.len() as u64 };
    let mut waiting = FuturesUnordered::new();
    let mut open: BTreeSet<(usize, ShareNumber)> = BTreeSet::new();
    for (server, number) in writes {
        let handle = &map.servers()[server];
        let test = test_for(map, server, number);
        let patched = is_patched(map, new, &(server, number));
        let writes = if patched { new.patch(number as usize) } else { new.whole(number as usize) };
        let Some(writes) = writes else {
            outcome.failed.insert((server, number), StorageError::Io("its other blocks are not at hand".into()));
            continue;
        };
        open.insert((server, number));
        // What is left of an older version behind a whole share goes.
        let end = || writes.iter().map(|(offset, data)| offset + data.len() as u64).max();
        let new_length = if patched { None } else { end() };
        let write = TestWrite { test: vec![test], write: writes, new_length };
        waiting.push(async move { (server, number, write_one(cx, slot, handle, number, write, read).await) });
    }
    while !open.is_empty() {
        let answer = tokio::select! {
            biased;
            answer = waiting.next() => answer,
            () = tokio::time::sleep(GRACE) => {
                let suspect = |(server, _): &(usize, ShareNumber)| map.servers()[*server].health().last_error.is_some();
                if !open.iter().all(suspect) {
                    continue;
                }
                None
            }
        };
        let Some((server, number, answer)) = answer else { break };
        open.remove(&(server, number));
        match answer {
            Ok(answer) => {
                let is_ours = |seen: &Vec<Bytes>| seen.first() == Some(checkstring);
                // A write that was applied though its answer was lost finds itself.
                if answer.success || answer.data.get(&number).is_some_and(is_ours) {
                    outcome.placed.insert((server, number));
                } else {
                    outcome.uncoordinated = true;
                }
                let surprise = answer.data.iter().any(|(other, seen)| {
                    *other < goal.total && !goal.places.contains(&(server, *other)) && !is_ours(seen)
                });
                outcome.uncoordinated |= surprise;
            }
            Err(StorageError::Stopped(stopped)) => return Err(NodeError::Stopped(stopped).into()),
            Err(error) => {
                tracing::debug!(server = %map.servers()[server].info().nickname, number, %error, "a share was not taken");
                outcome.failed.insert((server, number), error);
            }
        }
    }
    for place in open {
        outcome.failed.insert(place, StorageError::Unreachable("no answer".into()));
    }
    Ok(())
}

/// Whether a share is of the version that need but be patched.
fn is_patched(map: &ServerMap, new: &NewVersion, place: &(usize, ShareNumber)) -> bool {
    new.base.is_some() && map.shares().get(place).map(|share| &share.version) == new.base.as_ref()
}

/// What must stand at the start of a share for it to be overwritten: what the map saw there.
fn test_for(map: &ServerMap, server: usize, number: ShareNumber) -> TestVector {
    let specimen: Bytes = match (map.shares().get(&(server, number)), map.bad().get(&(server, number))) {
        (Some(share), _) => share.version.header.checkstring().into(),
        (None, Some(first)) => first.clone(),
        (None, None) => Bytes::new(),
    };
    TestVector { offset: 0, size: specimen.len().max(1) as u64, specimen }
}

async fn write_one(
    cx: &Cx,
    slot: &Slot,
    server: &Arc<Server>,
    number: ShareNumber,
    write: TestWrite,
    read: ReadRange,
) -> Result<ReadTestWriteAnswer, StorageError> {
    let Some(write_key) = slot.write_key() else {
        return Err(StorageError::BadWriteEnabler);
    };
    let enabler = slot.grid.write_enabler(write_key, server);
    let lease = slot.grid.lease(slot.si, server);
    server.read_test_write(cx, slot.si, &enabler, &lease, &BTreeMap::from([(number, write)]), &[read]).await
}
