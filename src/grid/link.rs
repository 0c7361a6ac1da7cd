//! Whether a server can be reached: one that cannot is set aside for longer and longer, so that it costs one deadline
//! and not one for each request.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::storage::{ServerStatus, StorageError, StorageServer};
use crate::util::{Cx, Priority, Rng, Stopped};

/// The longest one request may take, where the backend does not watch by itself that it moves.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// What is said of a server that has taken longer.
pub(super) fn no_answer() -> StorageError {
    StorageError::Unreachable(format!("no answer in {} seconds", REQUEST_LIMIT.as_secs()))
}

/// For how long a server that could not be reached is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long somebody waits who needs a server that was set aside.
const WAKE_LIMIT: Duration = Duration::from_secs(5);

/// A request that is given up later than this leaves doubts whether the server is there.
const QUICK: Duration = Duration::from_secs(1);

/// How long the answer to that is waited for where a request has waited for its own in vain.
const DOUBT_LIMIT: Duration = Duration::from_secs(5);

/// For how long an error is remembered of a server that answers again.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Whether a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing has been asked of it, or not answered yet.
    Connecting,
    /// The last request was answered.
    Connected,
    /// It does not answer.
    Unreachable {
        /// For so long.
        since: Duration,
        /// It is tried again after so long; zero where every request tries.
        next_try: Duration,
    },
}

/// How a server has fared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerHealth {
    /// Smoothed time of an answer, once there was one.
    pub latency: Option<Duration>,
    /// The last error, until a request succeeds.
    pub last_error: Option<StorageError>,
    /// The last error and how long ago it was, until the server has done without one for an hour.
    pub last_failure: Option<(Duration, StorageError)>,
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// A server that is set aside.
struct Down {
    /// Tells this time from others before and after it.
    episode: u64,
    until: Instant,
    failures: u32,
    why: String,
}

#[derive(Default)]
struct State {
    health: ServerHealth,
    last_failure: Option<(Instant, StorageError)>,
    /// Asked last until then: it was too slow for somebody.
    aside: Option<Instant>,
    last_answer: Option<Instant>,
    failing_since: Option<Instant>,
    down: Option<Down>,
    episodes: u64,
    status: Option<(Instant, ServerStatus)>,
}

/// The way to one server, and what is known of it.
pub(super) struct Link {
    /// What people call the server.
    name: String,
    backend: RwLock<Arc<dyn StorageServer>>,
    /// Jitter, for servers that are set aside when they cannot be reached. Others are asked whatever happened before.
    pauses: Option<Rng>,
    state: Mutex<State>,
    /// Changes whenever the server is set aside, which ends the requests that wait for it.
    downs: watch::Sender<u64>,
    /// Held while somebody finds out whether the server is back.
    probing: tokio::sync::Mutex<()>,
}

