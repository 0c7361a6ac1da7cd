//! What is written at once: a list of puts and removals that survives as a whole or not at all.

use super::keys::{Keys, NameHash, Place};
use super::records::{DirRecord, EdgeRecord, LinkRecord};

/// Changes of records that are committed together.
#[derive(Default)]
pub struct Batch {
    changes: Vec<Change>,
}

enum Change {
    Dir(u64, Option<DirRecord>),
    Edge(u64, String, Option<Box<EdgeRecord>>),
    RemoveFile(u64),
    Link(String, Option<LinkRecord>),
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Puts the record of a directory, replacing what was there.
    pub fn put_dir(&mut self, id: u64, record: DirRecord) {
        self.changes.push(Change::Dir(id, Some(record)));
    }

    /// Removes the record of a directory, if there is one.
    pub fn remove_dir(&mut self, id: u64) {
        self.changes.push(Change::Dir(id, None));
    }

    /// Puts the record of a name, replacing what was there.
    pub fn put_edge(&mut self, dir: u64, name: &str, record: EdgeRecord) {
        self.changes.push(Change::Edge(dir, name.to_owned(), Some(Box::new(record))));
    }

    /// Removes the record of a name, if there is one.
    pub fn remove_edge(&mut self, dir: u64, name: &str) {
        self.changes.push(Change::Edge(dir, name.to_owned(), None));
    }

    /// Puts the names of a linked file, replacing what was there.
    pub fn put_link(&mut self, record: LinkRecord) {
        self.changes.push(Change::Link(record.id.clone(), Some(record)));
    }

    /// Removes the names of a linked file, if they are there.
    pub fn remove_link(&mut self, id: &str) {
        self.changes.push(Change::Link(id.to_owned(), None));
    }

    /// Removes a file, if it is there. Its content goes on as long as it is open, but no longer survives the process.
    pub fn remove_file(&mut self, id: u64) {
        self.changes.push(Change::RemoveFile(id));
    }

    /// The batch as the database is given it.
    pub(super) fn seal(self, keys: &Keys) -> Vec<Op> {
        let sealed = |change| match change {
            Change::Dir(id, record) => Op::Dir(id, record.map(|r| keys.seal(Place::Dir(id), &r.write()))),
            Change::Edge(dir, name, record) => {
                let hash = keys.name(dir, &name);
                Op::Edge(dir, hash, record.map(|r| keys.seal(Place::Edge(dir, hash), &r.write(&name))))
            }
            Change::RemoveFile(id) => Op::RemoveFile(id),
            Change::Link(id, record) => {
                let hash = keys.link(&id);
                Op::Link(hash, record.map(|r| keys.seal(Place::Link(hash), &r.write())))
            }
        };
        self.changes.into_iter().map(sealed).collect()
    }
}

/// One change of the database; records are sealed, `None` removes.
#[derive(Clone)]
pub(super) enum Op {
    Dir(u64, Option<Vec<u8>>),
    Edge(u64, NameHash, Option<Vec<u8>>),
    CreateFile(u64, Vec<u8>),
    /// The record of a file, and the number of its staging file.
    File(u64, Option<u64>, Vec<u8>),
    /// All of a content that stands in rows.
    Content(u64, Option<Vec<u8>>),
    /// A page of it, by number.
    Page(u64, u64, Vec<u8>),
    RemoveFile(u64),
    Link(NameHash, Option<Vec<u8>>),
    /// Written bytes of a staging file: those of these starts are gone, this range is there.
    Extent(u64, Vec<u64>, (u64, u64)),
    /// The written bytes of a staging file that begin at these starts are gone.
    DropExtents(u64, Vec<u64>),
    /// Nothing is written from this offset on.
    CutExtents(u64, u64),
    /// No record needs this staging file any more.
    Doom(u64),
}
