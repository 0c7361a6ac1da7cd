//! The wall clock, held in one place so that tests can hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells wall-clock time: the system's, or one that a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    held: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock { held: None }
    }

    /// A clock that stands at `nanos` nanoseconds after the epoch until [`Clock::advance`] moves it.
    pub fn held_at(nanos: u64) -> Clock {
        Clock { held: Some(Arc::new(AtomicU64::new(nanos))) }
    }

    /// Moves a held clock forward; a system clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Some(held) = &self.held {
            held.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// Nanoseconds since the Unix epoch.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now_nanos(&self) -> i64 {
        match &self.held {
            Some(held) => held.load(Ordering::Relaxed) as i64,
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64),
        }
    }

    /// Whole seconds since the Unix epoch.
    pub fn now_secs(&self) -> i64 {
        self.now_nanos().div_euclid(1_000_000_000)
    }

    /// Seconds since the Unix epoch, as directory metadata writes them.
    pub fn now_float(&self) -> f64 {
        self.now_nanos() as f64 / 1e9
    }
}
