//! Writing MDMF files: every sequence of changes against a model, and what happens when servers fail or others write.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use tahoefs::cap::{Cap, MutableFormat};
use tahoefs::dirnode::DirNode;
use tahoefs::mutable::{Mode, MutableFile};
use tahoefs::node::{BytesSource, Changes, Directory, Edit, Expect, Freshness, NodeError, Readable, Source, Writeable};
use tahoefs::share::Version;
use tahoefs::storage::StorageError;
use tahoefs::storage::fault::{Fault, Method};
use tahoefs::util::{Cx, Priority};

use crate::grids::{Servers, cx, key};
use crate::mutable_vectors::check_blocks;

/// The segments of a file with k = 3.
const SEGMENT: u64 = 131_073;

/// `length` bytes that differ with `seed`.
fn bytes(length: u64, seed: u64) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(0x9e37_79b9).wrapping_add(seed.wrapping_mul(77)) >> 9) as u8).collect()
}

async fn create(servers: &Servers, content: Vec<u8>) -> MutableFile {
    MutableFile::create(servers.client(3, 5), &cx(), key(0), MutableFormat::Mdmf, content.into()).await.unwrap()
}

/// The same file, opened by a client that knows nothing of it.
fn reopen(servers: &Servers, file: &MutableFile) -> MutableFile {
    MutableFile::new(servers.client(3, 5), file.cap().clone())
}

async fn content(servers: &Servers, file: &MutableFile) -> Result<Vec<u8>, NodeError> {
    reopen(servers, file).read_best(&cx()).await.map(|(_, content)| content.to_vec())
}

/// All shares that the servers hold are of one version, five of them, and every block of each is right.
fn verify(servers: &Servers, file: &MutableFile, expected: &[u8], what: &str) -> Version {
    let shares = servers.shares(file.cap().storage_index());
    let newest = Version::parse(&shares[0].2).unwrap();
    let mut numbers: Vec<u32> = shares.iter().map(|(_, number, _)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, [0, 1, 2, 3, 4], "{what}");
    for (server, number, share) in &shares {
        let version = Version::parse(share).unwrap();
        assert_eq!(version, newest, "{what}: share {number} on server {server}");
        check_blocks(&version, *number, share, &file.cap().read_key().unwrap(), expected);
    }
    newest
}

#[derive(Clone, Debug)]
enum Step {
    Overwrite(u64),
    /// At a part of the size in thousandths, so many bytes.
    Update(u64, u64),
    Append(u64),
    Resize(u64),
    /// Two ranges, and the size.
    Ranges([(u64, u64); 2], u64),
}

fn sizes() -> impl Strategy<Value = u64> {
    let near = |(segments, more): (u64, i64)| (segments * SEGMENT).saturating_add_signed(more);
    prop_oneof![(0..6u64, -2..3i64).prop_map(near), 0..200u64, 0..4 * SEGMENT,]
}

fn steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
    let step = prop_oneof![
        1 => sizes().prop_map(Step::Overwrite),
        3 => (0..=1000u64, prop_oneof![sizes(), 1..50u64]).prop_map(|(at, length)| Step::Update(at, length % (2 * SEGMENT))),
        3 => sizes().prop_map(|length| Step::Append(length % (2 * SEGMENT))),
        2 => sizes().prop_map(Step::Resize),
        2 => ([(0..1000u64, 0..SEGMENT), (0..1000u64, 0..300u64)], sizes()).prop_map(|(ranges, size)| Step::Ranges(ranges, size)),
    ];
    proptest::collection::vec((step, any::<bool>()), 1..7)
}

/// Memory for little more than a segment.
fn narrow() -> Cx {
    Cx::new(Priority::Waiting, 300 << 10)
}

