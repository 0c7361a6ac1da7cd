//! The servermap: which server holds which share of which version (PROTOCOL 6.5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};

use super::Slot;
use super::query::{Answer, Query};
use crate::grid::{Server, placement};
use crate::node::NodeError;
use crate::share::Version;
use crate::storage::{ShareNumber, StorageError};
use crate::util::Cx;

/// Bytes read from the start of each share; a small directory's shares are read whole by it.
const HEAD: u64 = 16 * 1024;

/// The same where only versions are looked for: the header, the keys and the signature of either format.
const SHORT_HEAD: u64 = 2167;

/// Queries in flight beyond those that are asked at once.
const IN_FLIGHT: usize = 5;

/// How long servers that may be left out are waited for, and after which more of the others are asked.
const GRACE: Duration = Duration::from_secs(2);

/// How thoroughly servers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Until a version can be read and nothing speaks of a newer one.
    Read,
    /// As `Read`, of the first bytes only: is there a newer version?
    Probe,
    /// Until all shares are likely to have been seen, and the private key: what a publish needs.
    Write,
    /// Every server, and the private key.
    Check,
}

impl Mode {
    fn writes(self) -> bool {
        matches!(self, Mode::Write | Mode::Check)
    }
}

/// What became of asking a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    NotAsked,
    Waiting,
    /// It answered, and holds so many shares, bad ones included.
    Holds(usize),
    Failed,
}

/// A good share on a server.
#[derive(Clone, Debug)]
pub struct KnownShare {
    /// The version it is of.
    pub version: Arc<Version>,
    /// Its first bytes, as far as they were read.
    pub head: Bytes,
}

/// Servers of happiness of a layout.
pub(super) fn happiness(places: impl Iterator<Item = (usize, ShareNumber)>) -> usize {
    let mut layout: BTreeMap<ShareNumber, BTreeSet<usize>> = BTreeMap::new();
    for (server, number) in places {
        layout.entry(number).or_default().insert(server);
    }
    placement::happiness(&layout)
}

/// Which server holds which share of which version. Servers are numbered in permuted order.
#[derive(Clone, Default)]
pub struct ServerMap {
    servers: Vec<Arc<Server>>,
    status: Vec<Status>,
    shares: BTreeMap<(usize, ShareNumber), KnownShare>,
    bad: BTreeMap<(usize, ShareNumber), Bytes>,
    highest_seqnum: u64,
}

/// How many servers are asked whether there is something newer than what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// As few as one can be among that holds a version which was stored with our own `shares.happy`, as long as all they
    /// hold is of the known version. Others may store with less: every minute as many as with [`Breadth::Wide`] are asked.
    Quick,
    /// As many as a reader asks who knows nothing: 2k.
    Wide,
}

/// A version whose signature was verified, for a reader who looks for a newer one.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub version: &'a Version,
    pub breadth: Breadth,
}

impl ServerMap {
    /// A map of which nothing is known.
    pub(super) fn new(slot: &Slot) -> ServerMap {
        let servers = slot.grid.permuted(slot.si);
        ServerMap { status: vec![Status::NotAsked; servers.len()], servers, ..ServerMap::default() }
    }

    /// The servers in permuted order.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// All good shares by server and share number.
    pub fn shares(&self) -> &BTreeMap<(usize, ShareNumber), KnownShare> {
        &self.shares
    }

    /// Shares that failed a check, with the first bytes that were seen of them.
    pub fn bad(&self) -> &BTreeMap<(usize, ShareNumber), Bytes> {
        &self.bad
    }

    /// The highest sequence number of any validly signed version, recoverable or not; 0 without one.
    pub fn highest_seqnum(&self) -> u64 {
        self.highest_seqnum
    }

    /// Whether a server could not be asked.
    pub fn has_failed(&self, server: usize) -> bool {
        self.status.get(server) == Some(&Status::Failed)
    }

    /// Whether every server has answered.
    pub fn is_complete(&self) -> bool {
        self.status.iter().all(|status| matches!(status, Status::Holds(_)))
    }

