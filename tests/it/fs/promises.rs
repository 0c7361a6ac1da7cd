//! Small promises, each by itself.

use std::sync::atomic::Ordering;

use super::mutable::with_file;
use super::*;

/// The state of a directory is looked at again after this time.
const REFRESH: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn times_of_a_write_come_into_the_journal_within_a_second() {
    let ground = Ground::new();
    let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    // Nothing of the file ever reaches the grid.
    ground.grid.hang_from(Some(1));
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    let (attr, handle) = fs.create(ROOT, b"f", 0o644, ME, WRITE).await.unwrap();
    fs.write(attr.ino, handle, 0, Bytes::from_static(b"first")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    fs.write(attr.ino, handle, 0, Bytes::from_static(b"again")).await.unwrap();
    let (mtime, ctime) = {
        let attr = fs.getattr(attr.ino).await.unwrap();
        (attr.mtime, attr.ctime)
    };
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // As after kill -9: nothing is closed.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let copy = tempfile::tempdir_in(ground.local.path()).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(journal.path().join(".")).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    drop(fs);
    let fs = ground.mount_with(copy.path(), Durability::Local).await;
    let attr = fs.lookup(ROOT, b"f").await.unwrap();
    assert_eq!((attr.mtime, attr.ctime), (mtime, ctime));
    assert_eq!(read(&fs, attr.ino).await, b"again");
}

#[tokio::test(start_paused = true)]
async fn changes_by_others_are_seen_once_a_table_is_old() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    assert!(fs.lookup(ROOT, b"theirs").await.is_err());
    let cap = ground.grid.mutable_file("SSK", b"theirs");
    ground.grid.link(&ground.root, "theirs", &cap);
    tokio::time::sleep(REFRESH - Duration::from_secs(1)).await;
    assert!(fs.lookup(ROOT, b"theirs").await.is_err(), "the grid is not asked at every look");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let theirs = fs.lookup(ROOT, b"theirs").await.unwrap();
    assert_eq!(read(&fs, theirs.ino).await, b"theirs");
}

#[tokio::test(start_paused = true)]
async fn a_write_ends_the_upload_of_what_was_there_before() {
    let ground = Ground::new();
    let fs = ground.mount_with(&ground.local.path().join("journal"), Durability::Local).await;
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    ground.grid.hang_from(Some(1000));
    let ino = write(&fs, ROOT, "f", &[1; 5000]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The upload is under way, and hangs.
    let handle = fs.open(ino, WRITE).await.unwrap();
    let written = fs.write(ino, handle, 0, Bytes::from_static(&[2; 10]));
    tokio::time::timeout(Duration::from_secs(1), written).await.expect("the write does not wait").unwrap();
    fs.release(handle);
    ground.grid.hang_from(None);
    fs.settle().await.unwrap();
    running.abort();
    drop(fs);
    let fs = ground.mount().await;
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    assert_eq!(read(&fs, ino).await, [&[2; 10][..], &[1; 4990]].concat());
}

#[tokio::test]
async fn a_rename_over_a_mutable_file_leaves_that_as_it_is() {
    let (ground, cap) = with_file(&["f"], b"mutable");
    let fs = ground.mount().await;
    write(&fs, ROOT, ".f.new", &[3; 100]).await;
    fs.rename(ROOT, b".f.new", ROOT, b"f", RenameMode::Replace).await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["f"]);
    let stored = ground.grid.child(&ground.root, "f").unwrap().cap;
    assert!(stored != cap && !stored.is_mutable());
    assert_eq!(ground.grid.content(&cap), b"mutable");
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    assert_eq!(read(&fs, ino).await, [3; 100]);
}

#[tokio::test]
async fn a_rename_within_a_directory_is_one_publish() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, "a", &[1; 100]).await;
    write(&fs, ROOT, "b", &[2; 100]).await;
    fs.settle().await.unwrap();
    let before = ground.grid.publishes.load(Ordering::Relaxed);
    fs.rename(ROOT, b"a", ROOT, b"b", RenameMode::Replace).await.unwrap();
    let ino = fs.lookup(ROOT, b"b").await.unwrap().ino;
    assert_eq!(read(&fs, ino).await, [1; 100], "at once for everybody on this mount");
    assert!(fs.lookup(ROOT, b"a").await.is_err());
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.publishes.load(Ordering::Relaxed), before + 1);
    assert_eq!(ground.published().await, ["b"]);
}

#[tokio::test]
async fn a_directory_that_holds_itself_ends_where_the_cycle_closes() {
    let ground = Ground::new();
    ground.grid.link(&ground.root, "self", &ground.root);
    let fs = ground.mount().await;
    assert_eq!(fs.lookup(ROOT, b"self").await.unwrap_err().errno(), libc::ELOOP);
}
