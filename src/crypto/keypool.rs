//! Fresh signing keys, made in idle time so that a new directory need not wait for one.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::SigningKey;
use crate::util::{Cpu, Rng};

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
    rng: Rng,
    cpu: Cpu,
    ready: Mutex<Vec<SigningKey>>,
    taken: Notify,
}

impl KeyPool {
    /// A pool that keeps up to `size` keys ready, made one at a time once [`KeyPool::fill`] runs.
    pub fn new(size: usize, rng: Rng, cpu: Cpu) -> KeyPool {
        KeyPool { shared: Arc::new(Shared { size, rng, cpu, ready: Mutex::new(Vec::new()), taken: Notify::new() }) }
    }

    /// Takes a key, or makes one when the pool is empty.
    pub async fn take(&self) -> SigningKey {
        let ready = self.ready().pop();
        match ready {
            Some(key) => {
                self.shared.taken.notify_one();
                key
            }
            None => self.make().await,
        }
    }

    /// Keys that can be had without waiting.
    pub fn available(&self) -> usize {
        self.ready().len()
    }

    /// Refills for ever; the owner runs it as a task and drops it to stop.
    pub async fn fill(&self) {
        loop {
            while self.available() < self.shared.size {
                let key = self.make().await;
                self.ready().push(key);
            }
            self.shared.taken.notified().await;
        }
    }

    async fn make(&self) -> SigningKey {
        let rng = self.shared.rng.clone();
        self.shared.cpu.run(move || SigningKey::generate(&rng)).await
    }

    fn ready(&self) -> MutexGuard<'_, Vec<SigningKey>> {
        self.shared.ready.lock().unwrap_or_else(|e| e.into_inner())
    }
}
