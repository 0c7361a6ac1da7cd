//! Bounded CPU work: hashing, coding, encryption and RSA run beside the runtime's workers, one task a core. What nobody
//! waits for takes what others leave.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

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
        blocking(move || {
            let _permit = permit;
            work()
        })
        .await
    }
}

/// Runs `work` on a thread of the runtime that may block. A panic in `work` goes on in the caller.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(out) => out,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// Runs `work`, for which nobody waits, on a thread that gets what other threads and programs leave of the processor. A
/// panic in `work` goes on in the caller. Where the system gives no thread it runs as other work does.
pub async fn at_leisure<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    on_thread(Builder::new(), work).await
}

async fn on_thread<T: Send + 'static>(builder: Builder, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, out) = oneshot::channel();
    // A thread that is not started drops what it was given.
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let for_thread = Arc::clone(&work);
    let started = builder.spawn(move || {
        let Some(work) = take(&for_thread) else { return };
        // In vain at the worst: then it runs as all others do.
        let _ = rustix::process::nice(LAST);
        drop(done.send(work()));
    });
    if let Err(error) = started {
        tracing::debug!(%error, "the system gives no thread");
        let work = take(&work).expect("no thread has taken it");
        return blocking(work).await;
    }
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

    #[tokio::test]
    async fn without_a_thread_of_its_own_it_runs_as_other_work_does() {
        // More than any address space holds.
        let refused = || Builder::new().stack_size(1 << 60);
        assert!(refused().spawn(|| ()).is_err(), "the system refuses");
        let nice = || rustix::process::nice(0).unwrap();
        assert_eq!(on_thread(refused(), nice).await, nice());
    }
}
