//! The limit of open files (getrlimit(2), `RLIMIT_NOFILE`).

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

/// A resource limit; `u64::MAX` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// The limit that is enforced.
    pub soft: u64,
    /// The highest value that an unprivileged process may set.
    pub hard: u64,
}

/// This process's limit of open files.
#[must_use]
pub fn nofile() -> Rlimit {
    let limit = getrlimit(Resource::Nofile);
    Rlimit {
        soft: limit.current.unwrap_or(u64::MAX),
        hard: limit.maximum.unwrap_or(u64::MAX),
    }
}

/// Raises the soft limit to the hard one, and returns the previous limit. Children get that back, because programs that use select(2) or
/// close every possible descriptor suffer from a high one.
#[must_use = "children should get the original limit"]
pub fn raise_nofile() -> Rlimit {
    let before = nofile();
    let maximum = getrlimit(Resource::Nofile).maximum;
    // If this is refused, the old limit stays. Reaching it is reported where it happens.
    let _ = setrlimit(
        Resource::Nofile,
        rustix::process::Rlimit {
            current: maximum,
            maximum,
        },
    );
    before
}

/// Explains to the user which limit of open files caused `error`, and what to do; `None` if no such limit did.
#[must_use]
pub fn explain(error: &io::Error) -> Option<String> {
    match Errno::from_io_error(error)? {
        Errno::MFILE => Some(format!(
            "RLIMIT_NOFILE, the limit of open files, is {}; raise it with ulimit -n",
            nofile().soft
        )),
        Errno::NFILE => Some("fs.file-max, the system's limit of open files, is reached".to_owned()),
        _ => None,
    }
}

/// The number of descriptors that this process has open.
///
/// # Errors
/// `/proc/self/fd` cannot be read.
pub fn open_fds() -> io::Result<usize> {
    // One of the entries is the directory that is being read.
    Ok(std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_ordered_and_descriptors_are_counted() {
        let limit = nofile();
        assert!(limit.soft <= limit.hard);
        let open = open_fds().unwrap();
        assert!(
            open >= 3 && u64::try_from(open).unwrap() <= limit.soft,
            "{open} of {limit:?}"
        );
    }
}
