//! Mutable files when servers fail, lie, lag behind or hang.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tahoefs::cap::MutableFormat;
use tahoefs::crypto::secrets;
use tahoefs::mutable::{Breadth, Mode, MutableFile};
use tahoefs::node::{NodeError, Readable, Writeable};
use tahoefs::share::{MutableHeader, SdmfShare, Version};
use tahoefs::storage::StorageError;
use tahoefs::storage::fault::{Fault, Method};

use crate::grids::{Servers, cx, key, put_share};

const CONTENT: &[u8] = b"what a file holds, long enough that three shares differ";

async fn create(servers: &Servers, needed: u16, total: u16) -> MutableFile {
    let grid = servers.client(needed, total);
    MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, Bytes::from_static(CONTENT)).await.unwrap()
}

/// The same file, opened by a client that knows nothing of it.
fn reopen(servers: &Servers, file: &MutableFile) -> MutableFile {
    MutableFile::new(servers.client(3, 5), file.cap().clone())
}

async fn content(servers: &Servers, file: &MutableFile) -> Result<Vec<u8>, NodeError> {
    reopen(servers, file).read_best(&cx()).await.map(|(_, content)| content.to_vec())
}

fn seqnums(servers: &Servers, file: &MutableFile) -> Vec<u64> {
    let shares = servers.shares(file.cap().storage_index());
    shares.iter().map(|(_, _, bytes)| Version::parse(bytes).unwrap().header.seqnum).collect()
}

fn becomes(what: &'static [u8]) -> impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, NodeError> + Send {
    move |_| Ok(Some(what.to_vec()))
}

#[tokio::test]
async fn as_many_servers_may_go_as_there_are_spare_shares() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    servers.0[0].set_down(true);
    servers.0[3].inner().clear();
    assert_eq!(content(&servers, &file).await.unwrap(), CONTENT);
    servers.0[1].set_down(true);
    let error = content(&servers, &file).await.unwrap_err();
    assert_eq!(error, NodeError::NotEnoughShares { found: 2, needed: 3, all_answered: false });
    let error = reopen(&servers, &file).modify(&cx(), becomes(b"x")).await.unwrap_err();
    assert_eq!(error, NodeError::NotEnoughShares { found: 2, needed: 3, all_answered: false });
    for server in &servers.0 {
        server.inner().clear();
    }
    let error = content(&servers, &file).await.unwrap_err();
    assert_eq!(error, NodeError::NotEnoughShares { found: 0, needed: 3, all_answered: false });
}

#[tokio::test]
async fn corrupt_shares_are_told_replaced_and_overwritten() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    let si = file.cap().storage_index();
    let (_, _, share) = servers.shares(si).remove(0);
    let version = Version::parse(&share).unwrap();
    let regions = [
        0..1,
        9..10,
        75..76,
        version.public_key(),
        version.signature(),
        version.share_hash_chain(),
        version.block_hash_tree(),
        version.share_data(),
        version.encrypted_private_key(),
    ];
    for region in regions {
        let file = reopen(&servers, &file);
        // Two of five, those with the lowest numbers: the ones that are read first.
        let mut hurt = 0;
        for server in &servers.0 {
            for number in server.inner().share_numbers(si).into_iter().filter(|n| *n < 2) {
                hurt += usize::from(server.inner().edit_share(si, number, |bytes| {
                    bytes[region.start as usize..region.end as usize].iter_mut().for_each(|b| *b ^= 0x41);
                }));
            }
        }
        assert_eq!(hurt, 2);
        let (version, bytes) = file.read_best(&cx()).await.unwrap_or_else(|e| panic!("{region:?}: {e}"));
        assert_eq!(bytes, CONTENT, "{region:?}");
        // A change to what is there already heals nothing; a real one overwrites what was corrupt.
        file.modify(&cx(), |old| Ok(Some([old, b"!"].concat()))).await.unwrap_or_else(|e| panic!("{region:?}: {e}"));
        file.modify(&cx(), becomes(CONTENT)).await.unwrap();
        assert_eq!(seqnums(&servers, &file), [version.header.seqnum + 2; 5], "{region:?}");
        for (_, number, bytes) in servers.shares(si) {
            SdmfShare::parse(&bytes).unwrap_or_else(|e| panic!("{region:?}, share {number}: {e}"));
        }
    }
    tokio::task::yield_now().await;
    assert!(servers.0.iter().any(|server| !server.inner().advisories().is_empty()));
}

