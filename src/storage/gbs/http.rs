//! Requests to one server: its connections are used again, every wait has a limit, every answer a size.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::connection::{Activity, Connection, Place};
use crate::config::Nurl;
use crate::storage::StorageError;
use crate::util::{Cx, Utc};

/// Requests to one server at the same time, and so connections to it: as many as the reference has.
const CONNECTIONS: usize = 10;
/// Those beside them that only ask whether it is there: it is, though ten requests may keep it busy for long.
const PROBES: usize = 2;
/// A connection is not used again after this long: servers hang up after 60 s, and an answer may be on its way then.
const IDLE_LIMIT: Duration = Duration::from_secs(45);
/// The time in which something must have moved.
const STALL_LIMIT: Duration = Duration::from_secs(15);
/// How many bytes that must be, of all requests together: the slowest line that will do. A server that keeps a request
/// alive with a few bytes now and then must not hold up what waits for it.
const LEAST_MOVED: u64 = 32 << 10;
/// How many bytes it must be of one request, however many share the line.
const LEAST_SHARE: u64 = 1 << 10;
/// How often somebody who waits hears that bytes move.
const NEWS: Duration = Duration::from_secs(1);
/// How long a kept connection may take to become free once its answer was read to the end.
const READY_LIMIT: Duration = Duration::from_millis(100);
/// The most that the body of an answer may be that says what went wrong, in bytes.
const PAGE: u64 = 1 << 20;
/// What may come in beside a body, in bytes: headers, interim answers, what TLS says for itself.
const BESIDE: u64 = 1 << 20;
/// How many bytes may come in for each of a body: chunks and records have headers of their own.
const FRAMED: u64 = 4;

const TOO_MUCH: &str = "it sent more than was asked for";

/// A request.
pub(super) struct Ask {
    pub method: Method,
    pub path: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// Whether it may be sent twice.
    pub idempotent: bool,
    /// Whether it only asks if the server is there, and so waits for no other request.
    pub probe: bool,
    /// The most that the body of an answer to success may be, in bytes.
    pub limit: u64,
}

/// An answer, complete and within its limit.
pub(super) struct Answer {
    /// Which of the server's places answered.
    place: usize,
    pub status: StatusCode,
    pub content_range: Option<String>,
    pub body: Bytes,
}

/// Why there is no answer.
enum Broken {
    /// The request was not sent, or nothing came back and the connection had been used before.
    Stale(String),
    /// Whatever else.
    Failed(StorageError),
}

/// The connections to one server.
pub(super) struct Http {
    places: Vec<Place>,
    /// The place that answered last.
    preferred: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
    turns: Semaphore,
    probes: Semaphore,
    /// When something last moved.
    moved: Mutex<Option<Instant>>,
    /// What the server's clock showed when the head of its last answer came.
    date: Mutex<Option<(Instant, i64)>>,
}

struct Idle {
    since: Instant,
    place: usize,
    connection: Connection,
}

impl Http {
    /// Nothing is contacted yet. NURLs that ask for Tor are left out.
    pub fn new(nurls: &[Nurl]) -> Http {
        let places = nurls.iter().filter(|nurl| !nurl.tor).map(Place::new).collect();
        let (turns, probes) = (Semaphore::new(CONNECTIONS), Semaphore::new(PROBES));
        let (preferred, idle) = (AtomicUsize::new(0), Mutex::default());
        Http { places, preferred, idle, turns, probes, moved: Mutex::default(), date: Mutex::default() }
    }

