//! SIGKILL at random moments under rsync, git and a program that writes files.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::super::mount::world::{tool, write_tree};
use super::*;

const ROUNDS: u64 = 8;
const FILES: u64 = 5;

/// Versions of the files of the writer: the one that was answered last, and the one that was begun last.
type Versions = BTreeMap<String, (Option<u64>, u64)>;

/// A number that looks random.
fn dice(seed: u64) -> u64 {
    let x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
}

fn content(version: u64) -> Vec<u8> {
    bytes(version, [0, 100, 5000, 90_000, 400_000][dice(version) as usize % 5])
}

/// Writes a new version of a file, as editors do, or under its name at once where there was none.
fn put(world: &World, name: &str, version: u64, replaces: bool) -> io::Result<()> {
    let folder = world.at("files");
    if !replaces {
        return fs::write(folder.join(name), content(version));
    }
    fs::write(folder.join(format!("{name}.new")), content(version))?;
    fs::rename(folder.join(format!("{name}.new")), folder.join(name))
}

fn write_files(world: &World, versions: &Mutex<Versions>, first: u64, stop: &AtomicBool) {
    for version in first.. {
        let name = format!("f{}", dice(version * 7) % FILES);
        let replaces = {
            let mut versions = versions.lock().unwrap();
            let known = versions.entry(name.clone()).or_insert((None, version));
            known.1 = version;
            known.0.is_some()
        };
        if stop.load(Ordering::Relaxed) || put(world, &name, version, replaces).is_err() {
            return;
        }
        versions.lock().unwrap().get_mut(&name).unwrap().0 = Some(version);
    }
}

fn git(world: &World, args: &[&str]) -> Option<String> {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", "git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.auto=0", "-C"]);
    let output = command.arg(world.at("repository")).args(args).env("HOME", world.home()).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Commits until the mount is gone; the last commit that was answered.
fn commit(world: &World, round: u64, stop: &AtomicBool) -> Option<String> {
    let mut last = None;
    for n in 0.. {
        let done = !stop.load(Ordering::Relaxed)
            && fs::write(world.at("repository/file"), format!("{round} {n}")).is_ok()
            && git(world, &["add", "."]).is_some()
            && git(world, &["commit", "-q", "-m", "one more"]).is_some();
        let Some(head) = Some(()).filter(|()| done).and_then(|()| git(world, &["rev-parse", "HEAD"])) else { break };
        last = Some(head);
    }
    last
}

fn verify(world: &World, versions: &mut Versions, head: &Option<String>, copied: &[String]) {
    for (name, (answered, begun)) in versions {
        let found = fs::read(world.at("files").join(name)).ok();
        let of = |version: u64| found.as_ref() == Some(&content(version));
        match *answered {
            Some(version) if of(version) => {}
            Some(_) if of(*begun) => *answered = Some(*begun),
            Some(_) => panic!("{name} is {:?} bytes, not what was answered", found.map(|f| f.len())),
            // The first was being written: any part of it may be there.
            None => drop(fs::remove_file(world.at("files").join(name))),
        }
    }
    for lock in ["index.lock", "HEAD.lock", "refs/heads/master.lock", "refs/heads/main.lock"] {
        let _ = fs::remove_file(world.at("repository/.git").join(lock));
    }
    if let Some(head) = head {
        assert!(git(world, &["merge-base", "--is-ancestor", head, "HEAD"]).is_some(), "commit {head} is lost");
        assert!(git(world, &["fsck", "--full", "--strict"]).is_some(), "the repository is damaged");
    }
    for copy in copied {
        let (source, copy) = (world.home().join("source"), world.at(copy));
        tool("diff", &["-r".as_ref(), "--no-dereference".as_ref(), source.as_os_str(), copy.as_os_str()]);
    }
}

#[test]
fn what_was_answered_is_there_after_kills_at_random_moments() {
    let world = World::mounted();
    world.unmount();
    write_tree(&world.home().join("source"), 40);
    let (mut versions, mut head, mut copied): (_, Option<String>, Vec<String>) = (Versions::new(), None, Vec::new());
    for round in 0..ROUNDS {
        let mut daemon = Daemon::start(&world, &[], None);
        verify(&world, &mut versions, &head, &copied);
        if round == 0 {
            fs::create_dir(world.at("files")).unwrap();
            fs::create_dir(world.at("repository")).unwrap();
            git(&world, &["init", "-q"]).expect("git init");
        }
        let shared = Mutex::new(std::mem::take(&mut versions));
        let stop = AtomicBool::new(false);
        let moment = Duration::from_millis(300 + dice(round + 1000) % 2500);
        let (committed, copies) = thread::scope(|scope| {
            let files = scope.spawn(|| write_files(&world, &shared, 1 + round * 1_000_000, &stop));
            let commits = scope.spawn(|| commit(&world, round, &stop));
            let copies = scope.spawn(|| {
                let name = format!("copy{round}");
                let mut rsync = Command::new("timeout");
                rsync.args(["-s", "KILL", "60", "rsync", "-a", "--timeout=30"]);
                rsync.arg(world.home().join("source/")).arg(world.at(&name));
                let output = rsync.output().unwrap();
                output.status.success().then_some(name)
            });
            thread::sleep(moment);
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
            daemon.end(&world);
            files.join().unwrap();
            (commits.join().unwrap(), copies.join().unwrap())
        });
        clear(&world);
        versions = shared.into_inner().unwrap();
        head = committed.or(head);
        copied.extend(copies);
    }
    world.mount(&[]);
    verify(&world, &mut versions, &head, &copied);
    world.unmount();
    mount_without_journal(&world);
    verify(&world, &mut versions, &head, &copied);
    world.unmount();
}
