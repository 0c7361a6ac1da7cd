//! The kernel's table of mounts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A mount of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The kernel's id of this mount.
    pub id: u64,
    /// Type, such as `fuse.tahoefs`.
    pub fs_type: String,
    /// Who mounted it, or for whom; root where a file system does not say.
    pub user: libc::uid_t,
}

/// The topmost mount at exactly `dir`, if it is a FUSE mount.
pub fn find(dir: &Path) -> io::Result<Option<Entry>> {
    Ok(topmost(dir)?.filter(|entry| entry.fs_type.starts_with("fuse")))
}

/// The kernel's id of the topmost mount at exactly `dir`, if that is an automount point.
pub fn find_automount(dir: &Path) -> io::Result<Option<u64>> {
    Ok(topmost(dir)?.filter(|entry| entry.fs_type == "autofs").map(|entry| entry.id))
}

fn topmost(dir: &Path) -> io::Result<Option<Entry>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let topmost = table.split(|b| *b == b'\n').filter_map(fields).rfind(|(mountpoint, _)| mountpoint == dir);
    Ok(topmost.map(|(_, entry)| entry))
}

fn fields(line: &[u8]) -> Option<(PathBuf, Entry)> {
    let text = |f: &[u8]| std::str::from_utf8(f).map(str::to_owned).ok();
    let mut fields = line.split(|b| *b == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(3)?)));
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let fs_type = text(rest.next()?)?;
    let options = text(rest.nth(1)?)?;
    let user = options.split(',').find_map(|o| o.strip_prefix("user_id=")).and_then(|n| n.parse().ok());
    Some((mountpoint, Entry { id, fs_type, user: user.unwrap_or(0) }))
}

/// Undoes the kernel's `\040` for blanks and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] if byte == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(byte);
                rest = after;
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
        let line = b"36 35 0:98 / /mnt/a\\040b rw,nosuid shared:1 - fuse.tahoefs tahoe: rw,user_id=1000,group_id=3";
        let (mountpoint, entry) = fields(line).unwrap();
        assert_eq!(mountpoint, Path::new("/mnt/a b"));
        assert_eq!(entry, Entry { id: 36, fs_type: "fuse.tahoefs".into(), user: 1000 });
        assert_eq!(fields(b"36 35 8:1 / / rw - ext4 /dev/sda1 rw").unwrap().1.fs_type, "ext4");
        assert_eq!(find(Path::new("/proc")).unwrap(), None);
        assert_eq!(fields(b""), None);
    }
}
