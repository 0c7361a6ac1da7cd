//! Names that another machine takes away while something is open under them here, and that are seen to be gone.

use std::sync::atomic::Ordering;

use super::*;

const OLD: &[u8] = &[1; 100];
const THEIRS: &[u8] = &[2; 100];
const MORE: &[u8] = &[3; 100];

/// A mount that listens to what others change, and one that changes it. `paths` are files on the grid.
async fn two(ground: &Ground, paths: &[&str]) -> (Arc<Filesystem>, Arc<Filesystem>) {
    let fs = ground.mount().await;
    for path in paths {
        let (dir, name) = match path.split_once('/') {
            Some((dir, name)) => (fs.mkdir(ROOT, dir.as_bytes(), 0o755, ME).await.unwrap().ino, name),
            None => (ROOT, *path),
        };
        write(&fs, dir, name, OLD).await;
    }
    fs.settle().await.unwrap();
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    ours.writeback().news().listen();
    (ours, theirs)
}

async fn find(fs: &Filesystem, path: &[&str]) -> Option<Ino> {
    let mut at = ROOT;
    for name in path {
        at = fs.lookup(at, name.as_bytes()).await.ok()?.ino;
    }
    Some(at)
}

/// Finds a file and opens it for writing.
async fn opened(fs: &Filesystem, path: &[&str]) -> (Ino, Handle) {
    let ino = find(fs, path).await.unwrap();
    (ino, fs.open(ino, WRITE).await.unwrap())
}

/// What a mount that comes later reads at a path.
async fn content(ground: &Ground, path: &[&str]) -> Option<Vec<u8>> {
    let other = ground.mount().await;
    Some(read(&other, find(&other, path).await?).await)
}

/// Looks at these directories, and tells what others have changed there, as the background does.
async fn look(fs: &Filesystem, dirs: &[Ino]) -> Vec<Stale> {
    fs.writeback().expire();
    for dir in dirs {
        let _ = fs.lookup(*dir, b"nothing").await;
    }
    fs.stale(fs.writeback().news().wait(Duration::ZERO))
}

async fn replace(fs: &Filesystem, parent: Ino, name: &str) {
    write(fs, parent, "new", THEIRS).await;
    fs.mv(parent, b"new", parent, name.as_bytes(), RenameMode::Replace).await.unwrap();
    fs.settle().await.unwrap();
}

async fn remove(fs: &Filesystem, parent: Ino, name: &str) {
    fs.rm(parent, name.as_bytes()).await.unwrap();
    fs.settle().await.unwrap();
}

async fn append(fs: &Filesystem, ino: Ino, handle: Handle) {
    let size = fs.getattr(ino).await.unwrap().size;
    fs.write(ino, handle, size, Bytes::from_static(MORE)).await.unwrap();
}

fn both(first: &[u8], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

#[tokio::test]
async fn what_is_written_on_stands_beside_what_replaced_it() {
    for by_lookup in [false, true] {
        let ground = Ground::new();
        let (ours, theirs) = two(&ground, &["f.txt"]).await;
        let (ino, handle) = opened(&ours, &["f.txt"]).await;
        let reader = ours.open(ino, READ).await.unwrap();
        replace(&theirs, ROOT, "f.txt").await;
        if by_lookup {
            ours.writeback().expire();
            assert_ne!(find(&ours, &["f.txt"]).await, Some(ino));
        } else {
            let stale = look(&ours, &[ROOT]).await;
            assert!(stale.contains(&Stale::Name { parent: ROOT, name: b"f.txt".to_vec() }), "{stale:?}");
        }
        assert_eq!(ours.getattr(ino).await.unwrap().nlink, 0);
        assert_eq!(&*ours.read(ino, reader, 0, 1000).await.unwrap(), OLD);
        append(&ours, ino, handle).await;
        ours.flush(ino, handle).await.unwrap();
        assert_eq!(content(&ground, &["f.txt"]).await.unwrap(), THEIRS);
        let names = ground.published().await;
        let copy = names.iter().find(|name| name.contains("f (conflict ")).unwrap();
        assert_eq!(content(&ground, &[copy]).await.unwrap(), both(OLD, MORE));
        assert_eq!(find(&ours, &[copy]).await, Some(ino));
        assert_eq!(ours.getattr(ino).await.unwrap().nlink, 1);
        let told = ours.writeback().status().conflicts;
        assert_eq!(told.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), ["f.txt"]);
        // It goes on there.
        append(&ours, ino, handle).await;
        ours.fsync(ino, handle).await.unwrap();
        assert_eq!(&*ours.read(ino, reader, 0, 1000).await.unwrap(), [OLD, MORE, MORE].concat());
        assert_eq!(content(&ground, &[copy]).await.unwrap(), [OLD, MORE, MORE].concat());
        assert_eq!(ground.published().await.len(), 2);
    }
}

