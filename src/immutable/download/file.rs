//! What is known of one file, and how a segment of it is fetched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::find::{ASIDE, Finder};
use super::share::{Fault, Share};
use crate::cap::{ChkCap, StorageIndex};
use crate::codec::{Codec, MAX_SHARES};
use crate::crypto::AesCtr;
use crate::crypto::hash::{Tag, tagged};
use crate::grid::{Grid, Server};
use crate::merkle::IncompleteTree;
use crate::node::NodeError;
use crate::share::{DEFAULT_MAX_SEGMENT_SIZE, Encoding, Ueb};
use crate::storage::{ShareKind, ShareNumber, StorageError, StorageServer};
use crate::util::{Cx, OperationKind, Priority};

/// A share that takes longer than this, and longer than [`LATE_FACTOR`] times what its server usually takes, is late.
const LATE: Duration = Duration::from_secs(1);
const LATE_FACTOR: u32 = 4;

/// For so long a fetch prefers waiting for news of other servers to asking one server for two shares.
const SETTLE: Duration = Duration::from_millis(100);

/// Segments up to this are read whatever the memory budget.
const ALWAYS_READ: u64 = 64 << 20;

/// A share whose server failed within this is asked once more when there is no other.
const RETRY_WITHIN: Duration = Duration::from_secs(5);

/// An immutable file under a read cap.
pub(super) struct File {
    pub grid: Arc<Grid>,
    pub cap: ChkCap,
    pub storage_index: StorageIndex,
    known: Mutex<Known>,
    finder: Finder,
}

/// What the capability vouches for, directly or through hashes.
pub(super) struct Known {
    pub encoding: Option<Encoding>,
    /// The tree over the ciphertext's segments.
    pub crypttext: IncompleteTree,
    /// The tree over all shares.
    pub shares: IncompleteTree,
}

impl File {
    pub fn new(grid: Arc<Grid>, cap: ChkCap) -> File {
        let known = Known {
            encoding: None,
            crypttext: IncompleteTree::new(0),
            shares: IncompleteTree::new(cap.total as usize),
        };
        let storage_index = cap.storage_index();
        File { grid, cap, storage_index, known: Mutex::new(known), finder: Finder::default() }
    }

    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How the file is cut, once a UEB has been verified.
    pub fn encoding(&self) -> Option<Encoding> {
        self.known().encoding
    }

    /// Takes in a verified UEB.
    ///
    /// # Errors
    /// [`NodeError::TooLarge`] when one segment would take more than half of the memory budget and more than 64 MiB.
    pub fn learn(&self, cx: &Cx, encoding: Encoding, ueb: &Ueb) -> Result<(), NodeError> {
        let segment = if encoding.num_segments > 1 { encoding.segment_size } else { encoding.tail_padded };
        if segment > ALWAYS_READ.max(cx.memory_budget() / 2) {
            return Err(NodeError::TooLarge);
        }
        let segments = usize::try_from(encoding.num_segments).map_err(|_| NodeError::TooLarge)?;
        let mut known = self.known();
        if known.encoding.is_none() {
            known.crypttext = IncompleteTree::new(segments);
            known.crypttext.set_root(ueb.crypttext_root_hash);
            known.shares.set_root(ueb.share_root_hash);
            known.encoding = Some(encoding);
        }
        Ok(())
    }

    /// The verified plaintext of the segment in which `offset` lies, and its number.
    pub async fn fetch(self: Arc<Self>, cx: Cx, offset: u64) -> Result<(u64, Bytes), NodeError> {
        let operation = self.grid.operations().begin(OperationKind::Download, self.storage_index, self.cap.size);
        let fetched = Arc::clone(&self).fetch_segment(cx, offset).await;
        if let Ok((_, data)) = &fetched {
            operation.advance(data.len() as u64);
        }
        operation.end(&fetched);
        fetched
    }

