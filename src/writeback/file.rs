//! A file whose content is staged here.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::DirId;
use crate::cap::Cap;
use crate::journal::Staged;
use crate::node::Name;
use crate::node::{NodeError, NodeFactory};
use crate::util::Cx;

/// A file whose content is staged: new, being changed, or stored since but still open.
pub struct FileObject {
    staged: Arc<Staged>,
    stored: Mutex<Option<(u64, Cap)>>,
    home: Mutex<Option<DirId>>,
    /// The name that a conflict gave it, until the file system has heard of it.
    conflict_name: Mutex<Option<Name>>,
    writers: AtomicU32,
    /// Taken for writing by a change of the content, for reading by an upload: an upload sees one content.
    content: tokio::sync::RwLock<()>,
    uploading: tokio::sync::Mutex<()>,
}

impl FileObject {
    /// A file with this content. `stored` is its cap where the content is that of a stored file still.
    pub fn new(staged: Staged, stored: Option<Cap>) -> Arc<FileObject> {
        let stored = stored.map(|cap| (staged.generation(), cap));
        Arc::new(FileObject {
            staged: Arc::new(staged),
            stored: Mutex::new(stored),
            home: Mutex::default(),
            conflict_name: Mutex::default(),
            writers: AtomicU32::new(0),
            content: tokio::sync::RwLock::default(),
            uploading: tokio::sync::Mutex::default(),
        })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.staged.size()
    }

    /// Reads a range, cut at the end of the file.
    pub async fn read(&self, cx: &Cx, range: std::ops::Range<u64>) -> Result<Bytes, NodeError> {
        self.staged.read(cx, range).await
    }

    /// Writes at `offset`; waits while the file is being uploaded.
    pub async fn write(&self, offset: u64, data: Bytes) -> std::io::Result<()> {
        let _content = self.content.write().await;
        self.staged.write(offset, data).await
    }

    /// Appends, and returns where.
    pub async fn append(&self, data: Bytes) -> std::io::Result<u64> {
        let _content = self.content.write().await;
        let offset = self.staged.size();
        self.staged.write(offset, data).await.map(|()| offset)
    }

    /// Cuts the file, or grows it with zeros; waits while the file is being uploaded.
    pub async fn truncate(&self, size: u64) -> std::io::Result<()> {
        let _content = self.content.write().await;
        self.staged.truncate(size).await
    }

    /// The cap of the content as it is now, if that is stored.
    pub fn stored(&self) -> Option<Cap> {
        let stored = self.stored.lock().unwrap_or_else(|e| e.into_inner());
        stored.as_ref().filter(|(generation, _)| *generation == self.staged.generation()).map(|(_, cap)| cap.clone())
    }

    /// Counts an open handle that may write: until the last is closed the content is uploaded only if somebody waits.
    pub fn open_writer(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// The counterpart of [`FileObject::open_writer`].
    pub fn close_writer(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// The name under which it went on after a conflict, once.
    pub fn take_conflict_name(&self) -> Option<Name> {
        self.conflict_name.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    pub(super) fn set_conflict_name(&self, name: Name) {
        *self.conflict_name.lock().unwrap_or_else(|e| e.into_inner()) = Some(name);
    }

    pub(super) fn is_held(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    pub(super) fn home(&self) -> Option<DirId> {
        *self.home.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn set_home(&self, dir: DirId) {
        *self.home.lock().unwrap_or_else(|e| e.into_inner()) = Some(dir);
    }

    /// Stores the content, unless it is stored already, and returns its cap.
    pub(super) async fn store(&self, cx: &Cx, factory: &dyn NodeFactory) -> Result<Cap, NodeError> {
        let _one = self.uploading.lock().await;
        if let Some(cap) = self.stored() {
            return Ok(cap);
        }
        let _content = self.content.read().await;
        let generation = self.staged.generation();
        let cap = factory.store_file(cx, self.staged.freeze(cx)).await?;
        *self.stored.lock().unwrap_or_else(|e| e.into_inner()) = Some((generation, cap.clone()));
        Ok(cap)
    }
}
