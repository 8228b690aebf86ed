//! Reload: how a new generation takes over, and how it is undone.

use crate::common::rollout::{
    DRAINING, begun, failed, failure_of, halfway, is_ready, leaving, prove, proved, reload, reload_done,
    reload_with, reload_yielding, undone,
};
use crate::common::{
    APP, GROUP, Rig, close, done, drain, draining, instances, ms, rescue, slots, spawn, steer, terminate,
};
use rpm_core::protocol::{
    AppConfig, Command, CrashVerdict, Exit, Failure, Input, Notice, Outcome, Output, Readiness,
    RestartPolicy, UndoCause,
};
use rpm_core::{Generation, GroupId, LeavingPhase, Revision, SlotId, StateView, Ticket, WorkerId};

fn crashed(worker: u64) -> Output {
    Output::Notice(Notice::Crashed {
        worker: WorkerId(worker),
        exit: Some(Exit::Code(1)),
        retry_in: None,
        failures: 0,
        verdict: CrashVerdict::Reload,
    })
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

fn generation(rig: &Rig) -> u32 {
    rig.core.app(APP).expect("the app is there").generation.0
}

#[test]
fn each_candidate_takes_over_when_proved_and_the_old_ones_drain_when_all_are() {
    let mut rig = Rig::serving(2);
    let wanted = vec![begun(2, 2), spawn(3, 2, 0, 0), spawn(4, 2, 1, 1)];
    assert_eq!(reload(&mut rig), wanted);
    assert_eq!(rig.view(0).candidate, Some(WorkerId(3)));
    assert_eq!(rig.spawned(3), vec![]);
    assert_eq!(rig.hold(10, 3), vec![], "not proved, not steered to");
    let [is_online, is_proved] = proved(3);
    assert_eq!(rig.listening(3), vec![steer(&[1, 10]), is_online, is_proved]);
    assert_eq!(leaving(&rig), vec![(1, LeavingPhase::Standby)]);
    assert_eq!((rig.view(0).candidate, rig.view(0).restarts), (None, 0));
    let [is_online, is_proved] = proved(4);
    let wanted = vec![
        steer(&[10, 11]),
        is_online,
        is_proved,
        reload_done(),
        draining(1),
        drain(1),
        draining(2),
        drain(2),
        done(2, &[0, 1]),
    ];
    assert_eq!(prove(&mut rig, 11, 4), wanted);
    assert_eq!((rig.view(0).restarts, rig.view(1).restarts), (1, 1));
    assert_eq!(rig.view(0).generation, Generation(2));
    assert!(rig.core.app(APP).is_some_and(|app| app.reload.is_none()));
}

#[test]
fn a_candidate_that_fails_undoes_the_reload() {
    let mut rig = halfway();
    let wanted = vec![
        steer(&[0, 1]),
        crashed(4),
        undone(failure_of(1, 4, Failure::Exited(Exit::Code(1)))),
        draining(3),
        drain(3),
        failed(2, 1, 4, Failure::Exited(Exit::Code(1))),
    ];
    assert_eq!(rig.exited(4), wanted);
    assert_eq!(generation(&rig), 1);
    for (id, worker) in [(0, 1), (1, 2)] {
        let view = rig.view(id);
        assert_eq!((view.worker(), view.restarts), (Some(WorkerId(worker)), 0));
    }
    assert_eq!(leaving(&rig), vec![(3, DRAINING)]);
    let outputs = reload(&mut rig);
    assert_eq!(
        outputs[..2],
        [begun(3, 2), spawn(5, 3, 0, 0)],
        "a generation of its own"
    );
}

#[test]
fn a_failed_spawn_undoes_the_reload_and_the_unproved_are_told_to_end() {
    let mut rig = Rig::serving(2);
    reload(&mut rig);
    rig.spawned(3);
    let outputs = rig.input(Input::SpawnFailed { worker: WorkerId(4) });
    let failure = failed(2, 1, 4, Failure::SpawnFailed);
    let undone = undone(failure_of(1, 4, Failure::SpawnFailed));
    assert_eq!(outputs[1..], [undone, terminate(3), failure]);
}

#[test]
fn a_new_worker_that_crashes_before_all_are_proved_undoes_the_reload() {
    let mut rig = halfway();
    let outputs = rig.exited(3);
    assert_eq!(outputs[0], steer(&[0, 1]));
    assert!(outputs.contains(&terminate(4)));
    let failure = Failure::Crashed(Exit::Code(1));
    assert_eq!(outputs.last(), Some(&failed(2, 0, 3, failure)));
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1]));
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
    assert_eq!(rig.core.slot_for(WorkerId(5), GROUP), Some(SlotId(0)));
    assert!(is_ready(&rig, 3), "its successor serves until it is there");
    rig.spawned(5);
    let outputs = rig.take_slot(0, 5);
    assert!(outputs.contains(&drain(3)), "{outputs:?}");
    assert_eq!(rig.view(0).worker(), Some(WorkerId(5)));
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
    assert_eq!(leaving(&rig), vec![(3, LeavingPhase::Standby)]);
    rig.input(Input::SpawnFailed { worker: WorkerId(5) });
    assert_eq!(rig.view(0).worker(), Some(WorkerId(3)));
    assert_eq!(rig.pass(ms(2999)), vec![]);
    assert_eq!(rig.pass(ms(1)), vec![close(0, &[1])]);
}

