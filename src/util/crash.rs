//! Crash points: named places between two durable steps, at which a test lets the process die.

/// Dies here, as a process that is killed does, when `TAHOEFS_CRASH_AT` says `name`, or `name:n` at the n-th visit.
/// Does nothing, and costs nothing, without the feature `failpoints`.
pub fn crash_point(name: &'static str) {
    #[cfg(feature = "failpoints")]
    armed::visit(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: String,
        visits_left: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn from_environment() -> Option<Armed> {
        let wish = std::env::var("TAHOEFS_CRASH_AT").ok()?;
        let (name, visits) = match wish.rsplit_once(':').map(|(name, n)| (name, n.parse())) {
            Some((name, Ok(n))) => (name, n),
            _ => (&*wish, 1),
        };
        Some(Armed { name: name.to_owned(), visits_left: AtomicU64::new(visits) })
    }

    pub fn visit(name: &'static str) {
        let Some(armed) = ARMED.get_or_init(from_environment).as_ref().filter(|armed| armed.name == name) else {
            return;
        };
        if armed.visits_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::process::abort();
        }
    }
}
