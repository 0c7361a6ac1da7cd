//! Directories that were made on the grid and had not passed the barrier when the process ended.

use std::sync::atomic::Ordering;

use super::shared::{content, find};
use super::*;

const FILE: &[u8] = &[7; 100];

/// A mount that has published `d` with `d/sub/own` in it, and has ended before the barrier.
async fn ended_before_the_barrier(ground: &Ground, folder: &std::path::Path) {
    ground.grid.unsynced.store(true, Ordering::Relaxed);
    let fs = ground.mount_with(folder, Durability::Local).await;
    let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    let sub = fs.mkdir(d, b"sub", 0o755, ME).await.unwrap().ino;
    write(&fs, sub, "own", FILE).await;
    let _ = fs.settle().await;
    assert_eq!(ground.published().await, ["d"]);
    ground.grid.unsynced.store(false, Ordering::Relaxed);
}

#[tokio::test]
async fn what_others_put_there_stays() {
    let (ground, folder) = (Ground::new(), tempfile::tempdir().unwrap());
    ended_before_the_barrier(&ground, folder.path()).await;
    let theirs = ground.mount().await;
    for path in [&["d"][..], &["d", "sub"]] {
        let dir = find(&theirs, path).await.unwrap();
        write(&theirs, dir, "theirs", b"theirs").await;
    }
    theirs.settle().await.unwrap();
    let again = ground.mount_with(folder.path(), Durability::Local).await;
    let sub = find(&again, &["d", "sub"]).await.unwrap();
    write(&again, sub, "later", FILE).await;
    again.settle().await.unwrap();
    assert_eq!(ground.published().await, ["d"]);
    for (path, expected) in [
        (&["d", "theirs"][..], &b"theirs"[..]),
        (&["d", "sub", "theirs"], b"theirs"),
        (&["d", "sub", "own"], FILE),
        (&["d", "sub", "later"], FILE),
    ] {
        assert_eq!(content(&ground, path).await.unwrap(), expected, "{path:?}");
        let ino = find(&again, path).await.unwrap();
        assert_eq!(read(&again, ino).await, expected, "{path:?}");
    }
    assert_eq!(again.writeback().status().changes, 0);
}

#[tokio::test]
async fn what_power_loss_took_is_made_anew() {
    for seed in 0..16 {
        let (ground, folder) = (Ground::new(), tempfile::tempdir().unwrap());
        ground.grid.sync();
        ended_before_the_barrier(&ground, folder.path()).await;
        ground.grid.lose_power(seed);
        let again = ground.mount_with(folder.path(), Durability::Local).await;
        again.settle().await.unwrap();
        assert_eq!(content(&ground, &["d", "sub", "own"]).await.unwrap(), FILE, "{seed}");
        assert_eq!(again.writeback().status().changes, 0);
    }
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_not_replaced() {
    let (ground, folder) = (Ground::new(), tempfile::tempdir().unwrap());
    ended_before_the_barrier(&ground, folder.path()).await;
    let cap = ground.grid.child(&ground.root, "d").unwrap().cap;
    ground.grid.hide(&cap, true);
    let again = ground.mount_with(folder.path(), Durability::Local).await;
    assert!(again.settle().await.is_err());
    assert_eq!(ground.grid.child(&ground.root, "d").unwrap().cap, cap);
    ground.grid.hide(&cap, false);
    again.settle().await.unwrap();
    assert_eq!(ground.grid.child(&ground.root, "d").unwrap().cap, cap);
}

#[tokio::test]
async fn what_is_removed_after_the_restart_is_looked_at_first() {
    for (filled, lost) in [(false, false), (false, true), (true, false)] {
        let (ground, folder) = (Ground::new(), tempfile::tempdir().unwrap());
        ground.grid.sync();
        ended_before_the_barrier(&ground, folder.path()).await;
        if filled {
            let theirs = ground.mount().await;
            let sub = find(&theirs, &["d", "sub"]).await.unwrap();
            write(&theirs, sub, "theirs", b"theirs").await;
            theirs.settle().await.unwrap();
        }
        if lost {
            ground.grid.lose_all();
        }
        let again = ground.mount_with(folder.path(), Durability::Local).await;
        let d = find(&again, &["d"]).await.unwrap();
        let sub = find(&again, &["d", "sub"]).await.unwrap();
        again.rm(sub, b"own").await.unwrap();
        again.rm_dir(d, b"sub").await.unwrap();
        again.rm_dir(ROOT, b"d").await.unwrap();
        again.settle().await.unwrap();
        let there = content(&ground, &["d", "sub", "theirs"]).await;
        assert_eq!(there.is_some(), filled, "{filled} {lost}");
        assert!(content(&ground, &["d", "sub", "own"]).await.is_none(), "{filled} {lost}");
        assert_eq!(ground.published().await.is_empty(), !filled, "{filled} {lost}");
        assert_eq!(again.writeback().status().changes, 0);
    }
}

#[tokio::test]
async fn what_is_damaged_is_not_replaced() {
    let (ground, folder) = (Ground::new(), tempfile::tempdir().unwrap());
    ended_before_the_barrier(&ground, folder.path()).await;
    let cap = ground.grid.child(&ground.root, "d").unwrap().cap;
    ground.grid.damage(&cap);
    let again = ground.mount_with(folder.path(), Durability::Local).await;
    write(&again, ROOT, "other", FILE).await;
    assert!(again.settle().await.is_err());
    assert_eq!(ground.published().await, ["d", "other"]);
    assert_eq!(ground.grid.child(&ground.root, "d").unwrap().cap, cap);
    // Nor is its name taken away.
    let d = find(&again, &["d"]).await.unwrap();
    let sub = find(&again, &["d", "sub"]).await.unwrap();
    again.rm(sub, b"own").await.unwrap();
    again.rm_dir(d, b"sub").await.unwrap();
    again.rm_dir(ROOT, b"d").await.unwrap();
    let _ = again.settle().await;
    assert_eq!(ground.grid.child(&ground.root, "d").unwrap().cap, cap);
}
