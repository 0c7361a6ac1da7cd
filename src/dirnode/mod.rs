//! Directories: the packed table, its names and metadata, and edits that hold against other writers (PROTOCOL 7).

mod edits;
mod keep;
mod pack;

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;

use crate::cap::{Cap, FileCap, MutableFormat, StorageIndex};
use crate::crypto::SigningKey;
use crate::crypto::secrets::write_key;
use crate::grid::Grid;
use crate::mutable::{Breadth, Change, MutableFile};
use crate::node::{
    Child, Directory, Edit, EditOutcome, Freshness, Metadata, Name, NodeError, Readable, Table, normalize,
};
use crate::share::Version;
use crate::util::Cx;

pub use edits::{Applied, apply};
pub use pack::{Access, BadTable, Entries, pack, pack_entry, parse};

impl From<BadTable> for NodeError {
    fn from(bad: BadTable) -> NodeError {
        NodeError::Corrupt(bad.to_string())
    }
}

fn breadth(freshness: Freshness) -> Breadth {
    if freshness == Freshness::Recent { Breadth::Quick } else { Breadth::Wide }
}

/// What a directory's table is kept in.
enum Container {
    Mutable(Arc<MutableFile>),
    Immutable(Arc<dyn Readable>),
}

/// A directory (IDirectoryNode).
pub struct DirNode {
    container: Container,
    cap: Cap,
    access: Access,
    last: Mutex<Option<Snapshot>>,
    shelf: Option<Arc<keep::Shelf>>,
}

/// The table of a version, and all that is needed to write the next one.
#[derive(Clone)]
struct Snapshot {
    version: Option<Arc<Version>>,
    content: Bytes,
    table: Arc<Table>,
    hidden: Arc<[(Name, Child)]>,
}

impl Snapshot {
    fn new(version: Option<Arc<Version>>, content: Bytes, entries: Entries) -> Result<Snapshot, NodeError> {
        let bytes = match &version {
            Some(version) => version.to_bytes().map_err(|e| NodeError::Corrupt(e.to_string()))?.into(),
            None => Bytes::new(),
        };
        let table = Arc::new(Table { version: bytes, entries: entries.shown });
        Ok(Snapshot { version, content, table, hidden: entries.hidden.into() })
    }

    fn entries(&self) -> Entries {
        Entries { shown: self.table.entries.clone(), hidden: self.hidden.to_vec() }
    }
}

impl DirNode {
    /// The directory in a mutable file; `cap` is the directory's cap for the same container.
    pub fn mutable(file: Arc<MutableFile>, cap: Cap) -> DirNode {
        let access = file.cap().write_key().map_or(Access::Read, |key| Access::Write(key.clone()));
        DirNode { container: Container::Mutable(file), cap, access, last: Mutex::default(), shelf: None }
    }

    /// The immutable directory in a file.
    pub fn immutable(readable: Arc<dyn Readable>, cap: Cap) -> DirNode {
        let (container, access) = (Container::Immutable(readable), Access::Immutable);
        DirNode { container, cap, access, last: Mutex::default(), shelf: None }
    }

    /// A new mutable directory with these children, whose link times begin now.
    pub async fn create(
        grid: Arc<Grid>,
        cx: &Cx,
        key: SigningKey,
        format: MutableFormat,
        children: &[(Name, Cap, Metadata)],
    ) -> Result<DirNode, NodeError> {
        let access = Access::Write(write_key(key.pkcs8_der()));
        let now = grid.clock().now_float();
        let mut entries = Entries::default();
        for (name, cap, metadata) in children {
            let metadata = Metadata::default().updated(Some(metadata), now);
            let cap = edits::stored_cap(cap, Some(&metadata));
            entries.shown.insert(normalize(name), Child { cap, metadata, packed: None });
        }
        let content = pack(&mut entries, &access)?;
        let file = MutableFile::create(grid, cx, key, format, content.clone()).await?;
        let cap = Cap::Dir(FileCap::Mutable(file.cap().clone()));
        let version = file.version();
        let dir = DirNode::mutable(Arc::new(file), cap);
        if version.is_some() {
            *dir.newest() = Some(Snapshot::new(version, content, entries)?);
        }
        Ok(dir)
    }

    /// The directory's cap.
    pub fn cap(&self) -> &Cap {
        &self.cap
    }

    /// The mutable file that holds the table, unless the directory is immutable.
    pub fn file(&self) -> Option<&Arc<MutableFile>> {
        match &self.container {
            Container::Mutable(file) => Some(file),
            Container::Immutable(_) => None,
        }
    }

