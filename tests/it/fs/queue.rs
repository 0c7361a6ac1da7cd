//! What waits, what is published, and what failures do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::grid::Fault;
use super::*;

#[tokio::test]
async fn many_changes_cost_one_publish() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    for i in 0..50 {
        write(&fs, ROOT, &format!("f{i}"), b"content").await;
    }
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.publishes.load(Ordering::Relaxed), 1);
    assert_eq!(ground.published().await.len(), 50);
}

#[tokio::test]
async fn what_is_made_and_removed_never_reaches_the_grid() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, ".tmp", &[1; 100]).await;
    fs.mv(ROOT, b".tmp", ROOT, b"final", RenameMode::Replace).await.unwrap();
    write(&fs, ROOT, "gone", &[2; 100]).await;
    fs.rm(ROOT, b"gone").await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["final"]);
    assert_eq!((ground.grid.publishes.load(Ordering::Relaxed), ground.grid.uploads.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_tree_is_born_from_below() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let a = fs.mkdir(ROOT, b"a", 0o755, ME).await.unwrap().ino;
    let b = fs.mkdir(a, b"b", 0o755, ME).await.unwrap().ino;
    let (attr, handle) = fs.create(b, b"f", 0o644, ME, WRITE).await.unwrap();
    fs.write(attr.ino, handle, 0, Bytes::from_static(b"deep")).await.unwrap();
    fs.flush(attr.ino, handle).await.unwrap();
    // One publish for each of the two new directories and the root; closing the file waited for all of them.
    assert_eq!(ground.grid.publishes.load(Ordering::Relaxed), 3);
    let other = ground.mount().await;
    let mut at = ROOT;
    for name in ["a", "b", "f"] {
        at = other.lookup(at, name.as_bytes()).await.unwrap().ino;
    }
    assert_eq!(read(&other, at).await, b"deep");
    fs.release(handle);
}

#[tokio::test(start_paused = true)]
async fn the_background_publishes_within_two_seconds_but_not_what_is_being_written() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    write(&fs, ROOT, "closed", b"c").await;
    let (attr, handle) = fs.create(ROOT, b"open", 0o644, ME, WRITE).await.unwrap();
    fs.write(attr.ino, handle, 0, Bytes::from_static(b"o")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2600)).await;
    assert_eq!(ground.published().await, ["closed"]);
    fs.release(handle);
    tokio::time::sleep(Duration::from_millis(2600)).await;
    assert_eq!(ground.published().await, ["closed", "open"]);
    running.abort();
}

#[tokio::test]
async fn a_failure_is_told_kept_and_tried_again() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let (attr, handle) = fs.create(ROOT, b"f", 0o644, ME, WRITE).await.unwrap();
    fs.write(attr.ino, handle, 0, Bytes::from_static(&[9; 100])).await.unwrap();
    ground.grid.fail(&[Fault::Refuse]);
    assert_eq!(fs.flush(attr.ino, handle).await, Err(FsError::NoSpace));
    let status = fs.writeback().status();
    assert_eq!((status.changes, status.files, status.bytes, status.failures.len()), (1, 1, 100, 1));
    assert_eq!(ground.published().await.len(), 0);
    assert_eq!(read(&fs, attr.ino).await, [9; 100]);
    ground.grid.fail(&[Fault::Refuse]);
    fs.release(handle);
    assert!(fs.settle().await.is_err());
    fs.settle().await.unwrap();
    assert_eq!(fs.writeback().status().changes, 0);
    assert_eq!(ground.published().await, ["f"]);
}

#[tokio::test]
async fn a_publish_whose_answer_is_lost_is_no_conflict() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let ino = write(&fs, ROOT, "f", &[1; 100]).await;
    ground.grid.fail(&[Fault::ApplyThenFail, Fault::Refuse]);
    // The upload meets the refusal first, then the publish is applied and said to have failed.
    assert!(fs.settle().await.is_err());
    assert!(fs.settle().await.is_err());
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 0, Bytes::from_static(&[2; 100])).await.unwrap();
    fs.release(handle);
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["f"]);
    let other = ground.mount().await;
    let ino = other.lookup(ROOT, b"f").await.unwrap().ino;
    assert_eq!(read(&other, ino).await, [2; 100]);
}

