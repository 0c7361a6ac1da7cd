//! One share on one server: opened once, then read block by block, and believed in nothing (PROTOCOL 5.4).

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::file::File;
use super::spans::{Spans, join};
use super::tree::missing;
use crate::crypto::Hash;
use crate::crypto::hash::{Tag, tagged};
use crate::grid::Server;
use crate::merkle::IncompleteTree;
use crate::node::NodeError;
use crate::share::immutable::MAX_HEADER_LEN;
use crate::share::{BadShare, Encoding, Layout, Ueb, chain, decode_hashes, ueb};
use crate::storage::{ShareKind, ShareNumber, StorageError, StorageServer};
use crate::util::Cx;

/// As many bytes are fetched where a UEB of unknown length is expected.
const UEB_GUESS: u64 = 2048;

/// Blocks shorter than this are hashed on the spot.
const SMALL: usize = 32 << 10;

/// Why a share did not yield a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server failed.
    Server(StorageError),
    /// One block is not what it should be.
    Block(u64, String),
    /// The share is of no use.
    Share(String),
    /// No share can help.
    File(NodeError),
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Fault::Server(error)
    }
}

/// A share that a server says it has.
pub(super) struct Share {
    pub server: Arc<Server>,
    pub number: ShareNumber,
    state: Mutex<State>,
    /// Held by the one who opens it.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    bad: bool,
    bad_blocks: BTreeSet<u64>,
}

struct Open {
    layout: Layout,
    /// The tree over this share's blocks.
    blocks: IncompleteTree,
    /// What was read in the hope that it is needed.
    ahead: Spans,
}

