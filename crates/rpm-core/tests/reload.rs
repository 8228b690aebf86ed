//! Reload: how a new generation takes over, what counts as proof, and how it is undone.

mod common;

use common::{
    APP, GROUP, Rig, close, done, drain, instances, ms, online, rescue, retiring, slots, spawn, steer,
    terminate,
};
use rpm_core::protocol::{
    AppConfig, Command, Exit, Failure, Input, Notice, Outcome, Output, Policy, Readiness,
};
use rpm_core::{Generation, GroupId, InstanceId, RetiringPhase, SlotId, StateView, Ticket, WorkerId};

const OTHER: GroupId = GroupId(1);

fn proved(worker: u64) -> [Output; 2] {
    let ready = Notice::CandidateReady {
        worker: WorkerId(worker),
    };
    [online(worker, false), Output::Notice(ready)]
}

fn reload_done() -> Output {
    Output::Notice(Notice::ReloadDone { app: APP })
}

fn undone() -> Output {
    Output::Notice(Notice::ReloadUndone { app: APP })
}

fn crashed(worker: u64) -> Output {
    Output::Notice(Notice::Crashed {
        worker: WorkerId(worker),
        exit: Some(Exit::Code(1)),
        retry_in: None,
    })
}

fn failed(ticket: u64, instance: u32, worker: u64, failure: Failure) -> Output {
    Output::Done {
        ticket: Ticket(ticket),
        outcome: Outcome::Failed {
            instance: Some(InstanceId(instance)),
            worker: Some(WorkerId(worker)),
            failure,
        },
    }
}

fn superseded(ticket: u64) -> Output {
    Output::Done {
        ticket: Ticket(ticket),
        outcome: Outcome::Failed {
            instance: None,
            worker: None,
            failure: Failure::Superseded,
        },
    }
}

fn reload(rig: &mut Rig) -> Vec<Output> {
    rig.command(Command::Reload {
        app: APP,
        config: None,
    })
}

fn reload_with(rig: &mut Rig, config: AppConfig) -> Vec<Output> {
    let config = Some(config);
    rig.command(Command::Reload { app: APP, config })
}

fn drained(rig: &mut Rig, worker: u64) -> Vec<Output> {
    rig.input(Input::Drained {
        worker: WorkerId(worker),
    })
}

fn hold_in(rig: &mut Rig, group: GroupId, slot: u32, worker: u64, fixed: bool) -> Vec<Output> {
    let (slot, worker) = (SlotId(slot), WorkerId(worker));
    rig.input(Input::SlotHeld {
        slot,
        group,
        worker,
        fixed,
    })
}

/// The candidate runs, takes this slot and listens.
fn prove(rig: &mut Rig, slot: u32, worker: u64) -> Vec<Output> {
    rig.spawned(worker);
    rig.take_slot(slot, worker)
}

fn generation(rig: &Rig) -> u32 {
    rig.core.app(APP).expect("the app is there").generation.0
}

fn leaving(rig: &Rig) -> Vec<(u64, RetiringPhase)> {
    rig.core
        .retiring(APP)
        .map(|view| (view.worker.0, view.phase))
        .collect()
}

fn is_ready(rig: &Rig, worker: u64) -> bool {
    rig.core
        .worker(WorkerId(worker))
        .is_some_and(|worker| worker.online)
}

/// Two instances; the first is served by its new worker, 3 on slot 10; the candidate of the second is 4.
fn halfway() -> Rig {
    let mut rig = Rig::serving(2);
    reload(&mut rig);
    prove(&mut rig, 10, 3);
    rig.spawned(4);
    rig
}

/// One instance on slot 0; the candidate is worker 2, whose process runs.
fn beginning(policy: Policy) -> Rig {
    let mut rig = Rig::started(1, Readiness::Listens, policy);
    rig.take_slot(0, 1);
    reload(&mut rig);
    rig.spawned(2);
    rig
}