#[tokio::test]
async fn one_corrupt_share_too_many_is_an_error() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    let si = file.cap().storage_index();
    for (server, number, bytes) in servers.shares(si).into_iter().take(3) {
        let data = Version::parse(&bytes).unwrap().share_data().start as usize;
        servers.0[server].inner().edit_share(si, number, |bytes| bytes[data] ^= 1);
    }
    assert_eq!(
        content(&servers, &file).await,
        Err(NodeError::NotEnoughShares { found: 2, needed: 3, all_answered: true })
    );
}

#[tokio::test]
async fn what_is_cut_short_on_the_wire_is_no_share() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    for length in [0, 1, 56, 107, 500, 700] {
        servers.0[0].clear();
        servers.0[1].clear();
        servers.0[0].always(Some(Method::ReadShare), Fault::Short(length));
        servers.0[1].always(Some(Method::ReadShare), Fault::Corrupt(0x10));
        assert_eq!(content(&servers, &file).await.unwrap(), CONTENT, "{length}");
    }
}

#[tokio::test]
async fn a_server_that_was_away_does_not_bring_the_past_back() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    servers.0[2].set_down(true);
    servers.0[4].set_down(true);
    file.modify(&cx(), becomes(b"second")).await.unwrap();
    servers.0[2].set_down(false);
    servers.0[4].set_down(false);
    assert_eq!(content(&servers, &file).await.unwrap(), b"second");
    // The next writer overwrites what is old too.
    reopen(&servers, &file).modify(&cx(), becomes(b"third")).await.unwrap();
    assert!(seqnums(&servers, &file).iter().all(|seqnum| *seqnum == 3), "{:?}", seqnums(&servers, &file));
    assert_eq!(content(&servers, &file).await.unwrap(), b"third");
}

/// What is known of the servers while some are away is not published from for ever.
#[tokio::test(start_paused = true)]
async fn shares_on_servers_that_come_back_are_written_again() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    let writer = reopen(&servers, &file);
    let down = |which: &[usize]| (0..5).for_each(|server| servers.0[server].set_down(which.contains(&server)));
    let asked = || servers.0.iter().map(|server| server.calls(Method::ListShares)).sum::<u64>();
    down(&[3, 4]);
    writer.modify(&cx(), becomes(b"second")).await.unwrap();
    let surveys = asked();
    writer.modify(&cx(), becomes(b"third")).await.unwrap();
    assert_eq!(asked(), surveys, "servers that stay away are not looked for at each change");
    down(&[]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    writer.modify(&cx(), becomes(b"fourth")).await.unwrap();
    let seqnums = seqnums(&servers, &file);
    assert!(seqnums.iter().all(|seqnum| *seqnum == 4), "{seqnums:?}");
    for first in 0..5 {
        for second in 0..first {
            down(&[first, second]);
            assert_eq!(content(&servers, &file).await.unwrap(), b"fourth", "without {first} and {second}");
        }
    }
}

