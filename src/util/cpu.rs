//! Bounded CPU work: hashing, coding, encryption and RSA run beside the runtime's workers, one task a core. What nobody
//! waits for takes what others leave.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

/// The least claim on the processor that a thread can have.
const LAST: i32 = 19;

/// Runs computations and blocking file calls off the runtime's workers, a bounded number at a time.
#[derive(Clone, Debug)]
pub struct Cpu {
    slots: Arc<Semaphore>,
}

impl Cpu {
    /// As many slots as there are cores.
    pub fn per_core() -> Cpu {
        Cpu::with_slots(std::thread::available_parallelism().map_or(2, |n| n.get()))
    }

    /// A given number of slots.
    pub fn with_slots(slots: usize) -> Cpu {
        Cpu { slots: Arc::new(Semaphore::new(slots.max(1))) }
    }

    /// Runs `work` once a slot is free and hands back what it returns. A panic in `work` goes on in the caller.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.slots).acquire_owned().await.expect("the slots are never closed");
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        match done.await {
            Ok(out) => out,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Runs `work`, for which nobody waits, on a thread that gets what other threads and programs leave of the processor. A
/// panic in `work` goes on in the caller.
pub async fn at_leisure<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, out) = oneshot::channel();
    std::thread::spawn(move || {
        // In vain at the worst: then it runs as all others do.
        let _ = rustix::process::nice(LAST);
        drop(done.send(work()));
    });
    out.await.expect("the work ends, or has panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_runs_last_and_others_as_before() {
        let nice = || rustix::process::nice(0).unwrap();
        let before = Cpu::per_core().run(nice).await;
        assert_eq!(at_leisure(nice).await, LAST);
        assert_eq!((Cpu::per_core().run(nice).await, nice()), (before, before));
    }
}