impl Link {
    pub(super) fn new(name: String, backend: Arc<dyn StorageServer>, pauses: Option<Rng>) -> Arc<Link> {
        Arc::new(Link {
            name,
            backend: RwLock::new(backend),
            pauses,
            state: Mutex::default(),
            downs: watch::Sender::new(0),
            probing: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn backend(&self) -> Arc<dyn StorageServer> {
        Arc::clone(&self.backend.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Talks to `backend` from now on, and forgets how the old one fared but for its latency.
    pub(super) fn redirect(&self, backend: Arc<dyn StorageServer>) {
        *self.backend.write().unwrap_or_else(PoisonError::into_inner) = backend;
        let mut state = self.state();
        state.down = None;
        state.failing_since = None;
        state.health.last_error = None;
        // What is still asked of the old one says nothing of the new one.
        state.last_answer = Some(Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> ServerHealth {
        let state = self.state();
        let failing = state.health.last_error.is_some() || state.failing_since.is_some();
        let last = state.last_failure.as_ref().map(|(at, error)| (at.elapsed(), error.clone()));
        ServerHealth { last_failure: last.filter(|(ago, _)| failing || *ago < REMEMBERED), ..state.health.clone() }
    }

    /// Whether the server, where it can be asked, does not let us in; what it said.
    pub(super) fn locked_out(&self) -> Option<String> {
        match &self.state().health.last_error {
            Some(StorageError::Unauthorized(why)) => Some(why.clone()),
            _ => None,
        }
    }

    /// What is wrong with the server, as far as the last that is known of it is an error.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state();
        let error = state.health.last_error.as_ref().map(|error| match error {
            StorageError::Unreachable(why) | StorageError::Unauthorized(why) => why.clone(),
            other => other.to_string(),
        });
        error.or_else(|| state.down.as_ref().map(|down| down.why.clone()))
    }

    pub(super) fn last_status(&self) -> Option<(Instant, ServerStatus)> {
        self.state().status
    }

    pub(super) fn describe(&self) -> LinkState {
        let state = self.state();
        match (state.failing_since, &state.down) {
            (Some(since), down) => LinkState::Unreachable {
                since: since.elapsed(),
                next_try: down.as_ref().map_or(Duration::ZERO, |d| d.until.saturating_duration_since(Instant::now())),
            },
            (None, _) if state.last_answer.is_none() => LinkState::Connecting,
            (None, _) => LinkState::Connected,
        }
    }

    /// Whether the last request found it away.
    pub(super) fn is_failing(&self) -> bool {
        self.state().failing_since.is_some()
    }

    pub(super) fn is_down(&self) -> bool {
        self.state().down.is_some()
    }

    pub(super) fn set_aside(&self, span: Duration) {
        self.state().aside = Some(Instant::now() + span);
    }

    pub(super) fn is_set_aside(&self) -> bool {
        let state = self.state();
        state.down.is_some() || state.aside.is_some_and(|until| Instant::now() < until)
    }

    /// Runs a request within its limit, unless the server is set aside, before or meanwhile. `what` is its name.
    pub(super) async fn request<T>(
        self: &Arc<Link>,
        cx: &Cx,
        what: &'static str,
        request: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let began = Instant::now();
        let answer = self.request_unnoted(cx, request).await;
        let (server, took) = (&*self.name, began.elapsed());
        match &answer {
            Ok(_) => tracing::debug!(server, request = what, ?took, "a server has answered"),
            Err(error) => tracing::debug!(server, request = what, ?took, %error, "a request to a server has failed"),
        }
        answer
    }

    async fn request_unnoted<T>(
        self: &Arc<Link>,
        cx: &Cx,
        request: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let mut downs = self.downs.subscribe();
        if let Some(down) = &self.state().down {
            let left = down.until.saturating_duration_since(Instant::now()).as_secs() + 1;
            return Err(StorageError::Unreachable(format!("{}; it is tried again in {left} s", down.why)));
        }
        let mut flight = Flight { link: self, began: Instant::now(), landed: false };
        let limited = if self.backend().watches_itself() { cx.clone() } else { cx.with_timeout(REQUEST_LIMIT) };
        let answer = tokio::select! {
            biased;
            answer = limited.run(request) => match answer {
                Ok(answer) => answer,
                Err(Stopped::Deadline) if cx.remaining().is_none_or(|left| !left.is_zero()) => {
                    Err(no_answer())
                }
                Err(stopped) => Err(stopped.into()),
            },
            Ok(()) = downs.changed() => {
                let why = self.state().down.as_ref().map_or_else(String::new, |d| d.why.clone());
                flight.landed = true;
                return Err(StorageError::Unreachable(why));
            }
        };
        flight.land(&answer);
        answer
    }

    /// Takes in how a request ended that began at `began`.
    pub(super) fn note<T>(self: &Arc<Link>, began: Instant, answer: &Result<T, StorageError>) {
        let mut state = self.state();
        match answer {
            Err(
                e @ (StorageError::Unreachable(_)
                | StorageError::Unauthorized(_)
                | StorageError::Io(_)
                | StorageError::Malformed(_)),
            ) => {
                state.health.failed += 1;
                state.health.last_error = Some(e.clone());
                state.last_failure = Some((Instant::now(), e.clone()));
                // One request that fails, soon or late, is no reason to set the server aside.
                if matches!(e, StorageError::Unreachable(_) | StorageError::Unauthorized(_))
                    && !answered_since(&state, began)
                {
                    state.failing_since.get_or_insert(began);
                    drop(state);
                    self.doubt(if began.elapsed() < QUICK { REQUEST_LIMIT } else { DOUBT_LIMIT });
                }
            }
            Err(StorageError::Stopped(_)) => {}
            _ => {
                let took = began.elapsed();
                state.health.latency = Some(state.health.latency.map_or(took, |l| (l * 7 + took) / 8));
                state.health.answered += 1;
                state.health.last_error = None;
                self.answered(&mut state);
            }
        }
    }

    pub(super) fn remember(&self, status: ServerStatus) {
        self.state().status = Some((Instant::now(), status));
    }

    /// Finds out in the background whether the server is there at all.
    fn doubt(self: &Arc<Link>, limit: Duration) {
        let (Some(_), Ok(runtime)) = (&self.pauses, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let link = Arc::clone(self);
        runtime.spawn(async move {
            // Somebody who is at it already finds out for all.
            let Ok(_probing) = link.probing.try_lock() else { return };
            let began = Instant::now();
            if let Err(why) = link.probe(limit).await {
                // A line that is full of our own requests to it may leave no room for the question.
                let moved = link.backend().moved().is_some_and(|at| at > began);
                let state = link.state();
                if state.down.is_none() && !moved && !answered_since(&state, began) {
                    link.go_down(state, why);
                }
            }
        });
    }

    /// Sets the server aside, ends what waits for it, and tries it again by and by.
    fn go_down(self: &Arc<Link>, mut state: MutexGuard<'_, State>, why: String) {
        let (Some(rng), Ok(runtime)) = (&self.pauses, tokio::runtime::Handle::try_current()) else {
            return;
        };
        if state.down.is_some() {
            return;
        }
        tracing::info!(server = %self.name, why, "a server is set aside: it cannot be reached");
        state.episodes += 1;
        let episode = state.episodes;
        state.failing_since.get_or_insert_with(Instant::now);
        state.down = Some(Down { episode, until: Instant::now() + pause(rng, 1), failures: 1, why });
        drop(state);
        self.downs.send_modify(|downs| *downs += 1);
        runtime.spawn(come_back(Arc::downgrade(self), episode));
    }

    /// Asks the server for its status, past whatever sets it aside. An answer of any kind brings it back.
    async fn probe(self: &Arc<Link>, limit: Duration) -> Result<(), String> {
        let backend = self.backend();
        let cx = Cx::new(Priority::Background, 1).with_timeout(limit);
        match cx.run(backend.status(&cx)).await {
            Ok(Err(StorageError::Unreachable(why) | StorageError::Unauthorized(why))) => return Err(why),
            Err(_) | Ok(Err(StorageError::Stopped(_))) => {
                return Err(format!("no answer in {} seconds", limit.as_secs()));
            }
            Ok(Ok(status)) => self.remember(status),
            Ok(Err(_)) => {}
        }
        let mut state = self.state();
        state.health.last_error = None;
        self.answered(&mut state);
        Ok(())
    }

    /// Tries a server that is set aside, now, because it is needed; whether it can be asked then.
    pub(super) async fn wake(self: &Arc<Link>, cx: &Cx) -> bool {
        let Some(episode) = self.state().down.as_ref().map(|d| (d.episode, d.failures)) else {
            return true;
        };
        let work = async {
            let _probing = self.probing.lock().await;
            if self.state().down.as_ref().map(|d| (d.episode, d.failures)) == Some(episode)
                && let Err(why) = self.probe(WAKE_LIMIT).await
            {
                self.put_off(episode.0, why);
            }
            !self.is_down()
        };
        cx.with_timeout(WAKE_LIMIT).run(work).await.unwrap_or(false)
    }

    fn answered(&self, state: &mut State) {
        if state.last_answer.is_none() || state.failing_since.is_some() {
            tracing::info!(server = %self.name, "a server answers");
        }
        state.last_answer = Some(Instant::now());
        state.failing_since = None;
        state.down = None;
    }

    /// Leaves the server alone for longer than before.
    fn put_off(&self, episode: u64, why: String) {
        let (Some(rng), Some(down)) = (&self.pauses, &mut self.state().down) else { return };
        if down.episode == episode {
            down.failures = down.failures.saturating_add(1);
            down.until = Instant::now() + pause(rng, down.failures);
            down.why = why;
        }
    }
}

fn answered_since(state: &State, began: Instant) -> bool {
    state.last_answer.is_some_and(|at| at > began)
}

/// Twice as long each time, less up to half of it at random, so that many clients do not come at once.
fn pause(rng: &Rng, failures: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(LONGEST_PAUSE);
    full - full / 512 * u32::from(rng.bytes::<1>()[0])
}

/// Tries a server whenever its pause has ended, until it answers or nobody wants it any more.
async fn come_back(link: Weak<Link>, episode: u64) {
    loop {
        let until = {
            let Some(link) = link.upgrade() else { return };
            let state = link.state();
            match &state.down {
                Some(down) if down.episode == episode => down.until,
                _ => return,
            }
        };
        tokio::time::sleep_until(until).await;
        let Some(link) = link.upgrade() else { return };
        let _probing = link.probing.lock().await;
        let due = link.state().down.as_ref().is_some_and(|d| d.episode == episode && d.until <= Instant::now());
        if due && let Err(why) = link.probe(REQUEST_LIMIT).await {
            link.put_off(episode, why);
        }
    }
}

/// A request under way. One that is given up though nothing came for a while leaves doubts about the server.
struct Flight<'a> {
    link: &'a Arc<Link>,
    began: Instant,
    landed: bool,
}

impl Flight<'_> {
    fn land<T>(mut self, answer: &Result<T, StorageError>) {
        self.landed = !matches!(answer, Err(StorageError::Stopped(_)));
        self.link.note(self.began, answer);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let doubtful = || {
            let state = self.link.state();
            state.down.is_none() && !answered_since(&state, self.began)
        };
        if !self.landed && self.began.elapsed() >= QUICK && doubtful() {
            self.link.doubt(REQUEST_LIMIT);
        }
    }
}
