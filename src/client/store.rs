//! A store of the embedded grid that may be away: its disk unplugged, its directory missing or somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cap::StorageIndex;
use crate::config::{NodeDir, StoreEntry};
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::storage::local::{LocalOptions, LocalServer};
use crate::storage::{
    Allocation, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareKind, ShareNumber, StorageError, StorageServer,
    TestWrite, UploadSecret,
};
use crate::util::{Clock, Cx, Rng};

/// How long a store that was away is left alone.
const RETRY: Duration = Duration::from_millis(500);

/// A store, opened as soon as it is there. Nothing is ever made in its place.
pub(super) struct Store {
    entry: StoreEntry,
    path: PathBuf,
    options: LocalOptions,
    state: Mutex<State>,
}

enum State {
    Open(Arc<LocalServer>),
    Away { why: String, since: Instant },
}

impl Store {
    pub(super) async fn open(entry: StoreEntry, dir: &NodeDir, clock: Clock, rng: Rng) -> Store {
        let path = entry.directory(dir);
        let options = LocalOptions { clock, rng, ..LocalOptions::default() };
        let state = try_open(&entry, &path, &options).await;
        Store { entry, path, options, state: Mutex::new(state) }
    }

    async fn server(&self) -> Result<Arc<LocalServer>, StorageError> {
        let mut state = self.state.lock().await;
        if matches!(&*state, State::Away { since, .. } if since.elapsed() >= RETRY) {
            *state = try_open(&self.entry, &self.path, &self.options).await;
        }
        match &*state {
            State::Open(server) => Ok(Arc::clone(server)),
            State::Away { why, .. } => Err(StorageError::Unreachable(why.clone())),
        }
    }
}

async fn try_open(entry: &StoreEntry, path: &Path, options: &LocalOptions) -> State {
    let away = |why: String| State::Away { why, since: Instant::now() };
    let (checked, at) = (entry.clone(), path.to_owned());
    match options.io.run(move || checked.verify_at(&at)).await {
        Ok(()) => {}
        Err(why) => return away(why),
    }
    match LocalServer::open(path, options.clone()).await {
        Ok(server) => State::Open(Arc::new(server)),
        Err(e) => away(e.to_string()),
    }
}

#[async_trait]
impl StorageServer for Store {
    async fn status(&self, cx: &Cx) -> Result<ServerStatus, StorageError> {
        self.server().await?.status(cx).await
    }

    async fn list_shares(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        self.server().await?.list_shares(cx, kind, si).await
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
        self.server().await?.allocate(cx, si, shares, size, secret, lease).await
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
        self.server().await?.write_share(cx, si, share, secret, offset, data).await
    }

    async fn abort_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError> {
        self.server().await?.abort_share(cx, si, share, secret).await
    }

    async fn read_share(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        self.server().await?.read_share(cx, kind, si, share, ranges).await
    }

    async fn read_slots(
        &self,
        cx: &Cx,
        si: StorageIndex,
        last: ShareNumber,
        range: ReadRange,
    ) -> Result<BTreeMap<ShareNumber, Result<Bytes, StorageError>>, StorageError> {
        self.server().await?.read_slots(cx, si, last, range).await
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
        self.server().await?.read_test_write(cx, si, enabler, lease, shares, read).await
    }

    async fn add_lease(&self, cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError> {
        self.server().await?.add_lease(cx, si, lease).await
    }

    async fn advise_corrupt(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        self.server().await?.advise_corrupt(cx, kind, si, share, reason).await
    }

    async fn sync(&self, cx: &Cx) -> Result<(), StorageError> {
        self.server().await?.sync(cx).await
    }
}
