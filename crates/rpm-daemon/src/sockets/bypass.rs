//! What would have clients past the proxy, without its TLS and its limits: an app whose listeners nobody sees, and a worker that listens for
//! the network by itself. Neither is let.

use std::io;

use rustix::io::Errno;

use crate::apps::revision::Version;
use crate::sockets::interception::Interception;

impl Interception {
    /// Why the proxy would not serve what the workers of this app listen on, if it is to and would not.
    pub(crate) fn unfronted(&self, version: &Version) -> Option<String> {
        let (spec, delivery) = (version.spec(), version.delivery());
        let unseen = delivery.is_fronted() && delivery.needs_interception() && !self.applies_to(delivery);
        let denied = self.denied();
        unseen.then(|| {
            format!(
                "{} cannot be behind the proxy: it is not Node, and its listeners are not seen ({})",
                spec.name,
                denied.filter(|_| spec.intercept).unwrap_or("--no-intercept")
            )
        })
    }
}

/// The call fails by itself, or nobody waits for it any more.
pub(crate) fn is_void(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::SRCH | Errno::NOTSOCK)
    )
}
