//! Whether calls can be intercepted here, tried with a process that makes none.

use std::os::fd::OwnedFd;

use rpm_sys::spawn::{Child, Spawn, SpawnError, SpawnStep, spawn};
use tokio::io::Interest;

use crate::os::watched::watched;

/// A process that has its calls intercepted, and makes none.
pub(crate) fn probe() -> Result<Child, SpawnError> {
    let null = || {
        let opened = std::fs::File::options().write(true).open("/dev/null");
        opened.map(OwnedFd::from).map_err(|source| SpawnError {
            stage: SpawnStep::Descriptors,
            operand: "/dev/null".into(),
            hint: None,
            source,
        })
    };
    spawn(Spawn {
        program: "/proc/self/exe".into(),
        argv: vec!["rpm".into(), "--version".into()],
        env: Vec::new(),
        cwd: "/".into(),
        stdout: null()?,
        stderr: null()?,
        stdin: None,
        fds: Vec::new(),
        listen_fds: 0,
        nofile: None,
        intercept: true,
        user: None,
        no_new_privileges: false,
    })
}

pub(crate) async fn reap(child: Child) {
    if let Ok(ended) = watched(child.pidfd, Interest::READABLE) {
        let _ = ended.readable().await;
        let _ = ended.get_ref().try_wait();
    }
}