    /// Every version seen, with the share numbers seen of it; numbers that it cannot have do not count.
    pub fn versions(&self) -> BTreeMap<Arc<Version>, BTreeSet<ShareNumber>> {
        let mut versions: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for ((_, number), share) in &self.shares {
            let numbers = versions.entry(Arc::clone(&share.version)).or_default();
            if *number < ShareNumber::from(share.version.header.total) {
                numbers.insert(*number);
            }
        }
        versions
    }

    /// The best version: of those of which k distinct shares were seen, that with the highest sequence number.
    ///
    /// Of several with the same number that which stands on the most servers (of happiness), then the greatest. Beyond the
    /// reference, which knows the latter alone: of two writers who could not see each other's servers, the one that was
    /// told that its version is stored reached more of them.
    pub fn best(&self) -> Option<Arc<Version>> {
        let mut recoverable: Vec<_> =
            self.versions().into_iter().filter(|(v, numbers)| numbers.len() >= usize::from(v.header.needed)).collect();
        let seqnum = recoverable.last()?.0.header.seqnum;
        recoverable.retain(|(version, _)| version.header.seqnum == seqnum);
        let rank = |(version, _): &(Arc<Version>, BTreeSet<_>)| (self.happiness_of(version), Arc::clone(version));
        recoverable.into_iter().max_by_key(rank).map(|(version, _)| version)
    }

    /// On how many servers of happiness shares of `version` were seen.
    pub(super) fn happiness_of(&self, version: &Version) -> usize {
        let of = self.shares.iter().filter(|(_, share)| *share.version == *version).map(|(place, _)| *place);
        happiness(of.filter(|(_, number)| *number < ShareNumber::from(version.header.total)))
    }

    /// Whether k distinct shares of `version` were seen.
    pub(super) fn can_read(&self, version: &Version) -> bool {
        self.versions().get(version).is_some_and(|numbers| numbers.len() >= usize::from(version.header.needed))
    }

    /// The tub ids of the servers that shares of `version` were seen on.
    pub(super) fn holders(&self, version: &Version) -> BTreeSet<[u8; 20]> {
        let of = self.shares.iter().filter(|(_, share)| *share.version == *version);
        of.map(|((server, _), _)| self.servers[*server].info().tub_id).collect()
    }

    /// Whether this server, by its tub id, has answered, and holds a share of any version, good or bad.
    pub(super) fn still_holds(&self, tub_id: &[u8; 20]) -> bool {
        let mut all = self.servers.iter().zip(&self.status);
        all.any(|(s, status)| s.info().tub_id == *tub_id && matches!(status, Status::Holds(held) if *held > 0))
    }

    /// How many servers could not be asked.
    pub(super) fn failed(&self) -> usize {
        self.status.iter().filter(|status| **status == Status::Failed).count()
    }

    /// The greatest version seen, whether it can be recovered or not, with the share numbers seen of it.
    pub(super) fn newest(&self) -> Option<(Arc<Version>, usize)> {
        self.versions().pop_last().map(|(version, numbers)| (version, numbers.len()))
    }

    /// Takes a share for bad that failed a check in a download; a later publish tests for its signed prefix.
    pub(super) fn mark_bad(&mut self, server: usize, number: ShareNumber) {
        if let Some(share) = self.shares.remove(&(server, number)) {
            self.bad.insert((server, number), share.version.header.signed_prefix().into());
        }
    }

    /// The map as it were if every share whose blocks lie where those of `version` do were of that version. Who knows the
    /// hashes of its blocks can tell which of them are.
    pub(super) fn taken_for(&self, version: &Arc<Version>) -> ServerMap {
        let blocks = |v: &Version| (v.header.needed, v.header.total, v.header.segment_size, v.share_data().start);
        let mut map = self.clone();
        map.shares.retain(|_, share| share.version.header.iv.is_none() && blocks(&share.version) == blocks(version));
        map.shares.values_mut().for_each(|share| share.version = Arc::clone(version));
        map
    }

    /// Notes that this share is now of `version`.
    pub(super) fn wrote(&mut self, server: usize, number: ShareNumber, version: &Arc<Version>) {
        self.bad.remove(&(server, number));
        self.shares.insert((server, number), KnownShare { version: Arc::clone(version), head: Bytes::new() });
        self.status[server] = Status::Holds(self.shares.range((server, 0)..(server + 1, 0)).count());
        self.highest_seqnum = self.highest_seqnum.max(version.header.seqnum);
    }

