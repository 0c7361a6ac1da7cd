//! What is particular to a store in a directory: its files, crashes, several openers, disks that fail or vanish.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER as HEX;
use futures::future::join_all;
use serde_json::Value;
use tahoefs::cap::StorageIndex;
use tahoefs::config::identity::{Identity, IdentityError};
use tahoefs::crypto::secrets::LeaseSecrets;
use tahoefs::crypto::{LeaseSecret, WriteEnabler};
use tahoefs::share::container::{ImmutableContainer, MutableContainer};
use tahoefs::share::lease::Lease;
use tahoefs::storage::local::{LeaseSurvey, LocalOptions, LocalServer, survey_leases};
use tahoefs::storage::{ReadRange, ShareKind, StorageError, StorageServer, TestVector, TestWrite};
use tahoefs::util::{Clock, Rng};
use tempfile::TempDir;

use super::storage::{cx, get, lease, numbers, pattern, put, range, rtw, secret, si, write};

const NOW: i64 = 1_700_000_000;
const IDLE: Duration = Duration::from_secs(31 * 60);

/// A new store and the directory that goes with it.
pub async fn fresh() -> (TempDir, LocalServer) {
    let top = tempfile::tempdir().unwrap();
    LocalServer::create(&top.path().join("store"), &Rng::os()).unwrap();
    let server = open(&top, Clock::system()).await;
    (top, server)
}

async fn open(top: &TempDir, clock: Clock) -> LocalServer {
    let options = LocalOptions { clock, ..LocalOptions::default() };
    LocalServer::open(&top.path().join("store"), options).await.unwrap()
}

async fn fresh_at_now() -> (TempDir, LocalServer, Clock) {
    let (top, _) = fresh().await;
    let clock = Clock::held_at(NOW as u64 * 1_000_000_000);
    let server = open(&top, clock.clone()).await;
    (top, server, clock)
}

fn shares(top: &TempDir) -> PathBuf {
    top.path().join("store/storage/shares")
}

fn bucket(top: &TempDir, si: StorageIndex) -> PathBuf {
    let name = si.to_string();
    shares(top).join(&name[..2]).join(name)
}

/// Everything below `dir`, directories marked by a slash.
fn tree(dir: &Path) -> BTreeSet<String> {
    fn walk(top: &Path, dir: &Path, out: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                out.insert(name + "/");
                walk(top, &path, out);
            } else {
                out.insert(name);
            }
        }
    }
    let mut out = BTreeSet::new();
    walk(dir, dir, &mut out);
    out
}

/// Makes a file look as if nobody had written to it for a while.
fn make_idle(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(file.metadata().unwrap().modified().unwrap() - IDLE).unwrap();
}

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/containers.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    HEX.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn unreachable<T: std::fmt::Debug>(answer: Result<T, StorageError>) {
    assert!(matches!(answer, Err(StorageError::Unreachable(_))), "{answer:?}");
}

