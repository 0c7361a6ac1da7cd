//! The mount's side of the control socket.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{Failed, Left, Reply, Request, Status};

/// More than any request is long, in bytes.
const REQUEST_LIMIT: u64 = 64 * 1024;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a client could not be accepted, for want of descriptors perhaps.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// Where a request that takes long says how far it is. Slow listeners miss some of it.
#[derive(Clone, Debug)]
pub struct ProgressSink(mpsc::Sender<Left>);

impl ProgressSink {
    /// Notes what is left.
    pub fn note(&self, left: Left) {
        // A full channel is a client that reads slowly, a closed one has gone: the work goes on without it.
        let _ = self.0.try_send(left);
    }
}

/// A mount, as the control socket sees it.
#[async_trait]
pub trait ControlTarget: Send + Sync {
    /// What it says of itself.
    async fn status(&self) -> Status;

    /// Waits until all below `path` (relative to the mountpoint; `None` is everything) is on the grid.
    async fn flush(&self, path: Option<PathBuf>, progress: ProgressSink) -> Result<Left, Failed>;

    /// Has the grid asked again before directories are next shown; returns what is not on the grid yet.
    async fn refresh(&self) -> Left;

    /// Stores what is left and unmounts, or only unmounts with `force`; returns what is left behind.
    async fn unmount(&self, force: bool, progress: ProgressSink) -> Result<Left, Failed>;

    /// Ends at once, if it is mounted no more; returns what it leaves in the journal.
    async fn make_way(&self) -> Result<Left, Failed>;
}

/// Serves `target` until the task is dropped or aborted; each client gets a task of `tracker`,
/// so that the owner can wait until the last answer is sent.
pub async fn serve(listener: UnixListener, target: Arc<dyn ControlTarget>, tracker: TaskTracker) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client of the control socket could not be heard");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let target = Arc::clone(&target);
        tracker.spawn(async move {
            if let Err(error) = answer(stream, target).await {
                tracing::debug!(%error, "a client of the control socket went away");
            }
        });
    }
}

async fn answer(stream: UnixStream, target: Arc<dyn ControlTarget>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_LIMIT));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await.map_err(io::Error::other)??;
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(e) => {
            let failed = Failed { message: format!("the request is not understood: {e}"), exit: 2 };
            return send(&mut write, &Reply::Error(failed)).await;
        }
    };
    let (sender, mut progress) = mpsc::channel(16);
    let sink = ProgressSink(sender);
    // The work is a task of its own: it goes on when the client goes away.
    let work = tokio::spawn(async move {
        match request {
            Request::Status => Ok(Reply::Status(Box::new(target.status().await))),
            Request::Flush { path } => target.flush(path, sink).await.map(Reply::Done),
            Request::Refresh => Ok(Reply::Done(target.refresh().await)),
            Request::Unmount { force } => target.unmount(force, sink).await.map(Reply::Done),
            Request::Yield => target.make_way().await.map(Reply::Done),
        }
    });
    while let Some(left) = progress.recv().await {
        send(&mut write, &Reply::Progress(left)).await?;
    }
    let reply = match work.await {
        Ok(Ok(reply)) => reply,
        Ok(Err(failed)) => Reply::Error(failed),
        Err(_) => Reply::Error(Failed { message: "the mount failed at it; see its log".into(), exit: 1 }),
    };
    send(&mut write, &reply).await
}

async fn send(write: &mut (impl tokio::io::AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}
