//! Other clients, other descriptors and other writers at the same time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tahoefs::node::{Edit, Expect, Metadata, Timestamp};

use super::*;

const REWRITE: OpenMode = OpenMode { write: true, truncate: true };
/// Longer than the age at which a table is asked for again.
const LATER: Duration = Duration::from_secs(11);

async fn dir(fs: &Filesystem, name: &str) -> Ino {
    fs.mkdir(ROOT, name.as_bytes(), 0o755, ME).await.unwrap().ino
}

/// What a mount that comes later reads at a path.
async fn content(ground: &Ground, path: &[&str]) -> Option<Vec<u8>> {
    let other = ground.mount().await;
    let mut at = ROOT;
    for name in path {
        at = other.lookup(at, name.as_bytes()).await.ok()?.ino;
    }
    Some(read(&other, at).await)
}

/// Another mount replaces the content of a file in the root.
async fn replaced_elsewhere(ground: &Ground, name: &str, content: &'static [u8]) {
    let theirs = ground.mount().await;
    let ino = theirs.lookup(ROOT, name.as_bytes()).await.unwrap().ino;
    let handle = theirs.open(ino, REWRITE).await.unwrap();
    theirs.write(ino, handle, 0, Bytes::from_static(content)).await.unwrap();
    theirs.release(handle);
    theirs.settle().await.unwrap();
}

async fn chmod(fs: &Filesystem, ino: Ino) {
    fs.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn names_swapped_across_directories_are_published() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let (a, b) = (dir(&fs, "a").await, dir(&fs, "b").await);
    write(&fs, a, "x", &[1; 100]).await;
    write(&fs, b, "x", &[2; 100]).await;
    fs.settle().await.unwrap();
    fs.mv(a, b"x", b, b"tmp", RenameMode::Replace).await.unwrap();
    fs.mv(b, b"x", a, b"x", RenameMode::Replace).await.unwrap();
    fs.mv(b, b"tmp", b, b"x", RenameMode::Replace).await.unwrap();
    fs.fsyncdir(a).await.unwrap();
    fs.fsyncdir(b).await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(fs.writeback().status().changes, 0);
    assert_eq!(content(&ground, &["a", "x"]).await.unwrap(), [2; 100]);
    assert_eq!(content(&ground, &["b", "x"]).await.unwrap(), [1; 100]);
}

#[tokio::test]
async fn a_file_goes_on_under_the_name_that_a_conflict_gave_it() {
    let ground = Ground::new();
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    ours.opendir(ROOT).await.unwrap();
    write(&theirs, ROOT, "r", b"theirs").await;
    theirs.settle().await.unwrap();
    let (attr, handle) = ours.create(ROOT, b"r", 0o644, ME, WRITE).await.unwrap();
    ours.write(attr.ino, handle, 0, Bytes::from_static(b"ours")).await.unwrap();
    ours.fsync(attr.ino, handle).await.unwrap();
    assert_eq!(ground.published().await.len(), 2, "what fsync returned is on the grid");
    ours.write(attr.ino, handle, 4, Bytes::from_static(b" more")).await.unwrap();
    ours.flush(attr.ino, handle).await.unwrap();
    ours.release(handle);
    ours.settle().await.unwrap();
    let names = ground.published().await;
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(content(&ground, &["r"]).await.unwrap(), b"theirs");
    let copy = names.iter().find(|name| name.contains("conflict")).unwrap();
    assert_eq!(content(&ground, &[copy]).await.unwrap(), b"ours more");
}

