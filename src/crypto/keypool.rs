//! Fresh signing keys, made in idle time so that a new directory need not wait for one.

use super::SigningKey;
use crate::util::{Cpu, Rng};

/// A pool of unused signing keys that refills itself.
pub struct KeyPool {}

impl KeyPool {
    /// A pool that keeps up to `size` keys ready, made one at a time at idle priority once [`KeyPool::fill`] runs.
    pub fn new(size: usize, rng: Rng, cpu: Cpu) -> KeyPool {
        let _ = (size, rng, cpu);
        unimplemented!()
    }

    /// Takes a key, or makes one when the pool is empty.
    pub async fn take(&self) -> SigningKey {
        unimplemented!()
    }

    /// Refills for ever; the owner runs it as a task and drops it to stop.
    pub async fn fill(&self) {
        unimplemented!()
    }
}
