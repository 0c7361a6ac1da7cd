//! Small promises, each by itself.

use std::sync::atomic::Ordering;

use super::grid::Fault;
use super::mutable::with_file;
use super::shared::content;
use super::*;

/// The state of a directory is looked at again after this time.
const REFRESH: Duration = Duration::from_secs(10);

/// A mount of what the journal in `folder` holds, as after kill -9.
async fn killed(ground: &Ground, fs: Arc<Filesystem>, folder: &std::path::Path) -> Arc<Filesystem> {
    let copy = ground.copy_of(folder);
    drop(fs);
    ground.mount_with(&copy, Durability::Local).await
}

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
    // Nothing is closed.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let fs = killed(&ground, fs, journal.path()).await;
    let attr = fs.lookup(ROOT, b"f").await.unwrap();
    assert_eq!((attr.mtime, attr.ctime), (mtime, ctime));
    assert_eq!(read(&fs, attr.ino).await, b"again");
}

#[tokio::test(start_paused = true)]
async fn times_of_a_directory_come_into_the_journal_within_a_second() {
    let ground = Ground::new();
    let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    ground.grid.fail(&[Fault::Refuse; 1000]);
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    tokio::time::sleep(Duration::from_secs(5)).await;
    write(&fs, d, "f", b"first").await;
    let times = |attr: Attr| (attr.mtime, attr.ctime);
    let expected = times(fs.getattr(d).await.unwrap());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let fs = killed(&ground, fs, journal.path()).await;
    let d = fs.lookup(ROOT, b"d").await.unwrap();
    assert_eq!(times(d), expected);
    assert!(fs.lookup(d.ino, b"f").await.is_ok());
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
    fs.mv(ROOT, b".f.new", ROOT, b"f", RenameMode::Replace).await.unwrap();
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
    fs.mv(ROOT, b"a", ROOT, b"b", RenameMode::Replace).await.unwrap();
    let ino = fs.lookup(ROOT, b"b").await.unwrap().ino;
    assert_eq!(read(&fs, ino).await, [1; 100], "at once for everybody on this mount");
    assert!(fs.lookup(ROOT, b"a").await.is_err());
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.publishes.load(Ordering::Relaxed), before + 1);
    assert_eq!(ground.published().await, ["b"]);
}

#[tokio::test]
async fn a_renamed_file_keeps_its_old_name_until_it_has_a_new_one() {
    let ground = Ground::new();
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    for name in ["a", "b"] {
        write(&ours, ROOT, name, name.as_bytes()).await;
    }
    ours.settle().await.unwrap();
    // What b was becomes c, what a was becomes b; others have put a c there before it is published.
    ours.mv(ROOT, b"b", ROOT, b"c", RenameMode::Replace).await.unwrap();
    ours.mv(ROOT, b"a", ROOT, b"b", RenameMode::Replace).await.unwrap();
    write(&theirs, ROOT, "c", b"theirs").await;
    theirs.settle().await.unwrap();
    ground.grid.fail(&[Fault::Refuse, Fault::ApplyTwice]);
    assert!(ours.settle().await.is_err(), "the second publish is refused");
    for (name, expected) in [("a", &b"a"[..]), ("b", b"b"), ("c", b"theirs")] {
        assert_eq!(content(&ground, &[name]).await.expect(name), expected);
    }
    ours.settle().await.unwrap();
    let names = ground.published().await;
    assert_eq!(names.len(), 3);
    assert!(names[0] == "b" && names[1] == "c" && names[2].starts_with("c (conflict"), "{names:?}");
    assert_eq!(content(&ground, &["b"]).await.unwrap(), b"a");
    assert_eq!(content(&ground, &[&names[2]]).await.unwrap(), b"b");
}

#[tokio::test]
async fn what_a_mount_leaves_has_the_times_of_the_last_moment() {
    let ground = Ground::new();
    let journal = tempfile::tempdir().unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    for name in ["a", "b"] {
        tokio::time::sleep(Duration::from_millis(5)).await;
        write(&fs, d, name, b"content").await;
    }
    let times = fs.getattr(d).await.unwrap().mtime;
    fs.writeback().leave().await.unwrap();
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    assert_eq!(fs.lookup(ROOT, b"d").await.unwrap().mtime, times);
}