#[tokio::test]
async fn a_share_lies_where_the_reference_puts_it() {
    let (top, server, _) = fresh_at_now().await;
    let case = &vectors()["server_directory"];
    assert_eq!(case["clock"].as_i64(), Some(NOW));
    let si = StorageIndex(hex(&case["storage_index"]).try_into().unwrap());
    let wanted = hex(&case["share_0_file_hex"]);
    let one = |name: &str| LeaseSecret::new(hex(&case[name]).try_into().unwrap());
    let lease = LeaseSecrets { renew: one("renew"), cancel: one("cancel") };
    let size = wanted.len() as u64 - 12 - 72;
    let answer = server.allocate(&cx(), si, &numbers(&[0, 5]), size, &secret(1), &lease).await.unwrap();
    assert_eq!(answer.allocated, numbers(&[0, 5]));
    assert!(!bucket(&top, si).join("0").exists());
    let data = Bytes::copy_from_slice(&wanted[12..wanted.len() - 72]);
    assert!(server.write_share(&cx(), si, 0, &secret(1), 0, data).await.unwrap());
    assert_eq!(HEX.encode(&fs::read(bucket(&top, si).join("0")).unwrap()), HEX.encode(&wanted));

    let reference: BTreeSet<String> = case["tree_after_closing_share_0"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|name| match name.as_str().unwrap() {
            "(dir)" | "lease_checker.history.json" => None,
            name => Some(name.replace("(dir)", "")),
        })
        .collect();
    // Uploads have names of their own, so that no other process's can be in the way.
    let is_upload = |name: &String| name.starts_with("shares/incoming/") && !name.ends_with('/');
    let (uploads, mut ours): (BTreeSet<String>, BTreeSet<String>) =
        tree(&top.path().join("store/storage")).into_iter().partition(is_upload);
    assert!(ours.remove("tahoefs-synced"), "what tells which shares are synced");
    assert_eq!(uploads.len(), 1);
    assert!(uploads.first().unwrap().contains("/5-"));
    assert_eq!(ours, reference.into_iter().filter(|name| !is_upload(name)).collect());

    server.abort_share(&cx(), si, 5, &secret(1)).await.unwrap();
    assert_eq!(tree(&shares(&top).join("incoming")), BTreeSet::new());
}

#[tokio::test]
async fn leases_are_written_and_renewed_on_disk() {
    let (top, server, clock) = fresh_at_now().await;
    let (fixed, slot) = (si(1), si(2));
    put(&server, fixed, 3, &pattern(1000, 0)).await;
    rtw(&server, slot, &[(3, write(0, b"data"))]).await.unwrap();
    let immutable = || {
        let bytes = fs::read(bucket(&top, fixed).join("3")).unwrap();
        ImmutableContainer::parse(&bytes).unwrap().parse_leases(&bytes[12 + 1000..]).unwrap()
    };
    let mutable = || {
        let bytes = fs::read(bucket(&top, slot).join("3")).unwrap();
        let header = MutableContainer::parse(&bytes).unwrap();
        let extra = MutableContainer::parse_extra(&bytes[header.extra_offset as usize..]).unwrap();
        header.slots.into_iter().filter(|l| l.owner != 0).chain(extra).collect::<Vec<Lease>>()
    };
    let ends = |leases: Vec<Lease>| leases.iter().map(|l| i64::from(l.expiration) - NOW).collect::<Vec<i64>>();
    const MONTH: i64 = 31 * 86400;
    assert_eq!((ends(immutable()), ends(mutable())), (vec![MONTH], vec![MONTH]));
    assert_eq!(mutable()[0].node_id, server.identity().tub_id());

    clock.advance(Duration::from_secs(100));
    server.allocate(&cx(), fixed, &numbers(&[3, 4]), 1000, &secret(7), &lease(7)).await.unwrap();
    server.add_lease(&cx(), slot, &lease(1)).await.unwrap();
    assert_eq!((ends(immutable()), ends(mutable())), (vec![MONTH + 100], vec![MONTH + 100]));
    for n in 20..26 {
        server.add_lease(&cx(), fixed, &lease(n)).await.unwrap();
        server.add_lease(&cx(), slot, &lease(n)).await.unwrap();
    }
    assert_eq!((immutable().len(), mutable().len()), (7, 7));
    clock.advance(Duration::from_secs(100));
    rtw(&server, slot, &[(3, write(4, &[7; 200]))]).await.unwrap();
    assert_eq!(ends(mutable()), [MONTH + 200].into_iter().chain([MONTH + 100; 6]).collect::<Vec<i64>>());
    assert_eq!(get(&server, ShareKind::Immutable, fixed, 3).await, pattern(1000, 0));
    assert_eq!(get(&server, ShareKind::Mutable, slot, 3).await.len(), 204);
}

