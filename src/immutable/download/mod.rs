//! Downloads: any range of a file, every byte of it verified (PROTOCOL 5.4).

mod file;
mod find;
mod share;
mod spans;
mod tree;

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use crate::cache::{BlockCache, BlockKey, Blocks, FileId, KeptBlock};
use crate::cap::{Cap, ChkCap, FileCap};
use crate::crypto::hash::{Tag, tagged};
use crate::grid::Grid;
use crate::node::{NodeError, Readable};
use crate::share::Encoding;
use crate::util::{Cx, Priority, Stopped};

use file::File;

/// Names a file in the cache: its whole read cap, so that nobody can have one file's blocks taken for another's.
const CACHE_ID: Tag = Tag("tahoefs_cached_immutable_file_v1");

/// Segments of one read that are fetched at a time.
const ABREAST: usize = 3;

/// Segments that are fetched ahead of a sequential reader at a time.
const AHEAD: usize = 2;

/// The room that is set aside at once for a range of several segments, in bytes; it grows with what arrives.
const FIRST_ROOM: u64 = 16 << 20;

/// Reads an immutable file.
///
/// Keeps what it learns of the file, so one reader should serve all reads of a cap. Segments go through the cache and
/// are fetched once however many ask at the same time; one whose readers have all given up still ends in the cache.
pub struct Reader {
    file: Arc<File>,
    cache: Arc<BlockCache>,
    kept: Option<Arc<Blocks>>,
    /// How the file is cut, as a block that was kept says.
    kept_as: OnceLock<Encoding>,
    id: FileId,
    /// Held by the one who fetches the first segment.
    opening: Arc<tokio::sync::Mutex<()>>,
    pace: Mutex<Pace>,
}

/// How the file has been read.
#[derive(Default)]
struct Pace {
    last: Option<u64>,
    streak: u64,
    ahead: Vec<AbortOnDropHandle<()>>,
}

impl Reader {
    /// The file behind `cap`. Asks no server yet.
    pub fn new(grid: Arc<Grid>, cap: ChkCap, cache: Arc<BlockCache>) -> Reader {
        let id = FileId(tagged(CACHE_ID, Cap::File(FileCap::Chk(cap.clone())).to_uri().as_bytes()));
        Reader {
            file: Arc::new(File::new(grid, cap)),
            cache,
            kept: None,
            kept_as: OnceLock::new(),
            id,
            opening: Arc::default(),
            pace: Mutex::default(),
        }
    }

    /// The reader, whose segments are kept in `kept` from now on, and looked for there first.
    pub fn with_kept(self, kept: Option<&Arc<Blocks>>) -> Reader {
        Reader { kept: kept.map(Arc::clone), ..self }
    }

    fn key(&self, index: u64) -> BlockKey {
        BlockKey { file: self.id, index }
    }

    /// How the file is cut, and a segment, if that in which `offset` lies is kept, or the first.
    async fn open_kept(&self, offset: u64) -> Option<(Encoding, Option<(u64, Bytes)>)> {
        let (kept, cap) = (self.kept.as_ref()?, &self.file.cap);
        let guess = Encoding::guess(cap.size, cap.needed).ok()?.segment_of(offset)?;
        for segment in if guess == 0 { vec![0] } else { vec![guess, 0] } {
            let Some(block) = kept.find(self.key(segment)).await else { continue };
            let encoding = Encoding::with_segment_size(cap.size, cap.needed, block.segment_size).ok()?;
            self.cache.insert(self.key(segment), block.data.clone());
            return Some((*self.kept_as.get_or_init(|| encoding), Some((segment, block.data))));
        }
        None
    }

    /// How the file is cut; and, where it had to be fetched to learn that, the segment in which `offset` lies.
    async fn open(&self, cx: &Cx, offset: u64) -> Result<(Encoding, Option<(u64, Bytes)>), NodeError> {
        if let Some(encoding) = self.file.encoding().or(self.kept_as.get().copied()) {
            return Ok((encoding, None));
        }
        if let Some(opened) = self.open_kept(offset).await {
            return Ok(opened);
        }
        let (file, cache, kept, id) = (Arc::clone(&self.file), Arc::clone(&self.cache), self.kept.clone(), self.id);
        let (opening, unhurried) = (Arc::clone(&self.opening), cx.unhurried());
        let fetched = unless_stopped(cx, async move {
            let _one_at_a_time = opening.lock().await;
            if file.encoding().is_some() {
                return Ok(None);
            }
            let (key, data) = fetch_to_keep(file, kept, id, unhurried, offset).await?;
            cache.insert_fetched(key, data.clone());
            Ok(Some((key.index, data)))
        })
        .await?;
        let encoding = self.file.encoding().ok_or_else(|| NodeError::Corrupt("no URI extension block".into()))?;
        Ok((encoding, fetched))
    }

    /// The plaintext of one segment.
    async fn segment(&self, cx: &Cx, encoding: &Encoding, segment: u64) -> Result<Bytes, NodeError> {
        let key = self.key(segment);
        if let Some(data) = self.cache.get(&key) {
            return Ok(data);
        }
        loop {
            match unless_stopped(cx, self.fetch(cx.unhurried(), encoding, segment)).await {
                // Somebody else's fetch was joined, and that was cancelled.
                Err(NodeError::Stopped(Stopped::Cancelled)) if !cx.is_cancelled() => {}
                outcome => return outcome,
            }
        }
    }

