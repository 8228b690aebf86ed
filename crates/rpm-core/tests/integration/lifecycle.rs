//! Commands, readiness, restarts and tickets, one story per rule.

use std::time::Duration;

use crate::common::{APP, Rig, deleted, done, failed, instances, kill, ms, online, spawn, terminate};
use rpm_core::protocol::{
    AppConfig, Command, CrashVerdict, Exit, Failure, Input, Notice, Outcome, Output, Readiness, RestartPolicy,
};
use rpm_core::{AppId, EndsFor, Generation, StateView, Ticket, WorkerId};

fn crashed(worker: u64, retry_in: Option<Duration>, failures: u32, verdict: CrashVerdict) -> Output {
    let exit = Some(Exit::Code(1));
    Output::Notice(Notice::Crashed {
        worker: WorkerId(worker),
        exit,
        retry_in,
        failures,
        verdict,
    })
}

fn config(instances: u32) -> AppConfig {
    AppConfig {
        instances,
        readiness: Readiness::Listens,
        ..AppConfig::default()
    }
}

#[test]
fn start_spawns_all_in_order_and_is_done_when_all_are_online() {
    let mut rig = Rig::new();
    let outputs = rig.start(2, Readiness::Listens, RestartPolicy::default());
    assert_eq!(outputs, vec![spawn(1, 1, 0, 0), spawn(2, 1, 1, 1)]);
    rig.spawned(1);
    rig.spawned(2);
    assert_eq!(rig.listening(2), vec![online(2, false)]);
    assert_eq!(rig.listening(1), vec![online(1, false), done(1, &[0, 1])]);
}

#[test]
fn executed_is_ready_at_the_spawn() {
    let mut rig = Rig::new();
    rig.start(1, Readiness::Executed, RestartPolicy::default());
    assert_eq!(rig.spawned(1), vec![online(1, false), done(1, &[0])]);
}

#[test]
fn a_worker_that_never_listens_is_online_and_silent_until_it_does() {
    let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
    assert_eq!(rig.pass(ms(29_999)), vec![]);
    let outcome = Outcome::Done {
        instances: instances(&[0]),
        silent: instances(&[0]),
    };
    let wanted = vec![
        online(1, true),
        Output::Done {
            ticket: Ticket(1),
            outcome,
        },
    ];
    assert_eq!(rig.pass(ms(1)), wanted);
    assert!(matches!(rig.state(0), StateView::Online { silent: true, .. }));
    assert_eq!(rig.listening(1), vec![online(1, false)]);
    assert!(matches!(rig.state(0), StateView::Online { silent: false, .. }));
    assert_eq!(rig.listening(1), vec![]);
}

#[test]
fn a_worker_that_never_announces_fails_and_is_tried_again() {
    let mut rig = Rig::started(1, Readiness::Announces, RestartPolicy::default());
    rig.listening(1);
    assert!(matches!(rig.state(0), StateView::Launching { .. }));
    let not_ready = failed(1, Some(0), Some(1), Failure::NotReady { within: ms(30_000) });
    assert_eq!(rig.pass(ms(30_000)), vec![terminate(1), not_ready]);
    assert_eq!(rig.pass(ms(9999)), vec![]);
    assert_eq!(rig.pass(ms(1)), vec![kill(1)]);
    rig.exited(1);
    assert!(matches!(rig.state(0), StateView::WaitingRestart { .. }));
    assert_eq!(rig.view(0).unstable_restarts, 1);
    assert_eq!(rig.pass(ms(60)), vec![spawn(2, 1, 0, 0)]);
    rig.spawned(2);
    assert_eq!(
        rig.input(Input::Ready { worker: WorkerId(2) }),
        vec![online(2, false)]
    );
}

