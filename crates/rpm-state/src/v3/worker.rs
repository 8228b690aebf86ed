//! A worker, as the format before the present one has it: its state is a duty, a phase and some flags beside them. Combinations that are no
//! state of a worker were never written, and are an error.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use super::core::{AppConfig, EarlyAddresses};
use crate::convert::Convert;
use crate::v4::Nanos;
use crate::v4::core as new;
use crate::v4::core::{Candidate, Health, Intake, Kill, Place, Post, WorkerState};

#[derive(Deserialize)]
pub(super) struct Worker {
    instance: u32,
    generation: u32,
    pub(super) config: AppConfig,
    spawned: Option<Duration>,
    answers: bool,
    heard: bool,
    footprint: EarlyAddresses,
    shared: BTreeSet<u32>,
    refuses: bool,
    #[serde(default)]
    keeps: bool,
    health: Health,
    duty: Duty,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Duty {
    Serve,
    Prove,
    StandBy { since: Duration },
    Retire { since: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Phase {
    Spawning { give_up: Duration },
    Launching { ready_by: Duration },
    Online { since: Duration, silent: bool },
    Draining { until: Duration },
    Cancelled(StoredKill),
    Stopping(StoredKill),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct StoredKill {
    at: Duration,
    again: Duration,
}

/// A state that no worker is ever in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker cannot be in the stored state {duty}, {phase}, spawned at {spawned:?}")]
pub struct Impossible {
    duty: String,
    phase: String,
    spawned: Option<Duration>,
}

impl Duty {
    fn post(self) -> Option<Post> {
        match self {
            Duty::Serve => Some(Post::Own),
            Duty::StandBy { since } => Some(Post::Standby { since: since.into() }),
            Duty::Prove | Duty::Retire { .. } => None,
        }
    }

    fn place(self) -> Option<Place> {
        match self {
            Duty::Serve => Some(Place::Own),
            Duty::Retire { since } => Some(Place::Left { since: since.into() }),
            Duty::Prove | Duty::StandBy { .. } => None,
        }
    }
}

impl Worker {
    fn state(&self) -> Option<WorkerState> {
        let post = self.duty.post();
        let place = self.duty.place();
        match (self.phase, self.spawned.map(Nanos::from)) {
            (Phase::Spawning { give_up }, None) => {
                let give_up = give_up.into();
                match self.duty == Duty::Prove {
                    true => Some(WorkerState::CandidateSpawning { give_up }),
                    false => post.map(|post| WorkerState::Spawning { post, give_up }),
                }
            }
            (Phase::Launching { ready_by }, Some(spawned)) => self.launching(spawned, ready_by.into()),
            (Phase::Online { since, silent }, Some(spawned)) => post.map(|post| WorkerState::Ready {
                post,
                spawned,
                since: since.into(),
                silent,
            }),
            (Phase::Draining { until }, Some(spawned)) => self.draining(spawned, until.into()),
            (Phase::Cancelled(kill), None) => place.map(|place| WorkerState::Cancelled {
                place,
                kill: kill.into(),
            }),
            (Phase::Stopping(kill), Some(spawned)) => place.map(|place| WorkerState::Terminating {
                spawned,
                place,
                kill: kill.into(),
            }),
            (Phase::Spawning { .. } | Phase::Cancelled(_), Some(_))
            | (
                Phase::Launching { .. } | Phase::Online { .. } | Phase::Draining { .. } | Phase::Stopping(_),
                None,
            ) => None,
        }
    }

    fn launching(&self, spawned: Nanos, ready_by: Nanos) -> Option<WorkerState> {
        if self.duty == Duty::Prove {
            return Some(WorkerState::Candidate(Candidate {
                spawned,
                review_at: ready_by,
                signalled: self.heard,
                health: self.health,
            }));
        }
        self.duty.post().map(|post| WorkerState::Starting {
            post,
            spawned,
            ready_by,
        })
    }

    fn draining(&self, spawned: Nanos, until: Nanos) -> Option<WorkerState> {
        let intake = match self.refuses {
            true => Intake::Refusing { keeps: self.keeps },
            false => Intake::Open,
        };
        match self.duty {
            Duty::Retire { since } => Some(WorkerState::Draining {
                spawned,
                since: since.into(),
                until,
                intake,
            }),
            Duty::Serve | Duty::Prove | Duty::StandBy { .. } => None,
        }
    }
}

impl From<StoredKill> for Kill {
    fn from(old: StoredKill) -> Kill {
        Kill {
            at: old.at.into(),
            again: old.again.into(),
        }
    }
}

/// All but what is not in it: its configuration, which is another's, too, and what timers and sets beside it say.
impl TryFrom<Worker> for new::Worker {
    type Error = Impossible;

    fn try_from(old: Worker) -> Result<new::Worker, Impossible> {
        let state = old.state().ok_or_else(|| Impossible {
            duty: format!("{:?}", old.duty),
            phase: format!("{:?}", old.phase),
            spawned: old.spawned,
        })?;
        Ok(new::Worker {
            instance: old.instance,
            generation: old.generation,
            config: 0,
            state,
            answers: old.answers,
            early_addresses: old.footprint.convert(),
            shared: old.shared,
            unclaimed_until: None,
            drained: false,
        })
    }
}
