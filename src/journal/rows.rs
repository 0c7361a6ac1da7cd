//! Contents that stand in rows: one row of all as it was when it was last written whole, and pages of what was written
//! since, so that a small write costs what it writes.

use std::collections::HashMap;
use std::ops::Range;

use rusqlite::{Connection, params};

use super::batch::Op;
use super::keys::{Keys, Place};

/// Content whose last written byte lies further on does not stand in rows.
pub(super) const LIMIT: u64 = 64 << 10;
/// Bytes of a page. A page may be shorter: what lies behind reads as zeros.
pub(super) const PAGE: usize = 4096;

/// Writes `data` to `range` of `content`, that of the file `id`, and hands back what puts it into the rows.
pub(super) fn write(keys: &Keys, id: u64, content: &mut Vec<u8>, range: &Range<u64>, data: &[u8]) -> Vec<Op> {
    let is_new = content.is_empty();
    let (start, end) = (range.start as usize, range.end as usize);
    content.resize(content.len().max(end), 0);
    content[start..end].copy_from_slice(data);
    let pages = start / PAGE..end.div_ceil(PAGE);
    if is_new || pages.len() * 2 >= content.len().div_ceil(PAGE) {
        return vec![whole(keys, id, content)];
    }
    let page = |page: usize| {
        let bytes = &content[page * PAGE..content.len().min((page + 1) * PAGE)];
        Op::Page(id, page as u64, keys.seal(Place::Page(id, page as u64), bytes))
    };
    pages.map(page).collect()
}

/// What makes `content` all of the file `id`.
pub(super) fn whole(keys: &Keys, id: u64, content: &[u8]) -> Op {
    Op::Content(id, Some(keys.seal(Place::Content(id), content)))
}

/// The content of the file `id`; `None` if something of it does not verify.
pub(super) fn read(conn: &Connection, keys: &Keys, id: u64) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut select = conn.prepare_cached("SELECT body FROM contents WHERE id = ?1")?;
    let sealed: Vec<u8> = select.query_row([id as i64], |row| row.get(0))?;
    let Some(mut content) = keys.open(Place::Content(id), &sealed).map(|content| content.to_vec()) else {
        return Ok(None);
    };
    let mut select = conn.prepare_cached("SELECT page, body FROM pages WHERE file = ?1 ORDER BY page")?;
    let mut rows = select.query(params![id as i64])?;
    while let Some(row) = rows.next()? {
        let (page, sealed) = (row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?);
        let Some(bytes) = keys.open(Place::Page(id, page), &sealed) else { return Ok(None) };
        let start = page as usize * PAGE;
        content.resize(content.len().max(start + bytes.len()), 0);
        content[start..start + bytes.len()].copy_from_slice(&bytes);
    }
    Ok(Some(content))
}

/// Bytes that the rows of contents take.
#[derive(Default)]
pub(super) struct Taken {
    /// Of each file the row of all, then its pages.
    rows: HashMap<u64, Vec<u64>>,
}

impl Taken {
    /// A row of all takes so much; pages are gone with it. Returns what this adds and what it takes away.
    pub fn set_whole(&mut self, id: u64, bytes: u64) -> (u64, u64) {
        let old = if bytes == 0 { self.rows.remove(&id) } else { self.rows.insert(id, vec![bytes]) };
        (bytes, old.map_or(0, |rows| rows.iter().sum()))
    }

    /// A page takes so much. Returns what this adds and what it takes away.
    pub fn set_page(&mut self, id: u64, page: u64, bytes: u64) -> (u64, u64) {
        let rows = self.rows.entry(id).or_default();
        let at = page as usize + 1;
        rows.resize(rows.len().max(at + 1), 0);
        (bytes, std::mem::replace(&mut rows[at], bytes))
    }

    /// Whether there are rows of this file.
    pub fn has(&self, id: u64) -> bool {
        self.rows.contains_key(&id)
    }

    /// What all of them take.
    pub fn sum(&self) -> u64 {
        self.rows.values().flatten().sum()
    }
}
