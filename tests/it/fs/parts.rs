//! A flush of a part of the tree waits for that part and what leads to it, and for nothing else.

use std::path::Path;

use super::*;

/// More than the grid takes while it hangs.
const HUGE: usize = 50_000;
/// A content that the grid refuses.
const REFUSED: usize = 777;

async fn flush(fs: &Filesystem, path: &str) -> Result<(), FsError> {
    let scope = fs.scope(Path::new(path)).await?;
    fs.settle_scope(scope).await
}

async fn dir(fs: &Filesystem, parent: Ino, name: &str) -> Ino {
    fs.mkdir(parent, name.as_bytes(), 0o755, ME).await.unwrap().ino
}

/// What a mount that comes later reads at a path; `None` where nothing is.
async fn content(ground: &Ground, path: &str) -> Option<Vec<u8>> {
    let other = ground.mount().await;
    let mut at = ROOT;
    for name in path.split('/') {
        at = other.lookup(at, name.as_bytes()).await.ok()?.ino;
    }
    Some(read(&other, at).await)
}

fn changes(fs: &Filesystem) -> usize {
    fs.writeback().status().changes
}

#[tokio::test(start_paused = true)]
async fn what_hangs_or_fails_elsewhere_neither_holds_up_nor_fails_a_flush() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    ground.grid.hang_from(Some(HUGE));
    *ground.grid.unwanted.lock().unwrap() = Some(REFUSED);
    // Beside it, above it, and in a directory that is born with it.
    write(&fs, ROOT, "huge", &[1; HUGE]).await;
    write(&fs, ROOT, "refused", &[2; REFUSED]).await;
    let parent = dir(&fs, ROOT, "parent").await;
    write(&fs, parent, "huge", &[1; HUGE]).await;
    let beside = dir(&fs, parent, "beside").await;
    write(&fs, beside, "refused", &[2; REFUSED]).await;
    let wanted = dir(&fs, parent, "wanted").await;
    let below = dir(&fs, wanted, "below").await;
    write(&fs, wanted, "f", &[3; 100]).await;
    write(&fs, below, "g", &[4; 100]).await;
    let (attr, handle) = fs.create(below, b"open", 0o644, ME, WRITE).await.unwrap();
    fs.write(attr.ino, handle, 0, Bytes::from_static(&[5; 100])).await.unwrap();

    let ended = tokio::time::timeout(Duration::from_secs(60), flush(&fs, "parent/wanted")).await;
    ended.expect("it waits for what is elsewhere").unwrap();
    assert_eq!(content(&ground, "parent/wanted/f").await.unwrap(), [3; 100]);
    assert_eq!(content(&ground, "parent/wanted/below/g").await.unwrap(), [4; 100]);
    assert_eq!(content(&ground, "parent/wanted/below/open").await.unwrap(), [5; 100], "although it is open");
    assert_eq!(content(&ground, "huge").await, None);
    let scope = fs.scope(Path::new("parent/wanted")).await.unwrap();
    assert_eq!(fs.writeback().status_of(&scope).changes, 0);
    assert!(changes(&fs) >= 4, "the rest goes on in its own time");

    // What is below the path counts.
    assert_eq!(flush(&fs, "parent/beside").await, Err(FsError::NoSpace));
    assert_eq!(fs.writeback().status_of(&fs.scope(Path::new("parent/beside")).await.unwrap()).files, 1);
    let above = tokio::time::timeout(Duration::from_secs(60), flush(&fs, "parent")).await;
    assert!(above.is_err() || above.is_ok_and(|flushed| flushed.is_err()), "something below it hangs");
    assert_eq!(flush(&fs, "nowhere").await, Err(FsError::NotFound));
    assert_eq!(flush(&fs, "parent/wanted/f/g").await, Err(FsError::NotDirectory));

    ground.grid.hang_from(None);
    *ground.grid.unwanted.lock().unwrap() = None;
    flush(&fs, "").await.unwrap();
    assert_eq!(changes(&fs), 0);
    assert_eq!(content(&ground, "parent/beside/refused").await.unwrap(), [2; REFUSED]);
    fs.release(handle);
}

