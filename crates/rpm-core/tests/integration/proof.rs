//! Proof: what shows that the new worker of a reload may take over.

use crate::common::rollout::{
    DRAINING, beginning, failed, failure_of, is_ready, leaving, prove, reload, reload_with, undone,
};
use crate::common::{GROUP, Rig, instances, ms, slots, terminate};
use rpm_core::protocol::{AppConfig, Failure, Input, Outcome, Output, Readiness, RestartPolicy};
use rpm_core::{GroupId, SlotId, Ticket, WorkerId};

const OTHER: GroupId = GroupId(1);

fn hold_in(rig: &mut Rig, group: GroupId, slot: u32, worker: u64, fixed: bool) -> Vec<Output> {
    let (slot, worker) = (SlotId(slot), WorkerId(worker));
    rig.input(Input::SlotHeld {
        slot,
        group,
        worker,
        fixed,
    })
}

#[test]
fn a_candidate_that_does_not_listen_in_time_undoes_the_reload() {
    let mut rig = beginning(RestartPolicy::default());
    assert_eq!(rig.pass(ms(29_999)), vec![]);
    let why = Failure::Unserved {
        within: ms(30_000),
        group: GROUP,
    };
    let wanted = vec![undone(failure_of(0, 2, why)), terminate(2), failed(2, 0, 2, why)];
    assert_eq!(rig.pass(ms(1)), wanted);
}

#[test]
fn it_must_serve_what_its_predecessor_opened_at_its_start() {
    // What the old worker also holds (fixed, after how many ms), and whether the new one must too.
    let cases = [
        (true, 0, true),
        (true, 2999, true),
        (true, 3001, false),
        (false, 0, false),
    ];
    for (fixed, after, required) in cases {
        let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
        rig.take_slot(0, 1);
        rig.pass(ms(after));
        hold_in(&mut rig, OTHER, 1, 1, fixed);
        reload(&mut rig);
        prove(&mut rig, 10, 2);
        assert_eq!(is_ready(&rig, 2), !required, "fixed {fixed}, after {after} ms");
        hold_in(&mut rig, OTHER, 11, 2, fixed);
        assert!(is_ready(&rig, 2));
    }
}

#[test]
fn a_slow_start_is_measured_from_the_first_thing_it_opened() {
    for (after, required) in [(2999, true), (3001, false)] {
        let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
        rig.pass(ms(5000));
        assert!(!is_ready(&rig, 1), "silent until now");
        rig.take_slot(0, 1);
        rig.pass(ms(after));
        hold_in(&mut rig, OTHER, 1, 1, true);
        reload(&mut rig);
        rig.spawned(2);
        rig.pass(ms(5000));
        assert!(!is_ready(&rig, 2), "its predecessor listened in the end");
        rig.take_slot(10, 2);
        assert_eq!(is_ready(&rig, 2), !required, "after {after} ms");
    }
}

#[test]
fn shared_sockets_count_and_what_was_closed_does_not() {
    let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
    rig.take_slot(0, 1);
    for group in [OTHER, GroupId(2)] {
        rig.input(Input::SharedHeld {
            group,
            worker: WorkerId(1),
            fixed: true,
        });
    }
    reload(&mut rig);
    prove(&mut rig, 10, 2);
    rig.input(Input::SharedHeld {
        group: OTHER,
        worker: WorkerId(2),
        fixed: true,
    });
    assert!(!is_ready(&rig, 2));
    rig.input(Input::SharedReleased {
        group: GroupId(2),
        worker: WorkerId(1),
    });
    assert!(is_ready(&rig, 2), "the old one needs it no more");
}

#[test]
fn another_address_is_fine_if_that_is_allowed() {
    let mut rig = Rig::serving(1);
    let config = AppConfig {
        allow_port_change: true,
        ..AppConfig::default()
    };
    reload_with(&mut rig, config);
    rig.spawned(2);
    hold_in(&mut rig, OTHER, 10, 2, true);
    assert!(!is_ready(&rig, 2));
    rig.listening(2);
    assert!(is_ready(&rig, 2));
    assert_eq!(rig.core.eligible(GROUP), slots(&[0]), "nobody else serves it");
}

#[test]
fn announcing_takes_the_word_and_the_address() {
    let mut rig = Rig::started(1, Readiness::Announces, RestartPolicy::default());
    rig.hold(0, 1);
    rig.input(Input::Ready { worker: WorkerId(1) });
    reload(&mut rig);
    rig.spawned(2);
    rig.input(Input::Ready { worker: WorkerId(2) });
    rig.listening(2);
    assert!(!is_ready(&rig, 2));
    rig.hold(10, 2);
    assert!(is_ready(&rig, 2));
}

#[test]
fn where_nothing_was_served_a_candidate_has_to_live_for_min_uptime() {
    for readiness in [Readiness::Listens, Readiness::Executed] {
        let mut rig = Rig::started(1, readiness, RestartPolicy::default());
        rig.pass(ms(30_000));
        reload(&mut rig);
        rig.spawned(2);
        rig.pass(ms(999));
        assert!(!is_ready(&rig, 2), "{readiness:?}");
        rig.pass(ms(1));
        assert!(is_ready(&rig, 2), "{readiness:?}");
        assert_eq!(leaving(&rig), vec![(1, DRAINING)]);
    }
}

#[test]
fn an_instance_that_never_served_is_started_as_at_first() {
    let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
    reload(&mut rig);
    rig.spawned(2);
    rig.exited(1);
    assert_eq!(rig.pass(ms(29_999)), vec![]);
    let outcome = Outcome::Done {
        instances: instances(&[0]),
        silent: instances(&[0]),
    };
    let wanted = Output::Done {
        ticket: Ticket(2),
        outcome,
    };
    assert_eq!(rig.pass(ms(1)).last(), Some(&wanted));
}

#[test]
fn one_that_is_ready_when_it_runs_must_listen_where_its_predecessor_does() {
    let mut rig = Rig::started(1, Readiness::Runs, RestartPolicy::default());
    rig.pass(ms(1000));
    assert!(is_ready(&rig, 1), "at a first start it need not listen");
    rig.take_slot(0, 1);
    reload(&mut rig);
    rig.spawned(2);
    assert_eq!(rig.pass(ms(5000)), vec![]);
    assert!(!is_ready(&rig, 2));
    rig.take_slot(10, 2);
    assert!(is_ready(&rig, 2));
}
