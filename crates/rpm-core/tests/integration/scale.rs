//! Scaling: which instances come and which go.

use crate::common::rollout::{begun, failure_of, prove, undone};
use crate::common::{
    APP, GROUP, Rig, deleted, done, drain, draining, failed, ms, online, slots, spawn, terminate,
};
use rpm_core::protocol::{
    AppConfig, Command, Exit, Failure, Notice, Outcome, Output, Readiness, RestartPolicy,
};
use rpm_core::{AppId, Core, InstanceId, Ticket};

fn scaled(from: u32, to: u32) -> Output {
    Output::Notice(Notice::Scaled { app: APP, from, to })
}

#[test]
fn scale_adds_and_removes_the_lowest_first() {
    let mut rig = Rig::started(3, Readiness::Executed, RestartPolicy::default());
    let outputs = rig.command(Command::Scale { app: APP, count: 1 });
    let wanted = vec![scaled(3, 1), draining(1), drain(1), draining(2), drain(2)];
    assert_eq!(outputs, wanted);
    rig.exited(1);
    assert_eq!(rig.exited(2), vec![deleted(1), done(2, &[0, 1])]);
    let outputs = rig.command(Command::Scale { app: APP, count: 3 });
    let wanted = vec![scaled(1, 3), spawn(4, 1, 3, 0), spawn(5, 1, 4, 1)];
    assert_eq!(outputs, wanted);
    rig.spawned(4);
    assert_eq!(rig.spawned(5), vec![online(5, false), done(3, &[3, 4])]);
    assert_eq!(
        rig.command(Command::Scale { app: APP, count: 3 }),
        vec![done(4, &[])]
    );
    let outputs = rig.command(Command::Scale {
        app: AppId(1),
        count: 3,
    });
    assert_eq!(
        outputs,
        vec![Output::Done {
            ticket: Ticket(5),
            outcome: Outcome::Failed {
                instance: None,
                worker: None,
                failure: Failure::NoSuchApp,
            },
        }]
    );
}

#[test]
fn scale_removes_those_that_do_not_serve_before_those_that_do() {
    // 0 and 1 serve, 2 is errored, 3 waits for a restart, 4 is stopped, 5 starts.
    let policy = RestartPolicy {
        max_restarts: 2,
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(6, Readiness::Listens, policy);
    for slot in 0..2 {
        rig.take_slot(slot, u64::from(slot) + 1);
    }
    rig.exited(4);
    rig.exited(3);
    rig.pass(ms(60));
    rig.exited(7);
    rig.exited(8);
    rig.stop(&[4]);
    rig.exited(5);
    for (count, gone) in [(5, 2), (4, 3), (3, 4)] {
        rig.command(Command::Scale { app: APP, count });
        assert!(rig.core.instance(InstanceId(gone)).is_none(), "{count}");
    }
    assert!(
        rig.command(Command::Scale { app: APP, count: 2 })
            .contains(&terminate(6))
    );
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1]));
}

#[test]
fn scale_does_not_count_what_is_being_deleted() {
    let mut rig = Rig::started(2, Readiness::Executed, RestartPolicy::default());
    rig.delete(&[0]);
    let outputs = rig.command(Command::Scale { app: APP, count: 2 });
    let wanted = vec![scaled(1, 2), spawn(3, 1, 2, 2)];
    assert_eq!(outputs, wanted, "number 0 is still in use");
}

/// Two instances, the first of which is served by its new worker; then there are to be so many. The command is ticket 2.
fn halfway_to(count: u32, watch_after: u64) -> Rig {
    let mut rig = Rig::serving(2);
    let config = AppConfig {
        policy: RestartPolicy {
            watch_after: ms(watch_after),
            ..RestartPolicy::default()
        },
        ..AppConfig::default()
    };
    let outputs = rig.command(Command::Reload {
        app: APP,
        config: Some(config),
        yields: false,
        then_scale: Some(count),
    });
    let wanted = vec![begun(2, 2), spawn(3, 2, 0, 0), spawn(4, 2, 1, 1)];
    assert_eq!(outputs, wanted);
    prove(&mut rig, 10, 3);
    rig
}

