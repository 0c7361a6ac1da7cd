//! Verified plaintext of files in memory, least recently used out first, weighed in bytes; and blocks of files and the tables
//! of directories on disk, sealed.

mod blocks;
mod folder;
mod tables;

use std::any::Any;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use lru::LruCache;

use crate::util::SingleFlight;

pub use blocks::{Blocks, KeptBlock};
pub use tables::{TableId, TableVersion, Tables};

const SHARDS: usize = 16;

/// How often a block was looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// And was there.
    pub hits: u64,
    /// And was not.
    pub misses: u64,
}

/// Counts [`Lookups`].
#[derive(Default)]
struct Counted {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counted {
    fn note(&self, is_hit: bool) {
        let count = if is_hit { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> Lookups {
        Lookups { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }
}

/// What an entry costs beside its bytes.
const OVERHEAD: u64 = 128;

/// Names a file, or one version of it, whose every byte is fixed.
///
/// Whatever decides on the plaintext must have gone into it, the decryption key included: anybody can make a
/// capability with the hashes of another file and a key of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub [u8; 32]);

/// Names a block of a file: an immutable file's segment, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// The file.
    pub file: FileId,
    /// Which block of it.
    pub index: u64,
}

type Failure = Arc<dyn Any + Send + Sync>;

struct Entry {
    block: Bytes,
    used: u64,
}

/// A cache of verified blocks, bounded in bytes.
///
/// The bound covers all shards together, and the least recently used block of all goes first.
pub struct BlockCache {
    capacity: u64,
    weight: AtomicU64,
    clock: AtomicU64,
    hasher: RandomState,
    shards: [Mutex<LruCache<BlockKey, Entry>>; SHARDS],
    evicting: Mutex<()>,
    fetching: SingleFlight<BlockKey, Result<Bytes, Failure>>,
    lookups: Counted,
}

impl BlockCache {
    /// An empty cache of at most `capacity` bytes, a small overhead for each block included. With 0 it keeps nothing.
    pub fn new(capacity: u64) -> BlockCache {
        BlockCache {
            capacity,
            weight: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::new(LruCache::unbounded())),
            evicting: Mutex::new(()),
            fetching: SingleFlight::default(),
            lookups: Counted::default(),
        }
    }

    /// Keeps a block that was fetched without a look whether it is there.
    pub fn insert_fetched(&self, key: BlockKey, block: Bytes) {
        self.lookups.note(false);
        self.insert(key, block);
    }

    /// How often blocks were there, and how often they had to be fetched.
    pub fn lookups(&self) -> Lookups {
        self.lookups.get()
    }

    /// The most bytes it keeps.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes it keeps now.
    pub fn weight(&self) -> u64 {
        self.weight.load(Ordering::Acquire)
    }

    /// The block, if it is there; it is then the most recently used.
    pub fn get(&self, key: &BlockKey) -> Option<Bytes> {
        let mut shard = self.shard(key);
        let entry = shard.get_mut(key)?;
        entry.used = self.tick();
        self.lookups.note(true);
        Some(entry.block.clone())
    }

    /// Whether the block is there; its place in the order stays.
    pub fn contains(&self, key: &BlockKey) -> bool {
        self.shard(key).contains(key)
    }

    /// Keeps a block, and lets others go where that takes more room than there is. One that is larger than the whole
    /// capacity is not kept.
    pub fn insert(&self, key: BlockKey, block: Bytes) {
        let weight = weight_of(&block);
        if weight > self.capacity {
            return self.remove(&key);
        }
        {
            let mut shard = self.shard(&key);
            let old = shard.put(key, Entry { block, used: self.tick() });
            self.weight.fetch_add(weight, Ordering::AcqRel);
            self.give_back(old);
        }
        self.evict();
    }

    /// Forgets one block.
    pub fn remove(&self, key: &BlockKey) {
        let mut shard = self.shard(key);
        let old = shard.pop(key);
        self.give_back(old);
    }

    /// Forgets every block of a file.
    pub fn remove_file(&self, file: FileId) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let keys: Vec<BlockKey> = shard.iter().map(|(key, _)| *key).filter(|key| key.file == file).collect();
            for key in keys {
                let old = shard.pop(&key);
                self.give_back(old);
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            while let Some((_, entry)) = shard.pop_lru() {
                self.give_back(Some(entry));
            }
        }
    }