    fn newest(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.last.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The version of the last snapshot.
    fn version(&self) -> Option<Arc<Version>> {
        self.newest().as_ref().and_then(|last| last.version.clone())
    }

    /// Makes `snapshot` the last one, unless a newer one came while it was on its way, `before` being the last when it
    /// set out; returns the table that is the last then.
    fn keep(&self, before: Option<Arc<Version>>, snapshot: Snapshot) -> Arc<Table> {
        let mut last = self.newest();
        match &*last {
            Some(newer) if newer.version != before && newer.version > snapshot.version => Arc::clone(&newer.table),
            _ => Arc::clone(&last.insert(snapshot).table),
        }
    }

    /// Makes `snapshot` the last one, unless there is a newer one.
    fn keep_newer(&self, snapshot: Snapshot) {
        let mut last = self.newest();
        if last.as_ref().is_none_or(|last| last.version < snapshot.version) {
            *last = Some(snapshot);
        }
    }

    async fn fetch(&self, cx: &Cx, breadth: Breadth) -> Result<Snapshot, NodeError> {
        let last = self.newest().clone();
        let known = match last {
            Some(last) => Some(last),
            None => self.kept().await.map(|(kept, _)| kept),
        };
        let (version, content) = match &self.container {
            Container::Mutable(file) => {
                let read = known.as_ref().and_then(|known| Some((known.content.clone(), known.version.clone()?)));
                let (version, content) = file.read_beyond(cx, read, breadth).await?;
                (Some(version), content)
            }
            Container::Immutable(_) if let Some(known) = known => return Ok(known),
            Container::Immutable(file) => {
                let size = file.size(cx).await?;
                if size > crate::mutable::MAX_CONTENT {
                    return Err(NodeError::TooLarge);
                }
                (None, file.read(cx, std::slice::from_ref(&(0..size))).await?.pop().unwrap_or_default())
            }
        };
        if let Some(known) = known.filter(|known| known.version.is_some() && known.version == version) {
            return Ok(known);
        }
        let access = self.access.clone();
        let entries = match self.file() {
            Some(file) => {
                let content = content.clone();
                file.grid().cpu().run(move || parse(&content, &access)).await?
            }
            None => parse(&content, &access)?,
        };
        let snapshot = Snapshot::new(version, content, entries)?;
        self.put_away(&snapshot, false).await;
        Ok(snapshot)
    }
}

#[async_trait]
impl Directory for DirNode {
    fn storage_index(&self) -> Option<StorageIndex> {
        self.cap.storage_index()
    }

    fn is_writeable(&self) -> bool {
        matches!(self.access, Access::Write(_))
    }

    async fn snapshot(&self, cx: &Cx, freshness: Freshness) -> Result<Arc<Table>, NodeError> {
        if freshness == Freshness::Kept {
            return self.last_seen().await;
        }
        let fixed = matches!(self.container, Container::Immutable(_));
        if (fixed || freshness == Freshness::Cached)
            && let Some(last) = self.newest().as_ref()
        {
            return Ok(Arc::clone(&last.table));
        }
        let before = self.version();
        let fetched = self.fetch(cx, breadth(freshness)).await?;
        Ok(self.keep(before, fetched))
    }

    fn last(&self) -> Option<Arc<Table>> {
        self.newest().as_ref().map(|last| Arc::clone(&last.table))
    }

    async fn probe(&self, cx: &Cx, freshness: Freshness) -> Result<bool, NodeError> {
        match (&self.container, self.version()) {
            (Container::Immutable(_), _) => Ok(self.newest().is_none()),
            (Container::Mutable(_), None) => Ok(true),
            (Container::Mutable(file), Some(version)) => file.newer_than(cx, &version, breadth(freshness)).await,
        }
    }

    async fn modify(&self, cx: &Cx, edits: &[Edit]) -> Result<Vec<EditOutcome>, NodeError> {
        let (Some(file), Access::Write(_)) = (self.file(), &self.access) else {
            return Err(NodeError::NotWriteable);
        };
        let mut change = Edits { dir: self, file, edits: edits.into(), outcomes: Vec::new(), made: None };
        let (version, content) = file.change(cx, &mut change).await?;
        let Edits { outcomes, made, .. } = change;
        let unchanged = self.newest().as_ref().is_some_and(|last| last.version.as_ref() == Some(&version));
        if let Some(entries) = made.filter(|_| !unchanged) {
            let snapshot = Snapshot::new(Some(version), content, entries)?;
            self.keep_newer(snapshot.clone());
            self.put_away(&snapshot, true).await;
        }
        Ok(outcomes)
    }
}

/// Edits on their way into a table.
struct Edits<'a> {
    dir: &'a DirNode,
    file: &'a Arc<MutableFile>,
    edits: Arc<[Edit]>,
    outcomes: Vec<EditOutcome>,
    /// The table after the edits, as packed last.
    made: Option<Entries>,
}

#[async_trait]
impl Change for Edits<'_> {
    async fn apply(&mut self, version: Option<&Arc<Version>>, old: Bytes) -> Result<Option<Bytes>, NodeError> {
        let last = self.dir.newest().clone().filter(|last| last.version.as_ref() == version);
        let (access, edits) = (self.dir.access.clone(), Arc::clone(&self.edits));
        let now = self.file.grid().clock().now_float();
        let done = self.file.grid().cpu().run(move || -> Result<_, NodeError> {
            let mut entries = match last {
                Some(last) => last.entries(),
                None => parse(&old, &access)?,
            };
            let applied = apply(&mut entries, &edits, now);
            let packed = if applied.changed { Some(pack(&mut entries, &access)?) } else { None };
            Ok((entries, applied.outcomes, packed))
        });
        let (entries, outcomes, packed) = done.await?;
        (self.made, self.outcomes) = (Some(entries), outcomes);
        Ok(packed)
    }

    fn known(&self, version: &Version) -> Option<Bytes> {
        let last = self.dir.newest();
        last.as_ref().filter(|last| last.version.as_deref() == Some(version)).map(|last| last.content.clone())
    }
}