fn is_settled(outputs: &[Output]) -> bool {
    outputs.iter().any(|it| matches!(it, Output::Done { .. }))
}

#[test]
fn a_reload_is_followed_by_its_scaling_and_done_with_that() {
    let mut rig = halfway_to(3, 0);
    let outputs = prove(&mut rig, 11, 4);
    assert!(outputs.contains(&spawn(5, 2, 2, 2)), "{outputs:?}");
    assert!(!is_settled(&outputs), "the third does not serve yet: {outputs:?}");
    let outputs = prove(&mut rig, 12, 5);
    assert!(outputs.contains(&done(2, &[2])), "{outputs:?}");
    let mut rig = halfway_to(1, 0);
    let outputs = prove(&mut rig, 11, 4);
    assert!(outputs.contains(&drain(3)), "one too many: {outputs:?}");
}

#[test]
fn the_scaling_after_a_reload_survives_the_shell() {
    let mut rig = halfway_to(3, 0);
    rig.core = Core::restore(rig.core.snapshot(), 1).expect("it is of a core");
    rig.core.take_over(rig.now, &[]);
    let outputs = prove(&mut rig, 11, 4);
    assert!(outputs.contains(&spawn(5, 2, 2, 2)), "{outputs:?}");
}

#[test]
fn a_reload_that_is_undone_scales_nothing() {
    let mut rig = halfway_to(3, 0);
    let outputs = rig.exited(4);
    let why = failure_of(1, 4, Failure::Exited(Exit::Code(1)));
    assert!(
        outputs.contains(&undone(why)) && is_settled(&outputs),
        "{outputs:?}"
    );
    assert_eq!(rig.core.instances().count(), 2);
}

#[test]
fn a_command_that_cuts_a_reload_short_takes_its_scaling_with_it() {
    let mut rig = halfway_to(3, 1000);
    let outputs = prove(&mut rig, 11, 4);
    assert!(!is_settled(&outputs), "it is watched: {outputs:?}");
    let outputs = rig.delete(&[0, 1]);
    assert!(outputs.contains(&superseded(2)), "{outputs:?}");
    for worker in 1..=4 {
        rig.exited(worker);
    }
    assert!(rig.core.app(APP).is_none(), "nothing came after it");
    let mut rig = halfway_to(3, 1000);
    prove(&mut rig, 11, 4);
    let outputs = rig.pass(ms(1000));
    assert!(outputs.contains(&spawn(5, 2, 2, 2)), "{outputs:?}");
}

/// Two instances that are restarted; then there are to be three. The command is ticket 2; the new workers are 3 and 4.
fn restarting() -> Rig {
    let mut rig = Rig::serving(2);
    rig.command(Command::RestartAndScale { app: APP, count: 3 });
    rig.exited(1);
    let outputs = rig.exited(2);
    assert!(outputs.contains(&spawn(4, 1, 1, 1)), "{outputs:?}");
    rig
}

/// The shell dies; the workers that were starting end with it.
fn next_shell(rig: &mut Rig) {
    rig.core = Core::restore(rig.core.snapshot(), 1).expect("it is of a core");
    rig.core.take_over(rig.now, &[]);
}

fn superseded(ticket: u64) -> Output {
    failed(ticket, None, None, Failure::Superseded)
}

#[test]
fn a_restart_is_followed_by_its_scaling_and_done_with_that() {
    let mut rig = restarting();
    let outputs = prove(&mut rig, 0, 3);
    assert!(
        !is_settled(&outputs) && rig.core.instances().count() == 2,
        "{outputs:?}"
    );
    let outputs = prove(&mut rig, 1, 4);
    assert!(
        outputs.contains(&scaled(2, 3)) && !is_settled(&outputs),
        "{outputs:?}"
    );
    let outputs = prove(&mut rig, 2, 5);
    assert!(outputs.contains(&done(2, &[2])), "{outputs:?}");
    let unknown = rig.command(Command::RestartAndScale {
        app: AppId(1),
        count: 3,
    });
    assert_eq!(unknown, vec![failed(3, None, None, Failure::NoSuchApp)]);
}

