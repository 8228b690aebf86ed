//! Which workers of a daemon that is no more still run: the keeper holds what it had for them.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rpm_core::protocol::Exit;
use rpm_core::{Core, StateView, WorkerId};
use rpm_keeper::{Keeper, Kept};
use rpm_listen::StoredSocket;
use rpm_sys::pidfd::PidFd;
use rpm_sys::tree::Census;
use rpm_sys::{Signal, tree};
use tracing::{info, warn};

use crate::home::Home;
use crate::persist::stored::StoredWorker;
use crate::workers::worker::{Workers, exit_of};

/// A worker that still runs.
pub(crate) struct Survivor {
    pub(crate) stored: StoredWorker,
    pub(crate) pidfd: Kept<PidFd>,
    /// Those below it, if one of them may be who listens.
    below: Vec<PidFd>,
    /// The keeper has died too: what the daemon had for it is gone, but for what it holds itself.
    pub(crate) without_keeper: bool,
}

/// What has become of a worker.
pub(crate) enum Found {
    Runs(Box<Survivor>),
    /// How is known where nobody has waited for it yet (the daemon that would have is dead, and a container's first process may wait for none), or
    /// the kernel still tells.
    Ended(Exit),
}

/// What has become of a worker; `None`: its number means another process, or nothing.
pub(crate) fn look(stored: StoredWorker, keeper: &Keeper, census: &Census) -> Option<Found> {
    let kept = keeper.take_as(stored.tokens.process, |fd| PidFd::taken_back(fd, stored.pid));
    let without_keeper = stored.without_keeper || kept.is_none();
    let pidfd = match kept {
        Some(kept) => kept,
        None => {
            let opened = PidFd::open(stored.pid).ok()?;
            let same = opened.start_ticks().ok()? == stored.start_ticks;
            let owner = rpm_listen::owner(stored.id);
            same.then(|| keeper.keep_process(Arc::new(opened), owner))?
        }
    };
    if pidfd.peek().unwrap_or(true) {
        return pidfd
            .exit_of_stranger()
            .map(|status| Found::Ended(exit_of(Some(status))));
    }
    let intercepted = stored.tokens.reports.is_some();
    let below = census.descendants(stored.pid).into_iter().filter(|_| intercepted);
    let below = below.filter_map(|pid| PidFd::open(pid).ok()).collect();
    Some(Found::Runs(Box::new(Survivor {
        without_keeper,
        pidfd,
        below,
        stored,
    })))
}

impl Survivor {
    /// The socket, if one of its processes has it.
    pub(crate) fn find(&self, socket: &StoredSocket) -> Option<OwnedFd> {
        let find = |process: &PidFd| match process.find_socket(|fd| socket.is(fd)) {
            Ok(found) => found,
            Err(error) => {
                warn!(worker = %self.stored.id, %error, "a worker's socket cannot be taken back");
                None
            }
        };
        [&*self.pidfd].into_iter().chain(&self.below).find_map(find)
    }

    /// Nothing can be had of it: the keeper is gone, and the system restricts tracing.
    pub(crate) fn is_closed(&self) -> bool {
        let denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        self.without_keeper && self.pidfd.getfd(1).is_err_and(denied)
    }
}

/// A command of ours that a worker runs, perhaps the one that has started this daemon.
pub(crate) fn is_client(pid: u32) -> bool {
    let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    of(pid).is_some() && of(pid) == of(std::process::id())
}

/// Ends what belongs to no worker that is known to run: those started in the last moment, and what is left of
/// workers that have ended.
pub(crate) fn end_strays(home: &Home, alive: &BTreeSet<WorkerId>) {
    let home = format!("RPM_HOME={}", home.root().display());
    for pid in tree::marked(&home) {
        let worker = tree::variable(pid, "RPM_WORKER").and_then(|id| id.parse().ok());
        let known = worker.is_none_or(|id| alive.contains(&WorkerId(id)));
        if known || pid == std::process::id() || is_client(pid) {
            continue;
        }
        // Opened before it is asked again whose it is: the pid may have got another owner.
        let Ok(process) = PidFd::open(pid) else { continue };
        if tree::variable(pid, "RPM_WORKER").and_then(|id| id.parse().ok()) == worker {
            info!(pid, "ended: it belongs to no known worker");
            let _ = process.send_signal(Signal::KILL);
        }
    }
}

/// A worker that was not ready may wait for an answer that the daemon before owed it.
pub(crate) fn end_unready(core: &Core, workers: &Workers) {
    let unready = core.instances().filter_map(|view| match view.state {
        StateView::Launching { worker } => workers.get(&worker)?.process(),
        _ => None,
    });
    for process in unready {
        let _ = process.pidfd.send_signal(Signal::KILL);
    }
}