#[tokio::test]
async fn a_rename_across_directories_links_before_it_unlinks() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let a = fs.mkdir(ROOT, b"a", 0o755, ME).await.unwrap().ino;
    let b = fs.mkdir(ROOT, b"b", 0o755, ME).await.unwrap().ino;
    let c = fs.mkdir(ROOT, b"c", 0o755, ME).await.unwrap().ino;
    write(&fs, a, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    fs.mv(a, b"f", b, b"f", RenameMode::Replace).await.unwrap();
    fs.mv(b, b"f", c, b"g", RenameMode::Replace).await.unwrap();
    write(&fs, a, "f", b"a new file under the old name").await;
    // However many publishes fail, another client finds the content under one name at least.
    for failures in 0..4 {
        ground.grid.fail(&vec![Fault::Refuse; failures]);
        let _ = fs.settle().await;
        let other = ground.mount().await;
        let mut found = 0;
        for (dir, name) in [(&b"a"[..], &b"f"[..]), (b"c", b"g")] {
            let dir = other.lookup(ROOT, dir).await.unwrap().ino;
            if let Ok(attr) = other.lookup(dir, name).await
                && read(&other, attr.ino).await == [1; 100]
            {
                found += 1;
            }
        }
        assert!(found >= 1, "after {failures} failures the file is gone");
    }
    fs.settle().await.unwrap();
    let other = ground.mount().await;
    let a = other.lookup(ROOT, b"a").await.unwrap().ino;
    let f = other.lookup(a, b"f").await.unwrap().ino;
    assert_eq!(read(&other, f).await, b"a new file under the old name");
}

#[tokio::test]
async fn two_different_files_under_one_name_both_stay() {
    let ground = Ground::new();
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    ours.opendir(ROOT).await.unwrap();
    theirs.opendir(ROOT).await.unwrap();
    write(&theirs, ROOT, "report.txt", b"theirs").await;
    theirs.settle().await.unwrap();
    write(&ours, ROOT, "report.txt", b"ours").await;
    ours.settle().await.unwrap();
    let names = ground.published().await;
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names.contains(&"report.txt".to_owned())
            && names.iter().any(|n| n.contains("(conflict") && n.ends_with("box).txt"))
    );
    let other = ground.mount().await;
    let ino = other.lookup(ROOT, b"report.txt").await.unwrap().ino;
    assert_eq!(read(&other, ino).await, b"theirs");
    let told = ours.writeback().status().conflicts;
    let told: Vec<_> = told.iter().map(|c| (c.path.as_str(), c.kept_as.as_deref())).collect();
    assert_eq!(told, [("report.txt", names.iter().map(String::as_str).find(|name| name.contains("(conflict")))]);
    assert!(theirs.writeback().status().conflicts.is_empty());
}

#[tokio::test]
async fn changed_beats_removed() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let ino = write(&fs, ROOT, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    let theirs = ground.mount().await;
    theirs.rm(ROOT, b"f").await.unwrap();
    theirs.settle().await.unwrap();
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 0, Bytes::from_static(&[2; 100])).await.unwrap();
    fs.release(handle);
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["f"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_goes_only_after_the_new_one_is_there_although_somebody_writes() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let a = fs.mkdir(ROOT, b"a", 0o755, ME).await.unwrap().ino;
    let b = fs.mkdir(ROOT, b"b", 0o755, ME).await.unwrap().ino;
    let ino = write(&fs, a, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.mv(a, b"f", b, b"f", RenameMode::Replace).await.unwrap();
    // The new name waits until the file is closed.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let other = ground.mount().await;
    let place = |dir: &'static [u8]| {
        let other = &other;
        async move {
            let dir = other.lookup(ROOT, dir).await.unwrap().ino;
            other.lookup(dir, b"f").await.map(|attr| attr.size)
        }
    };
    assert_eq!((place(b"a").await, place(b"b").await), (Ok(100), Err(FsError::NotFound)));
    fs.release(handle);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((place(b"a").await, place(b"b").await), (Err(FsError::NotFound), Ok(100)));
    running.abort();
}

#[tokio::test]
async fn what_was_cut_off_does_not_come_back() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, "f", &[1; 100]).await;
    fs.settle().await.unwrap();
    // Of a mount that begins, all is on the grid.
    let fs = ground.mount().await;
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    let resize = |size| SetAttr { size: Some(size), ..SetAttr::default() };
    fs.setattr(ino, resize(10)).await.unwrap();
    fs.setattr(ino, resize(50)).await.unwrap();
    assert_eq!(read(&fs, ino).await, [&[1; 10][..], &[0; 40]].concat());
    fs.settle().await.unwrap();
    let other = ground.mount().await;
    let ino = other.lookup(ROOT, b"f").await.unwrap().ino;
    assert_eq!(read(&other, ino).await, [&[1; 10][..], &[0; 40]].concat());
}

