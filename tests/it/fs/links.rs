//! Hard links: one file under several names, for this mount and those that come after.

use std::sync::atomic::Ordering;

use super::*;

/// A ground with directories `d` and `e` and a file `d/a`, of more than a literal holds, which is stored.
async fn with_file(journal: &std::path::Path) -> (Ground, Arc<Filesystem>, Ino, Ino, Ino) {
    let ground = Ground::new();
    let fs = ground.mount_with(journal, Durability::Local).await;
    let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    let e = fs.mkdir(ROOT, b"e", 0o755, ME).await.unwrap().ino;
    let a = write(&fs, d, "a", &[1; 1000]).await;
    fs.settle().await.unwrap();
    (ground, fs, d, e, a)
}

async fn at(fs: &Filesystem, path: &str) -> Result<Attr, FsError> {
    let mut attr = fs.getattr(ROOT).await?;
    for name in path.split('/') {
        attr = fs.lookup(attr.ino, name.as_bytes()).await?;
    }
    Ok(attr)
}

async fn change(fs: &Filesystem, path: &str, byte: u8) {
    let ino = at(fs, path).await.unwrap().ino;
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 0, Bytes::from(vec![byte; 1000])).await.unwrap();
    fs.release(handle);
}

/// What another client sees at a path of two names.
fn child(ground: &Ground, path: &str) -> Option<tahoefs::node::Child> {
    let (dir, name) = path.split_once('/').unwrap();
    let dir = ground.grid.child(&ground.root, dir).unwrap().cap;
    ground.grid.child(&dir, name)
}

async fn content(ground: &Ground, path: &str) -> Vec<u8> {
    let other = ground.mount().await;
    let ino = at(&other, path).await.unwrap().ino;
    read(&other, ino).await
}

fn mode(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

#[tokio::test]
async fn a_link_is_a_second_edge_and_stores_no_content() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, d, e, a) = with_file(journal.path()).await;
    let before = child(&ground, "d/a").unwrap();
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 1);
    let b = fs.link(a, e, b"b").await.unwrap();
    assert_eq!((b.ino, b.nlink, fs.getattr(a).await.unwrap().nlink), (a, 2, 2));
    assert_eq!(fs.link(a, e, b"b").await, Err(FsError::Exists));
    assert_eq!(fs.link(d, e, b"c").await, Err(FsError::NotPermitted));
    // Two names of one file: nothing is done.
    fs.mv(d, b"a", e, b"b", RenameMode::Replace).await.unwrap();
    assert_eq!(at(&fs, "d/a").await.unwrap().nlink, 2);
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 1);
    let (first, second) = (child(&ground, "d/a").unwrap(), child(&ground, "e/b").unwrap());
    assert_eq!((&first.cap, &first.metadata), (&before.cap, &before.metadata), "the first edge is as it was");
    assert_eq!(second.cap, first.cap);
    assert_eq!(second.metadata.map()["tahoefs"]["id"], first.metadata.map()["tahoefs"]["id"]);
    fs.rm(d, b"a").await.unwrap();
    assert_eq!(at(&fs, "e/b").await.unwrap().nlink, 1);
    fs.settle().await.unwrap();
    assert_eq!(content(&ground, "e/b").await, [1; 1000]);
}

#[tokio::test]
async fn a_new_file_with_many_names_is_stored_once() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, d, e, _) = with_file(journal.path()).await;
    let new = write(&fs, d, "new", &[5; 1000]).await;
    for (dir, name) in [(d, "x"), (e, "y"), (e, "z"), (ROOT, "w")] {
        fs.link(new, dir, name.as_bytes()).await.unwrap();
    }
    change(&fs, "e/y", 6).await;
    assert_eq!(at(&fs, "w").await.unwrap().nlink, 5);
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 2);
    for path in ["d/new", "d/x", "e/y", "e/z", "w"] {
        assert_eq!(content(&ground, path).await, [6; 1000], "{path}");
    }
}

#[tokio::test]
async fn a_change_reaches_names_that_this_mount_has_not_looked_at() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, _, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.settle().await.unwrap();
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    assert_eq!(at(&fs, "d/a").await.unwrap().nlink, 2);
    change(&fs, "d/a", 2).await;
    fs.setattr(a, mode(0o640)).await.unwrap();
    drop(fs);
    // The process ends before any of it is published.
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    fs.settle().await.unwrap();
    for path in ["d/a", "e/b"] {
        assert_eq!(content(&ground, path).await, [2; 1000], "{path}");
    }
    let other = ground.mount().await;
    let (one, two) = (at(&other, "d/a").await.unwrap(), at(&other, "e/b").await.unwrap());
    assert_eq!((one.mode, two.mode, one.ino), (0o640, 0o640, two.ino));
    assert_eq!((one.mtime, one.ctime), (two.mtime, two.ctime));
}

