//! Blocks of files on disk: what was read once is read again without the servers, and never anything else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tahoefs::cache::{BlockCache, Blocks};
use tahoefs::cap::ChkCap;
use tahoefs::crypto::ReadKey;
use tahoefs::immutable::Reader;
use tahoefs::node::Readable;
use tahoefs::storage::fault::Method;
use tahoefs::util::{Clock, Rng};

use crate::testgrid::{TestGrid, cx, encoding, read, read_all};
use crate::vectors::data;

const SEGMENT: u64 = 600;

/// A reader of a process that has just started, with the blocks in `folder`.
fn reader(grid: &TestGrid, cap: &ChkCap, folder: &Path) -> Reader {
    let kept = Blocks::open(folder.join("blocks"), 1 << 30, Clock::system(), Rng::os()).unwrap();
    let memory = Arc::new(BlockCache::new(1 << 20));
    Reader::new(Arc::clone(&grid.grid), cap.clone(), memory).with_kept(Some(&Arc::new(kept)))
}

/// Waits until so many blocks stand in `folder`.
async fn await_blocks(folder: &Path, count: usize) {
    let complete = |entry: &std::fs::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
    let there = || std::fs::read_dir(folder.join("blocks")).unwrap().flatten().filter(complete).count();
    while there() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(there(), count);
}

fn requests(grid: &TestGrid) -> u64 {
    grid.stores.iter().map(|store| store.calls(Method::ReadShare) + store.calls(Method::ListShares)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_needs_no_server_after_a_restart() {
    let (grid, folder) = (TestGrid::new(3, encoding(2, 3, 3, SEGMENT)), tempfile::tempdir().unwrap());
    let content = data("kept", 5 * SEGMENT as usize + 100);
    let (cap, _) = grid.upload(&content).await;
    let first = reader(&grid, &cap, folder.path());
    assert_eq!(read_all(&first, cap.size).await.unwrap(), content);
    await_blocks(folder.path(), 6).await;
    drop(first);
    let before = requests(&grid);
    grid.stores.iter().for_each(|store| store.set_down(true));
    let again = reader(&grid, &cap, folder.path());
    let tail = 4 * SEGMENT + 10..cap.size;
    assert_eq!(read(&again, tail.clone()).await.unwrap(), content[tail.start as usize..]);
    assert_eq!(read_all(&again, cap.size).await.unwrap(), content);
    assert_eq!(requests(&grid), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_read_comes_from_the_servers() {
    let (grid, folder) = (TestGrid::new(3, encoding(2, 3, 3, SEGMENT)), tempfile::tempdir().unwrap());
    let content = data("half kept", 8 * SEGMENT as usize);
    let (cap, _) = grid.upload(&content).await;
    let first = reader(&grid, &cap, folder.path());
    assert_eq!(read(&first, 0..10).await.unwrap(), content[..10]);
    await_blocks(folder.path(), 1).await;
    let again = reader(&grid, &cap, folder.path());
    assert_eq!(read_all(&again, cap.size).await.unwrap(), content);
    await_blocks(folder.path(), 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_and_other_capabilities_are_read_from_the_servers() {
    let (grid, folder) = (TestGrid::new(3, encoding(2, 3, 3, SEGMENT)), tempfile::tempdir().unwrap());
    let content = data("damaged", 3 * SEGMENT as usize);
    let (cap, _) = grid.upload(&content).await;
    read_all(&reader(&grid, &cap, folder.path()), cap.size).await.unwrap();
    await_blocks(folder.path(), 3).await;
    for entry in std::fs::read_dir(folder.path().join("blocks")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let before = requests(&grid);
    assert_eq!(read_all(&reader(&grid, &cap, folder.path()), cap.size).await.unwrap(), content);
    assert!(requests(&grid) > before);
    await_blocks(folder.path(), 3).await;
    // A capability with the same hashes and another key is of another file.
    let other = ChkCap { key: ReadKey::new([9; 16]), ..cap.clone() };
    assert!(reader(&grid, &other, folder.path()).read(&cx(), std::slice::from_ref(&(0..10))).await.is_err());
    assert_eq!(read(&reader(&grid, &cap, folder.path()), 0..10).await.unwrap(), Bytes::copy_from_slice(&content[..10]));
}
