//! How much the journal holds and may still take.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::util::free_space;

/// How long a measurement of the disk holds.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Bytes let in after which the disk is measured again.
const MEASURE_AFTER: u64 = 16 << 20;

/// Limits of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Bytes that contents may take.
    pub limit: u64,
    /// Bytes of the file system that stay free.
    pub floor: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions { limit: 10 << 30, floor: 512 << 20 }
    }
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Go on.
    Plenty,
    /// More than three quarters of what there is are taken: slow down.
    Tight,
    /// It does not fit.
    Full,
}

/// What the journal holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that contents take.
    pub bytes: u64,
    /// The most that they may take.
    pub limit: u64,
}

/// The free space of the disk, measured now and then.
#[derive(Default)]
pub(super) struct Gauge {
    measured: Option<(Instant, u64)>,
    let_in: u64,
}

impl Gauge {
    /// Whether `bytes` more fit beside `used`.
    pub fn room(&mut self, folder: &Path, options: &JournalOptions, used: u64, bytes: u64) -> Room {
        let is_old = |at: &Instant| at.elapsed() >= MEASURE_EVERY;
        if self.let_in >= MEASURE_AFTER || self.measured.as_ref().is_none_or(|(at, _)| is_old(at)) {
            // A disk that cannot be measured sets no limit: the write itself will tell.
            let free = free_space(folder).unwrap_or(u64::MAX);
            self.measured = Some((Instant::now(), free));
            self.let_in = 0;
        }
        let free = self.measured.map_or(u64::MAX, |(_, free)| free).saturating_sub(self.let_in);
        let left = options.limit.saturating_sub(used).min(free.saturating_sub(options.floor));
        let room = match left.checked_sub(bytes) {
            None => Room::Full,
            Some(rest) if rest < (used.saturating_add(left)) / 4 => Room::Tight,
            Some(_) => Room::Plenty,
        };
        if room != Room::Full {
            self.let_in += bytes;
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn limits_slow_first_and_then_stop() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions { limit: 1000, floor: 0 };
        let mut gauge = Gauge::default();
        assert_eq!(gauge.room(folder.path(), &options, 0, 100), Room::Plenty);
        assert_eq!(gauge.room(folder.path(), &options, 700, 100), Room::Tight);
        assert_eq!(gauge.room(folder.path(), &options, 900, 100), Room::Tight);
        assert_eq!(gauge.room(folder.path(), &options, 901, 100), Room::Full);
        assert_eq!(gauge.room(folder.path(), &options, 2000, 0), Room::Tight);
        let options = JournalOptions { limit: u64::MAX, floor: u64::MAX };
        assert_eq!(gauge.room(folder.path(), &options, 0, 1), Room::Full);
    }
}
