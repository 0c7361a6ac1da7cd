//! The database file: how it is opened, what tables it has, and how a foreign one is told.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::JournalError;
use super::keys::{Keys, Place};

/// The format of the database.
pub(super) const VERSION: i64 = 3;
/// "tfsj", in the header of the file.
const APPLICATION: i64 = 0x7466_736a;
/// What the record holds that tells whether a key is the right one.
const CHECK: &[u8] = b"tahoefs journal";
/// Ids that one run may give out.
const IDS_OF_A_RUN: i64 = 1 << 40;

/// Key columns are local ids and keyed hashes of names; bodies are sealed. `extents` and `counters` are as they are.
const TABLES: &str = "
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE checks (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE dirs (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE edges (dir INTEGER NOT NULL, name BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (dir, name));
    CREATE TABLE files (id INTEGER PRIMARY KEY, staging INTEGER, body BLOB NOT NULL);
    CREATE TABLE contents (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE extents (file INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
        PRIMARY KEY (file, start)) WITHOUT ROWID;
";
/// What version 1 does not have. Version 3 differs by what records of files may say.
const PAGES: &str = "
    CREATE TABLE IF NOT EXISTS pages (file INTEGER NOT NULL, page INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (file, page));
";

/// What version 2 does not have: the names of linked files, by a keyed hash of their ids. These are kept when nothing else is.
const LINKS: &str = "
    CREATE TABLE links (id BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
";

/// Opens the database at `path`, which must be this version's or an older one, which it then no longer is. Without `made` one that is empty becomes a new journal.
pub(super) fn open(path: &Path, keys: &Keys, made: bool) -> Result<Connection, JournalError> {
    let create = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    if let Err(error) = create
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(JournalError::io(path)(error));
    }
    let mut conn = connect(path)?;
    let err = JournalError::store(path);
    let number = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id").map_err(&err)?;
    let version = number("PRAGMA user_version").map_err(&err)?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(&err)?;
    if tables == 0 && made {
        return Err(JournalError::Damaged { path: path.to_owned(), why: "it is empty, but it was not".into() });
    }
    let is_new = tables == 0 && application == 0 && version == 0;
    if !is_new && (application != APPLICATION || !(1..=VERSION).contains(&version)) {
        let found = if application == APPLICATION { version } else { 0 };
        return Err(JournalError::Version { path: path.to_owned(), found });
    }
    tune(&conn).map_err(&err)?;
    if is_new || version < VERSION {
        conn.pragma_update(None, "synchronous", "FULL").map_err(&err)?;
        let make = conn.transaction().and_then(|tx| {
            if is_new {
                tx.execute_batch(TABLES)?;
                tx.execute("INSERT INTO checks VALUES (0, ?1)", [keys.seal(Place::Check, CHECK)])?;
            }
            if version < 2 {
                tx.execute_batch(PAGES)?;
            }
            tx.execute_batch(LINKS)?;
            tx.pragma_update(None, "application_id", APPLICATION)?;
            tx.pragma_update(None, "user_version", VERSION)?;
            tx.commit()
        });
        make.map_err(&err)?;
        conn.pragma_update(None, "synchronous", "NORMAL").map_err(&err)?;
    }
    Ok(conn)
}

/// A further connection to a database that is open.
pub(super) fn connect(path: &Path) -> Result<Connection, JournalError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(JournalError::store(path))?;
    conn.busy_timeout(Duration::from_secs(10)).map_err(JournalError::store(path))?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// A commit is a write to the log without a sync; the log is copied into the database when the journal says so, and
/// keeps so much of its length.
fn tune(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    conn.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    conn.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 16777216; PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -8192; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
    )
}

/// Whether the records are sealed under another key. One damaged record does not make a wrong key.
pub(super) fn is_foreign(conn: &Connection, keys: &Keys) -> bool {
    let check = || conn.query_row("SELECT body FROM checks", [], |row| row.get::<_, Vec<u8>>(0)).optional();
    if let Ok(Some(body)) = check()
        && keys.open(Place::Check, &body).is_some()
    {
        return false;
    }
    let any = |sql: &str, place: &dyn Fn(u64) -> Place| {
        let opens = |conn: &Connection| -> rusqlite::Result<bool> {
            let mut statement = conn.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (id, body) = (row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?);
                if keys.open(place(id), &body).is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        opens(conn).unwrap_or(false)
    };
    !any("SELECT id, body FROM dirs", &Place::Dir) && !any("SELECT id, body FROM files", &Place::File)
}

/// The first id of this run. It and what follows were never given out before, and never are again.
pub(super) fn reserve_ids(conn: &Connection, highest_file: u64) -> rusqlite::Result<u64> {
    conn.execute_batch("PRAGMA synchronous = FULL")?;
    let kept: Option<i64> =
        conn.query_row("SELECT value FROM counters WHERE name = 'ids'", [], |row| row.get(0)).optional()?;
    let used = ["SELECT max(id) FROM dirs", "SELECT max(id) FROM files", "SELECT max(staging) FROM files"]
        .iter()
        .filter_map(|sql| conn.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).ok().flatten())
        .max();
    let highest = used.unwrap_or(0).max(highest_file.min(i64::MAX as u64 / 2) as i64);
    let first = kept.unwrap_or(0).max(highest.saturating_add(1)).max(1);
    let next = first.saturating_add(IDS_OF_A_RUN);
    conn.execute("INSERT INTO counters VALUES ('ids', ?1) ON CONFLICT DO UPDATE SET value = excluded.value", [next])?;
    conn.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(first as u64)
}
