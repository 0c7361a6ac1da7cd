//! Power loss: the file system that holds the journal and the stores is shut down, and what was not synced is gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use tahoefs::crypto::JournalKey;
use tahoefs::journal::{Batch, Journal, JournalOptions};
use tahoefs::util::{Cx, Priority};

use super::*;

/// Bytes of the disk, most of which the journal leaves free.
const SIZE: u64 = 2 << 30;
const ROUNDS: u64 = 8;
const NAMES: u64 = 6;
/// `commit=` of the mount, and what is allowed beyond it until the barrier has been through.
const COMMIT: Duration = Duration::from_secs(1);
const BEYOND: Duration = Duration::from_secs(3);
/// How long a round looks for shares to be cut off from.
const STORING: Duration = Duration::from_secs(3);

nix::ioctl_read!(ext4_shutdown, b'X', 125, u32);

/// An ext4 in a file, mounted.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn at(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// `None`, and says why, where there are no loop devices or no rights to use them.
    fn new() -> Option<Disk> {
        let folder = tempfile::Builder::new().prefix("tahoefs-it-").tempdir().expect("a folder");
        let disk = Disk { folder };
        fs::create_dir(disk.at()).expect("a folder");
        let made = File::create(disk.image()).and_then(|image| image.set_len(SIZE));
        made.expect("an image");
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.image()).output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("SKIPPED: there is no mkfs.ext4, so power loss cannot be played");
            return None;
        }
        if let Err(why) = disk.mount() {
            eprintln!("SKIPPED: no ext4 can be mounted on a loop device, so power loss cannot be played: {why}");
            return None;
        }
        Some(disk)
    }

    fn mount(&self) -> Result<(), String> {
        let mut command = Command::new("timeout");
        command.args(["60", "mount", "-o", "loop,commit=1"]).arg(self.image()).arg(self.at());
        let output = command.output().map_err(|e| e.to_string())?;
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    }

    fn unmount(&self) {
        let until = Instant::now() + PATIENCE;
        while !Command::new("umount").arg(self.at()).status().is_ok_and(|status| status.success()) {
            assert!(Instant::now() < until, "the disk stays busy");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.at()).stderr(Stdio::null()).status();
    }
}

/// Everything on the file system at `top` that is not synced is gone from now on.
fn cut(top: &Path) {
    let top = File::open(top).expect("the disk");
    let mut flag = 2;
    // SAFETY: the descriptor is open, and the ioctl reads four bytes through the pointer.
    unsafe { ext4_shutdown(top.as_raw_fd(), &mut flag) }.expect("EXT4_IOC_SHUTDOWN");
}

/// What was written under a name, oldest first.
struct Version {
    seed: u64,
    synced: bool,
    answered: Option<Instant>,
}

type History = BTreeMap<String, Vec<Version>>;

fn content(seed: u64) -> Vec<u8> {
    bytes(seed, [10, 100, 5000, 100_000, 900_000][seed as usize * 7 % 5])
}

