//! One suite for all storage backends: what PROTOCOL 8.5 to 8.7 promises of any server.
//!
//! Bodies speak to `&dyn StorageServer` and use a storage index of their own each, so that they may share a server.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::future::join_all;
use tahoefs::cap::StorageIndex;
use tahoefs::crypto::secrets::LeaseSecrets;
use tahoefs::crypto::{LeaseSecret, WriteEnabler};
use tahoefs::storage::memory::MemoryServer;
use tahoefs::storage::{
    ReadRange, ReadTestWriteAnswer, ShareKind, ShareNumber, StorageError, StorageServer, TestVector, TestWrite,
    UploadSecret,
};
use tahoefs::util::{Cx, Priority};

pub fn cx() -> Cx {
    Cx::new(Priority::Waiting, 64 << 20)
}

pub fn si(n: u8) -> StorageIndex {
    StorageIndex([n; 16])
}

pub fn secret(n: u8) -> UploadSecret {
    UploadSecret([n; 20])
}

pub fn lease(n: u8) -> LeaseSecrets {
    LeaseSecrets { renew: LeaseSecret::new([n; 32]), cancel: LeaseSecret::new([n ^ 0xff; 32]) }
}

pub fn enabler(n: u8) -> WriteEnabler {
    WriteEnabler::new([n; 32])
}

pub fn numbers(list: &[ShareNumber]) -> BTreeSet<ShareNumber> {
    list.iter().copied().collect()
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize, salt: usize) -> Bytes {
    (0..len).map(|i| ((i + salt) * 31 % 251) as u8).collect()
}

pub fn range(offset: u64, length: u64) -> ReadRange {
    ReadRange { offset, length }
}

pub fn write(at: u64, data: &'static [u8]) -> TestWrite {
    TestWrite { write: vec![(at, Bytes::from_static(data))], ..TestWrite::default() }
}

fn test(offset: u64, size: u64, specimen: &'static [u8]) -> TestVector {
    TestVector { offset, size, specimen: Bytes::from_static(specimen) }
}

/// Uploads a share in one piece.
pub async fn put(s: &dyn StorageServer, si: StorageIndex, n: ShareNumber, data: &Bytes) {
    let answer = s.allocate(&cx(), si, &numbers(&[n]), data.len() as u64, &secret(7), &lease(7)).await.unwrap();
    assert_eq!(answer.allocated, numbers(&[n]));
    assert!(s.write_share(&cx(), si, n, &secret(7), 0, data.clone()).await.unwrap());
}

pub async fn get(s: &dyn StorageServer, kind: ShareKind, si: StorageIndex, n: ShareNumber) -> Bytes {
    s.read_share(&cx(), kind, si, n, &[range(0, 1 << 40)]).await.unwrap().remove(0)
}

/// A read-test-write with the enabler and lease that the suite uses throughout, and no read vector.
pub async fn rtw(
    s: &dyn StorageServer,
    si: StorageIndex,
    shares: &[(ShareNumber, TestWrite)],
) -> Result<ReadTestWriteAnswer, StorageError> {
    let shares: BTreeMap<ShareNumber, TestWrite> = shares.iter().cloned().collect();
    s.read_test_write(&cx(), si, &enabler(1), &lease(1), &shares, &[]).await
}

pub async fn a_share_appears_when_its_last_byte_arrives(s: &dyn StorageServer) {
    let (cx, si, data) = (cx(), si(1), pattern(100, 0));
    let answer = s.allocate(&cx, si, &numbers(&[0, 5]), 100, &secret(1), &lease(1)).await.unwrap();
    assert_eq!((answer.already_have, answer.allocated), (numbers(&[]), numbers(&[0, 5])));
    for (from, to) in [(50, 80), (0, 10), (5, 60)] {
        let done = s.write_share(&cx, si, 5, &secret(1), from as u64, data.slice(from..to)).await.unwrap();
        assert!(!done);
        assert_eq!(s.list_shares(&cx, ShareKind::Immutable, si).await.unwrap(), numbers(&[]));
        let read = s.read_share(&cx, ShareKind::Immutable, si, 5, &[range(0, 10)]).await;
        assert_eq!(read, Err(StorageError::NoSuchShare));
    }
    assert!(s.write_share(&cx, si, 5, &secret(1), 80, data.slice(80..)).await.unwrap());
    assert_eq!(s.list_shares(&cx, ShareKind::Immutable, si).await.unwrap(), numbers(&[5]));
    assert_eq!(get(s, ShareKind::Immutable, si, 5).await, data);
    let late = s.write_share(&cx, si, 5, &secret(1), 0, data.slice(..10)).await;
    assert_eq!(late, Err(StorageError::NotInProgress));
    assert!(s.write_share(&cx, si, 0, &secret(1), 0, data.clone()).await.unwrap());
    assert_eq!(s.list_shares(&cx, ShareKind::Immutable, si).await.unwrap(), numbers(&[0, 5]));
}

