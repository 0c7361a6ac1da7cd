//! What stands in the folder: unreadable without the key, and told when somebody has changed it.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tahoefs::crypto::JournalKey;
use tahoefs::journal::*;

use super::{KEY, bytes, cx, edge, open};

const SMALL: &[u8] = b"the small content of a file, in clear";

/// A folder with records of each kind, closed.
async fn filled(folder: &Path) {
    let (journal, _) = open(folder);
    let (small, large) = (journal.create_file(None).unwrap(), journal.create_file(None).unwrap());
    small.write(0, Bytes::from_static(SMALL)).await.unwrap();
    large.write(0, Bytes::from(SMALL.repeat(5000))).await.unwrap();
    for i in 0..200 {
        let mut batch = Batch::new();
        batch.put_dir(i, DirRecord { cap: Some("URI:DIR2:in-clear".into()), unproven: None, home: None, parent: None });
        batch.put_edge(i, "a name, in clear", edge(WantedTarget::File(small.id().unwrap()), i));
        journal.commit(batch).await.unwrap();
    }
    drop((small, large, journal));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn nothing_stands_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    // Open again, so that a log is there too.
    let (journal, replay) = open(folder.path());
    let mut batch = Batch::new();
    batch.put_edge(1, "another name", edge(WantedTarget::Cap("URI:CHK:in-the-log".into()), 1));
    journal.commit(batch).await.unwrap();
    let found = files(folder.path());
    assert!(found.len() >= 5, "{found:?}");
    for path in found {
        let content = fs::read(&path).unwrap();
        for secret in ["URI:", "in clear", "another name", "linkmotime", "elsewhere"] {
            let is_there = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret:?} stands in {}", path.display());
        }
    }
    assert!(!format!("{replay:?}").contains("in-clear"));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_second_opener_a_wrong_key_and_another_version_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let key = JournalKey::new(KEY);
    let again = Journal::open(folder.path(), &key, JournalOptions::default()).err().unwrap();
    assert!(matches!(again, JournalError::Locked(_)) && again.to_string().contains("another mount drains"), "{again}");
    drop(journal);

    filled(folder.path()).await;
    let wrong = Journal::open(folder.path(), &JournalKey::new([8; 32]), JournalOptions::default()).err().unwrap();
    assert!(matches!(wrong, JournalError::WrongKey(_)), "{wrong}");

    let database = folder.path().join("journal.db");
    let mut content = fs::read(&database).unwrap();
    // The user version stands at byte 60 of the header, the application at 68.
    content[63] += 1;
    fs::write(&database, &content).unwrap();
    let newer = Journal::open(folder.path(), &key, JournalOptions::default()).err().unwrap();
    assert!(matches!(newer, JournalError::Version { found: 4, .. }), "{newer}");
    content[68] += 1;
    fs::write(&database, &content).unwrap();
    let foreign = Journal::open(folder.path(), &key, JournalOptions::default()).err().unwrap();
    assert!(matches!(foreign, JournalError::Version { found: 0, .. }), "{foreign}");

    for content in [&[][..], &b"no database at all".repeat(1000)] {
        fs::write(&database, content).unwrap();
        let damaged = Journal::open(folder.path(), &key, JournalOptions::default()).err().unwrap();
        assert!(matches!(damaged, JournalError::Damaged { .. }), "{damaged}");
        assert!(damaged.to_string().contains("journal.db"), "{damaged}");
    }
    fs::remove_file(&database).unwrap();
    assert!(Journal::open(folder.path(), &key, JournalOptions::default()).is_err());
    assert_eq!(fs::read_dir(folder.path().join("staging")).unwrap().count(), 1, "nothing was deleted");
}

