//! Why a request failed.

use std::io;
use std::time::Duration;

use crate::Outcome;
use crate::response::Malformed;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("opening a socket: {0}")]
    Socket(#[source] io::Error),
    #[error("connecting: {0}")]
    Connect(#[source] io::Error),
    #[error("connection ended before the answer{}", cause(.error.as_ref()))]
    Ended { reused: bool, error: Option<io::Error> },
    #[error("connection ended within the answer{}", cause(.0.as_ref()))]
    Truncated(Option<io::Error>),
    #[error("no full answer within {0:?}")]
    TimedOut(Duration),
    #[error("status {0}")]
    Status(u16),
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("the answer is {0:?}")]
    Body(String),
    #[error("ended after {lived:?}, before it had to")]
    Early { lived: Duration },
    #[error("{0}")]
    Protocol(String),
}

fn cause(error: Option<&io::Error>) -> String {
    error.map_or_else(|| " (end of stream)".to_owned(), |error| format!(": {error}"))
}

impl Failure {
    /// The failure of a request that was sent together with the one of this failure.
    pub(super) fn of_another(&self) -> Failure {
        match self {
            Failure::Socket(error) => Failure::Socket(error.kind().into()),
            Failure::Connect(error) => Failure::Connect(error.kind().into()),
            Failure::TimedOut(after) => Failure::TimedOut(*after),
            Failure::Ended { .. } | Failure::Truncated(_) => Failure::Ended {
                reused: true,
                error: Some(io::Error::other(format!("behind one that failed: {self}"))),
            },
            Failure::Status(_)
            | Failure::Malformed(_)
            | Failure::Body(_)
            | Failure::Early { .. }
            | Failure::Protocol(_) => Failure::Protocol(format!("behind one that failed: {self}")),
        }
    }

    /// The class of the failure.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Failure::Socket(_) => Outcome::Unsent,
            Failure::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Outcome::Refused,
                io::ErrorKind::ConnectionReset => Outcome::ResetFresh,
                io::ErrorKind::TimedOut => Outcome::TimedOut,
                // No port, no route, no permission: nothing of it reached the server.
                _ => Outcome::Unsent,
            },
            Failure::Ended { reused: false, .. } => Outcome::ResetFresh,
            Failure::Ended { reused: true, .. } => Outcome::ResetReused,
            Failure::Truncated(_) => Outcome::Truncated,
            Failure::TimedOut(_) => Outcome::TimedOut,
            Failure::Early { .. } => Outcome::ClosedEarly,
            Failure::Status(_) | Failure::Malformed(_) | Failure::Body(_) | Failure::Protocol(_) => {
                Outcome::WrongStatus
            }
        }
    }
}