async fn take(file: &MutableFile, model: &mut Vec<u8>, step: &Step, seed: u64) {
    // Now and then with memory for a few shares at a time alone.
    let cx = if seed.is_multiple_of(2) { cx() } else { narrow() };
    let write = |model: &mut Vec<u8>, offset: usize, data: &[u8]| {
        model.resize(model.len().max(offset + data.len()), 0);
        model[offset..offset + data.len()].copy_from_slice(data);
    };
    match *step {
        Step::Overwrite(length) => {
            *model = bytes(length, seed);
            file.overwrite(&cx, model.clone().into()).await.unwrap();
        }
        Step::Update(..) | Step::Append(_) => {
            let (offset, length) = match *step {
                Step::Update(at, length) => (model.len() as u64 * at / 1000, length),
                Step::Append(length) => (model.len() as u64, length),
                _ => unreachable!(),
            };
            let data = bytes(length, seed);
            write(model, offset as usize, &data);
            file.update(&cx, offset, data.into()).await.unwrap();
        }
        Step::Resize(size) => {
            model.resize(size as usize, 0);
            file.write(&cx, None, &Changes::resize(size)).await.unwrap();
        }
        Step::Ranges(ranges, size) => {
            let base = file.file_version(&cx).await.unwrap().unwrap();
            let source = bytes(size, seed);
            model.resize(size as usize, 0);
            let ranges = ranges.map(|(at, length)| (size * at / 1000)..(size * at / 1000 + length).min(size));
            for range in &ranges {
                let range = range.start as usize..range.end as usize;
                model[range.clone()].copy_from_slice(&source[range]);
            }
            let source: Arc<dyn Source> = Arc::new(BytesSource(source.into()));
            let version =
                file.write(&cx, Some(&base), &Changes::new(source, ranges.to_vec(), Some(size))).await.unwrap();
            assert_eq!((version.seqnum, version.size), (base.seqnum + 1, size));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_changes_is_that_of_the_model(first in sizes(), steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let servers = Servers::new(5);
            let mut model = bytes(first, 0);
            let mut file = create(&servers, model.clone()).await;
            verify(&servers, &file, &model, "created");
            for (i, (step, fresh)) in steps.iter().enumerate() {
                if *fresh {
                    file = reopen(&servers, &file);
                }
                take(&file, &mut model, step, i as u64 + 1).await;
                let version = verify(&servers, &file, &model, &format!("{step:?}"));
                assert_eq!(version.header.seqnum, i as u64 + 2);
                assert!(content(&servers, &file).await.unwrap() == model, "{step:?}");
                let size = model.len() as u64;
                let ranges = [size / 3..size / 2, size.saturating_sub(5)..size + 1, SEGMENT - 1..SEGMENT + 1];
                for reader in [&file, &reopen(&servers, &file)] {
                    let read = reader.read(&cx(), &ranges).await.unwrap();
                    for (range, read) in ranges.iter().zip(read) {
                        let expected = range.start.min(size) as usize..range.end.clamp(range.start.min(size), size) as usize;
                        assert!(read == model[expected], "{step:?} {range:?}");
                    }
                }
            }
        });
    }
}

/// Where the reference fails: at multiples of the segment size, onto nothing, and again and again by one object.
#[tokio::test]
async fn appends_at_every_boundary() {
    let servers = Servers::new(5);
    let mut model = Vec::new();
    let file = create(&servers, Vec::new()).await;
    for (i, length) in [1, SEGMENT - 1, SEGMENT, 1, SEGMENT - 1, 2, 2 * SEGMENT - 2, 5, SEGMENT].into_iter().enumerate()
    {
        take(&file, &mut model, &Step::Append(length), i as u64).await;
        verify(&servers, &file, &model, &format!("append {i}"));
        take(&file, &mut model, &Step::Update(0, 3), i as u64 + 50).await;
        verify(&servers, &file, &model, &format!("update {i}"));
    }
    assert!(content(&servers, &file).await.unwrap() == model);
}

