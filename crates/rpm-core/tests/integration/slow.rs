//! First starts that take long: a program that must listen has as long for that as for a reload.

use crate::common::{APP, Rig, done, failed, ms, online};
use rpm_core::protocol::{Command, Exit, Failure, Input, Outcome, Output, Readiness, RestartPolicy};
use rpm_core::{StateView, WorkerId};

fn started() -> Rig {
    Rig::started(1, Readiness::Listens, RestartPolicy::default())
}

#[test]
fn a_start_waits_until_a_slow_program_listens() {
    let mut rig = started();
    assert_eq!(rig.pass(ms(29_000)), vec![]);
    assert!(matches!(rig.state(0), StateView::Launching { .. }));
    assert_eq!(rig.listening(1), vec![online(1, false), done(1, &[0])]);
}

#[test]
fn a_start_whose_program_ends_while_it_is_waited_for_has_failed() {
    for after in [2_000, 4_000, 29_000] {
        let mut rig = started();
        assert_eq!(rig.pass(ms(after)), vec![]);
        let failure = failed(1, Some(0), Some(1), Failure::Exited(Exit::Code(1)));
        let outputs = rig.exited_with(1, Exit::Code(1));
        assert!(outputs.contains(&failure), "{after}: {outputs:?}");
    }
}

#[test]
fn what_listens_on_nothing_is_waited_for_so_long_once_only() {
    let mut rig = started();
    assert_eq!(rig.pass(ms(29_999)), vec![]);
    let silent = |outputs: &[Output]| {
        let is_silent = |output: &Output| matches!(output, Output::Done { outcome: Outcome::Done { silent, .. }, .. } if !silent.is_empty());
        outputs.iter().any(is_silent) && outputs.contains(&online(1, true))
    };
    assert!(silent(&rig.pass(ms(1))));
    rig.exited_with(1, Exit::Code(1));
    rig.spawned(2);
    assert_eq!(rig.pass(ms(2_999)), vec![]);
    assert!(rig.pass(ms(1)).contains(&online(2, true)));
}

#[test]
fn nor_are_more_instances_of_it() {
    let mut rig = started();
    rig.pass(ms(30_000));
    rig.command(Command::Scale { app: APP, count: 2 });
    rig.spawned(2);
    assert_eq!(rig.pass(ms(2_999)), vec![]);
    assert!(rig.pass(ms(1)).contains(&online(2, true)));
    let mut rig = started();
    rig.take_slot(0, 1);
    rig.command(Command::Scale { app: APP, count: 2 });
    rig.spawned(2);
    assert!(!rig.pass(ms(29_999)).contains(&online(2, true)));
}

#[test]
fn what_is_at_rest_and_listens_on_nothing_is_not_waited_for_longer() {
    let rests = || Input::Rests { worker: WorkerId(1) };
    let mut rig = started();
    rig.pass(ms(3_200));
    assert_eq!(rig.should_listen(), [(WorkerId(1), ms(3_000))]);
    assert!(rig.input(rests()).contains(&online(1, true)));
    assert_eq!(rig.should_listen(), []);
    assert_eq!(rig.input(rests()), vec![], "it is known");
    let mut rig = started();
    rig.hold(0, 1);
    assert!(
        rig.input(rests()).contains(&online(1, false)),
        "it has a listener"
    );
    // Others are waited for, whatever they do.
    for readiness in [Readiness::Announces, Readiness::Runs] {
        let mut rig = Rig::started(1, readiness, RestartPolicy::default());
        assert_eq!((rig.should_listen(), rig.input(rests())), (vec![], vec![]));
    }
}

#[test]
fn one_that_has_lived_for_long_does_not_count_as_failed_young() {
    let once = RestartPolicy {
        max_restarts: 1,
        ..RestartPolicy::default()
    };
    let mut rig = Rig::started(1, Readiness::Listens, once.clone());
    rig.pass(ms(10_000));
    rig.exited_with(1, Exit::Code(1));
    assert!(
        matches!(rig.state(0), StateView::Launching { .. }),
        "{:?}",
        rig.state(0)
    );
    let mut rig = Rig::started(1, Readiness::Listens, once);
    rig.pass(ms(500));
    rig.exited_with(1, Exit::Code(1));
    assert!(matches!(rig.state(0), StateView::Errored), "{:?}", rig.state(0));
}