pub async fn overlapping_writes_must_agree(s: &dyn StorageServer) {
    let (cx, si, data) = (cx(), si(2), pattern(60, 3));
    s.allocate(&cx, si, &numbers(&[1]), 60, &secret(1), &lease(1)).await.unwrap();
    assert!(!s.write_share(&cx, si, 1, &secret(1), 10, data.slice(10..30)).await.unwrap());
    assert!(!s.write_share(&cx, si, 1, &secret(1), 15, data.slice(15..40)).await.unwrap());
    let other = s.write_share(&cx, si, 1, &secret(1), 29, Bytes::from_static(b"different")).await;
    assert_eq!(other, Err(StorageError::Conflict));
    assert!(!s.write_share(&cx, si, 1, &secret(1), 0, data.slice(..10)).await.unwrap());
    assert!(s.write_share(&cx, si, 1, &secret(1), 40, data.slice(40..)).await.unwrap());
    assert_eq!(get(s, ShareKind::Immutable, si, 1).await, data);
}

pub async fn writes_beyond_the_allocated_size_are_refused(s: &dyn StorageServer) {
    let (cx, si, data) = (cx(), si(3), pattern(20, 0));
    s.allocate(&cx, si, &numbers(&[1]), 20, &secret(1), &lease(1)).await.unwrap();
    for offset in [1, 20, 1 << 40, u64::MAX - 3] {
        assert!(s.write_share(&cx, si, 1, &secret(1), offset, data.clone()).await.is_err(), "{offset}");
    }
    assert!(s.write_share(&cx, si, 1, &secret(1), 0, data.clone()).await.unwrap());
    assert_eq!(get(s, ShareKind::Immutable, si, 1).await, data);
}

pub async fn allocation_tells_all_that_is_there(s: &dyn StorageServer) {
    let (cx, si, data) = (cx(), si(4), pattern(33, 0));
    put(s, si, 2, &data).await;
    put(s, si, 300, &data).await;
    let answer = s.allocate(&cx, si, &numbers(&[2, 3]), 33, &secret(1), &lease(1)).await.unwrap();
    assert_eq!((answer.already_have, answer.allocated), (numbers(&[2, 300]), numbers(&[3])));
    let none = s.allocate(&cx, si, &numbers(&[]), 33, &secret(1), &lease(1)).await.unwrap();
    assert_eq!((none.already_have, none.allocated), (numbers(&[2, 300]), numbers(&[])));
}

pub async fn uploads_answer_to_their_own_secret(s: &dyn StorageServer) {
    let (cx, si, data) = (cx(), si(5), pattern(10, 0));
    assert_eq!(s.abort_share(&cx, si, 1, &secret(1)).await, Err(StorageError::NotInProgress));
    let unknown = s.write_share(&cx, si, 1, &secret(1), 0, data.clone()).await;
    assert_eq!(unknown, Err(StorageError::NotInProgress));
    s.allocate(&cx, si, &numbers(&[1]), 10, &secret(1), &lease(1)).await.unwrap();
    let foreign = s.write_share(&cx, si, 1, &secret(2), 0, data.clone()).await;
    assert_eq!(foreign, Err(StorageError::NotInProgress));
    assert_eq!(s.abort_share(&cx, si, 1, &secret(2)).await, Err(StorageError::NotInProgress));
    assert_eq!(s.abort_share(&cx, si, 1, &secret(1)).await, Ok(()));
    let late = s.write_share(&cx, si, 1, &secret(1), 0, data.clone()).await;
    assert_eq!(late, Err(StorageError::NotInProgress));
    put(s, si, 1, &data).await;
    assert_eq!(s.abort_share(&cx, si, 1, &secret(7)).await, Err(StorageError::NotInProgress));
    assert_eq!(get(s, ShareKind::Immutable, si, 1).await, data);
}