    async fn fetch_segment(self: Arc<Self>, cx: Cx, offset: u64) -> Result<(u64, Bytes), NodeError> {
        let (needed, total) = (self.cap.needed as usize, self.cap.total as usize);
        if needed == 0 || needed > total || total > MAX_SHARES {
            return Err(NodeError::WrongKind("one of a file that can be decoded: its k and N are impossible"));
        }
        let guess = self.encoding().map_or(DEFAULT_MAX_SEGMENT_SIZE, |e| e.segment_size).min(self.cap.size);
        let _memory = cx.memory(guess.saturating_mul(2)).await;
        if self.finder.is_exhausted() && self.usable(None).len() < self.cap.needed as usize {
            self.finder.restart().await;
        }
        let fetched = match Fetch::new(&self, &cx, offset).run().await {
            // What is lacking may be on servers that are set aside because they could not be reached.
            Err(NodeError::NotEnoughShares { .. }) if self.grid.wake(&cx).await => {
                self.finder.restart().await;
                Fetch::new(&self, &cx, offset).run().await
            }
            fetched => fetched,
        };
        let (segment, blocks) = fetched.map_err(|error| match (error, self.grid.locked_out()) {
            (NodeError::NotEnoughShares { found: 0, .. }, Some(why)) => NodeError::LockedOut(why),
            (error, _) => error,
        })?;
        self.assemble(segment, blocks).await
    }

    /// Numbers of the shares found that may yield a block.
    fn usable(&self, segment: Option<u64>) -> BTreeSet<ShareNumber> {
        self.finder.shares().iter().filter(|s| s.is_usable(segment)).map(|s| s.number).collect()
    }

    /// Decodes, verifies and decrypts.
    async fn assemble(&self, segment: u64, blocks: BTreeMap<ShareNumber, Bytes>) -> Result<(u64, Bytes), NodeError> {
        let (encoding, expected) = {
            let known = self.known();
            (known.encoding, known.crypttext.leaf(usize::try_from(segment).map_err(|_| NodeError::TooLarge)?))
        };
        let lacking = || NodeError::Corrupt("a segment's hash is lacking".into());
        let (encoding, expected) = (encoding.ok_or_else(lacking)?, expected.ok_or_else(lacking)?);
        let range = encoding.segment_range(segment).ok_or(NodeError::TooLarge)?;
        let (needed, total) = (self.cap.needed as usize, self.cap.total as usize);
        let key = self.cap.key.clone();
        let work = move || {
            let given: Vec<(usize, &[u8])> = blocks.iter().map(|(n, block)| (*n as usize, &block[..])).collect();
            let corrupt = |e: &dyn std::fmt::Display| NodeError::Corrupt(format!("a segment cannot be decoded: {e}"));
            let codec = Codec::get(needed, total).map_err(|e| corrupt(&e))?;
            let mut data = codec.decode_segment(&given).map_err(|e| corrupt(&e))?;
            data.truncate((range.end - range.start) as usize);
            if tagged(Tag::CRYPTTEXT_SEGMENT, &data) != expected {
                return Err(NodeError::Corrupt("the ciphertext of a segment differs from its hash".into()));
            }
            let mut cipher = AesCtr::new(key.as_bytes());
            cipher.seek(range.start);
            cipher.apply(&mut data);
            Ok(Bytes::from(data))
        };
        Ok((segment, self.grid.cpu().run(work).await?))
    }

    /// Tells a server that its share is corrupt, in the background; whether that succeeds does not matter.
    fn advise(&self, share: &Share, reason: String) {
        let (server, number, si) = (Arc::clone(&share.server), share.number, self.storage_index);
        tracing::warn!(server = %server.info().id, share = number, %reason, "a corrupt share");
        tokio::spawn(async move {
            let cx = Cx::new(Priority::Background, 1);
            let _ = server.advise_corrupt(&cx, ShareKind::Immutable, si, number, &reason).await;
        });
    }
}

type Outcome = (usize, Result<(u64, Bytes), Fault>);

/// A share that has been asked for its block.
struct Flight {
    share: Arc<Share>,
    began: Instant,
    late: bool,
}

/// The gathering of k blocks of one segment.
struct Fetch {
    file: Arc<File>,
    cx: Cx,
    offset: u64,
    segment: Option<u64>,
    began: Instant,
    flights: HashMap<usize, Flight>,
    running: FuturesUnordered<std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>>,
    /// How often a share was asked, by its address, and whether it may be asked again.
    tried: BTreeMap<usize, Tried>,
    blocks: BTreeMap<ShareNumber, Bytes>,
}