/// Shares that are rewritten between the survey and the reading of their blocks are newer, not corrupt.
#[tokio::test]
async fn a_share_that_was_rewritten_while_it_is_read_is_not_corrupt() {
    let large = CONTENT.repeat(3000);
    // So many of five shares are of the newer version when the blocks are read.
    for rewritten in [1, 3, 5] {
        let servers = Servers::new(5);
        let grid = servers.client(3, 5);
        let file = MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, large.clone().into()).await.unwrap();
        let si = file.cap().storage_index();
        let reader = reopen(&servers, &file);
        // Now it knows a version, and no content.
        assert_eq!(reader.size(&cx()).await.unwrap(), large.len() as u64);
        let mut old = servers.shares(si);
        old.sort_by_key(|(_, number, _)| *number);
        let newer = [b"newer ", &large[..]].concat();
        file.overwrite(&cx(), newer.clone().into()).await.unwrap();
        for (server, number, bytes) in &old[rewritten..] {
            assert!(servers.0[*server].inner().edit_share(si, *number, |share| share.clone_from(bytes)));
        }
        let all = 0..newer.len() as u64;
        let read = reader.read(&cx(), std::slice::from_ref(&all)).await.unwrap().remove(0);
        let expected = if rewritten < 3 { &large } else { &newer };
        assert!(read == expected[..], "{rewritten} rewritten: {} bytes", read.len());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let advised: u64 = servers.0.iter().map(|server| server.calls(Method::AdviseCorrupt)).sum();
        assert_eq!(advised, 0, "{rewritten} rewritten");
    }
}

#[tokio::test]
async fn shares_move_on_when_their_server_does_not_take_them() {
    let servers = Servers::new(6);
    let file = create(&servers, 3, 5).await;
    let si = file.cap().storage_index();
    let away = servers.shares(si)[0].0;
    servers.0[away].always(Some(Method::ReadTestWrite), Fault::Fail(StorageError::BadWriteEnabler));
    file.modify(&cx(), becomes(b"second")).await.unwrap();
    let mut fresh: Vec<u32> = servers
        .shares(si)
        .into_iter()
        .filter(|(_, _, bytes)| Version::parse(bytes).unwrap().header.seqnum == 2)
        .map(|(_, number, _)| number)
        .collect();
    fresh.sort_unstable();
    assert_eq!(fresh, [0, 1, 2, 3, 4]);
}

/// Two clients that see different servers: what the one could store, the other must not bury.
#[tokio::test]
async fn a_minority_of_servers_is_not_written_to_from_memory() {
    let servers = Servers::new(5);
    let cut_off = create(&servers, 3, 5).await;
    cut_off.modify(&cx(), becomes(b"second")).await.unwrap();
    let down = |which: &[usize]| {
        (0..5).for_each(|server| servers.0[server].set_down(which.contains(&server)));
    };
    down(&[3, 4]);
    reopen(&servers, &cut_off).modify(&cx(), becomes(b"third")).await.unwrap();
    down(&[0, 1, 2]);
    assert!(cut_off.modify(&cx(), becomes(b"rival")).await.is_err());
    down(&[]);
    assert_eq!(content(&servers, &cut_off).await.unwrap(), b"third");
    cut_off.modify(&cx(), |old| Ok(Some([old, b"!"].concat()))).await.unwrap();
    assert_eq!(content(&servers, &cut_off).await.unwrap(), b"third!");
}

#[tokio::test]
async fn a_publish_that_reaches_too_few_says_why() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    for server in &servers.0[..3] {
        server.next(Some(Method::ReadTestWrite), 1, Fault::Fail(StorageError::Io("disk on fire".into())));
    }
    for server in &servers.0[3..] {
        server.next(Some(Method::ReadTestWrite), 1, Fault::Fail(StorageError::NoSpace));
    }
    let error = file.modify(&cx(), becomes(b"lost")).await.unwrap_err();
    let NodeError::NotEnoughServers { happiness: 0, wanted: 3, reason } = &error else { panic!("{error}") };
    assert!(reason.contains("disk on fire"), "{reason}");
    assert_eq!(content(&servers, &file).await.unwrap(), CONTENT);
    for server in &servers.0 {
        server.next(Some(Method::ReadTestWrite), 1, Fault::Fail(StorageError::NoSpace));
    }
    assert_eq!(file.modify(&cx(), becomes(b"lost")).await, Err(NodeError::NoSpace));
    file.modify(&cx(), becomes(b"found")).await.unwrap();
    assert_eq!(content(&servers, &file).await.unwrap(), b"found");
}

