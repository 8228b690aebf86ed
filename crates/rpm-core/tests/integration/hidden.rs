//! Hidden apps: what the core does for any other, but with ids of their own.

use rpm_core::AppId;
use rpm_core::protocol::{AppConfig, Command, Readiness};

use crate::common::{APP, Rig};

/// PM2's ids begin at 0, and are the same whether something hidden runs or not.
#[test]
fn a_hidden_app_takes_no_id_of_the_others() {
    let mut rig = Rig::new();
    let start = |app| Command::Start {
        app,
        config: AppConfig {
            instances: 1,
            readiness: Readiness::Listens,
            ..AppConfig::default()
        },
    };
    let hidden = AppId::hidden(0);
    rig.command(start(hidden));
    let ids = |rig: &Rig| -> Vec<u32> { rig.core.instances().map(|view| view.id.0).collect() };
    let of_hidden = ids(&rig)[0];
    assert!(hidden.is_hidden() && rig.core.instances().all(|view| view.id.is_hidden()));
    rig.command(start(APP));
    rig.command(start(AppId(8)));
    assert_eq!(ids(&rig), [0, 1, of_hidden]);
    rig.command(start(AppId::hidden(1)));
    assert_eq!(ids(&rig), [0, 1, of_hidden, of_hidden + 1]);
    rig.delete(&[0, 1]);
    for worker in [2, 3] {
        rig.spawned(worker);
        rig.exited(worker);
    }
    rig.command(start(AppId(9)));
    assert_eq!(ids(&rig), [0, of_hidden, of_hidden + 1], "the list was empty");
}
