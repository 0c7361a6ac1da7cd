//! Up to when all shares of a store survive power loss, and which may have lost bytes since.
//!
//! Immutable shares are put into place without being synced: [`super::LocalServer`]'s barrier syncs many at once. What
//! power loss takes of one that no barrier had passed may be any of its pages, so one must not be taken for present
//! before it was looked through. A small file in the store tells which: it says since when nothing is promised, while
//! a process writes (`dirty`), and in which stretches of time shares were written that may have lost bytes. Who opens
//! the store while it is dirty and nobody holds its lock adds a stretch: from the last barrier to now.
//!
//! The file says `dirty`, synced, before the first share of a process comes into place. Its time of the last barrier
//! may be older than the truth, never newer. All times are the file system's own (`ctime`).
//!
//! A barrier that fails has lost something, and the next sync would not say so: no barrier of this process passes any
//! more, and the time since the last one becomes a stretch.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::{ShareNumber, StorageError};
use super::disk::at;
use crate::cap::StorageIndex;

/// The file, in `storage/`.
const NAME: &str = "tahoefs-synced";
/// It is written in place, and so short that a disk writes it as a whole.
const LEN: usize = 512;
/// Stretches that are told apart; beyond that the oldest are taken together.
const STRETCHES: usize = 8;
/// How far a clock may have been set back without shares being overlooked, in nanoseconds.
const SLACK: i64 = 60_000_000_000;

/// What the file says. Times are nanoseconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    dirty: bool,
    /// What was written before is synced.
    synced: i64,
    stretches: Vec<(i64, i64)>,
}

impl Record {
    /// A file that is empty or damaged promises nothing.
    fn parse(bytes: &[u8]) -> Record {
        let lost = || Record { dirty: true, ..Record::default() };
        let Ok(text) = std::str::from_utf8(bytes) else { return lost() };
        let mut record = Record::default();
        let mut lines = text.trim_end_matches(' ').lines();
        let mut head = lines.next().unwrap_or_default().split(' ');
        match (head.next(), head.next().and_then(|at| at.parse().ok())) {
            (Some(state @ ("dirty" | "clean")), Some(synced)) => {
                (record.dirty, record.synced) = (state == "dirty", synced);
            }
            _ => return lost(),
        }
        for line in lines {
            let ends = line.split_once(' ').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
            let Some(stretch) = ends else { return lost() };
            record.stretches.push(stretch);
        }
        record
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {}\n", if self.dirty { "dirty" } else { "clean" }, self.synced);
        self.stretches.iter().for_each(|(from, to)| text.push_str(&format!("{from} {to}\n")));
        let mut bytes = text.into_bytes();
        bytes.resize(LEN, b' ');
        bytes
    }

    fn add(&mut self, from: i64, to: i64) {
        self.stretches.push((from, to));
        if self.stretches.len() > STRETCHES {
            let (from, _) = self.stretches.remove(0);
            self.stretches[0].0 = from.min(self.stretches[0].0);
        }
    }
}

/// The file of one opened store.
pub(super) struct Watermark {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    record: Record,
    /// The file, locked, once this process has begun to write shares.
    held: Option<Flock<File>>,
    /// Shares that lack nothing though their time is in a stretch: it has just ended, or the clock was set back.
    sound: HashSet<(StorageIndex, ShareNumber)>,
    /// What the barrier failed with.
    failed: Option<String>,
}

impl State {
    fn is_within(&self, changed: i64) -> bool {
        let within = |(from, to): &(i64, i64)| (*from..=to.saturating_add(SLACK)).contains(&changed);
        self.record.stretches.iter().any(within)
    }
}