#[tokio::test]
async fn who_has_a_removed_name_open_writes_to_the_others() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, d, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.settle().await.unwrap();
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    assert_eq!((at(&fs, "d").await.unwrap().ino, at(&fs, "d/a").await.unwrap().ino), (d, a));
    let handle = fs.open(a, WRITE).await.unwrap();
    fs.rm(d, b"a").await.unwrap();
    assert_eq!(fs.getattr(a).await.unwrap().nlink, 1);
    fs.write(a, handle, 0, Bytes::from(vec![3; 1000])).await.unwrap();
    fs.flush(a, handle).await.unwrap();
    assert_eq!(at(&fs, "e/b").await.unwrap().ino, a);
    fs.release(handle);
    fs.settle().await.unwrap();
    assert_eq!(content(&ground, "e/b").await, [3; 1000]);
    assert!(child(&ground, "d/a").is_none());
    // Names can be given to it anew.
    let e = at(&fs, "e").await.unwrap().ino;
    fs.link(a, d, b"c").await.unwrap();
    fs.rm(e, b"b").await.unwrap();
    assert_eq!(at(&fs, "d/c").await.unwrap().nlink, 1);
    fs.rm(d, b"c").await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(fs.writeback().status().changes, 0);
}

#[tokio::test]
async fn a_mount_that_knows_nothing_shows_two_links_at_least() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, d, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.link(a, d, b"c").await.unwrap();
    fs.settle().await.unwrap();
    let other_journal = tempfile::tempdir().unwrap();
    let other = ground.mount_with(other_journal.path(), Durability::Local).await;
    let b = at(&other, "e/b").await.unwrap();
    assert_eq!(b.nlink, 2);
    for path in ["d/a", "d/c"] {
        assert_eq!(at(&other, path).await.unwrap().ino, b.ino, "{path}");
    }
    assert_eq!(other.getattr(b.ino).await.unwrap().nlink, 3);
    other.setattr(b.ino, mode(0o600)).await.unwrap();
    other.settle().await.unwrap();
    drop(other);
    // It has learnt that.
    let other = ground.mount_with(other_journal.path(), Durability::Local).await;
    assert_eq!(at(&other, "d/a").await.unwrap().nlink, 3);
    for path in ["d/a", "d/c", "e/b"] {
        assert_eq!(at(&*ground.mount().await, path).await.unwrap().mode, 0o600, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_client_put_under_a_name_is_left_alone() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, _, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.settle().await.unwrap();
    let theirs = ground.mount().await;
    change(&theirs, "e/b", 7).await;
    theirs.settle().await.unwrap();
    tokio::time::advance(Duration::from_secs(11)).await;
    change(&fs, "d/a", 8).await;
    fs.settle().await.unwrap();
    assert_eq!((content(&ground, "d/a").await, content(&ground, "e/b").await), (vec![8; 1000], vec![7; 1000]));
    assert_eq!(at(&fs, "d/a").await.unwrap().nlink, 1);
    assert_ne!(at(&fs, "e/b").await.unwrap().ino, at(&fs, "d/a").await.unwrap().ino);
}

#[tokio::test(start_paused = true)]
async fn names_that_were_seen_apart_while_a_change_came_are_one_file_after_it() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, _, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.settle().await.unwrap();
    let theirs = ground.mount().await;
    let seen = async || {
        tokio::time::advance(Duration::from_secs(11)).await;
        let (one, two) = (at(&theirs, "d/a").await.unwrap(), at(&theirs, "e/b").await.unwrap());
        (one.ino == two.ino, read(&theirs, one.ino).await[0], read(&theirs, two.ino).await[0])
    };
    assert_eq!(seen().await, (true, 1, 1));
    for byte in 2..5 {
        change(&fs, "d/a", byte).await;
        let dir = ground.grid.child(&ground.root, "e").unwrap().cap;
        ground.grid.hide(&dir, true);
        assert!(fs.settle().await.is_err());
        ground.grid.hide(&dir, false);
        assert_eq!(seen().await, (false, byte, byte - 1));
        fs.settle().await.unwrap();
        assert_eq!(seen().await, (true, byte, byte));
        assert_eq!(at(&theirs, "e/b").await.unwrap().nlink, 2);
    }
}

#[tokio::test]
async fn a_mutable_file_gets_further_names_too() {
    let (ground, cap) = super::mutable::with_file(&["f"], &[1; 1000]);
    let fs = ground.mount().await;
    let f = at(&fs, "f").await.unwrap().ino;
    let g = fs.link(f, ROOT, b"g").await.unwrap();
    assert_eq!((g.ino, g.nlink), (f, 2));
    fs.setattr(f, mode(0o600)).await.unwrap();
    change(&fs, "g", 2).await;
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.content(&cap), [2; 1000]);
    for name in ["f", "g"] {
        assert_eq!(ground.grid.child(&ground.root, name).unwrap().cap, cap);
        assert_eq!(at(&*ground.mount().await, name).await.unwrap().mode, 0o600);
    }
}

