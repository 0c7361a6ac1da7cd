//! What comes after power loss, and after damage to the journal.

use std::path::Path;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use tahoefs::node::FileType;
use tahoefs::writeback::Scope;

use super::mutable::with_file;
use super::*;

async fn put(fs: &Filesystem, ino: Ino, offset: u64, data: &[u8]) {
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, offset, Bytes::copy_from_slice(data)).await.unwrap();
    fs.release(handle);
}

async fn rename(fs: &Filesystem, from: &str, to: &str) {
    fs.mv(ROOT, from.as_bytes(), ROOT, to.as_bytes(), RenameMode::Replace).await.unwrap();
}

/// Stores and publishes everything, without the barrier.
async fn publish(fs: &Filesystem) {
    fs.writeback().settle(Scope::All).await.unwrap();
}

async fn content(fs: &Filesystem, name: &str) -> Option<Vec<u8>> {
    let ino = fs.lookup(ROOT, name.as_bytes()).await.ok()?.ino;
    Some(read(fs, ino).await)
}

fn sql(journal: &Path, statement: &str) {
    Connection::open(journal.join("journal.db")).unwrap().execute_batch(statement).unwrap();
}

/// What is done to a file whose shares are not synced, and what it holds then.
#[tokio::test]
async fn what_was_stored_a_moment_ago_outlives_the_power_whatever_is_done_to_it() {
    for (change, seed) in (0..5).flat_map(|change| (0..6).map(move |seed| (change, seed))) {
        let ground = Ground::new();
        ground.grid.sync();
        let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
        let fs = ground.mount_with(journal.path(), Durability::Local).await;
        let whole = [&[7; 100_000][..], b"end"].concat();
        write(&fs, ROOT, "f", &whole).await;
        write(&fs, ROOT, "twin", &whole).await;
        publish(&fs).await;
        let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
        let (mut name, mut wanted) = ("f", whole.clone());
        match change {
            0 => drop(fs.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap()),
            1 => {
                rename(&fs, "f", "g").await;
                name = "g";
            }
            2 => {
                put(&fs, ino, whole.len() as u64, b" more").await;
                wanted = [&whole[..], b" more"].concat();
            }
            3 => {
                rename(&fs, "f", "twin").await;
                name = "twin";
            }
            _ => {
                // Over one that is stored itself, without a barrier still.
                put(&fs, ino, 0, b"once").await;
                publish(&fs).await;
                put(&fs, ino, 4, b"twice").await;
                wanted[..9].copy_from_slice(b"oncetwice");
            }
        }
        drop(fs);
        ground.grid.lose_power(seed);
        for round in 0..2 {
            let fs = ground.mount_with(journal.path(), Durability::Local).await;
            assert!(content(&fs, name).await == Some(wanted.clone()), "change {change}, seed {seed}, round {round}");
            assert!(name == "twin" || content(&fs, "twin").await == Some(whole.clone()));
            fs.settle().await.unwrap();
        }
        let fs = ground.mount().await;
        assert!(content(&fs, name).await == Some(wanted), "change {change}, seed {seed}, on the grid");
    }
}

/// What an earlier process has published is this one's own, once it has been found on the grid.
#[tokio::test]
async fn what_was_published_before_a_crash_is_changed_without_a_conflict() {
    let ground = Ground::new();
    let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    fs.mknod(ROOT, b"f", FileType::File, 0o644, 0, ME).await.unwrap();
    publish(&fs).await;
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    // Seen while the record of it is pending, and changed when that is gone.
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    fs.settle().await.unwrap();
    put(&fs, ino, 0, &[2; 1000]).await;
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["f"]);
    assert!(content(&fs, "f").await == Some(vec![2; 1000]));
}

/// What a file goes on as may have come into the journal after it.
#[tokio::test]
async fn a_copy_into_an_older_file_outlives_the_power() {
    for seed in 0..6 {
        let ground = Ground::new();
        ground.grid.sync();
        let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
        let fs = ground.mount_with(journal.path(), Durability::Local).await;
        let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
        let (to, target) = fs.create(ROOT, b"to", 0o644, ME, WRITE).await.unwrap();
        let from = write(&fs, d, "from", &[7; 200_000]).await;
        fs.writeback().settle(fs.scope(Path::new("d")).await.unwrap()).await.unwrap();
        let source = fs.open(from, READ).await.unwrap();
        let (from, to) =
            (Place { ino: from, handle: source, offset: 0 }, Place { ino: to.ino, handle: target, offset: 0 });
        assert_eq!(fs.copy_range(from, to, 200_000).await, Ok(200_000));
        fs.release(source);
        fs.release(target);
        fs.rm(d, b"from").await.unwrap();
        fs.writeback().settle(fs.scope(Path::new("d")).await.unwrap()).await.unwrap();
        drop(fs);
        ground.grid.lose_power(seed);
        let fs = ground.mount_with(journal.path(), Durability::Local).await;
        assert!(content(&fs, "to").await == Some(vec![7; 200_000]), "seed {seed}");
        fs.settle().await.unwrap();
        let fs = ground.mount().await;
        assert!(content(&fs, "to").await == Some(vec![7; 200_000]), "seed {seed}, on the grid");
    }
}

