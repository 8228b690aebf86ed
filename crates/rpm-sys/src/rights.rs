//! Another user's rights in the file system, for one thread and one closure (setfsuid(2), credentials(7)).
//!
//! The C library's own functions change all threads of a process; the system calls change only the calling one.

use std::io;
use std::sync::OnceLock;

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

use crate::user::User;

// On 32-bit processors, most system calls of these names take 16-bit users.
#[cfg(not(target_pointer_width = "64"))]
compile_error!("users are set by system calls that are right on 64-bit Linux alone");

/// Not a valid user: the call changes nothing, and returns the current one.
const ASK: u32 = u32::MAX;

/// Runs `act` with the user's rights in the file system: it can open, create, rename and remove what the user may, and new files belong to
/// the user. Only the calling thread changes; it gets its own rights back afterwards, even after a panic. `act` must not start a thread,
/// which would keep the user's rights.
///
/// Rights that do not concern files (ports, signals) stay those of the process.
///
/// # Errors
/// `EPERM`: this process may not change its rights. `act` was not run.
pub fn as_user<T>(user: &User, act: impl FnOnce() -> T) -> io::Result<T> {
    let borrowed = Borrowed::new(user)?;
    let done = act();
    drop(borrowed);
    Ok(done)
}

/// The thread's previous rights, which it gets back when the value is dropped.
struct Borrowed {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    dumpable: Option<DumpableBehavior>,
}

impl Borrowed {
    fn new(user: &User) -> io::Result<Borrowed> {
        let before = Borrowed {
            uid: set_uid(ASK),
            gid: set_gid(ASK),
            groups: groups()?,
            dumpable: own_dumpable(),
        };
        // If a step fails, dropping `before` undoes the previous ones. The user comes last, because with it the thread loses its rights
        // over all files.
        set_groups(&user.groups)?;
        set_gid(user.gid);
        set_uid(user.uid);
        if set_gid(ASK) != user.gid || set_uid(ASK) != user.uid {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        Ok(before)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        set_uid(self.uid);
        set_gid(self.gid);
        // If the groups cannot be set, they were not changed before, either.
        let groups = set_groups(&self.groups).is_ok() || groups().is_ok_and(|own| own == self.groups);
        if !groups || set_uid(ASK) != self.uid || set_gid(ASK) != self.gid {
            // A thread that keeps the wrong rights must do nothing more.
            std::process::abort();
        }
        if let Some(before) = self.dumpable {
            // If this fails, the process is more closed to others than before, which is harmless.
            let _ = set_dumpable_behavior(before);
        }
    }
}

/// Whether processes of the same user may trace this one (prctl(2)). A change of the user switches it off. The value is read before the
/// first change, because threads that change at the same time would see each other's.
fn own_dumpable() -> Option<DumpableBehavior> {
    static BEFORE: OnceLock<Option<DumpableBehavior>> = OnceLock::new();
    *BEFORE.get_or_init(|| dumpable_behavior().ok())
}

/// Returns the previous user.
fn set_uid(uid: u32) -> u32 {
    // SAFETY: a number only.
    let before = unsafe { libc::syscall(libc::SYS_setfsuid, libc::c_ulong::from(uid)) };
    before as u32
}

/// Returns the previous group.
fn set_gid(gid: u32) -> u32 {
    // SAFETY: a number only.
    let before = unsafe { libc::syscall(libc::SYS_setfsgid, libc::c_ulong::from(gid)) };
    before as u32
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: a live list of that length.
    match unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn groups() -> io::Result<Vec<u32>> {
    let none = std::ptr::null_mut::<u32>();
    // SAFETY: with a length of 0 the kernel writes nothing, and returns the number of groups.
    let count = unsafe { libc::syscall(libc::SYS_getgroups, 0 as libc::c_long, none) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let mut groups = vec![0_u32; count];
    // SAFETY: the list has room for that many numbers.
    let count = unsafe { libc::syscall(libc::SYS_getgroups, groups.len(), groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).map_err(|_| io::Error::last_os_error())?);
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::sync::mpsc;

    use super::*;

    fn somebody() -> User {
        User {
            uid: 65_432,
            gid: 65_433,
            groups: vec![65_433, 65_434],
            account: None,
        }
    }

    /// The lines of the thread's status about its rights.
    fn own() -> Vec<String> {
        let text = fs::read_to_string("/proc/thread-self/status").expect("its status");
        let told = |line: &&str| {
            ["Uid:", "Gid:", "Groups:", "CapEff:"]
                .iter()
                .any(|it| line.starts_with(it))
        };
        text.lines().filter(told).map(str::to_owned).collect()
    }

    #[test]
    fn rights_are_borrowed_and_given_back() {
        let before = own();
        if !rustix::process::geteuid().is_root() {
            assert!(as_user(&somebody(), || ()).is_err());
            assert_eq!(own(), before);
            return;
        }
        let dir = std::env::temp_dir().join(format!("rpm-rights-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("it is ours");
        let secret = dir.join("secret");
        fs::write(&secret, "x").expect("a file");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it is ours");
        let status = as_user(&somebody(), || {
            assert!(fs::read(&secret).is_err(), "it is root's");
            fs::write(dir.join("new"), "x").expect("anybody may");
            own()
        });
        let status = status.expect("root may");
        assert!(status.contains(&"Uid:\t0\t0\t0\t65432".to_owned()), "{status:?}");
        assert!(status.contains(&"Groups:\t65433 65434 ".to_owned()), "{status:?}");
        let meta = fs::metadata(dir.join("new")).expect("it is there");
        assert_eq!((meta.uid(), meta.gid()), (65_432, 65_433));
        assert_eq!(own(), before);
        let caught = std::panic::catch_unwind(|| as_user(&somebody(), || panic!("on purpose")));
        assert!(caught.is_err());
        assert_eq!(own(), before);
        assert!(fs::read(&secret).is_ok());
        assert_eq!(dumpable_behavior().ok(), own_dumpable());
        fs::remove_dir_all(&dir).expect("it is ours");
    }

    #[test]
    fn other_threads_keep_theirs() {
        let before = own();
        let (ask, asked) = mpsc::channel::<()>();
        let (answer, answers) = mpsc::channel();
        let other = std::thread::spawn(move || {
            while asked.recv().is_ok() {
                answer.send(own()).expect("it is waited for");
            }
        });
        let look = || {
            ask.send(()).expect("it waits");
            answers.recv().expect("it answers")
        };
        let seen = as_user(&somebody(), look);
        assert!(seen.is_err() || seen.is_ok_and(|seen| seen == before));
        drop(ask);
        other.join().expect("no panic");
    }
}