#[tokio::test]
async fn a_publish_that_finds_itself_is_no_conflict() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, "changed", b"old").await;
    write(&fs, ROOT, "removed", b"r").await;
    fs.settle().await.unwrap();
    write(&fs, ROOT, "new", b"n").await;
    write(&fs, ROOT, ".changed.tmp", b"newest").await;
    fs.mv(ROOT, b".changed.tmp", ROOT, b"changed", RenameMode::Replace).await.unwrap();
    fs.mkdir(ROOT, b"dir", 0o755, ME).await.unwrap();
    fs.rm(ROOT, b"removed").await.unwrap();
    ground.grid.fail(&[Fault::ApplyTwice]);
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["changed", "dir", "new"]);
    let other = ground.mount().await;
    let changed = other.lookup(ROOT, b"changed").await.unwrap().ino;
    assert_eq!(read(&other, changed).await, b"newest");
}

#[tokio::test]
async fn what_is_renamed_back_is_there_though_nobody_knows_how_its_publish_ended() {
    for ends in [false, true] {
        let (ground, folder) = (Ground::new(), tempfile::tempdir().unwrap());
        let mut fs = ground.mount_with(folder.path(), Durability::Local).await;
        write(&fs, ROOT, "a", b"content").await;
        fs.settle().await.unwrap();
        fs.mv(ROOT, b"a", ROOT, b"b", RenameMode::Replace).await.unwrap();
        ground.grid.fail(&[Fault::ApplyThenFail]);
        assert!(fs.settle().await.is_err());
        assert_eq!(ground.published().await, ["b"]);
        if ends {
            drop(fs);
            fs = ground.mount_with(folder.path(), Durability::Local).await;
        }
        fs.mv(ROOT, b"b", ROOT, b"a", RenameMode::Replace).await.unwrap();
        fs.settle().await.unwrap();
        assert_eq!(ground.published().await, ["a"], "{ends}");
        let a = ground.mount().await.lookup(ROOT, b"a").await.unwrap();
        assert_eq!(a.size, 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_that_is_still_written_keeps_its_old_name_on_the_grid() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let log = write(&fs, ROOT, "log", b"first").await;
    fs.settle().await.unwrap();
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    let handle = fs.open(log, WRITE).await.unwrap();
    fs.write(log, handle, 5, Bytes::from_static(b"more")).await.unwrap();
    fs.mv(ROOT, b"log", ROOT, b"log.1", RenameMode::Replace).await.unwrap();
    write(&fs, ROOT, "other", b"other").await;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(ground.published().await, ["log", "other"]);
    let publishes = ground.grid.publishes.load(Ordering::Relaxed);
    fs.release(handle);
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["log.1", "other"]);
    assert_eq!(ground.grid.publishes.load(Ordering::Relaxed), publishes + 1);
    running.abort();
}

#[tokio::test]
async fn a_rename_that_cannot_be_linked_holds_up_nothing_else() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let (p, q) =
        (fs.mkdir(ROOT, b"p", 0o755, ME).await.unwrap().ino, fs.mkdir(ROOT, b"q", 0o755, ME).await.unwrap().ino);
    write(&fs, p, "moves", b"content").await;
    fs.settle().await.unwrap();
    fs.mv(p, b"moves", q, b"moved", RenameMode::Replace).await.unwrap();
    let (attr, handle) = fs.create(p, b"other", 0o644, ME, WRITE).await.unwrap();
    fs.write(attr.ino, handle, 0, Bytes::from_static(b"other")).await.unwrap();
    let there = ground.grid.child(&ground.root, "q").unwrap().cap;
    ground.grid.hide(&there, true);
    fs.flush(attr.ino, handle).await.unwrap();
    let p = ground.grid.child(&ground.root, "p").unwrap().cap;
    assert!(ground.grid.child(&p, "other").is_some() && ground.grid.child(&p, "moves").is_some());
    fs.release(handle);
    ground.grid.hide(&there, false);
    fs.settle().await.unwrap();
    assert!(ground.grid.child(&p, "moves").is_none());
}

#[tokio::test]
async fn a_truncated_file_is_cut_whatever_looks_at_it_meanwhile() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    for size in (1..40).rev() {
        let ino = write(&fs, ROOT, &format!("f{size}"), &[7; 100]).await;
        fs.settle().await.unwrap();
        fs.lookup(ROOT, format!("f{size}").as_bytes()).await.unwrap();
        let cut = fs.setattr(ino, SetAttr { size: Some(size), ..SetAttr::default() });
        let look = async {
            for _ in 0..300 {
                fs.lookup(ROOT, format!("f{size}").as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (cut, ()) = tokio::join!(cut, look);
        assert_eq!(cut.unwrap().size, size);
        assert_eq!(fs.getattr(ino).await.unwrap().size, size);
        fs.settle().await.unwrap();
        let name = format!("f{size}");
        assert_eq!(ground.mount().await.lookup(ROOT, name.as_bytes()).await.unwrap().size, size);
    }
}