#[test]
fn a_word_from_the_process_says_that_it_runs() {
    let mut rig = Rig::new();
    rig.start(1, Readiness::Listens, RestartPolicy::default());
    assert_eq!(rig.listening(1), vec![online(1, false), done(1, &[0])]);
    assert!(
        rig.core
            .worker(WorkerId(1))
            .is_some_and(|worker| worker.spawned.is_some())
    );
}

#[test]
fn a_spawn_that_is_never_answered_is_given_up() {
    let mut rig = Rig::new();
    rig.start(1, Readiness::Listens, RestartPolicy::default());
    let not_ready = failed(1, Some(0), Some(1), Failure::NotReady { within: ms(30_000) });
    assert_eq!(rig.pass(ms(30_000)), vec![not_ready]);
    assert_eq!(rig.pass(ms(100)), vec![kill(1)]);
    rig.input(Input::SpawnFailed { worker: WorkerId(1) });
    assert!(matches!(rig.state(0), StateView::WaitingRestart { .. }));
}

#[test]
fn a_mature_exit_is_followed_by_a_spawn_at_once() {
    let mut rig = Rig::serving(1);
    rig.pass(ms(1000));
    let outputs = rig.exited(1);
    assert!(
        outputs.ends_with(&[
            crashed(1, Some(Duration::ZERO), 0, CrashVerdict::Retry),
            spawn(2, 1, 0, 0)
        ]),
        "{outputs:?}"
    );
    let view = rig.view(0);
    assert_eq!((view.restarts, view.unstable_restarts), (1, 0));
    assert_eq!(view.last_exit, Some(Exit::Code(1)));
}

#[test]
fn an_instance_that_keeps_failing_young_is_errored_after_max_restarts() {
    let policy = RestartPolicy {
        max_restarts: 3,
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Listens, policy);
    let outputs = rig.exited(1);
    assert_eq!(
        outputs.last(),
        Some(&failed(1, Some(0), Some(1), Failure::Exited(Exit::Code(1))))
    );
    for worker in [2, 3] {
        rig.pass(ms(600));
        rig.spawned(worker);
        rig.exited(worker);
    }
    assert_eq!(rig.state(0), StateView::Errored);
    assert_eq!((rig.view(0).restarts, rig.view(0).unstable_restarts), (2, 3));
    assert_eq!((rig.pass(ms(100_000)), rig.core.poll_timeout()), (vec![], None));
}

#[test]
fn time_online_clears_the_count_of_failures() {
    let policy = RestartPolicy {
        max_restarts: 2,
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Listens, policy);
    rig.exited(1);
    for worker in [2, 4, 6] {
        rig.pass(ms(600));
        rig.spawned(worker);
        rig.listening(worker);
        rig.pass(ms(1000));
        rig.exited(worker);
        rig.spawned(worker + 1);
        rig.exited(worker + 1);
        assert_eq!(rig.view(0).unstable_restarts, 1);
    }
}

#[test]
fn a_failed_spawn_counts_as_a_young_failure() {
    let mut rig = Rig::new();
    rig.start(1, Readiness::Listens, RestartPolicy::default());
    let outputs = rig.input(Input::SpawnFailed { worker: WorkerId(1) });
    assert_eq!(
        outputs.last(),
        Some(&failed(1, Some(0), Some(1), Failure::SpawnFailed))
    );
    assert!(matches!(rig.state(0), StateView::WaitingRestart { .. }));
    assert_eq!(rig.view(0).last_exit, None);
}

#[test]
fn a_crash_says_how_often_and_what_decided_what_follows() {
    let policy = RestartPolicy {
        max_restarts: 3,
        start_timeout: ms(1000),
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Announces, policy);
    let said = |outputs: &[Output]| {
        outputs.iter().find_map(|output| match output {
            Output::Notice(Notice::Crashed {
                failures, verdict, ..
            }) => Some((*failures, *verdict)),
            _ => None,
        })
    };
    assert_eq!(said(&rig.exited(1)), Some((1, CrashVerdict::Retry)));
    rig.pass(ms(100));
    rig.spawned(2);
    let outputs = rig.pass(ms(1000));
    assert_eq!((outputs.contains(&terminate(2)), said(&outputs)), (true, None));
    assert_eq!(rig.view(0).ends_for, Some(EndsFor::Failure { is_last: false }));
    assert_eq!(said(&rig.exited(2)), Some((2, CrashVerdict::NotReady)));
    rig.pass(ms(200));
    rig.spawned(3);
    let errored = CrashVerdict::Errored { not_ready: false };
    assert_eq!(said(&rig.exited(3)), Some((3, errored)));
}

