//! Whether a worker carries an agent.

use rpm_core::WorkerId;
use tracing::warn;

use crate::apps::app::Apps;
use crate::sockets::interception::Interception;
use crate::workers::worker::{Worker, Workers};

/// Whether the worker is to carry the agent: it is there for whatever Node its tree has, unless it is switched off.
pub(crate) fn has_agent(held: &Worker, apps: &Apps, interception: &Interception) -> bool {
    let refused = apps.get(&held.app).is_some_and(|app| app.agent_refused);
    let carries = held
        .delivery
        .may_carry_agent(interception.applies_to(held.delivery));
    carries && held.spec.agent && !refused
}

/// Node before 18.18 does not know `--import` in `NODE_OPTIONS`, and exits with 9 before it runs anything.
pub(crate) fn doubt_agent(worker: WorkerId, workers: &Workers, apps: &mut Apps, interception: &Interception) {
    let held = workers.get(&worker);
    let Some(held) = held.filter(|held| has_agent(held, apps, interception)) else {
        return;
    };
    if let Some(app) = apps.get_mut(&held.app) {
        warn!(
            app = app.name,
            "Node does not accept the agent (it needs 18.18); the app runs without it"
        );
        app.agent_refused = true;
    }
}