#[tokio::test(start_paused = true)]
async fn a_flush_of_a_file_waits_for_that_file_and_what_leads_to_it() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let a = dir(&fs, ROOT, "a").await;
    write(&fs, a, "f", &[1; 100]).await;
    write(&fs, a, "huge", &[2; HUGE]).await;
    ground.grid.hang_from(Some(HUGE));
    let ended = tokio::time::timeout(Duration::from_secs(60), flush(&fs, "a/f")).await;
    ended.expect("it waits for its neighbour").unwrap();
    assert_eq!(content(&ground, "a/f").await.unwrap(), [1; 100]);
    assert_eq!(content(&ground, "a/huge").await, None);
    // An attribute alone is published too.
    let ino = fs.lookup(a, b"f").await.unwrap().ino;
    fs.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    flush(&fs, "a/f").await.unwrap();
    let other = ground.mount().await;
    let a = other.lookup(ROOT, b"a").await.unwrap().ino;
    assert_eq!(other.lookup(a, b"f").await.unwrap().mode & 0o777, 0o600);
}

#[tokio::test(start_paused = true)]
async fn what_was_moved_out_is_linked_in_its_new_place_first() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let (a, b) = (dir(&fs, ROOT, "a").await, dir(&fs, ROOT, "b").await);
    write(&fs, a, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    ground.grid.hang_from(Some(HUGE));
    let c = dir(&fs, b, "c").await;
    write(&fs, b, "huge", &[2; HUGE]).await;
    write(&fs, c, "huge", &[2; HUGE]).await;
    fs.mv(a, b"f", c, b"g", RenameMode::Replace).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), flush(&fs, "a")).await;
    ended.expect("it waits for what is beside the new place").unwrap();
    assert_eq!(content(&ground, "a/f").await, None);
    assert_eq!(content(&ground, "b/c/g").await.unwrap(), [1; 100]);
}

#[tokio::test(start_paused = true)]
async fn changes_of_an_earlier_mount_are_found_below_directories_that_were_not_looked_at() {
    let ground = Ground::new();
    let journal = tempfile::tempdir().unwrap();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let a = dir(&fs, ROOT, "a").await;
    let b = dir(&fs, a, "b").await;
    fs.settle().await.unwrap();
    write(&fs, b, "f", &[1; 100]).await;
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    assert!(changes(&fs) > 0);
    flush(&fs, "a").await.unwrap();
    assert_eq!(content(&ground, "a/b/f").await.unwrap(), [1; 100]);
}

#[tokio::test(start_paused = true)]
async fn changed_mutable_files_below_are_stored_and_others_are_not() {
    let ground = Ground::new();
    let (ours, other) = (ground.grid.mutable_file("SSK", b"old"), ground.grid.mutable_file("SSK", b"old"));
    let fs = ground.mount().await;
    let (a, b) = (dir(&fs, ROOT, "a").await, dir(&fs, ROOT, "b").await);
    fs.settle().await.unwrap();
    for (name, cap) in [("a", &ours), ("b", &other)] {
        let dir = ground.grid.child(&ground.root, name).unwrap().cap;
        ground.grid.link(&dir, "m", cap);
    }
    let fs2 = ground.mount().await;
    let _ = (a, b, fs);
    for name in ["a", "b"] {
        let dir = fs2.lookup(ROOT, name.as_bytes()).await.unwrap().ino;
        let ino = fs2.lookup(dir, b"m").await.unwrap().ino;
        let handle = fs2.open(ino, WRITE).await.unwrap();
        fs2.write(ino, handle, 0, Bytes::from_static(b"new")).await.unwrap();
        fs2.release(handle);
    }
    flush(&fs2, "a").await.unwrap();
    assert_eq!((ground.grid.content(&ours), ground.grid.content(&other)), (b"new".to_vec(), b"old".to_vec()));
    let dir = fs2.lookup(ROOT, b"b").await.unwrap().ino;
    fs2.lookup(dir, b"m").await.unwrap();
    flush(&fs2, "b/m").await.unwrap();
    assert_eq!(ground.grid.content(&other), b"new");
}
