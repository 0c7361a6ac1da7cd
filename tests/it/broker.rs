//! Servers that cannot be reached: what they cost, when they are tried again, and what is done without them. On paused
//! time.

use std::sync::Arc;
use std::time::Duration;

use tahoefs::cap::StorageIndex;
use tahoefs::config::Permission;
use tahoefs::crypto::LeaseSecret;
use tahoefs::crypto::secrets::LeaseSecrets;
use tahoefs::grid::{Encoding, Grid, LinkState, Server, ServerInfo};
use tahoefs::node::NodeError;
use tahoefs::storage::fault::{Fault, Method};
use tahoefs::storage::memory::MemoryServer;
use tahoefs::storage::{ShareKind, StorageError, StorageServer, UploadSecret};
use tahoefs::util::{Clock, Cpu, Rng, Stopped};
use tokio::time::{Instant, sleep};

use crate::testgrid::{Store, cx, encoding, source};

const SI: StorageIndex = StorageIndex([3; 16]);

fn remote(number: u8, store: &Arc<Store>) -> Arc<Server> {
    let info = ServerInfo {
        id: format!("v0-{number}"),
        nickname: format!("server {number}"),
        tub_id: [number; 20],
        permutation_seed: vec![number; 20],
    };
    Arc::new(Server::remote(info, "127.0.0.1:1".into(), Arc::clone(store) as _, Rng::seeded(number.into())))
}

fn stores(count: usize) -> Vec<Arc<Store>> {
    (0..count).map(|_| Arc::new(Store::new(Arc::new(MemoryServer::new())))).collect()
}

fn grid_of(servers: Vec<Arc<Server>>, encoding: Encoding) -> Arc<Grid> {
    let (clock, rng) = (Clock::held_at(1_000_000_000_000_000_000), Rng::seeded(1));
    Arc::new(Grid::new(servers, encoding, LeaseSecret::new([7; 32]), Vec::new(), clock, rng, Cpu::per_core()))
}

async fn list(server: &Server) -> Result<(), StorageError> {
    server.list_shares(&cx(), ShareKind::Immutable, SI).await.map(drop)
}

