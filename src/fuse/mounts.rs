//! The kernel's table of mounts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The type of our mounts in the kernel's table.
pub const FS_TYPE: &str = "fuse.tahoefs";

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The kernel's id of this mount; never reused while it stands.
    pub id: u64,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// File system type.
    pub fs_type: String,
    /// Source.
    pub source: String,
}

/// The topmost mount at exactly this path.
pub fn find_mount(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    Ok(all_mounts()?.into_iter().rfind(|m| m.mountpoint == mountpoint))
}

/// All mounts that this process sees, in the order in which they were made.
pub fn all_mounts() -> io::Result<Vec<MountEntry>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|b| *b == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(3)?)));
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let text = |f: &[u8]| String::from_utf8_lossy(&unescape(f)).into_owned();
    Some(MountEntry { id, mountpoint, fs_type: text(rest.next()?), source: text(rest.next()?) })
}

/// Undoes the kernel's `\040` for blanks and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits =
            field.get(at + 1..at + 4).filter(|d| field[at] == b'\\' && d.iter().all(|b| (b'0'..b'8').contains(b)));
        match digits {
            Some(d) => {
                out.push(d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0')) as u8);
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let line = b"36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 - fuse.tahoefs tahoe: rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!((entry.id, entry.mountpoint.as_path()), (36, Path::new("/mnt/a b")));
        assert_eq!((entry.fs_type.as_str(), entry.source.as_str()), ("fuse.tahoefs", "tahoe:"));
        assert_eq!(parse(b""), None);
    }
}
