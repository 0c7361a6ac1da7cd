//! Uploads: a file in, a capability out (PROTOCOL 5.1, 5.5).

mod ask;
mod encode;
mod select;
mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::cap::{Cap, ChkCap, FileCap, LitCap, StorageIndex};
use crate::crypto::hash::{Hash, Tag, truncated};
use crate::crypto::secrets::{convergence_hasher, immutable_storage_index};
use crate::crypto::{ReadKey, TaggedHasher};
use crate::grid::Grid;
use crate::merkle::HashTree;
use crate::node::{NodeError, Source};
use crate::share::{self, Layout, Ueb, chain, tree_nodes};
use crate::storage::ShareNumber;
use crate::util::{Cx, Operation, OperationKind, SingleFlight};

use encode::{Encoder, Segment};
use select::{Memory, Selection, Wanted, select};
use send::{Destination, Senders};

/// Bytes of the source that the convergence hash takes at a time.
const PIECE: u64 = 1 << 20;

/// Bytes that segments under way may take together, where one does not take more by itself.
const SEGMENTS_BUDGET: u64 = 32 << 20;

/// Bytes that batches of all shares may take together.
const BATCHES_BUDGET: u64 = 32 << 20;

/// Segments under way at most.
const DEPTH: u64 = 4;

/// A batch of one share in bytes, unless there are very many shares.
const BATCH: u64 = 1 << 20;
const LEAST_BATCH: u64 = 64 << 10;

/// How a file is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadOptions {
    /// Whether the key is the hash of the content and the convergence secret, so that equal files are stored once;
    /// else it is random.
    pub convergent: bool,
}

impl Default for UploadOptions {
    fn default() -> Self {
        UploadOptions { convergent: true }
    }
}

/// A stored file.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// What reads it.
    pub cap: Cap,
    /// How it went.
    pub results: UploadResults,
}

/// How an upload went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UploadResults {
    /// Bytes of the file.
    pub file_size: u64,
    /// Shares that were written.
    pub pushed_shares: usize,
    /// Shares that some server held already.
    pub preexisting_shares: usize,
    /// Servers of happiness reached; 0 for a literal.
    pub happiness: usize,
    /// For each share the ids of the servers that hold it.
    pub share_map: BTreeMap<ShareNumber, BTreeSet<String>>,
    /// For each server, by its id, the shares that it holds.
    pub server_map: BTreeMap<String, BTreeSet<ShareNumber>>,
    /// Names of those servers, by their ids.
    pub nicknames: BTreeMap<String, String>,
    /// Where the time went.
    pub timings: Timings,
    /// The URI extension block; none for a literal.
    pub ueb: Option<Ueb>,
    /// Its hash.
    pub ueb_hash: Option<Hash>,
    /// What verifies the file; none for a literal.
    pub verify_cap: Option<Cap>,
}

/// Where the time of an upload went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Hashing the content to find its key and storage index.
    pub storage_index: Duration,
    /// Finding servers and allocating room.
    pub server_selection: Duration,
    /// Encrypting, encoding and sending.
    pub encode_and_push: Duration,
    /// All of it.
    pub total: Duration,
}

/// Stores immutable files on a grid. Uploads of the same content at the same time through one uploader become one.
pub struct Uploader {
    grid: Arc<Grid>,
    under_way: SingleFlight<StorageIndex, Result<Uploaded, NodeError>>,
    memory: Memory,
}

impl Uploader {
    /// An uploader to `grid`, with its encoding and its convergence secret.
    pub fn new(grid: Arc<Grid>) -> Uploader {
        Uploader { grid, under_way: SingleFlight::default(), memory: Memory::default() }
    }

    /// Stores a file under its convergent key; see [`Uploader::upload_with`].
    pub async fn upload(&self, cx: &Cx, source: Arc<dyn Source>) -> Result<Uploaded, NodeError> {
        self.upload_with(cx, source, UploadOptions::default()).await
    }

    /// Stores a file. The source is read twice, once for the key; it must not change meanwhile, and must not wait for
    /// memory of `cx`. Shares that servers hold already are not written again.
    ///
    /// Dropping the future aborts the upload. A share becomes visible only when it is complete, and the shares of a
    /// file larger than one batch only when enough servers have taken all but the last batch.
    ///
    /// # Errors
    /// [`NodeError::NotEnoughServers`] or [`NodeError::NoSpace`] when happiness is not reached, before or under way;
    /// [`NodeError::Source`] when the source cannot be read or ends early; [`NodeError::TooLarge`] when the format
    /// or the configured encoding has no room for it; [`NodeError::Stopped`] as `cx` says.
    pub async fn upload_with(
        &self,
        cx: &Cx,
        source: Arc<dyn Source>,
        options: UploadOptions,
    ) -> Result<Uploaded, NodeError> {
        cx.run(self.store(cx, source, options)).await?
    }

