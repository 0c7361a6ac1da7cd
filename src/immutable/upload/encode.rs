//! From plaintext to blocks and their hashes, one segment at a time, on every core.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;

use crate::codec::Codec;
use crate::crypto::hash::{Hash, Tag, tagged};
use crate::crypto::{AesCtr, ReadKey, TaggedHasher};
use crate::node::{NodeError, Source};
use crate::share::Encoding;
use crate::util::Cpu;

/// Work on fewer bytes than this is done on the spot: handing it over would cost as much.
const SMALL: usize = 32 << 10;

/// The blocks of a segment that are together at least this long are hashed by several jobs.
const SPREAD: usize = 256 << 10;

/// Jobs that the blocks of one segment are hashed by.
const JOBS: usize = 4;

/// Segment after segment of one file, encrypted and encoded.
pub(super) struct Encoder {
    pub source: Arc<dyn Source>,
    pub key: ReadKey,
    pub encoding: Encoding,
    pub total: u32,
    pub cpu: Cpu,
}

/// A segment, encoded.
pub(super) struct Segment {
    /// Without padding.
    pub ciphertext: Bytes,
    /// Hash of the ciphertext.
    pub hash: Hash,
    /// One block for each share.
    pub blocks: Vec<Bytes>,
    /// Their hashes.
    pub block_hashes: Vec<Hash>,
}

impl Encoder {
    /// Bytes that one encoded segment takes: its ciphertext and parity.
    pub fn segment_cost(&self) -> u64 {
        let parity = u64::from(self.total - self.encoding.needed) * self.encoding.block_size;
        self.encoding.segment_size.saturating_add(parity)
    }

    /// Reads, encrypts and encodes a segment that the file has.
    pub async fn segment(self: Arc<Self>, index: u64) -> Result<Segment, NodeError> {
        let (Some(range), Some(block)) = (self.encoding.segment_range(index), self.encoding.block_len(index)) else {
            return Err(NodeError::TooLarge);
        };
        let plaintext = read(&*self.source, range.start, range.end - range.start).await?;
        let len = plaintext.len();
        let block = usize::try_from(block).map_err(|_| NodeError::TooLarge)?;
        let (ciphertext, blocks) = {
            let this = Arc::clone(&self);
            let work = move || this.encode(plaintext, range.start, block);
            run(&self.cpu, len, work).await?
        };
        let spread = if block * blocks.len() < SPREAD { 1 } else { JOBS };
        let jobs = blocks.chunks(blocks.len().div_ceil(spread)).map(|part| {
            let part = part.to_vec();
            let bytes = part.len() * block;
            run(&self.cpu, bytes, move || part.iter().map(|block| tagged(Tag::BLOCK, block)).collect::<Vec<Hash>>())
        });
        let whole = ciphertext.clone();
        let hash = run(&self.cpu, len, move || tagged(Tag::CRYPTTEXT_SEGMENT, &whole));
        let (hash, block_hashes) = futures::join!(hash, join_all(jobs));
        Ok(Segment { ciphertext, hash, blocks, block_hashes: block_hashes.concat() })
    }

    /// Encrypts the segment that begins at `offset` of the file and makes its blocks. Primary blocks are slices of the
    /// padded ciphertext.
    fn encode(&self, plaintext: Bytes, offset: u64, block: usize) -> Result<(Bytes, Vec<Bytes>), NodeError> {
        let (needed, total) = (self.encoding.needed as usize, self.total as usize);
        let len = plaintext.len();
        let mut buffer = plaintext.try_into_mut().unwrap_or_else(|shared| {
            let mut own = BytesMut::with_capacity(block * needed);
            own.extend_from_slice(&shared);
            own
        });
        let mut cipher = AesCtr::new(self.key.as_bytes());
        cipher.seek(offset);
        cipher.apply(&mut buffer);
        buffer.resize(block * needed, 0);
        let padded = buffer.freeze();
        let codec = Codec::get(needed, total).map_err(|_| NodeError::TooLarge)?;
        let mut blocks: Vec<Bytes> = (0..needed).map(|i| padded.slice(i * block..(i + 1) * block)).collect();
        if needed == 1 {
            // All shares of a 1-of-N file are the same.
            blocks.resize(total, padded.clone());
        } else {
            let primary: Vec<&[u8]> = blocks.iter().map(|b| &b[..]).collect();
            let parity = codec.encode_parity(&primary);
            blocks.extend(parity.into_iter().map(Bytes::from));
        }
        Ok((padded.slice(..len), blocks))
    }
}

/// Exactly `length` bytes of a source.
pub(super) async fn read(source: &dyn Source, offset: u64, length: u64) -> Result<Bytes, NodeError> {
    let length = usize::try_from(length).map_err(|_| NodeError::TooLarge)?;
    let data = source.read_at(offset, length).await.map_err(|e| NodeError::Source(e.to_string()))?;
    if data.len() == length { Ok(data) } else { Err(NodeError::Source("it ended early".into())) }
}

/// Feeds `data` to a hasher.
pub(super) async fn hash(cpu: &Cpu, mut hasher: TaggedHasher, data: Bytes) -> TaggedHasher {
    run(cpu, data.len(), move || {
        hasher.update(&data);
        hasher
    })
    .await
}

/// Runs `work` on `bytes` of data beside the runtime's workers, or on the spot if they are few.
async fn run<T: Send + 'static>(cpu: &Cpu, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes < SMALL { work() } else { cpu.run(work).await }
}
