//! Mutable files on servers in memory: what comes back, what the servers hold, and what happens when they fail.

use std::sync::Arc;

use bytes::Bytes;
use tahoefs::cap::{MutableCap, MutableFormat};
use tahoefs::mutable::{Breadth, MutableFile};
use tahoefs::node::{BytesSource, Changes, FileVersion, NodeError, Readable, Source, Writeable};
use tahoefs::share::{SdmfShare, Version};
use tahoefs::storage::fault::Method;

use crate::grids::{Servers, cx, key, put_share};
use crate::mutable_vectors::{cases, check_blocks};
use crate::vectors::load;

async fn create(servers: &Servers, content: &'static [u8]) -> MutableFile {
    let grid = servers.client(3, 5);
    MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, Bytes::from_static(content)).await.unwrap()
}

/// The same file, opened by a client that knows nothing of it.
fn reopen(servers: &Servers, file: &MutableFile) -> MutableFile {
    MutableFile::new(servers.client(3, 5), file.cap().clone())
}

fn append(what: &'static [u8]) -> impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, NodeError> + Send {
    move |old| Ok(Some([old, what].concat()))
}

async fn content(file: &MutableFile) -> Vec<u8> {
    file.read_best(&cx()).await.unwrap().1.to_vec()
}

#[tokio::test]
async fn a_new_file_reads_back_and_grows() {
    let servers = Servers::new(5);
    let file = create(&servers, b"one").await;
    assert_eq!(content(&reopen(&servers, &file)).await, b"one");
    for (i, server) in servers.0.iter().enumerate() {
        assert_eq!(server.inner().share_numbers(file.cap().storage_index()).len(), 1, "server {i}");
    }
    file.modify(&cx(), append(b" two")).await.unwrap();
    let other = reopen(&servers, &file);
    assert_eq!(content(&other).await, b"one two");
    other.modify(&cx(), append(b" three")).await.unwrap();
    // The first client still believes in its own version: its tests fail, and it reads again.
    file.modify(&cx(), append(b" four")).await.unwrap();
    let (version, bytes) = reopen(&servers, &file).read_best(&cx()).await.unwrap();
    assert_eq!((version.header.seqnum, &bytes[..]), (4, &b"one two three four"[..]));
}

#[tokio::test]
async fn the_next_change_costs_one_round() {
    let servers = Servers::new(5);
    let file = create(&servers, b"").await;
    let calls = |method| servers.0.iter().map(|s| s.calls(method)).sum::<u64>();
    let before = (calls(Method::ListShares), calls(Method::ReadShare), calls(Method::ReadTestWrite));
    file.modify(&cx(), append(b"x")).await.unwrap();
    file.modify(&cx(), append(b"y")).await.unwrap();
    let after = (calls(Method::ListShares), calls(Method::ReadShare), calls(Method::ReadTestWrite));
    assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (0, 0, 10));
}