#[tokio::test]
async fn a_lost_answer_is_no_conflict() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    for server in &servers.0 {
        let lost = StorageError::Unreachable("gone".into());
        server.next(Some(Method::ReadTestWrite), 1, Fault::AppliedThenFail(lost));
    }
    let once = |old: &[u8]| Ok((!old.ends_with(b"+")).then(|| [old, b"+"].concat()));
    let error = file.modify(&cx(), once).await.unwrap_err();
    assert!(matches!(error, NodeError::NotEnoughServers { .. }), "{error}");
    // It was applied after all; as nobody can know on how many servers, it is published once more.
    file.modify(&cx(), once).await.unwrap();
    assert_eq!(content(&servers, &file).await.unwrap(), [CONTENT, b"+"].concat());
    assert_eq!(seqnums(&servers, &file), [3; 5]);
    file.modify(&cx(), once).await.unwrap();
    assert_eq!(seqnums(&servers, &file), [3; 5]);
}

#[tokio::test]
async fn nothing_is_taken_for_done_on_the_word_of_memory() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    file.modify(&cx(), becomes(b"here")).await.unwrap();
    reopen(&servers, &file).modify(&cx(), becomes(b"gone")).await.unwrap();
    let keep_here = |old: &[u8]| Ok((old != b"here").then(|| b"here".to_vec()));
    file.modify(&cx(), keep_here).await.unwrap();
    assert_eq!(content(&servers, &file).await.unwrap(), b"here");
}

#[tokio::test(start_paused = true)]
async fn servers_that_hang_delay_nobody_for_long() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    servers.0[1].always(None, Fault::Hang);
    servers.0[2].always(None, Fault::Delay(Duration::from_secs(60)));
    let began = tokio::time::Instant::now();
    assert_eq!(content(&servers, &file).await.unwrap(), CONTENT);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // A writer must hear of them first, until they are known to hang.
    let writer = reopen(&servers, &file);
    writer.modify(&cx(), becomes(b"second")).await.unwrap();
    let began = tokio::time::Instant::now();
    writer.modify(&cx(), becomes(b"third")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(content(&servers, &file).await.unwrap(), b"third");
}

#[tokio::test(start_paused = true)]
async fn shares_that_hang_are_replaced_by_others() {
    let servers = Servers::new(5);
    let grid = servers.client(3, 5);
    // Too large for the first bytes of a share to hold all of it.
    let large = Bytes::from(CONTENT.repeat(3000));
    let file = MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, large.clone()).await.unwrap();
    for server in &servers.0[..2] {
        server.add(tahoefs::storage::fault::Rule {
            method: Some(Method::ReadShare),
            skip: 1,
            times: None,
            fault: Fault::Hang,
        });
    }
    let began = tokio::time::Instant::now();
    assert_eq!(content(&servers, &file).await.unwrap(), large);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_deadline_ends_everything() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    for server in &servers.0 {
        server.always(None, Fault::Hang);
    }
    let cx = cx().with_timeout(Duration::from_millis(50));
    assert!(matches!(reopen(&servers, &file).read_best(&cx).await, Err(NodeError::Stopped(_))));
    assert!(matches!(file.modify(&cx, becomes(b"x")).await, Err(NodeError::Stopped(_))));
}

