//! How much room there is: each disk counts once, and content takes N/k of it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use crate::grid::{LinkState, Server};
use crate::node::Space;

/// How long a measurement is good for.
const FRESH: Duration = Duration::from_secs(3);

pub(super) struct SpaceMeter {
    folders: Vec<PathBuf>,
    expansion: f64,
    last: Mutex<Option<(Instant, Space)>>,
}

impl SpaceMeter {
    /// Measures the disks of `folders`; `expansion` is N/k.
    pub(super) fn new(folders: Vec<PathBuf>, expansion: f64) -> SpaceMeter {
        SpaceMeter { folders, expansion, last: Mutex::new(None) }
    }

    /// The room of the disks and of the servers on the network. The servers' is what they last said: nobody is asked.
    /// Until each of them has said something or failed nothing is known, and the total is 0.
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
            return Space::default();
        }
        let mut seen = HashSet::new();
        let mut sum = Space::default();
        for folder in &self.folders {
            // A store that is away has no room.
            let Ok(metadata) = std::fs::metadata(folder) else {
                continue;
            };
            if !seen.insert(metadata.dev()) {
                continue;
            }
            let Ok(disk) = statvfs(folder) else { continue };
            sum.total = sum.total.saturating_add(disk.blocks().saturating_mul(disk.fragment_size()));
            sum.free = sum.free.saturating_add(disk.blocks_available().saturating_mul(disk.fragment_size()));
        }
        for status in remote().filter(|server| !server.is_down()).filter_map(|server| server.last_status()) {
            // Servers tell what is free and not what there is; one that is read-only or full takes nothing.
            if status.maximum_immutable_share_size > 0 {
                sum.total = sum.total.saturating_add(status.available_space);
                sum.free = sum.free.saturating_add(status.available_space);
            }
        }
        let content = |bytes: u64| (bytes as f64 / self.expansion) as u64;
        let space = Space { total: content(sum.total), free: content(sum.free) };
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
        let one = SpaceMeter::new(vec![top.path().to_owned()], 1.0).measure(&[]);
        assert_eq!(one.total, disk.blocks() * disk.fragment_size());
        assert_eq!(SpaceMeter::new(folders.clone(), 1.0).measure(&[]).total, one.total);
        let expanded = SpaceMeter::new(folders, 5.0 / 3.0).measure(&[]).total;
        assert!(expanded.abs_diff(one.total / 5 * 3) < 16, "{expanded}");
        assert_eq!(SpaceMeter::new(vec![top.path().join("away")], 1.0).measure(&[]), Space::default());
    }
}
