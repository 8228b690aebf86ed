//! Whether a worker carries an agent.

use rpm_core::WorkerId;
use tracing::warn;

use crate::apps::app::PortSource;
use crate::supervisor::Supervisor;

impl Supervisor {
    /// Whether the worker is to carry the agent: it is there for whatever Node its tree has, unless it is switched off.
    pub(crate) fn has_agent(&self, worker: WorkerId) -> bool {
        let Some(held) = self.workers.get(&worker) else {
            return false;
        };
        let refused = self.apps.get(&held.app).is_some_and(|app| app.agent_refused);
        let serves = held.ports == PortSource::Node || self.interception.applies_to(&held.spec);
        serves && held.spec.agent && !refused
    }

    /// Node before 18.18 does not know `--import` in `NODE_OPTIONS`, and exits with 9 before it runs anything.
    pub(crate) fn doubt_agent(&mut self, worker: WorkerId) {
        if !self.has_agent(worker) {
            return;
        }
        let Some(app) = self.workers.get(&worker).map(|held| held.app) else {
            return;
        };
        if let Some(app) = self.apps.get_mut(&app) {
            warn!(
                app = app.name,
                "Node does not accept the agent (it needs 18.18); the app runs without it"
            );
            app.agent_refused = true;
        }
    }
}