    /// Forgets the first bytes of shares, which take memory.
    pub(super) fn drop_heads(&mut self) {
        self.shares.values_mut().for_each(|share| share.head = Bytes::new());
    }

    /// A fresh map. Shares that `before` knows as bad stay so unless they were rewritten, and servers that it saw
    /// shares on are asked first.
    pub(super) async fn update(
        cx: &Cx,
        slot: &Arc<Slot>,
        mode: Mode,
        before: Option<&ServerMap>,
        known: Option<Known<'_>>,
    ) -> Result<ServerMap, NodeError> {
        let mut map = ServerMap::new(slot);
        let mut asked_first = BTreeSet::new();
        // The grid may have other servers by now; numbers then mean others.
        let same = |b: &&ServerMap| {
            b.servers.len() == map.servers.len() && b.servers.iter().zip(&map.servers).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some(before) = before.filter(same) {
            map.bad = before.bad.clone();
            map.highest_seqnum = before.highest_seqnum;
            asked_first.extend(before.shares.keys().chain(before.bad.keys()).map(|(server, _)| *server));
        }
        let remembered = std::mem::take(&mut map.bad);
        let head = if mode == Mode::Probe { SHORT_HEAD } else { HEAD };
        let want_key = mode.writes() && slot.write_key().is_some();
        let query = Query::new(Arc::clone(slot), head, want_key, known.map(|known| known.version));
        let encoding = slot.grid.encoding();
        let (k, n) = match before.and_then(|b| b.newest()) {
            Some((version, _)) => (version.header.needed.into(), version.header.total.into()),
            None => (usize::from(encoding.needed), usize::from(encoding.total)),
        };
        let known = known.filter(|known| known.breadth == Breadth::Quick && matches!(mode, Mode::Read | Mode::Probe));
        let known = known.map(|known| known.version);
        // A newer version that a client with our happiness has stored stands on one of these.
        let few = map.few(k, encoding.happy.into());
        let at_once = match mode {
            _ if known.is_some() => few,
            Mode::Read | Mode::Probe => 2 * k,
            Mode::Write => n + k,
            Mode::Check => map.servers.len(),
        };
        let must_answer = asked_first.clone();
        asked_first.extend(0..map.servers.len().min(at_once));
        let ask = |server: usize, handle: Arc<Server>| {
            let query = &query;
            async move { (server, query.ask(cx, &handle).await) }
        };
        let mut waiting = FuturesUnordered::new();
        for server in asked_first {
            map.status[server] = Status::Waiting;
            waiting.push(ask(server, Arc::clone(&map.servers[server])));
        }
        let (mut limit, mut patient) = (IN_FLIGHT, true);
        while !map.finished(mode, k, &query) || must_answer.iter().any(|s| map.status[*s] == Status::Waiting) {
            let is_known = known.is_some_and(|known| map.shows_only(known));
            if is_known && map.answers() >= few && known.is_some_and(|known| map.can_read(known)) {
                break;
            }
            let may_do = is_known && patient && !waiting.is_empty();
            while !may_do
                && waiting.len() < limit
                && let Some(next) = map.status.iter().position(|s| *s == Status::NotAsked)
            {
                map.status[next] = Status::Waiting;
                waiting.push(ask(next, Arc::clone(&map.servers[next])));
            }
            let answer = tokio::select! {
                biased;
                answer = waiting.next() => answer,
                () = tokio::time::sleep(GRACE) => {
                    if map.will_do(mode, &query) {
                        break;
                    }
                    limit += IN_FLIGHT;
                    patient = false;
                    continue;
                }
            };
            let Some((server, answer)) = answer else { break };
            map.take(server, answer, &remembered)?;
        }
        drop(waiting);
        for status in map.status.iter_mut().filter(|s| **s == Status::Waiting) {
            *status = Status::Failed;
        }
        // What was bad on servers that were not asked again is still to be overwritten.
        for ((server, number), first) in remembered {
            if !matches!(map.status[server], Status::Holds(_)) {
                map.bad.entry((server, number)).or_insert(first);
            }
        }
        Ok(map)
    }

    fn take(
        &mut self,
        server: usize,
        answer: Result<Answer, StorageError>,
        remembered: &BTreeMap<(usize, ShareNumber), Bytes>,
    ) -> Result<(), NodeError> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(StorageError::Stopped(stopped)) => return Err(stopped.into()),
            Err(error) => {
                tracing::debug!(server = %self.servers[server].info().nickname, %error, "no answer about a mutable file");
                self.status[server] = Status::Failed;
                return Ok(());
            }
        };
        if let Some(StorageError::Stopped(stopped)) = answer.failed {
            return Err(stopped.into());
        }
        let holds = answer.good.len() + answer.bad.len();
        for (number, version, head) in answer.good {
            self.highest_seqnum = self.highest_seqnum.max(version.header.seqnum);
            match remembered.get(&(server, number)) {
                Some(first) if !first.is_empty() && head.starts_with(first) => {
                    self.bad.insert((server, number), first.clone());
                }
                _ => drop(self.shares.insert((server, number), KnownShare { version, head })),
            }
        }
        self.bad.extend(answer.bad.into_iter().map(|(number, first)| ((server, number), first)));
        self.status[server] = if answer.failed.is_some() { Status::Failed } else { Status::Holds(holds) };
        Ok(())
    }

    fn finished(&self, mode: Mode, k: usize, query: &Query) -> bool {
        let open = |s: &Status| matches!(s, Status::NotAsked | Status::Waiting);
        if !self.status.iter().any(open) {
            return true;
        }
        match mode {
            Mode::Read | Mode::Probe => self.answers() >= 2 * k && self.newest_is_best() && !self.has_rivals(),
            Mode::Write => self.best().is_some() && self.has_key(query) && self.boundary_passed(k),
            Mode::Check => false,
        }
    }

    /// Whether what is known will do although some servers take long: for readers, once there is something to read; for
    /// writers, when only servers are missing whose last request failed too.
    fn will_do(&self, mode: Mode, query: &Query) -> bool {
        let late = |(server, status): (&Arc<Server>, &Status)| match status {
            Status::NotAsked => false,
            Status::Waiting => server.health().last_error.is_some(),
            _ => true,
        };
        match mode {
            Mode::Read | Mode::Probe => self.newest_is_best(),
            Mode::Write | Mode::Check => {
                self.best().is_some() && self.has_key(query) && self.servers.iter().zip(&self.status).all(late)
            }
        }
    }

    /// How many servers are enough to meet, among them, one that has what was stored with this happiness.
    pub(super) fn few(&self, needed: usize, happy: usize) -> usize {
        (self.servers.len() + 1).saturating_sub(happy).clamp(needed, 2 * needed)
    }

    /// How many servers have answered.
    pub(super) fn answers(&self) -> usize {
        self.status.iter().filter(|s| matches!(s, Status::Holds(_))).count()
    }

    /// Whether nothing was seen but good shares of this version.
    fn shows_only(&self, version: &Version) -> bool {
        self.bad.is_empty() && self.shares.values().all(|share| *share.version == *version)
    }

    /// Whether a version can be read and none that is greater was seen. Beyond the reference, which goes by sequence
    /// numbers alone, so that readers settle for the version that a writer would start from.
    fn newest_is_best(&self) -> bool {
        self.newest().is_some_and(|(version, found)| found >= usize::from(version.header.needed))
    }

    /// Whether several versions share the highest sequence number: which is the best takes all servers to tell.
    fn has_rivals(&self) -> bool {
        let mut versions = self.versions().into_keys().rev().map(|version| version.header.seqnum);
        versions.next().is_some_and(|newest| versions.next() == Some(newest))
    }

    fn has_key(&self, query: &Query) -> bool {
        !query.want_key || query.slot.signing_key.get().is_some()
    }

    /// Whether, in permuted order and past the first share, k servers in a row hold none, all before them having answered.
    fn boundary_passed(&self, k: usize) -> bool {
        let (mut found, mut empty) = (false, 0);
        for status in &self.status {
            match status {
                Status::NotAsked | Status::Waiting => return false,
                Status::Failed => {}
                Status::Holds(0) if found => empty += 1,
                Status::Holds(0) => {}
                Status::Holds(_) => (found, empty) = (true, 0),
            }
            if found && empty >= k {
                return true;
            }
        }
        true
    }
}