    async fn store(&self, cx: &Cx, source: Arc<dyn Source>, options: UploadOptions) -> Result<Uploaded, NodeError> {
        let began = Instant::now();
        let size = source.size();
        if size <= LitCap::LONGEST as u64 {
            let data = encode::read(&*source, 0, size).await?.to_vec();
            let timings = Timings { total: began.elapsed(), ..Timings::default() };
            let results = UploadResults { file_size: size, timings, ..UploadResults::default() };
            return Ok(Uploaded { cap: Cap::File(FileCap::Lit(LitCap { data })), results });
        }
        let configured = self.grid.encoding();
        let encoding = share::Encoding::new(size, configured.needed.into(), configured.max_segment_size)
            .map_err(|_| NodeError::TooLarge)?;
        let key = if options.convergent {
            self.convergent_key(cx, &*source, encoding.segment_size).await?
        } else {
            ReadKey::new(self.grid.rng().bytes())
        };
        let storage_index = StorageIndex(immutable_storage_index(&key));
        let hashed = began.elapsed();
        loop {
            let led = AtomicBool::new(false);
            let outcome = self.under_way.run(storage_index, || {
                led.store(true, Ordering::Relaxed);
                self.send(cx, Arc::clone(&source), key.clone(), storage_index, encoding)
            });
            match outcome.await {
                // These are about the other caller's context and source, not ours.
                Err(NodeError::Stopped(_) | NodeError::Source(_)) if !led.load(Ordering::Relaxed) => {}
                outcome => {
                    return outcome.map(|mut uploaded| {
                        uploaded.results.timings.storage_index = hashed;
                        uploaded.results.timings.total = began.elapsed();
                        uploaded
                    });
                }
            }
        }
    }

    /// The first pass: a hash of everything, the next piece being read while one is hashed.
    async fn convergent_key(&self, cx: &Cx, source: &dyn Source, segment_size: u64) -> Result<ReadKey, NodeError> {
        let configured = self.grid.encoding();
        let mut hasher = convergence_hasher(self.grid.convergence(), configured.needed, configured.total, segment_size);
        let size = source.size();
        let _memory = cx.memory(2 * PIECE.min(size)).await;
        let mut piece = encode::read(source, 0, PIECE.min(size)).await?;
        let mut at = piece.len() as u64;
        while !piece.is_empty() {
            let next = encode::read(source, at, PIECE.min(size - at));
            cx.acknowledge();
            let (hashed, next) = futures::join!(encode::hash(self.grid.cpu(), hasher, piece), next);
            hasher = hashed;
            piece = next?;
            at += piece.len() as u64;
        }
        Ok(ReadKey::new(truncated(hasher.finish())))
    }

    /// The second pass, which is an operation on the grid.
    async fn send(
        &self,
        cx: &Cx,
        source: Arc<dyn Source>,
        key: ReadKey,
        storage_index: StorageIndex,
        encoding: share::Encoding,
    ) -> Result<Uploaded, NodeError> {
        let operation = self.grid.operations().begin(OperationKind::Upload, storage_index, encoding.size);
        let outcome = self.send_as(&operation, cx, source, key, storage_index, encoding).await;
        operation.end(&outcome);
        outcome
    }

    /// Finds servers, encrypts, encodes and sends.
    async fn send_as(
        &self,
        operation: &Operation,
        cx: &Cx,
        source: Arc<dyn Source>,
        key: ReadKey,
        storage_index: StorageIndex,
        encoding: share::Encoding,
    ) -> Result<Uploaded, NodeError> {
        let began = Instant::now();
        let configured = self.grid.encoding();
        let total = u32::from(configured.total);
        let ueb_len = Ueb::packed_len(&encoding, total);
        let layout = Layout::for_encoding(&encoding, total, ueb_len).map_err(|_| NodeError::TooLarge)?;
        let share_size = layout.share_len(ueb_len).ok_or(NodeError::TooLarge)?;
        let wanted = Wanted { storage_index, total, happy: configured.happy.into(), share_size };
        let selection = select(&self.grid, cx, wanted, &self.memory).await?;
        let selected = began.elapsed();
        for (share, server) in &selection.allocated {
            tracing::debug!(storage_index = ?wanted.storage_index, share, server = %selection.servers[*server].name(), "a share goes to a server");
        }
        let encoder = Encoder { source, key: key.clone(), encoding, total, cpu: self.grid.cpu().clone() };
        let job = Job { grid: &self.grid, cx, operation, wanted, encoding, layout, selection, through: 0 };
        let (ueb, selection) = job.push(encoder).await?;

        let cap = ChkCap { key, ueb_hash: ueb.hash(), needed: encoding.needed, total, size: encoding.size };
        let mut results = UploadResults {
            file_size: encoding.size,
            pushed_shares: selection.written.len(),
            preexisting_shares: selection.existing.len(),
            happiness: selection.happiness(|_| false),
            ueb_hash: Some(cap.ueb_hash),
            ueb: Some(ueb),
            verify_cap: Some(Cap::File(FileCap::ChkVerify(cap.verifier()))),
            timings: Timings {
                server_selection: selected,
                encode_and_push: began.elapsed() - selected,
                ..Timings::default()
            },
            ..UploadResults::default()
        };
        let placed = selection.existing.iter().chain(&selection.written);
        for (share, server) in placed.flat_map(|(&share, servers)| servers.iter().map(move |&s| (share, s))) {
            let info = selection.servers[server].info();
            results.share_map.entry(share).or_default().insert(info.id.clone());
            results.server_map.entry(info.id.clone()).or_default().insert(share);
            results.nicknames.insert(info.id.clone(), info.nickname.clone());
        }
        let UploadResults { file_size, pushed_shares, preexisting_shares, happiness, .. } = results;
        let (storage_index, took) = (wanted.storage_index, began.elapsed());
        tracing::info!(?storage_index, file_size, pushed_shares, preexisting_shares, happiness, ?took, "stored a file");
        Ok(Uploaded { cap: Cap::File(FileCap::Chk(cap)), results })
    }
}