    /// What the server's clock showed, and when, as it last said.
    pub fn date(&self) -> Option<(Instant, i64)> {
        *self.date.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// When a request to the server last moved, as fast as one must.
    pub fn moved(&self) -> Option<Instant> {
        *self.moved.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sends a request and reads the answer to its end.
    pub async fn send(&self, cx: &Cx, ask: &Ask) -> Result<Answer, StorageError> {
        cx.run(self.send_in_turn(cx, ask)).await?
    }

    async fn send_in_turn(&self, cx: &Cx, ask: &Ask) -> Result<Answer, StorageError> {
        let turns = if ask.probe { &self.probes } else { &self.turns };
        let _turn = turns.acquire().await.expect("never closed");
        let _line = Line::enter();
        if let Some((place, connection)) = self.reuse().await {
            match self.exchange(cx, ask, place, connection, true).await {
                Ok(answer) => return Ok(answer),
                Err(Broken::Failed(error)) => return Err(error),
                Err(Broken::Stale(why)) => tracing::trace!(why, "a kept connection was closed; another is made"),
            }
        }
        let (place, connection) = self.connect().await?;
        self.exchange(cx, ask, place, connection, false).await.map_err(|broken| match broken {
            Broken::Stale(why) => self.unreachable(place, &why),
            Broken::Failed(error) => error,
        })
    }

    /// Where an answer came from, for error texts.
    pub fn address(&self, answer: &Answer) -> &str {
        &self.places[answer.place].address
    }

    fn unreachable(&self, place: usize, why: &str) -> StorageError {
        StorageError::Unreachable(format!("{}: {why}", self.places[place].address))
    }

    fn malformed(&self, place: usize, why: &str) -> Broken {
        Broken::Failed(StorageError::Malformed(format!("{}: {why}", self.places[place].address)))
    }

    /// The connection used last, if one may still be open.
    async fn reuse(&self) -> Option<(usize, Connection)> {
        loop {
            let Idle { place, mut connection, .. } = self.pop()?;
            // An answer's end is seen before the connection is free again, and that before it is known to be closed.
            if let Ok(Ok(())) = tokio::time::timeout(READY_LIMIT, connection.sender.ready()).await {
                return Some((place, connection));
            }
        }
    }

    fn pop(&self) -> Option<Idle> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.retain(|i| i.since.elapsed() < IDLE_LIMIT && !i.connection.sender.is_closed());
        idle.pop()
    }

    /// A place that failed is not asked first again, where there is another, and its kept connections are let go.
    fn turn_from(&self, place: usize) {
        let next = (place + 1) % self.places.len();
        let _ = self.preferred.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).retain(|i| i.place != place);
    }

    fn keep(&self, place: usize, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.push(Idle { since: Instant::now(), place, connection });
    }

