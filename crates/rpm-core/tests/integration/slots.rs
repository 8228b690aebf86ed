//! Slots and steering: who inherits, who is eligible, and the order of what is put out.

use crate::common::{APP, GROUP, Rig, close, done, ms, online, rescue, slots, spawn, steer, terminate};
use rpm_core::protocol::{AppConfig, Command, Input, Output, Readiness, RestartPolicy};
use rpm_core::{GroupId, SlotId, WorkerId};

fn release(rig: &mut Rig, slot: u32, worker: u64) -> Vec<Output> {
    rig.input(Input::SlotReleased {
        slot: SlotId(slot),
        worker: WorkerId(worker),
    })
}

fn inherits(rig: &Rig, worker: u64) -> Option<SlotId> {
    rig.core.slot_for(WorkerId(worker), GROUP)
}

#[test]
fn a_slot_is_steered_to_when_its_worker_is_online_or_nobody_is() {
    let mut rig = Rig::started(2, Readiness::Listens, RestartPolicy::default());
    assert_eq!(rig.hold(0, 1), vec![steer(&[0])]);
    assert_eq!(rig.hold(1, 2), vec![steer(&[0, 1])]);
    assert_eq!(rig.listening(2)[..2], [steer(&[1]), online(2, false)]);
    assert_eq!(rig.listening(1)[..2], [steer(&[0, 1]), online(1, false)]);
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1]));
    assert_eq!(rig.core.eligible(GroupId(9)), slots(&[]));
}

#[test]
fn the_core_says_who_holds_which_slot() {
    let mut rig = Rig::serving(2);
    let held = |rig: &Rig| -> Vec<(u32, Option<u64>)> {
        let slots = rig.core.slots();
        slots
            .map(|it| (it.slot.0, it.holder.map(|worker| worker.0)))
            .collect()
    };
    assert_eq!(held(&rig), [(0, Some(1)), (1, Some(2))]);
    let slot_at = |rig: &Rig, worker| rig.core.slot_at(WorkerId(worker), GROUP);
    assert_eq!(slot_at(&rig, 2), Some(SlotId(1)));
    assert_eq!(rig.core.slot_at(WorkerId(2), GroupId(9)), None);
    rig.pass(ms(2000));
    rig.exited(1);
    assert_eq!(
        held(&rig),
        [(0, None), (1, Some(2))],
        "it waits for the next worker"
    );
    assert_eq!((slot_at(&rig, 1), rig.core.holder(SlotId(0))), (None, None));
    release(&mut rig, 1, 2);
    assert_eq!(held(&rig), [(0, None)], "its listener is closed");
    assert_eq!(rig.core.holder(SlotId(1)), None);
}

#[test]
fn a_silent_worker_is_steered_to_once_it_listens() {
    let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
    rig.pass(ms(30_000));
    assert_eq!(rig.hold(0, 1), vec![steer(&[0])]);
}

#[test]
fn a_holder_whose_word_was_lost_is_not_silent() {
    let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
    rig.hold(0, 1);
    assert_eq!(rig.pass(ms(30_000)), vec![online(1, false), done(1, &[0])]);
}

#[test]
fn stop_steers_away_then_closes_then_signals() {
    let mut rig = Rig::serving(3);
    let wanted = vec![
        steer(&[2]),
        close(0, &[2]),
        close(1, &[2]),
        terminate(1),
        terminate(2),
    ];
    assert_eq!(rig.stop(&[0, 1]), wanted);
    assert_eq!(rig.stop(&[2]), vec![steer(&[]), close(2, &[]), terminate(3)]);
    assert_eq!(rig.core.eligible(GROUP), slots(&[]));
}