#[tokio::test]
async fn containers_of_the_first_version_are_read_and_stay_so() {
    let (top, server) = fresh().await;
    let vectors = vectors();
    for (version, si) in [(0, si(1)), (1, si(2))] {
        let case = &vectors["mutable"][version];
        let file = bucket(&top, si).join("0");
        fs::create_dir_all(bucket(&top, si)).unwrap();
        let steps = case["steps"].as_array().unwrap();
        fs::write(&file, hex(&steps[steps.len() - 1]["file_hex"])).unwrap();
        let read = [ReadRange { offset: 0, length: 100 }];
        let before = server.read_share(&cx(), ShareKind::Mutable, si, 0, &read).await.unwrap().remove(0);
        assert_eq!(before.len() as u64, case["data_length"].as_u64().unwrap());
        let enabler = WriteEnabler::new(hex(&case["write_enabler"]).try_into().unwrap());
        for (at, text, cut) in [(3, "patch", None), (0, "whole", Some(5)), (100, "far away", None)] {
            let patch = TestWrite {
                write: vec![(at, Bytes::from_static(text.as_bytes()))],
                new_length: cut,
                test: vec![TestVector { offset: 500, size: 1, specimen: Bytes::new() }],
            };
            let all = BTreeMap::from([(0, patch)]);
            assert!(server.read_test_write(&cx(), si, &enabler, &lease(1), &all, &[]).await.unwrap().success);
        }
        let after = get(&server, ShareKind::Mutable, si, 0).await;
        assert_eq!((&after[..5], &after[5..100], &after[100..]), (&b"whole"[..], &[0u8; 95][..], &b"far away"[..]));
        let bytes = fs::read(&file).unwrap();
        let header = MutableContainer::parse(&bytes).unwrap();
        assert_eq!(header.schema.number() as usize, version + 1);
        assert_eq!(header.node_id.to_vec(), hex(&case["nodeid"]), "whoever recorded the enabler");
        assert_eq!(MutableContainer::parse_extra(&bytes[header.extra_offset as usize..]).unwrap().len(), 3);
    }
    for (version, si) in [(0, si(3)), (1, si(4))] {
        let case = &vectors["immutable"][version];
        fs::create_dir_all(bucket(&top, si)).unwrap();
        fs::write(bucket(&top, si).join("7"), hex(&case["steps"][6]["file_hex"])).unwrap();
        server.add_lease(&cx(), si, &lease(9)).await.unwrap();
        assert_eq!(get(&server, ShareKind::Immutable, si, 7).await, hex(&case["read_0_100"]));
        let bytes = fs::read(bucket(&top, si).join("7")).unwrap();
        let header = ImmutableContainer::parse(&bytes).unwrap();
        assert_eq!((header.schema.number() as usize, header.lease_count), (version + 1, 3));
    }
}

#[tokio::test]
async fn remains_of_a_crash_are_removed_once_idle() {
    let (top, server) = fresh().await;
    let (data, incoming) = (pattern(40, 0), shares(&top).join("incoming"));
    let name = si(1).to_string();
    let dir = incoming.join(&name[..2]).join(&name);
    fs::create_dir_all(&dir).unwrap();
    let (old, new) = (dir.join("0"), dir.join("1-abcdef"));
    fs::write(&old, b"half").unwrap();
    fs::write(&new, b"half").unwrap();
    // Neither keeps anybody from uploading the same numbers.
    put(&server, si(1), 0, &data).await;
    put(&server, si(1), 1, &data).await;
    make_idle(&old);
    drop(server);
    let _server = open(&top, Clock::system()).await;
    assert!(!old.exists() && new.exists());
    make_idle(&new);
    let _server = open(&top, Clock::system()).await;
    assert_eq!(tree(&incoming), BTreeSet::new());
    assert_eq!(get(&_server, ShareKind::Immutable, si(1), 1).await, data);
}

