//! The freeze rule: what queue lengths lead to, and when a slot comes back.

use crate::common::rollout::{prove, reload};
use crate::common::{APP, GROUP, Rig, draining, ms, probe, recovered, rescue, slots, spawn, stalled, steer};
use rpm_core::protocol::{Affinity, AppConfig, Command, Input, Output};
use rpm_core::{SlotId, WorkerId};

fn responded(rig: &mut Rig, worker: u64) -> Vec<Output> {
    rig.input(Input::Responded {
        worker: WorkerId(worker),
    })
}

/// Two workers; the first does not accept and has one connection waiting. Its slot is out.
fn with_one_out() -> Rig {
    let mut rig = Rig::serving(2);
    rig.pass(ms(2000));
    for _ in 0..3 {
        assert_eq!(rig.tick(&[(0, 1), (1, 0)]), vec![]);
    }
    assert_eq!(rig.tick(&[(0, 1), (1, 0)]), vec![steer(&[1]), stalled(0, 1)]);
    rig
}

/// The same, after the rescue; the queue is empty.
fn with_one_rescued() -> Rig {
    let mut rig = with_one_out();
    for _ in 0..6 {
        assert_eq!(rig.tick(&[(0, 1), (1, 0)]), vec![]);
    }
    assert_eq!(
        rig.tick(&[(0, 1), (1, 0)]),
        vec![rescue(0, Some(1), &[1]), probe(1)]
    );
    rig
}

#[test]
fn a_slot_leaves_steering_15_ms_after_its_queue_was_seen_not_to_move() {
    with_one_out();
}

#[test]
fn a_queue_that_shrinks_is_never_stuck() {
    let mut rig = Rig::serving(2);
    for len in [5, 9, 9, 8, 20, 20, 19, 30, 0, 30, 30, 29].repeat(10) {
        assert_eq!(rig.tick(&[(0, len), (1, 0)]), vec![]);
    }
}

#[test]
fn a_slot_stays_in_while_no_other_queue_is_shorter() {
    let mut rig = Rig::serving(2);
    for len in 1..100 {
        assert_eq!(rig.tick(&[(1, len), (0, len)]), vec![]);
    }
    assert_eq!(
        rig.tick(&[(0, 100), (1, 99)]),
        vec![],
        "sampled in turn: 99 is not shorter than 99"
    );
    assert_eq!(rig.queue(0, 101), vec![steer(&[1]), stalled(0, 101)]);
}

#[test]
fn the_last_one_stays_in() {
    let mut rig = with_one_out();
    for len in 1..50 {
        let outputs = rig.tick(&[(1, len)]);
        assert!(!outputs.contains(&steer(&[])), "{outputs:?}");
    }
    assert_eq!(rig.core.eligible(GROUP), slots(&[1]));
}

#[test]
fn an_only_slot_is_never_out() {
    let mut rig = Rig::serving(1);
    for len in 1..50 {
        assert_eq!(rig.tick(&[(0, len)]), vec![]);
    }
}

#[test]
fn a_busy_worker_is_back_when_its_queue_shrinks() {
    for shrunk in [0, 3] {
        let mut rig = with_one_out();
        assert_eq!(rig.tick(&[(0, 4)]), vec![]);
        assert_eq!(rig.tick(&[(0, shrunk)]), vec![steer(&[0, 1]), recovered(0)]);
    }
}

#[test]
fn a_queue_is_moved_to_idle_workers() {
    let mut rig = with_one_out();
    for _ in 0..6 {
        assert_eq!(rig.tick(&[(1, 1), (0, 1)]), vec![]);
        rig.queue(1, 0);
        rig.queue(1, 1);
    }
    rig.tick(&[(1, 1), (0, 1)]);
    assert_eq!(
        rig.tick(&[(1, 0), (0, 1)]),
        vec![rescue(0, Some(1), &[1]), probe(1)]
    );
}

/// The ticks until the queue of slot 0 is moved, if slot 1 has these lengths in turn.
fn ticks_until_rescue(lengths: &[u32]) -> Option<usize> {
    let mut rig = with_one_out();
    (0..40).find(|tick| {
        let len = lengths[tick % lengths.len()];
        rig.tick(&[(1, len), (0, 1)]).contains(&rescue(0, Some(1), &[1]))
    })
}

