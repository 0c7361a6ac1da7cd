//! Contents that stand in rows, as far as memory holds them.

use std::sync::Arc;

use lru::LruCache;

/// Bytes of contents that are held at most.
const LIMIT: usize = 16 << 20;

/// The contents used last.
pub(super) struct Contents {
    held: LruCache<u64, Arc<Vec<u8>>>,
    bytes: usize,
}

impl Contents {
    pub fn new() -> Contents {
        Contents { held: LruCache::unbounded(), bytes: 0 }
    }

    pub fn get(&mut self, id: u64) -> Option<Arc<Vec<u8>>> {
        self.held.get(&id).map(Arc::clone)
    }

    pub fn put(&mut self, id: u64, content: Arc<Vec<u8>>) {
        self.bytes += content.len();
        let old = self.held.put(id, content);
        self.bytes -= old.map_or(0, |old| old.len());
        while self.bytes > LIMIT
            && let Some((_, old)) = self.held.pop_lru()
        {
            self.bytes -= old.len();
        }
    }

    pub fn take(&mut self, id: u64) -> Option<Arc<Vec<u8>>> {
        self.held.pop(&id).inspect(|content| self.bytes -= content.len())
    }
}
