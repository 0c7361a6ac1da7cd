//! Contents against a vector of bytes, and records against a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tahoefs::journal::*;

use super::{bytes, cx, edge, open, stored};

const LONGEST: u64 = 200_000;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize),
    Truncate(u64),
    /// Zeros, and whether the file may grow by them.
    Carve(u64, u64, bool),
    Read(u64, u64),
    Reopen,
    Barrier,
    Maintain,
}

/// Steps on a content that may reach `longest`, by writes that may be as long as `large`.
fn steps(longest: u64, large: usize) -> impl Strategy<Value = Vec<Step>> {
    // Near the places where something changes: the end of a row, the ends of units.
    let near = |at: u64| (at.saturating_sub(3)..at + 3).boxed();
    let near_or = move |at: u64| near(if at < longest { at } else { longest / 2 });
    let place = prop_oneof![0..longest, 0..9000u64, near_or(4096), near_or(65_536), near_or(131_072)];
    let length = prop_oneof![1..40usize, 1..9000usize, 4095..4098usize, large - 10_000..large];
    let step = prop_oneof![
        8 => (place.clone(), length).prop_map(|(at, length)| Step::Write(at, length)),
        3 => place.clone().prop_map(Step::Truncate),
        1 => Just(Step::Truncate(0)),
        4 => (place.clone(), 1..40_000u64, any::<bool>()).prop_map(|(at, length, grows)| Step::Carve(at, length, grows)),
        4 => (place.clone(), place).prop_map(|(from, length)| Step::Read(from, from + length)),
        2 => Just(Step::Reopen),
        1 => Just(Step::Barrier),
        1 => Just(Step::Maintain),
    ];
    prop::collection::vec(step, 1..24)
}

async fn run(base: Option<Vec<u8>>, steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(folder.path());
    let mut model = base.clone().unwrap_or_default();
    let start = base.as_ref().map(|b| ("URI:base".to_owned(), stored(b), b.len() as u64));
    let mut file = Arc::new(journal.create_file(start).unwrap());
    // The journal knows of a file over a stored one once it has changed.
    let mut id = file.id();
    assert_eq!(id.is_none(), base.is_some());
    for (i, step) in steps.into_iter().enumerate() {
        let before = file.generation();
        match step {
            Step::Write(at, length) => {
                let data = bytes(i as u64 + 1, length);
                file.write(at, Bytes::from(data.clone())).await.unwrap();
                model.resize(model.len().max(at as usize + length), 0);
                model[at as usize..at as usize + length].copy_from_slice(&data);
                assert!(file.generation() > before);
            }
            Step::Truncate(size) => {
                file.truncate(size).await.unwrap();
                model.resize(size as usize, 0);
                assert!(file.generation() > before);
            }
            Step::Carve(at, length, grows) => {
                let end = at + length;
                assert!(file.carve(at..end, grows.then_some(end)).await.unwrap());
                let size = if grows { model.len().max(end as usize) } else { model.len() };
                model.resize(size, 0);
                model[size.min(at as usize)..size.min(end as usize)].fill(0);
                let (size, hole) = (size as u64, at..end);
                if at < size {
                    assert_eq!(file.next_hole(at), Some(at), "step {i}");
                    assert!(file.next_data(at).is_none_or(|data| data >= hole.end.min(size)), "step {i}");
                }
                assert!(file.generation() > before);
            }
            Step::Read(from, to) => {
                let cut = |at: u64| at.min(model.len() as u64) as usize;
                let read = file.read(&cx(), from..to).await.unwrap();
                assert!(read == model[cut(from)..cut(to)], "step {i} reads other bytes at {from}..{to}");
            }
            Step::Reopen => {
                drop((file, journal));
                let (again, replay) = open(folder.path());
                assert_eq!((replay.damaged, replay.files.len()), (0, usize::from(id.is_some())));
                if id.is_none() {
                    let start = base.as_ref().map(|b| ("URI:base".to_owned(), stored(b), b.len() as u64));
                    file = Arc::new(again.create_file(start).unwrap());
                    journal = again;
                    continue;
                }
                let record = &replay.files[0];
                assert_eq!((Some(record.id), record.size), (id, model.len() as u64));
                let node = record.base.as_ref().map(|cap| {
                    assert_eq!(cap, "URI:base");
                    stored(base.as_ref().unwrap())
                });
                file = Arc::new(again.reopen_file(record, node).unwrap());
                journal = again;
            }
            Step::Barrier => journal.barrier().await.unwrap(),
            Step::Maintain => journal.maintain().await.unwrap(),
        }
        assert_eq!(file.size(), model.len() as u64);
        id = id.or(file.id());
    }
    let source = file.freeze(&cx());
    let all = source.read_at(0, model.len()).await.unwrap();
    assert!(all == model, "the content ends as another");
    file.write(0, Bytes::from_static(b"x")).await.unwrap();
    assert!(source.read_at(0, 0).await.is_err(), "a frozen content has changed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_content_behaves_like_a_vector_of_bytes(base in prop::option::of(0..LONGEST as usize), steps in steps(LONGEST, 70_000)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(base.map(|length| bytes(99, length)), steps));
    }

    #[test]
    fn so_does_one_that_fits_rows(base in prop::option::of(0..40_000usize), steps in steps(40_000, 20_000)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(base.map(|length| bytes(99, length)), steps));
    }

    #[test]
    fn replay_is_what_was_committed(
        batches in prop::collection::vec(prop::collection::vec((0u64..4, 0u8..12, 0u8..6), 1..8), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(records(batches));
    }
}

