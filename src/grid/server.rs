//! A server as the broker knows it: its identity, its backend, its limits in time and how it has fared.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::link::{Link, LinkState, REQUEST_LIMIT, ServerHealth, no_answer};
use super::rate::Rate;
use crate::cap::StorageIndex;
use crate::config::Permission;
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::storage::{
    Allocation, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareKind, ShareNumber, StorageError, StorageServer,
    TestWrite, UploadSecret,
};
use crate::util::{Cx, Rng, Stopped};

/// Writes of immutable shares under way to one server, from all uploads together: more would only wait there, while
/// their time runs.
const WRITES: usize = 4;

/// So long a barrier may take before the caller's patience begins: a slow disk that was given much is no hang.
const BARRIER_LIMIT: Duration = Duration::from_secs(300);

/// Who a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// `v0-` and 52 base32 characters, or another announced id.
    pub id: String,
    /// What people call it.
    pub nickname: String,
    /// The raw tub id: lease secrets and write enablers hash it.
    pub tub_id: [u8; 20],
    /// Its place in permuted orders, as bytes of any length.
    pub permutation_seed: Vec<u8>,
}

/// A storage server with a limit on every request and a memory of how it answered.
pub struct Server {
    info: ServerInfo,
    link: Arc<Link>,
    /// Where it is, for people; empty for one that is not on a network.
    address: Mutex<String>,
    permission: Mutex<Permission>,
    writes: Semaphore,
    uploads: OnceLock<Arc<Rate>>,
    /// Bytes that it was sent and took.
    sent: AtomicU64,
    /// Bytes of shares that it has sent.
    received: AtomicU64,
    /// Writes that the server took, or may have taken.
    taken: AtomicU64,
    /// How many of them were there before the last barrier that it passed.
    synced: AtomicU64,
}