#[tokio::test]
async fn a_file_has_so_many_names() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, d, _, a) = with_file(journal.path()).await;
    for i in 1..LINK_MAX {
        fs.link(a, d, format!("n{i}").as_bytes()).await.unwrap();
    }
    assert_eq!(fs.link(a, d, b"more").await, Err(FsError::TooManyLinks));
    fs.rm(d, b"a").await.unwrap();
    assert_eq!(fs.link(a, d, b"more").await.unwrap().nlink as usize, LINK_MAX);
    fs.settle().await.unwrap();
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    assert_eq!(at(&fs, "d/n7").await.unwrap().nlink as usize, LINK_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_reach_a_name_fails() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, _, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.settle().await.unwrap();
    drop(fs);
    let dir = ground.grid.child(&ground.root, "e").unwrap().cap;
    ground.grid.hide(&dir, true);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let a = at(&fs, "d/a").await.unwrap();
    assert_eq!(a.nlink, 2);
    assert_eq!(fs.open(a.ino, WRITE).await, Err(FsError::Io));
    assert_eq!(fs.setattr(a.ino, mode(0o600)).await, Err(FsError::Io));
    assert_eq!(read(&fs, a.ino).await, [1; 1000]);
    ground.grid.hide(&dir, false);
    fs.setattr(a.ino, mode(0o600)).await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(at(&*ground.mount().await, "e/b").await.unwrap().mode, 0o600);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_another_client_has_removed_counts_no_more() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, _, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.link(a, e, b"c").await.unwrap();
    fs.settle().await.unwrap();
    let theirs = ground.mount().await;
    let their_e = at(&theirs, "e").await.unwrap().ino;
    theirs.rm(their_e, b"b").await.unwrap();
    theirs.settle().await.unwrap();
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(at(&fs, "e/c").await.is_ok(), "nobody asks for what was removed");
    assert_eq!(at(&fs, "d/a").await.unwrap().nlink, 2);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_another_client_has_moved_is_one_still() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, d, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.link(a, e, b"c").await.unwrap();
    fs.settle().await.unwrap();
    let theirs = ground.mount().await;
    let (their_d, their_e) = (at(&theirs, "d").await.unwrap().ino, at(&theirs, "e").await.unwrap().ino);
    theirs.mv(their_e, b"b", their_d, b"moved", RenameMode::Replace).await.unwrap();
    theirs.mv(their_d, b"a", their_e, b"moved", RenameMode::Replace).await.unwrap();
    theirs.settle().await.unwrap();
    tokio::time::advance(Duration::from_secs(11)).await;
    for path in ["d/moved", "e/moved"] {
        assert_eq!(at(&fs, path).await.unwrap().ino, a, "{path}");
    }
    assert_eq!((at(&fs, "e/b").await, at(&fs, "d/a").await), (Err(FsError::NotFound), Err(FsError::NotFound)));
    assert_eq!(at(&fs, "e/c").await.unwrap().nlink, 3);
    change(&fs, "e/c", 4).await;
    fs.settle().await.unwrap();
    for path in ["d/moved", "e/moved", "e/c"] {
        assert_eq!(content(&ground, path).await, [4; 1000], "{path}");
    }
    assert_eq!(fs.getattr(d).await.unwrap().ino, d);
}

#[tokio::test]
async fn who_waits_for_the_grid_waits_for_all_names() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, d, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.settle().await.unwrap();
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Grid).await;
    let a = at(&fs, "d/a").await.unwrap().ino;
    let handle = fs.open(a, WRITE).await.unwrap();
    fs.write(a, handle, 0, Bytes::from(vec![9; 1000])).await.unwrap();
    fs.flush(a, handle).await.unwrap();
    let (one, two) = (child(&ground, "d/a").unwrap(), child(&ground, "e/b").unwrap());
    assert_eq!((&one.cap, content(&ground, "e/b").await), (&two.cap, vec![9; 1000]));
    fs.release(handle);
    assert_eq!(at(&fs, "e").await.unwrap().ino, e);
    let new = write(&fs, d, "new", &[5; 1000]).await;
    fs.link(new, e, b"new").await.unwrap();
    let handle = fs.open(new, WRITE).await.unwrap();
    fs.fsync(new, handle).await.unwrap();
    assert_eq!(child(&ground, "d/new").unwrap().cap, child(&ground, "e/new").unwrap().cap);
    fs.release(handle);
}

