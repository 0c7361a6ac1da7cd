//! Whose mount it is: an account from the system's user database.

use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// The largest entry of the user database that is read, in bytes.
const LARGEST_ENTRY: usize = 1 << 20;
/// The most groups of a user that are taken.
const MOST_GROUPS: usize = 1 << 16;

/// A user.
#[derive(Clone, Debug)]
pub struct Account {
    /// Name.
    pub name: CString,
    /// User id.
    pub uid: libc::uid_t,
    /// Primary group.
    pub gid: libc::gid_t,
    /// Home directory.
    pub home: OsString,
}

impl Account {
    /// The account named, or numbered, `user`; `None` if there is none.
    pub fn find(user: &str) -> io::Result<Option<Account>> {
        let Ok(name) = CString::new(user) else { return Ok(None) };
        // SAFETY: all pointers are valid for the call, and `name` is NUL-terminated.
        let named = lookup(|entry, buffer, length, found| unsafe {
            libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found)
        })?;
        match (named, user.parse()) {
            (None, Ok(uid)) => Account::of(uid),
            (named, _) => Ok(named),
        }
    }

    /// The account with this id; `None` if there is none.
    pub fn of(uid: libc::uid_t) -> io::Result<Option<Account>> {
        // SAFETY: all pointers are valid for the call.
        lookup(|entry, buffer, length, found| unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) })
    }

    /// All groups of this user.
    pub fn groups(&self) -> io::Result<Vec<libc::gid_t>> {
        let mut groups: Vec<libc::gid_t> = vec![0; 64];
        loop {
            let mut count = groups.len() as libc::c_int;
            // SAFETY: `groups` has room for `count` ids, and the name is NUL-terminated.
            let got = unsafe { libc::getgrouplist(self.name.as_ptr(), self.gid, groups.as_mut_ptr(), &mut count) };
            if got >= 0 {
                groups.truncate(got as usize);
                return Ok(groups);
            }
            if groups.len() >= MOST_GROUPS {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
            groups.resize((count.max(0) as usize).clamp(groups.len() * 2, MOST_GROUPS), 0);
        }
    }

    /// Makes this process run as the user, for good. For a process with one thread.
    pub fn become_it(&self, groups: &[libc::gid_t]) -> io::Result<()> {
        let check = |result| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: `groups` is valid for its length.
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
        // SAFETY: plain system calls.
        check(unsafe { libc::setresgid(self.gid, self.gid, self.gid) })?;
        // SAFETY: as above; root's id goes last, because it is what permits the others.
        check(unsafe { libc::setresuid(self.uid, self.uid, self.uid) })
    }
}

type Ask<'a> = &'a mut dyn FnMut(*mut libc::passwd, *mut c_char, usize, *mut *mut libc::passwd) -> libc::c_int;

fn lookup(
    mut ask: impl FnMut(*mut libc::passwd, *mut c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<Account>> {
    let ask: Ask<'_> = &mut ask;
    let mut buffer: Vec<c_char> = vec![0; 4096];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        match ask(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) {
            0 if found.is_null() => return Ok(None),
            0 => {
                // SAFETY: the call succeeded, so that `entry` is filled and its strings lie in `buffer`.
                let entry = unsafe { entry.assume_init() };
                // SAFETY: as above; both are NUL-terminated.
                let (name, home) = unsafe { (CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir)) };
                return Ok(Some(Account {
                    name: name.to_owned(),
                    uid: entry.pw_uid,
                    gid: entry.pw_gid,
                    home: OsStr::from_bytes(home.to_bytes()).to_owned(),
                }));
            }
            libc::ERANGE if buffer.len() < LARGEST_ENTRY => buffer.resize(buffer.len() * 4, 0),
            libc::ENOENT | libc::ESRCH => return Ok(None),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_by_number() {
        let root = Account::find("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(Account::find("0").unwrap().unwrap().name, root.name);
        assert!(root.groups().unwrap().contains(&0));
        assert!(Account::find("no such user").unwrap().is_none() && Account::find("4294000000").unwrap().is_none());
    }
}