/// The second pass of one upload, once its servers are known.
struct Job<'a> {
    grid: &'a Grid,
    cx: &'a Cx,
    operation: &'a Operation,
    wanted: Wanted,
    encoding: share::Encoding,
    layout: Layout,
    selection: Selection,
    /// Bytes of the file that have gone by at least once.
    through: u64,
}

/// The hashes that gather while a file goes by.
struct Hashes {
    segments: Vec<Hash>,
    /// For each share, those of its blocks.
    blocks: Vec<Vec<Hash>>,
}

impl Job<'_> {
    /// Encodes and sends all shares; gives the UEB, and what became of the servers.
    async fn push(mut self, encoder: Encoder) -> Result<(Ueb, Selection), NodeError> {
        match self.push_all(encoder).await {
            Ok(ueb) => Ok((ueb, self.selection)),
            Err(error) => {
                self.selection.pending.abort_all().await;
                Err(error)
            }
        }
    }

    /// Goes over the file once, and again for the shares of servers that have failed while happiness needs others in
    /// their place.
    async fn push_all(&mut self, encoder: Encoder) -> Result<Ueb, NodeError> {
        let writers = self.selection.allocated.len() as u64;
        let batch = (BATCHES_BUDGET / (3 * writers.max(1))).clamp(LEAST_BATCH, BATCH);
        let cost = encoder.segment_cost();
        let depth = (SEGMENTS_BUDGET / cost.max(1)).clamp(1, DEPTH).min(self.encoding.num_segments);
        let memory = (depth + 1) * cost + 3 * writers * batch.min(self.wanted.share_size);
        let _memory = self.cx.memory(memory).await;

        let encoder = Arc::new(encoder);
        let mut senders = Senders::new(batch as usize);
        let mut fresh = self.begin(&mut senders);
        let ueb = self.pass(&encoder, depth as usize, &mut senders, &fresh).await?;
        loop {
            senders.settle().await;
            self.drop_lost(&mut senders).await;
            if self.is_happy(&senders) {
                for (share, outcome) in senders.finish().await {
                    match outcome {
                        Ok(()) => self.selection.complete(share),
                        Err(error) => self.lost(share, &error),
                    }
                }
                if self.is_happy(&senders) {
                    return Ok(ueb);
                }
            }
            let before = self.selection.allocated.clone();
            self.selection.place_all(self.grid, self.cx).await;
            senders.retain(|share| self.selection.allocated.get(&share) == before.get(&share));
            fresh = self.begin(&mut senders);
            if fresh.is_empty() {
                return Err(self.unhappy(&senders));
            }
            if self.pass(&encoder, depth as usize, &mut senders, &fresh).await? != ueb {
                return Err(NodeError::Source("it changed while it was stored".into()));
            }
        }
    }

    /// Begins the shares that have a server and are not on their way; gives their numbers.
    fn begin(&self, senders: &mut Senders) -> BTreeSet<ShareNumber> {
        let under_way = senders.shares();
        let selection = &self.selection;
        let fresh = selection.allocated.iter().filter(|(share, _)| !under_way.contains(share));
        fresh
            .map(|(&share, &server)| {
                senders.add(Destination {
                    cx: self.cx.clone(),
                    server: Arc::clone(&selection.servers[server]),
                    storage_index: self.wanted.storage_index,
                    share,
                    secret: selection.pending.secret(server),
                    size: self.wanted.share_size,
                });
                share
            })
            .collect()
    }

    /// Goes over the whole file and sends the `fresh` shares but for their last batches.
    async fn pass(
        &mut self,
        encoder: &Arc<Encoder>,
        depth: usize,
        senders: &mut Senders,
        fresh: &BTreeSet<ShareNumber>,
    ) -> Result<Ueb, NodeError> {
        let header = Bytes::from(self.layout.header());
        for &share in fresh {
            senders.push(share, header.clone()).await;
        }
        let mut hashes = Hashes { segments: Vec::new(), blocks: vec![Vec::new(); encoder.total as usize] };
        let mut flat = TaggedHasher::new(Tag::CRYPTTEXT.0.as_bytes());
        let mut segments = futures::stream::iter(0..self.encoding.num_segments)
            .map(|index| AbortOnDropHandle::new(tokio::spawn(Arc::clone(encoder).segment(index))))
            .buffered(depth);
        while let Some(segment) = segments.next().await {
            let Segment { ciphertext, hash, blocks, block_hashes } =
                segment.map_err(|e| NodeError::Source(format!("a segment could not be encoded: {e}")))??;
            hashes.segments.push(hash);
            for (of_share, hash) in hashes.blocks.iter_mut().zip(block_hashes) {
                of_share.push(hash);
            }
            if fresh.is_empty() {
                // Nothing is sent, so nothing is acknowledged, and yet it moves.
                self.cx.acknowledge();
            }
            let send = async {
                for &share in fresh {
                    senders.push(share, blocks[share as usize].clone()).await;
                }
            };
            (flat, ()) = futures::join!(encode::hash(&encoder.cpu, flat, ciphertext), send);
            let by = (hashes.segments.len() as u64).saturating_mul(self.encoding.segment_size).min(self.encoding.size);
            self.operation.advance(by.saturating_sub(self.through));
            self.through = self.through.max(by);
            if self.drop_lost(senders).await && !self.is_happy(senders) && !self.selection.is_possible() {
                return Err(self.unhappy(senders));
            }
        }
        drop(segments);
        self.push_trailers(senders, fresh, hashes, flat.finish()).await
    }

    /// What follows the blocks: three trees, the chain and the UEB (PROTOCOL 5.3).
    async fn push_trailers(
        &self,
        senders: &mut Senders,
        fresh: &BTreeSet<ShareNumber>,
        hashes: Hashes,
        flat: Hash,
    ) -> Result<Ueb, NodeError> {
        let crypttext = HashTree::new(hashes.segments);
        // Trees are built twice, so that never more than one of them is held.
        let roots = hashes.blocks.iter().map(|blocks| HashTree::new(blocks.clone()).root()).collect();
        let shares = HashTree::new(roots);
        let total = self.wanted.total;
        let ueb = Ueb::new(&self.encoding, total, flat, crypttext.root(), shares.root());
        let ueb_field = Bytes::from(self.layout.ueb_field(&ueb.pack()));
        let unused = tree_nodes(self.encoding.num_segments).ok_or(NodeError::TooLarge)? * 32;
        let unused = Bytes::from(vec![0; unused as usize]);
        let crypttext = Bytes::from(crypttext.nodes().concat());
        for &share in fresh {
            let blocks = HashTree::new(hashes.blocks[share as usize].clone());
            let chain = chain::encode(&chain::immutable_order(total, share), shares.nodes())
                .map_err(|_| NodeError::TooLarge)?;
            for part in [unused.clone(), crypttext.clone(), blocks.nodes().concat().into(), chain.into()] {
                senders.push(share, part).await;
            }
            senders.push(share, ueb_field.clone()).await;
        }
        Ok(ueb)
    }

    /// Gives up the shares whose servers have failed; `true` when there were any.
    async fn drop_lost(&mut self, senders: &mut Senders) -> bool {
        let lost = senders.lost().await;
        lost.iter().for_each(|(share, error)| self.lost(*share, error));
        !lost.is_empty()
    }

    fn lost(&mut self, share: ShareNumber, error: &crate::storage::StorageError) {
        if let Some(&server) = self.selection.allocated.get(&share) {
            let id = &self.selection.servers[server].info().id;
            tracing::warn!(server = %id, share, %error, "a share was given up while it was written");
        }
        self.selection.lost(share, error);
    }

    /// The happiness of what is there and what is on its way.
    fn reached(&self, senders: &Senders) -> usize {
        let under_way = senders.shares();
        self.selection.happiness(|share| under_way.contains(&share))
    }

    fn is_happy(&self, senders: &Senders) -> bool {
        self.reached(senders) >= self.wanted.happy
    }

    fn unhappy(&self, senders: &Senders) -> NodeError {
        self.selection.unhappy(self.grid, self.reached(senders))
    }
}