#[tokio::test]
async fn only_what_changes_is_sent() {
    let servers = Servers::new(5);
    let model = bytes(4 * SEGMENT, 1);
    let file = create(&servers, model.clone()).await;
    let si = file.cap().storage_index();
    let before = servers.shares(si);
    let writer = reopen(&servers, &file);
    let reads = || servers.0.iter().map(|server| server.calls(Method::ReadShare)).sum::<u64>();
    writer.update(&cx(), 2 * SEGMENT + 7, Bytes::from_static(b"changed")).await.unwrap();
    let asked = reads();
    // The next change reads but the blocks of the one segment.
    writer.update(&cx(), 2 * SEGMENT + 7, Bytes::from_static(b"CHANGED")).await.unwrap();
    assert_eq!(reads() - asked, 3);
    for ((_, number, old), (_, _, new)) in before.iter().zip(servers.shares(si)) {
        let version = Version::parse(&new).unwrap();
        assert_eq!(version.header.seqnum, 3);
        let encoding = version.header.encoding().unwrap();
        for segment in 0..4 {
            let range = version.block_range(&encoding, segment).unwrap();
            let range = range.start as usize..range.end as usize;
            assert_eq!(old[range.clone()] == new[range], segment != 2, "share {number}, segment {segment}");
        }
    }
}

/// Shares that do not fit into memory together are made and sent one after the other.
#[tokio::test(start_paused = true)]
async fn little_memory_takes_more_rounds() {
    let servers = Servers::new(5);
    let mut model = bytes(8 * SEGMENT + 9, 1);
    let file = create(&servers, model.clone()).await;
    for server in &servers.0 {
        server.always(Some(Method::ReadTestWrite), Fault::Delay(Duration::from_secs(1)));
    }
    let rounds = async |file: &MutableFile, cx: &Cx, changes: Changes| {
        let began = tokio::time::Instant::now();
        file.write(cx, None, &changes).await.unwrap();
        began.elapsed().as_secs()
    };
    let whole = |content: &[u8]| Changes::whole(Arc::new(BytesSource(content.to_vec().into())));
    let two = Cx::new(Priority::Waiting, 1700 << 10);
    for (cx, expected) in [(cx(), 1), (two, 3), (narrow(), 5)] {
        model = bytes(model.len() as u64, expected);
        assert_eq!(rounds(&file, &cx, whole(&model)).await, expected);
        verify(&servers, &file, &model, &format!("in {expected} rounds"));
    }
    // Of five segments in the middle, two in part; one share is missing.
    let si = file.cap().storage_index();
    let (server, number, _) = servers.shares(si).remove(0);
    servers.0[server].inner().remove_share(si, number);
    let data = bytes(3 * SEGMENT + 20, 7);
    let at = 2 * SEGMENT - 10;
    model[at as usize..][..data.len()].copy_from_slice(&data);
    assert_eq!(rounds(&reopen(&servers, &file), &narrow(), Changes::patch(at, data.into())).await, 5);
    verify(&servers, &file, &model, "in place");
    // Who has come first is found out by the first share.
    let stale = reopen(&servers, &file);
    stale.write(&cx(), None, &Changes::resize(model.len() as u64 - 1)).await.unwrap();
    file.write(&cx(), None, &whole(&model)).await.unwrap();
    let sent = || servers.0.iter().map(|server| server.calls(Method::ReadTestWrite)).sum::<u64>();
    let before = sent();
    stale.write(&narrow(), None, &whole(&model[1..])).await.unwrap();
    assert_eq!(sent() - before, 6);
    verify(&servers, &file, &model[1..], "in the end");
}

/// Bytes that differ each time.
struct Fickle(AtomicU64);

#[async_trait]
impl Source for Fickle {
    fn size(&self) -> u64 {
        8 * SEGMENT
    }

    async fn read_at(&self, _: u64, length: usize) -> std::io::Result<Bytes> {
        Ok(bytes(length as u64, self.0.fetch_add(1, Ordering::Relaxed)).into())
    }
}

