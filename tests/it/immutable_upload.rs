//! Uploads of immutable files, with servers that fail, fill up, hang and lie.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use tahoefs::cache::BlockCache;
use tahoefs::crypto::LeaseSecret;
use tahoefs::crypto::secrets::LeaseSecrets;
use tahoefs::immutable::{Reader, Uploaded, Uploader};
use tahoefs::node::{NodeError, Source};
use tahoefs::storage::fault::{Fault, Method, Rule};
use tahoefs::storage::{StorageError, StorageServer, UploadSecret};
use tahoefs::util::Stopped;

use crate::testgrid::{TestGrid, chk, cx, encoding, read, source};
use crate::vectors::data;

fn down() -> StorageError {
    StorageError::Unreachable("down".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_boundary_comes_back() {
    for (k, n, segment) in
        [(1, 1, 60), (1, 4, 64), (3, 3, 60), (3, 10, 60), (5, 7, 100), (100, 256, 1000), (256, 256, 1 << 20)]
    {
        let grid = TestGrid::new(5, encoding(k, 1, n, segment));
        for size in [56, 57, 59, 60, 61, 63, 64, 65, 119, 120, 121, 127, 128, 129, 600, 1000, 1001, 4000] {
            let content = data("boundary", size);
            let (cap, uploaded) = grid.upload(&content).await;
            assert_eq!(uploaded.results.pushed_shares, n as usize);
            assert_eq!(grid.shares(cap.storage_index()).len(), n as usize);
            assert_eq!(
                grid.download(&cap).await.unwrap(),
                content,
                "{k} of {n}, {size} bytes in segments of {segment}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_range_of_any_file_comes_back(
        size in 56usize..20_000,
        (k, n) in (1u16..12).prop_flat_map(|k| (Just(k), k..14)),
        segment in 20u64..6_000,
        servers in 1usize..7,
        cuts in proptest::collection::vec((0u64..21_000, 0u64..21_000), 1..6),
        cache in prop_oneof![Just(0u64), Just(3_000), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let grid = TestGrid::new(servers, encoding(k, 1, n, segment));
            let content = data("any range", size);
            let (cap, _) = grid.upload(&content).await;
            let reader = Reader::new(Arc::clone(&grid.grid), cap, Arc::new(BlockCache::new(cache)));
            let ranges: Vec<_> = cuts.iter().map(|&(a, b)| a.min(b)..a.max(b)).collect();
            let parts = tahoefs::node::Readable::read(&reader, &cx(), &ranges).await.unwrap();
            for (range, part) in ranges.iter().zip(parts) {
                let cut = |at: u64| (at as usize).min(size);
                assert_eq!(part, content[cut(range.start)..cut(range.end)], "{range:?}");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_a_large_file_go_out_in_batches() {
    let grid = TestGrid::new(4, encoding(2, 4, 4, 1 << 20));
    let content = data("large", 9_000_000);
    let (cap, uploaded) = grid.upload(&content).await;
    assert_eq!(grid.download(&cap).await.unwrap(), content);
    assert_eq!(uploaded.results.happiness, 4);
    for store in &grid.stores {
        let writes = store.calls(Method::WriteShare);
        assert!((4..=6).contains(&writes), "{writes} writes of 4.5 MB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_tell_what_happened() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
    let (cap, uploaded) = grid.upload(&[1; 1000]).await;
    let results = uploaded.results;
    assert_eq!((results.file_size, results.pushed_shares, results.preexisting_shares), (1000, 3, 0));
    assert_eq!(results.share_map.len(), 3);
    for (share, stores) in grid.shares(cap.storage_index()) {
        let ids: BTreeSet<String> = stores.iter().map(|n| format!("v0-{n}")).collect();
        assert_eq!(results.share_map[&share], ids);
        assert!(ids.iter().all(|id| results.server_map[id].contains(&share) && results.nicknames.contains_key(id)));
    }
    assert_eq!(results.ueb_hash, Some(cap.ueb_hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_written_again() {
    let grid = TestGrid::new(5, encoding(3, 5, 10, 1 << 20));
    let (cap, _) = grid.upload(&[2; 5000]).await;
    let writes = |grid: &TestGrid| grid.stores.iter().map(|s| s.calls(Method::WriteShare)).sum::<u64>();
    let before = writes(&grid);
    let (again, uploaded) = grid.upload(&[2; 5000]).await;
    assert_eq!(again, cap);
    assert_eq!((uploaded.results.pushed_shares, uploaded.results.preexisting_shares), (0, 10));
    assert_eq!((uploaded.results.happiness, writes(&grid)), (5, before));
    assert!(grid.stores.iter().all(|s| s.calls(Method::Allocate) == 2), "leases are renewed");

    grid.retain(cap.storage_index(), |share| share != 4);
    let (_, uploaded) = grid.upload(&[2; 5000]).await;
    assert_eq!((uploaded.results.pushed_shares, uploaded.results.preexisting_shares), (1, 9));
    assert_eq!(grid.shares(cap.storage_index()).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_servers_count_for_what_they_hold() {
    let grid = TestGrid::new(3, encoding(1, 3, 3, 1 << 20));
    let (cap, _) = grid.upload(&[3; 5000]).await;
    grid.stores.iter().for_each(|s| s.inner().set_capacity(Some(0)));
    let (again, uploaded) = grid.upload(&[3; 5000]).await;
    assert_eq!((again, uploaded.results.pushed_shares, uploaded.results.happiness), (cap, 0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_servers_are_told_from_full_ones() {
    let grid = TestGrid::new(5, encoding(3, 5, 10, 1 << 20));
    grid.stores[1].set_down(true);
    match grid.try_upload(&[4; 5000]).await {
        Err(NodeError::NotEnoughServers { happiness: 4, wanted: 5, reason }) => {
            assert!(reason.contains("store 1"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    grid.stores[1].clear();
    grid.stores[2].inner().set_capacity(Some(100));
    assert_eq!(grid.try_upload(&[4; 5000]).await.unwrap_err(), NodeError::NoSpace);
    nothing_is_left(&grid).await;
    let grid = TestGrid::new(0, encoding(3, 1, 10, 1 << 20));
    assert!(matches!(grid.try_upload(&[4; 5000]).await, Err(NodeError::NotEnoughServers { happiness: 0, .. })));
}

/// No share is visible and no upload goes on.
async fn nothing_is_left(grid: &TestGrid) {
    // Aborts may run in the background.
    for _ in 0..200 {
        if grid.uploads_in_progress() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(grid.uploads_in_progress(), 0);
    assert!(grid.stores.iter().all(|s| s.inner().storage_indexes().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_room_for_some_shares_gets_some() {
    let grid = TestGrid::new(4, encoding(2, 3, 8, 1 << 20));
    // A share of this file is some 3,000 bytes.
    grid.stores[0].inner().set_capacity(Some(4_000));
    let (cap, _) = grid.upload(&data("some room", 5_000)).await;
    assert_eq!(grid.shares(cap.storage_index()).len(), 8, "the rest went elsewhere");
    assert_eq!(grid.stores[0].inner().share_numbers(cap.storage_index()).len(), 1);
    assert_eq!(grid.uploads_in_progress(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_move_on_when_an_allocation_fails() {
    for fault in [Fault::Fail(down()), Fault::AppliedThenFail(down()), Fault::Fail(StorageError::NoSpace)] {
        let grid = TestGrid::new(4, encoding(2, 3, 6, 1 << 20));
        grid.stores[3].always(Some(Method::Allocate), fault);
        let (cap, uploaded) = grid.upload(&data("moves on", 5_000)).await;
        assert_eq!((uploaded.results.pushed_shares, uploaded.results.happiness), (6, 3));
        assert_eq!(grid.shares(cap.storage_index()).len(), 6);
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if grid.uploads_in_progress() == 0 {
                break;
            }
        }
        assert_eq!(grid.uploads_in_progress(), 0, "what the failing server did allocate was given up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_lost_under_way_costs_its_shares() {
    let grid = TestGrid::new(5, encoding(2, 4, 5, 1 << 20));
    let content = data("lost under way", 6_000_000);
    let rule = Rule { method: Some(Method::WriteShare), skip: 1, times: None, fault: Fault::Fail(down()) };
    grid.stores[2].add(rule.clone());
    let (cap, uploaded) = grid.upload(&content).await;
    assert_eq!((uploaded.results.pushed_shares, uploaded.results.happiness), (4, 4));
    assert_eq!(grid.shares(cap.storage_index()).len(), 4);
    assert_eq!(grid.download(&cap).await.unwrap(), content);

    let grid = TestGrid::new(5, encoding(2, 4, 5, 1 << 20));
    grid.stores[2].add(rule.clone());
    grid.stores[4].add(rule);
    match grid.try_upload(&content).await {
        Err(NodeError::NotEnoughServers { happiness: 3, wanted: 4, .. }) => nothing_is_left(&grid).await,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_fail_in_the_middle_are_replaced_where_happiness_needs_it() {
    // Five shares for five of seven servers, all five of which must hold one.
    let grid = TestGrid::new(7, encoding(2, 5, 5, 1 << 20));
    let content = data("replaced", 6_000_000);
    let dry = TestGrid::new(7, encoding(2, 5, 5, 1 << 20));
    let (cap, _) = dry.upload(&content).await;
    let chosen: BTreeSet<usize> = dry.shares(cap.storage_index()).into_values().flatten().collect();
    assert_eq!(chosen.len(), 5);
    let mut chosen = chosen.into_iter();
    let failing: Vec<usize> = chosen.by_ref().take(2).collect();
    let rule = |skip| Rule { method: Some(Method::WriteShare), skip, times: None, fault: Fault::Fail(down()) };
    grid.stores[failing[0]].add(rule(1));
    grid.stores[failing[1]].add(rule(2));
    let (again, uploaded) = grid.upload(&content).await;
    assert_eq!(again, cap);
    assert_eq!((uploaded.results.pushed_shares, uploaded.results.happiness), (5, 5));
    let shares = grid.shares(cap.storage_index());
    let holders: BTreeSet<usize> = shares.values().flatten().copied().collect();
    assert_eq!((shares.len(), holders.len()), (5, 5));
    assert!(failing.iter().all(|store| !holders.contains(store)));
    for (share, stores) in &shares {
        let ids: BTreeSet<String> = stores.iter().map(|n| format!("v0-{n}")).collect();
        assert_eq!(uploaded.results.share_map[share], ids);
    }
    assert_eq!(grid.share_bytes(cap.storage_index()), dry.share_bytes(cap.storage_index()));
    for store in chosen {
        let writes = grid.stores[store].calls(Method::WriteShare);
        assert!(writes <= 4, "what had arrived was not sent again: {writes} writes of 3 MB");
    }
    let left = grid.uploads_in_progress();
    assert_eq!(left, failing.iter().map(|&n| grid.stores[n].inner().uploads_in_progress()).sum::<usize>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_a_small_file_is_replaced_too() {
    let grid = TestGrid::new(4, encoding(2, 3, 3, 1 << 20));
    let dry = TestGrid::new(4, encoding(2, 3, 3, 1 << 20));
    let (cap, _) = dry.upload(&[8; 5000]).await;
    let first = *dry.shares(cap.storage_index())[&0].first().unwrap();
    grid.stores[first].always(Some(Method::WriteShare), Fault::Fail(StorageError::NoSpace));
    let (_, uploaded) = grid.upload(&[8; 5000]).await;
    assert_eq!((uploaded.results.pushed_shares, uploaded.results.happiness), (3, 3));
    assert_eq!(grid.shares(cap.storage_index()).len(), 3);
    assert_eq!(grid.download(&cap).await.unwrap(), [8; 5000][..]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_delays_one_upload_and_the_next_hardly() {
    let grid = TestGrid::new(5, encoding(2, 4, 5, 1 << 20));
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    grid.stores[1].always(None, Fault::Hang);
    let mut took = Vec::new();
    for content in [data("one", 5_000), data("two", 5_000), data("three", 5_000)] {
        let began = tokio::time::Instant::now();
        uploader.upload(&cx(), source(&content)).await.unwrap();
        took.push(began.elapsed());
    }
    assert!(took[0] <= Duration::from_secs(15), "{took:?}");
    assert!(took[1..].iter().all(|t| *t <= Duration::from_secs(1)), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_is_one_write_to_each_server_and_the_limits_are_asked_once() {
    let grid = TestGrid::new(5, encoding(3, 5, 5, 1 << 20));
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    for number in 0..4u8 {
        uploader.upload(&cx(), source(&[number; 10_000])).await.unwrap();
    }
    for store in &grid.stores {
        let calls = [Method::Status, Method::ListShares, Method::Allocate, Method::WriteShare].map(|m| store.calls(m));
        assert_eq!(calls, [1, 0, 4, 4]);
    }
    // One that became full since it was asked refuses, and the others take its share.
    let happy = TestGrid::new(5, encoding(3, 4, 5, 1 << 20));
    let uploader = Uploader::new(Arc::clone(&happy.grid));
    uploader.upload(&cx(), source(&[9; 10_000])).await.unwrap();
    happy.stores[2].inner().set_capacity(Some(0));
    let uploaded = uploader.upload(&cx(), source(&[10; 10_000])).await.unwrap();
    assert_eq!((uploaded.results.pushed_shares, uploaded.results.happiness), (5, 4));
}

/// An uploader that has heard from all servers what they take.
async fn warm(grid: &TestGrid) -> Uploader {
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    uploader.upload(&cx(), source(&[0xaa; 1000])).await.unwrap();
    uploader
}

/// How often all stores together were called, by method.
fn calls(grid: &TestGrid) -> [u64; 5] {
    [Method::Status, Method::ListShares, Method::Allocate, Method::WriteShare, Method::AbortShare]
        .map(|method| grid.stores.iter().map(|s| s.calls(method)).sum())
}

/// Uploads where the servers are asked what they hold, because one of them failed just now.
async fn upload_asking(grid: &TestGrid, content: &[u8]) -> Uploaded {
    let before = calls(grid);
    grid.stores[0].next(Some(Method::Status), 1, Fault::Fail(StorageError::Io("once".into())));
    let uploaded = grid.try_upload(content).await.unwrap();
    assert!(since(grid, before)[1] >= grid.stores.len() as u64, "all were asked");
    uploaded
}

fn since(grid: &TestGrid, before: [u64; 5]) -> [u64; 5] {
    let now = calls(grid);
    std::array::from_fn(|n| now[n] - before[n])
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_have_room_are_not_asked_what_they_hold() {
    for (servers, total) in [(5, 10), (5, 7), (7, 7), (1, 3)] {
        let encoding = encoding(1, servers as u16, total, 1 << 20);
        let (warmed, cold) = (TestGrid::new(servers, encoding), TestGrid::new(servers, encoding));
        let uploader = warm(&warmed).await;
        for number in 0..8u8 {
            let before = calls(&warmed);
            let uploaded = uploader.upload(&cx(), source(&[number; 10_000])).await.unwrap();
            assert_eq!(since(&warmed, before), [0, 0, servers as u64, total.into(), 0]);
            let plain = upload_asking(&cold, &[number; 10_000]).await;
            let cap = chk(&plain.cap);
            assert_eq!(
                (&uploaded.cap, warmed.shares(cap.storage_index())),
                (&plain.cap, cold.shares(cap.storage_index()))
            );
            let (results, plain) = (uploaded.results, plain.results);
            assert_eq!((results.pushed_shares, results.preexisting_shares), (total.into(), 0));
            assert_eq!((results.happiness, results.share_map), (servers, plain.share_map));
        }
    }
    // More servers than shares: some would be asked nothing, and so say nothing of what they hold.
    let grid = TestGrid::new(6, encoding(2, 5, 5, 1 << 20));
    let uploader = warm(&grid).await;
    let before = calls(&grid);
    uploader.upload(&cx(), source(&[1; 10_000])).await.unwrap();
    assert_eq!(since(&grid, before), [0, 6, 5, 5, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_found_without_asking_for_it() {
    let grid = TestGrid::new(5, encoding(3, 5, 10, 1 << 20));
    let (cap, first) = grid.upload(&[2; 5000]).await;
    let uploader = warm(&grid).await;
    let before = calls(&grid);
    let again = uploader.upload(&cx(), source(&[2; 5000])).await.unwrap();
    assert_eq!(since(&grid, before), [0, 0, 5, 0, 0], "one request renews the leases");
    assert_eq!((again.results.pushed_shares, again.results.preexisting_shares), (0, 10));
    assert_eq!((again.results.happiness, again.results.share_map), (5, first.results.share_map));

    grid.retain(cap.storage_index(), |share| share != 4);
    let again = uploader.upload(&cx(), source(&[2; 5000])).await.unwrap();
    assert_eq!((again.results.pushed_shares, again.results.preexisting_shares), (1, 9));
    assert_eq!((grid.shares(cap.storage_index()).len(), grid.uploads_in_progress()), (10, 0));
}

/// What is wrong with the third of five servers, or there already.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Odd {
    /// It holds this share.
    Holds(u32),
    Full,
    RoomForOne,
    Fails,
    LosesAnswers,
    /// Somebody else uploads this share to it.
    Busy(u32),
    Hangs,
    HangsOnAllocate,
}

#[tokio::test(start_paused = true)]
async fn whatever_is_odd_leads_to_where_asking_leads() {
    let content = data("odd", 10_000);
    let dry = TestGrid::new(5, encoding(2, 4, 10, 1 << 20));
    let (cap, _) = dry.upload(&content).await;
    let si = cap.storage_index();
    let bytes = dry.share_bytes(si);
    let odds = (0..10).map(Odd::Holds).chain((0..10).map(Odd::Busy));
    let others = [Odd::Full, Odd::RoomForOne, Odd::Fails, Odd::LosesAnswers, Odd::Hangs, Odd::HangsOnAllocate];
    for odd in odds.chain(others) {
        let (warmed, cold) = (TestGrid::new(5, dry.grid.encoding()), TestGrid::new(5, dry.grid.encoding()));
        let uploader = warm(&warmed).await;
        warm(&cold).await;
        for grid in [&warmed, &cold] {
            let store = &grid.stores[2];
            match odd {
                Odd::Holds(share) => grid.put(2, si, share, &bytes[&share]).await,
                Odd::Full => store.inner().set_capacity(Some(0)),
                // A share is some 5,000 bytes, and a few of the first file are there.
                Odd::RoomForOne => store.inner().set_capacity(Some(9_000)),
                Odd::Fails => store.always(Some(Method::Allocate), Fault::Fail(down())),
                Odd::LosesAnswers => store.next(Some(Method::Allocate), 1, Fault::AppliedThenFail(down())),
                Odd::Busy(share) => {
                    let lease = LeaseSecrets { renew: LeaseSecret::new([1; 32]), cancel: LeaseSecret::new([2; 32]) };
                    let (shares, secret) = (BTreeSet::from([share]), UploadSecret([9; 20]));
                    store.inner().allocate(&cx(), si, &shares, 5_400, &secret, &lease).await.unwrap();
                }
                Odd::Hangs => store.always(None, Fault::Hang),
                Odd::HangsOnAllocate => store.always(Some(Method::Allocate), Fault::Hang),
            }
        }
        let began = tokio::time::Instant::now();
        let uploaded = uploader.upload(&cx(), source(&content)).await.unwrap();
        assert!(began.elapsed() <= Duration::from_secs(31), "{odd:?} took {:?}", began.elapsed());
        let plain = upload_asking(&cold, &content).await;
        assert_eq!(warmed.share_bytes(si).len(), 10, "{odd:?}");
        let figures = |u: &Uploaded| (u.results.preexisting_shares, u.results.happiness);
        match odd {
            // Who lost one answer has room like any other when it is asked once more.
            Odd::LosesAnswers => assert_eq!(figures(&uploaded), (0, 5)),
            _ => {
                assert_eq!(warmed.shares(si), cold.shares(si), "{odd:?}");
                assert_eq!(figures(&uploaded), figures(&plain), "{odd:?}");
            }
        }
        let others = usize::from(matches!(odd, Odd::Busy(_)));
        for _ in 0..200 {
            if warmed.uploads_in_progress() == others {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(warmed.uploads_in_progress(), others, "{odd:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_fail_at_the_end_leave_nothing_of_a_large_file() {
    let grid = TestGrid::new(4, encoding(2, 4, 4, 1 << 20));
    // Three full batches; the third fails, and so the last and smaller one is sent to nobody.
    let rule =
        Rule { method: Some(Method::WriteShare), skip: 2, times: None, fault: Fault::Fail(StorageError::NoSpace) };
    grid.stores[0].add(rule);
    assert!(grid.try_upload(&data("at the end", 6_500_000)).await.is_err());
    nothing_is_left(&grid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_passing_failures_do_no_harm() {
    for fault in [Fault::AppliedThenFail(down()), Fault::Fail(down())] {
        for skip in 0..3 {
            let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
            let rule = Rule { method: Some(Method::WriteShare), skip, times: Some(1), fault: fault.clone() };
            grid.stores.iter().for_each(|s| s.add(rule.clone()));
            let content = data("lost answers", 5_000_000);
            let (cap, uploaded) = grid.upload(&content).await;
            assert_eq!(uploaded.results.pushed_shares, 3);
            assert_eq!(grid.download(&cap).await.unwrap(), content);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_servers_cost_their_limit() {
    for method in [Method::ListShares, Method::Status, Method::Allocate, Method::WriteShare] {
        let grid = TestGrid::new(5, encoding(2, 4, 5, 1 << 20));
        grid.stores[1].always(Some(method), Fault::Hang);
        let began = tokio::time::Instant::now();
        let (cap, uploaded) = grid.upload(&[6; 5000]).await;
        assert!(uploaded.results.happiness >= 4);
        assert!(began.elapsed() <= Duration::from_secs(31), "{method:?} took {:?}", began.elapsed());
        assert_eq!(grid.download(&cap).await.unwrap(), [6; 5000][..]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_an_upload_and_nothing_stays() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
    grid.stores.iter().for_each(|s| s.always(Some(Method::WriteShare), Fault::Hang));
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    let outcome = uploader.upload(&cx().with_timeout(Duration::from_secs(3)), source(&[7; 5000])).await;
    assert_eq!(outcome.unwrap_err(), NodeError::Stopped(Stopped::Deadline));
    nothing_is_left(&grid).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_aborts() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
    grid.stores[2].always(Some(Method::WriteShare), Fault::Hang);
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    let cx = cx();
    let upload = uploader.upload(&cx, source(&data("dropped", 8_000_000)));
    assert!(tokio::time::timeout(Duration::from_secs(5), upload).await.is_err());
    nothing_is_left(&grid).await;
}

/// Says that it has more than it gives.
struct Shrinking {
    claimed: u64,
    passes: u64,
    read: AtomicU64,
}

#[async_trait]
impl Source for Shrinking {
    fn size(&self) -> u64 {
        self.claimed
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let so_far = self.read.fetch_add(length as u64, Ordering::Relaxed);
        if so_far + length as u64 > self.claimed * self.passes + self.claimed / 2 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(vec![offset as u8; length].into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ends_early_aborts() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    for passes in [0, 1] {
        let source = Shrinking { claimed: 10_000_000, passes, read: AtomicU64::new(0) };
        let outcome = uploader.upload(&cx(), Arc::new(source)).await;
        assert!(matches!(outcome, Err(NodeError::Source(_))), "{outcome:?}");
        nothing_is_left(&grid).await;
    }
    let short = Shrinking { claimed: 10, passes: 0, read: AtomicU64::new(0) };
    assert!(matches!(uploader.upload(&cx(), Arc::new(short)).await, Err(NodeError::Source(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_at_the_same_time_is_uploaded_once() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
    grid.stores[0].always(Some(Method::WriteShare), Fault::Delay(Duration::from_millis(50)));
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    let content = data("at the same time", 300_000);
    let cx = cx();
    let (a, b, c) = tokio::join!(
        uploader.upload(&cx, source(&content)),
        uploader.upload(&cx, source(&content)),
        uploader.upload(&cx, source(&content)),
    );
    let caps = [a, b, c].map(|uploaded| uploaded.unwrap().cap);
    assert!(caps.iter().all(|cap| *cap == caps[0]));
    assert_eq!(grid.stores[1].calls(Method::Allocate), 1);
    let reader = grid.reader(&chk(&caps[0]));
    assert_eq!(read(&reader, 0..300_000).await.unwrap(), content);
}

#[tokio::test(start_paused = true)]
async fn another_goes_on_when_the_one_who_uploads_gives_up() {
    let grid = TestGrid::new(3, encoding(2, 3, 3, 1 << 20));
    grid.stores[0].next(Some(Method::WriteShare), 1, Fault::Hang);
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    let content = data("gives up", 30_000);
    let (hasty, patient) = (cx().with_timeout(Duration::from_secs(2)), cx());
    let (one, two) =
        tokio::join!(uploader.upload(&hasty, source(&content)), uploader.upload(&patient, source(&content)),);
    assert_eq!(one.unwrap_err(), NodeError::Stopped(Stopped::Deadline));
    assert_eq!(grid.download(&chk(&two.unwrap().cap)).await.unwrap(), content);
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_uploads_holds_for_files_of_both_kinds_together() {
    let grid = TestGrid::new(4, encoding(2, 4, 4, 128 << 10));
    grid.grid.limit_uploads(tahoefs::grid::Rate::new(100_000));
    let cx = cx().with_patience(std::time::Duration::from_secs(2));
    let began = tokio::time::Instant::now();
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    let waiting = uploader.upload(&cx, source(&vec![7; 1_000_000]));
    let background = cx.with_priority(tahoefs::util::Priority::Background);
    let content = bytes::Bytes::from(vec![9; 500_000]);
    let key = crate::grids::key(0);
    let format = tahoefs::cap::MutableFormat::Sdmf;
    let mutable = tahoefs::mutable::MutableFile::create(Arc::clone(&grid.grid), &background, key, format, content);
    let (uploaded, made) = futures::join!(waiting, mutable);
    let (uploaded, made) = (uploaded.unwrap(), made.unwrap());
    // Twice the content, and hashes.
    let took = began.elapsed().as_secs_f64();
    assert!((29.0..32.0).contains(&took), "3 MB at 100 kB/s took {took} s");
    assert_eq!(grid.download(&chk(&uploaded.cap)).await.unwrap().len(), 1_000_000);
    assert_eq!(made.read_best(&cx).await.unwrap().1.len(), 500_000);
}