    /// Connects to the place that answered last, else to whichever answers first.
    async fn connect(&self) -> Result<(usize, Connection), StorageError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let Some(place) = self.places.get(first) else {
            return Err(StorageError::Unreachable("it announces no address that may be contacted".into()));
        };
        let mut why = match place.connect().await {
            Ok(connection) => {
                tracing::debug!(address = place.address, "connected");
                return Ok((first, connection));
            }
            Err(why) => self.unreachable(first, &why),
        };
        let others = self.places.iter().enumerate().filter(|(index, _)| *index != first);
        let mut others: FuturesUnordered<_> =
            others.map(|(i, place)| async move { (i, place.connect().await) }).collect();
        while let Some((index, outcome)) = others.next().await {
            match outcome {
                Ok(connection) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok((index, connection));
                }
                Err(other) => why = self.unreachable(index, &other),
            }
        }
        Err(why)
    }

    async fn exchange(
        &self,
        cx: &Cx,
        ask: &Ask,
        place: usize,
        mut connection: Connection,
        reused: bool,
    ) -> Result<Answer, Broken> {
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(&ask.path)
            .header(header::HOST, &self.places[place].address)
            .header(header::AUTHORIZATION, &self.places[place].authorization)
            .header(header::ACCEPT, HeaderValue::from_static("application/cbor"));
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(ask.body.clone()));
        let request = request.map_err(|_| self.malformed(place, "a request could not be made"))?;
        let activity = Arc::clone(&connection.activity);
        activity.allow(ask.limit.max(PAGE).saturating_mul(FRAMED).saturating_add(BESIDE));
        let answers = AtomicBool::new(false);
        let work = async {
            let response = connection.sender.send_request(request).await.map_err(|e| {
                // Canceled: it never left. Otherwise a kept connection may have been closed before it arrived.
                let stale = reused && (e.is_canceled() || ask.idempotent && !e.is_parse());
                if stale { Broken::Stale(e.to_string()) } else { self.broken(place, &e) }
            })?;
            answers.store(true, Ordering::Relaxed);
            self.answer(place, &activity, response, ask.limit).await
        };
        let outcome = self.while_moving(cx, &activity, &answers, work).await.unwrap_or_else(|moved| {
            let seconds = STALL_LIMIT.as_secs();
            let why = match answers.load(Ordering::Relaxed) {
                false => format!("no answer in {seconds} seconds"),
                true => format!("only {moved} bytes of an answer in {seconds} seconds"),
            };
            Err(Broken::Failed(self.unreachable(place, &why)))
        });
        let answer = match outcome {
            Err(_) if activity.is_overrun() => return Err(self.malformed(place, TOO_MUCH)),
            Err(broken) => {
                if let Broken::Failed(StorageError::Unreachable(_)) = broken {
                    self.turn_from(place);
                }
                return Err(broken);
            }
            Ok(answer) => answer,
        };
        self.preferred.store(place, Ordering::Relaxed);
        self.keep(place, connection);
        Ok(answer)
    }

    fn broken(&self, place: usize, error: &hyper::Error) -> Broken {
        if error.is_parse() {
            return self.malformed(place, "its answer is no HTTP");
        }
        Broken::Failed(self.unreachable(place, &error.to_string()))
    }

    async fn answer(
        &self,
        place: usize,
        activity: &Activity,
        response: Response<Incoming>,
        limit: u64,
    ) -> Result<Answer, Broken> {
        let (parts, mut incoming) = response.into_parts();
        let date = parts.headers.get(header::DATE).and_then(|value| Utc::parse_http(value.to_str().ok()?));
        if let Some(date) = date {
            *self.date.lock().unwrap_or_else(|e| e.into_inner()) = Some((Instant::now(), date));
        }
        let limit = if parts.status.is_success() { limit } else { PAGE };
        if incoming.size_hint().lower() > limit {
            return Err(self.malformed(place, TOO_MUCH));
        }
        let content_range = parts.headers.get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|e| self.broken(place, &e))?;
            let Ok(data) = frame.into_data() else { continue };
            if (body.len() + data.len()) as u64 > limit {
                return Err(self.malformed(place, TOO_MUCH));
            }
            activity.note_answer(data.len());
            body.extend_from_slice(&data);
        }
        Ok(Answer { place, status: parts.status, content_range, body: body.freeze() })
    }

    /// Runs `work` for as long as it moves; else gives the bytes that have moved of late. Until the answer's body begins
    /// those move that the server takes, then those of the body: a head must come at once.
    async fn while_moving<T>(
        &self,
        cx: &Cx,
        activity: &Activity,
        answers: &AtomicBool,
        work: impl Future<Output = T>,
    ) -> Result<T, u64> {
        tokio::pin!(work);
        let moved = |answering: bool| if answering { activity.answered() } else { activity.taken() };
        let (mut answering, mut began, mut first, body) = (false, Instant::now(), moved(false), moved(true));
        let mut before = first;
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(NEWS) => {}
            }
            if !answering && answers.load(Ordering::Relaxed) {
                // What came of the body within this second counts as well.
                (answering, began, first, before) = (true, Instant::now(), body, body);
            }
            let (now, least) = (moved(answering), Line::least());
            if now.saturating_sub(before) >= least / STALL_LIMIT.as_secs() {
                cx.acknowledge();
                *self.moved.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now());
            }
            before = now;
            if began.elapsed() >= STALL_LIMIT {
                let late = now.saturating_sub(first);
                if late < least {
                    return Err(late);
                }
                (began, first) = (Instant::now(), now);
            }
        }
    }
}

/// A request under way, to whichever server: all share our line.
struct Line;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

impl Line {
    fn enter() -> Line {
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        Line
    }

    /// How many bytes must move of each request within [`STALL_LIMIT`].
    fn least() -> u64 {
        (LEAST_MOVED / (UNDER_WAY.load(Ordering::Relaxed) as u64).max(1)).max(LEAST_SHARE)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}
