//! Fresh signing keys, made in idle time so that a new directory need not wait for one.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::{KeyShelf, SigningKey};
use crate::util::{Cpu, Rng, at_leisure};

/// Of keys that are kept on a shelf, how many are in memory: a process that is killed loses these.
const IN_HAND: usize = 8;

/// The pause before a key is made ahead: other programs may want both threads of a core.
const LEISURE: Duration = Duration::from_millis(500);

/// A pool of unused signing keys that refills itself.
///
/// Clones share one pool. A key leaves it once: whoever took it is its only owner.
#[derive(Clone, Debug)]
pub struct KeyPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    size: usize,
    later: usize,
    shelf: Option<Arc<KeyShelf>>,
    rng: Rng,
    cpu: Cpu,
    ready: Mutex<Vec<SigningKey>>,
    taken: Notify,
}

impl KeyPool {
    /// A pool that keeps up to `size` keys ready, made one at a time once [`KeyPool::fill`] runs.
    pub fn new(size: usize, rng: Rng, cpu: Cpu) -> KeyPool {
        KeyPool::over(None, size, size, rng, cpu)
    }

    /// As [`KeyPool::new`], with most of the keys on a shelf, where they wait for the next process: `later` in all.
    pub fn shelved(shelf: KeyShelf, size: usize, later: usize, rng: Rng, cpu: Cpu) -> KeyPool {
        KeyPool::over(Some(Arc::new(shelf)), size, later, rng, cpu)
    }

    fn over(shelf: Option<Arc<KeyShelf>>, size: usize, later: usize, rng: Rng, cpu: Cpu) -> KeyPool {
        let (ready, taken) = (Mutex::new(Vec::new()), Notify::new());
        KeyPool { shared: Arc::new(Shared { size, later, shelf, rng, cpu, ready, taken }) }
    }

    /// Takes a key, or makes one when the pool is empty.
    pub async fn take(&self) -> SigningKey {
        let mut ready = self.ready().pop();
        if ready.is_none() {
            self.fetch(self.in_hand().max(1)).await;
            ready = self.ready().pop();
        }
        match ready {
            Some(key) => {
                self.shared.taken.notify_one();
                key
            }
            None => self.make().await,
        }
    }

    /// Keys in memory, which can be had without waiting.
    pub fn available(&self) -> usize {
        self.ready().len()
    }

    /// Refills for ever, one key at a time, with pauses, and not while keys are being taken; the owner runs it as a task
    /// and drops it to stop.
    pub async fn fill(&self) {
        loop {
            let lacking = self.in_hand().saturating_sub(self.available());
            if lacking > 0 && self.fetch(lacking).await > 0 {
                continue;
            }
            if self.count().await >= self.shared.later {
                self.shared.taken.notified().await;
                continue;
            }
            if tokio::time::timeout(LEISURE, self.shared.taken.notified()).await.is_ok() {
                continue;
            }
            let key = self.make_at_leisure().await;
            if let Some(shelf) = self.shared.shelf.clone().filter(|_| self.available() >= self.in_hand()) {
                if let Err(error) = self.shared.cpu.run(move || shelf.put(&key)).await {
                    tracing::debug!(%error, "a ready key could not be kept");
                    self.shared.taken.notified().await;
                }
            } else {
                self.ready().push(key);
            }
        }
    }

    /// Keys in memory and on the shelf.
    async fn count(&self) -> usize {
        let on_shelf = match self.shared.shelf.clone() {
            Some(shelf) => self.shared.cpu.run(move || shelf.count()).await,
            None => 0,
        };
        self.available() + on_shelf
    }

    /// Puts the keys in memory onto the shelf, for the next process.
    pub fn put_back(&self) {
        let Some(shelf) = &self.shared.shelf else { return };
        let keys = std::mem::take(&mut *self.ready());
        for key in keys {
            if let Err(error) = shelf.put(&key) {
                tracing::debug!(%error, "a ready key could not be kept");
                break;
            }
        }
    }

    fn in_hand(&self) -> usize {
        if self.shared.shelf.is_some() { self.shared.size.min(IN_HAND) } else { self.shared.size }
    }

    /// Takes up to `most` keys from the shelf; how many there were.
    async fn fetch(&self, most: usize) -> usize {
        let Some(shelf) = self.shared.shelf.clone() else { return 0 };
        let taken = self.shared.cpu.run(move || shelf.take(most)).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "ready keys could not be taken");
            Vec::new()
        });
        let count = taken.len();
        self.ready().extend(taken);
        count
    }

    async fn make(&self) -> SigningKey {
        let rng = self.shared.rng.clone();
        self.shared.cpu.run(move || SigningKey::generate(&rng)).await
    }

    async fn make_at_leisure(&self) -> SigningKey {
        let rng = self.shared.rng.clone();
        at_leisure(move || SigningKey::generate(&rng)).await
    }

    fn ready(&self) -> MutexGuard<'_, Vec<SigningKey>> {
        self.shared.ready.lock().unwrap_or_else(|e| e.into_inner())
    }
}
