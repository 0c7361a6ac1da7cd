//! Randomness, held in one place so that tests can hold it.

use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// A source of random bytes: the operating system's, or one that repeats for a test.
#[derive(Clone, Debug, Default)]
pub struct Rng {
    seeded: Option<Arc<Mutex<(u64, u64)>>>,
}

impl Rng {
    /// The operating system's generator.
    pub fn os() -> Rng {
        Rng { seeded: None }
    }

    /// A generator that yields the same bytes for the same `seed`; for tests alone.
    pub fn seeded(seed: u64) -> Rng {
        Rng { seeded: Some(Arc::new(Mutex::new((seed, 0)))) }
    }

    /// Fills `out` with random bytes.
    ///
    /// # Panics
    /// When the operating system has no randomness to give, which leaves nothing safe to do.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for randomness")]
    pub fn fill(&self, out: &mut [u8]) {
        let Some(seeded) = &self.seeded else {
            return getrandom::fill(out).expect("the operating system's random generator answers");
        };
        let mut state = seeded.lock().unwrap_or_else(|e| e.into_inner());
        for chunk in out.chunks_mut(32) {
            let block =
                Sha256::new().chain_update(state.0.to_be_bytes()).chain_update(state.1.to_be_bytes()).finalize();
            state.1 += 1;
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}