#[tokio::test]
async fn a_source_that_changes_is_not_stored() {
    let servers = Servers::new(5);
    let model = bytes(5 * SEGMENT, 1);
    let file = create(&servers, model.clone()).await;
    let changes = Changes::whole(Arc::new(Fickle(AtomicU64::new(0))));
    let failed = file.write(&narrow(), None, &changes).await;
    assert!(matches!(failed, Err(NodeError::Source(_))), "{failed:?}");
    verify(&servers, &file, &model, "as it was");
}

#[tokio::test]
async fn writes_wait_for_memory() {
    for format in [MutableFormat::Sdmf, MutableFormat::Mdmf] {
        let servers = Servers::new(5);
        let content = bytes(SEGMENT, 1);
        let file = MutableFile::create(servers.client(3, 5), &cx(), key(0), format, content.into()).await.unwrap();
        let cx = narrow();
        let all = cx.memory(300 << 10).await;
        let late = cx.with_timeout(Duration::from_millis(50));
        let written = file.overwrite(&late, bytes(SEGMENT, 2).into()).await;
        assert!(matches!(written, Err(NodeError::Stopped(_))), "{written:?}");
        drop(all);
        file.overwrite(&cx, bytes(SEGMENT, 2).into()).await.unwrap();
        assert!(self::content(&servers, &file).await.unwrap() == bytes(SEGMENT, 2));
    }
}

#[tokio::test]
async fn a_server_that_was_away_gets_a_whole_share() {
    for mut change in [0..5, SEGMENT..SEGMENT + 9, 3 * SEGMENT..3 * SEGMENT + 1] {
        let servers = Servers::new(5);
        let mut model = bytes(3 * SEGMENT, 1);
        let file = create(&servers, model.clone()).await;
        let put = async |model: &mut Vec<u8>, range: &Range<u64>, seed| {
            let data = bytes(range.end - range.start, seed);
            model.resize(model.len().max(range.end as usize), 0);
            model[range.start as usize..range.end as usize].copy_from_slice(&data);
            reopen(&servers, &file).update(&cx(), range.start, data.into()).await
        };
        servers.0[1].set_down(true);
        put(&mut model, &change, 2).await.unwrap();
        assert!(content(&servers, &file).await.unwrap() == model);
        servers.0[1].set_down(false);
        change.end += 1;
        put(&mut model, &change, 3).await.unwrap();
        verify(&servers, &file, &model, "after it came back");
        // It can be asked, but does not take what it is sent.
        servers.0[2].next(Some(Method::ReadTestWrite), 1, Fault::Fail(StorageError::Io("full of dust".into())));
        put(&mut model, &change, 4).await.unwrap();
        assert!(content(&servers, &file).await.unwrap() == model);
        put(&mut model, &change, 5).await.unwrap();
        verify(&servers, &file, &model, "after it was mended");
    }
}

#[tokio::test]
async fn a_missing_share_is_made_from_what_is_read_window_by_window() {
    // Whole segments in 4 MiB.
    const WINDOW: u64 = (4 << 20) / SEGMENT;
    let mut more = Vec::new();
    // So many lie behind the one that is written.
    for segments in [1, WINDOW, WINDOW + 1, 2 * WINDOW, 2 * WINDOW + 1] {
        let mut model = bytes((segments + 1) * SEGMENT, segments);
        let servers = Servers::new(5);
        let file = create(&servers, model.clone()).await;
        let reads = || servers.0.iter().map(|server| server.calls(Method::ReadShare)).sum::<u64>();
        let change = async |model: &mut Vec<u8>, text: &'static [u8]| {
            let before = reads();
            reopen(&servers, &file).update(&cx(), 7, Bytes::from_static(text)).await.unwrap();
            model[7..7 + text.len()].copy_from_slice(text);
            reads() - before
        };
        let usual = change(&mut model, b"first").await;
        let (server, number, _) = servers.shares(file.cap().storage_index()).remove(0);
        servers.0[server].inner().remove_share(file.cap().storage_index(), number);
        more.push(change(&mut model, b"again").await - usual);
        verify(&servers, &file, &model, "the share is there again");
    }
    // A full window of a share is more than one request reads (1 MiB): it takes two of each of k shares. One that has
    // just begun takes one.
    let requests: Vec<u64> = more.iter().map(|reads| (reads - more[0]) / 3).collect();
    assert_eq!(requests, [0, 1, 2, 3, 4], "{more:?}");
}

