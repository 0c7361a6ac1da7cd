//! Transactions of the database.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::time::Instant;

use super::JournalError;
use super::batch::Op;
use super::rows::Taken;
use crate::util::crash_point;

/// The one writing connection, and what must be known of its transactions.
pub(super) struct Store {
    conn: Connection,
    path: PathBuf,
    /// Creations of files that failed: they come before whatever is committed next.
    owed: Vec<Op>,
    /// Files that were removed in this run, perhaps while they are open.
    removed: HashSet<u64>,
    /// Staging files that no record needs any more. They go once that survives power loss.
    doomed: Vec<u64>,
    /// What contents take that stand in rows.
    taken: Taken,
    inline_bytes: Arc<AtomicU64>,
    /// Commits of this run, and one for all before it, which may not have been synced either.
    commits: u64,
    /// As many are in the database itself.
    copied: u64,
    last_commit: Instant,
}

/// What a transaction does beside the database, once it is committed.
#[derive(Default)]
struct Effects {
    removed: Vec<u64>,
    doomed: Vec<u64>,
    /// Files, pages or else all, bytes.
    taken: Vec<(u64, Option<u64>, u64)>,
}

impl Store {
    pub fn new(conn: Connection, path: &Path, taken: Taken) -> Store {
        let inline_bytes = Arc::new(AtomicU64::new(taken.sum()));
        Store {
            conn,
            path: path.to_owned(),
            owed: Vec::new(),
            removed: HashSet::new(),
            doomed: Vec::new(),
            taken,
            inline_bytes,
            commits: 1,
            copied: 0,
            last_commit: Instant::now(),
        }
    }