#[tokio::test]
async fn an_idle_upload_is_given_up_while_the_store_is_open() {
    let (top, server, clock) = fresh_at_now().await;
    let data = pattern(40, 0);
    let begin = |si| {
        let server = &server;
        async move { server.allocate(&cx(), si, &numbers(&[0]), 40, &secret(1), &lease(1)).await.unwrap() }
    };
    begin(si(1)).await;
    clock.advance(IDLE / 2);
    begin(si(2)).await;
    clock.advance(IDLE / 2 + Duration::from_secs(60));
    begin(si(3)).await;
    let first = server.write_share(&cx(), si(1), 0, &secret(1), 0, data.clone()).await;
    assert_eq!(first, Err(StorageError::NotInProgress));
    assert!(server.write_share(&cx(), si(2), 0, &secret(1), 0, data.clone()).await.unwrap());
    let left = tree(&shares(&top).join("incoming")).into_iter().filter(|n| !n.ends_with('/'));
    assert_eq!(left.count(), 1, "the third upload");

    // Another process, or a reference node that starts, may have emptied the directory under an upload.
    fs::remove_dir_all(shares(&top).join("incoming")).unwrap();
    let third = server.write_share(&cx(), si(3), 0, &secret(1), 0, data.clone()).await;
    assert_eq!(third, Err(StorageError::NotInProgress));
    put(&server, si(3), 0, &data).await;
}