#[tokio::test]
async fn corrupt_shares_are_replaced_by_an_update() {
    let servers = Servers::new(5);
    let mut model = bytes(2 * SEGMENT + 100, 1);
    let file = create(&servers, model.clone()).await;
    let si = file.cap().storage_index();
    let version = Version::parse(&servers.shares(si)[0].2).unwrap();
    let encoding = version.header.encoding().unwrap();
    let regions = [
        0..1,
        9..10,
        59..60,
        version.signature(),
        version.public_key(),
        version.share_hash_chain(),
        version.block_hash_tree(),
        // Of a segment that is touched in part, and so read.
        version.block_range(&encoding, 1).unwrap(),
    ];
    for (i, region) in regions.into_iter().enumerate() {
        let mut hurt = 0;
        for server in &servers.0 {
            for number in server.inner().share_numbers(si).into_iter().filter(|n| *n < 2) {
                hurt += usize::from(server.inner().edit_share(si, number, |bytes| {
                    bytes[region.start as usize..region.end as usize].iter_mut().for_each(|b| *b ^= 0x41);
                }));
            }
        }
        assert_eq!(hurt, 2);
        let data = bytes(10, i as u64);
        model[SEGMENT as usize + 5..][..10].copy_from_slice(&data);
        reopen(&servers, &file)
            .update(&cx(), SEGMENT + 5, data.into())
            .await
            .unwrap_or_else(|e| panic!("{region:?}: {e}"));
        verify(&servers, &file, &model, &format!("{region:?}"));
    }
}

/// A file as a bug of the reference leaves it: no share has a tail that matches its hash.
#[tokio::test]
async fn a_file_with_an_unreadable_tail_gives_errors_until_it_is_rewritten() {
    let servers = Servers::new(5);
    let model = bytes(SEGMENT + 500, 1);
    let file = create(&servers, model.clone()).await;
    let si = file.cap().storage_index();
    for (server, number, share) in servers.shares(si) {
        let version = Version::parse(&share).unwrap();
        let tail = version.block_range(&version.header.encoding().unwrap(), 1).unwrap().end as usize - 1;
        assert!(servers.0[server].inner().edit_share(si, number, |bytes| bytes[tail] ^= 1));
    }
    let short = |e: &NodeError| matches!(e, NodeError::NotEnoughShares { .. });
    let reader = reopen(&servers, &file);
    let (head, tail) = (0..9, SEGMENT..SEGMENT + 1);
    assert!(reader.read(&cx(), std::slice::from_ref(&head)).await.unwrap()[0] == model[..9]);
    assert!(reader.read(&cx(), std::slice::from_ref(&tail)).await.is_err_and(|e| short(&e)));
    assert!(content(&servers, &file).await.is_err_and(|e| short(&e)));
    let append = reopen(&servers, &file).update(&cx(), SEGMENT + 500, Bytes::from_static(b"x")).await;
    assert!(append.is_err_and(|e| short(&e)));
    reopen(&servers, &file).write(&cx(), None, &Changes::resize(SEGMENT)).await.unwrap();
    verify(&servers, &file, &model[..SEGMENT as usize], "without the tail");
}

