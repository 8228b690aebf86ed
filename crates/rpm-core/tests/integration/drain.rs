//! Retiring: how workers leave that nobody needs any more.

use crate::common::rollout::{DRAINING, drained, halfway, leaving, prove, reload};
use crate::common::{
    APP, GROUP, Rig, close, deleted, done, drain, draining, ms, online, rescue, spawn, steer, terminate,
};
use rpm_core::protocol::{Command, Input, Notice, Output};
use rpm_core::{LeavingPhase, SlotId, StateView, WorkerId};

#[test]
fn a_draining_worker_is_told_to_end_when_done_or_unable_or_late() {
    let mut rig = Rig::serving(3);
    reload(&mut rig);
    for (slot, worker) in [(10, 4), (11, 5), (12, 6)] {
        prove(&mut rig, slot, worker);
    }
    assert_eq!(rig.pass(ms(29_999)), vec![]);
    assert_eq!(drained(&mut rig, 1), vec![terminate(1)]);
    assert_eq!(drained(&mut rig, 1), vec![], "it was told already");
    let failed = Input::DrainFailed { worker: WorkerId(2) };
    assert_eq!(rig.input(failed), vec![terminate(2)]);
    assert_eq!(drained(&mut rig, 4), vec![], "it serves");
    assert_eq!(rig.pass(ms(1)), vec![terminate(3)]);
    assert_eq!(rig.exited(1), vec![close(0, &[10, 11, 12])]);
    rig.exited(3);
    assert_eq!(leaving(&rig), vec![(2, LeavingPhase::Terminating)]);
    rig.exited(2);
    assert_eq!((leaving(&rig), rig.core.poll_timeout()), (vec![], None));
}

#[test]
fn a_draining_worker_that_exits_by_itself_is_simply_gone() {
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    prove(&mut rig, 10, 2);
    assert_eq!(rig.exited(1), vec![close(0, &[10])]);
}

#[test]
fn when_nobody_else_serves_the_warm_ones_do_and_then_the_draining_ones() {
    let mut rig = halfway();
    rig.hold(11, 4);
    rig.input(Input::SlotReleased {
        slot: SlotId(1),
        worker: WorkerId(2),
    });
    let released = rig.input(Input::SlotReleased {
        slot: SlotId(10),
        worker: WorkerId(3),
    });
    assert_eq!(released[..2], [steer(&[0]), close(10, &[0])]);
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    prove(&mut rig, 10, 2);
    rig.pass(ms(2000));
    assert_eq!(rig.exited(2)[..2], [steer(&[0]), rescue(10, None, &[0])]);
    assert_eq!(drained(&mut rig, 1), vec![], "it is needed");
    rig.spawned(3);
    assert_eq!(
        rig.take_slot(10, 3),
        vec![steer(&[10]), online(3, false), drain(1)],
        "it finishes what it was given meanwhile"
    );
    assert_eq!(drained(&mut rig, 1), vec![terminate(1)]);
}

#[test]
fn a_worker_that_is_needed_goes_at_the_end_of_its_time_all_the_same() {
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    prove(&mut rig, 10, 2);
    rig.pass(ms(2000));
    rig.exited(2);
    rig.spawned(3);
    drained(&mut rig, 1);
    rig.input(Input::SpawnFailed { worker: WorkerId(3) });
    let outputs = rig.pass(ms(28_000));
    assert!(outputs.contains(&terminate(1)), "{outputs:?}");
}

#[test]
fn a_worker_that_leaves_gets_no_slot() {
    let mut rig = Rig::serving(2);
    rig.restart(&[0]);
    rig.input(Input::SlotReleased {
        slot: SlotId(0),
        worker: WorkerId(1),
    });
    reload(&mut rig);
    prove(&mut rig, 10, 3);
    assert_eq!(rig.core.slot_for(WorkerId(1), GROUP), None);
    assert_eq!(rig.hold(20, 1), vec![close(20, &[1, 10])]);
}

#[test]
fn stop_is_done_when_those_that_drain_are_gone_too() {
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    prove(&mut rig, 10, 2);
    let wanted = vec![
        steer(&[]),
        close(0, &[]),
        close(10, &[]),
        terminate(1),
        terminate(2),
    ];
    assert_eq!(rig.stop(&[0]), wanted);
    assert_eq!(rig.exited(2), vec![]);
    assert_eq!(rig.state(0), StateView::Stopping { worker: WorkerId(1) });
    assert_eq!(rig.exited(1), vec![done(3, &[0])]);
}

#[test]
fn scaling_down_drains() {
    let mut rig = Rig::serving(2);
    let outputs = rig.command(Command::Scale { app: APP, count: 1 });
    let scaled = Output::Notice(Notice::Scaled {
        app: APP,
        from: 2,
        to: 1,
    });
    assert_eq!(outputs, vec![steer(&[1]), scaled, draining(1), drain(1)]);
    assert_eq!(rig.state(0), StateView::Stopping { worker: WorkerId(1) });
    assert_eq!(leaving(&rig), vec![(1, DRAINING)]);
    assert_eq!(drained(&mut rig, 1), vec![terminate(1)]);
    assert_eq!(rig.exited(1), vec![close(0, &[1]), deleted(0), done(2, &[0])]);
}

#[test]
fn a_restart_does_not_wait_for_a_worker_that_drains() {
    let mut rig = Rig::serving(2);
    rig.command(Command::Scale { app: APP, count: 1 });
    assert!(rig.restart(&[0]).contains(&spawn(3, 1, 0, 0)));
    rig.spawned(3);
    assert_eq!(rig.take_slot(10, 3)[0], steer(&[1, 10]));
    assert_eq!(rig.exited(1), vec![close(0, &[1, 10])]);
}

#[test]
fn each_generation_drains_for_its_own_time_however_many_there_are() {
    let mut rig = Rig::serving(1);
    for worker in 2..=9 {
        rig.pass(ms(1000));
        reload(&mut rig);
        prove(&mut rig, 10 + worker as u32, worker);
    }
    let wanted: Vec<_> = (1..=8).map(|worker| (worker, DRAINING)).collect();
    assert_eq!(leaving(&rig), wanted);
    // The first began to drain a second after the start, and the time is 30 s.
    assert_eq!(rig.pass(ms(22_999)), vec![]);
    assert_eq!(rig.pass(ms(1)), vec![terminate(1)]);
    assert_eq!(rig.pass(ms(1000)), vec![terminate(2)]);
}

#[test]
fn a_frozen_worker_that_drains_loses_its_queue_to_the_others() {
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    prove(&mut rig, 10, 2);
    let mut outputs = Vec::new();
    for _ in 0..12 {
        outputs.extend(rig.tick(&[(0, 3), (10, 0)]));
    }
    assert_eq!(
        outputs[0],
        rescue(0, Some(1), &[10]),
        "and nothing is said of steering"
    );
}