/// Replaces a file as editors do; with `sync`, so that it must outlive the power.
fn put(folder: &Path, name: &str, seed: u64, sync: bool) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
    file.write_all(&content(seed))?;
    if sync {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&new, folder.join(name))?;
    if sync { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn write_files(world: &World, history: &mut History, first: u64, stop: &AtomicBool) {
    for seed in first.. {
        let folder = if seed % 3 == 0 { world.at(format!("d{}", seed / 3 % 4)) } else { world.mountpoint() };
        let _ = fs::create_dir(&folder);
        let name = format!("f{}", seed * 5 / 2 % NAMES);
        let key = folder.join(&name).strip_prefix(world.mountpoint()).unwrap().to_string_lossy().into_owned();
        let synced = seed % 2 == 0;
        let versions = history.entry(key).or_default();
        versions.push(Version { seed, synced: false, answered: None });
        let last = versions.last_mut().unwrap();
        if stop.load(Ordering::Relaxed) || put(&folder, &name, seed, synced).is_err() {
            return;
        }
        (last.synced, last.answered) = (synced, Some(Instant::now()));
        // Now and then it is quiet for so long that the background publishes.
        thread::sleep(Duration::from_millis(if seed % 16 == 15 { 2600 } else { 20 }));
    }
}

/// Each file is as it was when it was last promised, or newer, and whole. Returns the history that goes on from there.
fn verify(world: &World, history: History, cut: Instant, when: &str) -> History {
    let mut next = History::new();
    for (name, versions) in history {
        let promised =
            |version: &Version| version.synced || version.answered.is_some_and(|at| at + COMMIT + BEYOND < cut);
        let least = versions.iter().rposition(promised);
        let found = match fs::read(world.at(&name)) {
            Ok(found) => Some(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => panic!("{name} {when}: {e}"),
        };
        let Some(found) = found else {
            assert!(
                least.is_none(),
                "{name} {when}: gone, though version {least:?} of {} was promised",
                versions.len()
            );
            continue;
        };
        let allowed = &versions[least.unwrap_or(0)..];
        let Some(version) = allowed.iter().rev().find(|version| content(version.seed) == found) else {
            let old = versions.iter().position(|version| content(version.seed) == found);
            panic!("{name} {when}: {} bytes, version {old:?} of {}, {least:?} promised", found.len(), versions.len());
        };
        next.insert(name, vec![Version { seed: version.seed, synced: true, answered: None }]);
    }
    next
}

#[test]
fn what_was_promised_outlives_the_power() {
    let Some(disk) = Disk::new() else { return };
    let world = World::new_in(&disk.at());
    world.mount(&["-o", "commit=1"]);
    world.unmount();
    nix::unistd::sync();
    let mut history = History::new();
    for round in 0..ROUNDS {
        let mut daemon = Daemon::start(&world, &["-o", "commit=1"], None);
        let (stop, before) = (AtomicBool::new(false), shares(&world).len());
        let moment = Duration::from_millis([2700, 900, 1500, 500, 4100, 700, 5500, 1100][round as usize % 8]);
        let cut = thread::scope(|scope| {
            scope.spawn(|| write_files(&world, &mut history, 1 + round * 1000, &stop));
            thread::sleep(moment);
            if round % 2 == 1 {
                // Amid what is being stored.
                let mut flush = world.command(&["flush"]);
                let mut flush = flush.arg(world.mountpoint()).stderr(Stdio::null()).spawn().unwrap();
                let until = Instant::now() + STORING;
                while shares(&world).len() < before + 10 * round as usize && Instant::now() < until {
                    thread::sleep(Duration::from_millis(5));
                }
                let _ = flush.kill();
                let _ = flush.wait();
            }
            let at = Instant::now();
            cut(&disk.at());
            stop.store(true, Ordering::Relaxed);
            daemon.kill();
            daemon.end(&world);
            at
        });
        let answered = history.values().flatten().filter(|version| version.answered.is_some()).count();
        assert!(answered > 0, "nothing was written in round {round}");
        clear(&world);
        disk.unmount();
        disk.mount().unwrap();
        let mut daemon = Daemon::start(&world, &["-o", "commit=1"], None);
        history = verify(&world, history, cut, &format!("after round {round}"));
        world.unmount();
        assert!(daemon.end(&world).success());
        // What the grid alone holds now.
        mount_without_journal(&world);
        history = verify(&world, history, cut, &format!("on the grid after round {round}"));
        assert_drained(&world);
        world.unmount();
    }
    drop(world);
    disk.unmount();
}

/// Whatever was written while others synced: a content is there as far as its record goes.
#[test]
fn no_record_outlives_the_power_without_its_content() {
    const APPENDED: usize = 5000;
    let Some(disk) = Disk::new() else { return };
    let open = || Journal::open(&disk.at().join("journal"), &JournalKey::new([7; 32]), JournalOptions::default());
    for round in 0..12 {
        let (journal, replay) = open().unwrap();
        assert_eq!(replay.damaged, 0, "round {round}");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cx = Cx::new(Priority::Waiting, 1 << 26);
            for record in &replay.files {
                let file = journal.reopen_file(record, None).unwrap();
                let read = file.read(&cx, 0..record.size).await;
                let read = read.unwrap_or_else(|e| panic!("{} bytes, round {round}: {e}", record.size));
                assert!(read == bytes(1, record.size as usize), "{} bytes, round {round}", record.size);
                assert!(record.size >= 200_000);
            }
            assert_eq!(replay.files.len(), usize::from(round > 0) * 4, "round {round}");
            let mut batch = Batch::new();
            journal.take_forgotten().into_iter().for_each(|file| batch.remove_file(file));
            journal.commit(batch).await.unwrap();
            let files: Vec<_> = (0..4).map(|_| journal.create_file(None).unwrap()).collect();
            for file in &files {
                file.write(0, bytes(1, 200_000).into()).await.unwrap();
            }
            let all = bytes(1, 200_000 + 10_000 * APPENDED);
            journal.barrier().await.unwrap();
            let appending = files.iter().map(|file| async {
                while let at = file.size() as usize
                    && at < all.len()
                    && file.write(at as u64, Bytes::copy_from_slice(&all[at..at + APPENDED])).await.is_ok()
                {
                    tokio::task::yield_now().await;
                }
            });
            let syncing = async { while journal.barrier().await.is_ok() {} };
            let cutting = tokio::task::spawn_blocking({
                let at = disk.at();
                move || {
                    thread::sleep(Duration::from_millis(200 + round * 17));
                    cut(&at);
                }
            });
            let (_, (), cut) = tokio::join!(futures::future::join_all(appending), syncing, cutting);
            cut.unwrap();
        });
        drop(runtime);
        drop(journal);
        disk.unmount();
        disk.mount().unwrap();
    }
    disk.unmount();
}

