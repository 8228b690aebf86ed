//! What happens at the limit of open files; alone in its binary, for the limit is the process's.

mod support;

use std::os::fd::AsRawFd as _;

use rpm_sys::limits::{nofile, open_fds, raise_nofile};
use rpm_sys::spawn::{Stage, spawn};
use rustix::process::{Resource, Rlimit, setrlimit};

#[test]
fn at_the_limit_a_spawn_names_it() {
    let hard = nofile().hard;
    let what = support::command("/bin/true", &[]);
    // Descriptors take the lowest free number: no room for one more.
    let free = rustix::io::dup(&what.stdout).unwrap().as_raw_fd();
    let low = free.unsigned_abs().into();
    let limit = |soft| Rlimit {
        current: Some(soft),
        maximum: Some(hard),
    };
    setrlimit(Resource::Nofile, limit(low)).unwrap();
    assert!(open_fds().unwrap_err().raw_os_error() == Some(libc::EMFILE));
    let error = spawn(what).unwrap_err();
    let text = error.to_string();
    assert_eq!(
        (error.stage, error.source.raw_os_error()),
        (Stage::Descriptors, Some(libc::EMFILE))
    );
    assert!(
        text.contains(&format!("RLIMIT_NOFILE, the limit of open files, is {low}")),
        "{text}"
    );
    let before = raise_nofile();
    assert_eq!((before.soft, before.hard), (low, hard));
    assert_eq!(nofile().soft, hard);
}
