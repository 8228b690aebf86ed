//! Scaling: which instances come and which go.

use crate::common::{APP, GROUP, Rig, done, drain, ms, online, retiring, slots, spawn, terminate};
use rpm_core::protocol::{Command, Failure, Outcome, Output, Policy, Readiness};
use rpm_core::{AppId, InstanceId, Ticket};

#[test]
fn scale_adds_and_removes_the_lowest_first() {
    let mut rig = Rig::started(3, Readiness::Executed, Policy::default());
    let outputs = rig.command(Command::Scale { app: APP, count: 1 });
    assert_eq!(outputs, vec![retiring(1), drain(1), retiring(2), drain(2)]);
    rig.exited(1);
    assert_eq!(rig.exited(2), vec![done(2, &[0, 1])]);
    let outputs = rig.command(Command::Scale { app: APP, count: 3 });
    assert_eq!(outputs, vec![spawn(4, 1, 3, 0), spawn(5, 1, 4, 1)]);
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
    let policy = Policy {
        max_restarts: 2,
        ..Policy::default()
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
    let mut rig = Rig::started(2, Readiness::Executed, Policy::default());
    rig.delete(&[0]);
    let outputs = rig.command(Command::Scale { app: APP, count: 2 });
    assert_eq!(outputs, vec![spawn(3, 1, 2, 2)], "number 0 is still in use");
}
