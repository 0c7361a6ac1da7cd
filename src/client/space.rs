//! How much room there is: each disk counts once, and content takes N/k of it. While too few servers can be asked to store
//! anything it is what it was when enough could.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use crate::grid::{LinkState, Server};
use crate::node::Space;
use crate::util::{Survives, replace_file};

/// How long a measurement is good for.
const FRESH: Duration = Duration::from_secs(3);
/// How often it is written down, where it changes.
const NOTED: Duration = Duration::from_secs(60);

pub(super) struct SpaceMeter {
    folders: Vec<PathBuf>,
    expansion: f64,
    /// Servers without which nothing can be stored.
    happy: usize,
    last: Mutex<Option<(Instant, Space)>>,
    known: Mutex<Known>,
}

/// What was measured when enough servers could be asked.
#[derive(Default)]
struct Known {
    space: Space,
    /// Where it is written down for later processes, and when it last was by this one.
    file: Option<PathBuf>,
    noted: Option<Instant>,
}

impl Known {
    /// As `file` has it, if that can be read.
    fn load(file: Option<PathBuf>) -> Known {
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        let numbers = text.and_then(|text| {
            let mut words = text.split_whitespace().map(str::parse::<u64>);
            Some(Space { total: words.next()?.ok()?, free: words.next()?.ok()? })
        });
        Known { space: numbers.unwrap_or_default(), file, noted: None }
    }

    fn note(&mut self, space: Space) {
        let is_due = self.noted.is_none_or(|at| at.elapsed() >= NOTED);
        if self.space != space
            && is_due
            && let Some(file) = &self.file
        {
            let text = format!("{} {}\n", space.total, space.free);
            let written = file.parent().map_or(Ok(()), std::fs::create_dir_all);
            let written = written.and_then(|()| replace_file(file, &[text.as_bytes()], 0o600, Survives::Exit));
            if let Err(error) = written {
                tracing::debug!(%error, "how much room there is could not be noted");
            }
            self.noted = Some(Instant::now());
        }
        self.space = space;
    }
}

impl SpaceMeter {
    /// Measures the disks of `folders`; `expansion` is N/k, and what is known with fewer than `happy` servers does not
    /// count. What is known is kept in `file`.
    pub(super) fn new(folders: Vec<PathBuf>, expansion: f64, happy: usize, file: Option<PathBuf>) -> SpaceMeter {
        let known = Mutex::new(Known::load(file));
        SpaceMeter { folders, expansion, happy, last: Mutex::new(None), known }
    }

    /// The room of the disks and of the servers on the network. The servers' is what they last said: nobody is asked.
    /// Until each of them has said something or failed, and while too few can be asked, it is what was last known; the
    /// total is 0 where nothing ever was.
    pub(super) fn measure(&self, servers: &[Arc<Server>]) -> Space {
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((at, space)) = *last
            && at.elapsed() < FRESH
        {
            return space;
        }
        let remote = || servers.iter().filter(|server| !server.address().is_empty());
        let unknown = |s: &Arc<Server>| s.last_status().is_none() && s.state() == LinkState::Connecting;
        if remote().any(|server| unknown(server) && server.health().last_error.is_none()) {
            return self.known.lock().unwrap_or_else(|e| e.into_inner()).space;
        }
        let mut usable = 0;
        let mut seen = HashSet::new();
        let mut sum = Space::default();
        for folder in &self.folders {
            // A store that is away has no room.
            let Ok(metadata) = std::fs::metadata(folder) else {
                continue;
            };
            usable += 1;
            if !seen.insert(metadata.dev()) {
                continue;
            }
            let Ok(disk) = statvfs(folder) else { continue };
            sum.total = sum.total.saturating_add(disk.blocks().saturating_mul(disk.fragment_size()));
            sum.free = sum.free.saturating_add(disk.blocks_available().saturating_mul(disk.fragment_size()));
        }
        for status in remote().filter(|server| !server.is_down()).filter_map(|server| server.last_status()) {
            usable += 1;
            // Servers tell what is free and not what there is; one that is read-only or full takes nothing.
            if status.maximum_immutable_share_size > 0 {
                sum.total = sum.total.saturating_add(status.available_space);
                sum.free = sum.free.saturating_add(status.available_space);
            }
        }
        let content = |bytes: u64| (bytes as f64 / self.expansion) as u64;
        let measured = Space { total: content(sum.total), free: content(sum.free) };
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        if usable >= self.happy.max(1) {
            known.note(measured);
        } else if known.space.total == 0 {
            // Of this process alone: it is no whole.
            known.space = measured;
        }
        let space = known.space;
        *last = Some((Instant::now(), space));
        space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_on_one_disk_count_once() {
        let top = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> = (0..5).map(|n| top.path().join(n.to_string())).collect();
        folders[..4].iter().for_each(|f| std::fs::create_dir(f).unwrap());
        let disk = statvfs(top.path()).unwrap();
        let meter = |folders, expansion| SpaceMeter::new(folders, expansion, 1, None);
        let one = meter(vec![top.path().to_owned()], 1.0).measure(&[]);
        assert_eq!(one.total, disk.blocks() * disk.fragment_size());
        assert_eq!(meter(folders.clone(), 1.0).measure(&[]).total, one.total);
        let expanded = meter(folders, 5.0 / 3.0).measure(&[]).total;
        assert!(expanded.abs_diff(one.total / 5 * 3) < 16, "{expanded}");
        assert_eq!(meter(vec![top.path().join("away")], 1.0).measure(&[]), Space::default());
    }

    #[test]
    fn with_too_few_servers_it_is_what_it_was() {
        let top = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> = (0..3).map(|n| top.path().join(n.to_string())).collect();
        folders.iter().for_each(|f| std::fs::create_dir(f).unwrap());
        let file = top.path().join("cache/space");
        let meter = || SpaceMeter::new(folders.clone(), 1.0, 3, Some(file.clone()));
        let whole = meter().measure(&[]);
        assert!(whole.total > 0);
        std::fs::remove_dir(&folders[1]).unwrap();
        assert_eq!(meter().measure(&[]).total, whole.total);
        [0, 2].iter().for_each(|n| std::fs::remove_dir(&folders[*n]).unwrap());
        assert_eq!(meter().measure(&[]).total, whole.total);
        // What cannot be read is not known.
        std::fs::write(&file, "12").unwrap();
        assert_eq!(meter().measure(&[]), Space::default());
    }
}
