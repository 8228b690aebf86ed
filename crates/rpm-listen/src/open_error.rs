//! Why a worker gets nothing to listen on.

use std::io;
use std::net::SocketAddr;

use rpm_core::AppId;
use rustix::io::Errno;

use crate::conflict::Occupant;

/// Why a worker gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process listens there.
    #[error("{addr} is in use by {by}")]
    Foreign {
        /// What was asked for.
        addr: SocketAddr,
        /// Who has it.
        by: Occupant,
    },
    /// Another app, or another server of the same app, listens there.
    #[error("{addr} is in use by another listener of this daemon, on {held}")]
    Ours {
        /// What was asked for.
        addr: SocketAddr,
        /// The address of that listener.
        held: SocketAddr,
        /// Whose it is.
        app: AppId,
    },
    /// The kernel refuses.
    #[error("cannot listen on {what}")]
    Io {
        /// What was asked for.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// The positive errno that a program would have got from `bind`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            OpenError::Foreign { .. } | OpenError::Ours { .. } => Errno::ADDRINUSE.raw_os_error(),
            OpenError::Io { source, .. } => source.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error()),
        }
    }
}