#[test]
fn a_queue_is_moved_to_busy_workers_that_accept_if_nobody_is_idle_for_long() {
    let idle = ticks_until_rescue(&[0]).expect("moved");
    let busy = ticks_until_rescue(&[3, 2]).expect("moved");
    assert!(busy > idle && busy <= idle + 5, "{idle} and {busy} ticks of 5 ms");
    assert_eq!(ticks_until_rescue(&[3]), None, "it does not accept either");
}

#[test]
fn an_emptied_queue_proves_nothing_and_an_answer_does() {
    let mut rig = with_one_rescued();
    assert_eq!(rig.queue(0, 0), vec![]);
    assert_eq!(rig.pass(ms(20)), vec![probe(1)]);
    assert_eq!(responded(&mut rig, 2), vec![], "another worker's answer");
    assert_eq!(responded(&mut rig, 1), vec![steer(&[0, 1]), recovered(0)]);
    assert_eq!(responded(&mut rig, 1), vec![], "it is not out any more");
    assert_eq!((rig.pass(ms(10_000)), rig.core.poll_timeout()), (vec![], None));
}

#[test]
fn a_worker_that_is_out_but_not_rescued_has_to_accept() {
    let mut rig = with_one_out();
    assert_eq!(responded(&mut rig, 1), vec![]);
    assert_eq!(rig.core.eligible(GROUP), slots(&[1]));
}

#[test]
fn a_second_claim_does_not_put_a_slot_back() {
    let mut rig = with_one_out();
    assert_eq!(rig.hold(0, 1), vec![]);
    assert_eq!(rig.core.eligible(GROUP), slots(&[1]));
}

#[test]
fn probes_back_off_to_half_a_second() {
    let mut rig = with_one_rescued();
    responded(&mut rig, 1);
    for _ in 0..12 {
        rig.tick(&[(0, 1), (1, 0)]);
    }
    let mut gaps = Vec::new();
    while gaps.len() < 12 {
        let before = rig.now;
        let next = rig.core.poll_timeout().expect("probes go on");
        assert_eq!(rig.pass(next - before), vec![probe(1)]);
        gaps.push((rig.now - before).as_millis());
    }
    assert_eq!(gaps[1..], [30, 45, 67, 101, 151, 227, 341, 500, 500, 500, 500]);
}

#[test]
fn a_worker_that_never_answers_is_tried_ever_more_seldom() {
    let mut rig = with_one_rescued();
    for trial in [1000, 2000, 4000, 8000, 16_000, 32_000, 32_000] {
        rig.queue(0, 0);
        let outputs = rig.pass(ms(trial - 1));
        assert!(
            outputs.iter().all(|output| *output == probe(1)),
            "{trial}: {outputs:?}"
        );
        let back = rig.pass(ms(1));
        assert!(
            back.ends_with(&[recovered(0)]) && back.contains(&steer(&[0, 1])),
            "{trial}: {back:?}"
        );
        for _ in 0..11 {
            rig.tick(&[(0, 1), (1, 0)]);
        }
        assert_eq!(rig.core.eligible(GROUP), slots(&[1]));
    }
}

#[test]
fn a_trial_that_is_passed_makes_the_next_one_early_again() {
    let mut rig = with_one_rescued();
    rig.pass(ms(1000));
    assert_eq!(rig.tick(&[(0, 3), (1, 0)]), vec![]);
    assert_eq!(rig.tick(&[(0, 1), (1, 0)]), vec![]);
    for _ in 0..10 {
        rig.tick(&[(0, 1), (1, 0)]);
    }
    assert_eq!(rig.core.eligible(GROUP), slots(&[1]));
    assert!(!rig.pass(ms(999)).contains(&recovered(0)));
    assert!(rig.pass(ms(1)).contains(&recovered(0)));
}

#[test]
fn silence_of_a_worker_that_has_answered_before_means_more() {
    let mut rig = Rig::serving(2);
    assert_eq!(responded(&mut rig, 1), vec![]);
    for _ in 0..12 {
        rig.tick(&[(0, 1), (1, 0)]);
    }
    let outputs = rig.pass(ms(31_900));
    assert!(outputs.len() > 60 && outputs.iter().all(|output| *output == probe(1)));
    assert!(rig.pass(ms(100)).contains(&recovered(0)));
}