#[tokio::test]
async fn a_lost_allocation_can_be_asked_for_again() {
    let (_top, server) = fresh().await;
    let data = pattern(40, 0);
    for _ in 0..2 {
        let answer = server.allocate(&cx(), si(1), &numbers(&[0]), 40, &secret(1), &lease(1)).await.unwrap();
        assert_eq!(answer.allocated, numbers(&[0]));
        let done = server.write_share(&cx(), si(1), 0, &secret(1), 0, data.slice(..20)).await.unwrap();
        assert!(!done);
    }
    let other = server.allocate(&cx(), si(1), &numbers(&[0]), 41, &secret(1), &lease(1)).await.unwrap();
    assert_eq!(other.allocated, numbers(&[]));
    assert!(server.write_share(&cx(), si(1), 0, &secret(1), 20, data.slice(20..)).await.unwrap());
    assert_eq!(get(&server, ShareKind::Immutable, si(1), 0).await, data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_openers_race_without_loss() {
    let (top, first) = fresh().await;
    let second = open(&top, Clock::system()).await;
    let both = [&first, &second];

    // Uploads of one number: both end well, and one of the two contents stays whole.
    for round in 0..20 {
        let si = si(round);
        let contents = [pattern(100_000, 1), pattern(100_000, 2)];
        let uploads = both.iter().zip(&contents).enumerate().map(|(i, (server, data))| async move {
            let mine = secret(i as u8);
            let answer = server.allocate(&cx(), si, &numbers(&[0]), 100_000, &mine, &lease(1)).await.unwrap();
            if answer.already_have.is_empty() {
                assert!(server.write_share(&cx(), si, 0, &mine, 0, data.clone()).await.unwrap());
            }
        });
        join_all(uploads).await;
        assert!(contents.contains(&get(&first, ShareKind::Immutable, si, 0).await));
    }
    assert_eq!(tree(&shares(&top).join("incoming")), BTreeSet::new());

    // Test-and-set: every number is written by exactly one of four writers.
    let slot = si(100);
    rtw(&first, slot, &[(0, write(0, &[0]))]).await.unwrap();
    let writers = [0, 1, 0, 1].map(|i| async move {
        let mut won = 0;
        while won < 25 {
            let seen = get(both[i], ShareKind::Mutable, slot, 0).await;
            let next = TestWrite {
                test: vec![TestVector { offset: 0, size: 1, specimen: seen.clone() }],
                write: vec![(0, Bytes::from(vec![seen[0] + 1]))],
                new_length: None,
            };
            won += usize::from(rtw(both[i], slot, &[(0, next)]).await.unwrap().success);
        }
    });
    join_all(writers).await;
    assert_eq!(get(&second, ShareKind::Mutable, slot, 0).await, &[100u8][..]);

    // A slot that is deleted and made again by turns: never an error, always one writer's content.
    let slot = si(101);
    let deletion = TestWrite { new_length: Some(0), ..TestWrite::default() };
    let writers = [0, 1, 0, 1].map(|i| {
        let deletion = deletion.clone();
        async move {
            for round in 0..50 {
                let step = if round % 2 == 0 { write(0, b"some text") } else { deletion.clone() };
                assert!(rtw(both[i], slot, &[(0, step)]).await.unwrap().success);
                match both[i].read_share(&cx(), ShareKind::Mutable, slot, 0, &[range(0, 100)]).await {
                    Ok(read) => assert_eq!(read, ["some text"]),
                    Err(e) => assert_eq!(e, StorageError::NoSuchShare),
                }
            }
        }
    });
    join_all(writers).await;
}

#[tokio::test]
async fn the_old_version_is_whole_until_the_new_one_is() {
    let (top, server) = fresh().await;
    let (slot, file) = (si(1), bucket(&top, si(1)).join("0"));
    let write = |at: u64, data: Bytes| TestWrite { write: vec![(at, data)], ..TestWrite::default() };
    let inode = || fs::metadata(&file).unwrap().ino();
    rtw(&server, slot, &[(0, write(0, pattern(5000, 1)))]).await.unwrap();

    // Parts and wholes, in one write and in several, of small shares and large ones: a new file takes the name.
    let (large, cut) = (pattern(3 << 20, 3), pattern(2 << 20, 4));
    let halves = vec![(1 << 20, cut.slice(1 << 20..)), (0, cut.slice(..1 << 20))];
    let steps = [
        write(100, pattern(50, 2)),
        write(0, large.clone()),
        write(1 << 20, pattern(1000, 9)),
        TestWrite { write: vec![(3 << 20, pattern(10, 5)), (7, pattern(1, 6))], ..TestWrite::default() },
        TestWrite { write: halves, new_length: Some(2 << 20), ..TestWrite::default() },
        TestWrite { new_length: Some(1 << 20), ..TestWrite::default() },
        TestWrite { write: vec![(2 << 20, pattern(9, 7))], new_length: Some(2 << 20), ..TestWrite::default() },
    ];
    let mut wanted = pattern(5000, 1).to_vec();
    for (number, step) in steps.into_iter().enumerate() {
        for (at, data) in &step.write {
            let (at, end) = (*at as usize, *at as usize + data.len());
            wanted.resize(wanted.len().max(end), 0);
            wanted[at..end].copy_from_slice(data);
        }
        wanted.truncate(step.new_length.map_or(usize::MAX, |n| n as usize));
        let (old, before) = (File::open(&file).unwrap(), inode());
        let whole = |file: &File| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let content = whole(&old);
        rtw(&server, slot, &[(0, step)]).await.unwrap();
        assert_ne!(inode(), before, "step {number}");
        assert!(whole(&old) == content, "step {number} changed the old version");
        assert!(get(&server, ShareKind::Mutable, slot, 0).await == wanted, "step {number}");
    }
    assert_eq!(tree(&shares(&top).join("incoming")), BTreeSet::new());
}

#[tokio::test]
async fn a_full_store_says_so_and_still_serves() {
    let (top, server) = fresh().await;
    put(&server, si(1), 0, &pattern(100, 0)).await;
    rtw(&server, si(2), &[(0, write(0, b"data"))]).await.unwrap();
    drop(server);
    let options = LocalOptions { reserved_space: u64::MAX, ..LocalOptions::default() };
    let server = LocalServer::open(&top.path().join("store"), options).await.unwrap();
    let status = server.status(&cx()).await.unwrap();
    assert_eq!((status.available_space, status.maximum_immutable_share_size), (0, 0));
    let answer = server.allocate(&cx(), si(1), &numbers(&[1]), 10, &secret(1), &lease(7)).await.unwrap();
    assert_eq!((answer.already_have, answer.allocated), (numbers(&[0]), numbers(&[])));
    assert_eq!(server.add_lease(&cx(), si(1), &lease(8)).await, Err(StorageError::NoSpace));
    assert_eq!(server.add_lease(&cx(), si(1), &lease(7)).await, Ok(()));
    assert_eq!(get(&server, ShareKind::Immutable, si(1), 0).await, pattern(100, 0));
    assert!(rtw(&server, si(2), &[(0, write(0, b"more"))]).await.unwrap().success);
}

#[tokio::test]
async fn space_that_is_promised_is_not_promised_again() {
    let (_top, server) = fresh().await;
    let free = server.status(&cx()).await.unwrap().available_space;
    let most = free / 3 * 2;
    let first = server.allocate(&cx(), si(1), &numbers(&[0, 1]), most, &secret(1), &lease(1)).await.unwrap();
    let second = server.allocate(&cx(), si(2), &numbers(&[0]), most, &secret(1), &lease(1)).await.unwrap();
    assert_eq!((first.allocated, second.allocated), (numbers(&[0]), numbers(&[])));
    server.abort_share(&cx(), si(1), 0, &secret(1)).await.unwrap();
    let third = server.allocate(&cx(), si(2), &numbers(&[0]), most, &secret(1), &lease(1)).await.unwrap();
    assert_eq!(third.allocated, numbers(&[0]));
}

#[tokio::test]
async fn a_store_that_vanished_is_unreachable_and_stays_away() {
    let (top, server) = fresh().await;
    put(&server, si(1), 0, &pattern(100, 0)).await;
    server.allocate(&cx(), si(3), &numbers(&[0]), 10, &secret(1), &lease(1)).await.unwrap();
    let (here, away) = (top.path().join("store"), top.path().join("elsewhere"));
    fs::rename(&here, &away).unwrap();
    for empty_mountpoint in [false, true] {
        if empty_mountpoint {
            fs::create_dir(&here).unwrap();
        }
        let cx = cx();
        unreachable(server.status(&cx).await);
        unreachable(server.list_shares(&cx, ShareKind::Immutable, si(1)).await);
        unreachable(server.read_share(&cx, ShareKind::Immutable, si(1), 0, &[range(0, 1)]).await);
        unreachable(server.read_share(&cx, ShareKind::Mutable, si(2), 0, &[range(0, 1)]).await);
        unreachable(server.allocate(&cx, si(1), &numbers(&[1]), 10, &secret(1), &lease(1)).await);
        unreachable(server.write_share(&cx, si(3), 0, &secret(1), 0, pattern(10, 0)).await);
        unreachable(rtw(&server, si(2), &[(0, write(0, b"x"))]).await);
        unreachable(server.add_lease(&cx, si(1), &lease(1)).await);
        unreachable(server.advise_corrupt(&cx, ShareKind::Immutable, si(1), 0, "x").await);
        unreachable(server.sync(&cx).await);
        unreachable(LocalServer::open(&here, LocalOptions::default()).await.map(|_| ()));
        assert_eq!(here.exists(), empty_mountpoint);
    }
    assert_eq!(tree(&here), BTreeSet::new());
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    assert_eq!(get(&server, ShareKind::Immutable, si(1), 0).await, pattern(100, 0));
    assert!(server.write_share(&cx(), si(3), 0, &secret(1), 0, pattern(10, 0)).await.unwrap());
}

#[test]
fn a_store_without_permission_is_unreachable() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (top, server) = runtime().block_on(async {
        let (top, server) = fresh().await;
        put(&server, si(1), 0, &pattern(100, 0)).await;
        rtw(&server, si(2), &[(0, write(0, b"data"))]).await.unwrap();
        (top, server)
    });
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let set = |mode: u32| fs::set_permissions(shares(&top), fs::Permissions::from_mode(mode)).unwrap();
    let body = || {
        // Root may do everything: this thread, and those that it starts, are nobody to the file system.
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        runtime().block_on(async {
            let cx = cx();
            unreachable(server.list_shares(&cx, ShareKind::Immutable, si(1)).await);
            unreachable(server.read_share(&cx, ShareKind::Immutable, si(1), 0, &[range(0, 1)]).await);
            unreachable(server.allocate(&cx, si(5), &numbers(&[1]), 10, &secret(1), &lease(1)).await);
            unreachable(rtw(&server, si(2), &[(0, write(0, b"x"))]).await);
            unreachable(rtw(&server, si(6), &[(0, write(0, b"x"))]).await);
        });
    };
    set(0o000);
    std::thread::scope(|scope| scope.spawn(body).join().unwrap());
    set(0o755);
    assert_eq!(runtime().block_on(get(&server, ShareKind::Mutable, si(2), 0)), "data");
}

#[tokio::test]
async fn damaged_files_are_errors_and_never_more() {
    let (top, server) = fresh().await;
    let (fixed, slot) = (si(1), si(2));
    put(&server, fixed, 0, &pattern(100, 0)).await;
    rtw(&server, slot, &[(0, write(0, b"data"))]).await.unwrap();
    for (si, kind) in [(fixed, ShareKind::Immutable), (slot, ShareKind::Mutable)] {
        let file = bucket(&top, si).join("0");
        let good = fs::read(&file).unwrap();
        for bad in [&good[..40], &good[..5], b"complete garbage, but long enough to hold a header".as_slice()] {
            fs::write(&file, bad).unwrap();
            let read = server.read_share(&cx(), kind, si, 0, &[range(0, u64::MAX)]).await;
            assert!(read.is_err() || read.is_ok_and(|r| r[0].len() < good.len()));
            assert!(server.add_lease(&cx(), si, &lease(1)).await.is_err());
            assert!(rtw(&server, si, &[(0, write(0, b"x"))]).await.is_err());
            assert_eq!(fs::read(&file).unwrap(), bad);
        }
        fs::write(&file, &good).unwrap();
    }
    // Cut within the data: what is there is read.
    let file = bucket(&top, slot).join("0");
    File::options().write(true).open(&file).unwrap().set_len(470).unwrap();
    assert_eq!(get(&server, ShareKind::Mutable, slot, 0).await, "da");

    let odd = bucket(&top, si(3));
    fs::create_dir_all(odd.join("4")).unwrap();
    nix::unistd::mkfifo(&odd.join("5"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["07", "x", "-1", "4294967296", "1.tmp"] {
        fs::write(odd.join(name), b"not a share").unwrap();
    }
    assert_eq!(server.list_shares(&cx(), ShareKind::Immutable, si(3)).await.unwrap(), numbers(&[4, 5]));
    for n in [4, 5] {
        assert!(server.read_share(&cx(), ShareKind::Immutable, si(3), n, &[range(0, 1)]).await.is_err());
    }
}

#[tokio::test]
async fn what_power_loss_blanked_is_written_again() {
    let (top, server) = fresh().await;
    let (fixed, slot, data) = (si(1), si(2), pattern(100, 0));
    for blank in [vec![], vec![0; 700]] {
        for si in [fixed, slot] {
            fs::create_dir_all(bucket(&top, si)).unwrap();
            fs::write(bucket(&top, si).join("0"), &blank).unwrap();
        }
        put(&server, fixed, 0, &data).await;
        assert_eq!(get(&server, ShareKind::Immutable, fixed, 0).await, data);
        assert!(rtw(&server, slot, &[(0, write(0, b"again"))]).await.unwrap().success);
        assert_eq!(get(&server, ShareKind::Mutable, slot, 0).await, "again");
    }
}

#[tokio::test]
async fn another_disk_in_its_place_has_not_synced_what_the_first_was_sent() {
    for mutable in [false, true] {
        let (top, server) = fresh().await;
        match mutable {
            true => drop(rtw(&server, si(1), &[(0, write(0, b"sent"))]).await.unwrap()),
            false => put(&server, si(1), 0, &pattern(100, 0)).await,
        }
        server.sync(&cx()).await.unwrap();
        let (here, away) = (top.path().join("store"), top.path().join("elsewhere"));
        fs::rename(&here, &away).unwrap();
        unreachable(server.sync(&cx()).await);
        LocalServer::create(&here, &Rng::os()).unwrap();
        assert!(matches!(server.sync(&cx()).await, Err(StorageError::Io(_))));
        fs::remove_dir_all(&here).unwrap();
        fs::rename(&away, &here).unwrap();
        assert!(matches!(server.sync(&cx()).await, Err(StorageError::Io(_))), "until it is opened again");
        open(&top, Clock::system()).await.sync(&cx()).await.unwrap();
    }
}

#[tokio::test]
async fn advice_is_filed_as_the_reference_files_it() {
    let (top, server, _) = fresh_at_now().await;
    put(&server, si(1), 7, &pattern(100, 0)).await;
    for _ in 0..2 {
        server.advise_corrupt(&cx(), ShareKind::Immutable, si(1), 7, "block hash mismatch").await.unwrap();
    }
    let dir = top.path().join("store/storage/corruption-advisories");
    let name = |micros: &str| format!("2023-11-14T221320.{micros}--{}-7", si(1));
    assert_eq!(tree(&dir), [name("000000"), name("000001")].into_iter().collect());
    let text = fs::read_to_string(dir.join(name("000000"))).unwrap();
    let head = format!("report: Share Corruption\ntype: immutable\nstorage_index: {}\nshare_number: 7\n", si(1));
    assert_eq!(text, head + "\nblock hash mismatch\n\n");
}

#[tokio::test]
async fn a_store_is_made_once_and_keeps_its_identity() {
    let (top, server) = fresh().await;
    let dir = top.path().join("store");
    assert_eq!(server.dir(), dir);
    assert_eq!(server.device(), fs::metadata(top.path()).unwrap().dev());
    assert_eq!(*server.identity(), Identity::load(&dir).unwrap());
    assert_eq!(LocalServer::create(&dir, &Rng::os()), Err(IdentityError::Exists(dir.clone())));

    // The seed of a store does not change with its first share, also where a node never wrote it down.
    fs::remove_file(dir.join("permutation-seed")).unwrap();
    let again = open(&top, Clock::system()).await;
    put(&again, si(1), 0, &pattern(10, 0)).await;
    assert_eq!(Identity::load(&dir).unwrap(), *server.identity());
}

#[tokio::test]
async fn shares_whose_last_lease_ends_are_counted() {
    let (top, server, clock) = fresh_at_now().await;
    const DAY: i64 = 24 * 3600;
    put(&server, si(1), 0, &pattern(50, 0)).await;
    assert!(rtw(&server, si(2), &[(0, write(0, b"x"))]).await.unwrap().success);
    clock.advance(Duration::from_secs(20 * DAY as u64));
    put(&server, si(3), 0, &pattern(50, 0)).await;
    server.add_lease(&cx(), si(2), &lease(98)).await.unwrap();
    // What is no share is none.
    fs::write(bucket(&top, si(1)).join("7"), "nothing").unwrap();
    fs::write(bucket(&top, si(1)).join("notes"), "nothing").unwrap();
    let store = top.path().join("store");
    let survey = |now: i64, limit| survey_leases(&store, now, now + 7 * DAY, limit).unwrap();
    let long = Duration::from_secs(60);
    let all = LeaseSurvey { shares: 3, ..LeaseSurvey::default() };
    assert_eq!(survey(NOW, long), all);
    assert_eq!(survey(NOW + 25 * DAY, long), LeaseSurvey { ending: 1, ..all });
    assert_eq!(survey(NOW + 31 * DAY, long), LeaseSurvey { ended: 1, ..all });
    assert_eq!(survey(NOW + 50 * DAY, long), LeaseSurvey { ended: 1, ending: 2, ..all });
    assert_eq!(survey(NOW, Duration::ZERO), LeaseSurvey { is_partial: true, ..LeaseSurvey::default() });
    assert!(survey_leases(top.path(), NOW, NOW, long).is_err());
}
