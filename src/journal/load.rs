//! Replay: what the journal holds when it is opened.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row};

use super::extents::Extents;
use super::keys::{Keys, NameHash, Place};
use super::records::{DirRecord, EdgeRecord, FileBody, LinkRecord, LinkedIn};
use super::rows::{LIMIT, PAGE, Taken};

/// What the journal held when it was opened.
#[derive(Debug, Default)]
pub struct Replay {
    /// Directories by id.
    pub dirs: Vec<(u64, DirRecord)>,
    /// Names whose wanted state is not published: the directory, the name, the record.
    pub edges: Vec<(u64, String, EdgeRecord)>,
    /// Files by ascending id.
    pub files: Vec<FileRecord>,
    /// Directories that have no cap, and the birth ids of linked files whose records name them.
    pub linked_in: Vec<(u64, String)>,
    /// Records, tables and staging files that could not be read. What stands in them is not in the lists; it was left
    /// on the disk.
    pub damaged: usize,
    /// The directories, by id, of names whose records could not be read.
    pub damaged_in: Vec<u64>,
}

/// A file of the journal, to be opened with [`super::Journal::reopen_file`].
pub struct FileRecord {
    /// Its id.
    pub id: u64,
    /// Its bytes.
    pub size: u64,
    /// The cap of the stored file that it began as, while bytes of that show.
    pub base: Option<String>,
    /// A file of the journal that has the content of the base, which counts as long as it is there.
    pub over: Option<u64>,
    /// What [`super::Staged::note_stored`] was told of exactly this content.
    pub stored: Option<String>,
    /// The content belongs into the file it began as, which is mutable.
    pub in_place: bool,
    pub(super) body: FileBody,
    pub(super) written: Extents,
}

impl fmt::Debug for FileRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("FileRecord");
        out.field("id", &self.id).field("size", &self.size);
        out.field("has_base", &self.base.is_some()).field("is_stored", &self.stored.is_some()).finish()
    }
}

/// Reads all records. Also hands back what contents take.
pub(super) fn load(conn: &Connection, keys: &Keys, staging: &Path) -> (Replay, Taken) {
    let mut replay = Replay::default();
    let mut damaged = 0;

    damaged += each(conn, "SELECT id, body FROM dirs", |row| {
        let (id, body) = (row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?);
        let record = keys.open(Place::Dir(id), &body).and_then(|json| DirRecord::read(&json));
        Ok(record.map(|record| replay.dirs.push((id, record))).is_some())
    });
    damaged += each(conn, "SELECT dir, name, body FROM edges ORDER BY dir, name", |row| {
        let (dir, hash) = (row.get::<_, i64>(0)? as u64, row.get::<_, NameHash>(1)?);
        let body: Vec<u8> = row.get(2)?;
        let record = keys.open(Place::Edge(dir, hash), &body).and_then(|json| EdgeRecord::read(&json));
        let Some((name, record)) = record else {
            replay.damaged_in.push(dir);
            return Ok(false);
        };
        replay.edges.push((dir, name, record));
        Ok(true)
    });
    if replay.dirs.iter().any(|(_, record)| record.cap.is_none()) {
        damaged += each(conn, "SELECT id, body FROM links", |row| {
            let (id, body) = (row.get::<_, NameHash>(0)?, row.get::<_, Vec<u8>>(1)?);
            let record = keys.open(Place::Link(id), &body).and_then(|json| LinkRecord::read(&json));
            let Some(LinkRecord { id, names, .. }) = record else { return Ok(false) };
            let local = names.iter().filter_map(|(dir, _)| match dir {
                LinkedIn::Directory(dir) => Some((*dir, id.clone())),
                LinkedIn::Cap(_) => None,
            });
            replay.linked_in.extend(local);
            Ok(true)
        });
    }
    let mut taken = Taken::default();
    damaged += each(conn, "SELECT id, length(body) FROM contents", |row| {
        taken.set_whole(row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64);
        Ok(true)
    });
    damaged += each(conn, "SELECT file, page, length(body) FROM pages", |row| {
        let (file, page, bytes) = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)?);
        let is_known = taken.has(file as u64) && page < LIMIT / PAGE as u64;
        if is_known {
            taken.set_page(file as u64, page, bytes as u64);
        }
        Ok(is_known)
    });
    let mut extents: HashMap<u64, Extents> = HashMap::new();
    damaged += each(conn, "SELECT file, start, end FROM extents", |row| {
        let (file, start, end) = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
        if start < 0 || end <= start {
            return Ok(false);
        }
        extents.entry(file as u64).or_default().insert(start as u64..end as u64);
        Ok(true)
    });
    damaged += each(conn, "SELECT id, body FROM files ORDER BY id", |row| {
        let (id, body) = (row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?);
        let Some(body) = keys.open(Place::File(id), &body).and_then(|json| FileBody::read(&json)) else {
            return Ok(false);
        };
        let written = match body.staging {
            Some(_) => extents.remove(&id).unwrap_or_default(),
            None => Extents::of(&body.written),
        };
        let has_content = match body.staging {
            Some(number) => fs::metadata(staging.join(number.to_string())).is_ok(),
            None => written.len() == 0 || taken.has(id),
        };
        if written.end() > body.size || !has_content {
            return Ok(false);
        }
        let base = body.base.as_ref().filter(|base| body.in_place || base.shows > 0);
        let (base, over) = (base.map(|base| base.cap.clone()), base.and_then(|base| base.over));
        let (size, stored, in_place) = (body.size, body.stored.clone(), body.in_place);
        replay.files.push(FileRecord { id, size, base, over, stored, in_place, body, written });
        Ok(true)
    });
    replay.damaged = damaged;
    (replay, taken)
}

/// The linked files that have a record.
pub(super) fn linked(conn: &Connection) -> rusqlite::Result<HashSet<NameHash>> {
    let mut statement = conn.prepare("SELECT id FROM links")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// The record of a linked file.
pub(super) fn link(conn: &Connection, id: &NameHash) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut select = conn.prepare_cached("SELECT body FROM links WHERE id = ?1")?;
    select.query_row([id], |row| row.get(0)).optional()
}

/// Shows each row to `read`, and counts those that it cannot use; a table that cannot be read to its end counts as one.
fn each(conn: &Connection, sql: &str, mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>) -> usize {
    let mut damaged = 0;
    let mut run = || -> rusqlite::Result<()> {
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            damaged += usize::from(!read(row).unwrap_or(false));
        }
        Ok(())
    };
    let ended = run().is_ok();
    damaged + usize::from(!ended)
}
