//! What would have clients past the proxy, without its TLS and its limits: an app whose listeners nobody sees, and a worker that listens for
//! the network by itself. Neither is let.

use std::io;

use rpm_core::WorkerId;
use rpm_wire::api::AppSpec;
use rustix::io::Errno;

use crate::apps::app::{Plane, is_proxied};
use crate::sockets::interception::Intercepted;
use crate::supervisor::Supervisor;

impl Supervisor {
    /// Why the proxy would not serve what the workers of this app listen on, if it is to and would not.
    pub(crate) fn unfronted(&self, spec: &AppSpec) -> Option<String> {
        let unseen = is_proxied(spec) && Plane::of(spec) == Plane::Copies && !self.intercepts(spec);
        let denied = self.interception.denied.as_deref();
        unseen.then(|| {
            format!(
                "{} cannot be behind the proxy: it is not Node, and its listeners are not seen ({})",
                spec.name,
                denied.filter(|_| spec.intercept).unwrap_or("--no-intercept")
            )
        })
    }

    /// Is the proxy to serve whatever this worker has for the network?
    pub(crate) fn is_fronted(&self, worker: WorkerId) -> bool {
        let held = self.workers.get(&worker);
        held.is_some_and(|held| is_proxied(&held.spec))
    }

    /// A worker behind the proxy would have a listener past it, without its TLS and its limits.
    pub(crate) fn refuse_bypass(&mut self, worker: WorkerId, intercepted: &Intercepted, why: &str) {
        let text = format!(
            "the proxy cannot serve one of its listeners ({why}), so `listen` is refused (EACCES); have it listen on a port \
             that the proxy can have, or at 127.0.0.1 what is not for clients, or leave --balance proxy out"
        );
        self.note_trouble(worker, text);
        intercepted.refused(Errno::ACCESS.raw_os_error());
    }
}

/// The call fails by itself, or nobody waits for it any more.
pub(crate) fn is_void(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::SRCH | Errno::NOTSOCK)
    )
}