#[test]
fn a_killed_worker_is_replaced_and_its_slot_inherited() {
    let mut rig = Rig::serving(2);
    rig.pass(ms(2000));
    let outputs = rig.exited(1);
    assert_eq!(outputs[..2], [steer(&[1]), rescue(0, None, &[1])]);
    assert_eq!(outputs.last(), Some(&spawn(3, 1, 0, 0)));
    assert_eq!((inherits(&rig, 3), inherits(&rig, 2)), (Some(SlotId(0)), None));
    assert_eq!(
        rig.queue(0, 3),
        vec![rescue(0, None, &[1])],
        "a handshake that finished late"
    );
    assert_eq!(rig.queue(0, 0), vec![]);
    rig.spawned(3);
    assert_eq!(rig.take_slot(0, 3), vec![steer(&[0, 1]), online(3, false)]);
    assert_eq!(inherits(&rig, 3), None);
}

#[test]
fn the_queue_of_an_only_worker_waits_for_its_replacement() {
    let mut rig = Rig::serving(1);
    rig.pass(ms(2000));
    let outputs = rig.exited(1);
    assert_eq!(
        outputs.len(),
        2,
        "a notice and a spawn; steering stays: {outputs:?}"
    );
    assert_eq!(rig.queue(0, 8), vec![]);
    assert_eq!(inherits(&rig, 2), Some(SlotId(0)));
    rig.spawned(2);
    assert_eq!(rig.take_slot(0, 2), vec![online(2, false)]);
}

#[test]
fn restart_keeps_the_slots_open_for_the_replacement() {
    let mut rig = Rig::serving(2);
    assert_eq!(rig.restart(&[0]), vec![steer(&[1]), terminate(1)]);
    assert_eq!(release(&mut rig, 0, 1), vec![rescue(0, None, &[1])]);
    assert_eq!(rig.exited(1), vec![spawn(3, 1, 0, 0)]);
    assert_eq!(inherits(&rig, 3), Some(SlotId(0)));
}

#[test]
fn while_all_are_restarted_connections_wait_in_the_open_slots() {
    let mut rig = Rig::serving(2);
    assert_eq!(
        rig.restart(&[0, 1]),
        vec![terminate(1), terminate(2)],
        "steering stays"
    );
    rig.exited(1);
    rig.exited(2);
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1]));
    rig.spawned(3);
    assert_eq!(rig.take_slot(0, 3)[0], steer(&[0]));
    assert_eq!(rig.queue(1, 4), vec![rescue(1, None, &[0])]);
}

#[test]
fn what_an_errored_instance_leaves_is_closed() {
    let mut rig = Rig::new();
    let policy = RestartPolicy {
        max_restarts: 1,
        ..RestartPolicy::default()
    };
    rig.start(2, Readiness::Listens, policy);
    for worker in [1, 2] {
        rig.spawned(worker);
        rig.take_slot(worker as u32 - 1, worker);
    }
    assert_eq!(rig.exited(1)[..2], [steer(&[1]), close(0, &[1])]);
    assert_eq!(rig.exited(2)[..2], [steer(&[]), close(1, &[])]);
}

#[test]
fn a_stop_while_waiting_closes_what_was_kept() {
    let mut rig = Rig::serving(2);
    rig.exited(1);
    assert_eq!(rig.stop(&[0]), vec![close(0, &[1]), done(2, &[0])]);
}

#[test]
fn a_stop_during_a_restart_closes_what_was_kept() {
    let mut rig = Rig::serving(1);
    rig.restart(&[0]);
    assert_eq!(rig.stop(&[0])[..2], [steer(&[]), close(0, &[])]);
}

#[test]
fn a_worker_that_goes_on_without_its_listener_loses_the_slot() {
    let mut rig = Rig::serving(2);
    assert_eq!(release(&mut rig, 0, 2), vec![], "not the holder");
    assert_eq!(release(&mut rig, 0, 1), vec![steer(&[1]), close(0, &[1])]);
    assert_eq!(release(&mut rig, 0, 1), vec![]);
    assert_eq!(rig.hold(5, 1), vec![steer(&[1, 5])], "it may listen again");
}

