//! The state of a worker: one enum, whose variants own what is valid in them.
//!
//! ```text
//!  own worker or standby                     candidate of a reload
//!   Spawning ─► Starting ─► Ready ◄────────── Candidate ◄── CandidateSpawning
//!      │            │         │ drain              │                │
//!      │            │         ▼                    │                │
//!      │            │      Draining                │                │
//!      │            └─────────┴────► Terminating ◄─┘                │
//!      └──────────► Cancelled ────────────┘▲                        │
//!                       └──────────────────┴── (its process runs) ◄─┘
//! ```
//!
//! A worker is forgotten, in any state, when its process tree is gone. `CandidateSpawning` is cancelled in the same way as `Spawning`.

use core::time::Duration;

use crate::Tick;
use crate::steering::Role;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// The shell was asked for its process and has not answered yet.
    Spawning {
        /// What it is there for.
        post: Post,
        /// When the shell is no longer waited for.
        give_up: Tick,
    },
    /// Its process runs, and is not ready.
    Starting {
        /// What it is there for.
        post: Post,
        /// When its process began to run.
        spawned: Tick,
        /// When it is ready, or has failed, at the latest.
        ready_by: Tick,
    },
    /// It is ready.
    Ready {
        /// What it is there for.
        post: Post,
        /// When its process began to run.
        spawned: Tick,
        /// When it became ready.
        since: Tick,
        /// It listens on nothing.
        silent: bool,
    },
    /// As `Spawning`: a reload has started it beside its instance's own worker.
    CandidateSpawning {
        /// When the shell is no longer waited for.
        give_up: Tick,
    },
    /// Its process runs, and has not shown yet that it may take over.
    Candidate(Candidate),
    /// It was replaced, or its instance stops: it finishes its requests.
    Draining {
        /// When its process began to run.
        spawned: Tick,
        /// Since when it drains.
        since: Tick,
        /// When it is terminated at the latest.
        until: Tick,
        /// Whether it takes new clients.
        intake: Intake,
    },
    /// It must end, and has no process yet that could get the signal.
    Cancelled {
        /// Whether it is still its instance's own.
        place: Place,
        /// When it is killed, once it has a process.
        kill: Kill,
    },
    /// Its process was sent the signal to end.
    Terminating {
        /// When its process began to run.
        spawned: Tick,
        /// Whether it is still its instance's own.
        place: Place,
        /// When it is killed.
        kill: Kill,
    },
}

/// What is known of a candidate with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// When its process began to run.
    pub spawned: Tick,
    /// When it is reviewed again.
    pub review_at: Tick,
    /// It gave the signal that its readiness waits for.
    pub signalled: bool,
    /// Whether it answers its health check.
    pub health: Health,
}

/// The post of a worker that is not leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Post {
    /// It is its instance's own worker.
    Own,
    /// It was replaced by a reload that may still be undone.
    Standby {
        /// When.
        since: Tick,
    },
}

/// Whether a terminated worker is still its instance's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is: the instance's next worker inherits its slots.
    Own,
    /// It has left its instance: its slots are closed when it is gone.
    Left {
        /// When.
        since: Tick,
    },
}

/// Whether a draining worker accepts new clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// It does: a connection may be on its way to it.
    Open,
    /// It was asked to close its listeners.
    Refusing {
        /// The clients that it has need not hurry away.
        keeps: bool,
    },
}

/// What is known of a candidate's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The shell was not asked to check it.
    Unasked,
    /// It is being checked.
    Asked,
    /// It has passed its health check.
    Good,
}

/// When to send SIGKILL, and how long after that again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// When.
    pub at: Tick,
    /// How long after that again.
    pub again: Duration,
}

/// The part of a worker in its instance, in any state of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Own,
    Candidate,
    Standby { since: Tick },
    Leaving { since: Tick },
}

impl From<Post> for Part {
    fn from(post: Post) -> Part {
        match post {
            Post::Own => Part::Own,
            Post::Standby { since } => Part::Standby { since },
        }
    }
}

impl From<Place> for Part {
    fn from(place: Place) -> Part {
        match place {
            Place::Own => Part::Own,
            Place::Left { since } => Part::Leaving { since },
        }
    }
}