/// A backend may refuse a number that is being uploaded or let both go on; the first to complete stays.
pub async fn two_uploads_of_one_number_end_in_one_share(s: &dyn StorageServer) {
    let (cx, si, first, second) = (cx(), si(6), pattern(50, 1), pattern(50, 2));
    s.allocate(&cx, si, &numbers(&[1]), 50, &secret(1), &lease(1)).await.unwrap();
    let answer = s.allocate(&cx, si, &numbers(&[1]), 50, &secret(2), &lease(2)).await.unwrap();
    assert_eq!(answer.already_have, numbers(&[]));
    assert!(!s.write_share(&cx, si, 1, &secret(1), 0, first.slice(..20)).await.unwrap());
    if answer.allocated.contains(&1) {
        assert!(!s.write_share(&cx, si, 1, &secret(2), 0, second.slice(..20)).await.unwrap());
    }
    assert!(s.write_share(&cx, si, 1, &secret(1), 20, first.slice(20..)).await.unwrap());
    if answer.allocated.contains(&1) {
        assert!(s.write_share(&cx, si, 1, &secret(2), 20, second.slice(20..)).await.unwrap());
    }
    assert_eq!(get(s, ShareKind::Immutable, si, 1).await, first);
    assert_eq!(s.list_shares(&cx, ShareKind::Immutable, si).await.unwrap(), numbers(&[1]));
}

pub async fn a_large_share_arrives_in_parallel_and_backwards(s: &dyn StorageServer) {
    let (cx, si, data) = (cx(), si(7), pattern(3 << 20, 0));
    s.allocate(&cx, si, &numbers(&[9]), data.len() as u64, &secret(1), &lease(1)).await.unwrap();
    let writes = (0..data.len() / 65536).rev().map(|i| {
        let (cx, piece) = (&cx, data.slice(i * 65536..(i + 1) * 65536));
        async move { s.write_share(cx, si, 9, &secret(1), (i * 65536) as u64, piece).await.unwrap() }
    });
    let done = join_all(writes).await;
    assert_eq!(done.iter().filter(|&&d| d).count(), 1);
    assert_eq!(get(s, ShareKind::Immutable, si, 9).await, data);
}

pub async fn reads_are_cut_at_the_end_and_keep_their_order(s: &dyn StorageServer) {
    let (cx, si, data) = (cx(), si(8), pattern(100, 0));
    put(s, si, 3, &data).await;
    let ranges = [range(90, 20), range(0, 5), range(100, 1), range(50, 0), range(7, u64::MAX), range(u64::MAX, 2)];
    let answer = s.read_share(&cx, ShareKind::Immutable, si, 3, &ranges).await.unwrap();
    let wanted = [data.slice(90..), data.slice(..5), Bytes::new(), Bytes::new(), data.slice(7..), Bytes::new()];
    assert_eq!(answer, wanted);
    assert_eq!(s.read_share(&cx, ShareKind::Immutable, si, 3, &[]).await.unwrap(), Vec::<Bytes>::new());
    let absent = s.read_share(&cx, ShareKind::Immutable, si, 4, &ranges).await;
    assert_eq!(absent, Err(StorageError::NoSuchShare));
}

pub async fn what_is_unknown_is_said_to_be(s: &dyn StorageServer) {
    let (cx, si) = (cx(), si(9));
    for kind in [ShareKind::Immutable, ShareKind::Mutable] {
        assert_eq!(s.list_shares(&cx, kind, si).await.unwrap(), numbers(&[]));
        assert_eq!(s.read_share(&cx, kind, si, 0, &[range(0, 1)]).await, Err(StorageError::NoSuchShare));
        assert_eq!(s.advise_corrupt(&cx, kind, si, 0, "x").await, Err(StorageError::NoSuchShare));
    }
    assert_eq!(s.add_lease(&cx, si, &lease(1)).await, Err(StorageError::NoSuchShare));
    let answer = s.read_test_write(&cx, si, &enabler(1), &lease(1), &BTreeMap::new(), &[range(0, 9)]).await.unwrap();
    assert_eq!((answer.success, answer.data), (true, BTreeMap::new()));
    assert_eq!(s.list_shares(&cx, ShareKind::Mutable, si).await.unwrap(), numbers(&[]));
}