#[tokio::test]
async fn ranges_are_read_and_patched() {
    let servers = Servers::new(5);
    let file = create(&servers, b"0123456789").await;
    file.update(&cx(), 8, Bytes::from_static(b"abc")).await.unwrap();
    let other = reopen(&servers, &file);
    assert_eq!(other.size(&cx()).await.unwrap(), 11);
    let read = other.read(&cx(), &[0..3, 7..100, 50..60, 4..4]).await.unwrap();
    assert_eq!(read, [&b"012"[..], b"7abc", b"", b""]);
    other.overwrite(&cx(), Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(content(&file).await, b"new");
    assert!(matches!(
        MutableFile::new(servers.client(3, 5), file.cap().readonly()).overwrite(&cx(), Bytes::new()).await,
        Err(NodeError::NotWriteable)
    ));
}

#[tokio::test]
async fn several_ranges_and_the_size_become_one_version() {
    let servers = Servers::new(5);
    let file = create(&servers, b"0123456789").await;
    let first = file.file_version(&cx()).await.unwrap().unwrap();
    assert_eq!((first.seqnum, first.size), (1, 10));
    let source: Arc<dyn Source> = Arc::new(BytesSource(Bytes::from_static(b"ABCDEFGHIJKLMNOP")));
    let changes = Changes::new(source, vec![1..3, 8..12], Some(14));
    let second = file.write(&cx(), Some(&first), &changes).await.unwrap();
    assert_eq!((second.seqnum, second.size), (2, 14));
    let other = reopen(&servers, &file);
    assert_eq!(content(&other).await, b"0BC34567IJKL\0\0");
    assert_eq!(other.file_version(&cx()).await.unwrap(), Some(second.clone()));
    // The base is old by now: nothing is written.
    for object in [&other, &file, &reopen(&servers, &file)] {
        let error = object.write(&cx(), Some(&first), &changes).await.unwrap_err();
        assert_eq!(error, NodeError::Changed(second.clone()));
        assert_eq!(content(&reopen(&servers, &file)).await, b"0BC34567IJKL\0\0");
    }
    let third = other.write(&cx(), Some(&second), &Changes::resize(4)).await.unwrap();
    assert_eq!(content(&reopen(&servers, &file)).await, b"0BC3");
    // An object that remembers an older version than the base.
    let fourth = file.write(&cx(), Some(&third), &Changes::resize(6)).await.unwrap();
    assert_eq!(content(&reopen(&servers, &file)).await, b"0BC3\0\0");
    assert!(fourth > third && third > second && second > first);
    // A base that cannot be found: what is newest is out of reach.
    let lost = FileVersion { seqnum: 9, ..fourth };
    assert!(matches!(
        file.write(&cx(), Some(&lost), &Changes::resize(0)).await,
        Err(NodeError::NotEnoughShares { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_writers_lose_nothing() {
    let servers = Arc::new(Servers::new(5));
    let first = Arc::new(create(&servers, b"").await);
    let second = Arc::new(reopen(&servers, &first));
    let writer = |file: Arc<MutableFile>, mark: u8| async move {
        for _ in 0..6 {
            file.modify(&cx(), |old: &[u8]| Ok(Some([old, &[mark]].concat()))).await.unwrap();
        }
    };
    let (a, b) = tokio::join!(tokio::spawn(writer(Arc::clone(&first), b'a')), tokio::spawn(writer(second, b'b')));
    a.and(b).unwrap();
    let mut all = content(&reopen(&servers, &first)).await;
    all.sort_unstable();
    assert!(all.iter().filter(|b| **b == b'a').count() >= 6, "{}", all.escape_ascii());
    assert!(all.iter().filter(|b| **b == b'b').count() >= 6, "{}", all.escape_ascii());
}

/// The reference's shares, as many as the vectors hold of each file, on ten servers.
async fn read_vectors(file: &str, format: MutableFormat) -> usize {
    let mut read = 0;
    for case in cases(&load(file)) {
        let servers = Servers::new(10);
        let cap = MutableCap::from_write_key(format, case.write_key.clone(), case.fingerprint);
        for (number, bytes) in &case.shares {
            put_share(&servers, *number as usize % 10, &cap, *number, bytes.clone()).await;
        }
        let needed = case.json["k"].as_u64().unwrap() as usize;
        let expected = case.content();
        for cap in [cap.clone(), cap.readonly()] {
            let file = MutableFile::new(servers.client(3, 10), cap);
            let best = file.read_best(&cx()).await;
            if case.shares.len() < needed {
                let needed = if case.shares.is_empty() { 3 } else { needed };
                assert_eq!(
                    best.err(),
                    Some(NodeError::NotEnoughShares { found: case.shares.len(), needed, all_answered: true })
                );
                continue;
            }
            let (version, content) = best.unwrap_or_else(|e| panic!("{}: {e}", case.json["length"]));
            case.check_header(&version.header);
            assert_eq!(content, expected);
            assert_eq!(file.size(&cx()).await.unwrap(), expected.len() as u64);
            read += 1;
        }
        // Ranges, by a reader that has not read the whole.
        if case.shares.len() >= needed {
            let file = MutableFile::new(servers.client(3, 10), cap.readonly());
            let size = expected.len() as u64;
            let ranges =
                [0..size, 0..1, size / 3..size / 2, 126..131, size.saturating_sub(1)..size + 9, size + 1..size + 2];
            let read = file.read(&cx(), &ranges).await.unwrap();
            for (range, bytes) in ranges.iter().zip(read) {
                let start = range.start.min(size) as usize;
                assert_eq!(bytes, expected[start..range.end.clamp(start as u64, size) as usize], "{range:?} of {size}");
            }
        }
    }
    read
}

#[tokio::test]
async fn sdmf_shares_of_the_reference_are_read() {
    assert_eq!(read_vectors("sdmf.json", MutableFormat::Sdmf).await, 2 * 7);
}

#[tokio::test]
async fn mdmf_shares_of_the_reference_are_read() {
    assert_eq!(read_vectors("mdmf.json", MutableFormat::Mdmf).await, 2 * 11);
}

#[tokio::test]
async fn what_the_servers_hold_verifies() {
    for (needed, total, length) in [(1, 1, 0), (3, 10, 0), (3, 10, 1), (2, 3, 100_000), (7, 9, 70), (4, 4, 13)] {
        let servers = Servers::new(4);
        let content: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
        let grid = servers.client(needed, total);
        let file = MutableFile::create(grid, &cx(), key(1), MutableFormat::Sdmf, content.clone().into()).await.unwrap();
        let shares = servers.shares(file.cap().storage_index());
        assert_eq!(shares.len(), usize::from(total));
        // Spread as evenly as can be.
        let load = |server| shares.iter().filter(|(s, _, _)| *s == server).count();
        assert!((0..4).all(|s| load(s).abs_diff(usize::from(total) / 4) <= 1));
        for (_, number, bytes) in &shares {
            let share = SdmfShare::parse(bytes).unwrap();
            assert_eq!(share.build().unwrap(), *bytes);
            let version = Version::parse(bytes).unwrap();
            assert_eq!(version.end(), bytes.len() as u64);
            check_blocks(&version, *number, bytes, &file.cap().read_key().unwrap(), &content);
        }
        let (_, read) = MutableFile::new(servers.client(3, 10), file.cap().readonly()).read_best(&cx()).await.unwrap();
        assert_eq!(read, content);
    }
}

#[tokio::test]
async fn a_shorter_version_leaves_nothing_behind() {
    let servers = Servers::new(5);
    let file = create(&servers, &[b'x'; 5000]).await;
    file.overwrite(&cx(), Bytes::from_static(b"short")).await.unwrap();
    let shares = servers.shares(file.cap().storage_index());
    assert!(shares.iter().all(|(_, _, bytes)| bytes.len() as u64 == Version::parse(bytes).unwrap().end()));
    assert_eq!(content(&reopen(&servers, &file)).await, b"short");
}

#[tokio::test]
async fn probing_tells_of_newer_versions() {
    let servers = Servers::new(5);
    let file = create(&servers, b"").await;
    let other = reopen(&servers, &file);
    let (first, _) = other.read_best(&cx()).await.unwrap();
    assert!(!other.newer_than(&cx(), &first, Breadth::Wide).await.unwrap());
    file.modify(&cx(), append(b"x")).await.unwrap();
    let second = file.version().unwrap();
    assert!(!file.newer_than(&cx(), &second, Breadth::Wide).await.unwrap());
    assert!(other.newer_than(&cx(), &first, Breadth::Wide).await.unwrap());
}

#[tokio::test]
async fn large_contents_come_back() {
    let servers = Servers::new(5);
    let content: Bytes = (0..9_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let grid = servers.client(3, 5);
    let file = MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, content.clone()).await.unwrap();
    assert!(reopen(&servers, &file).read_best(&cx()).await.unwrap().1 == content);
    let part = reopen(&servers, &file).read(&cx(), std::slice::from_ref(&(4_000_000..4_000_010))).await.unwrap();
    assert_eq!(part[0], content[4_000_000..4_000_010]);
}
