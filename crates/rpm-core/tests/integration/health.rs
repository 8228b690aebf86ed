//! Health: a candidate that is otherwise proved must answer its health check too.

use crate::common::rollout::{failed, failure_of, prove, reload_with, undone};
use crate::common::{GROUP, Rig, done, ms, slots};
use rpm_core::WorkerId;
use rpm_core::protocol::{AppConfig, Failure, Input, Output};

fn check(worker: u64) -> Output {
    Output::CheckHealth {
        worker: WorkerId(worker),
    }
}

fn healthy(rig: &mut Rig, worker: u64) -> Vec<Output> {
    rig.input(Input::Healthy {
        worker: WorkerId(worker),
    })
}

/// One instance; its candidate is worker 2, which listens on slot 10.
fn listening() -> Rig {
    let mut rig = Rig::serving(1);
    let config = AppConfig {
        health_check: true,
        ..AppConfig::default()
    };
    reload_with(&mut rig, config);
    assert_eq!(prove(&mut rig, 10, 2), vec![check(2)], "asked once it listens");
    rig
}

#[test]
fn it_takes_over_when_it_answers_and_not_before() {
    let mut rig = listening();
    assert_eq!(rig.pass(ms(5000)), vec![]);
    assert_eq!(rig.core.eligible(GROUP), slots(&[0]));
    let outputs = healthy(&mut rig, 2);
    assert!(outputs.contains(&done(2, &[0])), "{outputs:?}");
    assert_eq!(rig.core.eligible(GROUP), slots(&[10]));
    assert_eq!(healthy(&mut rig, 2), vec![], "said twice");
}

#[test]
fn one_that_does_not_answer_in_time_is_not_ready() {
    let mut rig = listening();
    let outputs = rig.pass(ms(30_000));
    let failure = Failure::NotReady { within: ms(30_000) };
    assert!(
        outputs.contains(&undone(failure_of(0, 2, failure))) && outputs.contains(&failed(2, 0, 2, failure)),
        "{outputs:?}"
    );
    assert_eq!(rig.core.eligible(GROUP), slots(&[0]));
}

#[test]
fn an_answer_that_nobody_has_asked_for_is_none() {
    let mut rig = Rig::serving(1);
    let config = AppConfig {
        health_check: true,
        ..AppConfig::default()
    };
    reload_with(&mut rig, config);
    rig.spawned(2);
    assert_eq!(healthy(&mut rig, 2), vec![]);
    assert_eq!(rig.take_slot(10, 2), vec![check(2)]);
}