pub async fn a_slot_is_written_read_and_tested(s: &dyn StorageServer) {
    let (cx, si) = (cx(), si(10));
    let both = [(0, write(0, b"version one")), (3, write(0, b"share three"))];
    let answer = rtw(s, si, &both).await.unwrap();
    assert_eq!((answer.success, answer.data), (true, BTreeMap::new()));
    assert_eq!(s.list_shares(&cx, ShareKind::Mutable, si).await.unwrap(), numbers(&[0, 3]));

    let mut next = write(8, b"two");
    next.test = vec![test(0, 7, b"version"), test(8, 100, b"one")];
    let shares = BTreeMap::from([(0, next.clone()), (4, write(0, b"new"))]);
    let read = [range(8, 3), range(0, 1 << 30), range(500, 5)];
    let answer = s.read_test_write(&cx, si, &enabler(1), &lease(1), &shares, &read).await.unwrap();
    assert!(answer.success);
    let before = |a: &'static [u8], b: &'static [u8]| vec![Bytes::from_static(a), Bytes::from_static(b), Bytes::new()];
    assert_eq!(answer.data, BTreeMap::from([(0, before(b"one", b"version one")), (3, before(b"ree", b"share three"))]));

    let answer = s.read_test_write(&cx, si, &enabler(1), &lease(1), &shares, &read).await.unwrap();
    assert!(!answer.success);
    assert_eq!(answer.data[&0], before(b"two", b"version two"));
    assert_eq!(answer.data[&4], vec![Bytes::new(), Bytes::from_static(b"new"), Bytes::new()]);
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, "version two");
    assert_eq!(get(s, ShareKind::Mutable, si, 3).await, "share three");
}

pub async fn all_slots_are_read_at_once(s: &dyn StorageServer) {
    let si = si(24);
    assert!(s.read_slots(&cx(), si, 254, range(0, 4)).await.unwrap().is_empty());
    rtw(s, si, &[(0, write(0, b"none")), (7, write(0, b"seven")), (200, write(0, b"x"))]).await.unwrap();
    let read = s.read_slots(&cx(), si, 199, range(1, 4)).await.unwrap();
    assert_eq!(read, BTreeMap::from([(0, Ok("one".into())), (7, Ok("even".into()))]));
}

pub async fn one_failed_test_stops_all_writes(s: &dyn StorageServer) {
    let si = si(11);
    rtw(s, si, &[(0, write(0, b"aaaa")), (1, write(0, b"bbbb"))]).await.unwrap();
    let mut wrong = write(0, b"xxxx");
    wrong.test = vec![test(0, 4, b"zzzz")];
    let deletion = TestWrite { new_length: Some(0), ..TestWrite::default() };
    let answer = rtw(s, si, &[(0, deletion), (1, wrong), (2, write(0, b"yyyy"))]).await.unwrap();
    assert!(!answer.success);
    assert_eq!(s.list_shares(&cx(), ShareKind::Mutable, si).await.unwrap(), numbers(&[0, 1]));
    assert_eq!(get(s, ShareKind::Mutable, si, 1).await, "bbbb");
}

pub async fn an_absent_share_reads_as_empty(s: &dyn StorageServer) {
    let si = si(12);
    let must_be_new = TestWrite { test: vec![test(0, 1, b"")], write: vec![], new_length: None };
    assert!(rtw(s, si, &[(5, must_be_new.clone())]).await.unwrap().success);
    assert_eq!(s.list_shares(&cx(), ShareKind::Mutable, si).await.unwrap(), numbers(&[5]));
    assert_eq!(get(s, ShareKind::Mutable, si, 5).await, "");
    assert!(rtw(s, si, &[(5, must_be_new.clone())]).await.unwrap().success);
    rtw(s, si, &[(5, write(0, b"x"))]).await.unwrap();
    assert!(!rtw(s, si, &[(5, must_be_new)]).await.unwrap().success);
    let mut wrong = write(0, b"y");
    wrong.test = vec![test(0, 1, b"x")];
    assert!(!rtw(s, si, &[(6, wrong)]).await.unwrap().success);
    assert_eq!(s.list_shares(&cx(), ShareKind::Mutable, si).await.unwrap(), numbers(&[5]));
}

pub async fn a_wrong_write_enabler_changes_nothing(s: &dyn StorageServer) {
    let (cx, si) = (cx(), si(13));
    rtw(s, si, &[(0, write(0, b"mine"))]).await.unwrap();
    for shares in [BTreeMap::new(), BTreeMap::from([(0, write(0, b"his!"))]), BTreeMap::from([(1, write(0, b"new"))])] {
        let answer = s.read_test_write(&cx, si, &enabler(2), &lease(1), &shares, &[range(0, 4)]).await;
        assert_eq!(answer, Err(StorageError::BadWriteEnabler));
    }
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, "mine");
    assert_eq!(s.list_shares(&cx, ShareKind::Mutable, si).await.unwrap(), numbers(&[0]));
}

