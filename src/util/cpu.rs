//! Bounded CPU work: hashing, coding, encryption and RSA run beside the runtime's workers, one task a core.

use std::sync::Arc;

use tokio::sync::Semaphore;

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