#[tokio::test]
async fn changes_by_another_object_stay_or_are_told() {
    let servers = Servers::new(5);
    let mut model = bytes(3 * SEGMENT, 1);
    let file = create(&servers, model.clone()).await;
    let base = file.file_version(&cx()).await.unwrap().unwrap();
    reopen(&servers, &file).update(&cx(), 0, Bytes::from_static(b"theirs")).await.unwrap();
    let patch = Changes::patch(2 * SEGMENT, Bytes::from_static(b"ours"));
    let newest = reopen(&servers, &file).file_version(&cx()).await.unwrap().unwrap();
    assert_eq!(file.write(&cx(), Some(&base), &patch).await, Err(NodeError::Changed(newest)));
    // The object still believes in its own version: its tests fail, and it looks again.
    let again = reopen(&servers, &file);
    again.update(&cx(), SEGMENT, Bytes::from_static(b"first")).await.unwrap();
    reopen(&servers, &file).update(&cx(), 10, Bytes::from_static(b"more")).await.unwrap();
    again.write(&cx(), None, &patch).await.unwrap();
    for (at, what) in [(0, &b"theirs"[..]), (SEGMENT, b"first"), (10, b"more"), (2 * SEGMENT, b"ours")] {
        model[at as usize..][..what.len()].copy_from_slice(what);
    }
    verify(&servers, &file, &model, "all changes");
}

#[tokio::test]
async fn a_lost_answer_is_no_conflict() {
    let servers = Servers::new(5);
    let mut model = bytes(2 * SEGMENT, 1);
    let file = create(&servers, model.clone()).await;
    let base = file.file_version(&cx()).await.unwrap().unwrap();
    let patch = Changes::patch(SEGMENT, Bytes::from_static(b"patch"));
    for _ in 0..2 {
        for server in &servers.0 {
            let lost = StorageError::Unreachable("gone".into());
            server.next(Some(Method::ReadTestWrite), 1, Fault::AppliedThenFail(lost));
        }
        let error = file.write(&cx(), Some(&base), &patch).await.unwrap_err();
        assert!(matches!(error, NodeError::NotEnoughServers { .. }), "{error}");
    }
    let version = file.write(&cx(), Some(&base), &patch).await.unwrap();
    assert_eq!(version.seqnum, 4);
    model[SEGMENT as usize..][..5].copy_from_slice(b"patch");
    verify(&servers, &file, &model, "in the end");
    // Only what was not acknowledged counts as the base's.
    assert_eq!(file.write(&cx(), Some(&base), &patch).await, Err(NodeError::Changed(version)));
}

