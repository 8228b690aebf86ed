//! Workers: supervised processes, from the wish to spawn one to the end of its whole tree.
//!
//! Workers have a table of their own, apart from instances: during a reload an instance has more than one.

use alloc::sync::Arc;
use core::time::Duration;

use crate::protocol::AppConfig;
use crate::restart::Life;
use crate::{Generation, InstanceId, Tick};

/// One supervised process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    /// The configuration it was started with.
    pub(crate) config: Arc<AppConfig>,
    /// When its process began to run.
    pub(crate) spawned: Option<Tick>,
    /// It has answered a probe, so it will again unless it is frozen.
    pub(crate) answers: bool,
    pub(crate) phase: Phase,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Asked for; the shell has not answered yet.
    Spawning { give_up: Tick },
    /// It runs and is not ready.
    Launching { ready_by: Tick },
    /// It is ready. `silent`: it listens on nothing.
    Online { since: Tick, silent: bool },
    /// It shall end, and has no process yet that could be told.
    Cancelled(Killing),
    /// It was told to end.
    Stopping(Killing),
}

/// When SIGKILL is sent, and how long after that once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Killing {
    pub(crate) at: Tick,
    pub(crate) again: Duration,
}

impl Phase {
    /// Every phase but `Online` ends by itself, at this time at the latest.
    pub(crate) fn deadline(self) -> Option<Tick> {
        match self {
            Phase::Spawning { give_up } => Some(give_up),
            Phase::Launching { ready_by } => Some(ready_by),
            Phase::Online { .. } => None,
            Phase::Cancelled(killing) | Phase::Stopping(killing) => Some(killing.at),
        }
    }

    pub(crate) fn is_online(self) -> bool {
        match self {
            Phase::Online { .. } => true,
            Phase::Spawning { .. } | Phase::Launching { .. } | Phase::Cancelled(_) | Phase::Stopping(_) => {
                false
            }
        }
    }

    /// Was it asked to end?
    pub(crate) fn is_ending(self) -> bool {
        match self {
            Phase::Cancelled(_) | Phase::Stopping(_) => true,
            Phase::Spawning { .. } | Phase::Launching { .. } | Phase::Online { .. } => false,
        }
    }
}

impl Worker {
    /// Its life, if it ended now.
    pub(crate) fn life(&self, now: Tick) -> Life {
        match self.phase {
            Phase::Online { since, .. } => Life::Ready {
                uptime: now - self.spawned.unwrap_or(since),
                online: now - since,
            },
            Phase::Spawning { .. } | Phase::Launching { .. } | Phase::Cancelled(_) | Phase::Stopping(_) => {
                Life::NeverReady
            }
        }
    }
}
