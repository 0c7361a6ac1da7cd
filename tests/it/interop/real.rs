//! Real servers over HTTPS: the mount of a running client's own node directory, beside that client.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::foreign::{assert_shown, make_directories, with_mounted};
use super::tree::{assert_healthy, assert_same, assert_stored, digest, mounted};
use super::{bytes, change_by_mount, change_by_reference, root_cap, write};
use crate::mount::world::World;
use crate::tahoe::{Grid, GridSpec, fresh};

const SERVERS: usize = 5;
const TOTAL: u32 = 10;
/// The longest that anything may take with servers away: a connection's limit, a request's, and the machine's slowness.
const ONE_DEADLINE: Duration = Duration::from_secs(30);

/// Five servers and a client with the alias `tahoe:`, and a home that uses the client's node directory.
fn start(happy: u32) -> (Grid, World, String) {
    let grid = Grid::start(GridSpec { servers: fresh(SERVERS), needed: 3, happy, total: TOTAL });
    grid.tahoe(&["create-alias", "tahoe"]);
    let world = World::adopting(grid.client_dir());
    let root = root_cap(&world);
    (grid, world, root)
}

fn there_and_back(happy: u32) {
    let (mut grid, world, root) = start(happy);
    world.mount(&[]);
    write(&world);
    let written = mounted(&world.mountpoint());
    world.remount();
    assert_same(&mounted(&world.mountpoint()), &written);
    world.unmount();
    assert_stored(&grid, &root, &written, true);
    assert_healthy(&grid, &root, written.len() + 1, TOTAL);
    let expected = change_by_reference(&grid, &root, written);

    world.mount(&[]);
    assert_same(&mounted(&world.mountpoint()), &expected);
    change_by_mount(&world);
    let changed = mounted(&world.mountpoint());
    world.remount();
    assert_same(&mounted(&world.mountpoint()), &changed);
    world.unmount();
    assert_stored(&grid, &root, &changed, false);
    assert_healthy(&grid, &root, changed.len() + 1, TOTAL);
    grid.stop_client();
    grid.start_client(SERVERS);
    assert_stored(&grid, &root, &changed, false);
}

#[test]
fn a_tree_goes_to_real_servers_and_back_with_happy_3() {
    there_and_back(3);
}

#[test]
fn a_tree_goes_to_real_servers_and_back_with_happy_5() {
    there_and_back(5);
}

#[test]
fn what_the_reference_made_on_real_servers_is_shown() {
    let (grid, world, _) = start(5);
    for (_, made) in make_directories(&grid) {
        with_mounted(&world, &made.cap, || assert_shown(&world, &made));
    }
}

/// A generator of numbers that a failing run can be repeated with.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Names that one side alone uses, and what must stand under them; `None` once removed.
type Own = BTreeMap<String, Option<Vec<u8>>>;

/// Random changes through the mount, under names that begin with `m`, and to the names that both sides use.
fn change_mount(world: &World, folder: &str, until: &AtomicBool) -> Own {
    let mut dice = Dice(11);
    let mut own = Own::new();
    let mut made = 0;
    while !until.load(Ordering::Relaxed) {
        let live: Vec<String> = own.iter().filter(|(_, c)| c.is_some()).map(|(n, _)| n.clone()).collect();
        let at = |name: &str| world.at(folder).join(name);
        match dice.below(6) {
            0 | 1 => {
                made += 1;
                let (name, content) = (format!("m{made}"), bytes(10 + dice.below(3000), made));
                fs::write(at(&name), &content).unwrap();
                own.insert(name, Some(content));
            }
            2 if !live.is_empty() => {
                let name = &live[dice.below(live.len())];
                let content = bytes(60 + dice.below(200), dice.below(1000));
                fs::write(at(name), &content).unwrap();
                own.insert(name.clone(), Some(content));
            }
            3 if !live.is_empty() => {
                made += 1;
                let (from, to) = (&live[dice.below(live.len())], format!("m{made}"));
                fs::rename(at(from), at(&to)).unwrap();
                let content = own.insert(from.clone(), None).flatten();
                own.insert(to, content);
            }
            4 if live.len() > 5 => {
                let name = &live[dice.below(live.len())];
                fs::remove_file(at(name)).unwrap();
                own.insert(name.clone(), None);
            }
            _ => fs::write(at(&format!("both{}", dice.below(3))), bytes(100, dice.below(1000))).unwrap(),
        }
        // The reference gives up after three races: it must get a word in.
        thread::sleep(Duration::from_millis(dice.below(600) as u64));
    }
    own
}