#[tokio::test]
async fn what_was_stored_in_a_mutable_file_outlives_the_power() {
    for seed in 0..8 {
        let (ground, cap) = with_file(&["f"], &[1; 100]);
        ground.grid.sync();
        let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
        let fs = ground.mount_with(journal.path(), Durability::Local).await;
        let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
        put(&fs, ino, 10, b"once").await;
        publish(&fs).await;
        put(&fs, ino, 12, b"twice").await;
        publish(&fs).await;
        if seed % 2 == 0 {
            put(&fs, ino, 100, b"more").await;
        }
        drop(fs);
        ground.grid.lose_power(seed);
        let fs = ground.mount_with(journal.path(), Durability::Local).await;
        let more: &[u8] = if seed % 2 == 0 { b"more" } else { b"" };
        let wanted = [&[1; 10][..], b"ontwice", &[1; 83], more].concat();
        assert_eq!(content(&fs, "f").await.unwrap(), wanted, "seed {seed}");
        fs.settle().await.unwrap();
        assert_eq!(content(&fs, "f").await.unwrap(), wanted, "seed {seed}, stored");
        assert_eq!(ground.grid.content(&cap), wanted, "seed {seed}, on the grid");
        drop(fs);
        assert_eq!(open_journal(journal.path()).await.1.files.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mutable_file_that_is_written_and_renamed_keeps_a_name() {
    for with_barrier in [false, true] {
        let (ground, _) = with_file(&["f"], &[1; 100]);
        let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
        let fs = ground.mount_with(journal.path(), Durability::Local).await;
        put(&fs, fs.lookup(ROOT, b"f").await.unwrap().ino, 0, b"new").await;
        rename(&fs, "f", "g").await;
        // The content is stored, the directory is not yet looked at.
        let writeback = Arc::clone(fs.writeback());
        let running = tokio::spawn(async move { writeback.run().await });
        while ground.grid.written.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        running.abort();
        assert_eq!(ground.published().await, ["f"]);
        if with_barrier {
            fs.writeback().barrier().await.unwrap();
        }
        drop(fs);
        let fs = ground.mount_with(journal.path(), Durability::Local).await;
        assert_eq!(content(&fs, "g").await.unwrap()[..4], *b"new\x01");
        fs.settle().await.unwrap();
        assert_eq!(ground.published().await, ["g"]);
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_used_stays_and_the_rest_is_mounted() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    drop(fs);
    let cap = ground.grid.child(&ground.root, "f").unwrap().cap;
    let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    put(&fs, fs.lookup(ROOT, b"f").await.unwrap().ino, 100, b" more").await;
    rename(&fs, "f", "g").await;
    write(&fs, ROOT, "other", b"other").await;
    drop(fs);
    ground.grid.refused.lock().unwrap().push(cap);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    assert_eq!(content(&fs, "other").await.unwrap(), b"other");
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["f", "other"], "neither name would remain");
    drop(fs);
    ground.grid.refused.lock().unwrap().clear();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    assert_eq!(content(&fs, "g").await.unwrap(), [&[1; 100][..], b" more"].concat());
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["g", "other"]);
}

#[tokio::test]
async fn a_content_whose_name_is_damaged_is_not_forgotten() {
    let ground = Ground::new();
    let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    write(&fs, ROOT, "f", &[1; 100_000]).await;
    drop(fs);
    drop(open_journal(journal.path()).await);
    sql(journal.path(), "CREATE TABLE aside AS SELECT * FROM edges; UPDATE edges SET body = zeroblob(80)");
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    write(&fs, ROOT, "other", b"other").await;
    fs.settle().await.unwrap();
    drop(fs);
    drop(open_journal(journal.path()).await);
    sql(journal.path(), "INSERT OR REPLACE INTO edges SELECT * FROM aside; DROP TABLE aside");
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    assert!(content(&fs, "f").await.unwrap() == [1; 100_000]);
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["f", "other"]);
}

#[tokio::test]
async fn records_that_could_not_go_go_later() {
    let ground = Ground::new();
    let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let dir = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    write(&fs, dir, "f", &[1; 100]).await;
    publish(&fs).await;
    sql(journal.path(), "ALTER TABLE edges RENAME TO aside");
    assert!(fs.writeback().barrier().await.is_err());
    sql(journal.path(), "ALTER TABLE aside RENAME TO edges");
    fs.settle().await.unwrap();
    drop(fs);
    let (_, replay) = open_journal(journal.path()).await;
    assert_eq!((replay.edges.len(), replay.files.len(), replay.dirs.len()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn fsync_of_a_directory_ends_beside_who_writes_what_was_moved_out() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let a = fs.mkdir(ROOT, b"a", 0o755, ME).await.unwrap().ino;
    let b = fs.mkdir(ROOT, b"b", 0o755, ME).await.unwrap().ino;
    let ino = write(&fs, a, "x", &[1; 100]).await;
    fs.settle().await.unwrap();
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 0, Bytes::from_static(b"new")).await.unwrap();
    fs.mv(a, b"x", b, b"y", RenameMode::Replace).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), fs.fsyncdir(a)).await.expect("it waits for ever").unwrap();
    let other = ground.mount().await;
    let a = other.lookup(ROOT, b"a").await.unwrap().ino;
    assert_eq!(other.lookup(a, b"x").await, Err(FsError::NotFound));
    fs.release(handle);
}