#[test]
fn what_a_worker_was_asked_to_end_for_is_seen() {
    let mut rig = Rig::started(1, Readiness::Executed, RestartPolicy::default());
    assert_eq!(rig.view(0).ends_for, None);
    for (command, ends_for) in [
        (Rig::restart as fn(&mut Rig, &[u32]) -> _, EndsFor::Restart),
        (Rig::stop, EndsFor::Stop),
        (Rig::delete, EndsFor::Delete),
    ] {
        command(&mut rig, &[0]);
        assert_eq!(rig.view(0).ends_for, Some(ends_for));
    }
}

#[test]
fn without_autorestart_an_exit_is_the_end() {
    let policy = RestartPolicy {
        autorestart: false,
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Executed, policy);
    let wanted = vec![crashed(1, None, 0, CrashVerdict::Stopped)];
    assert_eq!(rig.exited(1), wanted);
    assert_eq!(
        (rig.state(0), rig.view(0).last_exit),
        (StateView::Stopped, Some(Exit::Code(1)))
    );
}

#[test]
fn stop_terminates_then_kills_again_and_again() {
    let policy = RestartPolicy {
        kill_timeout: ms(1600),
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Executed, policy);
    assert_eq!(rig.stop(&[0]), vec![terminate(1)]);
    assert_eq!(rig.pass(ms(1599)), vec![]);
    assert_eq!(rig.pass(ms(1)), vec![kill(1)]);
    assert_eq!(rig.pass(ms(1600)), vec![kill(1)]);
    assert_eq!(rig.pass(ms(3199)), vec![]);
    assert_eq!(rig.pass(ms(1)), vec![kill(1)]);
    assert_eq!(rig.pass(ms(300_000)).len(), 11, "one per 30 s at last");
    assert_eq!(rig.exited(1), vec![done(2, &[0])]);
    assert_eq!(
        (rig.state(0), rig.core.poll_timeout()),
        (StateView::Stopped, None)
    );
}

#[test]
fn a_worker_without_a_process_is_told_to_end_when_it_has_one() {
    let mut rig = Rig::new();
    rig.start(1, Readiness::Listens, RestartPolicy::default());
    assert_eq!(
        rig.stop(&[0]),
        vec![failed(1, Some(0), None, Failure::Superseded)]
    );
    assert_eq!(rig.spawned(1), vec![terminate(1)]);
    assert_eq!(rig.exited(1), vec![done(2, &[0])]);
}

#[test]
fn stop_cancels_the_back_off() {
    let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
    rig.exited(1);
    assert_eq!(rig.stop(&[0]), vec![done(2, &[0])]);
    assert_eq!((rig.pass(ms(10_000)), rig.state(0)), (vec![], StateView::Stopped));
}

#[test]
fn restart_of_an_online_instance_counts_and_of_a_resting_one_does_not() {
    let mut rig = Rig::started(1, Readiness::Executed, RestartPolicy::default());
    assert_eq!(rig.restart(&[0]), vec![terminate(1)]);
    assert_eq!(rig.exited(1), vec![spawn(2, 1, 0, 0)]);
    assert_eq!(rig.view(0).restarts, 1);
    assert_eq!(rig.spawned(2), vec![online(2, false), done(2, &[0])]);
    rig.stop(&[0]);
    rig.exited(2);
    assert_eq!(rig.restart(&[0]), vec![spawn(3, 1, 0, 0)]);
    assert_eq!(rig.view(0).restarts, 1);
}