    /// Bytes of contents that stand in rows: counts on while somebody commits.
    pub fn inline_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inline_bytes)
    }

    /// Whether the file was removed in this run.
    pub fn is_removed(&self, file: u64) -> bool {
        self.removed.contains(&file)
    }

    /// The staging files that no record needs any more, although that may not survive power loss yet.
    pub fn doomed(&self) -> &[u64] {
        &self.doomed
    }

    /// Commits what failed before, and says how many commits there have been; more than 0.
    pub fn settle(&mut self) -> Result<u64, JournalError> {
        if !self.owed.is_empty() {
            self.commit([].iter())?;
        }
        Ok(self.commits)
    }

    /// Commits that stand in the log alone.
    pub fn uncopied(&self) -> u64 {
        self.commits - self.copied
    }

    pub fn last_commit(&self) -> Instant {
        self.last_commit
    }

    /// Puts off the creation of a file, which failed.
    pub fn owe(&mut self, op: Op) {
        self.owed.push(op);
    }

    /// The staging files that no record needs any more, by what is committed so far.
    pub fn take_doomed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.doomed)
    }

    /// Commits all these changes or none. They stand in the log, which nobody has synced.
    pub fn commit<'a>(&mut self, ops: impl Iterator<Item = &'a Op>) -> Result<(), JournalError> {
        let done = self.transaction(ops);
        if done.is_err() && !self.conn.is_autocommit() {
            // What cannot be rolled back fails the next transaction too, which says so.
            drop(self.conn.execute_batch("ROLLBACK"));
        }
        let effects = done?;
        self.owed.clear();
        for (id, page, bytes) in effects.taken {
            let (more, less) = match page {
                Some(page) => self.taken.set_page(id, page, bytes),
                None => self.taken.set_whole(id, bytes),
            };
            self.inline_bytes.fetch_add(more, Ordering::Relaxed);
            self.inline_bytes.fetch_sub(less, Ordering::Relaxed);
        }
        self.removed.extend(effects.removed);
        self.doomed.extend(effects.doomed);
        self.commits += 1;
        self.last_commit = Instant::now();
        Ok(())
    }

    fn transaction<'a>(&self, ops: impl Iterator<Item = &'a Op>) -> Result<Effects, JournalError> {
        let err = JournalError::store(&self.path);
        let run = |sql: &str| self.conn.prepare_cached(sql).and_then(|mut s| s.execute([])).map_err(&err);
        let mut effects = Effects::default();
        run("BEGIN IMMEDIATE")?;
        for op in &self.owed {
            self.apply(op, &mut effects)?;
        }
        for op in ops {
            self.apply(op, &mut effects)?;
        }
        crash_point("journal.commit.begun");
        run("COMMIT")?;
        crash_point("journal.commit.done");
        Ok(effects)
    }

    fn apply(&self, op: &Op, effects: &mut Effects) -> Result<(), JournalError> {
        let err = JournalError::store(&self.path);
        let prepare = |sql: &'static str| self.conn.prepare_cached(sql).map_err(&err);
        let is_gone = |effects: &Effects, id: &u64| self.removed.contains(id) || effects.removed.contains(id);
        match op {
            Op::Dir(id, Some(body)) => {
                let sql = "INSERT INTO dirs VALUES (?1, ?2) ON CONFLICT DO UPDATE SET body = excluded.body";
                prepare(sql)?.execute(params![*id as i64, body]).map_err(&err)?;
            }
            Op::Dir(id, None) => {
                prepare("DELETE FROM dirs WHERE id = ?1")?.execute([*id as i64]).map_err(&err)?;
            }
            Op::Edge(dir, name, Some(body)) => {
                let sql = "INSERT INTO edges VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET body = excluded.body";
                prepare(sql)?.execute(params![*dir as i64, name, body]).map_err(&err)?;
            }
            Op::Edge(dir, name, None) => {
                let sql = "DELETE FROM edges WHERE dir = ?1 AND name = ?2";
                prepare(sql)?.execute(params![*dir as i64, name]).map_err(&err)?;
            }
            Op::Link(id, Some(body)) => {
                let sql = "INSERT INTO links VALUES (?1, ?2) ON CONFLICT DO UPDATE SET body = excluded.body";
                prepare(sql)?.execute(params![id, body]).map_err(&err)?;
            }
            Op::Link(id, None) => {
                prepare("DELETE FROM links WHERE id = ?1")?.execute(params![id]).map_err(&err)?;
            }
            Op::CreateFile(id, body) => {
                let sql = "INSERT INTO files VALUES (?1, NULL, ?2)";
                prepare(sql)?.execute(params![*id as i64, body]).map_err(&err)?;
            }
            Op::File(id, staging, body) => {
                let sql = "UPDATE files SET staging = ?2, body = ?3 WHERE id = ?1";
                let params = params![*id as i64, staging.map(|n| n as i64), body];
                if prepare(sql)?.execute(params).map_err(&err)? == 0 && !is_gone(effects, id) {
                    return Err(JournalError::NoSuchFile(*id));
                }
            }
            Op::Content(id, Some(body)) => {
                let sql = "INSERT INTO contents SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM files WHERE id = ?1)
                     ON CONFLICT DO UPDATE SET body = excluded.body";
                let rows = prepare(sql)?.execute(params![*id as i64, body]).map_err(&err)?;
                prepare("DELETE FROM pages WHERE file = ?1")?.execute([*id as i64]).map_err(&err)?;
                if rows > 0 {
                    effects.taken.push((*id, None, body.len() as u64));
                } else if !is_gone(effects, id) {
                    return Err(JournalError::NoSuchFile(*id));
                }
            }
            Op::Content(id, None) => self.remove_content(*id, effects)?,
            Op::Page(id, page, body) => {
                let sql = "INSERT INTO pages SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM files WHERE id = ?1)
                     ON CONFLICT DO UPDATE SET body = excluded.body";
                let rows = prepare(sql)?.execute(params![*id as i64, *page as i64, body]).map_err(&err)?;
                if rows > 0 {
                    effects.taken.push((*id, Some(*page), body.len() as u64));
                } else if !is_gone(effects, id) {
                    return Err(JournalError::NoSuchFile(*id));
                }
            }
            Op::RemoveFile(id) => {
                let mut remove = prepare("DELETE FROM files WHERE id = ?1 RETURNING staging")?;
                let staging: Option<Option<i64>> =
                    remove.query_row([*id as i64], |row| row.get(0)).optional().map_err(&err)?;
                effects.doomed.extend(staging.flatten().map(|n| n as u64));
                prepare("DELETE FROM extents WHERE file = ?1")?.execute([*id as i64]).map_err(&err)?;
                self.remove_content(*id, effects)?;
                effects.removed.push(*id);
            }
            Op::Extent(file, gone, (start, end)) => {
                for old in gone.iter().filter(|old| *old != start) {
                    let sql = "DELETE FROM extents WHERE file = ?1 AND start = ?2";
                    prepare(sql)?.execute([*file as i64, *old as i64]).map_err(&err)?;
                }
                let sql = "INSERT INTO extents SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM files WHERE id = ?1)
                     ON CONFLICT DO UPDATE SET end = excluded.end";
                let rows = prepare(sql)?.execute([*file as i64, *start as i64, *end as i64]).map_err(&err)?;
                if rows == 0 && !is_gone(effects, file) {
                    return Err(JournalError::NoSuchFile(*file));
                }
            }
            Op::DropExtents(file, gone) => {
                for start in gone {
                    let sql = "DELETE FROM extents WHERE file = ?1 AND start = ?2";
                    prepare(sql)?.execute([*file as i64, *start as i64]).map_err(&err)?;
                }
            }
            Op::CutExtents(file, size) => {
                let cut = [*file as i64, *size as i64];
                prepare("DELETE FROM extents WHERE file = ?1 AND start >= ?2")?.execute(cut).map_err(&err)?;
                let sql = "UPDATE extents SET end = ?2 WHERE file = ?1 AND end > ?2";
                prepare(sql)?.execute(cut).map_err(&err)?;
            }
            Op::Doom(number) => effects.doomed.push(*number),
        }
        Ok(())
    }

    fn remove_content(&self, id: u64, effects: &mut Effects) -> Result<(), JournalError> {
        for sql in ["DELETE FROM contents WHERE id = ?1", "DELETE FROM pages WHERE file = ?1"] {
            let removed = self.conn.prepare_cached(sql).and_then(|mut remove| remove.execute([id as i64]));
            removed.map_err(JournalError::store(&self.path))?;
        }
        effects.taken.push((id, None, 0));
        Ok(())
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> Result<bool, JournalError> {
        let any = "SELECT EXISTS (SELECT 1 FROM files) OR EXISTS (SELECT 1 FROM edges) OR EXISTS (SELECT 1 FROM dirs)
             OR EXISTS (SELECT 1 FROM contents) OR EXISTS (SELECT 1 FROM pages) OR EXISTS (SELECT 1 FROM extents)
             OR EXISTS (SELECT 1 FROM links)";
        let any = self.conn.query_row(any, [], |row| row.get::<_, bool>(0));
        any.map(|any| !any).map_err(JournalError::store(&self.path))
    }

    /// Gives the disk back what an empty database takes. Nobody commits or reads meanwhile.
    pub fn shrink(&mut self) -> Result<(), JournalError> {
        self.vacuum()?;
        self.copy_log()
    }

    fn vacuum(&mut self) -> Result<(), JournalError> {
        self.conn.execute_batch("VACUUM").map_err(JournalError::store(&self.path))?;
        self.commits += 1;
        Ok(())
    }

    /// Copies the log into the database and syncs it. What is committed next overwrites the log from its start: a log
    /// that keeps its length is synced faster than one that grows. Nobody commits meanwhile.
    pub fn copy_log(&mut self) -> Result<(), JournalError> {
        self.checkpoint("RESTART")
    }

    fn checkpoint(&mut self, kind: &str) -> Result<(), JournalError> {
        match checkpoint(&self.conn, kind).map_err(JournalError::store(&self.path))? {
            true => {
                self.copied = self.commits;
                Ok(())
            }
            false => Err(JournalError::Store { path: self.path.clone(), why: "its log is in use".into() }),
        }
    }

    /// Empties the log, and gives the disk back what the database takes if it is empty: the last thing of a mount.
    pub fn finish(&mut self) -> Result<(), JournalError> {
        if self.is_empty()? {
            self.vacuum()?;
        }
        self.checkpoint("TRUNCATE")
    }
}

/// Runs a checkpoint of this kind, and says whether nobody kept it from copying all.
pub(super) fn checkpoint(conn: &Connection, kind: &str) -> rusqlite::Result<bool> {
    let (busy, frames, copied): (i64, i64, i64) =
        conn.query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    Ok(busy == 0 && frames == copied)
}
