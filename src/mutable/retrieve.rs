//! Reading a version: fetch, verify, decode, decrypt (PROTOCOL 6.4, 6.6).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};

use super::query::{PieceError, pieces};
use super::servermap::{KnownShare, ServerMap};
use super::{MAX_CONTENT, Slot};
use crate::codec::Codec;
use crate::crypto::hash::{Tag, tagged};
use crate::crypto::secrets::data_key;
use crate::crypto::{AesCtr, Hash, ReadKey};
use crate::grid::Server;
use crate::merkle::{IncompleteTree, node_count};
use crate::node::NodeError;
use crate::share::mdmf::split_block;
use crate::share::{Encoding, Version, chain, decode_hashes};
use crate::storage::{ReadRange, ShareKind, ShareNumber, StorageError, StorageServer};
use crate::util::{Cx, Operation, OperationKind};

/// Bytes of content that are fetched and decoded at a time, at least one segment.
const WINDOW: u64 = 4 << 20;

/// How long one share is waited for before another is asked beside it.
const LATE: Duration = Duration::from_secs(2);

/// Why a version could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// Too few good shares in this map; a wider one may know more. Distinct good shares found.
    #[error("only {0} good shares were found")]
    TooFew(usize),
    /// Anything else.
    #[error("{0}")]
    Failed(NodeError),
}

impl From<NodeError> for Unread {
    fn from(error: NodeError) -> Unread {
        Unread::Failed(error)
    }
}

/// The verified hashes of the blocks of one share.
pub(super) type Leaves = Arc<Vec<Hash>>;

/// What one share gave for a window.
struct Got {
    number: ShareNumber,
    leaves: Leaves,
    /// For each segment what its block hash covers.
    blocks: Vec<Bytes>,
}

/// One segment as it is encrypted, with the zeros that fill its blocks.
pub(super) struct Sealed {
    pub salt: [u8; 16],
    pub bytes: Vec<u8>,
}

/// One version, being read through a map in which bad shares are noted.
pub(super) struct Retrieve<'a> {
    pub cx: &'a Cx,
    pub slot: &'a Arc<Slot>,
    pub map: &'a mut ServerMap,
    version: Arc<Version>,
    encoding: Encoding,
    read_key: ReadKey,
    /// Shares whose hashes were verified.
    open: HashMap<(usize, ShareNumber), Leaves>,
    /// Shares that are of another version by now. The map keeps them as they were: a publish from it must find out.
    changed: BTreeSet<(usize, ShareNumber)>,
}