#[tokio::test]
async fn an_unrecoverable_newer_version_is_stepped_over() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    let si = file.cap().storage_index();
    let old = servers.shares(si);
    file.modify(&cx(), becomes(b"second")).await.unwrap();
    for (server, number, bytes) in &old[..3] {
        servers.0[*server].inner().edit_share(si, *number, |share| share.clone_from(bytes));
    }
    let (version, bytes) = reopen(&servers, &file).read_best(&cx()).await.unwrap();
    assert_eq!((version.header.seqnum, &bytes[..]), (1, CONTENT));
    assert!(!reopen(&servers, &file).newer_than(&cx(), &version, Breadth::Wide).await.unwrap());
    let writer = reopen(&servers, &file);
    assert_eq!(writer.servermap(&cx(), Mode::Check).await.unwrap().highest_seqnum(), 2);
    writer.modify(&cx(), |old| Ok(Some([old, b"!"].concat()))).await.unwrap();
    assert_eq!(seqnums(&servers, &file), [3; 5]);
    assert_eq!(content(&servers, &file).await.unwrap(), [CONTENT, b"!"].concat());
}

#[tokio::test]
async fn of_equal_versions_the_greater_root_hash_is_best() {
    let servers = Servers::new(10);
    let file = create(&servers, 3, 10).await;
    let si = file.cap().storage_index();
    let first = servers.shares(si);
    let restore = |shares: &[(usize, u32, Vec<u8>)]| {
        for (server, number, bytes) in shares {
            servers.0[*server].inner().edit_share(si, *number, |share| share.clone_from(bytes));
        }
    };
    reopen(&servers, &file).modify(&cx(), becomes(b"left")).await.unwrap();
    let left = servers.shares(si);
    restore(&first);
    reopen(&servers, &file).modify(&cx(), becomes(b"right")).await.unwrap();
    let right = servers.shares(si);
    restore(&left[..5]);
    let root = |shares: &[(usize, u32, Vec<u8>)]| Version::parse(&shares[0].2).unwrap().header.root_hash;
    let best: &[u8] = if root(&left) > root(&right) { b"left" } else { b"right" };
    assert_eq!(content(&servers, &file).await.unwrap(), best);
    reopen(&servers, &file).modify(&cx(), |old| Ok(Some([old, b"!"].concat()))).await.unwrap();
    assert_eq!(seqnums(&servers, &file), [3; 10]);
}

#[tokio::test]
async fn a_share_that_turns_up_unknown_is_a_surprise() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    let si = file.cap().storage_index();
    let shares = servers.shares(si);
    let (_, number, bytes) = &shares[1];
    // Somebody has put a copy of one server's share on another.
    put_share(&servers, shares[0].0, file.cap(), *number, bytes.clone()).await;
    file.modify(&cx(), becomes(b"second")).await.unwrap();
    assert_eq!(seqnums(&servers, &file), [3; 6]);
}

#[tokio::test]
async fn numbers_beyond_n_count_for_nothing() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    let si = file.cap().storage_index();
    let (_, _, bytes) = servers.shares(si).remove(0);
    for number in [5, 200, 1 << 20] {
        put_share(&servers, 0, file.cap(), number, bytes.clone()).await;
    }
    for (server, number, _) in servers.shares(si).into_iter().filter(|(_, number, _)| *number < 3) {
        servers.0[server].inner().remove_share(si, number);
    }
    assert_eq!(
        content(&servers, &file).await,
        Err(NodeError::NotEnoughShares { found: 2, needed: 3, all_answered: true })
    );
}

#[tokio::test]
async fn one_share_under_many_numbers_is_still_one() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    let si = file.cap().storage_index();
    let shares = servers.shares(si);
    for (server, number, _) in &shares {
        servers.0[*server].inner().edit_share(si, *number, |share| share.clone_from(&shares[0].2));
    }
    assert_eq!(
        content(&servers, &file).await,
        Err(NodeError::NotEnoughShares { found: 1, needed: 3, all_answered: true })
    );
}