async fn records(batches: Vec<Vec<(u64, u8, u8)>>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(folder.path());
    let (mut dirs, mut edges) = (BTreeMap::new(), BTreeMap::new());
    let mut seq = 0;
    for (i, changes) in batches.into_iter().enumerate() {
        let mut batch = Batch::new();
        for (dir, name, what) in changes {
            seq += 1;
            let name = format!("name {name}");
            match what {
                0 => {
                    batch.remove_edge(dir, &name);
                    edges.remove(&(dir, name));
                }
                1 => {
                    batch.remove_dir(dir);
                    dirs.remove(&dir);
                }
                2 => {
                    let record = DirRecord {
                        cap: Some(format!("URI:DIR2:{seq}")),
                        unproven: None,
                        home: Some(seq),
                        parent: None,
                    };
                    batch.put_dir(dir, record.clone());
                    dirs.insert(dir, record);
                }
                _ => {
                    let record = edge(WantedTarget::Cap(format!("URI:{seq}")), seq);
                    batch.put_edge(dir, &name, record.clone());
                    edges.insert((dir, name), record);
                }
            }
        }
        journal.commit(batch).await.unwrap();
        if i % 3 == 2 {
            drop(journal);
            let (again, replay) = open(folder.path());
            assert_eq!(replay.damaged, 0);
            assert_eq!(replay.dirs.into_iter().collect::<BTreeMap<_, _>>(), dirs);
            let read = replay.edges.into_iter().map(|(dir, name, record)| ((dir, name), record));
            assert_eq!(read.collect::<BTreeMap<_, _>>(), edges);
            journal = again;
        }
    }
}

#[tokio::test]
async fn ids_are_never_given_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut highest = 0;
    for _ in 0..3 {
        let (journal, replay) = open(folder.path());
        assert!(replay.files.iter().all(|file| file.id <= highest));
        for _ in 0..3 {
            let id = journal.next_id();
            assert!(id > highest);
            highest = id;
        }
        let file = journal.create_file(None).unwrap();
        assert!(file.id().unwrap() > highest);
        file.write(0, Bytes::from_static(b"x")).await.unwrap();
        highest = file.id().unwrap();
    }
}

#[tokio::test]
async fn a_removed_file_goes_on_while_it_is_open_and_is_gone_then() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let (large, small, grown) =
        (journal.create_file(None).unwrap(), journal.create_file(None).unwrap(), journal.create_file(None).unwrap());
    let data = Bytes::from(bytes(1, 100_000));
    large.write(0, data.clone()).await.unwrap();
    small.write(0, data.slice(..100)).await.unwrap();
    grown.write(0, data.slice(..100)).await.unwrap();
    let used = journal.usage();
    assert!(used.bytes >= 100_200, "{used:?}");
    let mut batch = Batch::new();
    [&large, &small, &grown].iter().for_each(|file| batch.remove_file(file.id().unwrap()));
    journal.commit(batch).await.unwrap();
    for (file, size) in [(&large, 100_000), (&small, 100)] {
        file.write(50, data.slice(..7)).await.unwrap();
        let read = file.read(&cx(), 0..200_000).await.unwrap();
        let expected = [&data[..50], &data[..7], &data[57..size]].concat();
        assert!(read == expected);
    }
    grown.write(100, data.slice(100..)).await.unwrap();
    assert!(grown.read(&cx(), 0..200_000).await.unwrap() == data);
    journal.barrier().await.unwrap();
    assert!(large.read(&cx(), 60..100_000).await.unwrap() == data[60..]);
    assert_eq!(std::fs::read_dir(folder.path().join("staging")).unwrap().count(), 0);
    journal.maintain().await.unwrap();
    assert_eq!(journal.usage().bytes, 0);
    drop((large, small, grown, journal));
    assert!(open(folder.path()).1.files.is_empty());
}

#[tokio::test]
async fn the_space_of_a_removed_file_is_kept_until_its_removal_survives() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let file = journal.create_file(None).unwrap();
    file.write(0, Bytes::from(bytes(1, 100_000))).await.unwrap();
    journal.barrier().await.unwrap();
    file.truncate(0).await.unwrap();
    file.write(0, Bytes::from(bytes(2, 70_000))).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("staging")).unwrap().count(), 2);
    journal.barrier().await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("staging")).unwrap().count(), 1);
    assert!(file.read(&cx(), 0..u64::MAX).await.unwrap() == bytes(2, 70_000));
}