impl<'a> Retrieve<'a> {
    pub fn new(
        cx: &'a Cx,
        slot: &'a Arc<Slot>,
        map: &'a mut ServerMap,
        version: Arc<Version>,
    ) -> Result<Retrieve<'a>, NodeError> {
        let read_key = slot.cap.read_key().ok_or(NodeError::WrongKind("one that can be read with"))?;
        let encoding = version.header.encoding().map_err(|e| NodeError::Corrupt(e.to_string()))?;
        Ok(Retrieve { cx, slot, map, version, encoding, read_key, open: HashMap::new(), changed: BTreeSet::new() })
    }

    pub fn version(&self) -> &Version {
        &self.version
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Takes these hashes of blocks for true, by share number, on whatever server the share is.
    pub fn trust(&mut self, leaves: &[Leaves]) {
        let places = self.map.shares().keys();
        let known = places.filter_map(|place| Some((*place, Arc::clone(leaves.get(place.1 as usize)?))));
        self.open.extend(known);
    }

    /// The hashes of the blocks of every share of the version that can be had, by share number.
    pub async fn all_leaves(&mut self) -> Result<BTreeMap<ShareNumber, Leaves>, Unread> {
        let mut waiting = FuturesUnordered::new();
        for (server, number, share) in self.candidates() {
            if !self.open.contains_key(&(server, number)) {
                waiting.push(self.ask(server, number, share, 0..0));
            }
        }
        while let Some((server, handle, number, answer)) = waiting.next().await {
            self.note(server, &handle, number, answer)?;
        }
        Ok(self.open.iter().map(|((_, number), leaves)| (*number, Arc::clone(leaves))).collect())
    }

    /// Whether shares were rewritten by somebody while they were read.
    pub fn met_a_writer(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The bytes of `range`, cut at the end of the file.
    pub async fn read(&mut self, range: Range<u64>) -> Result<Bytes, Unread> {
        let range = range.start..range.end.min(self.encoding.size);
        if range.start >= range.end {
            return Ok(Bytes::new());
        }
        if range.end - range.start > MAX_CONTENT {
            return Err(NodeError::TooLarge.into());
        }
        let operation = self.slot.grid.operations().begin(OperationKind::Retrieve, self.slot.si, self.encoding.size);
        let read = self.read_windows(range, &operation).await;
        operation.end(&read);
        read
    }

    /// The bytes of `range`, which lies in the file and is not empty.
    async fn read_windows(&mut self, range: Range<u64>, operation: &Operation) -> Result<Bytes, Unread> {
        let size = self.encoding.segment_size;
        let segments = range.start / size..(range.end - 1) / size + 1;
        let stride = (WINDOW / size).max(1);
        let mut out = Vec::new();
        let mut first = segments.start;
        while first < segments.end {
            let window = first..segments.end.min(first.saturating_add(stride));
            first = window.end;
            let plain = self.window(window.clone()).await?;
            operation.advance(plain.len() as u64);
            if window == segments {
                out = plain;
            } else {
                out.extend_from_slice(&plain);
            }
        }
        let skip = (range.start - segments.start * size) as usize;
        let want = (range.end - range.start) as usize;
        let all = Bytes::from(out);
        if all.len() < skip + want {
            return Err(NodeError::Corrupt("fewer bytes than the header says".into()).into());
        }
        Ok(all.slice(skip..skip + want))
    }

    /// The plaintext of some neighbouring segments.
    async fn window(&mut self, segments: Range<u64>) -> Result<Vec<u8>, Unread> {
        let (encoding, read_key) = (self.encoding, self.read_key.clone());
        let sealed = self.sealed(segments.clone()).await?;
        let opened = self.slot.grid.cpu().run(move || decrypt(&encoding, &read_key, segments, sealed)).await;
        Ok(opened?)
    }

    /// Some neighbouring segments as they are encrypted.
    pub async fn sealed(&mut self, segments: Range<u64>) -> Result<Vec<Sealed>, Unread> {
        let got = self.gather(&segments).await?;
        let version = Arc::clone(&self.version);
        Ok(self.slot.grid.cpu().run(move || decode(&version, &got)).await?)
    }

    /// Verified blocks of k distinct shares, the lowest numbers first; others take the place of bad and late ones.
    async fn gather(&mut self, segments: &Range<u64>) -> Result<Vec<Got>, Unread> {
        let k = usize::from(self.version.header.needed);
        let mut candidates = self.candidates();
        let mut got: BTreeMap<ShareNumber, Got> = BTreeMap::new();
        let mut waiting = FuturesUnordered::new();
        let mut wanted = k;
        loop {
            while waiting.len() + got.len() < wanted
                && let Some((server, number, share)) = candidates.pop()
            {
                waiting.push(self.ask(server, number, share, segments.clone()));
            }
            if got.len() >= k {
                return Ok(got.into_values().take(k).collect());
            }
            let answer = tokio::select! {
                biased;
                answer = waiting.next() => answer,
                () = tokio::time::sleep(LATE), if !candidates.is_empty() => {
                    wanted = waiting.len() + got.len() + 1;
                    continue;
                }
            };
            let Some((server, handle, number, answer)) = answer else {
                return Err(Unread::TooFew(got.len()));
            };
            if let Some(share) = self.note(server, &handle, number, answer)? {
                got.insert(number, share);
            }
            wanted = wanted.max(k);
        }
    }

    /// Reads blocks of one share.
    fn ask(
        &self,
        server: usize,
        number: ShareNumber,
        share: KnownShare,
        segments: Range<u64>,
    ) -> impl Future<Output = (usize, Arc<Server>, ShareNumber, Result<Got, Trouble>)> + use<'a> {
        let (cx, slot, version, encoding) = (self.cx, self.slot, Arc::clone(&self.version), self.encoding);
        let handle = Arc::clone(&self.map.servers()[server]);
        let leaves = self.open.get(&(server, number)).cloned();
        async move {
            let mut answer = fetch(cx, slot, &handle, number, &share, &version, &encoding, leaves, segments).await;
            if matches!(answer, Err(Trouble::Bad(_))) && has_changed(cx, slot, &handle, number, &version).await {
                answer = Err(Trouble::Changed);
            }
            (server, handle, number, answer)
        }
    }

    /// Notes what came of reading a share.
    fn note(
        &mut self,
        server: usize,
        handle: &Arc<Server>,
        number: ShareNumber,
        answer: Result<Got, Trouble>,
    ) -> Result<Option<Got>, NodeError> {
        match answer {
            Ok(share) => {
                self.open.insert((server, number), Arc::clone(&share.leaves));
                return Ok(Some(share));
            }
            Err(Trouble::Bad(why)) => {
                self.map.mark_bad(server, number);
                self.open.remove(&(server, number));
                self.slot.advise_corrupt(self.cx, handle, number, why);
            }
            Err(Trouble::Changed) => {
                self.open.remove(&(server, number));
                self.changed.insert((server, number));
            }
            Err(Trouble::Storage(StorageError::Stopped(stopped))) => return Err(stopped.into()),
            Err(Trouble::Storage(error)) => {
                tracing::debug!(server = %handle.info().nickname, number, %error, "a share could not be read");
            }
        }
        Ok(None)
    }

    /// Shares of the version, best one last: those already open, then by number; further copies of a number come first
    /// of all, since they only serve when the others fail.
    fn candidates(&self) -> Vec<(usize, ShareNumber, KnownShare)> {
        let mut copies: BTreeMap<ShareNumber, usize> = BTreeMap::new();
        let mut shares: Vec<_> = self
            .map
            .shares()
            .iter()
            .filter(|(place, share)| share.version == self.version && !self.changed.contains(*place))
            .map(|(&(server, number), share)| {
                let copy = copies.entry(number).and_modify(|c| *c += 1).or_insert(0);
                let closed = !self.open.contains_key(&(server, number));
                ((*copy, closed, number), (server, number, share.clone()))
            })
            .filter(|((_, _, number), _)| *number < u32::from(self.version.header.total))
            .collect();
        shares.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        shares.into_iter().map(|(_, share)| share).collect()
    }
}