#[tokio::test]
async fn a_listing_does_not_bring_back_what_was_unlinked() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    let handle = fs.opendir(ROOT).await.unwrap();
    let entries = fs.readdir(handle, false).await.unwrap();
    fs.rm(ROOT, b"f").await.unwrap();
    let listed = entries.iter().find(|l| l.name == b"f").unwrap();
    assert_eq!(fs.attach(ROOT, listed).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_attributes_does_not_revert_anothers_content() {
    let ground = Ground::new();
    let ours = ground.mount().await;
    let ino = write(&ours, ROOT, "f", &[1; 100]).await;
    ours.settle().await.unwrap();
    replaced_elsewhere(&ground, "f", &[2; 100]).await;
    tokio::time::sleep(LATER).await;
    // Anything in the directory refreshes its table; f itself is not looked up again, as with an open descriptor.
    let _ = ours.lookup(ROOT, b"other").await;
    chmod(&ours, ino).await;
    ours.settle().await.unwrap();
    assert_eq!(content(&ground, &["f"]).await.unwrap(), [2; 100]);
    assert_eq!(ground.published().await, ["f"]);
}

#[tokio::test(start_paused = true)]
async fn writing_on_does_not_overwrite_anothers_content() {
    let ground = Ground::new();
    let ours = ground.mount().await;
    let ino = write(&ours, ROOT, "f", &[1; 100]).await;
    ours.settle().await.unwrap();
    let handle = ours.open(ino, WRITE).await.unwrap();
    replaced_elsewhere(&ground, "f", &[2; 100]).await;
    tokio::time::sleep(LATER).await;
    let _ = ours.lookup(ROOT, b"other").await;
    ours.write(ino, handle, 100, Bytes::from_static(&[3; 100])).await.unwrap();
    ours.flush(ino, handle).await.unwrap();
    assert_eq!(content(&ground, &["f"]).await.unwrap(), [2; 100]);
    assert_eq!(ground.published().await.len(), 2, "ours stays beside theirs");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_attributes_does_not_bring_back_what_another_removed() {
    let ground = Ground::new();
    let ours = ground.mount().await;
    let ino = write(&ours, ROOT, "f", &[1; 100]).await;
    let kept = write(&ours, ROOT, "kept", &[1; 100]).await;
    ours.settle().await.unwrap();
    let theirs = ground.mount().await;
    theirs.rm(ROOT, b"f").await.unwrap();
    theirs.settle().await.unwrap();
    chmod(&ours, ino).await;
    ours.settle().await.unwrap();
    assert_eq!(ground.published().await, ["kept"], "before it was seen to be gone");
    tokio::time::sleep(LATER).await;
    assert_eq!(ours.lookup(ROOT, b"f").await, Err(FsError::NotFound));
    chmod(&ours, ino).await;
    chmod(&ours, kept).await;
    ours.settle().await.unwrap();
    assert_eq!(ground.published().await, ["kept"], "and after");
}

#[tokio::test]
async fn removing_one_of_two_names_keeps_the_changes_made_inside() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let d = dir(&fs, "d").await;
    write(&fs, d, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    let root = Factory(Arc::clone(&ground.grid)).directory(&ground.root).unwrap();
    let cx = Cx::new(Priority::Waiting, 1 << 20);
    let cap = root.snapshot(&cx, Freshness::Newest).await.unwrap().entries["d"].cap.clone();
    let metadata = Some(Metadata::default());
    root.modify(&cx, &[Edit::Link { name: "e".into(), cap, metadata, expect: Expect::Anything }]).await.unwrap();
    let fs = ground.mount().await;
    let d = fs.lookup(ROOT, b"d").await.unwrap().ino;
    fs.rm(d, b"f").await.unwrap();
    fs.rm_dir(ROOT, b"d").await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(content(&ground, &["e", "f"]).await, None);
}

#[tokio::test]
async fn fsync_waits_until_a_conflict_is_settled() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let ino = write(&fs, ROOT, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    let theirs = ground.mount().await;
    theirs.rm(ROOT, b"f").await.unwrap();
    theirs.settle().await.unwrap();
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 0, Bytes::from_static(&[2; 100])).await.unwrap();
    fs.fsync(ino, handle).await.unwrap();
    assert_eq!(ground.published().await, ["f"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_a_file_open_keeps_what_was_opened() {
    let ground = Ground::new();
    let ours = ground.mount().await;
    let ino = write(&ours, ROOT, "f", &[1; 100]).await;
    ours.settle().await.unwrap();
    ours.lookup(ROOT, b"f").await.unwrap();
    let handle = ours.open(ino, READ).await.unwrap();
    replaced_elsewhere(&ground, "f", &[2; 300]).await;
    tokio::time::sleep(LATER).await;
    let fresh = ours.lookup(ROOT, b"f").await.unwrap();
    assert!(fresh.ino != ino && fresh.size == 300);
    assert_eq!(ours.getattr(ino).await.unwrap().size, 100);
    assert_eq!(&*ours.read(ino, handle, 0, 1000).await.unwrap(), [1; 100]);
}

#[tokio::test]
async fn a_page_of_a_map_keeps_its_place_whatever_handle_it_comes_by() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let ino = write(&fs, ROOT, "f", &[1; 8192]).await;
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write_page(ino, handle, 0, Bytes::from_static(&[2; 4096])).await.unwrap();
    assert_eq!(fs.getattr(ino).await.unwrap().size, 8192);
    fs.append(ino, handle, 0, Bytes::from_static(&[3; 10])).await.unwrap();
    assert_eq!(fs.getattr(ino).await.unwrap().size, 8202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn fsync_beside_a_writer_keeps_its_word() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let (attr, handle) = fs.create(ROOT, b"log", 0o644, ME, WRITE).await.unwrap();
    let written = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (fs, written) = (Arc::clone(&fs), Arc::clone(&written));
        async move {
            for i in 0..20_000 {
                fs.write(attr.ino, handle, i * 10, Bytes::from_static(&[1; 10])).await.unwrap();
                written.store((i + 1) * 10, Ordering::SeqCst);
            }
        }
    });
    for n in 0..20 {
        for i in 0..12 {
            write(&fs, ROOT, &format!("b{n}-{i}"), &[4; 200]).await;
        }
        let before = written.load(Ordering::SeqCst);
        fs.fsync(attr.ino, handle).await.unwrap();
        let on_grid = content(&ground, &["log"]).await.map_or(0, |c| c.len() as u64);
        assert!(on_grid >= before.min(1 << 20), "{on_grid} of {before} bytes");
    }
    writer.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_flush_of_everything_ends_beside_writers() {
    let ground = Ground::new();
    ground.grid.publishes_take(Duration::from_millis(20));
    let fs = ground.mount().await;
    let mut writers = Vec::new();
    for n in 0..3 {
        let (attr, handle) = fs.create(ROOT, format!("log{n}").as_bytes(), 0o644, ME, WRITE).await.unwrap();
        let fs = Arc::clone(&fs);
        writers.push(tokio::spawn(async move {
            for i in 0u64.. {
                fs.write(attr.ino, handle, i % 1000, Bytes::from_static(&[1; 100])).await.unwrap();
            }
        }));
    }
    for _ in 0..3 {
        fs.settle().await.unwrap();
    }
    writers.iter().for_each(|writer| writer.abort());
    let publishes = ground.grid.publishes.load(Ordering::Relaxed);
    assert!(publishes < 40, "{publishes} publishes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_time_of_a_cut_is_not_lost_to_who_looks() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let ino = write(&fs, ROOT, "f", &[1; 10]).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let lookers: Vec<_> = (0..2)
        .map(|_| {
            let (fs, is_over) = (Arc::clone(&fs), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    fs.lookup(ROOT, b"f").await.unwrap();
                }
            })
        })
        .collect();
    for size in 0..3000 {
        let epoch = SetTime::At(Timestamp::from_nanos(0));
        fs.setattr(ino, SetAttr { mtime: Some(epoch), ..SetAttr::default() }).await.unwrap();
        let cut = fs.setattr(ino, SetAttr { size: Some(size), ..SetAttr::default() }).await.unwrap();
        let later = fs.getattr(ino).await.unwrap();
        assert!(cut.mtime.secs > 0 && later.mtime == cut.mtime, "cut {size}: {:?}, then {:?}", cut.mtime, later.mtime);
    }
    is_over.store(true, Ordering::SeqCst);
    for looker in lookers {
        looker.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_has_put_under_a_name_is_neither_moved_nor_removed_for_what_stood_there_before() {
    for is_published in [false, true] {
        let ground = Ground::new();
        let (ours, theirs) = (ground.mount().await, ground.mount().await);
        let ino = write(&ours, ROOT, "f", b"ours").await;
        let open = ours.open(ino, READ).await.unwrap();
        if is_published {
            ours.settle().await.unwrap();
            tokio::time::advance(Duration::from_secs(11)).await;
            theirs.rm(ROOT, b"f").await.unwrap();
        }
        write(&theirs, ROOT, "f", b"theirs").await;
        theirs.settle().await.unwrap();
        // The conflict gives ours another name, or it is open and has none any more; the kernel does not know yet.
        tokio::time::advance(Duration::from_secs(11)).await;
        ours.settle().await.unwrap();
        assert_eq!(ours.unlink(ROOT, b"f").await, Err(FsError::Stale));
        assert_eq!(ours.rename(ROOT, b"f", ROOT, b"g", RenameMode::Replace).await, Err(FsError::Stale));
        let found = ours.lookup(ROOT, b"f").await.unwrap().ino;
        assert_ne!(found, ino);
        ours.rename(ROOT, b"f", ROOT, b"g", RenameMode::Replace).await.unwrap();
        assert_eq!((read(&ours, found).await, read(&ours, ino).await), (b"theirs".to_vec(), b"ours".to_vec()));
        ours.release(open);
    }
}
