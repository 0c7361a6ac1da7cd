//! On how many servers a version of a mutable file must stand, and what it may be made of, so that nothing is lost that
//! somebody was told is stored.

use bytes::Bytes;
use tahoefs::cap::MutableFormat;
use tahoefs::mutable::{Breadth, MutableFile};
use tahoefs::node::{Changes, NodeError, Writeable};
use tahoefs::share::Version;
use tahoefs::storage::StorageError;
use tahoefs::storage::fault::{Fault, Method};

use crate::grids::{Servers, cx, key, put_share};

/// 3-of-10 on five servers, of which three must take their shares.
async fn create(servers: &Servers, format: MutableFormat) -> MutableFile {
    let grid = servers.happy_client(3, 3, 10);
    MutableFile::create(grid, &cx(), key(0), format, Bytes::from_static(b"<>")).await.unwrap()
}

/// The same file in another process.
fn stranger(servers: &Servers, file: &MutableFile) -> MutableFile {
    MutableFile::new(servers.happy_client(3, 3, 10), file.cap().clone())
}

/// Another object in the same process.
fn sibling(file: &MutableFile) -> MutableFile {
    MutableFile::new(file.grid().clone(), file.cap().clone())
}

fn down(servers: &Servers, which: &[usize]) {
    (0..servers.0.len()).for_each(|server| servers.0[server].set_down(which.contains(&server)));
}

/// Adds `<name>` unless it is there.
async fn add(file: &MutableFile, name: &str) -> Result<(), NodeError> {
    let entry = format!("<{name}>").into_bytes();
    let there = |old: &[u8]| old.windows(entry.len()).any(|part| part == entry);
    file.modify(&cx(), |old| Ok((!there(old)).then(|| [old, &entry].concat()))).await
}

async fn content(file: &MutableFile) -> String {
    String::from_utf8(file.read_best(&cx()).await.unwrap().1.to_vec()).unwrap()
}

fn seqnums(servers: &Servers, file: &MutableFile) -> Vec<u64> {
    let shares = servers.shares(file.cap().storage_index());
    shares.iter().map(|(_, _, bytes)| Version::parse(bytes).unwrap().header.seqnum).collect()
}

fn writes(servers: &Servers) -> u64 {
    servers.0.iter().map(|server| server.calls(Method::ReadTestWrite)).sum()
}

const BOTH: [MutableFormat; 2] = [MutableFormat::Sdmf, MutableFormat::Mdmf];

#[tokio::test]
async fn with_too_few_servers_nothing_is_written() {
    for format in BOTH {
        let servers = Servers::new(5);
        let file = stranger(&servers, &create(&servers, format).await);
        down(&servers, &[2, 3, 4]);
        let before = writes(&servers);
        let told = "3 of 5 servers do not answer";
        let few = NodeError::NotEnoughServers { happiness: 2, wanted: 3, reason: told.into() };
        assert_eq!(add(&file, "a").await, Err(few.clone()));
        assert_eq!(file.update(&cx(), 0, Bytes::from_static(b"x")).await, Err(few.clone()));
        assert_eq!(file.overwrite(&cx(), Bytes::from_static(b"x")).await, Err(few.clone()));
        assert_eq!((writes(&servers), content(&file).await.as_str()), (before, "<>"));
        let grid = servers.happy_client(3, 3, 10);
        let made = MutableFile::create(grid, &cx(), key(1), format, Bytes::new()).await.map(drop);
        assert!(matches!(made, Err(NodeError::NotEnoughServers { happiness: 2, wanted: 3, .. })), "{made:?}");
        down(&servers, &[]);
        add(&file, "a").await.unwrap();
        assert_eq!(seqnums(&servers, &file), [2; 10]);
    }
}

