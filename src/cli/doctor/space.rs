//! Whether the disks have room for what a mount puts there; each disk counts once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::super::exit::Exit;
use super::super::output;
use super::Finding;
use crate::config::{NodeDir, Stores};
use crate::journal::JournalOptions;

const CHECK: &str = "space";
/// Below so many times what the journal leaves free a disk is told to be nearly full.
const TIGHT: u64 = 4;
/// Below so many new files a disk is nearly full, where it counts them.
const FILES: u64 = 1000;

/// One disk, and what stands there.
struct Disk {
    uses: Vec<String>,
    path: PathBuf,
    journal: bool,
    free: u64,
    /// Files that can be made; `None` where that is not limited.
    files: Option<u64>,
}

pub fn look(dir: &NodeDir) -> Vec<Finding> {
    let mut places = vec![("journal".to_owned(), dir.own("journal")), ("cache".to_owned(), dir.own("cache"))];
    // What cannot be read is told elsewhere.
    let stores = Stores::load(dir).unwrap_or_default();
    // A store that is away has no disk.
    let there = stores.entries.iter().map(|entry| (entry.name.clone(), entry.directory(dir)));
    places.extend(there.filter(|(_, path)| path.is_dir()));
    let mut disks: BTreeMap<u64, Disk> = BTreeMap::new();
    for (what, path) in places {
        let Some((path, device)) = existing(&path) else { continue };
        let Ok(measured) = statvfs(&path) else { continue };
        let disk = disks.entry(device).or_insert_with(|| Disk {
            uses: Vec::new(),
            path,
            journal: false,
            free: measured.blocks_available().saturating_mul(measured.fragment_size()),
            files: Some(measured.files_available()).filter(|_| measured.files() > 0),
        });
        disk.journal |= what == "journal";
        disk.uses.push(output::shown(&what));
    }
    disks.values().map(judged).collect()
}

/// The nearest directory that is there, and its device.
fn existing(path: &Path) -> Option<(PathBuf, u64)> {
    path.ancestors().find_map(|path| Some((path.to_owned(), fs::metadata(path).ok()?.dev())))
}

fn judged(disk: &Disk) -> Finding {
    const REMEDY: &str = "free some; `tahoefs store move NAME DIR` moves a store to another disk, and a mount keeps \
         fewer blocks with a smaller -o cache-size=, and elsewhere with -o cache-dir=";
    let floor = JournalOptions::default().floor;
    let uses = disk.uses.join(", ");
    let room = format!("{} free on the disk of {} ({uses})", output::size(disk.free), disk.path.display());
    if disk.journal && disk.free <= floor {
        let message =
            format!("{room}: less than the {} that the journal leaves, so nothing can be written", output::size(floor));
        return Finding::problem(CHECK, Exit::Grid, message, REMEDY);
    }
    if disk.free < floor * TIGHT {
        return Finding::warning(CHECK, format!("{room}: it is nearly full"), REMEDY);
    }
    if let Some(files) = disk.files.filter(|files| *files < FILES) {
        return Finding::warning(CHECK, format!("{room}, but only {files} more files can be made there"), REMEDY);
    }
    Finding::ok(CHECK, room)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn full_disks_are_problems_where_the_journal_is() {
        let with = |free: u64, journal: bool, files: Option<u64>| {
            let disk = Disk { uses: vec!["store-1".into()], path: "/d".into(), journal, free, files };
            judged(&disk).state
        };
        assert_eq!(with(100 << 30, true, Some(1 << 20)), State::Ok);
        assert_eq!(with(100 << 30, true, None), State::Ok);
        assert_eq!(with(1 << 30, true, None), State::Warning);
        assert_eq!(with(512 << 20, true, None), State::Problem);
        assert_eq!(with(512 << 20, false, None), State::Warning);
        assert_eq!(with(100 << 30, true, Some(3)), State::Warning);
    }

    #[test]
    fn what_stands_on_one_disk_is_told_once() {
        let top = tempfile::tempdir().unwrap();
        let found = look(&NodeDir::at(top.path().join("not/there/yet")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains("(journal, cache)"), "{found:?}");
    }
}
