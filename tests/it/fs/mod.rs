//! The file system without FUSE: against a model, over a grid that fails on demand.

mod ephemeral;
mod grid;
mod kept;
mod links;
mod lost;
mod model;
mod mutable;
mod names;
mod parts;
mod paths;
mod promises;
mod queue;
mod races;
mod ranges;
mod shared;
mod taken;
mod unproven;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tahoefs::cap::Cap;
use tahoefs::crypto::JournalKey;
use tahoefs::fs::*;
use tahoefs::journal::{Index, Journal, JournalError, JournalOptions, Replay};
use tahoefs::node::Freshness;
use tahoefs::node::NodeFactory;
use tahoefs::util::{Clock, Cx, Priority, Rng};
use tahoefs::writeback::{Writeback, WritebackOptions};

use grid::{Factory, NodeGrid};

const ME: Caller = Caller { uid: 1000, gid: 1000, umask: 0 };
const WRITE: OpenMode = OpenMode { write: true, truncate: false };
const READ: OpenMode = OpenMode { write: false, truncate: false };

/// A grid with one root directory, and the folder for what is local.
struct Ground {
    grid: Arc<NodeGrid>,
    root: Cap,
    local: tempfile::TempDir,
    /// Mounts so far: each makes other random numbers.
    mounts: AtomicU64,
}

impl Ground {
    fn new() -> Ground {
        let grid = NodeGrid::new();
        let root = grid.empty_directory();
        Ground { grid, root, local: tempfile::tempdir().unwrap(), mounts: AtomicU64::new(1) }
    }

    /// A fresh mount: nothing of an earlier one is known but what is on the grid and in the index. `close` and `fsync`
    /// wait for the grid.
    async fn mount(&self) -> Arc<Filesystem> {
        let journal = tempfile::tempdir_in(self.local.path()).unwrap().keep();
        self.mount_with(&journal, Durability::Grid).await
    }

    /// A mount whose journal is in `folder`.
    async fn mount_with(&self, folder: &std::path::Path, durability: Durability) -> Arc<Filesystem> {
        self.mount_over(open_journal(folder).await, durability).await
    }

    /// A folder with what the journal in `folder` holds now, as after kill -9.
    fn copy_of(&self, folder: &std::path::Path) -> std::path::PathBuf {
        let copy = tempfile::tempdir_in(self.local.path()).unwrap().keep();
        crate::tahoe::copy_tree(folder, &copy);
        copy
    }

    async fn mount_over(&self, (journal, replay): (Journal, Replay), durability: Durability) -> Arc<Filesystem> {
        let factory: Arc<dyn NodeFactory> = Arc::new(Factory(Arc::clone(&self.grid)));
        let options = WritebackOptions { patience: Duration::from_secs(5), ..WritebackOptions::default() };
        let writeback = Writeback::new(Arc::clone(&factory), journal, Clock::system(), "box".into(), options);
        writeback.restore(replay);
        let dir = writeback.directory(&self.root).unwrap();
        let owner = Owner::Stored { uid: 1000, gid: 1000 };
        let options = FsOptions {
            read_only: false,
            owner,
            deadline: Duration::from_secs(5),
            memory: 1 << 26,
            durability,
            write_caps: false,
        };
        let index = Index::open(&self.local.path().join("index")).unwrap();
        let root = Root { dir, storage_index: self.root.storage_index(), edge: None };
        let rng = Rng::seeded(self.mounts.fetch_add(1, Ordering::Relaxed));
        Filesystem::new(options, writeback, factory, index, root, Clock::system(), rng).unwrap()
    }

    /// Names on the grid under the root, as another client would see them.
    async fn published(&self) -> Vec<String> {
        let dir = Factory(Arc::clone(&self.grid)).directory(&self.root).unwrap();
        let table = dir.snapshot(&Cx::new(Priority::Waiting, 1 << 20), Freshness::Newest).await.unwrap();
        table.entries.keys().map(|name| name.to_string()).collect()
    }
}

/// The journal in `folder`, once tasks of the mount before have let go of it.
async fn open_journal(folder: &std::path::Path) -> (Journal, Replay) {
    for _ in 0..2000 {
        match Journal::open(folder, &JournalKey::new([1; 32]), JournalOptions::default()) {
            Err(JournalError::Locked(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the journal stays open");
}

/// What a kernel does with names: it has looked at them before it moves or removes them.
trait Names {
    async fn mv(&self, parent: Ino, name: &[u8], to: Ino, new: &[u8], mode: RenameMode) -> Result<(), FsError>;
    async fn rm(&self, parent: Ino, name: &[u8]) -> Result<(), FsError>;
    async fn rm_dir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError>;
}

impl Names for Filesystem {
    async fn mv(&self, parent: Ino, name: &[u8], to: Ino, new: &[u8], mode: RenameMode) -> Result<(), FsError> {
        let _ = self.lookup(parent, name).await;
        self.rename(parent, name, to, new, mode).await
    }

    async fn rm(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let _ = self.lookup(parent, name).await;
        self.unlink(parent, name).await
    }

    async fn rm_dir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let _ = self.lookup(parent, name).await;
        self.rmdir(parent, name).await
    }
}

/// Writes a whole file, and closes it without waiting for the grid.
async fn write(fs: &Filesystem, parent: Ino, name: &str, content: &[u8]) -> Ino {
    let (attr, handle) = fs.create(parent, name.as_bytes(), 0o644, ME, WRITE).await.unwrap();
    fs.write(attr.ino, handle, 0, Bytes::copy_from_slice(content)).await.unwrap();
    fs.release(handle);
    attr.ino
}

/// Reads a whole file by its inode.
async fn read(fs: &Filesystem, ino: Ino) -> Vec<u8> {
    let handle = fs.open(ino, READ).await.unwrap();
    let bytes = fs.read(ino, handle, 0, 1 << 20).await.unwrap();
    fs.release(handle);
    bytes.to_vec()
}