impl WorkerState {
    pub(crate) fn part(self) -> Part {
        match self {
            WorkerState::Spawning { post, .. }
            | WorkerState::Starting { post, .. }
            | WorkerState::Ready { post, .. } => post.into(),
            WorkerState::CandidateSpawning { .. } | WorkerState::Candidate { .. } => Part::Candidate,
            WorkerState::Draining { since, .. } => Part::Leaving { since },
            WorkerState::Cancelled { place, .. } | WorkerState::Terminating { place, .. } => place.into(),
        }
    }

    /// When its process began to run; `None` if it does not run yet.
    pub(crate) fn spawned(self) -> Option<Tick> {
        match self {
            WorkerState::Spawning { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Cancelled { .. } => None,
            WorkerState::Starting { spawned, .. }
            | WorkerState::Ready { spawned, .. }
            | WorkerState::Candidate(Candidate { spawned, .. })
            | WorkerState::Draining { spawned, .. }
            | WorkerState::Terminating { spawned, .. } => Some(spawned),
        }
    }

    /// The deadline of the state. Every state but `Ready` has one.
    pub(crate) fn deadline(self) -> Option<Tick> {
        match self {
            WorkerState::Spawning { give_up, .. } | WorkerState::CandidateSpawning { give_up } => {
                Some(give_up)
            }
            WorkerState::Starting { ready_by, .. } => Some(ready_by),
            WorkerState::Ready { .. } => None,
            WorkerState::Candidate(Candidate { review_at, .. }) => Some(review_at),
            WorkerState::Draining { until, .. } => Some(until),
            WorkerState::Cancelled { kill, .. } | WorkerState::Terminating { kill, .. } => Some(kill.at),
        }
    }

    pub(crate) fn is_ready(self) -> bool {
        match self {
            WorkerState::Ready { .. } => true,
            WorkerState::Spawning { .. }
            | WorkerState::Starting { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => false,
        }
    }

    /// It was never ready, and nothing asks it to end.
    pub(crate) fn is_starting(self) -> bool {
        match self {
            WorkerState::Spawning { .. }
            | WorkerState::Starting { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Candidate { .. } => true,
            WorkerState::Ready { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => false,
        }
    }

    /// It was sent the signal to end, or gets it as soon as it has a process.
    pub(crate) fn is_terminated(self) -> bool {
        match self {
            WorkerState::Cancelled { .. } | WorkerState::Terminating { .. } => true,
            WorkerState::Spawning { .. }
            | WorkerState::Starting { .. }
            | WorkerState::Ready { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Draining { .. } => false,
        }
    }

    /// It has no part in its instance any more, and nothing inherits its slots.
    pub(crate) fn is_leaving(self) -> bool {
        match self.part() {
            Part::Leaving { .. } => true,
            Part::Own | Part::Candidate | Part::Standby { .. } => false,
        }
    }

    /// Its role in steering; `None` if it does not accept.
    pub(crate) fn role(self) -> Option<Role> {
        match self {
            WorkerState::Ready { post: Post::Own, .. } => Some(Role::Active),
            WorkerState::Ready {
                post: Post::Standby { .. },
                ..
            } => Some(Role::Standby),
            WorkerState::Draining { .. } => Some(Role::Draining),
            WorkerState::Spawning { .. }
            | WorkerState::Starting { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => None,
        }
    }

    /// The same state with another post. A candidate or leaving worker has no post, and does not change.
    pub(crate) fn at_post(self, new: Post) -> WorkerState {
        match self {
            WorkerState::Spawning { give_up, .. } => WorkerState::Spawning { post: new, give_up },
            WorkerState::Starting {
                spawned, ready_by, ..
            } => WorkerState::Starting {
                post: new,
                spawned,
                ready_by,
            },
            WorkerState::Ready {
                spawned,
                since,
                silent,
                ..
            } => WorkerState::Ready {
                post: new,
                spawned,
                since,
                silent,
            },
            WorkerState::CandidateSpawning { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => self,
        }
    }
}