#[tokio::test]
async fn what_is_written_on_brings_back_what_was_removed() {
    for by_lookup in [false, true] {
        let ground = Ground::new();
        let (ours, theirs) = two(&ground, &["f"]).await;
        let (ino, handle) = opened(&ours, &["f"]).await;
        remove(&theirs, ROOT, "f").await;
        if by_lookup {
            ours.writeback().expire();
            assert_eq!(ours.lookup(ROOT, b"f").await, Err(FsError::NotFound));
        } else {
            assert!(!look(&ours, &[ROOT]).await.is_empty());
        }
        assert_eq!(ours.getattr(ino).await.unwrap().nlink, 0);
        append(&ours, ino, handle).await;
        assert_eq!(ours.lookup(ROOT, b"f").await.unwrap(), ours.getattr(ino).await.unwrap());
        let before = ground.grid.publishes.load(Ordering::Relaxed);
        ours.fsync(ino, handle).await.unwrap();
        assert_eq!(ground.grid.publishes.load(Ordering::Relaxed), before + 1);
        assert_eq!(content(&ground, &["f"]).await.unwrap(), both(OLD, MORE));
        assert_eq!(ours.getattr(ino).await.unwrap().nlink, 1);
        assert_eq!(ground.published().await, ["f"]);
        assert_eq!(ours.writeback().status().changes, 0);
    }
}

#[tokio::test]
async fn cutting_a_file_that_was_removed_brings_it_back() {
    let ground = Ground::new();
    let (ours, theirs) = two(&ground, &["f"]).await;
    let (ino, handle) = opened(&ours, &["f"]).await;
    remove(&theirs, ROOT, "f").await;
    look(&ours, &[ROOT]).await;
    ours.setattr(ino, SetAttr { size: Some(10), ..SetAttr::default() }).await.unwrap();
    ours.flush(ino, handle).await.unwrap();
    assert_eq!(content(&ground, &["f"]).await.unwrap(), OLD[..10]);
}

#[tokio::test]
async fn who_does_not_write_leaves_a_removal_alone() {
    let ground = Ground::new();
    let (ours, theirs) = two(&ground, &["f"]).await;
    let (ino, handle) = opened(&ours, &["f"]).await;
    remove(&theirs, ROOT, "f").await;
    look(&ours, &[ROOT]).await;
    ours.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    assert_eq!(&*ours.read(ino, handle, 0, 1000).await.unwrap(), OLD);
    ours.flush(ino, handle).await.unwrap();
    ours.release(handle);
    ours.settle().await.unwrap();
    assert_eq!(ground.published().await.len(), 0);
}

