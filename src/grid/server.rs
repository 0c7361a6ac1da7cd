//! A server as the broker knows it: its identity, its backend, its limits in time and how it has fared.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::cap::StorageIndex;
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::storage::{
    Allocation, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareKind, ShareNumber, StorageError, StorageServer,
    TestWrite, UploadSecret,
};
use crate::util::{Cx, Stopped};

/// The longest one request may take without progress.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

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
    /// Whether new shares may be put there.
    pub upload_permitted: bool,
}

/// How a server has fared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerHealth {
    /// Smoothed time of an answer, once there was one.
    pub latency: Option<Duration>,
    /// The last error, until a request succeeds.
    pub last_error: Option<StorageError>,
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// A storage server with a limit on every request and a memory of how it answered.
pub struct Server {
    info: ServerInfo,
    backend: Arc<dyn StorageServer>,
    health: Mutex<ServerHealth>,
    aside: Mutex<Option<Instant>>,
}

impl Server {
    /// A server of this identity behind `backend`.
    pub fn new(info: ServerInfo, backend: Arc<dyn StorageServer>) -> Server {
        Server { info, backend, health: Mutex::default(), aside: Mutex::default() }
    }

    /// Who it is.
    pub fn info(&self) -> &ServerInfo {
        &self.info
    }

    /// How it has fared.
    pub fn health(&self) -> ServerHealth {
        self.health.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Has the server asked last for a while: it failed, or was too slow for somebody.
    pub fn set_aside(&self, span: Duration) {
        *self.aside.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now() + span);
    }

    /// Whether the server is to be asked last.
    pub fn is_set_aside(&self) -> bool {
        self.aside.lock().unwrap_or_else(|e| e.into_inner()).is_some_and(|until| Instant::now() < until)
    }

    async fn limited<T>(
        &self,
        cx: &Cx,
        request: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let began = Instant::now();
        let limited = cx.with_timeout(REQUEST_LIMIT);
        let answer = match limited.run(request).await {
            Ok(answer) => answer,
            Err(Stopped::Deadline) if cx.remaining().is_none_or(|left| !left.is_zero()) => {
                Err(StorageError::Unreachable("no answer in 15 seconds".into()))
            }
            Err(stopped) => Err(stopped.into()),
        };
        let mut health = self.health.lock().unwrap_or_else(|e| e.into_inner());
        match &answer {
            Err(e @ (StorageError::Unreachable(_) | StorageError::Io(_) | StorageError::Malformed(_))) => {
                health.failed += 1;
                health.last_error = Some(e.clone());
            }
            Err(StorageError::Stopped(_)) => {}
            _ => {
                let took = began.elapsed();
                health.latency = Some(health.latency.map_or(took, |l| (l * 7 + took) / 8));
                health.answered += 1;
                health.last_error = None;
            }
        }
        answer
    }
}

#[async_trait]
impl StorageServer for Server {
    async fn status(&self, cx: &Cx) -> Result<ServerStatus, StorageError> {
        self.limited(cx, self.backend.status(cx)).await
    }

    async fn list_shares(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        self.limited(cx, self.backend.list_shares(cx, kind, si)).await
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
        self.limited(cx, self.backend.allocate(cx, si, shares, size, secret, lease)).await
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
        let done = self.limited(cx, self.backend.write_share(cx, si, share, secret, offset, data)).await?;
        cx.acknowledge();
        Ok(done)
    }

    async fn abort_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError> {
        self.limited(cx, self.backend.abort_share(cx, si, share, secret)).await
    }

    async fn read_share(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        let answer = self.limited(cx, self.backend.read_share(cx, kind, si, share, ranges)).await?;
        let fits = answer.len() == ranges.len() && answer.iter().zip(ranges).all(|(a, r)| a.len() as u64 <= r.length);
        if !fits {
            return Err(StorageError::Malformed("more or fewer bytes than asked for".into()));
        }
        cx.acknowledge();
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
        let answer = self.limited(cx, self.backend.read_test_write(cx, si, enabler, lease, shares, read)).await?;
        cx.acknowledge();
        Ok(answer)
    }

    async fn add_lease(&self, cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError> {
        self.limited(cx, self.backend.add_lease(cx, si, lease)).await
    }

    async fn advise_corrupt(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        self.limited(cx, self.backend.advise_corrupt(cx, kind, si, share, reason)).await
    }

    async fn sync(&self, cx: &Cx) -> Result<(), StorageError> {
        self.limited(cx, self.backend.sync(cx)).await
    }
}
