//! Why a worker cannot have what it wants to listen on.

use std::io;
use std::net::SocketAddr;

use rpm_core::AppId;
use rustix::io::Errno;

use crate::conflict::Occupant;

/// Why a worker cannot have a listener.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A process that is not ours listens there.
    #[error("{addr} is in use by {by}")]
    Foreign {
        /// The requested address.
        addr: SocketAddr,
        /// The process that has it.
        by: Occupant,
    },
    /// Another app, or another server of the same app, listens there.
    #[error("{addr} is in use by another listener of this daemon, on {held}")]
    Ours {
        /// The requested address.
        addr: SocketAddr,
        /// The address of that listener.
        held: SocketAddr,
        /// The app that it belongs to.
        app: AppId,
    },
    /// The kernel refuses.
    #[error("cannot listen on {what}")]
    Io {
        /// The requested address, as text.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// The positive errno that `bind` would have returned to the program.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            OpenError::Foreign { .. } | OpenError::Ours { .. } => Errno::ADDRINUSE.raw_os_error(),
            OpenError::Io { source, .. } => source.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error()),
        }
    }
}
