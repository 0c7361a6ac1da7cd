//! A limit on what is sent to all servers together.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::util::{Cx, Stopped};

/// How often who waits for its turn says that it is not stalled.
const BEAT: Duration = Duration::from_millis(500);

/// A token bucket: in any span of time no more bytes leave than the rate allows in that span and one second more.
/// Who comes first goes first, whatever waits for it.
pub struct Rate {
    per_second: f64,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    /// Bytes that may leave now; below zero, bytes that are promised to those who wait.
    level: f64,
    at: Instant,
}

/// A promise of bytes that goes back into the bucket when nobody waits for it any more.
struct Promise<'a> {
    rate: &'a Rate,
    bytes: f64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.rate.bucket().level += self.bytes;
    }
}

impl Rate {
    /// A limit of `per_second` bytes, at least one.
    pub fn new(per_second: u64) -> Rate {
        let per_second = per_second.max(1) as f64;
        Rate { per_second, bucket: Mutex::new(Bucket { level: per_second, at: Instant::now() }) }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until `bytes` may leave. A wait of our own making is no stall: `cx` hears that it moves.
    pub(super) async fn wait(&self, cx: &Cx, bytes: u64) -> Result<(), Stopped> {
        let bytes = bytes as f64;
        let (from, wait) = {
            let mut bucket = self.bucket();
            let now = Instant::now();
            let gained = now.duration_since(bucket.at).as_secs_f64() * self.per_second;
            bucket.level = (bucket.level + gained).min(self.per_second) - bytes;
            bucket.at = now;
            (now, -bucket.level / self.per_second)
        };
        if wait <= 0.0 {
            return Ok(());
        }
        let promise = Promise { rate: self, bytes };
        let until = from + Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX / 4);
        let waiting = async {
            while Instant::now() < until {
                tokio::time::sleep_until(until.min(Instant::now() + BEAT)).await;
                cx.acknowledge();
            }
        };
        cx.run(waiting).await?;
        std::mem::forget(promise);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::Priority;

    #[tokio::test(start_paused = true)]
    async fn bytes_leave_at_the_rate_and_in_turn() {
        let (rate, cx) =
            (Rate::new(1000), Cx::new(Priority::Background, 1 << 20).with_patience(Duration::from_secs(1)));
        let began = Instant::now();
        rate.wait(&cx, 1000).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO, "one second's worth is there at once");
        let (first, second) = futures::join!(
            async {
                rate.wait(&cx, 30_000).await.unwrap();
                began.elapsed()
            },
            async {
                rate.wait(&cx, 500).await.unwrap();
                began.elapsed()
            }
        );
        let near = |took: Duration, wanted: f64| (took.as_secs_f64() - wanted).abs() < 0.01;
        assert!(near(first, 30.0) && near(second, 30.5), "{first:?} {second:?}");
        tokio::time::sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        rate.wait(&cx, 2000).await.unwrap();
        assert!(near(began.elapsed(), 1.0), "a pause is worth one second, no more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_costs_nobody_anything() {
        let (rate, cx) = (Rate::new(1000), Cx::new(Priority::Background, 1 << 20));
        rate.wait(&cx, 1000).await.unwrap();
        let hurried = cx.with_timeout(Duration::from_secs(2));
        assert_eq!(rate.wait(&hurried, 1_000_000).await, Err(Stopped::Deadline));
        let began = Instant::now();
        rate.wait(&cx, 1000).await.unwrap();
        assert!(began.elapsed() <= Duration::from_secs(1));
    }
}