/// Why a share gave nothing.
enum Trouble {
    Bad(String),
    /// It is of another version than the map says.
    Changed,
    Storage(StorageError),
}

impl From<PieceError> for Trouble {
    fn from(error: PieceError) -> Trouble {
        match error {
            PieceError::Short => Trouble::Bad("the share is cut short".into()),
            PieceError::Storage(error) => Trouble::Storage(error),
        }
    }
}

/// Reads and verifies the blocks of one share, and at its first use its hash tree and chain.
#[allow(clippy::too_many_arguments)]
async fn fetch(
    cx: &Cx,
    slot: &Arc<Slot>,
    server: &Server,
    number: ShareNumber,
    share: &KnownShare,
    version: &Arc<Version>,
    encoding: &Encoding,
    leaves: Option<Leaves>,
    segments: Range<u64>,
) -> Result<Got, Trouble> {
    let bad = || Trouble::Bad("offsets out of bounds".into());
    let ranges: Option<Vec<_>> = segments.clone().map(|s| version.block_range(encoding, s)).collect();
    let mut ranges = ranges.ok_or_else(bad)?;
    let blocks = ranges.len();
    if leaves.is_none() {
        let tree = version.block_hash_tree();
        let segments = usize::try_from(encoding.num_segments).map_err(|_| bad())?;
        ranges.push(version.share_hash_chain());
        ranges.push(tree.start..tree.start + 32 * node_count(segments) as u64);
        if tree.end < ranges[blocks + 1].end || chain_too_long(version) {
            return Err(bad());
        }
    }
    let mut read = pieces(cx, slot, server, number, &share.head, &ranges).await?;
    let hashes = read.split_off(blocks);
    let version = Arc::clone(version);
    let verified = slot.grid.cpu().run(move || -> Result<Got, String> {
        let leaves = match leaves {
            Some(leaves) => leaves,
            None => Arc::new(open_share(&version, number, &hashes[0], &hashes[1])?),
        };
        for (segment, block) in segments.zip(&read) {
            if leaves.get(segment as usize) != Some(&tagged(Tag::BLOCK, block)) {
                return Err(format!("block {segment} does not match its hash"));
            }
        }
        Ok(Got { number, leaves, blocks: read })
    });
    verified.await.map_err(Trouble::Bad)
}

