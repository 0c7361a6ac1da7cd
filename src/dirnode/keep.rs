//! The last table that was seen of a directory, on disk, for the time when the grid cannot be asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{Container, DirNode, Snapshot, parse};
use crate::cache::{TableId, TableVersion, Tables};
use crate::cap::{Cap, FileCap};
use crate::crypto::hash::sha256d;
use crate::node::{NodeError, Table};
use crate::share::Version;

/// Where the tables are kept, and which is this directory's.
pub(super) struct Shelf {
    tables: Arc<Tables>,
    id: TableId,
}

impl Shelf {
    /// `None` for a directory that needs none, or cannot be read.
    pub fn new(tables: Arc<Tables>, cap: &Cap) -> Option<Shelf> {
        let id = match cap {
            Cap::Dir(FileCap::Mutable(cap)) => TableId::new(&cap.storage_index().0, &cap.read_key()?),
            // Other caps may lead to the same shares, with other hashes.
            Cap::Dir(FileCap::Chk(chk)) => {
                let hash = sha256d(cap.readonly().to_uri().as_bytes());
                TableId::new(hash.first_chunk()?, &chk.key)
            }
            _ => return None,
        };
        Some(Shelf { tables, id })
    }
}

impl DirNode {
    /// The directory, whose tables are kept in `tables` from now on.
    pub fn with_tables(mut self, tables: Option<&Arc<Tables>>) -> DirNode {
        self.shelf = tables.and_then(|tables| Shelf::new(Arc::clone(tables), &self.cap)).map(Arc::new);
        self
    }

    /// Keeps the table that was seen last, which this process has stored.
    pub async fn keep_stored(&self) {
        let last = self.newest().clone();
        if let Some(last) = last {
            self.put_away(&last, true).await;
        }
    }

    /// Keeps a table that was verified. That it cannot be kept is no failure.
    pub(super) async fn put_away(&self, snapshot: &Snapshot, is_newest: bool) {
        let Some(shelf) = self.shelf.clone() else { return };
        let holders = match (self.file(), &snapshot.version) {
            (Some(file), Some(version)) => file.holders(version),
            _ => BTreeSet::new(),
        };
        let (version, content) = (snapshot.version.clone(), snapshot.content.clone());
        let put = tokio::task::spawn_blocking(move || {
            let stamp = version.as_ref().map_or_else(TableVersion::default, |version| TableVersion {
                seqnum: version.header.seqnum,
                root_hash: version.header.root_hash,
            });
            let Some(record) = pack_record(version.as_deref(), &holders, &content) else { return };
            if let Err(error) = shelf.tables.put(&shelf.id, stamp, &record, is_newest) {
                tracing::warn!(%error, "a directory could not be kept for the time when the grid is away");
            }
        });
        let _ = put.await;
    }

    /// The table that was seen last, by this process or one before it.
    ///
    /// # Errors
    /// [`NodeError::OutOfReach`] if none is kept.
    pub(super) async fn last_seen(&self) -> Result<Arc<Table>, NodeError> {
        if let Some(last) = self.newest().as_ref() {
            return Ok(Arc::clone(&last.table));
        }
        let (snapshot, holders) = self.kept().await.ok_or(NodeError::OutOfReach)?;
        if let (Some(file), Some(version)) = (self.file(), &snapshot.version) {
            // Nothing is built on an older version from now on.
            file.saw(Arc::clone(version), holders);
        }
        Ok(Arc::clone(&self.newest().get_or_insert(snapshot).table))
    }

    /// The table that is on the disk, and the tub ids of those who held its shares.
    pub(super) async fn kept(&self) -> Option<(Snapshot, BTreeSet<[u8; 20]>)> {
        let shelf = self.shelf.clone()?;
        let (access, is_mutable) = (self.access.clone(), matches!(self.container, Container::Mutable(_)));
        let read = tokio::task::spawn_blocking(move || {
            let (stamp, record) = shelf.tables.get(&shelf.id)?;
            let (version, holders, content) = unpack_record(record.to_vec().into())?;
            let fits = match &version {
                Some(version) => {
                    is_mutable && (version.header.seqnum, version.header.root_hash) == (stamp.seqnum, stamp.root_hash)
                }
                None => !is_mutable,
            };
            let entries = parse(&content, &access).ok().filter(|_| fits)?;
            Some((Snapshot::new(version.map(Arc::new), content, entries).ok()?, holders))
        });
        read.await.ok().flatten()
    }
}

/// `length of the version (2 bytes) || version || number of holders (1 byte) || their tub ids || content`.
fn pack_record(version: Option<&Version>, holders: &BTreeSet<[u8; 20]>, content: &[u8]) -> Option<Vec<u8>> {
    let version = version.map_or(Some(Vec::new()), |version| version.to_bytes().ok())?;
    let holders: Vec<_> = holders.iter().take(255).collect();
    let mut record = Vec::with_capacity(3 + version.len() + 20 * holders.len() + content.len());
    record.extend_from_slice(&u16::try_from(version.len()).ok()?.to_be_bytes());
    record.extend_from_slice(&version);
    record.push(u8::try_from(holders.len()).ok()?);
    holders.into_iter().for_each(|holder| record.extend_from_slice(holder));
    record.extend_from_slice(content);
    Some(record)
}

type Record = (Option<Version>, BTreeSet<[u8; 20]>, Bytes);

fn unpack_record(record: Bytes) -> Option<Record> {
    let (length, rest) = record.split_first_chunk::<2>()?;
    let (version, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let (count, rest) = rest.split_first()?;
    let (holders, content) = rest.split_at_checked(20 * usize::from(*count))?;
    let version = if version.is_empty() { None } else { Some(Version::parse(version).ok()?) };
    let holders = holders.chunks_exact(20).filter_map(|holder| holder.try_into().ok()).collect();
    Some((version, holders, record.slice_ref(content)))
}