/// A write under way. Once it is dropped it counts, if it was applied or may have been.
struct Taking<'a> {
    server: &'a Server,
    counts: bool,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if self.counts {
            self.server.taken.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Server {
    /// A server of this identity behind `backend`. Every request is made, whatever became of those before.
    pub fn new(info: ServerInfo, backend: Arc<dyn StorageServer>) -> Server {
        let link = Link::new(name_of(&info), backend, None);
        Server::over(info, link, String::new())
    }

    /// A server on a network. One that cannot be reached is set aside for 1 to 60 seconds, longer each time: until it
    /// answers again requests to it fail at once, and those that wait for it when it is set aside do too.
    pub fn remote(info: ServerInfo, address: String, backend: Arc<dyn StorageServer>, rng: Rng) -> Server {
        let link = Link::new(name_of(&info), backend, Some(rng));
        Server::over(info, link, address)
    }

    fn over(info: ServerInfo, link: Arc<Link>, address: String) -> Server {
        let permission = Mutex::new(Permission::Always);
        let (writes, uploads) = (Semaphore::new(WRITES), OnceLock::new());
        let (taken, synced) = (AtomicU64::new(0), AtomicU64::new(0));
        Server {
            info,
            link,
            address: Mutex::new(address),
            permission,
            writes,
            uploads,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            taken,
            synced,
        }
    }

    /// Makes a write, and notes before its answer is seen that the server has something to sync.
    ///
    /// One that was given up may have been applied. One that was refused because the server is away was not, and one
    /// that is given up on a server that was away before was not either: a disk that is gone owes nothing new.
    async fn taking<T>(&self, write: impl Future<Output = Result<T, StorageError>>) -> Result<T, StorageError> {
        let mut taking = Taking { server: self, counts: !self.link.is_failing() };
        let answer = write.await;
        match &answer {
            Ok(_) => taking.counts = true,
            Err(StorageError::Unreachable(_) | StorageError::Unauthorized(_)) => taking.counts = false,
            Err(_) => {}
        }
        answer
    }

    /// Sends it no more than `rate` allows from now on. The first limit stays.
    pub(super) fn limit_uploads(&self, rate: &Arc<Rate>) {
        self.uploads.get_or_init(|| Arc::clone(rate));
    }

    /// Makes a write that sends `bytes` of shares, once they may leave. `what` names the request.
    async fn send<T>(
        &self,
        cx: &Cx,
        what: &'static str,
        bytes: u64,
        write: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        if let Some(rate) = self.uploads.get() {
            rate.wait(cx, bytes).await?;
        }
        let answer = self.link.request(cx, what, self.taking(write)).await?;
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        cx.acknowledge();
        Ok(answer)
    }

    /// Bytes of shares that it was sent and took.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes of shares that it has sent.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Notes bytes of shares that came, which moves who waits for them.
    fn receive(&self, cx: &Cx, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        cx.acknowledge();
    }

    /// Who it is.
    pub fn info(&self) -> &ServerInfo {
        &self.info
    }

    /// What people call it, or its id.
    pub fn name(&self) -> String {
        name_of(&self.info)
    }

    /// How it has fared.
    pub fn health(&self) -> ServerHealth {
        self.link.health()
    }

    /// Whether it can be reached.
    pub fn state(&self) -> LinkState {
        self.link.describe()
    }

    /// `HOST:PORT`; several stand with commas between them. Empty for one that is not on a network.
    pub fn address(&self) -> String {
        self.address.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// What it last said of itself, if it was ever asked.
    pub fn last_status(&self) -> Option<ServerStatus> {
        self.link.last_status().map(|(_, status)| status)
    }

    /// What its clock showed, in seconds since the epoch, when its last answer came, where the protocol tells.
    pub fn date(&self) -> Option<(Instant, i64)> {
        self.link.backend().date()
    }

    /// How long ago it last said something of itself.
    pub fn status_age(&self) -> Option<Duration> {
        self.link.last_status().map(|(at, _)| at.elapsed())
    }

    /// The same server is elsewhere now.
    pub fn redirect(&self, address: String, backend: Arc<dyn StorageServer>) {
        *self.address.lock().unwrap_or_else(|e| e.into_inner()) = address;
        self.link.redirect(backend);
    }

    /// Notes what grid managers permit.
    pub fn set_permission(&self, permission: Permission) {
        *self.permission.lock().unwrap_or_else(|e| e.into_inner()) = permission;
    }

    /// What grid managers permit.
    pub fn permission(&self) -> Permission {
        *self.permission.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What it said when it last did not let us in, unless it has since.
    pub fn locked_out(&self) -> Option<String> {
        self.link.locked_out()
    }

    /// Whether new shares may be put there at `now`, in seconds since the epoch.
    pub fn takes_new_shares(&self, now: i64) -> bool {
        self.permission().at(now)
    }

    /// Why it cannot be used, if the last that is known of it is an error.
    pub fn trouble(&self) -> Option<String> {
        self.link.trouble()
    }

    /// Has the server asked last for a while: it failed, or was too slow for somebody.
    pub fn set_aside(&self, span: Duration) {
        self.link.set_aside(span);
    }

    /// Whether the server is to be asked last.
    pub fn is_set_aside(&self) -> bool {
        self.link.is_set_aside()
    }

    /// Whether requests fail at once until it answers again.
    pub fn is_down(&self) -> bool {
        self.link.is_down()
    }

    /// Tries a server that is down, for a few seconds, because it is needed; whether it can be asked then.
    pub async fn wake(&self, cx: &Cx) -> bool {
        self.link.wake(cx).await
    }
}

fn name_of(ServerInfo { id, nickname, .. }: &ServerInfo) -> String {
    if nickname.is_empty() { id.clone() } else { nickname.clone() }
}

#[async_trait]
impl StorageServer for Server {
    async fn status(&self, cx: &Cx) -> Result<ServerStatus, StorageError> {
        let status = self.link.request(cx, "status", self.link.backend().status(cx)).await?;
        self.link.remember(status);
        Ok(status)
    }

    async fn list_shares(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        self.link.request(cx, "list_shares", self.link.backend().list_shares(cx, kind, si)).await
    }

    async fn allocate(
        &self,
        cx: &Cx,
        si: StorageIndex,
        shares: &BTreeSet<ShareNumber>,
        size: u64,
        secret: &UploadSecret,
        lease: &LeaseSecrets,
    ) -> Result<Allocation, StorageError> {
        let allocation = self.link.backend();
        let allocation = allocation.allocate(cx, si, shares, size, secret, lease);
        self.link.request(cx, "allocate", self.taking(allocation)).await
    }

    async fn write_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
        offset: u64,
        data: Bytes,
    ) -> Result<bool, StorageError> {
        let _turn = cx.run(self.writes.acquire()).await?;
        let bytes = data.len() as u64;
        let write = async { self.link.backend().write_share(cx, si, share, secret, offset, data).await };
        self.send(cx, "write_share", bytes, write).await
    }

    async fn abort_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError> {
        self.link.request(cx, "abort_share", self.link.backend().abort_share(cx, si, share, secret)).await
    }

    async fn read_share(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        let answer =
            self.link.request(cx, "read_share", self.link.backend().read_share(cx, kind, si, share, ranges)).await?;
        let fits = answer.len() == ranges.len() && answer.iter().zip(ranges).all(|(a, r)| a.len() as u64 <= r.length);
        if !fits {
            return Err(StorageError::Malformed("more or fewer bytes than asked for".into()));
        }
        self.receive(cx, answer.iter().map(Bytes::len).sum());
        Ok(answer)
    }

    async fn read_slots(
        &self,
        cx: &Cx,
        si: StorageIndex,
        last: ShareNumber,
        range: ReadRange,
    ) -> Result<BTreeMap<ShareNumber, Result<Bytes, StorageError>>, StorageError> {
        let answer = self.link.request(cx, "read_slots", self.link.backend().read_slots(cx, si, last, range)).await?;
        if answer.values().flatten().any(|bytes| bytes.len() as u64 > range.length) {
            return Err(StorageError::Malformed("more bytes than asked for".into()));
        }
        self.receive(cx, answer.values().flatten().map(Bytes::len).sum());
        Ok(answer)
    }

    async fn read_test_write(
        &self,
        cx: &Cx,
        si: StorageIndex,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        shares: &BTreeMap<ShareNumber, TestWrite>,
        read: &[ReadRange],
    ) -> Result<ReadTestWriteAnswer, StorageError> {
        let bytes = shares.values().flat_map(|share| &share.write).map(|(_, data)| data.len() as u64).sum();
        let write = async { self.link.backend().read_test_write(cx, si, enabler, lease, shares, read).await };
        self.send(cx, "read_test_write", bytes, write).await
    }

    async fn add_lease(&self, cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError> {
        self.link.request(cx, "add_lease", self.link.backend().add_lease(cx, si, lease)).await
    }

    async fn advise_corrupt(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        self.link.request(cx, "advise_corrupt", self.link.backend().advise_corrupt(cx, kind, si, share, reason)).await
    }

    /// Has no limit of its own but the caller's, and asks a server that is set aside too: one that promises nothing
    /// need not be asked for it. A server that is away passes if it has taken nothing since its last barrier.
    async fn sync(&self, cx: &Cx) -> Result<(), StorageError> {
        let (began, taken) = (Instant::now(), self.taken.load(Ordering::SeqCst));
        let owes = taken > self.synced.load(Ordering::SeqCst);
        let backend = self.link.backend();
        let answer = match owes || self.state() == LinkState::Connected {
            true => cx.run(unhurried(cx, backend.sync(cx))).await?,
            false => match cx.with_timeout(REQUEST_LIMIT).run(backend.sync(cx)).await {
                Err(Stopped::Deadline) => Err(no_answer()),
                answer => answer?,
            },
        };
        match answer {
            Ok(()) => {
                self.synced.fetch_max(taken, Ordering::SeqCst);
                Ok(())
            }
            Err(StorageError::Unreachable(_)) if !owes => Ok(()),
            Err(error) => {
                self.link.note::<()>(began, &Err(error.clone()));
                Err(error)
            }
        }
    }
}

/// Takes a barrier for one that moves, up to its limit: nobody sees how far a disk has come.
async fn unhurried<T>(cx: &Cx, barrier: impl Future<Output = T>) -> T {
    let beat = async {
        for _ in 0..BARRIER_LIMIT.as_secs() {
            sleep(Duration::from_secs(1)).await;
            cx.acknowledge();
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answer = barrier => answer,
        never = beat => never,
    }
}
