//! Holes and copies.

use super::*;

fn place(ino: Ino, handle: Handle, offset: u64) -> Place {
    Place { ino, handle, offset }
}

#[tokio::test]
async fn a_copy_of_a_whole_stored_file_is_no_upload() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let content: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let from = write(&fs, ROOT, "from", &content).await;
    // Once past the barrier, when the journal has let go of it, and once before.
    for (name, pieces) in [("early", 1), ("whole", 1), ("pieces", 3)] {
        fs.writeback().settle(tahoefs::writeback::Scope::All).await.unwrap();
        if name != "early" {
            fs.settle().await.unwrap();
        }
        let uploads = ground.grid.uploads.load(std::sync::atomic::Ordering::Relaxed);
        let source = fs.open(from, READ).await.unwrap();
        let (attr, target) = fs.create(ROOT, name.as_bytes(), 0o644, ME, WRITE).await.unwrap();
        for piece in 0..pieces {
            let (at, length) = (300_000 / pieces * piece, 300_000 / pieces);
            let copied = fs.copy_range(place(from, source, at), place(attr.ino, target, at), length).await;
            assert_eq!(copied, Ok(length));
        }
        assert_eq!(fs.copy_range(place(from, source, 300_000), place(attr.ino, target, 300_000), 9).await, Ok(0));
        fs.release(source);
        fs.release(target);
        fs.settle().await.unwrap();
        assert!(read(&fs, attr.ino).await == content, "{name}");
        assert_eq!(ground.grid.uploads.load(std::sync::atomic::Ordering::Relaxed), uploads, "{name}");
    }
    let again = ground.mount().await;
    let ino = again.lookup(ROOT, b"pieces").await.unwrap().ino;
    assert!(read(&again, ino).await == content);
}

#[tokio::test]
async fn a_shared_copy_that_is_changed_is_a_file_of_its_own() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let from = write(&fs, ROOT, "from", &[7; 200_000]).await;
    fs.settle().await.unwrap();
    let source = fs.open(from, READ).await.unwrap();
    let (attr, target) = fs.create(ROOT, b"to", 0o644, ME, WRITE).await.unwrap();
    fs.copy_range(place(from, source, 0), place(attr.ino, target, 0), 200_000).await.unwrap();
    fs.write(attr.ino, target, 100, Bytes::from_static(b"x")).await.unwrap();
    fs.allocate(place(attr.ino, target, 1000), 99_000, Allocation::Zero, false).await.unwrap();
    fs.release(target);
    fs.settle().await.unwrap();
    let again = ground.mount().await;
    let mut expected = vec![7; 200_000];
    expected[100] = b'x';
    expected[1000..100_000].fill(0);
    let ino = again.lookup(ROOT, b"to").await.unwrap().ino;
    assert!(read(&again, ino).await == expected);
    let ino = again.lookup(ROOT, b"from").await.unwrap().ino;
    assert!(read(&again, ino).await == vec![7; 200_000]);
}

#[tokio::test]
async fn holes_and_shared_content_outlive_the_process() {
    let ground = Ground::new();
    let folder = ground.local.path().join("journal");
    let fs = ground.mount_with(&folder, Durability::Local).await;
    let from = write(&fs, ROOT, "from", &[7; 200_000]).await;
    fs.settle().await.unwrap();
    ground.grid.hang_from(Some(1));
    let source = fs.open(from, READ).await.unwrap();
    let (attr, target) = fs.create(ROOT, b"to", 0o644, ME, WRITE).await.unwrap();
    fs.copy_range(place(from, source, 0), place(attr.ino, target, 0), 150_000).await.unwrap();
    fs.allocate(place(attr.ino, target, 50_000), 20_000, Allocation::Zero, false).await.unwrap();
    fs.write(attr.ino, target, 60_000, Bytes::from_static(b"in the hole")).await.unwrap();
    drop(fs);
    let fs = ground.mount_with(&folder, Durability::Local).await;
    let mut expected = vec![7; 150_000];
    expected[50_000..70_000].fill(0);
    expected[60_000..60_011].copy_from_slice(b"in the hole");
    let ino = fs.lookup(ROOT, b"to").await.unwrap().ino;
    assert!(read(&fs, ino).await == expected);
}

#[tokio::test]
async fn a_hole_in_a_mutable_file_is_written_as_zeros() {
    let (ground, cap) = super::mutable::with_file(&["f"], &[1; 5000]);
    let fs = ground.mount().await;
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.allocate(place(ino, handle, 1000), 500, Allocation::Zero, false).await.unwrap();
    fs.allocate(place(ino, handle, 4900), 200, Allocation::Zero, true).await.unwrap();
    fs.write(ino, handle, 1100, Bytes::from_static(b"x")).await.unwrap();
    let mut expected = vec![1; 5100];
    expected[1000..1500].fill(0);
    expected[4900..].fill(0);
    expected[1100] = b'x';
    assert!(read(&fs, ino).await == expected);
    fs.flush(ino, handle).await.unwrap();
    assert!(ground.grid.content(&cap) == expected);
    assert!(ground.grid.written.load(std::sync::atomic::Ordering::Relaxed) <= 700);
    assert!(read(&fs, ino).await == expected);
    fs.release(handle);
}

#[tokio::test]
async fn zeros_that_are_written_need_room() {
    const HALF: u64 = 4 << 20;
    let ground = Ground::new();
    let first = ground.mount().await;
    write(&first, ROOT, "f", &[7; 2 * HALF as usize]).await;
    first.settle().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = JournalOptions { limit: 2 << 20, floor: 0 };
    let opened = Journal::open(folder.path(), &JournalKey::new([1; 32]), options).unwrap();
    let fs = ground.mount_over(opened, Durability::Local).await;
    let ino = fs.lookup(ROOT, b"f").await.unwrap().ino;
    let handle = fs.open(ino, WRITE).await.unwrap();
    for hole in 0..1024 {
        fs.allocate(place(ino, handle, hole * 4096), 100, Allocation::Zero, false).await.unwrap();
    }
    // No more holes than that are kept.
    assert_eq!(fs.allocate(place(ino, handle, HALF), HALF, Allocation::Zero, false).await, Err(FsError::NoSpace));
    assert!(fs.writeback().journal().usage().bytes <= 2 << 20);
    fs.allocate(place(ino, handle, HALF), 1000, Allocation::Zero, false).await.unwrap();
    let read = fs.read(ino, handle, HALF - 4096, 8192).await.unwrap();
    let expected = [&[0; 100][..], &[7; 3996], &[0; 1000], &[7; 3096]].concat();
    assert!(*read == expected);
    // What is a hole already takes no room.
    fs.allocate(place(ino, handle, 0), HALF, Allocation::Zero, false).await.unwrap();
    assert!(fs.read(ino, handle, 0, HALF as u32).await.unwrap().iter().all(|byte| *byte == 0));
}
