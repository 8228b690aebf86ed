//! Stopping: clients are refused, and what is being answered is finished.

use crate::common::rollout::{drained, leaving, prove, reload};
use crate::common::{GROUP, Rig, close, done, drain, draining, instances, ms, slots, steer, terminate};
use rpm_core::protocol::{Command, Input, Output};
use rpm_core::{LeavingPhase, RefusesNew, SlotId, StateView, WorkerId};

fn refuse(worker: u64) -> Output {
    Output::RefuseNew {
        worker: WorkerId(worker),
        keeps: false,
    }
}

fn stop(rig: &mut Rig, ids: &[u32]) -> Vec<Output> {
    rig.command(Command::Stop {
        instances: instances(ids),
        hard: false,
    })
}

fn released(rig: &mut Rig, slot: u32, worker: u64) -> Vec<Output> {
    rig.input(Input::SlotReleased {
        slot: SlotId(slot),
        worker: WorkerId(worker),
    })
}

#[test]
fn a_worker_closes_its_listener_finishes_and_is_told_to_end() {
    let mut rig = Rig::serving(1);
    assert_eq!(stop(&mut rig, &[0]), vec![draining(1), drain(1), refuse(1)]);
    assert_eq!(
        rig.core.eligible(GROUP),
        slots(&[0]),
        "whoever comes before that is served"
    );
    assert_eq!(released(&mut rig, 0, 1), vec![steer(&[]), close(0, &[])]);
    assert!(matches!(rig.state(0), StateView::Stopping { .. }));
    assert_eq!(drained(&mut rig, 1), vec![terminate(1)]);
    assert_eq!(rig.exited(1), vec![done(2, &[0])]);
    assert_eq!(rig.state(0), StateView::Stopped);
}

#[test]
fn one_that_cannot_is_told_to_end_after_its_slots_are_closed() {
    let mut rig = Rig::serving(1);
    stop(&mut rig, &[0]);
    let failed = Input::DrainFailed { worker: WorkerId(1) };
    assert_eq!(rig.input(failed), vec![steer(&[]), close(0, &[]), terminate(1)]);
}

#[test]
fn one_that_has_drained_and_served_again_is_looked_at_again() {
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    prove(&mut rig, 10, 2);
    rig.pass(ms(2000));
    rig.exited(2);
    assert_eq!(drained(&mut rig, 1), vec![], "nobody else serves");
    let outputs = stop(&mut rig, &[0]);
    let of_it = |output: &&Output| **output == drain(1) || **output == refuse(1);
    let told: Vec<_> = outputs.iter().filter(of_it).collect();
    assert_eq!(told, [&drain(1), &refuse(1)], "{outputs:?}");
    assert_eq!(
        drained(&mut rig, 1),
        vec![steer(&[]), close(0, &[]), terminate(1)]
    );
}

#[test]
fn others_of_the_app_serve_on() {
    let mut rig = Rig::serving(2);
    let outputs = stop(&mut rig, &[0]);
    assert_eq!(
        outputs,
        vec![steer(&[1]), draining(1), drain(1)],
        "nobody need be refused"
    );
    assert_eq!(drained(&mut rig, 1), vec![terminate(1)]);
    assert_eq!(rig.exited(1), vec![close(0, &[1]), done(2, &[0])]);
    let outputs = stop(&mut rig, &[1]);
    assert!(outputs.contains(&refuse(2)), "the last one: {outputs:?}");
}

#[test]
fn those_that_drain_already_refuse_too() {
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    prove(&mut rig, 10, 2);
    let outputs = stop(&mut rig, &[0]);
    assert!(
        outputs.contains(&refuse(1)) && outputs.contains(&refuse(2)),
        "{outputs:?}"
    );
    let refuses_new = Some(RefusesNew { keeps: false });
    let both = [1, 2].map(|worker| (worker, LeavingPhase::Draining { refuses_new }));
    assert_eq!(leaving(&rig), both);
    drained(&mut rig, 1);
    drained(&mut rig, 2);
    rig.exited(2);
    assert_eq!(rig.exited(1), vec![done(3, &[0])]);
}

#[test]
fn it_has_so_much_time_and_no_more() {
    let mut rig = Rig::serving(1);
    stop(&mut rig, &[0]);
    assert_eq!(rig.pass(ms(29_999)), vec![]);
    assert!(rig.pass(ms(1)).contains(&terminate(1)));
}

#[test]
fn a_hard_stop_and_a_start_do_not_wait_for_it() {
    let mut rig = Rig::serving(1);
    stop(&mut rig, &[0]);
    assert!(rig.stop(&[0]).contains(&terminate(1)));
    let mut rig = Rig::serving(1);
    stop(&mut rig, &[0]);
    let outputs = rig.restart(&[0]);
    assert!(outputs.contains(&crate::common::spawn(2, 1, 0, 0)), "{outputs:?}");
}
