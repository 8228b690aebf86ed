//! A worker in the format before the present one: a duty and a phase, of which not all combinations occur.

use std::time::Duration;

use rpm_core::snapshot::{Candidate, Health, Intake, Kill, Place, Post, Snapshot, Worker, WorkerState};
use rpm_core::{GroupId, Tick, WorkerId};
use rpm_state::{ReadError, read_state, seal};
use serde_json::{Value, json};

fn at(s: u64) -> Tick {
    Tick(Duration::from_secs(s))
}

fn tick(s: u64) -> Value {
    json!({"secs": s, "nanos": 0})
}

fn config() -> Value {
    let none = tick(0);
    json!({
        "revision": 1, "instances": 1, "readiness": "Listens", "parallel": 0, "max_surge": null, "max_unavailable": 0,
        "allow_port_change": false, "health_check": false,
        "policy": {
            "autorestart": true, "max_restarts": 16, "min_uptime": none, "restart_delay": none, "exp_backoff": null,
            "kill_timeout": none, "listen_timeout": none, "reload_timeout": none, "drain_timeout": none, "watch_after": none,
        },
    })
}

/// A worker as the program before this one wrote it.
fn written(spawned: Option<u64>, duty: &Value, phase: &Value) -> Value {
    json!({
        "instance": 3, "generation": 2, "config": config(),
        "spawned": spawned.map(tick), "answers": true, "heard": true,
        "footprint": {"first": tick(1), "groups": [4]}, "shared": [5],
        "refuses": true, "keeps": false, "health": "Asked", "duty": duty, "phase": phase,
    })
}

/// What is read of it, in a state that has nothing else.
fn read(worker: &Value) -> Result<Worker, ReadError> {
    let core = json!({
        "apps": {}, "instances": {}, "workers": {"7": worker}, "next_instance": 4, "next_worker": 8, "timers": [[{"Unclaimed": 7}, tick(6)]],
        "steering": {"slots": {}}, "lingering": [],
    });
    let listeners = json!({"groups": [], "shared": [], "next_group": 0, "next_slot": 0, "counts": []});
    let text = format!(
        "{{\"format\":3,\"version\":\"0.1.0\",\"boot_id\":\"\",\"origin\":{},\"core\":{core},\"workers\":[],\"listeners\":{listeners},\
         \"next_app\":0,\"next_ticket\":0,\"rescues\":0}}",
        tick(0)
    );
    let state = read_state(&seal(text.as_bytes()))?;
    let snapshot = Snapshot::from(state.core);
    Ok(snapshot.workers[&WorkerId(7)].clone())
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
fn what_the_program_before_wrote_is_read() {
    let mut count = 0;
    for (duty, phase, wanted) in combinations() {
        let runs = !(phase.get("Spawning").is_some() || phase.get("Cancelled").is_some());
        let worker = read(&written(runs.then_some(1), &duty, &phase));
        assert_eq!(worker.as_ref().ok().map(|it| it.state), wanted, "{duty} {phase}");
        let Ok(worker) = worker else { continue };
        count += 1;
        assert!(
            worker.answers && worker.shared.contains(&GroupId(5)),
            "{worker:?}"
        );
        assert!(worker.early_addresses.groups.contains(&GroupId(4)), "{worker:?}");
        assert_eq!((worker.unclaimed_until, worker.drained), (Some(at(6)), false));
    }
    assert_eq!(
        count, 13,
        "of 24 combinations of a duty and a phase so many occur"
    );
}

#[test]
fn a_process_that_cannot_be_is_an_error() {
    for (duty, phase, _) in combinations() {
        let runs = phase.get("Spawning").is_some() || phase.get("Cancelled").is_some();
        let error = read(&written(runs.then_some(1), &duty, &phase)).expect_err("no worker is so");
        assert!(error.to_string().contains("stored state"), "{error}");
    }
}