#[tokio::test]
async fn what_is_pending_when_a_name_is_taken_is_stored() {
    for removed in [false, true] {
        let ground = Ground::new();
        let (ours, theirs) = two(&ground, &["f"]).await;
        let (ino, handle) = opened(&ours, &["f"]).await;
        append(&ours, ino, handle).await;
        if removed {
            remove(&theirs, ROOT, "f").await
        } else {
            replace(&theirs, ROOT, "f").await
        }
        look(&ours, &[ROOT]).await;
        ours.fsync(ino, handle).await.unwrap();
        // What became of it is told, too.
        look(&ours, &[ROOT]).await;
        let names = ground.published().await;
        let place = names.iter().find(|name| removed || name.contains("conflict")).unwrap();
        assert_eq!(content(&ground, &[place]).await.unwrap(), both(OLD, MORE));
        append(&ours, ino, handle).await;
        ours.flush(ino, handle).await.unwrap();
        ours.release(handle);
        ours.settle().await.unwrap();
        assert_eq!(content(&ground, &[place]).await.unwrap(), [OLD, MORE, MORE].concat());
        assert_eq!(find(&ours, &[place]).await, Some(ino));
        assert_eq!(ground.published().await.len(), names.len());
        assert_eq!(names.len(), if removed { 1 } else { 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_while_attributes_are_published_is_not_lost_with_the_name() {
    let ground = Ground::new();
    let (ours, theirs) = two(&ground, &["f"]).await;
    let (ino, handle) = opened(&ours, &["f"]).await;
    remove(&theirs, ROOT, "f").await;
    ours.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    ground.grid.publishes_take(Duration::from_secs(1));
    let written = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        append(&ours, ino, handle).await;
    };
    let (stored, ()) = tokio::join!(ours.flush(ino, handle), written);
    stored.unwrap();
    ours.release(handle);
    ours.settle().await.unwrap();
    assert_eq!(content(&ground, &["f"]).await, Some(both(OLD, MORE)));
}

#[tokio::test]
async fn what_was_put_back_survives_the_process() {
    let ground = Ground::new();
    let (_, theirs) = two(&ground, &["f", "g"]).await;
    let folder = tempfile::tempdir().unwrap();
    let ours = ground.mount_with(folder.path(), Durability::Local).await;
    ours.writeback().news().listen();
    let ((f, f_handle), (g, g_handle)) = (opened(&ours, &["f"]).await, opened(&ours, &["g"]).await);
    remove(&theirs, ROOT, "f").await;
    replace(&theirs, ROOT, "g").await;
    look(&ours, &[ROOT]).await;
    append(&ours, f, f_handle).await;
    append(&ours, g, g_handle).await;
    drop(ours);
    let again = ground.mount_with(folder.path(), Durability::Local).await;
    again.settle().await.unwrap();
    let names = ground.published().await;
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(content(&ground, &["f"]).await.unwrap(), both(OLD, MORE));
    assert_eq!(content(&ground, &["g"]).await.unwrap(), THEIRS);
    let copy = names.iter().find(|name| name.contains("conflict")).unwrap();
    assert_eq!(content(&ground, &[copy]).await.unwrap(), both(OLD, MORE));
}

#[tokio::test]
async fn a_directory_that_was_removed_is_named_again_for_what_is_written_in_it() {
    for replaced in [false, true] {
        let ground = Ground::new();
        let (ours, theirs) = two(&ground, &["d/f"]).await;
        let (ino, handle) = opened(&ours, &["d", "f"]).await;
        let d = find(&ours, &["d"]).await.unwrap();
        let there = find(&theirs, &["d"]).await.unwrap();
        remove(&theirs, there, "f").await;
        if replaced {
            theirs.mkdir(ROOT, b"other", 0o755, ME).await.unwrap();
            theirs.mv(ROOT, b"other", ROOT, b"d", RenameMode::Replace).await.unwrap();
        } else {
            theirs.rm_dir(ROOT, b"d").await.unwrap();
        }
        theirs.settle().await.unwrap();
        look(&ours, &[ROOT, d]).await;
        assert_eq!(ours.getattr(d).await.unwrap().nlink, 0);
        let made = ours.create(d, b"g", 0o644, ME, WRITE).await;
        assert_eq!(made.map(drop), Err(FsError::NotFound), "as in any directory that was removed");
        append(&ours, ino, handle).await;
        ours.flush(ino, handle).await.unwrap();
        let names = ground.published().await;
        assert_eq!(names.len(), if replaced { 2 } else { 1 }, "{names:?}");
        let name = names.iter().find(|name| !replaced || name.contains("conflict")).unwrap();
        assert_eq!(content(&ground, &[name, "f"]).await.unwrap(), both(OLD, MORE));
        assert_eq!(find(&ours, &[name]).await, Some(d), "it is the same directory");
        assert_eq!(find(&ours, &[name, "f"]).await, Some(ino));
        write(&ours, d, "g", OLD).await;
        ours.settle().await.unwrap();
        assert_eq!(content(&ground, &[name, "g"]).await.unwrap(), OLD);
    }
}

#[tokio::test]
async fn what_was_removed_here_goes_with_the_last_close() {
    let ground = Ground::new();
    let (ours, theirs) = two(&ground, &["d/f", "g"]).await;
    let ((f, f_handle), (g, g_handle)) = (opened(&ours, &["d", "f"]).await, opened(&ours, &["g"]).await);
    let d = find(&ours, &["d"]).await.unwrap();
    let there = find(&theirs, &["d"]).await.unwrap();
    remove(&theirs, there, "f").await;
    look(&ours, &[d]).await;
    // The directory was empty by then.
    ours.rm_dir(ROOT, b"d").await.unwrap();
    ours.rm(ROOT, b"g").await.unwrap();
    ours.settle().await.unwrap();
    append(&ours, f, f_handle).await;
    append(&ours, g, g_handle).await;
    ours.flush(f, f_handle).await.unwrap();
    ours.flush(g, g_handle).await.unwrap();
    assert_eq!(&*ours.read(f, f_handle, 0, 1000).await.unwrap(), both(OLD, MORE));
    assert_eq!(ours.getattr(f).await.unwrap().nlink, 0);
    assert_eq!(ours.getattr(g).await.unwrap().nlink, 0);
    ours.settle().await.unwrap();
    assert_eq!(ground.published().await.len(), 0);
    assert_eq!(ours.writeback().status().changes, 0);
}

#[tokio::test]
async fn a_file_that_comes_back_as_it_was_is_written_on_in_its_place() {
    let ground = Ground::new();
    let (ours, theirs) = two(&ground, &["f"]).await;
    let (ino, handle) = opened(&ours, &["f"]).await;
    for looked_up in [true, false] {
        theirs.mv(ROOT, b"f", ROOT, b"away", RenameMode::Replace).await.unwrap();
        theirs.settle().await.unwrap();
        look(&ours, &[ROOT]).await;
        assert_eq!(ours.getattr(ino).await.unwrap().nlink, 0);
        theirs.mv(ROOT, b"away", ROOT, b"f", RenameMode::Replace).await.unwrap();
        theirs.settle().await.unwrap();
        look(&ours, &[ROOT]).await;
        if looked_up {
            assert_eq!(find(&ours, &["f"]).await, Some(ino));
        }
    }
    append(&ours, ino, handle).await;
    ours.flush(ino, handle).await.unwrap();
    assert_eq!(ground.published().await, ["f"]);
    assert_eq!(content(&ground, &["f"]).await.unwrap(), both(OLD, MORE));
}

/// The birth id of a file in the root.
fn id(ground: &Ground, name: &str) -> serde_json::Value {
    ground.grid.child(&ground.root, name).unwrap().metadata.map()["tahoefs"]["id"].clone()
}

#[tokio::test]
async fn a_conflict_copy_is_another_file_from_then_on() {
    for is_pending in [false, true] {
        let ground = Ground::new();
        let (ours, theirs) = two(&ground, &["f"]).await;
        let (ino, handle) = opened(&ours, &["f"]).await;
        if is_pending {
            append(&ours, ino, handle).await;
        }
        let (f, there) = opened(&theirs, &["f"]).await;
        theirs.write(f, there, 0, Bytes::from_static(THEIRS)).await.unwrap();
        theirs.release(there);
        theirs.settle().await.unwrap();
        if !is_pending {
            look(&ours, &[ROOT]).await;
            append(&ours, ino, handle).await;
        }
        ours.flush(ino, handle).await.unwrap();
        let copy = ground.published().await.into_iter().find(|name| name.contains("(conflict ")).unwrap();
        assert_ne!(id(&ground, &copy), id(&ground, "f"), "pending: {is_pending}");
        // Also when it is changed again, and its content is that of the other.
        ours.setattr(ino, SetAttr { size: Some(0), ..SetAttr::default() }).await.unwrap();
        ours.write(ino, handle, 0, Bytes::from_static(THEIRS)).await.unwrap();
        ours.release(handle);
        ours.settle().await.unwrap();
        assert_ne!(id(&ground, &copy), id(&ground, "f"), "pending: {is_pending}");
        let later = ground.mount().await;
        let (one, other) = (find(&later, &["f"]).await.unwrap(), find(&later, &[&copy]).await.unwrap());
        assert_ne!(one, other);
        assert_eq!((later.getattr(one).await.unwrap().nlink, later.getattr(other).await.unwrap().nlink), (1, 1));
    }
}