    /// The block, from the cache or else from `fetch`, whose result is kept.
    ///
    /// Callers that miss the same block at the same time share one fetch, its error too; when the one whose fetch runs
    /// is dropped, another's takes its place. All callers of a key must use the same error type.
    pub async fn get_or_fetch<E, F>(&self, key: BlockKey, fetch: impl FnOnce() -> F) -> Result<Bytes, E>
    where
        E: Clone + Send + Sync + 'static,
        F: Future<Output = Result<Bytes, E>>,
    {
        if let Some(block) = self.get(&key) {
            return Ok(block);
        }
        let outcome = self.fetching.run(key, || async {
            // Somebody may have fetched it between the look above and now.
            if let Some(block) = self.get(&key) {
                return Ok(block);
            }
            self.lookups.note(false);
            let block = fetch().await.map_err(|e| Arc::new(e) as Failure)?;
            self.insert(key, block.clone());
            Ok(block)
        });
        outcome.await.map_err(|failure| failure.downcast_ref::<E>().expect("one error type for each key").clone())
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, key: &BlockKey) -> MutexGuard<'_, LruCache<BlockKey, Entry>> {
        lock(&self.shards[self.hasher.hash_one(key) as usize % SHARDS])
    }

    fn give_back(&self, entry: Option<Entry>) {
        if let Some(entry) = entry {
            self.weight.fetch_sub(weight_of(&entry.block), Ordering::AcqRel);
        }
    }

    /// Lets the least recently used blocks go until the rest fits.
    fn evict(&self) {
        if self.weight() <= self.capacity {
            return;
        }
        let _one_at_a_time = lock(&self.evicting);
        while self.weight() > self.capacity {
            let oldest = |shard: &Mutex<LruCache<BlockKey, Entry>>| lock(shard).peek_lru().map(|(_, entry)| entry.used);
            let Some((_, shard)) =
                self.shards.iter().filter_map(|s| Some((oldest(s)?, s))).min_by_key(|(used, _)| *used)
            else {
                return;
            };
            let mut shard = lock(shard);
            let old = shard.pop_lru().map(|(_, entry)| entry);
            self.give_back(old);
        }
    }
}