/// Three writers, each the first on two servers at most: no version of theirs has three shares, nor has the old one.
#[tokio::test(start_paused = true)]
async fn writers_who_split_the_servers_lose_nothing() {
    let servers = Servers::new(5);
    let mut model = bytes(4 * SEGMENT, 1);
    let file = create(&servers, model.clone()).await;
    let near: [&[usize]; 3] = [&[0, 1], &[2, 3], &[4]];
    let writers = near.map(|near| {
        let servers = servers.beside();
        let file = reopen(&servers, &file);
        async move {
            // Now it knows the version that is there, and will write without asking.
            file.modify(&cx(), |_| Ok(None)).await.unwrap();
            // All have read what they need before the first of them writes.
            for (i, server) in servers.0.iter().enumerate() {
                let late = if near.contains(&i) { 1000 } else { 5000 + i as u64 };
                server.next(Some(Method::ReadTestWrite), 1, Fault::Delay(Duration::from_millis(late)));
            }
            let segment = near[0] as u64 / 2;
            file.update(&cx(), segment * SEGMENT + 1, Bytes::from(vec![b'0' + near[0] as u8; 4])).await.unwrap();
        }
    });
    futures::future::join_all(writers).await;
    for (segment, mark) in [(0, b'0'), (1, b'2'), (2, b'4')] {
        model[(segment * SEGMENT) as usize + 1..][..4].fill(mark);
    }
    assert!(content(&servers, &file).await.unwrap() == model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_at_once_lose_nothing() {
    let servers = Arc::new(Servers::new(5));
    let mut model = bytes(3 * SEGMENT, 1);
    let file = create(&servers, model.clone()).await;
    for (i, server) in servers.0.iter().enumerate() {
        server.always(Some(Method::ReadTestWrite), Fault::Delay(Duration::from_millis(i as u64)));
    }
    let writers = (0..3u64).map(|writer| {
        let file = reopen(&servers, &file);
        tokio::spawn(async move {
            let mut done = 0;
            while done < 3 {
                let at = writer * SEGMENT + 100 * done;
                match file.update(&cx(), at, Bytes::from(vec![b'a' + writer as u8; 10])).await {
                    Ok(()) => done += 1,
                    Err(NodeError::Uncoordinated) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for (writer, done) in (0..3).flat_map(|writer| (0..3).map(move |done| (writer, done))) {
        model[(writer * SEGMENT + 100 * done) as usize..][..10].fill(b'a' + writer as u8);
    }
    assert!(content(&servers, &file).await.unwrap() == model);
}

#[tokio::test]
async fn sizes_beyond_all_bounds_are_refused() {
    let servers = Servers::new(5);
    let file = create(&servers, bytes(10, 1)).await;
    for size in [(1 << 30) + 1, 1 << 45, u64::MAX] {
        let refused = file.write(&cx(), None, &Changes::resize(size)).await;
        assert_eq!(refused, Err(NodeError::TooLarge), "{size}");
    }
    let refused = file.update(&cx(), u64::MAX - 3, Bytes::from_static(b"abc")).await;
    assert_eq!(refused, Err(NodeError::TooLarge));
    verify(&servers, &file, &bytes(10, 1), "as it was");
    let reader = MutableFile::new(servers.client(3, 5), file.cap().readonly());
    assert_eq!(reader.overwrite(&cx(), Bytes::new()).await, Err(NodeError::NotWriteable));
}

#[tokio::test]
async fn directories_live_in_mdmf_files_too() {
    let servers = Servers::new(5);
    let dir = DirNode::create(servers.client(3, 5), &cx(), key(0), MutableFormat::Mdmf, &[]).await.unwrap();
    assert!(dir.cap().to_uri().starts_with("URI:DIR2-MDMF:"));
    let link = |name: String| {
        let cap: Cap = Cap::parse("URI:LIT:nbswy3dp").unwrap();
        Edit::Link { name: name.into(), cap, metadata: None, expect: Expect::Anything }
    };
    // Some thousand entries fill more than one segment.
    let edits: Vec<Edit> = (0..1500).map(|i| link(format!("name {i}"))).collect();
    dir.modify(&cx(), &edits).await.unwrap();
    let file = MutableFile::new(servers.client(3, 5), dir.file().unwrap().cap().clone());
    assert!(file.size(&cx()).await.unwrap() > SEGMENT);
    let other = DirNode::mutable(Arc::new(file), dir.cap().clone());
    other.modify(&cx(), &[link("one more".into())]).await.unwrap();
    let table = dir.snapshot(&cx(), Freshness::Newest).await.unwrap();
    assert_eq!(table.entries.len(), 1501);
    assert!(dir.file().unwrap().servermap(&cx(), Mode::Check).await.unwrap().versions().len() == 1);
}

#[tokio::test]
async fn a_shorter_version_leaves_nothing_behind() {
    let servers = Servers::new(5);
    let file = create(&servers, bytes(4 * SEGMENT, 1)).await;
    file.overwrite(&cx(), bytes(SEGMENT + 5, 2).into()).await.unwrap();
    for (_, number, share) in servers.shares(file.cap().storage_index()) {
        assert_eq!(share.len() as u64, Version::parse(&share).unwrap().end(), "share {number}");
    }
    assert!(content(&servers, &file).await.unwrap() == bytes(SEGMENT + 5, 2));
}