#[tokio::test]
async fn a_journal_of_the_first_version_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let file = journal.create_file(None).unwrap();
    file.write(0, Bytes::from(bytes(1, 50_000))).await.unwrap();
    drop((file, journal));
    let database = rusqlite::Connection::open(folder.path().join("journal.db")).unwrap();
    database.execute_batch("DROP TABLE pages; DROP TABLE links; PRAGMA user_version = 1").unwrap();
    drop(database);

    let (journal, replay) = open(folder.path());
    let file = journal.reopen_file(&replay.files[0], None).unwrap();
    file.write(30_000, Bytes::from_static(b"new")).await.unwrap();
    drop((file, journal));
    let (journal, replay) = open(folder.path());
    let file = journal.reopen_file(&replay.files[0], None).unwrap();
    let mut wanted = bytes(1, 50_000);
    wanted[30_000..30_003].copy_from_slice(b"new");
    assert!(file.read(&cx(), 0..50_000).await.unwrap() == wanted);
}

/// Wherever the database is garbled or cut: an error or a count, never a panic, and no record that is another.
#[tokio::test]
async fn a_garbled_database_is_told_and_the_rest_is_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let whole = fs::read(folder.path().join("journal.db")).unwrap();
    let (_, all) = open(folder.path());
    let (mut handed_out, mut told) = (0, 0);
    for round in 0..60usize {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("staging")).unwrap();
        for entry in fs::read_dir(folder.path().join("staging")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join("staging").join(entry.file_name())).unwrap();
        }
        let mut content = whole.clone();
        let at = round * 7919 * 13 % content.len();
        if round % 3 == 0 {
            content.truncate(at);
        } else {
            let end = (at + 200).min(content.len());
            bytes(round as u64, end - at).iter().zip(&mut content[at..end]).for_each(|(new, old)| *old = *new);
        }
        fs::write(copy.path().join("journal.db"), content).unwrap();
        fs::copy(folder.path().join("lock"), copy.path().join("lock")).unwrap();
        match Journal::open(copy.path(), &JournalKey::new(KEY), JournalOptions::default()) {
            Err(error) => {
                told += 1;
                assert!(error.to_string().contains("journal.db"), "{error}");
            }
            Ok((journal, replay)) => {
                told += usize::from(replay.damaged > 0);
                handed_out += usize::from(replay.damaged > 0 && !replay.edges.is_empty());
                for (dir, record) in &replay.dirs {
                    assert_eq!(record, &all.dirs.iter().find(|(id, _)| id == dir).unwrap().1);
                }
                for record in &replay.files {
                    let file = journal.reopen_file(record, None).unwrap();
                    let read = file.read(&cx(), 0..u64::MAX).await;
                    assert!(read.is_err() || read.unwrap().starts_with(SMALL));
                }
                assert!(replay.damaged == 0 || fs::read_dir(copy.path().join("staging")).unwrap().count() == 1);
            }
        }
    }
    assert!(told >= 30, "only {told} of 60 were noticed");
    assert!(handed_out >= 5, "only {handed_out} times something was handed out");
}

#[tokio::test]
async fn a_staging_file_that_is_cut_or_gone_is_told() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let staging = files(&folder.path().join("staging")).pop().unwrap();
    fs::OpenOptions::new().write(true).open(&staging).unwrap().set_len(8192).unwrap();
    let (journal, replay) = open(folder.path());
    let record = replay.files.iter().find(|file| file.size > 100_000).unwrap();
    let file = journal.reopen_file(record, None).unwrap();
    assert!(file.read(&cx(), 0..8192).await.unwrap().starts_with(SMALL));
    assert!(file.read(&cx(), 8000..9000).await.is_err());
    drop((file, journal));
    fs::remove_file(&staging).unwrap();
    let (_, replay) = open(folder.path());
    assert_eq!((replay.damaged, replay.files.len()), (1, 1));
}

#[tokio::test]
async fn staging_files_without_a_record_go_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let stray = folder.path().join("staging/123456789");
    fs::write(&stray, b"left behind").unwrap();
    let (journal, _) = open(folder.path());
    assert!(!stray.exists());
    assert!(journal.next_id() > 123_456_789);
    assert_eq!(files(&folder.path().join("staging")).len(), 1);
}
