//! Shares on their way to servers: each is written in order, in batches, while the others are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::cap::StorageIndex;
use crate::grid::Server;
use crate::storage::{ShareKind, ShareNumber, StorageError, StorageServer, UploadSecret};
use crate::util::Cx;

/// A write that failed sooner than this is tried once more: writing the same bytes again is harmless.
const RETRY_WITHIN: Duration = Duration::from_secs(5);

/// Where one share goes.
pub(super) struct Destination {
    pub cx: Cx,
    pub server: Arc<Server>,
    pub storage_index: StorageIndex,
    pub share: ShareNumber,
    pub secret: UploadSecret,
    /// Bytes of the whole share.
    pub size: u64,
}

impl Destination {
    /// Writes one batch; `true` when the share is complete.
    async fn write(&self, offset: u64, data: Bytes) -> Result<bool, StorageError> {
        let last = offset + data.len() as u64 == self.size;
        let began = Instant::now();
        let mut outcome = self.write_once(offset, data.clone()).await;
        if passing(&outcome) && began.elapsed() < RETRY_WITHIN {
            outcome = self.write_once(offset, data).await;
        }
        match outcome {
            // The answer to the write that completed the share may have been lost.
            Err(e) if last && !matches!(e, StorageError::Stopped(_)) => {
                let listed = self.server.list_shares(&self.cx, ShareKind::Immutable, self.storage_index).await;
                if listed.is_ok_and(|shares| shares.contains(&self.share)) { Ok(true) } else { Err(e) }
            }
            outcome => outcome,
        }
    }

    async fn write_once(&self, offset: u64, data: Bytes) -> Result<bool, StorageError> {
        self.server.write_share(&self.cx, self.storage_index, self.share, &self.secret, offset, data).await
    }
}

/// Whether the same request may succeed when it is made again.
fn passing<T>(outcome: &Result<T, StorageError>) -> bool {
    matches!(outcome, Err(StorageError::Unreachable(_) | StorageError::Io(_) | StorageError::Malformed(_)))
}

enum Job {
    Write(Bytes),
    /// Answered once all before it is acknowledged.
    Barrier(oneshot::Sender<()>),
}

struct Writer {
    buffer: BytesMut,
    /// Bytes of the share that have not been pushed.
    left: u64,
    sent: bool,
    jobs: mpsc::Sender<Job>,
    task: AbortOnDropHandle<Result<bool, StorageError>>,
}

/// All shares of one upload. Each has at most one batch being gathered, one queued and one on its way.
pub(super) struct Senders {
    batch: usize,
    writers: BTreeMap<ShareNumber, Writer>,
}

impl Senders {
    /// Nothing to send yet; `batch` is in bytes.
    pub fn new(batch: usize) -> Senders {
        Senders { batch, writers: BTreeMap::new() }
    }

    /// Begins one more share. A share that was being written is begun anew.
    pub fn add(&mut self, destination: Destination) {
        let (share, left) = (destination.share, destination.size);
        let (jobs, queue) = mpsc::channel(1);
        let task = AbortOnDropHandle::new(tokio::spawn(write_all(destination, queue)));
        self.writers.insert(share, Writer { buffer: BytesMut::new(), left, sent: false, jobs, task });
    }

    /// Stops all shares but those that `keep` names.
    pub fn retain(&mut self, keep: impl Fn(ShareNumber) -> bool) {
        self.writers.retain(|&share, _| keep(share));
    }

    /// The shares that are still being written.
    pub fn shares(&self) -> BTreeSet<ShareNumber> {
        self.writers.keys().copied().collect()
    }

    /// Appends to a share; nothing is done for one that is not written. Waits while too much is on its way.
    pub async fn push(&mut self, share: ShareNumber, data: Bytes) {
        let Some(writer) = self.writers.get_mut(&share) else {
            return;
        };
        let mut rest = &data[..];
        while !rest.is_empty() {
            if writer.buffer.len() >= self.batch {
                // The last batch is kept back: see `settle`.
                let full = std::mem::take(&mut writer.buffer).freeze();
                writer.send(full).await;
            }
            if writer.buffer.capacity() == 0 {
                writer.buffer.reserve(self.batch.min(usize::try_from(writer.left).unwrap_or(self.batch)));
            }
            let room = (self.batch - writer.buffer.len()).min(rest.len());
            writer.buffer.extend_from_slice(&rest[..room]);
            writer.left = writer.left.saturating_sub(room as u64);
            rest = &rest[room..];
        }
    }

    /// Takes out the shares whose servers have failed.
    pub async fn lost(&mut self) -> Vec<(ShareNumber, StorageError)> {
        let ended: Vec<ShareNumber> =
            self.writers.iter().filter(|(_, w)| w.task.is_finished()).map(|(share, _)| *share).collect();
        let mut lost = Vec::new();
        for share in ended {
            if let Some(writer) = self.writers.remove(&share) {
                lost.push((share, writer.end().await.err().unwrap_or_else(incomplete)));
            }
        }
        lost
    }

    /// Waits until everything but the last batch of each share is acknowledged, so that the shares become visible
    /// together or, when too many servers have failed, not at all. Returns at once when there was one batch only.
    pub async fn settle(&mut self) {
        let barriers = self.writers.values().filter(|w| w.sent).map(|writer| async {
            let (done, wait) = oneshot::channel();
            if writer.jobs.send(Job::Barrier(done)).await.is_ok() {
                // An error means that the writer has failed, which `lost` will tell.
                let _ = wait.await;
            }
        });
        join_all(barriers).await;
    }

    /// Sends the last batches and says for each share whether it is complete.
    pub async fn finish(&mut self) -> Vec<(ShareNumber, Result<(), StorageError>)> {
        let ends = std::mem::take(&mut self.writers).into_iter().map(|(share, mut writer)| async move {
            if !writer.buffer.is_empty() {
                let rest = std::mem::take(&mut writer.buffer).freeze();
                writer.send(rest).await;
            }
            let outcome = writer.end().await;
            (share, outcome.and_then(|complete| if complete { Ok(()) } else { Err(incomplete()) }))
        });
        join_all(ends).await
    }
}

impl Writer {
    async fn send(&mut self, data: Bytes) {
        self.sent = true;
        // When the writer has failed there is nothing to be done here: `lost` and `finish` tell.
        let _ = self.jobs.send(Job::Write(data)).await;
    }

    async fn end(self) -> Result<bool, StorageError> {
        drop(self.jobs);
        self.task.await.unwrap_or_else(|e| Err(StorageError::Io(format!("a writer ended: {e}"))))
    }
}

async fn write_all(destination: Destination, mut queue: mpsc::Receiver<Job>) -> Result<bool, StorageError> {
    let (mut offset, mut complete) = (0, false);
    while let Some(job) = queue.recv().await {
        match job {
            Job::Write(data) => {
                let length = data.len() as u64;
                complete = destination.write(offset, data).await?;
                offset += length;
            }
            Job::Barrier(done) => drop(done.send(())),
        }
    }
    Ok(complete)
}

fn incomplete() -> StorageError {
    StorageError::Malformed("the server does not take the share for complete".into())
}
