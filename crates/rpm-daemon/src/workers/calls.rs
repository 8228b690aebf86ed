//! Calls of `bind` and `listen` by which a process of a worker waits for the daemon.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rpm_listen::Captured;
use rpm_sys::intercept::{Call, Notifications};
use tracing::debug;

/// A call that waits for an answer, and where that is to be given.
pub(crate) struct Intercepted {
    pub(crate) from: Arc<Notifications>,
    pub(crate) call: Call,
    /// Where it is to bind a socket.
    pub(crate) address: io::Result<Option<SocketAddr>>,
    /// Which that is. The thread that got it has it too, for to close the last one may take long.
    pub(crate) socket: io::Result<Arc<OwnedFd>>,
}

/// A call of `listen` that waits for the end of a reload.
pub(crate) struct HeldBack {
    pub(crate) intercepted: Intercepted,
    pub(crate) captured: Captured,
}

impl Intercepted {
    /// A copy of the socket that the call is about.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Ok(socket) => socket.try_clone(),
            Err(error) => Err(copy_of(error)),
        }
    }

    pub(crate) fn proceed(&self) {
        self.told(self.from.proceed(&self.call));
    }

    /// In place of the call, what it is to do was done.
    pub(crate) fn done(&self) {
        self.told(self.from.done(&self.call));
    }

    /// The call fails, with this errno.
    pub(crate) fn refused(&self, errno: i32) {
        self.told(self.from.fail(&self.call, errno));
    }

    fn told(&self, answered: io::Result<()>) {
        if let Err(error) = answered {
            debug!(thread = self.call.thread(), %error, "the caller has died");
        }
    }
}

/// The same error once more.
pub(crate) fn copy_of(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