#[tokio::test]
async fn what_is_stored_and_not_published_yet_is_changed_under_all_names() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, d, e, a) = with_file(journal.path()).await;
    for (dir, name) in [(e, "b"), (d, "c")] {
        fs.link(a, dir, name.as_bytes()).await.unwrap();
    }
    let long = write(&fs, ROOT, "long", &[3; 2000]).await;
    let short = write(&fs, ROOT, "short", &[4; 900]).await;
    fs.settle().await.unwrap();
    // Copies of stored files are stored at once: a change after that begins with another file than the one before.
    for (from, length) in [(long, 2000), (short, 900)] {
        let source = fs.open(from, READ).await.unwrap();
        let target = fs.open(a, OpenMode { truncate: true, ..WRITE }).await.unwrap();
        let place = |ino, handle| Place { ino, handle, offset: 0 };
        assert_eq!(fs.copy_range(place(from, source), place(a, target), length).await, Ok(length));
        fs.release(target);
        fs.release(source);
    }
    for path in ["d/a", "e/b", "d/c"] {
        let attr = at(&fs, path).await.unwrap();
        assert_eq!((attr.ino, attr.nlink, attr.size), (a, 3, 900), "{path}");
    }
    fs.settle().await.unwrap();
    for path in ["d/a", "e/b", "d/c"] {
        assert_eq!(content(&ground, path).await, [4; 900], "{path}");
    }
    drop(fs);
    let again = ground.mount_with(journal.path(), Durability::Local).await;
    assert_eq!(at(&again, "d/c").await.unwrap().nlink, 3);
}

#[tokio::test]
async fn names_of_which_one_is_published_are_one_file_after_a_crash() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, _, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.settle().await.unwrap();
    change(&fs, "d/a", 2).await;
    let d = fs.scope(std::path::Path::new("d")).await.unwrap();
    fs.settle_scope(d).await.unwrap();
    assert_eq!((content(&ground, "d/a").await, content(&ground, "e/b").await), (vec![2; 1000], vec![1; 1000]));
    let uploads = ground.grid.uploads.load(Ordering::Relaxed);
    drop(fs);
    for paths in [["d/a", "e/b"], ["e/b", "d/a"]] {
        let fs = ground.mount_with(&ground.copy_of(journal.path()), Durability::Local).await;
        let (one, other) = (at(&fs, paths[0]).await.unwrap(), at(&fs, paths[1]).await.unwrap());
        assert_eq!((one.ino, one.nlink, other.nlink), (other.ino, 2, 2), "{paths:?}");
        change(&fs, paths[0], 3).await;
        for path in paths {
            assert_eq!(read(&fs, at(&fs, path).await.unwrap().ino).await, [3; 1000], "{path}");
        }
    }
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    change(&fs, "d/a", 4).await;
    fs.settle().await.unwrap();
    for path in ["d/a", "e/b"] {
        assert_eq!(content(&ground, path).await, [4; 1000], "{path}");
    }
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), uploads + 1);
}

#[tokio::test]
async fn names_in_a_new_directory_are_known_after_a_crash_and_another_mount() {
    let journal = tempfile::tempdir().unwrap();
    let ground = Ground::new();
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    let a = write(&fs, d, "a", &[1; 1000]).await;
    fs.link(a, d, b"b").await.unwrap();
    drop(fs);
    // Published by another process, which never asks for the names.
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    fs.settle().await.unwrap();
    drop(fs);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    let a = at(&fs, "d/a").await.unwrap();
    assert_eq!(a.nlink, 2);
    change(&fs, "d/a", 3).await;
    for path in ["d/a", "d/b"] {
        assert_eq!(read(&fs, at(&fs, path).await.unwrap().ino).await, [3; 1000], "{path}");
    }
}

#[tokio::test]
async fn a_directory_that_is_lost_does_not_keep_other_names_from_being_changed() {
    let journal = tempfile::tempdir().unwrap();
    let (ground, fs, _, e, a) = with_file(journal.path()).await;
    fs.link(a, e, b"b").await.unwrap();
    fs.settle().await.unwrap();
    drop(fs);
    ground.grid.forget(&ground.grid.child(&ground.root, "e").unwrap().cap);
    let fs = ground.mount_with(journal.path(), Durability::Local).await;
    change(&fs, "d/a", 7).await;
    let a = at(&fs, "d/a").await.unwrap();
    fs.setattr(a.ino, mode(0o600)).await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(content(&ground, "d/a").await, [7; 1000]);
}

#[tokio::test]
async fn a_file_is_stored_once_all_its_names_are() {
    let journal = tempfile::tempdir().unwrap();
    let (_ground, fs, _, e, a) = with_file(journal.path()).await;
    let state = || fs.getxattr(a, b"user.tahoe.state").unwrap();
    assert_eq!(state(), b"stored");
    fs.link(a, e, b"b").await.unwrap();
    assert_eq!(state(), b"local");
    fs.settle().await.unwrap();
    assert_eq!(state(), b"stored");
}
