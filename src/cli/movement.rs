//! Whether what somebody waits for still moves.

use std::time::Duration;

use tokio::time::Instant;

use crate::control::Left;

/// Attempts in a row that count as movement because bytes were sent in them, though nothing less was left in the end.
const VAIN_ATTEMPTS: u32 = 3;

/// A wait that goes on after failures for as long as something moves.
#[derive(Debug)]
pub struct Movement {
    patience: Duration,
    /// When it ends, whatever moves.
    end: Option<Instant>,
    /// When something last moved, as far as is known.
    moved: Instant,
    least: (u64, u64, u64),
    sent: u64,
    vain: u32,
}

impl Movement {
    /// A wait that begins now with `left`, when `sent` bytes had left for the servers in all. It is over once nothing has
    /// moved for `patience`, and at `end` whatever moves: several waits may share that.
    pub fn begin(patience: Duration, end: Option<Instant>, left: &Left, sent: u64) -> Movement {
        Movement { patience, end, moved: Instant::now(), least: left.amount(), sent, vain: 0 }
    }

    /// An attempt has failed: this is left, and so much has been sent in all.
    pub fn failed(&mut self, left: &Left, sent: u64) {
        let (now, least) = (left.amount(), self.least);
        let is_less = now.0 < least.0 || now.1 < least.1 || now.2 < least.2;
        let is_sent = sent > self.sent;
        self.least = (now.0.min(least.0), now.1.min(least.1), now.2.min(least.2));
        self.sent = sent;
        if is_less {
            self.vain = 0;
        } else if is_sent {
            self.vain += 1;
        }
        if is_less || is_sent && self.vain <= VAIN_ATTEMPTS {
            self.moved = Instant::now();
        }
    }

    /// Whether to wait no longer.
    pub fn is_over(&self) -> bool {
        self.moved.elapsed() >= self.patience || self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// When it ends, whatever moves.
    pub fn end(&self) -> Option<Instant> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const MOST: Duration = Duration::from_secs(59);

    fn left(files: u64, bytes: u64) -> Left {
        Left { changes: files, files, bytes, ..Left::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_lasts_as_long_as_less_is_left() {
        let mut wait = Movement::begin(PATIENCE, None, &left(3, 300), 0);
        for files in [2, 1, 0] {
            tokio::time::sleep(MOST).await;
            wait.failed(&left(files, 300), 0);
            assert!(!wait.is_over(), "{files}");
        }
        tokio::time::sleep(MOST).await;
        // More than there was is nothing that moves.
        wait.failed(&left(9, 900), 0);
        assert!(!wait.is_over());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(wait.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_sent_again_and_again_do_not_count_for_ever() {
        let mut wait = Movement::begin(PATIENCE, None, &left(1, 300), 0);
        for attempt in 1..=3 {
            tokio::time::sleep(MOST).await;
            wait.failed(&left(1, 300), attempt * 300);
            assert!(!wait.is_over(), "{attempt}");
        }
        tokio::time::sleep(PATIENCE).await;
        wait.failed(&left(1, 300), 1200);
        assert!(wait.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn one_end_ends_all_that_moves() {
        let end = Some(Instant::now() + Duration::from_secs(90));
        let mut wait = Movement::begin(PATIENCE, end, &left(3, 300), 0);
        tokio::time::sleep(MOST).await;
        wait.failed(&left(2, 300), 5);
        assert!(!wait.is_over());
        tokio::time::sleep(MOST).await;
        wait.failed(&left(1, 300), 10);
        assert!(wait.is_over());
        // What begins later has no time of its own.
        assert!(Movement::begin(PATIENCE, end, &left(1, 300), 10).is_over());
    }
}