impl Watermark {
    /// Reads the file in `storage`. One that cannot be written is believed as it is.
    pub(super) fn open(storage: &Path) -> Watermark {
        let path = storage.join(NAME);
        let record = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => take_over(&file),
                Err((file, _)) => beside_others(file),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(_) => File::open(&path).map_or(Record { dirty: true, ..Record::default() }, |file| read(&file)),
        };
        Watermark { path, state: Mutex::new(State { record, held: None, sound: HashSet::new(), failed: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called before a share is written. Syncs, once in a process.
    pub(super) fn begin_writing(&self) -> Result<(), StorageError> {
        let mut state = self.state();
        if state.held.is_some() {
            return Ok(());
        }
        let failed = |e| at(&self.path)(e);
        let known = self.path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path);
        let file = lock_shared(file.map_err(failed)?).map_err(|(_, e)| failed(e.into()))?;
        // Another that writes has kept it up to date; one that has died since this store was opened has lost nothing.
        let there = if known { read(&file) } else { Record::default() };
        if !there.dirty {
            let synced = touch(&file, &there).map_err(failed)?;
            let record = Record { dirty: true, synced, stretches: there.stretches };
            file.write_all_at(&record.to_bytes(), 0).and_then(|()| file.sync_all()).map_err(failed)?;
            if !known {
                let folder = self.path.parent().map_or(Ok(()), |folder| File::open(folder).and_then(|f| f.sync_all()));
                folder.map_err(failed)?;
            }
        }
        state.held = Some(file);
        Ok(())
    }

    /// Runs a barrier: all that stands in the store when this is called is synced once `sync` has succeeded. Once it has
    /// failed, other than because the store is away, all barriers fail.
    pub(super) fn barrier(&self, sync: impl FnOnce() -> Result<(), StorageError>) -> Result<(), StorageError> {
        let failed = |e| at(&self.path)(e);
        let begun = {
            let state = self.state();
            if let Some(why) = &state.failed {
                return Err(StorageError::Io(why.clone()));
            }
            state.held.as_ref().map(|file| touch(file, &read(file))).transpose().map_err(failed)?
        };
        match sync() {
            Ok(()) => {}
            Err(StorageError::Unreachable(why)) => return Err(StorageError::Unreachable(why)),
            Err(error) => return Err(self.fail(&error)),
        }
        if let (Some(begun), Some(file)) = (begun, &self.state().held) {
            let record = Record { synced: begun, ..read(file) };
            file.write_all_at(&record.to_bytes(), 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Notes that anything since the last barrier may be lost.
    fn fail(&self, error: &StorageError) -> StorageError {
        let mut state = self.state();
        if let Some(file) = &state.held {
            let mut record = read(file);
            let now = touch(file, &record).unwrap_or(i64::MAX);
            record.add(record.synced.saturating_sub(SLACK), now);
            // Where that fails it is still dirty, so that who opens it next adds the stretch.
            drop(file.write_all_at(&record.to_bytes(), 0).and_then(|()| file.sync_all()));
            state.record.stretches = record.stretches;
        }
        state.sound.clear();
        let why = format!("{error}; what was stored of late may be lost there, and is stored again by the next mount");
        state.failed = Some(why.clone());
        StorageError::Io(why)
    }

    /// Whether any share may have lost bytes.
    pub(super) fn has_suspects(&self) -> bool {
        !self.state().record.stretches.is_empty()
    }

    /// Whether this share, whose file is `file`, may have lost bytes.
    pub(super) fn is_suspect(&self, si: StorageIndex, share: ShareNumber, file: &File) -> io::Result<bool> {
        let changed = changed_at(file)?;
        let state = self.state();
        Ok(state.is_within(changed) && !state.sound.contains(&(si, share)))
    }

    /// This share, whose file is `file`, was looked through, or put into place by this process.
    pub(super) fn note_sound(&self, si: StorageIndex, share: ShareNumber, file: &File) {
        let mut state = self.state();
        if state.record.stretches.is_empty() {
            return;
        }
        // One that was looked through gets a time of its own, so that it need not be remembered. Without it, it is.
        let renewed = file.metadata().and_then(|meta| meta.modified()).and_then(|time| file.set_modified(time));
        if renewed.and_then(|()| changed_at(file)).map_or(true, |changed| state.is_within(changed)) {
            state.sound.insert((si, share));
        }
    }

    /// The store is closed: where nobody else writes to it, and `sync` succeeds, nothing may be lost any more.
    pub(super) fn close(&self, sync: impl FnOnce() -> Result<(), StorageError>) {
        let mut state = self.state();
        let Some(file) = state.held.take().filter(|_| state.failed.is_none()) else { return };
        drop(state);
        if file.relock(FlockArg::LockExclusiveNonblock).is_ok() && sync().is_ok() {
            // What cannot be written stays dirty: then shares are looked through that need not be.
            drop(file.write_all_at(&Record { dirty: false, ..read(&file) }.to_bytes(), 0));
        }
    }
}

/// Reads the file while others have it locked: they write still, so that nothing was lost, or they have just opened it,
/// and add the stretch that a dead writer has left.
fn beside_others(file: File) -> Record {
    let file = match lock_shared(file) {
        Ok(file) => file,
        Err((file, _)) => return Record { dirty: true, ..read(&file) },
    };
    let record = read(&file);
    // They may have died over it.
    if record.dirty && file.relock(FlockArg::LockExclusiveNonblock).is_ok() { take_over(&file) } else { record }
}

/// Waits for a lock beside others that write.
fn lock_shared(mut file: File) -> Result<Flock<File>, (File, Errno)> {
    loop {
        match Flock::lock(file, FlockArg::LockShared) {
            Err((again, Errno::EINTR)) => file = again,
            locked => return locked,
        }
    }
}

/// Adds the stretch that was left when a writer died. Nobody else has the file locked.
fn take_over(file: &File) -> Record {
    let mut record = read(file);
    if !record.dirty {
        return record;
    }
    let now = touch(file, &record).unwrap_or(i64::MAX);
    record.add(record.synced.saturating_sub(SLACK), now);
    record.dirty = false;
    record.synced = now;
    // Synced before anything is written that has a later time; else the next who opens it finds it dirty still.
    if let Err(error) = file.write_all_at(&record.to_bytes(), 0).and_then(|()| file.sync_all()) {
        tracing::warn!(%error, "a store cannot keep which of its shares may have lost bytes");
    }
    record
}

fn read(file: &File) -> Record {
    let mut bytes = [b' '; LEN];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Record::parse(&bytes),
        Err(_) => Record { dirty: true, ..Record::default() },
    }
}

/// Writes the file as it is, and says when that was.
fn touch(file: &File, record: &Record) -> io::Result<i64> {
    file.write_all_at(&record.to_bytes(), 0)?;
    changed_at(file)
}

fn changed_at(file: &File) -> io::Result<i64> {
    let meta = file.metadata()?;
    Ok(meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_was_told() {
        let mut record = Record { dirty: true, synced: 17, stretches: Vec::new() };
        assert_eq!(Record::parse(&record.to_bytes()), record);
        (0..20).for_each(|i| record.add(i64::MAX - 2 * i, i64::MAX - i));
        let bytes = record.to_bytes();
        assert_eq!((bytes.len(), record.stretches.len()), (LEN, STRETCHES));
        assert_eq!(Record::parse(&bytes), record);
        assert!(record.stretches.iter().any(|(from, to)| *from <= i64::MAX - 38 && *to > 0));
    }

    #[test]
    fn what_is_damaged_promises_nothing() {
        for bytes in [&[0; LEN][..], b"", b"dirty", b"clean x", b"clean 5\n7", b"clean 5\n7 x"] {
            assert_eq!(Record::parse(bytes), Record { dirty: true, ..Record::default() });
        }
    }

    #[test]
    fn who_dies_leaves_a_stretch() {
        let folder = tempfile::tempdir().unwrap();
        let share = File::create(folder.path().join("share")).unwrap();
        let is_suspect = |mark: &Watermark| mark.is_suspect(StorageIndex([1; 16]), 0, &share).unwrap();
        let first = Watermark::open(folder.path());
        assert!(!is_suspect(&first), "a store of another program");
        first.begin_writing().unwrap();
        let beside = Watermark::open(folder.path());
        assert!(!is_suspect(&beside), "the writer lives");
        drop((first, beside));
        let next = Watermark::open(folder.path());
        assert!(is_suspect(&next));
        next.begin_writing().unwrap();
        next.barrier(|| Ok(())).unwrap();
        next.close(|| Ok(()));
        let again = Watermark::open(folder.path());
        assert!(is_suspect(&again), "until it is looked through");
        assert_eq!(again.state().record.stretches.len(), 1);
        again.note_sound(StorageIndex([1; 16]), 0, &share);
        assert!(!is_suspect(&again));
    }

    #[test]
    fn an_opener_waits_for_one_that_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let share = File::create(folder.path().join("share")).unwrap();
        Watermark::open(folder.path()).begin_writing().unwrap();
        let file = OpenOptions::new().read(true).write(true).open(folder.path().join(NAME)).unwrap();
        let first = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        let storage = folder.path().to_owned();
        let second = std::thread::spawn(move || Watermark::open(&storage));
        std::thread::sleep(std::time::Duration::from_millis(200));
        take_over(&first);
        drop(first);
        assert!(second.join().unwrap().is_suspect(StorageIndex([1; 16]), 0, &share).unwrap());
    }

    #[test]
    fn a_barrier_that_failed_passes_no_more_and_leaves_a_stretch() {
        let folder = tempfile::tempdir().unwrap();
        let share = File::create(folder.path().join("share")).unwrap();
        let is_suspect = |mark: &Watermark| mark.is_suspect(StorageIndex([1; 16]), 0, &share).unwrap();
        let mark = Watermark::open(folder.path());
        mark.begin_writing().unwrap();
        let away = || Err(StorageError::Unreachable("away".into()));
        assert_eq!(mark.barrier(away), away());
        mark.barrier(|| Ok(())).unwrap();
        assert!(!is_suspect(&mark));
        mark.barrier(|| Err(StorageError::Io("lost".into()))).unwrap_err();
        let Err(StorageError::Io(why)) = mark.barrier(|| Ok(())) else { panic!("it is told once by the kernel") };
        assert!(why.contains("lost"), "{why}");
        assert!(is_suspect(&mark));
        let beside = Watermark::open(folder.path());
        assert!(is_suspect(&beside));
        drop(beside);
        mark.close(|| Ok(()));
        drop(mark);
        let next = Watermark::open(folder.path());
        assert!(is_suspect(&next));
        assert_eq!(next.state().record.stretches.len(), 2, "what came after the failure too");
        next.barrier(|| Ok(())).unwrap();
    }

    #[test]
    fn what_no_stretch_holds_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let share = File::create(folder.path().join("share")).unwrap();
        let old = Record { dirty: false, synced: 5000, stretches: vec![(0, 5000)] };
        std::fs::write(folder.path().join(NAME), old.to_bytes()).unwrap();
        let mark = Watermark::open(folder.path());
        let before = share.metadata().unwrap();
        mark.note_sound(StorageIndex([1; 16]), 0, &share);
        assert!(mark.state().sound.is_empty());
        assert_eq!(share.metadata().unwrap().modified().unwrap(), before.modified().unwrap());
        mark.state().record.stretches.push((0, changed_at(&share).unwrap()));
        assert!(mark.is_suspect(StorageIndex([1; 16]), 0, &share).unwrap());
        mark.note_sound(StorageIndex([1; 16]), 0, &share);
        assert!(!mark.is_suspect(StorageIndex([1; 16]), 0, &share).unwrap());
    }
}
