//! What the journal keeps: failures are told, limits hold, and what was begun in one process ends in the next.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::grid::Fault;
use super::mutable::with_file;
use super::*;

/// What `user.tahoe.state` says.
fn state(fs: &Filesystem, ino: Ino) -> String {
    String::from_utf8(fs.getxattr(ino, b"user.tahoe.state").unwrap()).unwrap()
}

/// A mount whose journal takes 1 MiB.
async fn mount_with_little_room(ground: &Ground) -> Arc<Filesystem> {
    let limits = JournalOptions { limit: 1 << 20, floor: 0 };
    let folder = ground.local.path().join("little");
    ground.mount_over(Journal::open(&folder, &JournalKey::new([1; 32]), limits).unwrap(), Durability::Local).await
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_once_to_every_handle() {
    let ground = Ground::new();
    let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let (attr, first) = fs.create(ROOT, b"f", 0o644, ME, WRITE).await.unwrap();
    fs.write(attr.ino, first, 0, Bytes::from_static(&[9; 100])).await.unwrap();
    let second = fs.open(attr.ino, WRITE).await.unwrap();
    fs.flush(attr.ino, first).await.unwrap();
    assert_eq!(state(&fs, attr.ino), "local");
    ground.grid.fail(&[Fault::Refuse]);
    assert!(fs.settle().await.is_err());
    assert!(state(&fs, attr.ino).starts_with("error: "), "{}", state(&fs, attr.ino));
    assert_eq!(fs.writeback().status().failures.len(), 1);
    for handle in [first, second] {
        assert_eq!(fs.flush(attr.ino, handle).await, Err(FsError::NoSpace));
        assert_eq!(fs.flush(attr.ino, handle).await, Ok(()));
        assert_eq!(fs.fsync(attr.ino, handle).await, Ok(()));
    }
    let third = fs.open(attr.ino, WRITE).await.unwrap();
    assert_eq!(fs.fsync(attr.ino, third).await, Ok(()), "who opened it later did not write what failed");
    ground.grid.fail(&[Fault::Refuse]);
    assert!(fs.settle().await.is_err());
    assert_eq!(fs.fsync(attr.ino, third).await, Err(FsError::NoSpace));
    fs.settle().await.unwrap();
    assert_eq!(state(&fs, attr.ino), "stored");
    assert_eq!((fs.flush(attr.ino, first).await, fs.writeback().status().failures.len()), (Ok(()), 0), "solved");
}

#[tokio::test]
async fn a_full_journal_refuses_and_keeps() {
    let ground = Ground::new();
    let fs = mount_with_little_room(&ground).await;
    let (attr, handle) = fs.create(ROOT, b"f", 0o644, ME, WRITE).await.unwrap();
    let mut written = 0;
    let refused = loop {
        match fs.write(attr.ino, handle, written, Bytes::from(vec![7; 100_000])).await {
            Ok(()) => written += 100_000,
            Err(error) => break error,
        }
        assert!(written < 2 << 20, "the limit does not hold");
    };
    assert_eq!(refused, FsError::NoSpace);
    assert!(written >= 800_000);
    assert_eq!(fs.writeback().status().bytes, written);
    fs.release(handle);
    fs.settle().await.unwrap();
    fs.writeback().journal().barrier().await.unwrap();
    assert_eq!(read(&fs, attr.ino).await, vec![7; written as usize]);
    let again = fs.open(attr.ino, WRITE).await.unwrap();
    fs.write(attr.ino, again, 0, Bytes::from(vec![8; 100_000])).await.expect("what is stored takes no room");
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_fills_is_emptied_at_once() {
    let ground = Ground::new();
    let fs = mount_with_little_room(&ground).await;
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    write(&fs, ROOT, "small", &[1; 50_000]).await;
    write(&fs, ROOT, ".small.swp", &[3; 50_000]).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(fs.writeback().status().files, 2, "they may change again");
    write(&fs, ROOT, "large", &[2; 800_000]).await;
    // Sooner than what is left alone would be. The journal's thread knows no paused clock.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs.writeback().status().files, 0);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn who_writes_waits_while_a_full_journal_is_emptied() {
    let ground = Ground::new();
    let fs = mount_with_little_room(&ground).await;
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    for n in 0..20u8 {
        write(&fs, ROOT, &format!("f{n:02}"), &vec![n; 300_000]).await;
    }
    // Nothing leaves without the grid: then who writes hears of it.
    ground.grid.hang_from(Some(0));
    let mut refused = None;
    for n in 0..20 {
        let (attr, handle) = fs.create(ROOT, format!("g{n}").as_bytes(), 0o644, ME, WRITE).await.unwrap();
        refused = fs.write(attr.ino, handle, 0, Bytes::from(vec![7; 300_000])).await.err();
        fs.release(handle);
        if refused.is_some() {
            break;
        }
    }
    assert_eq!(refused, Some(FsError::NoSpace));
    running.abort();
}

#[tokio::test]
async fn what_was_written_into_a_mutable_file_goes_there_after_a_crash() {
    let (ground, cap) = with_file(&["f"], &[1; 100]);
    let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 10, Bytes::from_static(b"ours")).await.unwrap();
    fs.setattr(ino, SetAttr { size: Some(50), ..SetAttr::default() }).await.unwrap();
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    assert_eq!(read(&fs, ino).await, [&[1; 10][..], b"ours", &[1; 36]].concat());
    assert_eq!(state(&fs, ino), "local");
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.content(&cap), [&[1; 10][..], b"ours", &[1; 36]].concat());
    // Stored once, it is not stored again over what others have written since.
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 10, Bytes::from_static(b"more")).await.unwrap();
    ground.grid.unsynced.store(true, Ordering::Relaxed);
    assert!(fs.settle().await.is_err());
    drop(fs);
    ground.grid.unsynced.store(false, Ordering::Relaxed);
    assert_eq!(ground.grid.content(&cap)[10..14], *b"more");
    ground.grid.overwrite(&cap, |content| content[10] = b'M');
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.content(&cap)[10..14], *b"More");
}

/// A write to a mutable file, and somebody who looks at it at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_beside_a_look_at_a_mutable_file_is_kept() {
    let (ground, cap) = with_file(&["f"], &[0; 4096]);
    let fs = ground.mount().await;
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    let looks = tokio::spawn({
        let fs = Arc::clone(&fs);
        async move {
            loop {
                fs.getattr(ino).await.unwrap();
                tokio::time::sleep(Duration::ZERO).await;
            }
        }
    });
    for byte in 1..=60u8 {
        let handle = fs.open(ino, WRITE).await.unwrap();
        // Too large for a row: it goes to the disk.
        fs.write(ino, handle, 0, Bytes::from(vec![byte; 100_000])).await.unwrap();
        fs.flush(ino, handle).await.unwrap();
        fs.release(handle);
        assert!(ground.grid.content(&cap) == vec![byte; 100_000], "write {byte} is lost");
    }
    looks.abort();
}

#[tokio::test(start_paused = true)]
async fn upkeep_that_rested_goes_on_with_the_next_change() {
    let (ground, journal) = (Ground::new(), tempfile::tempdir().unwrap());
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    for name in ["first", "second", "third"] {
        write(&fs, ROOT, name, &[1; 100]).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(ground.published().await.contains(&name.to_owned()));
        // What the grid has is not kept; a content in use would be.
        assert_eq!(fs.writeback().journal().usage().bytes, 0, "after {name}");
        tokio::time::sleep(Duration::from_secs(2000)).await;
    }
    running.abort();
}
