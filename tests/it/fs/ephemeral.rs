//! Files of names that are rarely worth storing.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Longer than anything that is put off for a time alone.
const LONG: Duration = Duration::from_secs(120);

/// A mount whose background runs.
async fn running(ground: &Ground, journal: &std::path::Path) -> (Arc<Filesystem>, tokio::task::JoinHandle<()>) {
    let fs = ground.mount_with(journal, Durability::Local).await;
    let writeback = Arc::clone(fs.writeback());
    (fs, tokio::spawn(async move { writeback.run().await }))
}

/// Lets time pass.
async fn wait() {
    // The journal has a thread of its own, with another clock.
    for _ in 0..20 {
        tokio::time::sleep(LONG / 20).await;
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_file_of_such_a_name_waits_until_somebody_asks_for_it() {
    let (ground, journal) = (Ground::new(), tempfile::tempdir().unwrap());
    let (fs, task) = running(&ground, journal.path()).await;
    write(&fs, ROOT, ".notes.swp", &[1; 1000]).await;
    write(&fs, ROOT, "notes", &[2; 1000]).await;
    let dir = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    write(&fs, dir, ".DS_Store", &[3; 1000]).await;
    wait().await;
    assert_eq!(ground.published().await, ["d", "notes"]);
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 1);
    let d = ground.grid.child(&ground.root, "d").unwrap().cap;
    assert!(ground.grid.child(&d, ".DS_Store").is_none());
    assert_eq!(fs.rm_dir(ROOT, b"d").await, Err(FsError::NotEmpty));
    // The process ends, and they are there, and wait.
    task.abort();
    let _ = task.await;
    drop(fs);
    let (fs, task) = running(&ground, journal.path()).await;
    let ino = fs.lookup(ROOT, b".notes.swp").await.unwrap().ino;
    assert_eq!(read(&fs, ino).await, [1; 1000]);
    wait().await;
    assert_eq!(ground.published().await, ["d", "notes"]);
    // Another change in the directory does not take it along.
    write(&fs, ROOT, "more", &[4; 1000]).await;
    wait().await;
    assert_eq!(ground.published().await, ["d", "more", "notes"]);
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, [".notes.swp", "d", "more", "notes"]);
    assert!(ground.grid.child(&d, ".DS_Store").is_some());
    assert_eq!(fs.writeback().status().changes, 0);
    // It is stored now, and is like others.
    let ino = fs.lookup(ROOT, b".notes.swp").await.unwrap().ino;
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 0, Bytes::from(vec![5; 1000])).await.unwrap();
    fs.release(handle);
    wait().await;
    assert_eq!(fs.writeback().status().changes, 0);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn an_ordinary_name_ends_the_wait_and_a_stored_file_has_none() {
    let (ground, journal) = (Ground::new(), tempfile::tempdir().unwrap());
    let (fs, task) = running(&ground, journal.path()).await;
    write(&fs, ROOT, "a.swp", &[1; 1000]).await;
    write(&fs, ROOT, "b.swp", &[2; 1000]).await;
    let linked = write(&fs, ROOT, "c.swp", &[3; 1000]).await;
    write(&fs, ROOT, "stored", &[4; 1000]).await;
    wait().await;
    assert_eq!(ground.published().await, ["stored"]);
    fs.mv(ROOT, b"a.swp", ROOT, b"a", RenameMode::Replace).await.unwrap();
    fs.link(linked, ROOT, b"c").await.unwrap();
    fs.rm(ROOT, b"b.swp").await.unwrap();
    fs.mv(ROOT, b"stored", ROOT, b"stored.swp", RenameMode::Replace).await.unwrap();
    wait().await;
    assert_eq!(ground.published().await, ["a", "c", "c.swp", "stored.swp"]);
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 3);
    assert_eq!(fs.writeback().status().changes, 0);
    // One that was stored, and was changed when it got such a name.
    let ino = fs.lookup(ROOT, b"a").await.unwrap().ino;
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 0, Bytes::from(vec![5; 1000])).await.unwrap();
    fs.release(handle);
    fs.mv(ROOT, b"a", ROOT, b".DS_Store", RenameMode::Replace).await.unwrap();
    wait().await;
    assert_eq!(ground.published().await, [".DS_Store", "c", "c.swp", "stored.swp"]);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_grid_waits_for_his_own() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, "a.swp", &[1; 1000]).await;
    let close = async |name: &[u8], byte: u8| {
        let (attr, handle) = fs.create(ROOT, name, 0o644, ME, WRITE).await.unwrap();
        fs.write(attr.ino, handle, 0, Bytes::from(vec![byte; 1000])).await.unwrap();
        fs.flush(attr.ino, handle).await.unwrap();
        fs.release(handle);
    };
    close(b"other", 2).await;
    assert_eq!(ground.published().await, ["other"]);
    close(b"b.swp", 3).await;
    assert_eq!(ground.published().await, ["b.swp", "other"]);
    fs.fsyncdir(ROOT).await.unwrap();
    assert_eq!(ground.published().await, ["a.swp", "b.swp", "other"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_while_it_waits() {
    let (ground, journal) = (Ground::new(), tempfile::tempdir().unwrap());
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let (writeback, polls) = (Arc::clone(fs.writeback()), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&polls);
    let mut run = Box::pin(async move { writeback.run().await });
    let task = tokio::spawn(std::future::poll_fn(move |cx| {
        counted.fetch_add(1, Ordering::Relaxed);
        run.as_mut().poll(cx)
    }));
    let dir = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    write(&fs, dir, ".notes.swp", &[1; 1000]).await;
    wait().await;
    let before = polls.load(Ordering::Relaxed);
    wait().await;
    let polls = polls.load(Ordering::Relaxed) - before;
    assert!(polls < 50, "{polls} times in {LONG:?}");
    // It is awake for what does not wait.
    write(&fs, dir, "notes", &[2; 1000]).await;
    wait().await;
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 1);
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 2);
    task.abort();
}