#[tokio::test]
async fn a_stored_content_is_known_until_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let sizes = [10, 100_000];
    let mut files = Vec::new();
    for size in sizes {
        let file = journal.create_file(None).unwrap();
        file.write(0, Bytes::from(bytes(1, size))).await.unwrap();
        assert!(!file.note_stored(file.generation() - 1, "URI:old").await.unwrap());
        assert!(file.note_stored(file.generation(), "URI:now").await.unwrap());
        files.push(file);
    }
    drop((files, journal));
    let (journal, replay) = open(folder.path());
    for record in &replay.files {
        assert_eq!(record.stored.as_deref(), Some("URI:now"));
        let file = journal.reopen_file(record, None).unwrap();
        assert_eq!(file.stored().as_deref(), Some("URI:now"));
        file.write(3, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(file.stored(), None);
    }
    drop(journal);
    let (_, replay) = open(folder.path());
    assert_eq!(
        replay.files.iter().map(|f| (f.size, f.stored.clone())).collect::<Vec<_>>(),
        [(10, None), (100_000, None)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_do_not_tear_what_they_share() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let file = Arc::new(journal.create_file(None).unwrap());
    file.write(0, Bytes::from(vec![0xff; 100_000])).await.unwrap();
    let writers = (0..8u64).map(|writer| {
        let (file, journal) = (Arc::clone(&file), journal.clone());
        tokio::spawn(async move {
            for i in 0..40 {
                let at = (i * 8 + writer) * 300;
                file.write(at, Bytes::from(vec![writer as u8; 300])).await.unwrap();
                let mut batch = Batch::new();
                batch.put_edge(writer, &i.to_string(), edge(WantedTarget::File(file.id().unwrap()), i));
                journal.commit(batch).await.unwrap();
                if i % 10 == 0 {
                    journal.barrier().await.unwrap();
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    drop((file, journal));
    let (journal, replay) = open(folder.path());
    assert_eq!((replay.edges.len(), replay.damaged), (320, 0));
    let file = journal.reopen_file(&replay.files[0], None).unwrap();
    let content = file.read(&cx(), 0..u64::MAX).await.unwrap();
    for (i, piece) in content[..96_000].chunks(300).enumerate() {
        assert!(piece.iter().all(|b| *b == (i % 8) as u8), "piece {i}");
    }
    assert!(content[96_000..].iter().all(|b| *b == 0xff));
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_leaves_one_content_or_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    for size in [1000, 100_000] {
        let file = journal.create_file(None).unwrap();
        file.write(0, Bytes::from(vec![1; size])).await.unwrap();
        for i in 0..20u8 {
            let write = file.write(0, Bytes::from(vec![i + 2; size]));
            let patience = std::time::Duration::from_micros(u64::from(i) * 30);
            drop(tokio::time::timeout(patience, write).await);
            let content = file.read(&cx(), 0..u64::MAX).await.unwrap();
            assert!(content.iter().all(|b| *b == content[0]), "torn at {i}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_journal_gives_its_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let mut files = Vec::new();
    for i in 0..3000 {
        let file = journal.create_file(None).unwrap();
        file.write(0, Bytes::from(bytes(i, 3000))).await.unwrap();
        files.push(file);
    }
    let database = folder.path().join("journal.db");
    let length = || std::fs::metadata(&database).unwrap().len();
    let upkeep = async || {
        // Nobody has committed for a while.
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        journal.maintain().await.unwrap();
    };
    upkeep().await;
    assert!(length() > 8 << 20, "contents stand in the database: {}", length());
    let (kept, gone) = files.split_first().unwrap();
    let mut batch = Batch::new();
    gone.iter().for_each(|file| batch.remove_file(file.id().unwrap()));
    journal.commit(batch).await.unwrap();
    upkeep().await;
    assert!(length() > 8 << 20, "not while something stands there");
    assert!(kept.read(&cx(), 0..3000).await.unwrap() == bytes(0, 3000));
    let mut batch = Batch::new();
    batch.remove_file(kept.id().unwrap());
    journal.commit(batch).await.unwrap();
    assert!(!journal.is_at_rest());
    upkeep().await;
    assert!(length() < 1 << 20 && journal.is_at_rest(), "{}", length());
    let file = journal.create_file(None).unwrap();
    file.write(0, Bytes::from(bytes(1, 3000))).await.unwrap();
    journal.barrier().await.unwrap();
    drop((files, file, journal));
    let (journal, replay) = open(folder.path());
    assert_eq!((replay.damaged, replay.files.len()), (0, 1));
    let file = journal.reopen_file(&replay.files[0], None).unwrap();
    assert!(file.read(&cx(), 0..3000).await.unwrap() == bytes(1, 3000));
}