#[derive(Clone, Copy, Default)]
struct Tried {
    times: u32,
    again: bool,
}

impl Fetch {
    fn new(file: &Arc<File>, cx: &Cx, offset: u64) -> Fetch {
        Fetch {
            segment: file.encoding().and_then(|e| e.segment_of(offset)),
            file: Arc::clone(file),
            cx: cx.clone(),
            offset,
            began: Instant::now(),
            flights: HashMap::new(),
            running: FuturesUnordered::new(),
            tried: BTreeMap::new(),
            blocks: BTreeMap::new(),
        }
    }

    async fn run(mut self) -> Result<(u64, BTreeMap<ShareNumber, Bytes>), NodeError> {
        let needed = self.file.cap.needed as usize;
        let spare = (needed + 1).min(self.file.cap.total as usize);
        loop {
            if let Some(segment) = self.segment.filter(|_| self.blocks.len() >= needed) {
                return Ok((segment, std::mem::take(&mut self.blocks)));
            }
            while self.blocks.len() + self.prompt() < needed {
                let Some(share) = self.pick() else { break };
                self.launch(share);
            }
            let exhausted = self.file.finder.is_exhausted();
            let wanting = self.blocks.len() + self.prompt() < needed;
            if wanting && exhausted && self.flights.is_empty() && self.pick().is_none() {
                return Err(NodeError::NotEnoughShares { found: self.blocks.len(), needed, all_answered: false });
            }
            let search = !exhausted && (wanting || self.file.usable(self.segment).len() < spare);
            let wake = self.next_wake();
            let (file, cx) = (Arc::clone(&self.file), self.cx.clone());
            tokio::select! {
                Some((flight, outcome)) = self.running.next(), if !self.flights.is_empty() => self.landed(flight, outcome)?,
                () = file.finder.advance(&file.grid, &cx, file.storage_index, file.cap.total), if search => {}
                () = tokio::time::sleep_until(wake) => self.mark_late(),
            }
        }
    }

    /// Blocks on their way that are not late.
    fn prompt(&self) -> usize {
        self.flights.values().filter(|f| !f.late).count()
    }

    fn late_at(flight: &Flight) -> Instant {
        let usual = flight.share.server.health().latency.unwrap_or_default();
        flight.began + LATE.max(usual * LATE_FACTOR)
    }

    fn next_wake(&self) -> Instant {
        let settled = self.began + SETTLE;
        let late = self.flights.values().filter(|f| !f.late).map(Fetch::late_at);
        let settled = (Instant::now() < settled).then_some(settled);
        late.chain(settled).min().unwrap_or_else(|| Instant::now() + LATE)
    }

    /// Shares that are late are no longer counted on, and their servers are asked last for a while.
    fn mark_late(&mut self) {
        let now = Instant::now();
        for flight in self.flights.values_mut().filter(|f| !f.late) {
            if Fetch::late_at(flight) <= now {
                flight.late = true;
                flight.share.server.set_aside(ASIDE);
            }
        }
    }

    /// The best share to ask next: one of a number that is neither here nor expected, on a server that is not set
    /// aside and does nothing else for this segment, opened already, and quick.
    fn pick(&self) -> Option<Arc<Share>> {
        let expected: BTreeSet<ShareNumber> =
            self.flights.values().filter(|f| !f.late).map(|f| f.share.number).collect();
        let mut busy: HashMap<*const Server, usize> = HashMap::new();
        for flight in self.flights.values() {
            *busy.entry(Arc::as_ptr(&flight.share.server)).or_default() += 1;
        }
        let settling = self.began.elapsed() < SETTLE && !self.file.finder.is_exhausted();
        let shares = self.file.finder.shares();
        let candidates = shares.iter().filter(|share| {
            let tried = self.tried.get(&address(share)).copied().unwrap_or_default();
            let fresh = tried.times == 0 || tried.again;
            fresh
                && !expected.contains(&share.number)
                && !self.blocks.contains_key(&share.number)
                && share.is_usable(self.segment)
        });
        let rank = |share: &&Arc<Share>| {
            let server = &share.server;
            let tried = self.tried.get(&address(share)).map_or(0, |t| t.times);
            let load = busy.get(&Arc::as_ptr(server)).copied().unwrap_or(0);
            let latency = server.health().latency.unwrap_or_default();
            (tried, server.is_set_aside(), load, !share.is_open(), latency, share.number)
        };
        let best = candidates.min_by_key(rank)?;
        let shared = busy.contains_key(&Arc::as_ptr(&best.server)) || best.server.is_set_aside();
        if settling && shared { None } else { Some(Arc::clone(best)) }
    }