/// Whether a share that fails its checks now begins like another version than it did: then it is not corrupt, somebody
/// has written. A share whose first bytes cannot be had in full is no other version.
async fn has_changed(cx: &Cx, slot: &Slot, server: &Server, number: ShareNumber, version: &Version) -> bool {
    let checkstring = version.header.checkstring();
    let range = ReadRange { offset: 0, length: checkstring.len() as u64 };
    let answer = server.read_share(cx, ShareKind::Mutable, slot.si, number, &[range]).await;
    let first = answer.ok().and_then(|mut answer| answer.pop()).unwrap_or_default();
    first.len() == checkstring.len() && first != checkstring
}

fn chain_too_long(version: &Version) -> bool {
    let chain = version.share_hash_chain();
    chain.end - chain.start > 2 * 256 * chain::ENTRY_LEN as u64
}

/// The block hashes of a share, proven against the version's root.
fn open_share(version: &Version, number: ShareNumber, chain: &[u8], tree: &[u8]) -> Result<Vec<Hash>, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let nodes = decode_hashes(tree).map_err(|e| text(&e))?;
    let chain = chain::decode(chain, version.header.total.into()).map_err(|e| text(&e))?;
    let mut shares = IncompleteTree::new(version.header.total.into());
    shares.set_root(version.header.root_hash);
    shares.add(chain, [(number as usize, nodes[0])]).map_err(|e| text(&e))?;
    let segments = version.header.encoding().map_err(|e| text(&e))?.num_segments as usize;
    let mut blocks = IncompleteTree::new(segments);
    blocks.set_root(nodes[0]);
    blocks.add(nodes.into_iter().enumerate(), []).map_err(|e| text(&e))?;
    (0..segments).map(|leaf| blocks.leaf(leaf).ok_or_else(|| "a block hash is missing".to_string())).collect()
}

/// Segments from k shares whose blocks are verified.
fn decode(version: &Version, got: &[Got]) -> Result<Vec<Sealed>, NodeError> {
    let corrupt = |e: &dyn std::fmt::Display| NodeError::Corrupt(e.to_string());
    let header = &version.header;
    let codec = Codec::get(header.needed.into(), header.total.into()).map_err(|e| corrupt(&e))?;
    let segments = got.iter().map(|share| share.blocks.len()).min().unwrap_or(0);
    let mut out = Vec::with_capacity(segments);
    for at in 0..segments {
        let mut salt = header.iv;
        let mut blocks = Vec::with_capacity(got.len());
        for share in got {
            let block: &[u8] = match header.iv {
                Some(_) => &share.blocks[at],
                None => {
                    let (its_salt, block) = split_block(&share.blocks[at]).map_err(|e| corrupt(&e))?;
                    salt = salt.or(Some(*its_salt));
                    block
                }
            };
            blocks.push((share.number as usize, block));
        }
        let bytes = codec.decode_segment(&blocks).map_err(|e| corrupt(&e))?;
        let salt = salt.ok_or_else(|| NodeError::Corrupt("a segment without salt".into()))?;
        out.push(Sealed { salt, bytes });
    }
    Ok(out)
}

/// The plaintext of neighbouring segments.
fn decrypt(
    encoding: &Encoding,
    key: &ReadKey,
    segments: Range<u64>,
    sealed: Vec<Sealed>,
) -> Result<Vec<u8>, NodeError> {
    let mut out = Vec::new();
    for (segment, Sealed { salt, bytes: mut plain }) in segments.zip(sealed) {
        let last = segment + 1 == encoding.num_segments;
        let length = if last { encoding.tail_size } else { encoding.segment_size } as usize;
        if plain.len() < length {
            return Err(NodeError::Corrupt("a segment is shorter than the header says".into()));
        }
        plain.truncate(length);
        AesCtr::new(data_key(&salt, key).as_bytes()).apply(&mut plain);
        if out.is_empty() {
            out = plain;
        } else {
            out.extend_from_slice(&plain);
        }
    }
    Ok(out)
}
