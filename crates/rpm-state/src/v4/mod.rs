//! The present format.

mod apps;
pub(crate) mod core;
mod listeners;
mod processes;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::apps::{AppsDocument, Revision, StoredApp};
pub use self::core::Core;
pub use self::listeners::{Group, Listeners, Policy, Shared, SharedKind, Slot, Socket, Table};
pub use self::processes::{Logs, Process, Tokens};

/// A span of time, or a point in time as a span since tick 0: whole nanoseconds, and the longest that there is (584 years) for longer ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl From<Duration> for Nanos {
    fn from(span: Duration) -> Nanos {
        Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(span: Nanos) -> Duration {
        Duration::from_nanos(span.0)
    }
}

/// What the next daemon must know, without what apps are started from: that is much and changes rarely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// Of the program that wrote it.
    pub version: String,
    /// Of the run of the system in which it is true.
    pub boot_id: String,
    /// What the monotonic clock said at tick 0.
    pub origin: Nanos,
    /// What the core decides by.
    pub core: Core,
    /// The workers that have a process.
    pub workers: Vec<Process>,
    /// The sockets.
    pub listeners: Listeners,
    /// The number of the next app.
    pub next_app: u32,
    /// The number of the next ticket.
    pub next_ticket: u64,
    /// How often waiting connections were moved.
    pub rescues: u64,
}
