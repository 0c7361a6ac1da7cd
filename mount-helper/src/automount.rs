//! Automount points (systemd's `x-systemd.automount`): a file system of their own over the folder, which is root's. A user
//! who is to mount there must be able to write to it, so that it is given to that user for as long as it stands.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::account::Account;
use crate::table;

/// `AUTOFS_SUPER_MAGIC` of the kernel.
const AUTOFS: libc::__fsword_t = 0x0187;

/// Gives the automount point at exactly `dir` to `account`; does nothing where there is none. Nothing but an automount
/// point changes hands, wherever the user leads the path meanwhile.
///
/// # Errors
/// The system refuses.
pub fn give(dir: &Path, account: &Account) -> io::Result<()> {
    let Some(id) = table::find_automount(dir)? else { return Ok(()) };
    let point =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir)?;
    if !is_autofs(&point)? || mount_id(&point)? != Some(id) {
        return Ok(());
    }
    // SAFETY: the descriptor is open, and the path an empty NUL-terminated string.
    let given =
        unsafe { libc::fchownat(point.as_raw_fd(), c"".as_ptr(), account.uid, account.gid, libc::AT_EMPTY_PATH) };
    if given == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_autofs(file: &File) -> io::Result<bool> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open and `stat` has room for the answer.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so that `stat` is filled.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type == AUTOFS)
}

/// The kernel's id of the mount that an open file is in.
fn mount_id(file: &File) -> io::Result<Option<u64>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    Ok(text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_changes_hands() {
        let root = Account::of(0).unwrap().unwrap();
        give(Path::new("/proc"), &root).unwrap();
        give(Path::new("/no such directory"), &root).unwrap();
        let proc = File::open("/proc").unwrap();
        assert!(!is_autofs(&proc).unwrap() && mount_id(&proc).unwrap().is_some());
    }
}
