//! Reload requests: every worker of an app is replaced, and nothing is lost.

use std::collections::BTreeSet;

use rpm_core::protocol::Command;
use rpm_core::{AppId, InstanceId};
use rpm_wire::api::{ApiError, ReloadRequest};

use crate::app::Plane;
use crate::commands::Accepted;
use crate::supervisor::Supervisor;

impl Supervisor {
    /// Reloads the apps that the targets mean, side by side. One that owns its ports is restarted.
    pub(crate) fn reload(&mut self, request: &ReloadRequest) -> Result<Vec<Accepted>, ApiError> {
        let instances = self.resolve(&request.targets)?;
        let apps: BTreeSet<AppId> =
            instances.iter().filter_map(|id| self.core.instance(*id)).map(|view| view.app).collect();
        Ok(apps.into_iter().map(|app| self.reload_app(app)).collect())
    }

    fn reload_app(&mut self, app: AppId) -> Accepted {
        let instances: Vec<InstanceId> =
            self.core.instances().filter(|view| view.app == app).map(|view| view.id).collect();
        let (command, notes) = if self.plane(app) == Some(Plane::Fork) {
            let name = self.label(app);
            let note = format!("{name} runs in fork mode and owns its ports: it is restarted, with downtime; start it with -i to avoid that");
            (Command::Restart { instances: instances.clone() }, vec![note])
        } else {
            (Command::Reload { app, config: None }, Vec::new())
        };
        Accepted { outcome: self.command(command), instances, notes }
    }
}