#[test]
fn at_most_so_many_candidates_start_at_once() {
    let mut rig = Rig::serving(3);
    let config = AppConfig {
        parallel: 1,
        ..AppConfig::default()
    };
    assert_eq!(
        reload_with(&mut rig, config),
        vec![begun(2, 3), spawn(4, 2, 0, 0)]
    );
    rig.exited(2);
    let outputs = rig.pass(ms(100));
    assert_eq!(outputs, vec![spawn(5, 2, 1, 1)], "its place is empty");
    prove(&mut rig, 11, 5);
    assert_eq!(prove(&mut rig, 10, 4).last(), Some(&spawn(6, 2, 2, 2)));
    assert_eq!(prove(&mut rig, 12, 6).last(), Some(&done(2, &[0, 1, 2])));
}

#[test]
fn stopped_instances_stay_so_and_failed_ones_get_another_chance() {
    let policy = RestartPolicy {
        max_restarts: 2,
        ..RestartPolicy::default()
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
    let wanted = vec![begun(2, 2), spawn(5, 2, 1, 1), spawn(6, 2, 2, 2)];
    assert_eq!(reload(&mut rig), wanted);
    prove(&mut rig, 10, 5);
    assert_eq!(prove(&mut rig, 11, 6).last(), Some(&done(3, &[1, 2])));
    assert_eq!(rig.view(1).unstable_restarts, 0);
    assert_eq!(rig.state(0), StateView::Stopped);
    reload(&mut rig);
    rig.exited(5);
    let outputs = rig.input(Input::SpawnFailed { worker: WorkerId(8) });
    let undone = Notice::ReloadUndone {
        app: APP,
        generation: Generation(3),
        cause: failure_of(2, 8, Failure::SpawnFailed),
    };
    assert!(outputs.contains(&Output::Notice(undone)), "{outputs:?}");
}

#[test]
fn an_errored_instance_is_errored_again_when_the_reload_is_undone() {
    let policy = RestartPolicy {
        max_restarts: 1,
        ..RestartPolicy::default()
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
    assert_eq!(reload(&mut rig), vec![begun(2, 0), reload_done(), done(3, &[])]);
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
fn one_that_yields_is_undone_by_the_next() {
    for next in [reload, reload_yielding] {
        let mut rig = Rig::serving(2);
        reload_yielding(&mut rig);
        prove(&mut rig, 10, 3);
        rig.spawned(4);
        let outputs = next(&mut rig);
        let undone = undone(UndoCause::Unwanted);
        for wanted in [undone, drain(3), terminate(4), superseded(2), spawn(5, 3, 0, 0)] {
            assert!(outputs.contains(&wanted), "{outputs:?}");
        }
        assert_eq!([1, 2].map(|worker| is_ready(&rig, worker)), [true, true]);
        prove(&mut rig, 11, 5);
        assert_eq!(prove(&mut rig, 12, 6).last(), Some(&done(3, &[0, 1])));
    }
}

#[test]
fn one_that_yields_is_waited_for_if_its_end_would_leave_an_instance_unserved() {
    let mut rig = Rig::serving(2);
    reload_yielding(&mut rig);
    prove(&mut rig, 10, 3);
    rig.spawned(4);
    rig.exited(1);
    assert_eq!(reload(&mut rig), vec![]);
    let outputs = rig.take_slot(11, 4);
    for wanted in [done(2, &[0, 1]), spawn(5, 3, 0, 0)] {
        assert!(outputs.contains(&wanted), "{outputs:?}");
    }
}

#[test]
fn nor_does_it_end_for_an_old_worker_that_is_not_ready() {
    let mut rig = Rig::started(2, Readiness::Listens, RestartPolicy::default());
    reload_yielding(&mut rig);
    prove(&mut rig, 10, 3);
    assert_eq!(reload(&mut rig), vec![]);
    assert!(is_ready(&rig, 3));
}

#[test]
fn one_that_yields_gives_way_to_one_that_waits() {
    let mut rig = Rig::serving(1);
    reload(&mut rig);
    assert_eq!(reload_yielding(&mut rig), vec![]);
    assert_eq!(reload_yielding(&mut rig), vec![superseded(3)]);
    assert_eq!(reload(&mut rig), vec![superseded(4)]);
    assert_eq!(reload_yielding(&mut rig), vec![superseded(6)]);
    assert!(prove(&mut rig, 10, 2).contains(&done(2, &[0])));
    assert_eq!(prove(&mut rig, 11, 3).last(), Some(&done(5, &[0])));
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
            hard: false,
        },
        Command::Delete {
            instances: instances(&[0]),
            hard: true,
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
        let undone = undone(UndoCause::Superseded);
        for wanted in [undone, drain(3), terminate(4), superseded(2), superseded(3)] {
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
fn an_unfinished_restart_goes_on_in_the_new_generation() {
    let mut rig = Rig::serving(2);
    rig.restart(&[0]);
    let wanted = vec![begun(2, 2), spawn(3, 2, 0, 0), spawn(4, 2, 1, 1)];
    assert_eq!(reload(&mut rig), wanted);
    rig.exited(1);
    let outputs = prove(&mut rig, 10, 3);
    assert!(outputs.contains(&done(2, &[0])), "the restart: {outputs:?}");
    assert!(prove(&mut rig, 11, 4).contains(&close(0, &[10, 11])));
}

fn revisions(rig: &Rig) -> (u32, Option<u32>) {
    let app = rig.core.app(APP).expect("the app is there");
    (app.config.revision.0, app.previous.map(|revision| revision.0))
}

#[test]
fn workers_are_started_from_the_revision_that_serves() {
    let mut rig = Rig::serving(1);
    let revision = |number| AppConfig {
        revision: Revision(number),
        ..AppConfig::default()
    };
    let of = |outputs: &[Output]| {
        outputs.iter().find_map(|output| match output {
            Output::Spawn { revision, .. } => Some(revision.0),
            _ => None,
        })
    };
    assert_eq!(of(&reload_with(&mut rig, revision(2))), Some(2));
    let former = rig
        .core
        .app(APP)
        .and_then(|app| app.reload)
        .map(|reload| reload.former);
    assert_eq!(former, Some(Revision(1)));
    assert_eq!(revisions(&rig), (2, None), "nothing is replaced yet");
    rig.exited(2);
    assert_eq!(revisions(&rig), (1, None), "what failed is nothing to go back to");
    assert_eq!(of(&reload_with(&mut rig, revision(3))), Some(3));
    prove(&mut rig, 10, 3);
    assert_eq!(revisions(&rig), (3, Some(1)));
    rig.pass(ms(2000));
    assert_eq!(of(&rig.exited(3)), Some(3), "a crash is answered with the same");
    prove(&mut rig, 10, 4);
    assert_eq!(of(&reload_with(&mut rig, revision(1))), Some(1));
    prove(&mut rig, 11, 5);
    assert_eq!(revisions(&rig), (1, Some(3)));
    rig.command(Command::Configure {
        app: APP,
        config: revision(4),
    });
    assert_eq!(revisions(&rig), (4, Some(1)));
    rig.pass(ms(2000));
    assert_eq!(of(&rig.exited(5)), Some(4));
}

#[test]
fn a_version_that_moves_is_proved_without_its_listener_and_turns_the_old_clients_away() {
    let mut rig = Rig::serving(1);
    let config = AppConfig {
        allow_port_change: true,
        ..AppConfig::default()
    };
    reload_with(&mut rig, config);
    rig.spawned(2);
    let worker = WorkerId(2);
    let outputs = rig.input(Input::Withheld { worker });
    let refuse = Output::RefuseNew {
        worker: WorkerId(1),
        keeps: true,
    };
    for wanted in [reload_done(), drain(1), refuse] {
        assert!(outputs.contains(&wanted), "{outputs:?}");
    }
    assert_eq!(
        rig.core.eligible(GROUP),
        [SlotId(0)],
        "until it has closed its listener"
    );
    let other = GroupId(1);
    let held = Input::SlotHeld {
        slot: SlotId(1),
        group: other,
        worker,
        fixed: true,
    };
    rig.input(held);
    assert_eq!(rig.core.eligible(other), [SlotId(1)]);
    let released = Input::SlotReleased {
        slot: SlotId(0),
        worker: WorkerId(1),
    };
    assert!(rig.input(released).contains(&close(0, &[])));
    // The new ones are stopped too: nobody serves its clients any more.
    let hurry = Output::RefuseNew {
        worker: WorkerId(1),
        keeps: false,
    };
    let stop = || Command::Stop {
        instances: instances(&[0]),
        hard: false,
    };
    assert!(rig.command(stop()).contains(&hurry));
    assert!(!rig.command(stop()).contains(&hurry), "once");
}

#[test]
fn some_instances_alone_get_new_workers_and_a_rollback_goes_where_it_went_before() {
    let mut rig = Rig::serving(2);
    let previous = rig.core.app(APP).and_then(|app| app.previous);
    let replace = Command::Replace {
        app: APP,
        instances: instances(&[1, 9]),
    };
    assert_eq!(rig.command(replace), vec![begun(2, 1), spawn(3, 2, 1, 1)]);
    rig.spawned(3);
    let outputs = prove(&mut rig, 11, 3);
    assert!(
        outputs.contains(&drain(2)) && !outputs.contains(&drain(1)),
        "{outputs:?}"
    );
    assert_eq!(outputs.last(), Some(&done(2, &[1])));
    assert_eq!((rig.view(0).restarts, rig.view(1).restarts), (0, 1));
    assert_eq!(previous, None);
}