/// The same through the reference's web API, under names that begin with `r`. What it refuses, since others write at
/// the same time, may or may not have happened.
fn change_reference(grid: &Grid, cap: &str, until: &AtomicBool) -> Own {
    let mut dice = Dice(23);
    let mut own = Own::new();
    let mut made = 0;
    while !until.load(Ordering::Relaxed) {
        let live: Vec<String> = own.iter().filter(|(_, c)| c.is_some()).map(|(n, _)| n.clone()).collect();
        match dice.below(5) {
            0 | 1 => {
                made += 1;
                let (name, content) = (format!("r{made}"), bytes(10 + dice.below(3000), made + 5000));
                if grid.try_put_at(cap, &name, &content) {
                    own.insert(name, Some(content));
                }
            }
            2 if !live.is_empty() => {
                let name = &live[dice.below(live.len())];
                let content = bytes(60 + dice.below(200), dice.below(1000));
                if grid.try_put_at(cap, name, &content) {
                    own.insert(name.clone(), Some(content));
                } else {
                    own.remove(name);
                }
            }
            3 if live.len() > 5 => {
                let name = &live[dice.below(live.len())];
                if grid.try_delete(cap, name) {
                    own.insert(name.clone(), None);
                } else {
                    own.remove(name);
                }
            }
            _ => {
                let _ = grid.try_put_at(cap, &format!("both{}", dice.below(3)), &bytes(100, dice.below(1000)));
            }
        }
    }
    own
}

