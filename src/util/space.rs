//! The free space of a disk.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Bytes that may be written to the file system of `path`; `None` where that cannot be measured.
pub fn free_space(path: &Path) -> Option<u64> {
    statvfs(path).ok().map(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()))
}