    fn launch(&mut self, share: Arc<Share>) {
        let flight = self.tried.values().map(|t| t.times as usize).sum();
        let tried = self.tried.entry(address(&share)).or_default();
        *tried = Tried { times: tried.times + 1, again: false };
        let (file, cx, offset) = (Arc::clone(&self.file), self.cx.clone(), self.offset);
        self.flights.insert(flight, Flight { share: Arc::clone(&share), began: Instant::now(), late: false });
        let task = AbortOnDropHandle::new(tokio::spawn(async move { share.block(&file, &cx, offset).await }));
        self.running.push(Box::pin(async move {
            let failed = |e| Err(Fault::Share(format!("reading it failed: {e}")));
            (flight, task.await.unwrap_or_else(failed))
        }));
    }

    fn landed(&mut self, flight: usize, outcome: Result<(u64, Bytes), Fault>) -> Result<(), NodeError> {
        let Some(Flight { share, began, .. }) = self.flights.remove(&flight) else {
            return Ok(());
        };
        match outcome {
            Ok((segment, block)) => {
                self.segment = Some(segment);
                self.blocks.insert(share.number, block);
            }
            Err(Fault::Server(StorageError::Stopped(stopped))) => return Err(stopped.into()),
            Err(Fault::Server(StorageError::NoSuchShare)) => share.mark(None),
            Err(Fault::Server(_)) => {
                share.server.set_aside(ASIDE);
                let tried = self.tried.entry(address(&share)).or_default();
                tried.again = tried.times == 1 && began.elapsed() < RETRY_WITHIN;
            }
            Err(Fault::Block(segment, reason)) => {
                share.mark(Some(segment));
                self.file.advise(&share, format!("segment {segment}: {reason}"));
            }
            Err(Fault::Share(reason)) => {
                share.mark(None);
                self.file.advise(&share, reason);
            }
            Err(Fault::File(error)) => return Err(error),
        }
        Ok(())
    }
}

fn address(share: &Arc<Share>) -> usize {
    Arc::as_ptr(share) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{LeaseSecret, ReadKey};
    use crate::grid;
    use crate::util::{Clock, Cpu, Rng};

    #[test]
    fn a_segment_beyond_the_memory_budget_is_refused() {
        let encoding = grid::Encoding { needed: 1, happy: 1, total: 1, max_segment_size: 1 << 20 };
        let (secret, clock, rng) = (LeaseSecret::new([0; 32]), Clock::system(), Rng::seeded(1));
        let servers = Grid::new(Vec::new(), encoding, secret, Vec::new(), clock, rng, Cpu::per_core());
        let cap = ChkCap { key: ReadKey::new([0; 16]), ueb_hash: [0; 32], needed: 1, total: 1, size: 1 << 40 };
        let file = File::new(Arc::new(servers), cap);
        let learn = |budget: u64, segment: u64, size: u64| {
            let encoding = Encoding::with_segment_size(size, 1, segment).unwrap();
            let ueb = Ueb::new(&encoding, 1, [0; 32], [0; 32], [0; 32]);
            file.learn(&Cx::new(Priority::Waiting, budget), encoding, &ueb)
        };
        assert_eq!(learn(1 << 30, 1 << 30, 1 << 40), Err(NodeError::TooLarge));
        assert_eq!(learn(1 << 30, 1 << 40, 1 << 40), Err(NodeError::TooLarge));
        assert_eq!(learn(1 << 20, (64 << 20) + 1, 1 << 40), Err(NodeError::TooLarge));
        assert_eq!(file.encoding(), None);
        // A small file may say that its segments are huge: it has one, as long as itself.
        assert_eq!(learn(1 << 20, 1 << 40, 1000), Ok(()));
        assert_eq!(file.encoding().unwrap().num_segments, 1);
    }
}