fn weight_of(block: &Bytes) -> u64 {
    block.len() as u64 + OVERHEAD
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    fn key(file: u8, index: u64) -> BlockKey {
        BlockKey { file: FileId([file; 32]), index }
    }

    fn block(len: usize) -> Bytes {
        vec![7; len].into()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = BlockCache::new(3 * (100 + OVERHEAD));
        for i in 0..3 {
            cache.insert(key(1, i), block(100));
        }
        assert!(cache.get(&key(1, 0)).is_some());
        cache.insert(key(1, 3), block(100));
        assert_eq!([0, 1, 2, 3].map(|i| cache.contains(&key(1, i))), [true, false, true, true]);
        assert_eq!(cache.weight(), cache.capacity());
    }

    #[tokio::test]
    async fn lookups_are_counted_once_each() {
        let cache = BlockCache::new(1 << 20);
        let lookups = |cache: &BlockCache| (cache.lookups().hits, cache.lookups().misses);
        for _ in 0..3 {
            cache.get_or_fetch(key(1, 0), || async { Ok::<_, ()>(block(10)) }).await.unwrap();
        }
        assert_eq!(lookups(&cache), (2, 1));
        assert!(cache.get(&key(1, 1)).is_none() && cache.contains(&key(1, 0)));
        assert_eq!(lookups(&cache), (2, 1), "what is only looked at is not fetched");
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_empties_nothing() {
        let cache = BlockCache::new(1000);
        cache.insert(key(1, 0), block(500));
        cache.insert(key(1, 1), block(1000));
        assert!(cache.contains(&key(1, 0)) && !cache.contains(&key(1, 1)));
        cache.insert(key(1, 0), block(1000));
        assert_eq!((cache.contains(&key(1, 0)), cache.weight()), (false, 0));
        let none = BlockCache::new(0);
        none.insert(key(1, 0), Bytes::new());
        assert_eq!(none.weight(), 0);
    }

    #[test]
    fn files_are_forgotten_apart() {
        let cache = BlockCache::new(1 << 20);
        for i in 0..40 {
            cache.insert(key((i % 2) as u8, i), block(10));
        }
        cache.remove_file(FileId([1; 32]));
        assert!((0..40).all(|i| cache.contains(&key((i % 2) as u8, i)) == (i % 2 == 0)));
        assert_eq!(cache.weight(), 20 * (10 + OVERHEAD));
        cache.clear();
        assert_eq!(cache.weight(), 0);
    }

    #[tokio::test]
    async fn a_block_is_fetched_once_for_all_who_ask() {
        let cache = BlockCache::new(1 << 20);
        let fetches = AtomicUsize::new(0);
        let one = || {
            cache.get_or_fetch(key(1, 0), || async {
                fetches.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<_, String>(block(5))
            })
        };
        let (a, b, c) = tokio::join!(one(), one(), one());
        assert_eq!((a, b, c), (Ok(block(5)), Ok(block(5)), Ok(block(5))));
        assert_eq!(one().await, Ok(block(5)));
        assert_eq!(fetches.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_failure_is_shared_and_not_kept() {
        let cache = BlockCache::new(1 << 20);
        let failing = || {
            cache.get_or_fetch(key(1, 0), || async {
                tokio::task::yield_now().await;
                Err::<Bytes, _>("no".to_owned())
            })
        };
        let (a, b) = tokio::join!(failing(), failing());
        assert_eq!((a, b), (Err("no".to_owned()), Err("no".to_owned())));
        assert_eq!(cache.get_or_fetch(key(1, 0), || async { Ok::<_, String>(block(1)) }).await, Ok(block(1)));
    }

    #[tokio::test]
    async fn another_fetches_when_the_first_is_dropped() {
        let cache = Arc::new(BlockCache::new(1 << 20));
        let hung = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { cache.get_or_fetch(key(1, 0), std::future::pending::<Result<Bytes, String>>).await }
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { cache.get_or_fetch(key(1, 0), || async { Ok::<_, String>(block(1)) }).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        hung.abort();
        assert_eq!(second.await.unwrap(), Ok(block(1)));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u8, u64, usize),
        Get(u8, u64),
        Remove(u8, u64),
        RemoveFile(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u8..3, 0u64..6, 0usize..700).prop_map(|(f, i, n)| Op::Insert(f, i, n)),
            2 => (0u8..3, 0u64..6).prop_map(|(f, i)| Op::Get(f, i)),
            1 => (0u8..3, 0u64..6).prop_map(|(f, i)| Op::Remove(f, i)),
            1 => (0u8..3).prop_map(Op::RemoveFile),
        ]
    }

    proptest! {
        /// Against a model that keeps a list, most recently used last.
        #[test]
        fn the_account_is_right(ops in proptest::collection::vec(op(), 0..60), capacity in 0u64..3000) {
            let cache = BlockCache::new(capacity);
            let mut model: Vec<(BlockKey, usize)> = Vec::new();
            for op in ops {
                match op {
                    Op::Insert(f, i, n) => {
                        cache.insert(key(f, i), block(n));
                        model.retain(|(k, _)| *k != key(f, i));
                        if n as u64 + OVERHEAD <= capacity {
                            model.push((key(f, i), n));
                        }
                        while model.iter().map(|(_, n)| *n as u64 + OVERHEAD).sum::<u64>() > capacity {
                            model.remove(0);
                        }
                    }
                    Op::Get(f, i) => {
                        let at = model.iter().position(|(k, _)| *k == key(f, i));
                        prop_assert_eq!(cache.get(&key(f, i)).map(|b| b.len()), at.map(|at| model[at].1));
                        if let Some(at) = at {
                            let entry = model.remove(at);
                            model.push(entry);
                        }
                    }
                    Op::Remove(f, i) => {
                        cache.remove(&key(f, i));
                        model.retain(|(k, _)| *k != key(f, i));
                    }
                    Op::RemoveFile(f) => {
                        cache.remove_file(FileId([f; 32]));
                        model.retain(|(k, _)| k.file != FileId([f; 32]));
                    }
                }
                let held: HashMap<BlockKey, usize> = model.iter().copied().collect();
                prop_assert_eq!(cache.weight(), held.values().map(|n| *n as u64 + OVERHEAD).sum::<u64>());
                prop_assert!((0..3).all(|f| (0..6).all(|i| cache.contains(&key(f, i)) == held.contains_key(&key(f, i)))));
            }
        }
    }
}