    fn fetch(
        &self,
        cx: Cx,
        encoding: &Encoding,
        segment: u64,
    ) -> impl Future<Output = Result<Bytes, NodeError>> + use<> {
        let (key, segment_size) = (self.key(segment), encoding.segment_size);
        let offset = segment * segment_size;
        let (file, cache, kept) = (Arc::clone(&self.file), Arc::clone(&self.cache), self.kept.clone());
        let fetch = async move {
            if let Some(kept) = &kept
                && let Some(block) = kept.find(key).await
                && block.segment_size == segment_size
            {
                return Ok(block.data);
            }
            Ok(fetch_to_keep(file, kept, key.file, cx, offset).await?.1)
        };
        async move { cache.get_or_fetch(key, || fetch).await }
    }

    /// Notes that a segment was read, and fetches the next ones when it followed the one before.
    fn keep_pace(&self, cx: &Cx, encoding: &Encoding, segment: u64) {
        let mut pace = self.pace.lock().unwrap_or_else(|e| e.into_inner());
        match pace.last {
            Some(last) if last == segment => return,
            Some(last) if last + 1 == segment => pace.streak += 1,
            _ => pace.streak = 0,
        }
        pace.last = Some(segment);
        let room = self.cache.capacity() / encoding.segment_size.max(1);
        if pace.streak == 0 || room < 2 * AHEAD as u64 {
            return;
        }
        pace.ahead.retain(|task| !task.is_finished());
        let next = segment + 1..(segment + 1 + pace.streak.min(AHEAD as u64)).min(encoding.num_segments);
        for segment in next {
            if pace.ahead.len() >= AHEAD || self.cache.contains(&self.key(segment)) {
                continue;
            }
            let fetch = self.fetch(cx.unhurried().with_priority(Priority::Idle), encoding, segment);
            // A failure is told to whoever asks for the segment.
            pace.ahead.push(AbortOnDropHandle::new(tokio::spawn(async move { drop(fetch.await) })));
        }
    }

    async fn range(
        &self,
        cx: &Cx,
        encoding: &Encoding,
        range: Range<u64>,
        at_hand: &mut Option<(u64, Bytes)>,
    ) -> Result<Bytes, NodeError> {
        let (Some(first), Some(last)) = (encoding.segment_of(range.start), encoding.segment_of(range.end - 1)) else {
            return Ok(Bytes::new());
        };
        let kept = at_hand.clone();
        let mut segments = futures::stream::iter(first..=last)
            .map(|segment| {
                let kept = kept.clone().filter(|(at, _)| *at == segment);
                async move {
                    let data = match kept {
                        Some((_, data)) => data,
                        None => self.segment(cx, encoding, segment).await?,
                    };
                    self.keep_pace(cx, encoding, segment);
                    Ok::<_, NodeError>((segment, data))
                }
            })
            .buffered(ABREAST);
        let mut whole = BytesMut::new();
        while let Some(segment) = segments.next().await {
            let (segment, data) = segment?;
            let start = segment * encoding.segment_size;
            let cut = |at: u64| (at.saturating_sub(start) as usize).min(data.len());
            let part = data.slice(cut(range.start)..cut(range.end));
            *at_hand = Some((segment, data));
            if first == last {
                return Ok(part);
            }
            if whole.is_empty() {
                whole.reserve((range.end - range.start).min(FIRST_ROOM) as usize);
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }
}

#[async_trait]
impl Readable for Reader {
    async fn size(&self, _: &Cx) -> Result<u64, NodeError> {
        Ok(self.file.cap.size)
    }

    async fn read(&self, cx: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        let size = self.file.cap.size;
        let cut = |r: &Range<u64>| r.start.min(size)..r.end.min(size);
        let Some(first) = ranges.iter().map(cut).find(|r| r.start < r.end) else {
            return Ok(vec![Bytes::new(); ranges.len()]);
        };
        let (encoding, mut at_hand) = self.open(cx, first.start).await?;
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges.iter().map(cut) {
            parts.push(match range.start < range.end {
                true => self.range(cx, &encoding, range, &mut at_hand).await?,
                false => Bytes::new(),
            });
        }
        Ok(parts)
    }
}

/// The segment in which `offset` lies, from the servers; it is kept in `kept`.
async fn fetch_to_keep(
    file: Arc<File>,
    kept: Option<Arc<Blocks>>,
    id: FileId,
    cx: Cx,
    offset: u64,
) -> Result<(BlockKey, Bytes), NodeError> {
    let (index, data) = Arc::clone(&file).fetch(cx, offset).await?;
    let key = BlockKey { file: id, index };
    if let (Some(kept), Some(Encoding { segment_size, .. })) = (kept, file.encoding()) {
        kept.keep(key, KeptBlock { segment_size, data: data.clone() });
    }
    Ok((key, data))
}

/// Runs `work` as a task that goes on when `cx` ends the wait for it.
async fn unless_stopped<T: Send + 'static>(
    cx: &Cx,
    work: impl Future<Output = Result<T, NodeError>> + Send + 'static,
) -> Result<T, NodeError> {
    match cx.run(tokio::spawn(work)).await? {
        Ok(outcome) => outcome,
        Err(e) => Err(NodeError::Corrupt(format!("a fetch ended: {e}"))),
    }
}
