//! Downloads of immutable files from servers that fail, stall and lie.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tahoefs::cache::BlockCache;
use tahoefs::cap::{ChkCap, StorageIndex};
use tahoefs::crypto::secrets::LeaseSecrets;
use tahoefs::crypto::{LeaseSecret, ReadKey, WriteEnabler};
use tahoefs::grid::{Grid, Server, ServerInfo};
use tahoefs::immutable::Reader;
use tahoefs::node::{NodeError, Readable};
use tahoefs::storage::fault::{Fault, Method};
use tahoefs::storage::{
    Allocation, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareKind, ShareNumber, StorageError, StorageServer,
    TestWrite, UploadSecret,
};
use tahoefs::util::{Clock, Cpu, Cx, Rng, Stopped};

use crate::testgrid::{Store, TestGrid, cx, encoding, read, read_all};
use crate::vectors::data;

fn not_enough(found: usize, needed: usize) -> NodeError {
    NodeError::NotEnoughShares { found, needed, all_answered: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_k_shares_suffice_and_fewer_do_not() {
    let grid = TestGrid::new(5, encoding(3, 5, 6, 500));
    let content = data("any k", 1800);
    let (cap, _) = grid.upload(&content).await;
    let si = cap.storage_index();
    let shares = grid.share_bytes(si);
    for chosen in 0u32..1 << 6 {
        grid.retain(si, |_| false);
        for (&number, share) in shares.iter().filter(|(number, _)| chosen >> **number & 1 == 1) {
            grid.put(number as usize % 5, si, number, share).await;
        }
        let good = chosen.count_ones() as usize;
        let expected = if good >= 3 { Ok(Bytes::from(content.clone())) } else { Err(not_enough(good, 3)) };
        assert_eq!(grid.download(&cap).await, expected, "{chosen:b}");
    }
}

/// One share is wrong at one byte, whichever: the others serve. With only k - 1 beside it there is the content or an
/// error, and never anything else.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_byte_anywhere_is_noticed() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 60));
    let content = data("a wrong byte", 150);
    let (cap, _) = grid.upload(&content).await;
    let si = cap.storage_index();
    let share = grid.share_bytes(si)[&0].clone();
    let mut noticed = 0;
    for at in 0..share.len() {
        grid.edit(si, 0, |share| share[at] ^= 1 << (at % 8));
        assert_eq!(grid.download(&cap).await.unwrap(), content, "byte {at}");
        grid.edit(si, 0, |share| share[at] ^= 1 << (at % 8));
    }
    grid.retain(si, |share| share != 2);
    for at in 0..share.len() {
        grid.edit(si, 0, |share| share[at] ^= 1 << (at % 8));
        match grid.download(&cap).await {
            Ok(read) => assert_eq!(read, content, "byte {at}"),
            Err(error) => {
                assert_eq!(error, not_enough(1, 2), "byte {at}");
                noticed += 1;
            }
        }
        grid.edit(si, 0, |share| share[at] ^= 1 << (at % 8));
    }
    // All but the sizes that nobody reads, the unused tree, and offsets that other shares' hashes stand in for.
    assert!(noticed * 2 > share.len(), "{noticed} of {}", share.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_cut_short_anywhere_is_noticed() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 60));
    let content = data("cut short", 150);
    let (cap, _) = grid.upload(&content).await;
    let si = cap.storage_index();
    let share = grid.share_bytes(si)[&0].clone();
    for keep in 0..share.len() {
        grid.edit(si, 0, |bytes| *bytes = share[..keep].to_vec());
        assert_eq!(grid.download(&cap).await.unwrap(), content, "{keep} bytes kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn corruption_is_reported() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
    let (cap, _) = grid.upload(&[1; 1000]).await;
    let si = cap.storage_index();
    // Of the first byte of its block, just behind the header.
    grid.edit(si, 0, |share| share[0x24] ^= 1);
    grid.edit(si, 1, |share| share[0x24] ^= 1);
    assert_eq!(grid.download(&cap).await.unwrap_err(), not_enough(1, 2));
    let advisories = || grid.stores.iter().flat_map(|s| s.inner().advisories()).collect::<Vec<_>>();
    while advisories().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told: BTreeSet<ShareNumber> = advisories().iter().map(|a| a.share).collect();
    assert_eq!(told, BTreeSet::from([0, 1]));
    assert!(advisories().iter().all(|a| a.storage_index == si && a.reason.contains("block")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_block_spoils_one_segment_of_one_share() {
    let grid = TestGrid::new(2, encoding(1, 2, 2, 100));
    let content = data("one segment", 400);
    let (cap, _) = grid.upload(&content).await;
    let si = cap.storage_index();
    grid.edit(si, 0, |share| share[0x24 + 150] ^= 1);
    grid.edit(si, 1, |share| share[0x24 + 250] ^= 1);
    let reader = grid.reader(&cap);
    assert_eq!(read_all(&reader, 400).await.unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn lying_servers_are_seen_through() {
    let grid = TestGrid::new(4, encoding(2, 4, 4, 300));
    let content = data("lies", 1000);
    let (cap, _) = grid.upload(&content).await;
    let (other, _) = grid.upload(&data("other lies", 1000)).await;
    let (si, shares) = (cap.storage_index(), grid.share_bytes(cap.storage_index()));
    // Another number's share, another file's, nothing at all, and numbers that there are not.
    grid.edit(si, 0, |share| *share = shares[&1].to_vec());
    let foreign = grid.share_bytes(other.storage_index())[&1].to_vec();
    grid.edit(si, 1, |share| share.clone_from(&foreign));
    assert_eq!(grid.download(&cap).await.unwrap(), content);
    grid.edit(si, 1, Vec::clear);
    grid.put(0, si, 4, &shares[&2]).await;
    grid.put(0, si, 70_000, &shares[&3]).await;
    assert_eq!(grid.download(&cap).await.unwrap(), content);
    grid.retain(si, |share| share != 3);
    assert_eq!(grid.download(&cap).await.unwrap_err(), not_enough(1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_answers_cost_one_server_each() {
    let faults = [
        Fault::Corrupt(0x40),
        Fault::Short(0),
        Fault::Short(40),
        Fault::Short(200),
        Fault::Fail(StorageError::NoSuchShare),
        Fault::Fail(StorageError::Io("a disk".into())),
        Fault::Fail(StorageError::Unreachable("gone".into())),
    ];
    for fault in faults {
        let grid = TestGrid::new(5, encoding(3, 5, 5, 400));
        let content = data("faulty answers", 3000);
        let (cap, _) = grid.upload(&content).await;
        grid.stores[0].always(Some(Method::ReadShare), fault.clone());
        grid.stores[3].always(Some(Method::ReadShare), fault.clone());
        assert_eq!(grid.download(&cap).await.unwrap(), content, "{fault:?}");
        grid.stores[1].always(Some(Method::ReadShare), fault.clone());
        assert!(matches!(grid.download(&cap).await, Err(NodeError::NotEnoughShares { needed: 3, .. })), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_failure_is_tried_again() {
    let grid = TestGrid::new(2, encoding(2, 2, 2, 1 << 20));
    let (cap, _) = grid.upload(&[3; 1000]).await;
    grid.stores.iter().for_each(|s| s.next(Some(Method::ReadShare), 1, Fault::Fail(StorageError::Io("once".into()))));
    assert_eq!(grid.download(&cap).await.unwrap(), [3; 1000][..]);
}

#[tokio::test(start_paused = true)]
async fn slow_servers_are_overtaken() {
    for fault in [Fault::Delay(Duration::from_secs(10)), Fault::Hang] {
        let grid = TestGrid::new(4, encoding(2, 4, 4, 400));
        let content = data("slow", 3000);
        let (cap, _) = grid.upload(&content).await;
        grid.stores[0].always(None, fault.clone());
        grid.stores[1].always(Some(Method::ReadShare), fault.clone());
        let began = tokio::time::Instant::now();
        let reader = grid.reader(&cap);
        assert_eq!(read_all(&reader, 3000).await.unwrap(), content, "{fault:?}");
        assert!(began.elapsed() < Duration::from_secs(4), "{fault:?} cost {:?}", began.elapsed());
        let began = tokio::time::Instant::now();
        assert_eq!(grid.download(&cap).await.unwrap(), content);
        assert!(began.elapsed() < Duration::from_secs(1), "a server known to be slow is asked last");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_share_may_still_win() {
    let grid = TestGrid::new(2, encoding(2, 2, 2, 400));
    let (cap, _) = grid.upload(&[4; 1000]).await;
    grid.stores[0].always(Some(Method::ReadShare), Fault::Delay(Duration::from_secs(9)));
    assert_eq!(read(&grid.reader(&cap), 0..10).await.unwrap(), [4; 10][..]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_allowed() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 400));
    let (cap, _) = grid.upload(&[5; 1000]).await;
    grid.stores.iter().for_each(|s| s.always(None, Fault::Hang));
    let reader = grid.reader(&cap);
    let began = tokio::time::Instant::now();
    let outcome = reader.read(&cx().with_timeout(Duration::from_secs(5)), std::slice::from_ref(&(0..10))).await;
    assert_eq!(outcome.unwrap_err(), NodeError::Stopped(Stopped::Deadline));
    assert!(began.elapsed() <= Duration::from_secs(6));
    // Without a deadline the servers' own limits end it.
    assert_eq!(grid.download(&cap).await.unwrap_err(), not_enough(0, 2));
    let cx = cx();
    cx.cancel();
    let outcome = reader.read(&cx, std::slice::from_ref(&(0..10))).await;
    assert_eq!(outcome.unwrap_err(), NodeError::Stopped(Stopped::Cancelled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grid_that_comes_back_is_used_again() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 400));
    let content = data("comes back", 10_000);
    let (cap, _) = grid.upload(&content).await;
    let reader = grid.reader(&cap);
    grid.stores.iter().for_each(|s| s.set_down(true));
    assert_eq!(read(&reader, 0..500).await.unwrap_err(), not_enough(0, 2));
    grid.stores.iter().for_each(|s| s.clear());
    assert_eq!(read(&reader, 0..500).await.unwrap(), content[..500]);
    grid.stores.iter().for_each(|s| s.set_down(true));
    assert!(read(&reader, 9_900..9_950).await.is_err());
    assert_eq!(read(&reader, 100..400).await.unwrap(), content[100..400], "what is cached needs no server");
    grid.stores.iter().for_each(|s| s.clear());
    assert!(read(&reader, 0..10_000).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_far_down_the_list_are_found() {
    let grid = TestGrid::new(30, encoding(2, 2, 2, 400));
    let content = data("far down", 1000);
    let (cap, _) = grid.upload(&content).await;
    let (si, shares) = (cap.storage_index(), grid.share_bytes(cap.storage_index()));
    grid.retain(si, |_| false);
    let permuted = grid.grid.permuted(si);
    for (at, share) in [(28, 0), (29, 1)] {
        let store: usize = permuted[at].info().id.strip_prefix("v0-").unwrap().parse().unwrap();
        grid.put(store, si, share, &shares[&share]).await;
    }
    assert_eq!(grid.download(&cap).await.unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_few_servers_are_asked_as_suffice() {
    let grid = TestGrid::new(30, encoding(1, 1, 1, 400));
    let (cap, _) = grid.upload(&[6; 1000]).await;
    let listed = |grid: &TestGrid| grid.stores.iter().map(|s| s.calls(Method::ListShares)).sum::<u64>();
    let before = listed(&grid);
    assert_eq!(grid.download(&cap).await.unwrap(), [6; 1000][..]);
    assert!(listed(&grid) - before <= 22, "{}", listed(&grid) - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_and_empty_ranges_need_no_server() {
    let grid = TestGrid::new(0, encoding(1, 1, 1, 400));
    let cap = ChkCap { key: ReadKey::new([1; 16]), ueb_hash: [2; 32], needed: 3, total: 10, size: 0 };
    assert_eq!(grid.download(&cap).await.unwrap(), "");
    let cap = ChkCap { size: 100, ..cap };
    let reader = grid.reader(&cap);
    assert_eq!(reader.read(&cx(), &[5..5, 100..200]).await.unwrap(), ["", ""]);
    assert_eq!(reader.size(&cx()).await, Ok(100));
    assert_eq!(read(&reader, 5..6).await.unwrap_err(), not_enough(0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_caps_are_errors() {
    let grid = TestGrid::new(2, encoding(1, 2, 2, 100));
    let (cap, _) = grid.upload(&[7; 1000]).await;
    // The key stays, so the shares are found; nothing else fits.
    for (needed, total, size) in [
        (0, 0, 1000),
        (3, 2, 1000),
        (1, 257, 1000),
        (u32::MAX, u32::MAX, 1000),
        (2, 2, 1000),
        (1, 2, u64::MAX),
        (1, 2, 1 << 60),
        (1, 2, 999),
        (1, 2, 1001),
    ] {
        let cap = ChkCap { needed, total, size, ..cap.clone() };
        let outcome = read(&grid.reader(&cap), 0..1000).await;
        assert!(
            outcome.is_err() || size > 1000 && outcome == Ok(vec![7; 1000].into()),
            "{needed} {total} {size}: {outcome:?}"
        );
        let end = read(&grid.reader(&cap), size.saturating_sub(1)..size).await;
        assert!(end.is_err(), "{needed} {total} {size}: {end:?}");
    }
    let cap = ChkCap { ueb_hash: [0; 32], ..cap };
    assert_eq!(grid.download(&cap).await.unwrap_err(), not_enough(0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cache_serves_many_files_and_confuses_none() {
    let grid = TestGrid::new(2, encoding(1, 2, 2, 100));
    let cache = Arc::new(BlockCache::new(1 << 20));
    let reader = |cap: &ChkCap| Reader::new(Arc::clone(&grid.grid), cap.clone(), Arc::clone(&cache));
    let (one, _) = grid.upload(&[8; 500]).await;
    let (two, _) = grid.upload(&[9; 500]).await;
    assert_eq!(read(&reader(&one), 0..500).await.unwrap(), [8; 500][..]);
    assert_eq!(read(&reader(&two), 0..500).await.unwrap(), [9; 500][..]);
    // A cap with the hashes of one file and another's key must not yield what is cached for either.
    let forged = ChkCap { key: two.key.clone(), ..one };
    assert!(read(&reader(&forged), 0..500).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_segment_is_fetched_once_for_all() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
    let (cap, _) = grid.upload(&data("once for all", 100_000)).await;
    grid.stores.iter().for_each(|s| s.always(Some(Method::ReadShare), Fault::Delay(Duration::from_millis(30))));
    let reader = grid.reader(&cap);
    let outcomes = futures::future::join_all((0..20).map(|i| read(&reader, i * 1000..i * 1000 + 10))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let reads: u64 = grid.stores.iter().map(|s| s.calls(Method::ReadShare)).sum();
    assert_eq!(reads, 2, "one for each of k shares");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_reader_finds_the_next_segment_there() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1000));
    let content = data("sequential", 10_000);
    let (cap, _) = grid.upload(&content).await;
    let reader = grid.reader(&cap);
    assert_eq!(read(&reader, 0..100).await.unwrap(), content[..100]);
    assert_eq!(read(&reader, 1000..1100).await.unwrap(), content[1000..1100]);
    for _ in 0..400 {
        if grid.stores.iter().map(|s| s.calls(Method::ReadShare)).sum::<u64>() >= 6 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    grid.stores.iter().for_each(|s| s.set_down(true));
    assert_eq!(read(&reader, 2000..3000).await.unwrap(), content[2000..3000]);
    assert!(read(&reader, 8000..9000).await.is_err());
}

/// A server that counts what is read from it.
struct Counting {
    inner: Arc<Store>,
    bytes: Arc<AtomicU64>,
    ranges: Arc<AtomicU64>,
}

#[async_trait]
impl StorageServer for Counting {
    async fn status(&self, cx: &Cx) -> Result<ServerStatus, StorageError> {
        self.inner.status(cx).await
    }

    async fn list_shares(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        self.inner.list_shares(cx, kind, si).await
    }

    async fn allocate(
        &self,
        cx: &Cx,
        si: StorageIndex,
        shares: &BTreeSet<ShareNumber>,
        size: u64,
        secret: &UploadSecret,
        lease: &LeaseSecrets,
    ) -> Result<Allocation, StorageError> {
        self.inner.allocate(cx, si, shares, size, secret, lease).await
    }

    async fn write_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
        offset: u64,
        data: Bytes,
    ) -> Result<bool, StorageError> {
        self.inner.write_share(cx, si, share, secret, offset, data).await
    }

    async fn abort_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError> {
        self.inner.abort_share(cx, si, share, secret).await
    }

    async fn read_share(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        let answer = self.inner.read_share(cx, kind, si, share, ranges).await?;
        self.bytes.fetch_add(answer.iter().map(|b| b.len() as u64).sum(), Ordering::Relaxed);
        self.ranges.fetch_add(ranges.len() as u64, Ordering::Relaxed);
        Ok(answer)
    }

    async fn read_test_write(
        &self,
        cx: &Cx,
        si: StorageIndex,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        shares: &BTreeMap<ShareNumber, TestWrite>,
        read: &[ReadRange],
    ) -> Result<ReadTestWriteAnswer, StorageError> {
        self.inner.read_test_write(cx, si, enabler, lease, shares, read).await
    }

    async fn add_lease(&self, cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError> {
        self.inner.add_lease(cx, si, lease).await
    }

    async fn advise_corrupt(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        self.inner.advise_corrupt(cx, kind, si, share, reason).await
    }

    async fn sync(&self, cx: &Cx) -> Result<(), StorageError> {
        self.inner.sync(cx).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_costs_its_segment_and_some_hashes() {
    const SEGMENT: u64 = 30_000;
    let made = TestGrid::new(4, encoding(3, 4, 4, SEGMENT));
    let content = data("costs", 6_000_000);
    let (cap, _) = made.upload(&content).await;
    let (bytes, ranges) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let server = |(number, store): (usize, &Arc<Store>)| {
        let info = ServerInfo {
            id: format!("v0-{number}"),
            nickname: String::new(),
            tub_id: [0; 20],
            permutation_seed: vec![number as u8],
        };
        let (inner, bytes, ranges) = (Arc::clone(store), Arc::clone(&bytes), Arc::clone(&ranges));
        Arc::new(Server::new(info, Arc::new(Counting { inner, bytes, ranges })))
    };
    let servers = made.stores.iter().enumerate().map(server).collect();
    let lease = LeaseSecret::new([0; 32]);
    let (clock, rng, cpu) = (Clock::system(), Rng::seeded(2), Cpu::per_core());
    let grid = Arc::new(Grid::new(servers, made.grid.encoding(), lease, Vec::new(), clock, rng, cpu));
    let reader = Reader::new(grid, cap, Arc::new(BlockCache::new(64 << 20)));
    let mut spent = (0, 0);
    let mut cost = || {
        let now = (bytes.load(Ordering::Relaxed), ranges.load(Ordering::Relaxed));
        let cost = (now.0 - spent.0, now.1 - spent.1);
        spent = now;
        cost
    };
    // The first read does not know the segment size: it guesses one of 1 MiB, and then reads the right block.
    assert_eq!(read(&reader, 3_000_000..3_000_010).await.unwrap(), content[3_000_000..3_000_010]);
    cost();
    // Far from there: a block and a group of hashes of each of two trees, from each of three shares.
    assert_eq!(read(&reader, 100..200).await.unwrap(), content[100..200]);
    let (far, far_ranges) = cost();
    assert!((SEGMENT..SEGMENT + 3 * 2 * (64 + 8) * 32 + 3 * 2 * 4096).contains(&far), "{far}");
    assert!(far_ranges <= 3 * 5, "{far_ranges}");
    // Not far: a block from each share, and nothing else.
    let at = 20 * SEGMENT;
    assert_eq!(read(&reader, at..at + 10).await.unwrap(), content[at as usize..at as usize + 10]);
    assert_eq!(cost(), (SEGMENT, 3));
    assert_eq!(read(&reader, at + 5..at + 500).await.unwrap(), content[at as usize + 5..at as usize + 500]);
    assert_eq!(cost(), (0, 0), "cached");
}