#[test]
fn each_candidate_takes_over_when_proved_and_the_old_ones_drain_when_all_are() {
    let mut rig = Rig::serving(2);
    assert_eq!(reload(&mut rig), vec![spawn(3, 2, 0, 0), spawn(4, 2, 1, 1)]);
    assert_eq!(rig.view(0).candidate, Some(WorkerId(3)));
    assert_eq!(rig.spawned(3), vec![]);
    assert_eq!(rig.hold(10, 3), vec![], "not proved, not steered to");
    let [is_online, is_proved] = proved(3);
    assert_eq!(rig.listening(3), vec![steer(&[1, 10]), is_online, is_proved]);
    assert_eq!(leaving(&rig), vec![(1, RetiringPhase::Warm)]);
    assert_eq!((rig.view(0).candidate, rig.view(0).restarts), (None, 0));
    let [is_online, is_proved] = proved(4);
    let wanted = vec![
        steer(&[10, 11]),
        is_online,
        is_proved,
        reload_done(),
        retiring(1),
        drain(1),
        retiring(2),
        drain(2),
        done(2, &[0, 1]),
    ];
    assert_eq!(prove(&mut rig, 11, 4), wanted);
    assert_eq!((rig.view(0).restarts, rig.view(1).restarts), (1, 1));
    assert_eq!(rig.view(0).generation, Generation(2));
    assert!(rig.core.app(APP).is_some_and(|app| app.reload.is_none()));
}

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
    assert_eq!(leaving(&rig), vec![(2, RetiringPhase::Ending)]);
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
fn a_candidate_that_fails_undoes_the_reload() {
    let mut rig = halfway();
    let wanted = vec![
        steer(&[0, 1]),
        crashed(4),
        undone(),
        retiring(3),
        drain(3),
        failed(2, 1, 4, Failure::Exited(Exit::Code(1))),
    ];
    assert_eq!(rig.exited(4), wanted);
    assert_eq!(generation(&rig), 1);
    for (id, worker) in [(0, 1), (1, 2)] {
        let view = rig.view(id);
        assert_eq!((view.worker(), view.restarts), (Some(WorkerId(worker)), 0));
    }
    assert_eq!(leaving(&rig), vec![(3, RetiringPhase::Draining)]);
    assert_eq!(reload(&mut rig)[0], spawn(5, 3, 0, 0), "a generation of its own");
}

#[test]
fn a_failed_spawn_undoes_the_reload_and_the_unproved_are_told_to_end() {
    let mut rig = Rig::serving(2);
    reload(&mut rig);
    rig.spawned(3);
    let outputs = rig.input(Input::SpawnFailed { worker: WorkerId(4) });
    let failure = failed(2, 1, 4, Failure::SpawnFailed);
    assert_eq!(outputs[1..], [undone(), terminate(3), failure]);
}

#[test]
fn a_new_worker_that_crashes_before_all_are_proved_undoes_the_reload() {
    let mut rig = halfway();
    let outputs = rig.exited(3);
    assert_eq!(outputs[0], steer(&[0, 1]));
    assert!(outputs.contains(&terminate(4)));
    let failure = Failure::Exited(Exit::Code(1));
    assert_eq!(outputs.last(), Some(&failed(2, 0, 3, failure)));
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1]));
}

#[test]
fn a_candidate_that_does_not_listen_in_time_undoes_the_reload() {
    let mut rig = beginning(Policy::default());
    assert_eq!(rig.pass(ms(29_999)), vec![]);
    let within = ms(30_000);
    let failure = failed(2, 0, 2, Failure::NotReady { within });
    assert_eq!(rig.pass(ms(1)), vec![undone(), terminate(2), failure]);
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
        let mut rig = Rig::started(1, Readiness::Listens, Policy::default());
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
        let mut rig = Rig::started(1, Readiness::Listens, Policy::default());
        rig.pass(ms(5000));
        assert!(is_ready(&rig, 1), "silent until now");
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
    let mut rig = Rig::started(1, Readiness::Listens, Policy::default());
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
    let mut rig = Rig::started(1, Readiness::Announces, Policy::default());
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
        let mut rig = Rig::started(1, readiness, Policy::default());
        rig.pass(ms(5000));
        reload(&mut rig);
        rig.spawned(2);
        rig.pass(ms(999));
        assert!(!is_ready(&rig, 2), "{readiness:?}");
        rig.pass(ms(1));
        assert!(is_ready(&rig, 2), "{readiness:?}");
        assert_eq!(leaving(&rig), vec![(1, RetiringPhase::Draining)]);
    }
}