#[test]
fn the_scaling_after_a_restart_survives_the_shell_and_the_workers_that_end_with_it() {
    let mut rig = restarting();
    prove(&mut rig, 0, 3);
    next_shell(&mut rig);
    let outputs = rig.exited_with(4, Exit::Signal(9));
    assert!(!is_settled(&outputs), "{outputs:?}");
    next_shell(&mut rig);
    let outputs = rig.pass(ms(100));
    assert!(outputs.contains(&spawn(5, 1, 1, 1)), "{outputs:?}");
    let outputs = prove(&mut rig, 1, 5);
    assert!(outputs.contains(&scaled(2, 3)), "{outputs:?}");
    prove(&mut rig, 2, 6);
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1, 2]));
    let again = rig.core.snapshot();
    assert!(again.apps.values().all(|app| app.scaling.is_none()), "once");
}

#[test]
fn a_restart_that_fails_scales_nothing() {
    let mut rig = restarting();
    let outputs = rig.exited(4);
    let why = Failure::Exited(Exit::Code(1));
    assert!(outputs.contains(&failed(2, Some(1), Some(4), why)), "{outputs:?}");
    prove(&mut rig, 0, 3);
    rig.pass(ms(100));
    prove(&mut rig, 1, 5);
    assert_eq!(rig.core.instances().count(), 2);
}

#[test]
fn a_restart_that_gives_up_scales_nothing_for_the_next_shell_either() {
    let policy = RestartPolicy {
        max_restarts: 1,
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Listens, policy);
    rig.take_slot(0, 1);
    rig.command(Command::RestartAndScale { app: APP, count: 3 });
    rig.exited(1);
    next_shell(&mut rig);
    let outputs = rig.exited(2);
    assert!(is_settled(&outputs), "{outputs:?}");
    rig.restart(&[0]);
    prove(&mut rig, 0, 3);
    assert_eq!(rig.core.instances().count(), 1);
}

#[test]
fn the_last_command_decides_how_many_instances_there_are() {
    let config = || Some(AppConfig::default());
    let reload = |config, yields, then_scale| Command::Reload {
        app: APP,
        config,
        yields,
        then_scale,
    };
    let cases = [
        (Command::Scale { app: APP, count: 2 }, true),
        (Command::RestartAndScale { app: APP, count: 2 }, true),
        (
            Command::Configure {
                app: APP,
                config: AppConfig::default(),
            },
            true,
        ),
        (reload(config(), false, None), true),
        (reload(None, false, Some(2)), true),
        (reload(None, false, None), false),
        (reload(config(), true, None), false),
        (
            Command::Stop {
                instances: vec![InstanceId(1)],
                hard: true,
            },
            true,
        ),
        (
            Command::Restart {
                instances: vec![InstanceId(1)],
            },
            false,
        ),
        (Command::Undo { app: APP }, false),
    ];
    for (command, decides) in cases {
        let mut rig = restarting();
        let outputs = rig.command(command.clone());
        let ended = outputs.iter().any(|it| {
            matches!(it, Output::Done { ticket: Ticket(2), outcome: Outcome::Failed { failure, .. } } if *failure == Failure::Superseded)
        });
        assert_eq!(ended, decides, "{command:?}: {outputs:?}");
        let stored = rig.core.snapshot().apps[&APP].scaling.clone();
        let count = match &command {
            Command::RestartAndScale { count, .. } => Some(*count),
            _ => (!decides).then_some(3),
        };
        assert_eq!(stored.map(|scaling| scaling.count), count, "{command:?}");
    }
}