#[test]
fn a_slot_has_one_owner() {
    let mut rig = Rig::serving(2);
    assert_eq!(rig.hold(0, 2), vec![], "held by another worker");
    assert_eq!(rig.hold(0, 1), vec![], "held already");
    assert_eq!(rig.hold(1, 77), vec![], "known slot, unknown worker");
    assert_eq!(
        rig.hold(9, 77),
        vec![close(9, &[0, 1])],
        "unknown slot, unknown worker"
    );
    rig.exited(1);
    assert_eq!(rig.hold(0, 2), vec![], "vacant, but another instance's");
    rig.stop(&[1]);
    let late = rig.hold(6, 2);
    assert_eq!(late, vec![close(6, &[0])], "its worker is about to stop");
}

#[test]
fn slots_that_the_successor_does_not_take_are_closed() {
    let mut rig = Rig::serving(2);
    let (slot, group, worker) = (SlotId(7), GroupId(1), WorkerId(1));
    let fixed = true;
    rig.input(Input::SlotHeld {
        slot,
        group,
        worker,
        fixed,
    });
    rig.pass(ms(2000));
    rig.exited(1);
    rig.spawned(3);
    rig.take_slot(0, 3);
    assert_eq!(rig.pass(ms(2999)), vec![]);
    let closed = vec![Output::Steer { group, slots: vec![] }, close(7, &[])];
    assert_eq!(rig.pass(ms(1)), closed);
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1]));
}

/// The only worker of an app was restarted with another configuration: worker 2 is its successor.
fn reconfigured() -> Rig {
    let mut rig = Rig::serving(1);
    let config = AppConfig {
        instances: 1,
        readiness: Readiness::Listens,
        ..AppConfig::default()
    };
    rig.command(Command::Configure { app: APP, config });
    rig.restart(&[0]);
    rig.exited(1);
    rig.spawned(2);
    rig
}

fn left(rig: &Rig, worker: u64) -> Option<SlotId> {
    rig.core.slot_of_former(WorkerId(worker), GROUP)
}

#[test]
fn a_restart_with_another_configuration_keeps_the_slot_and_its_queue() {
    let mut rig = reconfigured();
    assert_eq!(rig.queue(0, 2), vec![], "they wait for the worker");
    assert_eq!((inherits(&rig, 2), left(&rig, 2)), (None, Some(SlotId(0))));
    assert_eq!(rig.hold(0, 2), vec![]);
    assert_eq!(rig.core.holder(SlotId(0)), Some(WorkerId(2)));
    assert_eq!(left(&rig, 2), None);
    assert_eq!(rig.listening(2)[0], online(2, false));
    assert_eq!(rig.pass(ms(30_000)), vec![], "nothing is closed");
    assert_eq!(rig.core.eligible(GROUP), slots(&[0]));
    rig.exited(2);
    rig.spawned(3);
    assert_eq!(inherits(&rig, 3), Some(SlotId(0)), "it is of this generation now");
}

#[test]
fn a_slot_that_another_configuration_does_not_permit_is_replaced() {
    let mut rig = reconfigured();
    assert_eq!(rig.hold(1, 2), vec![steer(&[0, 1])]);
    assert_eq!(rig.listening(2)[0], steer(&[1]));
    assert_eq!(rig.queue(0, 2), vec![rescue(0, None, &[1])]);
    assert_eq!(rig.pass(ms(30_000)), vec![close(0, &[1])]);
}

#[test]
fn while_a_reload_runs_slots_of_another_generation_are_left_alone() {
    let mut rig = reconfigured();
    rig.command(Command::Reload {
        app: APP,
        config: None,
        yields: false,
        then_scale: None,
    });
    assert_eq!(left(&rig, 2), None);
    assert_eq!(rig.hold(0, 2), vec![]);
    assert_eq!(rig.core.holder(SlotId(0)), None);
}

#[test]
fn what_waits_behind_a_worker_that_is_ending_is_moved() {
    let mut rig = Rig::serving(2);
    rig.restart(&[0]);
    for _ in 0..10 {
        assert_eq!(rig.tick(&[(0, 2), (1, 0)]), vec![]);
    }
    assert_eq!(rig.tick(&[(0, 2)]), vec![rescue(0, Some(1), &[1])]);
    assert_eq!(rig.tick(&[(0, 2)]), vec![], "counted from the rescue again");
}