#[test]
fn restart_of_an_errored_or_waiting_instance_starts_afresh() {
    for max_restarts in [1, 2] {
        let policy = RestartPolicy {
            max_restarts,
            ..RestartPolicy::default()
        };
        let mut rig = Rig::started(1, Readiness::Listens, policy);
        rig.exited(1);
        assert_eq!(rig.restart(&[0]), vec![spawn(2, 1, 0, 0)]);
        assert_eq!(rig.view(0).unstable_restarts, 0);
        assert_eq!(
            rig.core.poll_timeout(),
            Some(rig.now + ms(30_000)),
            "no second spawn"
        );
    }
}

#[test]
fn the_newest_wish_wins() {
    let mut rig = Rig::started(1, Readiness::Executed, RestartPolicy::default());
    rig.restart(&[0]);
    assert_eq!(
        rig.stop(&[0]),
        vec![failed(2, Some(0), None, Failure::Superseded)]
    );
    assert_eq!(rig.delete(&[0]), vec![], "a deleted instance is also down");
    assert_eq!(rig.restart(&[0]).len(), 2, "stop and delete are superseded");
    assert_eq!(rig.exited(1), vec![spawn(2, 1, 0, 0)]);
    assert_eq!(rig.restart(&[0]), vec![], "the earlier restart can still be met");
    rig.spawned(2);
    rig.exited(2);
    assert_eq!(
        rig.spawned(3),
        vec![online(3, false), done(5, &[0]), done(6, &[0])]
    );
}

#[test]
fn delete_forgets_and_ids_start_again_when_none_is_left() {
    let mut rig = Rig::started(2, Readiness::Executed, RestartPolicy::default());
    rig.delete(&[1]);
    assert_eq!(rig.exited(2), vec![deleted(1), done(2, &[1])]);
    rig.command(Command::Scale { app: APP, count: 2 });
    assert_eq!(rig.view(2).number, 1, "a new id, and the lowest free number");
    rig.delete(&[0, 2]);
    rig.exited(1);
    rig.spawned(3);
    assert_eq!(
        rig.exited(3),
        vec![deleted(2), Output::AppGone { app: APP }, done(4, &[0, 2])]
    );
    assert!(rig.core.app(APP).is_none());
    let outputs = rig.start(1, Readiness::Executed, RestartPolicy::default());
    assert_eq!(outputs, vec![spawn(4, 1, 0, 0)]);
}

#[test]
fn a_command_on_nothing_is_done() {
    let mut rig = Rig::new();
    assert_eq!(rig.stop(&[]), vec![done(1, &[])]);
    assert_eq!(rig.restart(&[9]), vec![done(2, &[])]);
    assert_eq!(rig.command(Command::Shutdown), vec![done(3, &[])]);
}

#[test]
fn an_app_id_in_use_is_refused() {
    let mut rig = Rig::started(1, Readiness::Executed, RestartPolicy::default());
    let outputs = rig.start(1, Readiness::Executed, RestartPolicy::default());
    assert_eq!(outputs, vec![failed(2, None, None, Failure::Superseded)]);
}

#[test]
fn configure_takes_effect_at_the_next_spawn() {
    let mut rig = Rig::started(1, Readiness::Executed, RestartPolicy::default());
    let outputs = rig.command(Command::Configure {
        app: APP,
        config: config(5),
    });
    assert_eq!(outputs, vec![done(2, &[])]);
    assert_eq!(rig.view(0).generation, Generation(1));
    rig.restart(&[0]);
    assert_eq!(rig.exited(1), vec![spawn(2, 2, 0, 0)]);
    let outputs = rig.command(Command::Configure {
        app: AppId(1),
        config: config(1),
    });
    assert_eq!(outputs, vec![failed(4, None, None, Failure::NoSuchApp)]);
}

