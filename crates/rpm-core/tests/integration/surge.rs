//! `max_surge` and `max_unavailable`: reloads on a machine without room for two generations.

use crate::common::rollout::{
    DRAINING, begun, drained, failure_of, is_ready, leaving, prove, reload, reload_done, reload_with, undone,
};
use crate::common::{APP, GROUP, Rig, done, drain, instances, ms, slots, spawn, terminate};
use rpm_core::protocol::{AppConfig, Command, Exit, Failure, Input, Outcome, Output, Readiness};
use rpm_core::{Ticket, WorkerId};

fn config(surge: u32, unavailable: u32) -> AppConfig {
    AppConfig {
        readiness: Readiness::Listens,
        max_surge: Some(surge),
        max_unavailable: unavailable,
        ..AppConfig::default()
    }
}

/// Three instances, and a reload that may have one worker more: worker 4 has replaced worker 1, which drains.
fn one_more() -> Rig {
    let mut rig = Rig::serving(3);
    let wanted = vec![begun(2, 3), spawn(4, 2, 0, 0)];
    assert_eq!(reload_with(&mut rig, config(1, 0)), wanted);
    let outputs = prove(&mut rig, 10, 4);
    assert!(outputs.contains(&drain(1)), "{outputs:?}");
    rig
}

#[test]
fn one_after_the_other_is_replaced_and_its_end_makes_room_for_the_next() {
    let mut rig = one_more();
    assert_eq!(rig.core.eligible(GROUP), slots(&[1, 2, 10]));
    assert_eq!(drained(&mut rig, 1), vec![terminate(1)]);
    assert_eq!(rig.exited(1).last(), Some(&spawn(5, 2, 1, 1)));
    assert!(prove(&mut rig, 11, 5).contains(&drain(2)));
    drained(&mut rig, 2);
    assert_eq!(rig.exited(2).last(), Some(&spawn(6, 2, 2, 2)));
    let outputs = prove(&mut rig, 12, 6);
    for wanted in [reload_done(), drain(3), done(2, &[0, 1, 2])] {
        assert!(outputs.contains(&wanted), "{outputs:?}");
    }
}

#[test]
fn what_does_not_drain_holds_the_next_up_until_its_time_is_over() {
    let mut rig = one_more();
    assert_eq!(rig.pass(ms(29_999)), vec![]);
    assert!(rig.pass(ms(1)).contains(&terminate(1)));
}

#[test]
fn an_old_worker_that_is_gone_is_started_again_before_its_successor_leaves() {
    let mut rig = one_more();
    drained(&mut rig, 1);
    rig.exited(1);
    let outputs = rig.input(Input::SpawnFailed { worker: WorkerId(5) });
    let undone = undone(failure_of(1, 5, Failure::SpawnFailed));
    assert!(outputs.contains(&undone), "{outputs:?}");
    let failed = Output::Done {
        ticket: Ticket(2),
        outcome: Outcome::Failed {
            instance: instances(&[1]).pop(),
            worker: Some(WorkerId(5)),
            failure: Failure::SpawnFailed,
        },
    };
    assert!(outputs.contains(&failed) && outputs.contains(&spawn(6, 1, 0, 0)));
    assert!(is_ready(&rig, 4), "nobody else serves in its stead yet");
    assert!(prove(&mut rig, 13, 6).contains(&drain(4)));
    assert_eq!(rig.core.eligible(GROUP), slots(&[1, 2, 13]));
}

#[test]
fn one_that_cannot_be_started_again_is_taken_for_crashed() {
    let mut rig = one_more();
    drained(&mut rig, 1);
    rig.exited(1);
    rig.input(Input::SpawnFailed { worker: WorkerId(5) });
    let outputs = rig.input(Input::SpawnFailed { worker: WorkerId(6) });
    assert!(outputs.contains(&drain(4)) && outputs.contains(&spawn(7, 1, 0, 0)));
    assert_eq!(rig.view(0).worker(), Some(WorkerId(7)));
}

#[test]
fn without_any_room_an_old_worker_leaves_first() {
    let mut rig = Rig::serving(2);
    let outputs = reload_with(&mut rig, config(0, 1));
    assert!(outputs.contains(&drain(1)) && !outputs.contains(&drain(2)));
    assert_eq!(leaving(&rig), vec![(1, DRAINING)]);
    drained(&mut rig, 1);
    assert_eq!(rig.exited(1).last(), Some(&spawn(3, 2, 0, 0)));
    assert!(prove(&mut rig, 10, 3).contains(&drain(2)));
    drained(&mut rig, 2);
    let exit = Exit::Code(0);
    let worker = WorkerId(2);
    assert_eq!(
        rig.input(Input::Exited { worker, exit }).last(),
        Some(&spawn(4, 2, 1, 1))
    );
    assert!(prove(&mut rig, 11, 4).contains(&reload_done()));
    assert_eq!((rig.view(0).restarts, rig.view(1).restarts), (1, 1));
}

#[test]
fn no_room_at_all_is_room_for_one() {
    let mut rig = Rig::serving(2);
    let wanted = vec![begun(2, 2), spawn(3, 2, 0, 0)];
    assert_eq!(reload_with(&mut rig, config(0, 0)), wanted);
}

#[test]
fn without_memory_for_more_a_reload_waits_for_those_that_drain() {
    let mut rig = Rig::serving(2);
    reload(&mut rig);
    for (slot, worker) in [(10, 3), (11, 4)] {
        prove(&mut rig, slot, worker);
    }
    rig.input(Input::Room {
        app: APP,
        workers: Some(4),
    });
    assert_eq!(reload(&mut rig), vec![begun(3, 2)], "two serve, and two drain");
    drained(&mut rig, 2);
    assert_eq!(rig.exited(2).last(), Some(&spawn(5, 3, 0, 0)));
    assert_eq!(rig.pass(ms(5000)), vec![], "the other one has its time");
    drained(&mut rig, 1);
    assert_eq!(rig.exited(1).last(), Some(&spawn(6, 3, 1, 1)));
}

#[test]
fn memory_for_none_is_memory_for_one() {
    let mut rig = Rig::serving(2);
    let app = APP;
    rig.input(Input::Room {
        app,
        workers: Some(0),
    });
    assert_eq!(reload(&mut rig), vec![begun(2, 2), spawn(3, 2, 0, 0)]);
    rig.input(Input::Room { app, workers: None });
    assert_eq!(reload(&mut rig), vec![], "it waits for the one before");
    rig.command(Command::Undo { app });
    let outputs = reload(&mut rig);
    assert!(outputs.contains(&spawn(4, 3, 0, 0)) && outputs.contains(&spawn(5, 3, 1, 1)));
}