#[test]
fn both_programs_change_one_directory_at_the_same_time() {
    let (grid, world, root) = start(3);
    let shared = grid.mkdir_at(&root, "shared");
    world.mount(&["-o", "refresh=1"]);
    let until = AtomicBool::new(false);
    let (ours, theirs) = thread::scope(|scope| {
        let ours = scope.spawn(|| change_mount(&world, "shared", &until));
        let theirs = scope.spawn(|| change_reference(&grid, &shared, &until));
        thread::sleep(Duration::from_secs(40));
        until.store(true, Ordering::Relaxed);
        (ours.join().expect("no change through the mount fails"), theirs.join().expect("the web API answers"))
    });
    world.ok(&["flush"]);
    thread::sleep(Duration::from_secs(2));

    let names = |path| {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let listed = names(world.at("shared"));
    assert_eq!(listed, grid.names(&shared), "both list the same");
    for (name, content) in ours.iter().chain(&theirs) {
        let found = listed.contains(name);
        assert_eq!(found, content.is_some(), "{name}");
        if let Some(content) = content {
            assert_eq!(&fs::read(world.at("shared").join(name)).unwrap(), content, "{name} in the mount");
            assert_eq!(&grid.get(&shared, name), content, "{name} at the reference");
        }
    }
    assert!(ours.len() > 10 && theirs.len() > 5, "each side did something: {} and {}", ours.len(), theirs.len());
    world.remount();
    assert_eq!(names(world.at("shared")), listed);
}

/// Answers every connection with bytes that are no TLS, until it is dropped.
struct Babbler(std::sync::Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Babbler {
    fn on(port: u16) -> Babbler {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the server's port is free");
        listener.set_nonblocking(true).unwrap();
        let until = std::sync::Arc::new(AtomicBool::new(false));
        let end = std::sync::Arc::clone(&until);
        let work = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => drop(stream.write_all(&bytes(100_000, 9))),
                    Err(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        Babbler(until, Some(work))
    }
}

impl Drop for Babbler {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(thread::JoinHandle::join);
    }
}

/// The seconds that `work` took at most.
fn within<T>(limit: Duration, what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    assert!(began.elapsed() < limit, "{what} took {:?}", began.elapsed());
    done
}

/// With two of five servers away in whatever manner: what was stored is read within one deadline, what is written
/// reaches happiness 3, and all of it is there for the reference.
fn goes_on(grid: &Grid, world: &World, root: &str, big: &[u8], round: usize) {
    let file = fs::File::open(world.at("big")).unwrap();
    within(ONE_DEADLINE, "reading", || {
        let mut piece = vec![0; 10_000];
        file.read_exact_at(&mut piece, 1_234_567 + round as u64 * 1_000_003).unwrap();
        assert_eq!(piece, big[1_234_567 + round * 1_000_003..][..10_000]);
    });
    let name = format!("written {round}");
    within(ONE_DEADLINE * 2, "writing", || fs::write(world.at(&name), bytes(500_000, round)).unwrap());
    within(ONE_DEADLINE * 2, "the directory", || world.ok(&["flush"]));
    // Once what is away is known, nobody waits for it again.
    within(ONE_DEADLINE / 3, "the next read", || {
        let mut rest = Vec::new();
        (&file).read_to_end(&mut rest).unwrap();
        assert_eq!(digest(&rest), digest(big));
    });
    assert_eq!(digest(&grid.get(root, &name)), digest(&bytes(500_000, round)));
}

#[test]
fn two_of_five_servers_stopped_hung_or_babbling_are_done_without() {
    let (mut grid, world, root) = start(3);
    world.mount(&[]);
    let big = bytes(6_000_000, 77);
    fs::write(world.at("big"), &big).unwrap();
    world.remount();

    grid.stop_server(0);
    grid.stop_server(1);
    goes_on(&grid, &world, &root, &big, 0);
    {
        let _babblers = [Babbler::on(grid.server_port(0)), Babbler::on(grid.server_port(1))];
        world.remount();
        goes_on(&grid, &world, &root, &big, 1);
    }
    grid.start_server(0);
    grid.start_server(1);
    grid.wait_for_servers();
    world.remount();
    grid.freeze_server(2);
    grid.freeze_server(3);
    goes_on_with_frozen(&world, &big);
    grid.thaw_server(2);
    grid.thaw_server(3);
    assert_eq!(digest(&grid.get(&root, "written while frozen")), digest(&bytes(500_000, 5)));
}

/// As [`goes_on`]; the reference waits for frozen servers itself, so it is asked later.
fn goes_on_with_frozen(world: &World, big: &[u8]) {
    let file = fs::File::open(world.at("big")).unwrap();
    within(ONE_DEADLINE, "reading", || {
        let mut piece = vec![0; 10_000];
        file.read_exact_at(&mut piece, 3_000_000).unwrap();
        assert_eq!(piece, big[3_000_000..][..10_000]);
    });
    within(ONE_DEADLINE * 2, "writing", || fs::write(world.at("written while frozen"), bytes(500_000, 5)).unwrap());
    drop(file);
    within(ONE_DEADLINE * 2, "unmounting", || world.unmount());
}

#[test]
fn without_happiness_nothing_is_half_named() {
    let (mut grid, world, root) = start(5);
    world.mount(&["-o", "durability=grid"]);
    fs::write(world.at("before"), bytes(1000, 1)).unwrap();
    grid.stop_server(4);
    let mut file = fs::File::create(world.at("too few")).unwrap();
    file.write_all(&bytes(100_000, 2)).unwrap();
    let error = file.sync_all().expect_err("four servers are not five");
    drop(file);
    assert!([libc::EIO, libc::ENOSPC].contains(&error.raw_os_error().unwrap_or(0)), "{error}");
    let put = world.run(&["put", "-", "tahoe:by put"]);
    assert_eq!(put.status.code(), Some(4), "an empty file needs no server, but its name does: {put:?}");
    let source = world.home().join("source");
    fs::write(&source, bytes(100_000, 3)).unwrap();
    let put = world.run(&["put", source.to_str().unwrap(), "tahoe:not put"]);
    assert_eq!(put.status.code(), Some(4), "{put:?}");
    let unnamed = ["too few", "not put", "by put"];
    assert!(!grid.names(&root).iter().any(|name| unnamed.contains(&&**name)), "{:?}", grid.names(&root));

    grid.start_server(4);
    grid.wait_for_servers();
    world.ok(&["flush"]);
    assert_eq!(digest(&grid.get(&root, "too few")), digest(&bytes(100_000, 2)), "what was kept goes out");
    world.unmount();
}

/// Waits until so many blocks of files are on the disk.
fn await_blocks(world: &World, count: usize) {
    let there = || fs::read_dir(world.node_directory().join("tahoefs/cache/blocks")).into_iter().flatten().count();
    let until = Instant::now() + ONE_DEADLINE;
    while there() < count {
        assert!(Instant::now() < until, "{} blocks are kept", there());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn with_all_servers_stopped_or_hung_a_mount_comes_up_as_last_seen() {
    let (mut grid, world, root) = start(3);
    world.mount(&[]);
    fs::create_dir(world.at("seen")).unwrap();
    fs::write(world.at("seen/short"), "short").unwrap();
    fs::write(world.at("seen/long"), bytes(100_000, 1)).unwrap();
    fs::write(world.at("seen/read"), bytes(3_000_000, 3)).unwrap();
    world.unmount();
    world.mount(&[]);
    assert_eq!(digest(&fs::read(world.at("seen/read")).unwrap()), digest(&bytes(3_000_000, 3)));
    await_blocks(&world, 3);
    world.unmount();

    (0..SERVERS).for_each(|server| grid.stop_server(server));
    within(ONE_DEADLINE, "mounting without servers", || world.mount(&[]));
    assert_eq!(fs::read_to_string(world.at("seen/short")).unwrap(), "short");
    let read = within(ONE_DEADLINE, "reading what was read", || fs::read(world.at("seen/read")).unwrap());
    assert_eq!(digest(&read), digest(&bytes(3_000_000, 3)));
    let error = within(ONE_DEADLINE * 2, "failing", || fs::read(world.at("seen/long")).unwrap_err());
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    fs::create_dir(world.at("made")).unwrap();
    fs::write(world.at("made/offline"), bytes(100_000, 2)).unwrap();
    fs::rename(world.at("seen/short"), world.at("made/moved")).unwrap();
    let left = world.run(&["unmount", "--force", world.mountpoint().to_str().unwrap()]);
    assert_eq!(left.status.code(), Some(7), "{left:?}");

    (0..SERVERS).for_each(|server| grid.start_server(server));
    (0..SERVERS).for_each(|server| grid.freeze_server(server));
    within(ONE_DEADLINE * 2, "mounting with servers that hang", || world.mount(&[]));
    within(ONE_DEADLINE, "listing", || assert_eq!(fs::read_dir(world.at("made")).unwrap().count(), 2));
    (0..SERVERS).for_each(|server| grid.thaw_server(server));
    let until = Instant::now() + ONE_DEADLINE * 4;
    while !world.run(&["flush"]).status.success() {
        assert!(Instant::now() < until, "what was written does not go out");
        thread::sleep(Duration::from_secs(1));
    }
    grid.wait_for_servers();
    assert_eq!(digest(&grid.get(&root, "made/offline")), digest(&bytes(100_000, 2)));
    assert_eq!(grid.get(&root, "made/moved"), b"short");
    assert_eq!(digest(&fs::read(world.at("seen/long")).unwrap()), digest(&bytes(100_000, 1)));
}