#[test]
fn shutdown_deletes_everything_and_refuses_the_rest() {
    let mut rig = Rig::started(2, Readiness::Listens, RestartPolicy::default());
    let superseded = failed(1, Some(0), None, Failure::Superseded);
    assert_eq!(
        rig.command(Command::Shutdown),
        vec![terminate(1), terminate(2), superseded]
    );
    assert_eq!(
        rig.restart(&[0]),
        vec![failed(3, None, None, Failure::Superseded)]
    );
    rig.exited(1);
    assert_eq!(
        rig.exited(2),
        vec![deleted(1), Output::AppGone { app: APP }, done(2, &[0, 1])]
    );
    assert_eq!((rig.core.instances().count(), rig.core.poll_timeout()), (0, None));
}

#[test]
fn what_contradicts_is_ignored() {
    let mut rig = Rig::started(1, Readiness::Executed, RestartPolicy::default());
    let unknown = WorkerId(99);
    for input in [
        Input::Spawned { worker: unknown },
        Input::SpawnFailed { worker: unknown },
        Input::Exited {
            worker: unknown,
            exit: Exit::Signal(9),
        },
        Input::Listening { worker: unknown },
        Input::Ready { worker: unknown },
        Input::Responded { worker: unknown },
        Input::Spawned { worker: WorkerId(1) },
        Input::Ready { worker: WorkerId(1) },
    ] {
        assert_eq!(rig.input(input.clone()), vec![], "{input:?}");
    }
}

#[test]
fn an_absurd_number_of_instances_is_cut() {
    let mut rig = Rig::new();
    let mut config = config(u32::MAX);
    config.readiness = Readiness::Executed;
    rig.command(Command::Start { app: APP, config });
    assert_eq!(rig.core.instances().count(), rpm_core::MAX_INSTANCES as usize);
}

#[test]
fn time_that_runs_backwards_stands_still() {
    let mut rig = Rig::started(1, Readiness::Executed, RestartPolicy::default());
    rig.pass(ms(5000));
    rig.queue(0, 0);
    rig.now = rpm_core::Tick::default();
    assert_eq!(rig.exited(1).len(), 2);
    assert_eq!(rig.view(0).unstable_restarts, 0, "it was up for five seconds");
}

#[test]
fn an_exit_code_that_stops_is_the_end_of_it_and_no_failure() {
    let policy = RestartPolicy {
        stop_exit_codes: vec![0, 1],
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Listens, policy);
    rig.listening(1);
    rig.exited(1);
    assert_eq!(rig.state(0), StateView::Stopped);
    rig.restart(&[0]);
    rig.spawned(2);
    rig.listening(2);
    rig.input(Input::Exited {
        worker: WorkerId(2),
        exit: Exit::Signal(9),
    });
    assert!(matches!(
        rig.state(0),
        StateView::WaitingRestart { .. } | StateView::Launching { .. }
    ));
}

#[test]
fn what_is_not_to_start_waits_in_the_list() {
    let mut rig = Rig::new();
    let config = AppConfig {
        stopped: true,
        ..config(2)
    };
    let outputs = rig.command(Command::Start { app: APP, config });
    assert_eq!(outputs, vec![done(1, &[0, 1])]);
    assert_eq!([rig.state(0), rig.state(1)], [StateView::Stopped; 2]);
    assert_eq!(rig.restart(&[1]), vec![spawn(1, 1, 1, 1)]);
}

#[test]
fn counts_of_restarts_begin_again() {
    let mut rig = Rig::started(1, Readiness::Listens, RestartPolicy::default());
    rig.exited(1);
    rig.pass(ms(600));
    assert_eq!((rig.view(0).restarts, rig.view(0).unstable_restarts), (1, 1));
    let instances = instances(&[0, 9]);
    rig.command(Command::Reset { instances });
    assert_eq!((rig.view(0).restarts, rig.view(0).unstable_restarts), (0, 0));
}
