//! Users and groups by name, for processes that run as another user (getpwnam_r(3), getgrouplist(3)).

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// The user that a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// All group ids, including `gid`.
    pub groups: Vec<u32>,
    /// Its passwd(5) entry; `None` for a number without one.
    pub account: Option<Account>,
}

/// Fields of a passwd(5) entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The home directory.
    pub home: String,
    /// The shell; empty if the entry has none.
    pub shell: String,
}

/// Room for the names and paths of an entry.
const BUFFER: usize = 16 * 1024;
/// The most groups of a user.
const GROUPS: usize = 1024;

impl User {
    /// The user with this name or number, with its groups. A number without an entry is only in the group of the same number.
    ///
    /// # Errors
    /// The user database cannot be read. `Ok(None)` means that there is no such user.
    pub fn find(name: &str) -> io::Result<Option<User>> {
        let number = name.parse::<u32>().ok();
        let Ok(text) = CString::new(name) else {
            return Ok(None);
        };
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut buffer = vec![0; BUFFER];
        let mut found: *mut libc::passwd = ptr::null_mut();
        let status = match number {
            // SAFETY: entry, buffer and result are live for the call, with the length stated.
            Some(uid) => unsafe {
                libc::getpwuid_r(
                    uid,
                    entry.as_mut_ptr(),
                    buffer.as_mut_ptr(),
                    BUFFER,
                    &raw mut found,
                )
            },
            // SAFETY: the same, and the name is a live zero-terminated string.
            None => unsafe {
                libc::getpwnam_r(
                    text.as_ptr(),
                    entry.as_mut_ptr(),
                    buffer.as_mut_ptr(),
                    BUFFER,
                    &raw mut found,
                )
            },
        };
        if found.is_null() {
            let missing = status == 0 || matches!(status, libc::ENOENT | libc::ESRCH);
            return match (missing, number) {
                (true, Some(uid)) => Ok(Some(User {
                    uid,
                    gid: uid,
                    groups: vec![uid],
                    account: None,
                })),
                (true, None) => Ok(None),
                (false, _) => Err(io::Error::from_raw_os_error(status)),
            };
        }
        // SAFETY: the call found an entry and filled it in.
        let entry = unsafe { entry.assume_init() };
        // SAFETY: the name is a zero-terminated string in `buffer`.
        let name = unsafe { CStr::from_ptr(entry.pw_name) };
        // SAFETY: so is the directory.
        let home = unsafe { CStr::from_ptr(entry.pw_dir) };
        // SAFETY: so is the shell.
        let shell = unsafe { CStr::from_ptr(entry.pw_shell) };
        let text = |text: &CStr| text.to_string_lossy().into_owned();
        Ok(Some(User {
            uid: entry.pw_uid,
            gid: entry.pw_gid,
            groups: groups(name, entry.pw_gid),
            account: Some(Account {
                name: text(name),
                home: text(home),
                shell: text(shell),
            }),
        }))
    }

    /// Returns the user with this primary group, given as a name or a number.
    ///
    /// # Errors
    /// The group database cannot be read. `Ok(None)` means that there is no such group.
    pub fn in_group(mut self, name: &str) -> io::Result<Option<User>> {
        let Some(gid) = group(name)? else { return Ok(None) };
        self.gid = gid;
        if !self.groups.contains(&gid) {
            self.groups.push(gid);
        }
        Ok(Some(self))
    }
}

fn groups(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups = vec![0; GROUPS];
    let mut count = libc::c_int::try_from(GROUPS).unwrap_or(0);
    // SAFETY: the kernel's list has room for `count` groups; the name is a live zero-terminated string.
    let status = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
    if status < 0 {
        return vec![gid];
    }
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups
}

fn group(name: &str) -> io::Result<Option<u32>> {
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    let Ok(text) = CString::new(name) else {
        return Ok(None);
    };
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut buffer = vec![0; BUFFER];
    let mut found: *mut libc::group = ptr::null_mut();
    // SAFETY: entry, buffer and result are live for the call, with the length stated; the name is zero-terminated.
    let status = unsafe {
        libc::getgrnam_r(
            text.as_ptr(),
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            BUFFER,
            &raw mut found,
        )
    };
    if found.is_null() {
        let missing = status == 0 || matches!(status, libc::ENOENT | libc::ESRCH);
        return if missing {
            Ok(None)
        } else {
            Err(io::Error::from_raw_os_error(status))
        };
    }
    // SAFETY: the call found an entry and filled it in.
    Ok(Some(unsafe { entry.assume_init() }.gr_gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = User::find("root").unwrap().expect("it is there");
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(User::find("0").unwrap().as_ref(), Some(&root));
        assert!(root.groups.contains(&0));
        let account = root.account.as_ref().expect("it has a name");
        assert!(
            account.name == "root" && account.home.starts_with('/'),
            "{account:?}"
        );
        assert_eq!(User::find("nobody-of-this-name").unwrap(), None);
        let stranger = User::find("4000123").unwrap().expect("any number");
        assert_eq!((stranger.gid, stranger.groups), (4_000_123, vec![4_000_123]));
        let elsewhere = root.clone().in_group("4000124").unwrap().expect("any number");
        assert!(elsewhere.gid == 4_000_124 && elsewhere.groups.contains(&4_000_124));
        assert_eq!(root.in_group("no-group-of-this-name").unwrap(), None);
    }
}
