//! Workers: supervised processes, from the wish to spawn one to the end of its whole tree.
//!
//! Workers have a table of their own, apart from instances: during a reload an instance has more than one.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::proof::Footprint;
use crate::protocol::{AppConfig, Readiness};
use crate::restart::Life;
use crate::slot::Role;
use crate::{Generation, GroupId, InstanceId, Tick};

/// One supervised process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    /// The configuration it was started with.
    pub(crate) config: Arc<AppConfig>,
    /// When its process began to run.
    pub(crate) spawned: Option<Tick>,
    /// It has answered a probe, so it will again unless it is frozen.
    pub(crate) answers: bool,
    /// It gave the word that its readiness waits for.
    pub(crate) heard: bool,
    /// What it opened early in its life.
    pub(crate) footprint: Footprint,
    /// The shared sockets that it uses.
    pub(crate) shared: BTreeSet<GroupId>,
    /// It was told to close its listeners.
    pub(crate) refuses: bool,
    /// But not those of the clients that it has.
    #[serde(default)]
    pub(crate) keeps: bool,
    pub(crate) health: Health,
    pub(crate) duty: Duty,
    pub(crate) phase: Phase,
}

/// What is known of its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Health {
    /// Nobody has asked.
    Unasked,
    /// It is being asked.
    Asked,
    /// It has answered as it should.
    Good,
}

/// What it is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Duty {
    /// Its instance's own worker.
    Serve,
    /// Started by a reload beside the instance's own worker, and not proved yet.
    Prove,
    /// Replaced by a reload that may still be undone.
    StandBy { since: Tick },
    /// It leaves, and nobody inherits from it.
    Retire { since: Tick },
}

impl Duty {
    pub(crate) fn is_retire(self) -> bool {
        match self {
            Duty::Retire { .. } => true,
            Duty::Serve | Duty::Prove | Duty::StandBy { .. } => false,
        }
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Asked for; the shell has not answered yet.
    Spawning { give_up: Tick },
    /// It runs and is not ready.
    Launching { ready_by: Tick },
    /// It is ready. `silent`: it listens on nothing.
    Online { since: Tick, silent: bool },
    /// It finishes what it has begun.
    Draining { until: Tick },
    /// It shall end, and has no process yet that could be told.
    Cancelled(Killing),
    /// It was told to end.
    Stopping(Killing),
}

/// When SIGKILL is sent, and how long after that once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
            Phase::Draining { until } => Some(until),
            Phase::Cancelled(killing) | Phase::Stopping(killing) => Some(killing.at),
        }
    }

    pub(crate) fn is_online(self) -> bool {
        match self {
            Phase::Online { .. } => true,
            Phase::Spawning { .. }
            | Phase::Launching { .. }
            | Phase::Draining { .. }
            | Phase::Cancelled(_)
            | Phase::Stopping(_) => false,
        }
    }

    /// Was it asked to end?
    pub(crate) fn is_ending(self) -> bool {
        match self {
            Phase::Cancelled(_) | Phase::Stopping(_) => true,
            Phase::Spawning { .. }
            | Phase::Launching { .. }
            | Phase::Online { .. }
            | Phase::Draining { .. } => false,
        }
    }
}

/// A program that may have no port at all, and has none after this time, is taken to be ready if it lives: what cannot start
/// (a syntax error, a module or a variable that is missing, a port that is taken) ends sooner.
const LIVES: Duration = Duration::from_secs(1);

impl Worker {
    /// From its spawn; at the end of that it is ready because it lives, or has failed. `silent`: the worker before it was ready and
    /// listened on nothing.
    pub(crate) fn time_to_be_ready(&self, silent: bool) -> Duration {
        let policy = &self.config.policy;
        match self.config.readiness {
            Readiness::Runs => policy.listen_timeout.min(LIVES),
            Readiness::Executed => policy.listen_timeout,
            Readiness::Listens if silent => policy.listen_timeout,
            Readiness::Listens | Readiness::Announces => policy.start_timeout,
        }
    }

    /// Is it ready at the end of that because it lives?
    pub(crate) fn is_ready_by_living(&self) -> bool {
        let waits = matches!(self.phase, Phase::Launching { .. }) && self.duty != Duty::Prove;
        waits && self.config.readiness == Readiness::Runs
    }

    /// Is it waited for because it should listen?
    pub(crate) fn should_listen(&self) -> bool {
        let waits = matches!(self.phase, Phase::Launching { .. }) && self.duty != Duty::Prove;
        waits && self.config.readiness == Readiness::Listens
    }

    /// It has lived longer than programs usually take to listen.
    fn is_late(&self, now: Tick) -> bool {
        self.spawned
            .is_some_and(|spawned| now - spawned >= self.config.policy.listen_timeout)
    }

    /// Its life, if it ended now.
    pub(crate) fn life(&self, now: Tick) -> Life {
        match self.phase {
            Phase::Online { since, .. } => Life::Ready {
                uptime: now - self.spawned.unwrap_or(since),
                online: now - since,
            },
            // It may be one that will never listen.
            Phase::Launching { .. } if self.config.readiness == Readiness::Listens && self.is_late(now) => {
                let uptime = now - self.spawned.unwrap_or(now);
                Life::Ready {
                    uptime,
                    online: uptime.saturating_sub(self.config.policy.listen_timeout),
                }
            }
            // Nothing but living was wanted of it: it has done that so long.
            Phase::Launching { .. } if self.config.readiness == Readiness::Runs => {
                let uptime = now - self.spawned.unwrap_or(now);
                Life::Ready {
                    uptime,
                    online: uptime,
                }
            }
            Phase::Spawning { .. }
            | Phase::Launching { .. }
            | Phase::Draining { .. }
            | Phase::Cancelled(_)
            | Phase::Stopping(_) => Life::NeverReady,
        }
    }

    /// What it is to steering; `None`: it does not serve.
    pub(crate) fn role(&self) -> Option<Role> {
        match (self.phase, self.duty) {
            (Phase::Online { .. }, Duty::Serve) => Some(Role::Active),
            (Phase::Online { .. }, Duty::StandBy { .. }) => Some(Role::Warm),
            (Phase::Draining { .. }, Duty::Retire { .. }) => Some(Role::Draining),
            (Phase::Online { .. }, Duty::Prove | Duty::Retire { .. })
            | (Phase::Draining { .. }, Duty::Serve | Duty::Prove | Duty::StandBy { .. })
            | (
                Phase::Spawning { .. } | Phase::Launching { .. } | Phase::Cancelled(_) | Phase::Stopping(_),
                Duty::Serve | Duty::Prove | Duty::StandBy { .. } | Duty::Retire { .. },
            ) => None,
        }
    }
}