/// The files of all immutable and mutable shares.
fn shares(world: &World) -> Vec<PathBuf> {
    let mut folders: Vec<_> = (0..5).map(|n| world.store(n).join("storage/shares")).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && entry.file_name() != "incoming" => folders.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// Shares as a power loss leaves them that takes a page, or the end, or everything but the size.
#[test]
fn shares_that_lost_bytes_are_not_taken_for_present() {
    let world = World::mounted();
    world.unmount();
    let mut daemon = Daemon::start(&world, &[], None);
    let content = bytes(3, 3_000_000);
    fs::write(world.at("f"), &content).unwrap();
    world.ok(&["flush".as_ref(), world.mountpoint().as_os_str()]);
    daemon.kill();
    daemon.end(&world);
    clear(&world);
    let mut large = shares(&world);
    large.retain(|share| fs::metadata(share).unwrap().len() > 1_000_000);
    assert_eq!(large.len(), 5);
    let whole: Vec<_> = large.iter().map(|share| fs::read(share).unwrap()).collect();
    let spoil = |n: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut share = whole[n].clone();
        change(&mut share);
        fs::write(&large[n], share).unwrap();
    };
    spoil(0, &|share| share[409_600..413_696].fill(0));
    spoil(1, &|share| share.truncate(700_000));
    spoil(2, &|share| share.fill(0));
    spoil(3, &|share| {
        let hashes = share.len() - 4096;
        share[hashes..].fill(0);
    });
    let kept = fs::metadata(&large[4]).unwrap().ino();

    world.mount(&[]);
    fs::write(world.at("again"), &content).unwrap();
    world.unmount();
    for (share, whole) in large.iter().zip(&whole) {
        let data = ..whole.len() - 72;
        assert!(fs::read(share).unwrap()[data] == whole[data], "{} is as it was spoilt", share.display());
    }
    assert_eq!(fs::metadata(&large[4]).unwrap().ino(), kept, "what lacks nothing stays");
    mount_without_journal(&world);
    assert!(fs::read(world.at("f")).unwrap() == content && fs::read(world.at("again")).unwrap() == content);
    world.unmount();
}

/// A directory is published while the shares that it names are not synced, and takes the place of one whose shares are.
/// Then the power goes, long before the journal would be synced by itself: what the new table names is stored again from
/// the journal.
#[test]
fn a_publish_does_not_outlive_what_it_is_made_of() {
    let Some(disk) = Disk::new() else { return };
    let world = World::new_in(&disk.at());
    world.mount(&[]);
    let lengths = [5_000, 90_000, 900_000];
    let names = |n: usize| world.at(format!("f{n}"));
    lengths.iter().enumerate().for_each(|(n, length)| fs::write(names(n), bytes(1, *length)).unwrap());
    world.unmount();
    nix::unistd::sync();

    let mut daemon = Daemon::start(&world, &["-o", "commit=300"], Some("writeback.publish.made"));
    lengths.iter().enumerate().for_each(|(n, length)| fs::write(names(n), bytes(2, *length)).unwrap());
    assert!(!world.run(&["flush"]).status.success());
    daemon.end(&world);
    // Names come to the disk with whatever is synced next, before the data of files that nobody syncs.
    File::create(disk.at().join("unrelated")).and_then(|file| file.sync_all()).unwrap();
    cut(&disk.at());
    clear(&world);
    disk.unmount();
    disk.mount().unwrap();
    let mut daemon = Daemon::start(&world, &[], None);
    for round in ["from the journal", "on the grid"] {
        for (n, length) in lengths.into_iter().enumerate() {
            let found = fs::read(names(n)).unwrap_or_else(|e| panic!("{length} bytes {round}: {e}"));
            assert!(found == bytes(1, length) || found == bytes(2, length), "{length} bytes {round}");
        }
        world.unmount();
        assert!(daemon.end(&world).success());
        daemon = Daemon::start(&world, &[], None);
    }
    world.unmount();
    assert!(daemon.end(&world).success());
    drop(world);
    disk.unmount();
}
