//! What happens at the limit of open files, in a process of its own: the limit is the process's.

use std::os::fd::AsRawFd as _;
use std::process::Command;

use crate::support::{Victim, command};
use rpm_sys::limits::{nofile, open_fds, raise_nofile};
use rpm_sys::spawn::{SpawnStep, spawn};
use rustix::process::{Resource, Rlimit, setrlimit};

#[test]
fn at_the_limit_a_spawn_names_it() {
    let test = std::env::current_exe().unwrap();
    let done = Command::new(test)
        .args(["--exact", "--ignored", "--nocapture", "limits::reach_the_limit"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("1 passed"), "{done:?}");
}

#[test]
#[ignore = "run by at_the_limit_a_spawn_names_it in a process of its own"]
fn reach_the_limit() {
    let hard = nofile().hard;
    let what = command("/bin/true", &[]);
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
        (SpawnStep::Descriptors, Some(libc::EMFILE))
    );
    assert!(
        text.contains(&format!("RLIMIT_NOFILE, the limit of open files, is {low}")),
        "{text}"
    );
    // With room for some of what an intercepted process takes, it is for want of room, whatever was asked for last.
    let mut failed = 0;
    let child = (low..low + 32).find_map(|room| {
        setrlimit(Resource::Nofile, limit(hard)).unwrap();
        let mut what = command("/bin/true", &[]);
        what.intercept = true;
        setrlimit(Resource::Nofile, limit(room)).unwrap();
        Victim::of(what)
            .inspect_err(|error| {
                failed += 1;
                assert_ne!(
                    error.stage,
                    SpawnStep::Intercept,
                    "with room up to {room}: {error}"
                );
                assert!(error.to_string().contains("raise it with ulimit -n"), "{error}");
            })
            .ok()
    });
    assert!(failed > 3, "{failed}");
    assert!(child.is_some(), "there is room for it in the end");
    setrlimit(Resource::Nofile, limit(low)).unwrap();
    let before = raise_nofile();
    assert_eq!((before.soft, before.hard), (low, hard));
    assert_eq!(nofile().soft, hard);
}
