//! What a journal holds that no mount has open, without its key and without a change to it.

use std::fs::{File, TryLockError};
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::JournalError;

/// What a mount has left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// Names whose wanted state may not be published.
    pub changes: u64,
    /// Contents that may not be stored.
    pub files: u64,
}

/// What the journal in `folder` holds for the next mount; `None` where there is none, or somebody has it open.
///
/// # Errors
/// It cannot be read.
pub fn left_behind(folder: &Path) -> Result<Option<LeftBehind>, JournalError> {
    let (lock, database) = (folder.join("lock"), folder.join("journal.db"));
    if !database.exists() {
        return Ok(None);
    }
    let lock_file = match File::open(&lock) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(JournalError::io(&lock)(error)),
    };
    match lock_file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(JournalError::io(&lock)(error)),
    }
    let count = || -> rusqlite::Result<LeftBehind> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&database, flags)?;
        // The log is copied into the database, in its order with the contents, by who has the key.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let count = |table: &str| {
            conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
        };
        Ok(LeftBehind { changes: count("edges")?, files: count("files")? })
    };
    count().map(Some).map_err(JournalError::store(&database))
}