#[tokio::test]
async fn two_servers_of_five_do_not_make_a_version_that_is_stored() {
    let servers = Servers::new(5);
    let file = create(&servers, MutableFormat::Sdmf).await;
    // Nobody has asked the servers since they went away: the change reaches the two others.
    down(&servers, &[2, 3, 4]);
    let error = add(&file, "a").await.unwrap_err();
    assert!(matches!(error, NodeError::NotEnoughServers { happiness: 2, wanted: 3, .. }), "{error}");
    let mut now = seqnums(&servers, &file);
    now.sort_unstable();
    assert_eq!(now, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2]);
    assert!(matches!(add(&file, "a").await, Err(NodeError::NotEnoughServers { happiness: 2, wanted: 3, .. })));
    down(&servers, &[]);
    // That the name is there already is not enough, for nobody was told so, whoever comes next.
    add(&stranger(&servers, &file), "a").await.unwrap();
    assert_eq!(seqnums(&servers, &file), [3; 10]);
    add(&stranger(&servers, &file), "a").await.unwrap();
    add(&file, "b").await.unwrap();
    assert_eq!((content(&file).await.as_str(), seqnums(&servers, &file)), ("<><a><b>", vec![4; 10]));
}

/// Clients that see different servers one after the other: whatever one of them was told is stored is there in the end.
#[tokio::test]
async fn no_acknowledged_change_is_lost_when_servers_come_and_go() {
    for format in BOTH {
        // Of two versions with one number one has the greater root hash, by chance.
        for _ in 0..6 {
            let servers = Servers::new(5);
            let (left, right) = (create(&servers, format).await, Servers::beside(&servers));
            let right = stranger(&right, &left);
            content(&right).await;
            down(&servers, &[2, 3, 4]);
            assert!(add(&left, "left").await.is_err());
            down(&servers, &[0, 1]);
            let other = stranger(&servers, &left);
            add(&other, "right").await.unwrap();
            down(&servers, &[]);
            assert_eq!(content(&stranger(&servers, &left)).await, "<><right>");
            add(&other, "more").await.unwrap();
            add(&left, "left").await.unwrap();
            for reader in [&left, &right, &other, &stranger(&servers, &left)] {
                let content = content(reader).await;
                assert!(["<right>", "<more>", "<left>"].iter().all(|name| content.contains(name)), "{content}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_built_on_a_version_older_than_what_was_stored() {
    for format in BOTH {
        // 3 of 7, of which four must be placed: half of the servers and one.
        let servers = Servers::new(7);
        let grid = || servers.happy_client(3, 4, 7);
        let file = MutableFile::create(grid(), &cx(), key(0), format, Bytes::from_static(b"<>")).await.unwrap();
        let stranger = |_: &Servers, file: &MutableFile| MutableFile::new(grid(), file.cap().clone());
        down(&servers, &[4, 5, 6]);
        add(&stranger(&servers, &file), "a").await.unwrap();
        let writer = sibling(&file);
        assert_eq!(content(&writer).await, "<><a>");
        drop(writer);
        // What can be read now is old; the one server that was there knows of something newer.
        down(&servers, &[0, 1, 2]);
        let before = seqnums(&servers, &file);
        for object in [&file, &sibling(&file), &stranger(&servers, &file)] {
            assert_eq!(add(object, "b").await, Err(NodeError::OutOfReach), "{format:?}");
            assert_eq!(object.write(&cx(), None, &Changes::resize(1)).await, Err(NodeError::OutOfReach));
            assert_eq!(object.overwrite(&cx(), Bytes::new()).await, Err(NodeError::OutOfReach));
        }
        assert_eq!(seqnums(&servers, &file), before);
        // Nor where nobody knows but this process.
        down(&servers, &[]);
        let fourth = servers.0[3].inner();
        for (_, number, _) in servers.shares(file.cap().storage_index()).into_iter().filter(|(s, ..)| *s == 3) {
            fourth.remove_share(file.cap().storage_index(), number);
        }
        down(&servers, &[0, 1, 2]);
        assert_eq!(add(&sibling(&file), "b").await, Err(NodeError::OutOfReach));
        // Readers take what they can get.
        assert_eq!(content(&sibling(&file)).await, "<>");
        down(&servers, &[]);
        add(&file, "b").await.unwrap();
        assert_eq!(content(&stranger(&servers, &file)).await, "<><a><b>");
        assert!(seqnums(&servers, &file).iter().all(|seqnum| *seqnum == 3));
    }
}

/// All servers were restored from a backup.
#[tokio::test(start_paused = true)]
async fn a_rollback_by_all_servers_locks_nobody_out() {
    for format in BOTH {
        let servers = Servers::new(5);
        let file = create(&servers, format).await;
        let si = file.cap().storage_index();
        let backup = servers.shares(si);
        add(&file, "a").await.unwrap();
        add(&file, "b").await.unwrap();
        let lost = servers.shares(si);
        for (server, number, bytes) in &backup {
            assert!(servers.0[*server].inner().edit_share(si, *number, |share| share.clone_from(bytes)));
        }
        down(&servers, &[4]);
        assert_eq!(add(&file, "c").await, Err(NodeError::OutOfReach), "the last server may have it");
        down(&servers, &[]);
        // A server that has nothing at all may but lack its disk.
        let (emptied, first): (usize, Vec<_>) = (0, backup.iter().filter(|(server, ..)| *server == 0).collect());
        for (_, number, _) in &first {
            servers.0[emptied].inner().remove_share(si, *number);
        }
        assert_eq!(add(&file, "c").await, Err(NodeError::OutOfReach));
        for (_, number, bytes) in first {
            put_share(&servers, emptied, file.cap(), *number, bytes.clone()).await;
        }
        add(&file, "c").await.unwrap();
        assert_eq!(content(&stranger(&servers, &file)).await, "<><c>");
        // What was lost does not come before it when it turns up again.
        for (server, number, bytes) in &lost[..6] {
            assert!(servers.0[*server].inner().edit_share(si, *number, |share| share.clone_from(bytes)));
        }
        assert_eq!(content(&stranger(&servers, &file)).await, "<><c>");
    }
}

#[tokio::test]
async fn files_of_others_count_with_their_own_numbers() {
    for (needed, total, wanted) in [(1, 1, 1), (1, 2, 2), (2, 3, 3), (3, 10, 4)] {
        let servers = Servers::new(5);
        // Written by somebody who is content with whatever there is.
        let grid = servers.happy_client(needed, 1, total);
        let file = MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, Bytes::new()).await.unwrap();
        let si = file.cap().storage_index();
        for (server, number, bytes) in servers.shares(si).into_iter().filter(|(server, ..)| *server > 0) {
            servers.0[server].inner().remove_share(si, number);
            put_share(&servers, 0, file.cap(), number, bytes).await;
        }
        down(&servers, &[1, 2, 3, 4]);
        let ours = || MutableFile::new(servers.happy_client(3, 4, 10), file.cap().clone());
        let done = add(&ours(), "a").await;
        if wanted == 1 {
            done.unwrap();
        } else {
            let Err(NodeError::NotEnoughServers { happiness: 1, wanted: told, .. }) = done else { panic!("{done:?}") };
            assert_eq!(told, wanted);
        }
        down(&servers, &[]);
        add(&ours(), "a").await.unwrap();
        add(&ours(), "b").await.unwrap();
        let shares = servers.shares(file.cap().storage_index());
        let holders: std::collections::BTreeSet<usize> = shares.iter().map(|(server, ..)| *server).collect();
        assert!(holders.len() >= wanted, "{needed} of {total}: {holders:?}");
        assert_eq!(content(&ours()).await, "<a><b>");
    }
}

#[tokio::test]
async fn fewer_servers_than_wanted_are_told() {
    let servers = Servers::new(3);
    let grid = servers.happy_client(3, 7, 10);
    let made = MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, Bytes::new()).await.map(drop);
    assert_eq!(made, Err(NodeError::NotEnoughServers { happiness: 3, wanted: 7, reason: String::new() }));
    assert_eq!(writes(&servers), 0);
}

#[tokio::test]
async fn a_server_without_shares_gets_some_with_the_next_version() {
    for format in BOTH {
        let servers = Servers::new(6);
        down(&servers, &[4, 5]);
        let file = create(&servers, format).await;
        let si = file.cap().storage_index();
        // New, come back, and emptied.
        down(&servers, &[]);
        for number in servers.0[0].inner().share_numbers(si) {
            servers.0[0].inner().remove_share(si, number);
        }
        add(&stranger(&servers, &file), "a").await.unwrap();
        for (i, server) in servers.0.iter().enumerate() {
            assert!(!server.inner().share_numbers(si).is_empty(), "server {i}");
        }
        assert!(seqnums(&servers, &file).iter().all(|seqnum| *seqnum == 2));
        // So that any three of the servers are enough.
        for away in 0..6 {
            down(&servers, &[away, (away + 1) % 6, (away + 3) % 6]);
            assert_eq!(content(&stranger(&servers, &file)).await, "<><a>", "without {away}");
        }
    }
}

#[tokio::test]
async fn a_full_server_without_shares_costs_no_surveys() {
    let servers = Servers::new(5);
    down(&servers, &[4]);
    let file = create(&servers, MutableFormat::Sdmf).await;
    down(&servers, &[]);
    servers.0[4].always(Some(Method::ReadTestWrite), Fault::Fail(StorageError::NoSpace));
    let file = stranger(&servers, &file);
    add(&file, "a").await.unwrap();
    let asked = || servers.0.iter().map(|server| server.calls(Method::ListShares)).sum::<u64>();
    let before = asked();
    add(&file, "b").await.unwrap();
    assert_eq!(asked(), before);
    servers.0[4].clear();
    add(&file, "c").await.unwrap();
    assert!(!servers.0[4].inner().share_numbers(file.cap().storage_index()).is_empty());
}

/// Who has read a version asks no more servers than it takes to meet any version that was stored since.
#[tokio::test]
async fn who_knows_a_version_asks_fewer_servers_and_meets_the_next() {
    let lists = |servers: &Servers| servers.0.iter().map(|server| server.calls(Method::ListShares)).sum::<u64>();
    for away in (0..5).flat_map(|a| (a + 1..5).map(move |b| [a, b])) {
        let servers = Servers::new(5);
        let file = create(&servers, MutableFormat::Sdmf).await;
        let reader = stranger(&servers, &file);
        let (version, old) = reader.read_best(&cx()).await.unwrap();
        let before = lists(&servers);
        let again = stranger(&servers, &file);
        let known = || Some((old.clone(), version.clone()));
        assert_eq!(again.read_beyond(&cx(), known(), Breadth::Quick).await.unwrap(), (version.clone(), old.clone()));
        assert_eq!(lists(&servers) - before, 3);

        down(&servers, &away);
        add(&file, "next").await.unwrap();
        down(&servers, &[]);
        let (newer, content) = stranger(&servers, &file).read_beyond(&cx(), known(), Breadth::Quick).await.unwrap();
        assert_eq!((newer.header.seqnum, &content[..]), (2, &b"<><next>"[..]), "{away:?}");
    }
}

/// Others may store with less happiness.
#[tokio::test(start_paused = true)]
async fn every_minute_as_many_servers_are_asked_as_who_knows_nothing_asks() {
    let servers = Servers::new(5);
    let file = create(&servers, MutableFormat::Sdmf).await;
    let (version, old) = file.read_best(&cx()).await.unwrap();
    let reader = stranger(&servers, &file);
    let lists = || servers.0.iter().map(|server| server.calls(Method::ListShares)).sum::<u64>();
    for (pause, expected) in [(0, 3), (59, 3), (2, 5), (59, 3), (2, 5)] {
        tokio::time::advance(std::time::Duration::from_secs(pause)).await;
        let before = lists();
        reader.read_beyond(&cx(), Some((old.clone(), version.clone())), Breadth::Quick).await.unwrap();
        assert_eq!(lists() - before, expected, "{pause}");
        let before = lists();
        assert!(!stranger(&servers, &file).newer_than(&cx(), &version, Breadth::Wide).await.unwrap());
        assert_eq!(lists() - before, 5);
    }
}

/// Silence says nothing.
#[tokio::test]
async fn whether_there_is_something_newer_takes_enough_servers_to_say() {
    let servers = Servers::new(5);
    let file = create(&servers, MutableFormat::Sdmf).await;
    let (version, _) = file.read_best(&cx()).await.unwrap();
    for (away, known) in [(&[][..], true), (&[0, 1], true), (&[0, 1, 2], false), (&[0, 1, 2, 3, 4], false)] {
        down(&servers, away);
        for breadth in [Breadth::Quick, Breadth::Wide] {
            let newer = stranger(&servers, &file).newer_than(&cx(), &version, breadth).await;
            assert_eq!(newer.is_ok(), known, "{away:?} {newer:?}");
        }
    }
    down(&servers, &[]);
    servers.0.iter().for_each(|server| server.inner().clear());
    let lost = stranger(&servers, &file).newer_than(&cx(), &version, Breadth::Wide).await.unwrap_err();
    assert!(lost.is_lost(), "{lost}");
}