#[tokio::test]
async fn a_directory_that_holds_itself_ends_where_the_cycle_closes() {
    let ground = Ground::new();
    ground.grid.link(&ground.root, "self", &ground.root);
    let fs = ground.mount().await;
    assert_eq!(fs.lookup(ROOT, b"self").await.unwrap_err().errno(), libc::ELOOP);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_changed_anywhere_is_stored_whole() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, "f", &[1; 5000]).await;
    fs.settle().await.unwrap();
    let old = ground.grid.child(&ground.root, "f").unwrap().cap;
    let fs = ground.mount().await;
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 100, Bytes::from_static(&[2; 10])).await.unwrap();
    // The rest is on the stores alone.
    ground.grid.hang(true);
    assert!(fs.flush(ino, handle).await.is_err());
    assert_eq!(ground.grid.child(&ground.root, "f").unwrap().cap, old);
    ground.grid.hang(false);
    fs.flush(ino, handle).await.unwrap();
    let new = ground.grid.child(&ground.root, "f").unwrap().cap;
    assert_ne!(new, old);
    let cx = Cx::new(Priority::Waiting, 1 << 20);
    for (cap, expected) in [(new, [&[1; 100][..], &[2; 10], &[1; 4890]].concat()), (old, vec![1; 5000])] {
        let stored = Factory(Arc::clone(&ground.grid)).readable(&cap).unwrap();
        assert_eq!(stored.read(&cx, std::slice::from_ref(&(0..9999))).await.unwrap(), [expected]);
    }
}

/// What a mount of these tests waits for the grid, for a call and for an upload alike.
const LIMIT: Duration = Duration::from_secs(5);

/// Fails unless a call ends in time, with an error.
async fn gives_up<T>(what: &str, call: impl Future<Output = Result<T, FsError>>) {
    let began = tokio::time::Instant::now();
    let ended = tokio::time::timeout(10 * LIMIT, call).await.unwrap_or_else(|_| panic!("{what} waits for ever"));
    assert!(ended.is_err(), "{what} has no answer");
    assert!(began.elapsed() < LIMIT + Duration::from_millis(100), "{what}: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_for_ever() {
    let (ground, _) = with_file(&["mutable"], b"mutable");
    let fs = ground.mount().await;
    let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    write(&fs, d, "f", &[1; 100]).await;
    write(&fs, ROOT, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    let fs = ground.mount().await;
    let d = fs.lookup(ROOT, b"d").await.unwrap().ino;
    let mut open = Vec::new();
    for name in ["f", "mutable"] {
        let ino = fs.lookup(ROOT, name.as_bytes()).await.unwrap().ino;
        open.push((name, ino, fs.open(ino, READ).await.unwrap()));
    }
    let (new, writer) = fs.create(ROOT, b"new", 0o644, ME, WRITE).await.unwrap();
    fs.write(new.ino, writer, 0, Bytes::from_static(&[2; 100])).await.unwrap();
    ground.grid.hang(true);
    ground.grid.hang_from(Some(1));
    gives_up("lookup", fs.lookup(d, b"f")).await;
    gives_up("opendir", fs.opendir(d)).await;
    for (name, ino, handle) in &open {
        gives_up(name, fs.read(*ino, *handle, 0, 10)).await;
    }
    gives_up("getattr", fs.getattr(open[1].1)).await;
    gives_up("close", fs.flush(new.ino, writer)).await;
    gives_up("fsync", fs.fsync(new.ino, writer)).await;
    // What was given up is done once it can be.
    ground.grid.hang(false);
    ground.grid.hang_from(None);
    fs.flush(new.ino, writer).await.unwrap();
    assert!(fs.lookup(d, b"f").await.is_ok());
    assert_eq!(WritebackOptions::default().patience, Duration::from_secs(60));
}
