//! Reload requests: every worker of an app is replaced, and nothing is lost.

use std::collections::BTreeSet;

use rpm_core::protocol::Command;
use rpm_core::{AppId, InstanceId, InstanceView, StateView};
use rpm_wire::api::{ApiError, ReloadRequest};

use crate::app::Plane;
use crate::commands::Accepted;
use crate::supervisor::Supervisor;

impl Supervisor {
    /// Reloads the apps that the targets mean, side by side. One that owns its ports is restarted.
    pub(crate) fn reload(&mut self, request: &ReloadRequest) -> Result<Vec<Accepted>, ApiError> {
        let instances = self.resolve(&request.targets)?;
        let apps: BTreeSet<AppId> = instances
            .iter()
            .filter_map(|id| self.core.instance(*id))
            .map(|view| view.app)
            .collect();
        Ok(apps.into_iter().map(|app| self.reload_app(app)).collect())
    }

    /// Restarts instances: a whole cluster that serves is reloaded, so that nothing is lost; the rest is stopped
    /// and started.
    pub(crate) fn restart_gently(&mut self, instances: &[InstanceId]) -> Vec<Accepted> {
        let apps: BTreeSet<AppId> = instances
            .iter()
            .filter_map(|id| self.core.instance(*id))
            .map(|view| view.app)
            .collect();
        let mut accepted = Vec::new();
        let mut hard: Vec<InstanceId> = instances.to_vec();
        let whole: Vec<AppId> = apps
            .into_iter()
            .filter(|app| self.serves_whole(*app, instances))
            .collect();
        for app in whole {
            let stopped = |id: &InstanceId| {
                self.core
                    .instance(*id)
                    .is_none_or(|view| view.app != app || view.state == StateView::Stopped)
            };
            hard.retain(stopped);
            accepted.push(self.reload_app(app));
        }
        if !hard.is_empty() || accepted.is_empty() {
            accepted.push(self.obey(hard, |instances| Command::Restart { instances }));
        }
        accepted
    }

    /// A cluster of which something is online and nothing is left out.
    fn serves_whole(&self, app: AppId, instances: &[InstanceId]) -> bool {
        let mut ours = self.core.instances().filter(|view| view.app == app);
        let online = |view: &InstanceView| matches!(view.state, StateView::Online { .. });
        let any = self.core.instances().any(|view| view.app == app && online(&view));
        self.plane(app) != Some(Plane::Fork) && any && ours.all(|view| instances.contains(&view.id))
    }

    fn reload_app(&mut self, app: AppId) -> Accepted {
        let instances: Vec<InstanceId> = self
            .core
            .instances()
            .filter(|view| view.app == app)
            .map(|view| view.id)
            .collect();
        let (command, notes) = if self.plane(app) == Some(Plane::Fork) {
            let name = self.label(app);
            let note = format!(
                "{name} runs in fork mode and owns its ports: it is restarted, with downtime; start it with -i to avoid that"
            );
            (
                Command::Restart {
                    instances: instances.clone(),
                },
                vec![note],
            )
        } else {
            (Command::Reload { app, config: None }, Vec::new())
        };
        Accepted {
            outcome: self.command(command),
            instances,
            notes,
        }
    }
}