#[test]
fn an_instance_that_never_served_is_started_as_at_first() {
    let mut rig = Rig::started(1, Readiness::Listens, Policy::default());
    reload(&mut rig);
    rig.spawned(2);
    rig.exited(1);
    assert_eq!(rig.pass(ms(2999)), vec![]);
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
fn a_predecessor_that_crashes_waits_for_its_candidate() {
    let mut rig = Rig::serving(2);
    rig.pass(ms(2000));
    reload(&mut rig);
    rig.spawned(3);
    let outputs = rig.exited(1);
    assert_eq!(outputs[..2], [steer(&[1]), rescue(0, None, &[1])]);
    assert_eq!(outputs.len(), 3, "no third worker: {outputs:?}");
    assert_eq!(rig.state(0), StateView::Launching { worker: WorkerId(3) });
    assert_eq!(
        rig.core.slot_for(WorkerId(3), GROUP),
        None,
        "the slot is not for it"
    );
    rig.take_slot(10, 3);
    rig.spawned(4);
    let outputs = rig.take_slot(11, 4);
    assert!(outputs.contains(&close(0, &[10, 11])), "{outputs:?}");
}

#[test]
fn after_an_undone_reload_a_crashed_predecessor_comes_back() {
    let mut rig = Rig::serving(2);
    rig.pass(ms(2000));
    reload(&mut rig);
    prove(&mut rig, 10, 3);
    assert_eq!(rig.exited(1)[0], rescue(0, None, &[1, 10]), "it stood by");
    let outputs = rig.input(Input::SpawnFailed { worker: WorkerId(4) });
    assert!(outputs.contains(&spawn(5, 1, 0, 0)), "{outputs:?}");
    assert!(outputs.contains(&drain(3)));
    assert_eq!(rig.core.slot_for(WorkerId(5), GROUP), Some(SlotId(0)));
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
        vec![steer(&[10]), online(3, false), terminate(1)]
    );
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
fn what_a_predecessor_that_stood_by_did_not_take_over_is_closed() {
    let mut rig = Rig::serving(2);
    rig.pass(ms(2000));
    rig.exited(1);
    reload(&mut rig);
    prove(&mut rig, 10, 4);
    rig.spawned(3);
    rig.listening(3);
    assert_eq!(leaving(&rig), vec![(3, RetiringPhase::Warm)]);
    rig.input(Input::SpawnFailed { worker: WorkerId(5) });
    assert_eq!(rig.view(0).worker(), Some(WorkerId(3)));
    assert_eq!(rig.pass(ms(2999)), vec![]);
    assert_eq!(rig.pass(ms(1)), vec![close(0, &[1])]);
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
fn at_most_so_many_candidates_start_at_once() {
    let mut rig = Rig::serving(3);
    let config = AppConfig {
        parallel: 1,
        ..AppConfig::default()
    };
    assert_eq!(reload_with(&mut rig, config), vec![spawn(4, 2, 0, 0)]);
    rig.exited(2);
    let outputs = rig.pass(ms(100));
    assert_eq!(outputs, vec![spawn(5, 2, 1, 1)], "its place is empty");
    prove(&mut rig, 11, 5);
    assert_eq!(prove(&mut rig, 10, 4).last(), Some(&spawn(6, 2, 2, 2)));
    assert_eq!(prove(&mut rig, 12, 6).last(), Some(&done(2, &[0, 1, 2])));
}

#[test]
fn stopped_instances_stay_so_and_failed_ones_get_another_chance() {
    let policy = Policy {
        max_restarts: 2,
        ..Policy::default()
    };
    let mut rig = Rig::started(3, Readiness::Listens, policy);
    rig.stop(&[0]);
    rig.exited(1);
    rig.exited(2);
    rig.pass(ms(100));
    rig.input(Input::SpawnFailed { worker: WorkerId(4) });
    assert_eq!(rig.state(1), StateView::Errored);
    rig.exited(3);
    assert!(matches!(rig.state(2), StateView::WaitingRestart { .. }));
    assert_eq!(reload(&mut rig), vec![spawn(5, 2, 1, 1), spawn(6, 2, 2, 2)]);
    prove(&mut rig, 10, 5);
    assert_eq!(prove(&mut rig, 11, 6).last(), Some(&done(3, &[1, 2])));
    assert_eq!(rig.view(1).unstable_restarts, 0);
    assert_eq!(rig.state(0), StateView::Stopped);
    reload(&mut rig);
    rig.exited(5);
    let outputs = rig.input(Input::SpawnFailed { worker: WorkerId(8) });
    assert!(outputs.contains(&undone()));
}

#[test]
fn an_errored_instance_is_errored_again_when_the_reload_is_undone() {
    let policy = Policy {
        max_restarts: 1,
        ..Policy::default()
    };
    let mut rig = Rig::started(1, Readiness::Listens, policy);
    rig.exited(1);
    reload(&mut rig);
    rig.input(Input::SpawnFailed { worker: WorkerId(2) });
    assert_eq!((rig.state(0), generation(&rig)), (StateView::Errored, 1));
}

#[test]
fn an_app_at_rest_is_reloaded_at_once() {
    let mut rig = Rig::serving(1);
    rig.stop(&[0]);
    rig.exited(1);
    assert_eq!(reload(&mut rig), vec![reload_done(), done(3, &[])]);
    assert_eq!(rig.restart(&[0]), vec![spawn(2, 2, 0, 0)]);
}

#[test]
fn a_reload_waits_for_the_one_that_runs_and_the_newest_wins() {
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    assert_eq!(reload(&mut rig), vec![]);
    assert_eq!(reload(&mut rig), vec![superseded(3)]);
    let outputs = prove(&mut rig, 10, 2);
    assert!(outputs.contains(&spawn(3, 3, 0, 0)), "{outputs:?}");
    assert_eq!(outputs.last(), Some(&done(2, &[0])));
    assert_eq!(prove(&mut rig, 11, 3).last(), Some(&done(4, &[0])));
}

#[test]
fn a_queued_reload_of_the_same_configuration_means_the_one_that_lasts() {
    let mut rig = Rig::serving(1);
    let config = AppConfig {
        parallel: 7,
        ..AppConfig::default()
    };
    reload_with(&mut rig, config);
    reload(&mut rig);
    rig.exited(2);
    assert_eq!(generation(&rig), 3);
    assert!(rig.core.app(APP).is_some_and(|app| app.config.parallel == 0));
}

#[test]
fn any_other_command_undoes_the_reload_first() {
    let commands = [
        Command::Stop {
            instances: instances(&[0]),
        },
        Command::Delete {
            instances: instances(&[0]),
        },
        Command::Restart {
            instances: instances(&[0]),
        },
        Command::Scale { app: APP, count: 3 },
        Command::Configure {
            app: APP,
            config: AppConfig::default(),
        },
        Command::Shutdown,
    ];
    for command in commands {
        let mut rig = halfway();
        reload(&mut rig);
        let outputs = rig.command(command.clone());
        for wanted in [undone(), drain(3), terminate(4), superseded(2), superseded(3)] {
            assert!(outputs.contains(&wanted), "{command:?}: {outputs:?}");
        }
        let serves = [1, 2].map(|worker| is_ready(&rig, worker));
        let wanted = match command {
            Command::Scale { .. } | Command::Configure { .. } => [true, true],
            Command::Shutdown => [false, false],
            _ => [false, true],
        };
        assert_eq!(serves, wanted, "{command:?}");
    }
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
    assert_eq!(outputs, vec![steer(&[1]), retiring(1), drain(1)]);
    assert_eq!(rig.state(0), StateView::Stopping { worker: WorkerId(1) });
    assert_eq!(leaving(&rig), vec![(1, RetiringPhase::Draining)]);
    assert_eq!(drained(&mut rig, 1), vec![terminate(1)]);
    assert_eq!(rig.exited(1), vec![close(0, &[1]), done(2, &[0])]);
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
fn two_generations_may_drain_and_the_third_ends_the_oldest() {
    let mut rig = Rig::serving(1);
    for worker in [2, 3] {
        rig.pass(ms(10));
        reload(&mut rig);
        prove(&mut rig, 10 + worker as u32, worker);
    }
    rig.pass(ms(10));
    reload(&mut rig);
    assert!(prove(&mut rig, 20, 4).contains(&terminate(1)));
    let draining = RetiringPhase::Draining;
    let wanted = vec![(1, RetiringPhase::Ending), (2, draining), (3, draining)];
    assert_eq!(leaving(&rig), wanted);
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

#[test]
fn an_unfinished_restart_goes_on_in_the_new_generation() {
    let mut rig = Rig::serving(2);
    rig.restart(&[0]);
    assert_eq!(reload(&mut rig), vec![spawn(3, 2, 0, 0), spawn(4, 2, 1, 1)]);
    rig.exited(1);
    let outputs = prove(&mut rig, 10, 3);
    assert!(outputs.contains(&done(2, &[0])), "the restart: {outputs:?}");
    assert!(prove(&mut rig, 11, 4).contains(&close(0, &[10, 11])));
}