pub async fn holes_are_zeros_and_lengths_obey(s: &dyn StorageServer) {
    let si = si(14);
    rtw(s, si, &[(0, write(5, b"abcde"))]).await.unwrap();
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, &b"\0\0\0\0\0abcde"[..]);
    let cut = TestWrite { new_length: Some(7), ..write(0, b"12345") };
    rtw(s, si, &[(0, cut)]).await.unwrap();
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, "12345ab");
    let larger = TestWrite { new_length: Some(1000), ..TestWrite::default() };
    rtw(s, si, &[(0, larger)]).await.unwrap();
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, "12345ab");
    rtw(s, si, &[(0, write(9, b"z"))]).await.unwrap();
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, &b"12345ab\0\0z"[..]);
    let several = TestWrite {
        write: vec![(0, Bytes::from_static(b"aaaa")), (2, Bytes::from_static(b"bbbb")), (20, Bytes::from_static(b"c"))],
        new_length: Some(8),
        test: vec![],
    };
    rtw(s, si, &[(0, several)]).await.unwrap();
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, &b"aabbbbb\0"[..]);
}

pub async fn a_share_that_is_replaced_leaves_no_rest(s: &dyn StorageServer) {
    let si = si(15);
    for (round, len) in [5000usize, 100, 7000, 1, 3000].into_iter().enumerate() {
        let data = pattern(len, round);
        let whole = TestWrite { write: vec![(0, data.clone())], new_length: Some(len as u64), test: vec![] };
        rtw(s, si, &[(0, whole)]).await.unwrap();
        assert_eq!(get(s, ShareKind::Mutable, si, 0).await, data);
    }
}

pub async fn an_impossible_write_is_refused(s: &dyn StorageServer) {
    let si = si(16);
    rtw(s, si, &[(0, write(0, b"kept"))]).await.unwrap();
    assert!(rtw(s, si, &[(0, write(u64::MAX - 1, b"xyz"))]).await.is_err());
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, "kept");
}

pub async fn a_deleted_slot_is_free_again(s: &dyn StorageServer) {
    let (cx, si) = (cx(), si(17));
    let deletion = TestWrite { new_length: Some(0), ..TestWrite::default() };
    assert!(rtw(s, si, &[(0, deletion.clone())]).await.unwrap().success);
    rtw(s, si, &[(0, write(0, b"a")), (1, write(0, b"b"))]).await.unwrap();
    rtw(s, si, &[(0, deletion.clone())]).await.unwrap();
    assert_eq!(s.list_shares(&cx, ShareKind::Mutable, si).await.unwrap(), numbers(&[1]));
    rtw(s, si, &[(1, TestWrite { new_length: Some(0), ..write(0, b"gone") })]).await.unwrap();
    assert_eq!(s.list_shares(&cx, ShareKind::Mutable, si).await.unwrap(), numbers(&[]));
    let shares = BTreeMap::from([(0, write(0, b"other"))]);
    assert!(s.read_test_write(&cx, si, &enabler(2), &lease(1), &shares, &[]).await.unwrap().success);
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, "other");
}

pub async fn test_and_set_lets_one_writer_win(s: &dyn StorageServer) {
    let si = si(18);
    rtw(s, si, &[(0, write(0, &[0]))]).await.unwrap();
    let writers = (0..6).map(|_| async {
        let mut won = 0;
        while won < 5 {
            let seen = get(s, ShareKind::Mutable, si, 0).await;
            let next = TestWrite {
                test: vec![TestVector { offset: 0, size: 1, specimen: seen.clone() }],
                write: vec![(0, Bytes::from(vec![seen[0] + 1]))],
                new_length: Some(1),
            };
            won += u32::from(rtw(s, si, &[(0, next)]).await.unwrap().success);
        }
    });
    join_all(writers).await;
    assert_eq!(get(s, ShareKind::Mutable, si, 0).await, &[30u8][..]);
}