impl Share {
    pub fn new(server: Arc<Server>, number: ShareNumber) -> Share {
        Share { server, number, state: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }

    /// Whether it may yield the block of `segment`, or any block if that is not known yet.
    pub fn is_usable(&self, segment: Option<u64>) -> bool {
        let state = self.state();
        !state.bad && segment.is_none_or(|segment| !state.bad_blocks.contains(&segment))
    }

    /// Whether its hashes and offsets have been read.
    pub fn is_open(&self) -> bool {
        self.state().open.is_some()
    }

    /// Marks the share, or one block of it, as useless.
    pub fn mark(&self, segment: Option<u64>) {
        let mut state = self.state();
        match segment {
            Some(segment) => {
                state.bad_blocks.insert(segment);
            }
            None => state.bad = true,
        }
    }

    /// The verified block of the segment in which `offset` lies, and that segment's number. Afterwards the hash of the
    /// segment's ciphertext is known too.
    pub async fn block(&self, file: &File, cx: &Cx, offset: u64) -> Result<(u64, Bytes), Fault> {
        let encoding = self.open(file, cx, offset).await?;
        let segment = encoding.segment_of(offset).ok_or(Fault::File(NodeError::TooLarge))?;
        let leaf = usize::try_from(segment).map_err(|_| Fault::File(NodeError::TooLarge))?;
        let (plan, ahead) = {
            let mut state = self.state();
            let open = state.open.as_mut().ok_or_else(|| Fault::Share("closed".into()))?;
            (self.plan(file, &open.layout, &open.blocks, &encoding, segment)?, std::mem::take(&mut open.ahead))
        };
        let spans = match plan.ranges().iter().all(|range| ahead.get(range).is_some()) {
            true => ahead,
            false => self.read(file, cx, plan.ranges()).await?,
        };
        let short = || Fault::Block(segment, "the share is cut short".into());
        let block = spans.get(&plan.block).ok_or_else(short)?;
        let block_nodes = plan.hashes(&plan.block_nodes, &spans).ok_or_else(short)?;
        let crypttext_nodes = plan.hashes(&plan.crypttext_nodes, &spans).ok_or_else(short)?;
        let wrong = |what: &str, e: crate::merkle::BadHashes| Fault::Share(format!("{what}: {e}"));
        file.known().crypttext.add(crypttext_nodes, []).map_err(|e| wrong("ciphertext hash tree", e))?;
        let expected = {
            let mut state = self.state();
            let open = state.open.as_mut().ok_or_else(|| Fault::Share("closed".into()))?;
            open.blocks.add(block_nodes, []).map_err(|e| wrong("block hash tree", e))?;
            open.blocks.leaf(leaf).ok_or_else(short)?
        };
        let found = {
            let block = block.clone();
            let work = move || tagged(Tag::BLOCK, &block);
            if plan.block_len() < SMALL { work() } else { file.grid.cpu().run(work).await }
        };
        if found == expected {
            Ok((segment, block))
        } else {
            Err(Fault::Block(segment, "the block hash differs".into()))
        }
    }

    /// Reads what is needed once: header, UEB unless it is known, and share hash chain; and with it, where a writer
    /// like ours would have put it, the block that is wanted.
    async fn open(&self, file: &File, cx: &Cx, offset: u64) -> Result<Encoding, Fault> {
        let _one_at_a_time = self.opening.lock().await;
        if let Some(encoding) = file.encoding().filter(|_| self.is_open()) {
            return Ok(encoding);
        }
        let known = file.encoding();
        let total = file.cap.total;
        let guess = known.map_or_else(|| Encoding::guess(file.cap.size, file.cap.needed), Ok).map_err(impossible)?;
        let ueb_len = Ueb::packed_len(&guess, total);
        let expected = Layout::for_encoding(&guess, total, ueb_len).map_err(impossible)?;
        let mut ranges = vec![0..MAX_HEADER_LEN, expected.share_hashes()];
        if known.is_none() {
            ranges.push(expected.uri_extension..expected.uri_extension.saturating_add(ueb_len + 8));
        }
        if let Some(segment) = guess.segment_of(offset) {
            let tree = IncompleteTree::new(usize::try_from(guess.num_segments).map_err(|_| impossible(()))?);
            ranges.extend(self.plan(file, &expected, &tree, &guess, segment)?.ranges());
        }
        let mut spans = self.read(file, cx, ranges).await?;
        let header = spans.up_to(&(0..MAX_HEADER_LEN)).unwrap_or_default();
        let layout = Layout::parse(&header).map_err(malformed)?;
        let (chain, ueb) =
            (layout.share_hashes(), layout.uri_extension..layout.uri_extension.saturating_add(UEB_GUESS));
        if chain.end - chain.start > longest_chain(total) {
            return Err(Fault::Share("the share hash chain is too long".into()));
        }
        if layout != expected {
            let again = if known.is_none() { vec![chain.clone(), ueb.clone()] } else { vec![chain.clone()] };
            spans = self.read(file, cx, again).await?;
        }
        let short = || Fault::Share("the share is cut short".into());
        let chain = spans.get(&chain).ok_or_else(short)?;
        if known.is_none() {
            let field = spans.get(&layout.ueb_len_field()).ok_or_else(short)?;
            let range = layout.ueb_range(&field).map_err(malformed)?;
            let bytes = match spans.get(&range) {
                Some(bytes) => bytes,
                None => self.read(file, cx, vec![range.clone()]).await?.get(&range).ok_or_else(short)?,
            };
            learn(file, cx, &bytes)?;
        }
        let encoding = file.encoding().ok_or_else(short)?;
        let chain = chain::decode(&chain, total).map_err(malformed)?;
        let root = {
            let mut known = file.known();
            let chained = known.shares.add(chain, []);
            chained.map_err(|e| Fault::Share(format!("share hash chain: {e}")))?;
            known
                .shares
                .leaf(self.number as usize)
                .ok_or_else(|| Fault::Share("its own hash is not in its chain".into()))?
        };
        let segments = usize::try_from(encoding.num_segments).map_err(|_| Fault::File(NodeError::TooLarge))?;
        let mut blocks = IncompleteTree::new(segments);
        blocks.set_root(root);
        self.state().open = Some(Open { layout, blocks, ahead: spans });
        Ok(encoding)
    }

    /// What must be read for the block of one segment.
    fn plan(
        &self,
        file: &File,
        layout: &Layout,
        blocks: &IncompleteTree,
        encoding: &Encoding,
        segment: u64,
    ) -> Result<Plan, Fault> {
        let outside = || Fault::Share("its offsets leave no room for its blocks and hashes".into());
        let leaf = usize::try_from(segment).map_err(|_| Fault::File(NodeError::TooLarge))?;
        let block = layout.block_range(encoding, segment).ok_or_else(outside)?;
        let place = |nodes: Vec<Range<usize>>, at: &dyn Fn(u64) -> Option<Range<u64>>| {
            let range = |nodes: &Range<usize>| Some(at(nodes.start as u64)?.start..at(nodes.end as u64 - 1)?.end);
            nodes.into_iter().map(|nodes| Some((range(&nodes)?, nodes))).collect::<Option<Vec<_>>>()
        };
        let crypttext_missing = {
            let known = file.known();
            match known.encoding {
                Some(_) => missing(&known.crypttext, leaf),
                None => missing(blocks, leaf),
            }
        };
        Ok(Plan {
            block,
            block_nodes: place(missing(blocks, leaf), &|n| layout.block_hash(n)).ok_or_else(outside)?,
            crypttext_nodes: place(crypttext_missing, &|n| layout.crypttext_hash(n)).ok_or_else(outside)?,
        })
    }

    async fn read(&self, file: &File, cx: &Cx, ranges: Vec<Range<u64>>) -> Result<Spans, Fault> {
        let reads = join(ranges);
        let answer = self.server.read_share(cx, ShareKind::Immutable, file.storage_index, self.number, &reads).await?;
        Ok(Spans::new(&reads, answer))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Where the parts of one block's proof lie in a share.
struct Plan {
    block: Range<u64>,
    /// Nodes of the share's own tree, and their place.
    block_nodes: Vec<(Range<u64>, Range<usize>)>,
    /// Nodes of the ciphertext's tree, and their place.
    crypttext_nodes: Vec<(Range<u64>, Range<usize>)>,
}

impl Plan {
    fn ranges(&self) -> Vec<Range<u64>> {
        let nodes = self.block_nodes.iter().chain(&self.crypttext_nodes);
        nodes.map(|(place, _)| place.clone()).chain([self.block.clone()]).collect()
    }

    fn block_len(&self) -> usize {
        (self.block.end - self.block.start) as usize
    }

    fn hashes(&self, nodes: &[(Range<u64>, Range<usize>)], spans: &Spans) -> Option<Vec<(usize, Hash)>> {
        let mut hashes = Vec::new();
        for (place, nodes) in nodes {
            hashes.extend(nodes.clone().zip(decode_hashes(&spans.get(place)?).ok()?));
        }
        Some(hashes)
    }
}

/// Takes in a UEB, once the capability vouches for it.
fn learn(file: &File, cx: &Cx, bytes: &[u8]) -> Result<(), Fault> {
    if ueb::hash(bytes) != file.cap.ueb_hash {
        return Err(Fault::Share("the UEB hash differs from the capability's".into()));
    }
    // From here on the fault is the writer's, and every share has it.
    let corrupt = |e: BadShare| Fault::File(NodeError::Corrupt(format!("URI extension block: {e}")));
    let parsed = Ueb::parse(bytes).map_err(corrupt)?;
    let encoding = parsed.encoding(file.cap.size, file.cap.needed).map_err(corrupt)?;
    file.learn(cx, encoding, &parsed).map_err(Fault::File)
}

fn malformed(error: BadShare) -> Fault {
    Fault::Share(error.to_string())
}

fn impossible<E>(_: E) -> Fault {
    Fault::File(NodeError::TooLarge)
}

/// Bytes of a chain in which every node of the tree over all shares stands once.
fn longest_chain(total: u32) -> u64 {
    crate::merkle::node_count(total as usize) as u64 * chain::ENTRY_LEN as u64
}