/// Headers that the file's own writer signed, but whose numbers would take all memory.
#[tokio::test]
async fn monstrous_headers_are_refused() {
    let servers = Servers::new(5);
    let signing = key(0);
    let file = create(&servers, 1, 1).await;
    let si = file.cap().storage_index();
    let (server, number, good) = servers.shares(si).remove(0);
    let share = SdmfShare::parse(&good).unwrap();
    for (segment_size, data_length) in [(1 << 60, 1 << 60), (1, 1 << 40), (0, 5), (1 << 31, 1 << 31), (1 << 40, 3)] {
        let header = MutableHeader { segment_size, data_length, ..share.header.clone() };
        let signature = signing.sign(&tahoefs::util::Rng::os(), &header.signed_prefix());
        let bytes = SdmfShare { header, signature: &signature, ..share.clone() }.build().unwrap();
        servers.0[server].inner().edit_share(si, number, |share| *share = bytes);
        assert!(content(&servers, &file).await.is_err(), "{segment_size} {data_length}");
        assert!(reopen(&servers, &file).size(&cx()).await.is_err());
    }
}

#[tokio::test]
async fn an_empty_slot_is_filled() {
    let servers = Servers::new(3);
    let signing = key(0);
    let write = secrets::write_key(signing.pkcs8_der());
    let fingerprint = secrets::fingerprint(signing.spki_der());
    let cap = tahoefs::cap::MutableCap::from_write_key(MutableFormat::Sdmf, write, fingerprint);
    put_share(&servers, 0, &cap, 0, Vec::new()).await;
    let grid = servers.client(1, 3);
    let file =
        MutableFile::create(grid, &cx(), signing, MutableFormat::Sdmf, Bytes::from_static(CONTENT)).await.unwrap();
    file.overwrite(&cx(), Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(content(&servers, &file).await.unwrap(), b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_at_once_lose_nothing() {
    let servers = Arc::new(Servers::new(5));
    let grid = servers.client(3, 5);
    let file = MutableFile::create(grid, &cx(), key(0), MutableFormat::Sdmf, Bytes::new()).await.unwrap();
    for (i, server) in servers.0.iter().enumerate() {
        server.always(Some(Method::ReadTestWrite), Fault::Delay(Duration::from_millis(i as u64)));
    }
    // Four writers over five servers: often nobody's version gets k shares.
    let writers = (b'a'..b'e').map(|mark| {
        let file = reopen(&servers, &file);
        tokio::spawn(async move {
            let mut done = 0;
            while done < 4 {
                let name = [mark, b'0' + done];
                let link = |old: &[u8]| {
                    let there = old.chunks(2).any(|entry| entry == name);
                    Ok((!there).then(|| [old, &name].concat()))
                };
                match file.modify(&cx(), link).await {
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
    let all = content(&servers, &file).await.unwrap();
    let mut entries: Vec<&[u8]> = all.chunks(2).collect();
    entries.sort_unstable();
    entries.dedup();
    assert_eq!(entries.len(), 16, "{}", all.escape_ascii());
}

/// Three writers, each the first on two servers at most: no version of theirs has three shares, nor has the old one.
#[tokio::test(start_paused = true)]
async fn writers_who_split_the_servers_lose_nothing() {
    let servers = Servers::new(5);
    let file = create(&servers, 3, 5).await;
    let near: [&[usize]; 3] = [&[0, 1], &[2, 3], &[4]];
    let writers = near.map(|near| {
        let servers = servers.beside();
        let file = reopen(&servers, &file);
        async move {
            // Now it knows the version that is there, and will write without asking.
            file.modify(&cx(), |_| Ok(None)).await.unwrap();
            for (i, server) in servers.0.iter().enumerate().filter(|(i, _)| !near.contains(i)) {
                let late = Duration::from_millis(5000 + i as u64);
                server.next(Some(Method::ReadTestWrite), 1, Fault::Delay(late));
            }
            let mark = [b'0' + near[0] as u8];
            let add = |old: &[u8]| Ok((!old.ends_with(&mark)).then(|| [old, &mark].concat()));
            file.modify(&cx(), add).await.unwrap();
        }
    });
    futures::future::join_all(writers).await;
    let content = content(&servers, &file).await.unwrap();
    let marks = content.strip_prefix(CONTENT).expect("what was there before is there still");
    assert!(b"024".iter().all(|mark| marks.contains(mark)), "{}", marks.escape_ascii());
}
