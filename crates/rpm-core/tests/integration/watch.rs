//! `watch_after`: the old workers stand by until the new ones have lasted.

use crate::common::rollout::{
    begun, drained, failed, failure_of, is_ready, leaving, prove, reload, reload_done, reload_with, undone,
};
use crate::common::{APP, GROUP, Rig, done, drain, instances, ms, slots, spawn};
use rpm_core::protocol::{
    AppConfig, Command, Exit, Failure, Outcome, Output, Readiness, RestartPolicy, UndoCause,
};
use rpm_core::{LeavingPhase, Ticket, WorkerId};

/// Two instances; the workers 3 and 4 serve on the slots 10 and 11, and are watched for five seconds.
fn watched() -> Rig {
    watched_of(false)
}

fn watched_of(yields: bool) -> Rig {
    let mut rig = Rig::serving(2);
    let policy = RestartPolicy {
        watch_after: ms(5000),
        ..RestartPolicy::default()
    };
    let config = AppConfig {
        readiness: Readiness::Listens,
        policy,
        ..AppConfig::default()
    };
    rig.command(Command::Reload {
        app: APP,
        config: Some(config),
        yields,
        then_scale: None,
    });
    prove(&mut rig, 10, 3);
    let outputs = prove(&mut rig, 11, 4);
    assert!(!outputs.contains(&reload_done()), "{outputs:?}");
    rig
}

fn superseded(ticket: u64) -> Output {
    let outcome = Outcome::Failed {
        instance: None,
        worker: None,
        failure: Failure::Superseded,
    };
    Output::Done {
        ticket: Ticket(ticket),
        outcome,
    }
}

#[test]
fn the_new_workers_serve_and_the_old_ones_stand_by_until_it_has_passed() {
    let mut rig = watched();
    assert_eq!(rig.core.eligible(GROUP), slots(&[10, 11]));
    let warm = [(1, LeavingPhase::Standby), (2, LeavingPhase::Standby)];
    assert_eq!(leaving(&rig), warm);
    assert_eq!(rig.pass(ms(4999)), vec![]);
    let outputs = rig.pass(ms(1));
    for wanted in [reload_done(), drain(1), drain(2), done(2, &[0, 1])] {
        assert!(outputs.contains(&wanted), "{outputs:?}");
    }
}

#[test]
fn one_that_ends_within_it_has_the_old_ones_serve_again() {
    let mut rig = watched();
    rig.pass(ms(4000));
    let outputs = rig.exited(4);
    let failure = Failure::Crashed(Exit::Code(1));
    let undone = undone(failure_of(1, 4, failure));
    assert!(outputs.contains(&undone) && outputs.contains(&drain(3)));
    assert_eq!(outputs.last(), Some(&failed(2, 1, 4, failure)));
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1]));
    assert_eq!(rig.view(1).worker(), Some(WorkerId(2)));
    drained(&mut rig, 3);
    rig.exited(3);
    assert_eq!(rig.pass(ms(60_000)), vec![], "no verdict any more");
}

#[test]
fn the_next_reload_waits_for_the_verdict() {
    let mut rig = watched();
    assert_eq!(reload(&mut rig), vec![]);
    let outputs = rig.pass(ms(5000));
    assert!(outputs.contains(&done(2, &[0, 1])));
    assert!(
        outputs.iter().any(|it| matches!(it, Output::Spawn { .. })),
        "{outputs:?}"
    );
}

#[test]
fn the_next_reload_accepts_the_new_workers_of_one_that_yields() {
    let mut rig = watched_of(true);
    let outputs = reload(&mut rig);
    for wanted in [
        reload_done(),
        drain(1),
        drain(2),
        done(2, &[0, 1]),
        spawn(5, 3, 0, 0),
    ] {
        assert!(outputs.contains(&wanted), "{outputs:?}");
    }
    assert_eq!([3, 4].map(|worker| is_ready(&rig, worker)), [true, true]);
}

#[test]
fn any_other_command_accepts_the_new_workers() {
    let mut rig = watched();
    reload(&mut rig);
    let outputs = rig.command(Command::Scale { app: APP, count: 3 });
    for wanted in [superseded(3), reload_done(), drain(1), drain(2), done(2, &[0, 1])] {
        assert!(outputs.contains(&wanted), "{outputs:?}");
    }
    assert_eq!([3, 4].map(|worker| is_ready(&rig, worker)), [true, true]);
}

#[test]
fn it_can_be_taken_back_at_once() {
    let mut rig = watched();
    let outputs = rig.command(Command::Undo { app: APP });
    let undone = undone(UndoCause::Unwanted);
    for wanted in [undone, drain(3), drain(4), superseded(2), done(3, &[0, 1])] {
        assert!(outputs.contains(&wanted), "{outputs:?}");
    }
    assert_eq!(rig.core.eligible(GROUP), slots(&[0, 1]));
    assert_eq!(
        rig.command(Command::Undo { app: APP }),
        vec![done(4, &[0, 1])],
        "nothing to undo"
    );
}

#[test]
fn an_app_at_rest_is_not_watched() {
    let mut rig = Rig::serving(1);
    rig.stop(&[0]);
    rig.exited(1);
    let policy = RestartPolicy {
        watch_after: ms(5000),
        ..RestartPolicy::default()
    };
    let config = AppConfig {
        policy,
        ..AppConfig::default()
    };
    let wanted = vec![begun(2, 0), reload_done(), done(3, &[])];
    assert_eq!(reload_with(&mut rig, config), wanted);
    assert_eq!(instances(&[0]), [rig.view(0).id]);
}
