//! Mutable files on servers in memory: what comes back, what the servers hold, and what happens when they fail.

use std::sync::Arc;

use bytes::Bytes;
use tahoefs::cap::MutableFormat;
use tahoefs::mutable::MutableFile;
use tahoefs::node::{NodeError, Readable, Writeable};
use tahoefs::storage::fault::Method;

use crate::grids::{Servers, cx, key};

async fn create(servers: &Servers, content: &'static [u8]) -> MutableFile {
    let grid = servers.client(3, 5);
    MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, Bytes::from_static(content))
        .await
        .unwrap()
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
        assert_eq!(
            server.inner().share_numbers(file.cap().storage_index()).len(),
            1,
            "server {i}"
        );
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
    let before = (
        calls(Method::ListShares),
        calls(Method::ReadShare),
        calls(Method::ReadTestWrite),
    );
    file.modify(&cx(), append(b"x")).await.unwrap();
    file.modify(&cx(), append(b"y")).await.unwrap();
    let after = (
        calls(Method::ListShares),
        calls(Method::ReadShare),
        calls(Method::ReadTestWrite),
    );
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
        MutableFile::new(servers.client(3, 5), file.cap().readonly())
            .overwrite(&cx(), Bytes::new())
            .await,
        Err(NodeError::NotWriteable)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_writers_lose_nothing() {
    let servers = Arc::new(Servers::new(5));
    let first = Arc::new(create(&servers, b"").await);
    let second = Arc::new(reopen(&servers, &first));
    let writer = |file: Arc<MutableFile>, mark: u8| async move {
        for _ in 0..6 {
            file.modify(&cx(), |old: &[u8]| Ok(Some([old, &[mark]].concat())))
                .await
                .unwrap();
        }
    };
    let (a, b) = tokio::join!(
        tokio::spawn(writer(Arc::clone(&first), b'a')),
        tokio::spawn(writer(second, b'b'))
    );
    a.and(b).unwrap();
    let mut all = content(&reopen(&servers, &first)).await;
    all.sort_unstable();
    assert!(
        all.iter().filter(|b| **b == b'a').count() >= 6,
        "{}",
        all.escape_ascii()
    );
    assert!(
        all.iter().filter(|b| **b == b'b').count() >= 6,
        "{}",
        all.escape_ascii()
    );
}