pub async fn leases_and_advice_are_taken(s: &dyn StorageServer) {
    let (cx, fixed, slot) = (cx(), si(19), si(20));
    put(s, fixed, 0, &pattern(12, 0)).await;
    for n in [7, 8, 8, 9] {
        assert_eq!(s.add_lease(&cx, fixed, &lease(n)).await, Ok(()));
    }
    assert_eq!(s.advise_corrupt(&cx, ShareKind::Immutable, fixed, 0, "block 3 does not match").await, Ok(()));
    assert_eq!(get(s, ShareKind::Immutable, fixed, 0).await, pattern(12, 0));
    rtw(s, slot, &[(0, write(0, b"data"))]).await.unwrap();
    for n in 1..8 {
        assert_eq!(s.add_lease(&cx, slot, &lease(n)).await, Ok(()));
    }
    assert_eq!(s.advise_corrupt(&cx, ShareKind::Mutable, slot, 0, "bad signature").await, Ok(()));
    assert_eq!(get(s, ShareKind::Mutable, slot, 0).await, "data");
    rtw(s, slot, &[(0, write(3, b"a longer text"))]).await.unwrap();
    assert_eq!(get(s, ShareKind::Mutable, slot, 0).await, "data longer text");
}

pub async fn kinds_are_not_mixed(s: &dyn StorageServer) {
    let (cx, fixed, slot) = (cx(), si(21), si(22));
    put(s, fixed, 0, &pattern(12, 0)).await;
    rtw(s, slot, &[(0, write(0, b"data"))]).await.unwrap();
    assert!(s.read_share(&cx, ShareKind::Mutable, fixed, 0, &[range(0, 4)]).await.is_err());
    assert!(s.read_share(&cx, ShareKind::Immutable, slot, 0, &[range(0, 4)]).await.is_err());
    assert!(rtw(s, fixed, &[(1, write(0, b"data"))]).await.is_err());
    assert_eq!(s.list_shares(&cx, ShareKind::Mutable, fixed).await.unwrap(), numbers(&[0]));
}

pub async fn the_server_says_what_it_has(s: &dyn StorageServer) {
    let status = s.status(&cx()).await.unwrap();
    assert!(status.available_space > 0 && status.maximum_immutable_share_size <= status.available_space);
    assert!(status.maximum_mutable_share_size > 1 << 40);
    assert_eq!(s.sync(&cx()).await, Ok(()));
    let all = s.allocate(&cx(), si(23), &numbers(&[0]), u64::MAX, &secret(1), &lease(1)).await.unwrap();
    assert_eq!((all.already_have, all.allocated), (numbers(&[]), numbers(&[])));
}

/// The suite: `conformance!(backend, fixture)` makes a test of each body, with a server of its own;
/// `conformance!(all on server)` runs all on one, for servers that take long to start.
macro_rules! conformance {
    ($backend:ident, $fixture:expr) => {
        $crate::storage::conformance!(names [@each $backend, $fixture,]);
    };
    (all on $server:expr) => {
        $crate::storage::conformance!(names [@all $server,]);
    };
    (names [$($head:tt)*]) => {
        $crate::storage::conformance!($($head)*
            a_share_appears_when_its_last_byte_arrives overlapping_writes_must_agree
            writes_beyond_the_allocated_size_are_refused allocation_tells_all_that_is_there
            uploads_answer_to_their_own_secret two_uploads_of_one_number_end_in_one_share
            a_large_share_arrives_in_parallel_and_backwards reads_are_cut_at_the_end_and_keep_their_order
            what_is_unknown_is_said_to_be a_slot_is_written_read_and_tested all_slots_are_read_at_once one_failed_test_stops_all_writes
            an_absent_share_reads_as_empty a_wrong_write_enabler_changes_nothing holes_are_zeros_and_lengths_obey
            a_share_that_is_replaced_leaves_no_rest an_impossible_write_is_refused a_deleted_slot_is_free_again
            test_and_set_lets_one_writer_win leases_and_advice_are_taken kinds_are_not_mixed
            the_server_says_what_it_has);
    };
    (@all $server:expr, $($name:ident)*) => {
        $(
            println!(stringify!($name));
            $crate::storage::$name($server).await;
        )*
    };
    (@each $backend:ident, $fixture:expr, $($name:ident)*) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $name() {
                    let (_kept, server) = $fixture.await;
                    super::$name(&server).await;
                }
            )*
        }
    };
}

pub(crate) use conformance;

conformance!(memory, async { ((), super::MemoryServer::new()) });
conformance!(local, super::super::local_store::fresh());