#[test]
fn what_arrives_after_the_rescue_is_moved_50_ms_later() {
    let mut rig = with_one_rescued();
    rig.queue(0, 0);
    rig.pass(ms(10));
    assert_eq!(rig.queue(0, 2), vec![]);
    rig.pass(ms(49));
    assert_eq!(rig.queue(0, 2), vec![]);
    rig.pass(ms(1));
    assert_eq!(rig.queue(0, 2), vec![rescue(0, Some(1), &[1])]);
    assert_eq!(rig.queue(0, 2), vec![], "counted from the rescue again");
}

#[test]
fn a_worker_that_ends_while_out_leaves_its_slot_to_its_successor() {
    let mut rig = with_one_rescued();
    let outputs = rig.exited(1);
    assert_eq!(outputs[0], rescue(0, None, &[1]));
    assert_eq!(outputs.last(), Some(&spawn(3, 1, 0, 0)));
    rig.spawned(3);
    assert_eq!(rig.take_slot(0, 3)[0], steer(&[0, 1]));
}

#[test]
fn a_trial_that_is_due_together_with_the_end_of_its_worker_is_not_a_recovery() {
    // The scaling that follows a restart ends the worker that is to be tried.
    let mut rig = Rig::serving(3);
    rig.command(Command::RestartAndScale { app: APP, count: 2 });
    for (slot, last, worker) in [(0, 1, 4), (1, 2, 5)] {
        rig.exited(last);
        prove(&mut rig, slot, worker);
    }
    rig.exited(3);
    rig.spawned(6);
    let moved = rescue(0, Some(4), &[1]);
    assert!((0..12).any(|_| rig.tick(&[(0, 1), (1, 0)]).contains(&moved)));
    let outputs = rig.pass_asleep(ms(60_000));
    assert!(outputs.contains(&draining(4)), "{outputs:?}");
    assert!(!outputs.contains(&recovered(0)), "{outputs:?}");
}

#[test]
fn when_the_healthy_ones_are_gone_the_stalled_ones_serve() {
    let mut rig = with_one_rescued();
    assert_eq!(rig.exited(2)[0], steer(&[0]));
    rig.queue(1, 5);
    assert_eq!(responded(&mut rig, 1), vec![recovered(0)]);
    assert_eq!(rig.queue(1, 5), vec![rescue(1, None, &[0])]);
}

/// The same two workers, whose clients belong to them.
fn with_affinity(affinity: Affinity) -> Rig {
    let mut rig = Rig::new();
    let config = AppConfig {
        instances: 2,
        affinity,
        ..AppConfig::default()
    };
    rig.command(Command::Start { app: APP, config });
    for slot in 0..2 {
        rig.spawned(u64::from(slot) + 1);
        rig.take_slot(slot, u64::from(slot) + 1);
    }
    rig.pass(ms(2000));
    rig
}

#[test]
fn a_worker_to_which_addresses_belong_keeps_them_and_its_queue_while_it_lives() {
    let mut rig = with_affinity(Affinity::ByAddress);
    for _ in 0..2000 {
        assert_eq!(rig.tick(&[(0, 3), (1, 0)]), vec![]);
    }
    assert_eq!(rig.exited(1)[..2], [steer(&[1]), rescue(0, None, &[1])]);
}

#[test]
fn a_worker_that_clients_name_gets_no_new_ones_and_keeps_its_queue() {
    let mut rig = with_affinity(Affinity::Named);
    let mut outputs = Vec::new();
    for _ in 0..2000 {
        outputs.extend(rig.tick(&[(0, 3), (1, 0)]));
    }
    assert_eq!(outputs, vec![steer(&[1]), stalled(0, 3)]);
    assert!(rig.core.is_reserved(SlotId(0)) && !rig.core.is_reserved(SlotId(1)));
    assert_eq!(rig.tick(&[(0, 2), (1, 0)]), vec![steer(&[0, 1]), recovered(0)]);
    assert!(!rig.core.is_reserved(SlotId(0)));
}

#[test]
fn what_belongs_to_a_worker_that_drains_goes_to_others_when_it_does_not_accept() {
    let mut rig = with_affinity(Affinity::ByAddress);
    reload(&mut rig);
    for (slot, worker) in [(10, 3), (11, 4)] {
        prove(&mut rig, slot, worker);
    }
    let mut outputs = Vec::new();
    for _ in 0..20 {
        outputs.extend(rig.tick(&[(0, 3), (1, 0), (10, 0), (11, 0)]));
    }
    assert!(outputs.contains(&rescue(0, Some(1), &[10, 11])), "{outputs:?}");
}
