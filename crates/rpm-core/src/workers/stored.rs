//! How a worker is stored: as daemons before this one read and write it, so that either version takes over from the other.
//!
//! There a state is a duty, a phase and some flags beside them. Combinations that are no [`WorkerState`] are never written, and are
//! an error when read.

use alloc::borrow::Cow;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Candidate, Health, Intake, Kill, Place, Post, Worker, WorkerState};
use crate::footprint::Footprint;
use crate::protocol::AppConfig;
use crate::{Generation, GroupId, InstanceId, Tick};

#[derive(Serialize, Deserialize)]
struct StoredWorker<'a> {
    instance: InstanceId,
    generation: Generation,
    config: Cow<'a, Arc<AppConfig>>,
    spawned: Option<Tick>,
    answers: bool,
    heard: bool,
    footprint: Cow<'a, Footprint>,
    shared: Cow<'a, BTreeSet<GroupId>>,
    refuses: bool,
    #[serde(default)]
    keeps: bool,
    health: StoredHealth,
    duty: Duty,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum StoredHealth {
    Unasked,
    Asked,
    Good,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Duty {
    Serve,
    Prove,
    StandBy { since: Tick },
    Retire { since: Tick },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Spawning { give_up: Tick },
    Launching { ready_by: Tick },
    Online { since: Tick, silent: bool },
    Draining { until: Tick },
    Cancelled(StoredKill),
    Stopping(StoredKill),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredKill {
    at: Tick,
    again: Duration,
}

/// A state that no worker is ever in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker cannot be in the stored state {duty:?}, {phase:?}, spawned at {spawned:?}")]
struct Impossible {
    duty: Duty,
    phase: Phase,
    spawned: Option<Tick>,
}

/// The stored form of a state.
#[derive(Clone, Copy)]
struct Flat {
    spawned: Option<Tick>,
    heard: bool,
    refuses: bool,
    keeps: bool,
    health: StoredHealth,
    duty: Duty,
    phase: Phase,
}

impl From<WorkerState> for Flat {
    fn from(state: WorkerState) -> Flat {
        let plain = |duty, phase| Flat {
            spawned: state.spawned(),
            heard: false,
            refuses: false,
            keeps: false,
            health: StoredHealth::Unasked,
            duty,
            phase,
        };
        match state {
            WorkerState::Spawning { post, give_up } => plain(post.into(), Phase::Spawning { give_up }),
            WorkerState::Starting { post, ready_by, .. } => plain(post.into(), Phase::Launching { ready_by }),
            WorkerState::Ready {
                post, since, silent, ..
            } => plain(post.into(), Phase::Online { since, silent }),
            WorkerState::CandidateSpawning { give_up } => plain(Duty::Prove, Phase::Spawning { give_up }),
            WorkerState::Candidate(Candidate {
                review_at,
                signalled,
                health,
                ..
            }) => Flat {
                heard: signalled,
                health: health.into(),
                ..plain(Duty::Prove, Phase::Launching { ready_by: review_at })
            },
            WorkerState::Draining {
                since, until, intake, ..
            } => Flat {
                refuses: intake != Intake::Open,
                keeps: intake == Intake::Refusing { keeps: true },
                ..plain(Duty::Retire { since }, Phase::Draining { until })
            },
            WorkerState::Cancelled { place, kill } => plain(place.into(), Phase::Cancelled(kill.into())),
            WorkerState::Terminating { place, kill, .. } => plain(place.into(), Phase::Stopping(kill.into())),
        }
    }
}

impl TryFrom<Flat> for WorkerState {
    type Error = Impossible;

    fn try_from(flat: Flat) -> Result<WorkerState, Impossible> {
        let Flat {
            spawned, duty, phase, ..
        } = flat;
        let impossible = Impossible { duty, phase, spawned };
        let post = match duty {
            Duty::Serve => Some(Post::Own),
            Duty::StandBy { since } => Some(Post::Standby { since }),
            Duty::Prove | Duty::Retire { .. } => None,
        };
        let place = match duty {
            Duty::Serve => Some(Place::Own),
            Duty::Retire { since } => Some(Place::Left { since }),
            Duty::Prove | Duty::StandBy { .. } => None,
        };
        let state = match (phase, spawned) {
            (Phase::Spawning { give_up }, None) if duty == Duty::Prove => {
                Some(WorkerState::CandidateSpawning { give_up })
            }
            (Phase::Spawning { give_up }, None) => post.map(|post| WorkerState::Spawning { post, give_up }),
            (Phase::Launching { ready_by }, Some(spawned)) if duty == Duty::Prove => {
                Some(WorkerState::Candidate(Candidate {
                    spawned,
                    review_at: ready_by,
                    signalled: flat.heard,
                    health: flat.health.into(),
                }))
            }
            (Phase::Launching { ready_by }, Some(spawned)) => post.map(|post| WorkerState::Starting {
                post,
                spawned,
                ready_by,
            }),
            (Phase::Online { since, silent }, Some(spawned)) => post.map(|post| WorkerState::Ready {
                post,
                spawned,
                since,
                silent,
            }),
            (Phase::Draining { until }, Some(spawned)) => flat.draining(spawned, until),
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
        };
        state.ok_or(impossible)
    }
}

impl Flat {
    fn draining(self, spawned: Tick, until: Tick) -> Option<WorkerState> {
        let intake = match self.refuses {
            true => Intake::Refusing { keeps: self.keeps },
            false => Intake::Open,
        };
        match self.duty {
            Duty::Retire { since } => Some(WorkerState::Draining {
                spawned,
                since,
                until,
                intake,
            }),
            Duty::Serve | Duty::Prove | Duty::StandBy { .. } => None,
        }
    }
}

impl Serialize for Worker {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Flat {
            spawned,
            heard,
            refuses,
            keeps,
            health,
            duty,
            phase,
        } = self.state.into();
        let stored = StoredWorker {
            instance: self.instance,
            generation: self.generation,
            config: Cow::Borrowed(&self.config),
            spawned,
            answers: self.answers,
            heard,
            footprint: Cow::Borrowed(&self.footprint),
            shared: Cow::Borrowed(&self.shared),
            refuses,
            keeps,
            health,
            duty,
            phase,
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Worker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Worker, D::Error> {
        let stored = StoredWorker::deserialize(deserializer)?;
        let flat = Flat {
            spawned: stored.spawned,
            heard: stored.heard,
            refuses: stored.refuses,
            keeps: stored.keeps,
            health: stored.health,
            duty: stored.duty,
            phase: stored.phase,
        };
        Ok(Worker {
            instance: stored.instance,
            generation: stored.generation,
            config: stored.config.into_owned(),
            answers: stored.answers,
            footprint: stored.footprint.into_owned(),
            shared: stored.shared.into_owned(),
            state: flat.try_into().map_err(de::Error::custom)?,
        })
    }
}

impl From<Post> for Duty {
    fn from(post: Post) -> Duty {
        match post {
            Post::Own => Duty::Serve,
            Post::Standby { since } => Duty::StandBy { since },
        }
    }
}

impl From<Place> for Duty {
    fn from(place: Place) -> Duty {
        match place {
            Place::Own => Duty::Serve,
            Place::Left { since } => Duty::Retire { since },
        }
    }
}

impl From<Kill> for StoredKill {
    fn from(Kill { at, again }: Kill) -> StoredKill {
        StoredKill { at, again }
    }
}

impl From<StoredKill> for Kill {
    fn from(StoredKill { at, again }: StoredKill) -> Kill {
        Kill { at, again }
    }
}

impl From<Health> for StoredHealth {
    fn from(health: Health) -> StoredHealth {
        match health {
            Health::Unasked => StoredHealth::Unasked,
            Health::Asked => StoredHealth::Asked,
            Health::Good => StoredHealth::Good,
        }
    }
}

impl From<StoredHealth> for Health {
    fn from(health: StoredHealth) -> Health {
        match health {
            StoredHealth::Unasked => Health::Unasked,
            StoredHealth::Asked => Health::Asked,
            StoredHealth::Good => Health::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(s: u64) -> Tick {
        Tick(Duration::from_secs(s))
    }

    fn tick(s: u64) -> Value {
        json!({"secs": s, "nanos": 0})
    }

    /// A worker as the daemon before this one wrote it.
    fn written(spawned: Option<u64>, duty: &Value, phase: &Value) -> Value {
        json!({
            "instance": 3, "generation": 2, "config": serde_json::to_value(AppConfig::default()).unwrap(),
            "spawned": spawned.map(tick), "answers": true, "heard": true,
            "footprint": {"first": tick(1), "groups": [4]}, "shared": [5],
            "refuses": true, "keeps": false, "health": "Asked", "duty": duty, "phase": phase,
        })
    }

    /// Every duty and every phase of the stored form, and what they are together.
    fn combinations() -> Vec<(Value, Value, Option<WorkerState>)> {
        let kill = Kill {
            at: at(9),
            again: Duration::from_secs(2),
        };
        let (post, place) = (
            [Post::Own, Post::Standby { since: at(7) }],
            [Place::Own, Place::Left { since: at(8) }],
        );
        let spawned = at(1);
        let stored_kill = json!({"at": tick(9), "again": {"secs": 2, "nanos": 0}});
        let candidate = Candidate {
            spawned,
            review_at: at(9),
            signalled: true,
            health: Health::Asked,
        };
        let duties = [
            (json!("Serve"), Some(post[0]), Some(place[0])),
            (json!("Prove"), None, None),
            (json!({"StandBy": {"since": tick(7)}}), Some(post[1]), None),
            (json!({"Retire": {"since": tick(8)}}), None, Some(place[1])),
        ];
        let mut all = Vec::new();
        for (duty, post, place) in duties {
            let spawning = match duty == "Prove" {
                true => Some(WorkerState::CandidateSpawning { give_up: at(9) }),
                false => post.map(|post| WorkerState::Spawning { post, give_up: at(9) }),
            };
            let ready_by = at(9);
            let launching = match duty == "Prove" {
                true => Some(WorkerState::Candidate(candidate)),
                false => post.map(|post| WorkerState::Starting {
                    post,
                    spawned,
                    ready_by,
                }),
            };
            let since = at(5);
            let online = post.map(|post| WorkerState::Ready {
                post,
                spawned,
                since,
                silent: true,
            });
            let draining = (place == Some(Place::Left { since: at(8) })).then_some(WorkerState::Draining {
                spawned,
                since: at(8),
                until: at(9),
                intake: Intake::Refusing { keeps: false },
            });
            let cancelled = place.map(|place| WorkerState::Cancelled { place, kill });
            let stopping = place.map(|place| WorkerState::Terminating { spawned, place, kill });
            all.extend([
                (duty.clone(), json!({"Spawning": {"give_up": tick(9)}}), spawning),
                (
                    duty.clone(),
                    json!({"Launching": {"ready_by": tick(9)}}),
                    launching,
                ),
                (
                    duty.clone(),
                    json!({"Online": {"since": tick(5), "silent": true}}),
                    online,
                ),
                (duty.clone(), json!({"Draining": {"until": tick(9)}}), draining),
                (duty.clone(), json!({"Cancelled": stored_kill}), cancelled),
                (duty, json!({"Stopping": stored_kill}), stopping),
            ]);
        }
        all
    }

    #[test]
    fn what_the_daemon_before_wrote_is_read_and_written_as_it_was() {
        let mut read = 0;
        for (duty, phase, wanted) in combinations() {
            let runs = !(phase.get("Spawning").is_some() || phase.get("Cancelled").is_some());
            let stored = written(runs.then_some(1), &duty, &phase);
            let worker = serde_json::from_value::<Worker>(stored.clone());
            assert_eq!(worker.as_ref().ok().map(|it| it.state), wanted, "{duty} {phase}");
            let Ok(worker) = worker else { continue };
            read += 1;
            assert!(worker.answers && worker.shared == BTreeSet::from([GroupId(5)]));
            let again = serde_json::to_value(&worker).expect("it can be written");
            for key in ["instance", "generation", "config", "spawned", "footprint"] {
                assert_eq!(again[key], stored[key], "{key} of {duty} {phase}");
            }
            assert_eq!((&again["duty"], &again["phase"]), (&duty, &phase));
            let same: Worker = serde_json::from_value(again).expect("it can be read");
            assert_eq!(same.state, worker.state);
        }
        assert_eq!(read, 13, "of 24 combinations of a duty and a phase so many occur");
    }

    #[test]
    fn a_process_that_cannot_be_is_an_error() {
        for (duty, phase, _) in combinations() {
            let runs = phase.get("Spawning").is_some() || phase.get("Cancelled").is_some();
            let stored = written(runs.then_some(1), &duty, &phase);
            let error = serde_json::from_value::<Worker>(stored).expect_err("no worker is so");
            assert!(error.to_string().contains("stored state"), "{error}");
        }
    }
}