fn is_unreachable(answer: &Result<(), StorageError>) -> bool {
    matches!(answer, Err(StorageError::Unreachable(_)))
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_costs_one_deadline_once() {
    let store = &stores(1)[0];
    let server = remote(1, store);
    assert_eq!(server.state(), LinkState::Connecting);
    list(&server).await.unwrap();
    assert_eq!(server.state(), LinkState::Connected);
    sleep(Duration::from_secs(1)).await;

    store.always(None, Fault::Hang);
    let began = Instant::now();
    let first = tokio::spawn({
        let server = Arc::clone(&server);
        async move { list(&server).await }
    });
    sleep(Duration::from_secs(10)).await;
    // One that began later ends soon after the first, when the server has not said either that it is there.
    assert!(is_unreachable(&list(&server).await));
    assert!(is_unreachable(&first.await.unwrap()));
    assert_eq!(began.elapsed().as_secs(), 20);
    assert!(server.is_down() && server.is_set_aside());
    // All others cost nothing.
    for _ in 0..100 {
        assert!(is_unreachable(&list(&server).await));
    }
    assert_eq!(began.elapsed().as_secs(), 20);
    assert!(matches!(server.state(), LinkState::Unreachable { since, .. } if since.as_secs() == 20));

    // It is tried less and less often, and never by those who want something.
    sleep(Duration::from_secs(600)).await;
    let calls = store.calls(Method::ListShares);
    let probes = store.calls(Method::Status);
    assert_eq!(calls, 3, "requests while it was down did not go out");
    assert!((9..20).contains(&probes), "{probes}");
    assert!(server.is_down());
    store.clear();
    sleep(Duration::from_secs(61)).await;
    assert_eq!(server.state(), LinkState::Connected);
    assert_eq!(server.health().last_error, None);
    assert!(server.last_status().is_some());
    list(&server).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_error_is_remembered_for_an_hour() {
    let store = &stores(1)[0];
    let server = remote(1, store);
    let error = StorageError::Unreachable("reset".into());
    store.next(Some(Method::ListShares), 1, Fault::Fail(error.clone()));
    assert!(is_unreachable(&list(&server).await));
    sleep(Duration::from_secs(600)).await;
    list(&server).await.unwrap();
    let health = server.health();
    assert_eq!((health.last_error, health.last_failure), (None, Some((Duration::from_secs(600), error))));
    sleep(Duration::from_secs(3001)).await;
    assert_eq!(server.health().last_failure, None);
    // One that goes on failing is not forgotten however long it takes.
    store.set_down(true);
    assert!(is_unreachable(&list(&server).await));
    sleep(Duration::from_secs(7200)).await;
    assert!(server.is_down());
    assert!(server.health().last_failure.is_some());
}

#[tokio::test(start_paused = true)]
async fn one_answer_that_takes_too_long_does_not_set_a_server_aside() {
    let store = &stores(1)[0];
    let server = remote(1, store);
    list(&server).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    store.next(Some(Method::ListShares), 1, Fault::Hang);
    let began = Instant::now();
    assert!(is_unreachable(&list(&server).await));
    assert_eq!(began.elapsed().as_secs(), 15);
    assert!(!server.is_down());
    sleep(Duration::from_millis(10)).await;
    assert_eq!(store.calls(Method::Status), 1, "it was asked whether it is there");
    assert_eq!(server.state(), LinkState::Connected);
    list(&server).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_to_write_has_the_callers_limit() {
    let store = &stores(1)[0];
    let server = remote(1, store);
    store.always(Some(Method::WriteShare), Fault::Hang);
    let write = |cx: tahoefs::util::Cx| {
        let server = Arc::clone(&server);
        async move { server.write_share(&cx, SI, 0, &tahoefs::storage::UploadSecret([1; 20]), 0, "x".into()).await }
    };
    let busy: Vec<_> = (0..4).map(|_| tokio::spawn(write(cx()))).collect();
    sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    let answer = write(cx().with_timeout(Duration::from_secs(2))).await;
    assert_eq!(answer, Err(StorageError::Stopped(tahoefs::util::Stopped::Deadline)));
    assert_eq!(began.elapsed().as_secs(), 2);
    busy.iter().for_each(|task| task.abort());
}

#[tokio::test(start_paused = true)]
async fn servers_that_do_not_let_us_in_are_said_not_to() {
    let stores = stores(3);
    let servers: Vec<_> = stores.iter().zip(0..).map(|(store, n)| remote(n, store)).collect();
    let grid = grid_of(servers, encoding(1, 3, 3, 1 << 20));
    let uploader = tahoefs::immutable::Uploader::new(Arc::clone(&grid));
    let uploaded = uploader.upload(&cx(), source(&[1; 1000])).await.unwrap();
    let refusal = || Fault::Fail(StorageError::Unauthorized("the swissnum is wrong".into()));
    for store in &stores[..2] {
        store.always(None, refusal());
    }
    let failed = uploader.upload(&cx(), source(&[2; 1000])).await.unwrap_err();
    assert!(!failed.to_string().contains("none of"), "the third one does: {failed}");

    stores[2].always(None, refusal());
    let failed = uploader.upload(&cx(), source(&[3; 1000])).await.unwrap_err();
    let text = failed.to_string();
    assert!(matches!(failed, NodeError::NotEnoughServers { .. }), "{text}");
    assert!(text.contains("none of the 3 servers accepts our credentials: server "), "{text}");
    assert!(text.contains("the swissnum is wrong"), "{text}");
    let cache = Arc::new(tahoefs::cache::BlockCache::new(1 << 20));
    let reader = tahoefs::immutable::Reader::new(grid, crate::testgrid::chk(&uploaded.cap), cache);
    let failed = crate::testgrid::read_all(&reader, 1000).await.unwrap_err();
    assert!(matches!(&failed, NodeError::LockedOut(why) if why.contains("credentials: server ")), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_asked_once_more_before_it_is_set_aside() {
    let store = &stores(1)[0];
    let server = remote(1, store);
    list(&server).await.unwrap();
    // One lost answer is no reason.
    store.next(Some(Method::ListShares), 1, Fault::Fail(StorageError::Unreachable("reset".into())));
    assert!(is_unreachable(&list(&server).await));
    list(&server).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert!(!server.is_down() && server.state() == LinkState::Connected);

    store.set_down(true);
    assert!(is_unreachable(&list(&server).await));
    sleep(Duration::from_millis(100)).await;
    assert!(server.is_down());
    store.set_down(false);
    sleep(Duration::from_secs(2)).await;
    assert!(!server.is_down());
    list(&server).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_leaves_doubts() {
    let store = &stores(1)[0];
    let server = remote(1, store);
    store.always(None, Fault::Hang);
    let limited = cx().with_timeout(Duration::from_secs(2));
    let answer = server.list_shares(&limited, ShareKind::Immutable, SI).await;
    assert!(matches!(answer, Err(StorageError::Stopped(_))));
    assert!(!server.is_down());
    sleep(Duration::from_secs(16)).await;
    assert!(server.is_down(), "it was found out in the background");
    // A slow answer elsewhere shows that the server lives: then one late request does not set it aside.
    store.clear();
    sleep(Duration::from_secs(120)).await;
    store.next(Some(Method::ListShares), 1, Fault::Hang);
    let late = tokio::spawn({
        let server = Arc::clone(&server);
        async move { list(&server).await }
    });
    for _ in 0..20 {
        sleep(Duration::from_secs(1)).await;
        server.status(&cx()).await.unwrap();
    }
    assert!(is_unreachable(&late.await.unwrap()));
    assert!(!server.is_down());
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_needs_them_tries_servers_that_are_set_aside() {
    let stores = stores(4);
    let servers: Vec<_> = stores.iter().zip(0..).map(|(store, n)| remote(n, store)).collect();
    let grid = grid_of(servers.clone(), encoding(2, 4, 4, 1 << 20));
    let uploader = tahoefs::immutable::Uploader::new(Arc::clone(&grid));
    for hung in [0, 1] {
        stores[hung].always(None, Fault::Hang);
        assert!(list(&servers[hung]).await.is_err());
    }
    sleep(Duration::from_secs(300)).await;
    assert!(servers[0].is_down() && servers[1].is_down());
    let began = Instant::now();
    let failed = uploader.upload(&cx(), source(&[1; 1000])).await;
    assert!(matches!(failed, Err(NodeError::NotEnoughServers { .. })), "{failed:?}");
    assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
    stores[0].clear();
    stores[1].clear();
    let began = Instant::now();
    let uploaded = uploader.upload(&cx(), source(&[1; 1000])).await.unwrap();
    assert_eq!(uploaded.results.happiness, 4);
    assert!(began.elapsed() < Duration::from_secs(1), "nobody waits for a pause to end: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_read_that_needs_them_tries_servers_that_are_set_aside() {
    let stores = stores(3);
    let servers: Vec<_> = stores.iter().zip(0..).map(|(store, n)| remote(n, store)).collect();
    let grid = grid_of(servers.clone(), encoding(3, 3, 3, 1 << 20));
    let uploaded =
        tahoefs::immutable::Uploader::new(Arc::clone(&grid)).upload(&cx(), source(&[1; 1000])).await.unwrap();
    stores[2].set_down(true);
    let _ = list(&servers[2]).await;
    sleep(Duration::from_secs(200)).await;
    assert!(servers[2].is_down());
    stores[2].set_down(false);
    let cap = crate::testgrid::chk(&uploaded.cap);
    let cache = Arc::new(tahoefs::cache::BlockCache::new(1 << 20));
    let reader = tahoefs::immutable::Reader::new(grid, cap, cache);
    assert_eq!(crate::testgrid::read_all(&reader, 1000).await.unwrap(), vec![1; 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_moved_is_the_same_server() {
    let stores = stores(2);
    let server = remote(1, &stores[0]);
    stores[0].set_down(true);
    let _ = list(&server).await;
    sleep(Duration::from_secs(30)).await;
    assert!(server.is_down());
    server.redirect("127.0.0.1:2".into(), Arc::clone(&stores[1]) as _);
    assert_eq!(server.address(), "127.0.0.1:2");
    list(&server).await.unwrap();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(server.state(), LinkState::Connected);
    assert_eq!(stores[1].calls(Method::Status), 0, "nobody tries it any more");
}

#[tokio::test]
async fn new_shares_go_where_grid_managers_permit() {
    let stores = stores(3);
    let servers: Vec<_> = stores.iter().zip(0..).map(|(store, n)| remote(n, store)).collect();
    servers[0].set_permission(Permission::Never);
    servers[1].set_permission(Permission::Until(1_000_000_100));
    let grid = grid_of(servers.clone(), encoding(1, 2, 3, 1 << 20));
    let uploader = tahoefs::immutable::Uploader::new(Arc::clone(&grid));
    let uploaded = uploader.upload(&cx(), source(&[1; 1000])).await.unwrap();
    assert_eq!(uploaded.results.server_map.keys().collect::<Vec<_>>(), ["v0-1", "v0-2"]);
    grid.clock().advance(Duration::from_secs(100));
    let failed = uploader.upload(&cx(), source(&[2; 1000])).await;
    let Err(NodeError::NotEnoughServers { happiness: 1, reason, .. }) = failed else { panic!("{failed:?}") };
    assert!(reason.contains("2 of 3 servers have no certificate of one of the grid managers"), "{reason}");
    servers[2].set_permission(Permission::Never);
    let failed = uploader.upload(&cx(), source(&[3; 1000])).await.unwrap_err();
    assert!(failed.to_string().contains("no server has a certificate of one of the grid managers"), "{failed}");
}

async fn put(server: &Server, number: u8) {
    let (si, secret) = (StorageIndex([number; 16]), UploadSecret([number; 20]));
    let lease = LeaseSecrets { renew: LeaseSecret::new([0; 32]), cancel: LeaseSecret::new([0; 32]) };
    server.allocate(&cx(), si, &[0].into(), 1, &secret, &lease).await.unwrap();
    assert!(server.write_share(&cx(), si, 0, &secret, 0, "x".into()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_barrier_waits_for_slow_disks_and_not_for_ever() {
    let store = &stores(1)[0];
    let info = remote(1, store).info().clone();
    let server = Arc::new(Server::new(info, Arc::clone(store) as _));
    let grid = grid_of(vec![Arc::clone(&server)], encoding(1, 1, 1, 1));
    let patient = cx().with_patience(Duration::from_secs(20));
    put(&server, 1).await;
    let (began, slow) = (Instant::now(), Duration::from_secs(200));
    store.next(Some(Method::Sync), 1, Fault::Delay(slow));
    grid.sync(&patient).await.unwrap();
    assert_eq!(began.elapsed(), slow);
    store.always(Some(Method::Sync), Fault::Hang);
    assert_eq!(grid.sync(&patient).await, Err(StorageError::Stopped(Stopped::Stalled)));
    assert!(began.elapsed() < Duration::from_secs(600));
    assert_eq!(grid.sync(&cx().with_timeout(slow)).await, Err(StorageError::Stopped(Stopped::Deadline)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_passes_the_barrier_only_if_it_has_taken_nothing() {
    let stores = stores(2);
    let servers: Vec<_> = (1u8..)
        .zip(&stores)
        .map(|(number, store)| {
            let info = remote(number, store).info().clone();
            Arc::new(Server::new(info, Arc::clone(store) as _))
        })
        .collect();
    let grid = grid_of(servers.clone(), encoding(1, 1, 2, 1));
    // One that was away from the beginning, and is asked to take something again and again.
    stores[1].set_down(true);
    put(&servers[0], 1).await;
    assert!(is_unreachable(&allocate(&servers[1]).await));
    grid.sync(&cx()).await.unwrap();
    // Synced, and gone then.
    stores[0].set_down(true);
    grid.sync(&cx()).await.unwrap();
    // Not synced, and gone then.
    stores[0].clear();
    put(&servers[0], 2).await;
    stores[0].set_down(true);
    for _ in 0..2 {
        let Err(StorageError::Unreachable(why)) = grid.sync(&cx()).await else { panic!("it has not promised") };
        assert!(why.contains("server 1"), "{why}");
    }
    stores[0].clear();
    grid.sync(&cx()).await.unwrap();
    // What was given up may have been taken.
    list(&servers[0]).await.unwrap();
    stores[0].next(Some(Method::Allocate), 1, Fault::Hang);
    assert!(is_unreachable(&allocate(&servers[0]).await));
    stores[0].set_down(true);
    assert!(is_unreachable(&grid.sync(&cx()).await));
    // A write that is taken while a barrier runs is not covered by it.
    stores[0].clear();
    stores[0].next(Some(Method::Sync), 1, Fault::Delay(Duration::from_secs(1)));
    let meanwhile = async {
        sleep(Duration::from_millis(500)).await;
        put(&servers[0], 3).await;
    };
    let whole = cx();
    let (passed, ()) = tokio::join!(grid.sync(&whole), meanwhile);
    passed.unwrap();
    stores[0].set_down(true);
    assert!(is_unreachable(&grid.sync(&cx()).await));
}

async fn allocate(server: &Server) -> Result<(), StorageError> {
    let lease = LeaseSecrets { renew: LeaseSecret::new([0; 32]), cancel: LeaseSecret::new([0; 32]) };
    server.allocate(&cx(), SI, &[0].into(), 1, &UploadSecret([0; 20]), &lease).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_promises_nothing_does_not_hold_up_the_barrier() {
    let store = &stores(1)[0];
    let server = remote(1, store);
    let grid = grid_of(vec![Arc::clone(&server)], encoding(1, 1, 1, 1));
    put(&server, 1).await;
    for method in [Method::Status, Method::ListShares] {
        store.always(Some(method), Fault::Hang);
    }
    assert!(is_unreachable(&list(&server).await));
    sleep(Duration::from_secs(6)).await;
    assert!(server.is_down());
    grid.sync(&cx()).await.unwrap();
    assert!(server.is_down(), "nothing was asked of it");
}
