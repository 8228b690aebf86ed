//! Programs that may have no port at all: when they are ready, and when they have failed to start.

use crate::common::{Rig, done, failed, instances, ms, online, spawn};
use rpm_core::protocol::{Command, Exit, Failure, Input, Readiness, RestartPolicy};
use rpm_core::{StateView, WorkerId};

#[test]
fn what_may_have_no_port_is_ready_when_it_listens_or_has_lived_for_a_second() {
    let mut rig = Rig::started(1, Readiness::Runs, RestartPolicy::default());
    assert!(matches!(rig.state(0), StateView::Launching { .. }));
    assert_eq!(rig.listening(1), vec![online(1, false), done(1, &[0])]);
    assert_eq!(rig.pass(ms(5000)), vec![]);
    let mut rig = Rig::started(1, Readiness::Runs, RestartPolicy::default());
    assert_eq!(rig.pass(ms(999)), vec![]);
    assert_eq!(rig.pass(ms(1)), vec![online(1, false), done(1, &[0])]);
    let hurried = RestartPolicy {
        listen_timeout: ms(200),
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Runs, hurried);
    assert_eq!(rig.pass(ms(200)), vec![online(1, false), done(1, &[0])]);
}

#[test]
fn what_has_had_no_cpu_for_a_second_is_given_more_time_and_not_forever() {
    let mut rig = Rig::started(1, Readiness::Runs, RestartPolicy::default());
    let starved = || Input::Starved { worker: WorkerId(1) };
    assert_eq!(rig.input(starved()), vec![], "long before it would be ready");
    assert_eq!(rig.pass(ms(950)), vec![]);
    let mut waited = 950;
    while waited < 2999 {
        assert_eq!(rig.input(starved()), vec![]);
        let pause = 99.min(2999 - waited);
        assert_eq!(rig.pass(ms(pause)), vec![], "after {waited} ms");
        waited += pause;
    }
    rig.input(starved());
    assert_eq!(rig.pass(ms(1)), vec![online(1, false), done(1, &[0])]);
    let mut rig = Rig::started(1, Readiness::Runs, RestartPolicy::default());
    rig.pass(ms(999));
    rig.input(starved());
    rig.pass(ms(50));
    let outputs = rig.exited_with(1, Exit::Code(3));
    let failure = failed(1, Some(0), Some(1), Failure::Exited(Exit::Code(3)));
    assert!(outputs.contains(&failure), "{outputs:?}");
}

#[test]
fn what_may_have_no_port_and_ends_at_once_has_failed_to_start() {
    for end in [Exit::Code(0), Exit::Code(1), Exit::Signal(11)] {
        let mut rig = Rig::started(1, Readiness::Runs, RestartPolicy::default());
        rig.pass(ms(999));
        let outputs = rig.exited_with(1, end);
        let failure = failed(1, Some(0), Some(1), Failure::Exited(end));
        assert!(outputs.contains(&failure), "{end:?}: {outputs:?}");
    }
}

#[test]
fn what_is_not_started_again_may_be_done_at_once() {
    let once = || RestartPolicy {
        autorestart: false,
        ..RestartPolicy::default()
    };
    let told = || RestartPolicy {
        stop_exit_codes: vec![7],
        ..RestartPolicy::default()
    };
    let cases = [
        (once(), Exit::Code(0), true),
        (once(), Exit::Code(1), false),
        (once(), Exit::Signal(15), false),
        (told(), Exit::Code(7), true),
        (told(), Exit::Code(1), false),
    ];
    for (policy, end, is_done) in cases {
        let mut rig = Rig::started(1, Readiness::Runs, policy);
        let outputs = rig.exited_with(1, end);
        let failure = failed(1, Some(0), Some(1), Failure::Exited(end));
        let wanted = if is_done { done(1, &[0]) } else { failure };
        assert!(outputs.contains(&wanted), "{end:?}: {outputs:?}");
    }
}

#[test]
fn an_exit_is_judged_by_the_uptime_where_running_is_all_that_is_wanted() {
    let policy = RestartPolicy {
        min_uptime: ms(300),
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Runs, policy);
    rig.pass(ms(300));
    let outputs = rig.exited(1);
    assert!(outputs.contains(&spawn(2, 1, 0, 0)), "{outputs:?}");
    assert_eq!(rig.view(0).unstable_restarts, 0);
    // So is a restart that somebody asks for before the second is over.
    rig.spawned(2);
    rig.command(Command::Restart {
        instances: instances(&[0]),
    });
    assert_eq!(rig.view(0).restarts, 2);
}
