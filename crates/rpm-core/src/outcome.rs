//! How a command ends: well, or why not.

use alloc::vec::Vec;
use core::time::Duration;

use crate::protocol::Exit;
use crate::{GroupId, InstanceId, WorkerId};

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The process could not be spawned; the shell knows why.
    SpawnFailed,
    /// It exited before it was ready.
    Exited(Exit),
    /// It was ready, and exited before its reload was complete.
    Crashed(Exit),
    /// It was not ready within this time.
    NotReady {
        /// The deadline that passed.
        within: Duration,
    },
    /// On a reload: it did not listen within this time where the version before it does.
    Unserved {
        /// The deadline that passed.
        within: Duration,
        /// An address where it did not listen.
        group: GroupId,
    },
    /// A later command changed the goal.
    Superseded,
    /// There is no such app.
    NoSuchApp,
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every instance is in the requested state. `silent` are those that are online and listen on nothing ([`Readiness::Listens`](crate::protocol::Readiness::Listens) at its
    /// time-out).
    Done {
        /// The instances, ascending.
        instances: Vec<InstanceId>,
        /// Those that listen on nothing.
        silent: Vec<InstanceId>,
    },
    /// At least one instance is not; supervision continues.
    Failed {
        /// The first instance that failed; `None` if the command as a whole did.
        instance: Option<InstanceId>,
        /// Its worker, whose last lines of output tell more.
        worker: Option<WorkerId>,
        /// The cause.
        failure: Failure,
    },
}
