//! How fast the queue of a mount empties.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// The rate is that of this span.
const SPAN: Duration = Duration::from_secs(10);
/// Looks that follow each other faster tell nothing.
const APART: Duration = Duration::from_millis(200);

/// What left for the servers in the last seconds. Has to be looked at every few seconds.
#[derive(Debug, Default)]
pub struct Pace {
    /// When it was looked at, and how many bytes had left in all.
    looks: Mutex<VecDeque<(Instant, u64)>>,
}

impl Pace {
    /// Bytes per second, where `sent` have left in all until now; `None` when nothing moves.
    pub fn rate(&self, sent: u64) -> Option<u64> {
        let now = Instant::now();
        let mut looks = self.looks.lock().unwrap_or_else(|e| e.into_inner());
        if looks.back().is_none_or(|(at, _)| now.duration_since(*at) >= APART) {
            looks.push_back((now, sent));
        }
        while looks.len() > 2 && now.duration_since(looks[1].0) >= SPAN {
            looks.pop_front();
        }
        let (since, before) = *looks.front()?;
        let seconds = now.duration_since(since).as_secs_f64();
        let bytes = sent.saturating_sub(before);
        (seconds >= APART.as_secs_f64() && bytes > 0).then(|| (bytes as f64 / seconds) as u64).filter(|rate| *rate > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_last_seconds() {
        let pace = Pace::default();
        assert_eq!(pace.rate(5000), None, "what left before the first look");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(pace.rate(7000), Some(1000));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(pace.rate(11_000), Some(1500));
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            pace.rate(11_000);
        }
        assert_eq!(pace.rate(11_000), None, "nothing moves");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(pace.rate(31_000), Some(2000));
    }
}
