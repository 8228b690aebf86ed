//! Reload requests: every worker of an app is replaced, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rpm_core::protocol::{AppConfig, Command};
use rpm_core::{AppId, InstanceId, Revision, StateView, WorkerId};
use rpm_wire::api::{ApiError, ReloadRequest, RollbackRequest};
use rpm_wire::shell::word;
use tracing::{info, warn};

use crate::apps::app;
use crate::apps::delivery::Delivery;
use crate::apps::revision::Version;
use crate::failure::failure;
use crate::orders::commands::passable;
use crate::orders::{Accepted, Orders};

/// How workers are replaced, otherwise than as usual.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// How long the new ones are watched, instead of the time that the app is configured with.
    pub(crate) watch_after: Option<Duration>,
    /// The new ones come by their ports in another way, and so by other listeners.
    pub(crate) moves: bool,
    /// Nobody waits for the outcome: the next reload ends this one.
    pub(crate) yields: bool,
    /// The outcome of such a reload that runs is waited for, if whoever asked for it has gone.
    pub(crate) attaches: bool,
    /// When the new ones serve, so many instances.
    pub(crate) then_scale: Option<u32>,
}

impl Orders<'_> {
    /// Reloads the apps that the targets mean, side by side. One that owns its ports is restarted. Their paths and, if
    /// asked for, their variables are taken anew; if those of one are wrong, none is reloaded.
    pub(crate) fn reload(&mut self, request: &ReloadRequest) -> Result<Vec<Accepted>, ApiError> {
        if !passable(&request.env) {
            return Err(failure(
                "a variable has no name or contains a NUL byte",
                Some("correct `env`"),
            ));
        }
        let instances = self.catalog().resolve(&request.targets)?;
        let manner = Manner {
            watch_after: request.watch_after_ms.map(Duration::from_millis),
            attaches: request.attach,
            ..Manner::default()
        };
        let apps = self.catalog().apps_of(&instances);
        self.renew_and_replace(apps, &request.env, manner)
    }

    /// Brings back what served before the present generation; a reload that is going on is undone. If that only replaces workers by others of the same
    /// revision, as when they have too much memory, what it is undone to is no other version, and the one before is brought back all the same.
    pub(crate) fn rollback(&mut self, request: &RollbackRequest) -> Result<Accepted, ApiError> {
        let app = self.catalog().resolve_app(&request.target)?;
        let name = self.catalog().label(app);
        let view = self.core.app(app).ok_or_else(|| going(&name))?;
        let present = view.config.revision;
        let renews = view.reload.map(|reload| reload.former == present);
        if renews.is_some_and(|renews| !renews || view.previous.is_none()) {
            return Ok(self.undo(app));
        }
        let Some(wanted) = view.previous else {
            return Err(failure(
                format!("{name} has no previous generation"),
                Some("a rollback needs an earlier reload"),
            ));
        };
        let known = self.apps.get(&app).map(|app| &app.revisions);
        let same = known.is_some_and(|known| known.spec(wanted) == known.spec(present));
        if let Some(Err(gone)) = known.map(|known| known.check(wanted)) {
            return Err(failure(
                format!("cannot roll back: {gone}"),
                Some(&format!("{name} keeps serving; restore the files")),
            ));
        }
        if renews.is_some() {
            drop(self.command(Command::Undo { app }));
        }
        let mut accepted = self.replace(app, wanted, Manner::default())?;
        if same {
            accepted.notes.push(format!(
                "both generations of {name} were started from the same script, arguments, variables and directory: \
                 files that were changed in place stay changed"
            ));
        }
        Ok(accepted)
    }

    /// The old workers still stand by, and serve again at once.
    fn undo(&mut self, app: AppId) -> Accepted {
        let instances = self.core.app(app).map(|view| view.instances().collect());
        let mut accepted = self.obey(instances.unwrap_or_default(), |_| Command::Undo { app });
        accepted.notes.push(format!(
            "the reload of {} was not complete: what served before it serves again",
            self.catalog().label(app)
        ));
        accepted
    }

    /// Restarts instances: a whole cluster that serves is reloaded, so that nothing is lost; the rest is stopped
    /// and started.
    pub(crate) fn restart_gently(
        &mut self,
        instances: &[InstanceId],
        env: &BTreeMap<String, String>,
        manner: Manner,
    ) -> Result<Vec<Accepted>, ApiError> {
        let mut hard: Vec<InstanceId> = instances.to_vec();
        let whole: BTreeSet<AppId> = self
            .catalog()
            .apps_of(instances)
            .into_iter()
            .filter(|app| self.catalog().serves_whole(*app, instances))
            .collect();
        hard.retain(|id| {
            self.core
                .instance(*id)
                .is_none_or(|view| !whole.contains(&view.app) || view.state == StateView::Stopped)
        });
        let is_none = whole.is_empty();
        // Before anything is changed: it may fail.
        let renewed = self.renew(whole, env)?;
        // What was stopped first: to start an instance ends a reload that has begun.
        let mut accepted = Vec::new();
        if !hard.is_empty() || is_none {
            accepted.extend(self.restart(&hard, env)?);
        }
        for (app, revision) in renewed {
            let revision = self.present_if_same(app, revision);
            accepted.push(self.replace(app, revision, manner)?);
        }
        Ok(accepted)
    }

    /// The present revision, if this one means the same: a restart to the same paths is no new generation, and leaves what a rollback goes back to.
    fn present_if_same(&self, app: AppId, revision: Revision) -> Revision {
        let present = self.core.app(app).map(|view| view.config.revision);
        let revisions = self.apps.get(&app).map(|app| &app.revisions);
        match (present, revisions) {
            (Some(present), Some(revisions)) if revisions.spec(present) == revisions.spec(revision) => {
                present
            }
            _ => revision,
        }
    }

    /// Stops and starts instances; each app has an outcome of its own. The paths of an app of which none is left out are taken anew.
    pub(crate) fn restart(
        &mut self,
        instances: &[InstanceId],
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<Accepted>, ApiError> {
        let whole = |app: &AppId| {
            let mut ours = self.core.instances().filter(|view| view.app == *app);
            ours.all(|view| instances.contains(&view.id))
        };
        let apps: Vec<AppId> = self
            .catalog()
            .apps_of(instances)
            .into_iter()
            .filter(whole)
            .collect();
        for (app, revision) in self.renew(apps, env)? {
            if self.present_if_same(app, revision) == revision {
                self.configure(app, revision)?;
            }
        }
        let mut of_apps: BTreeMap<AppId, Vec<InstanceId>> = BTreeMap::new();
        for id in instances {
            if let Some(view) = self.core.instance(*id) {
                of_apps.entry(view.app).or_default().push(*id);
            }
        }
        let restart = |instances| self.obey(instances, |instances| Command::Restart { instances });
        Ok(of_apps.into_values().map(restart).collect())
    }

    fn renew_and_replace(
        &mut self,
        apps: BTreeSet<AppId>,
        env: &BTreeMap<String, String>,
        manner: Manner,
    ) -> Result<Vec<Accepted>, ApiError> {
        let renewed = self.renew(apps, env)?;
        let replace = |(app, revision)| self.replace(app, revision, manner);
        renewed.into_iter().map(replace).collect()
    }

    /// A new revision of each of these apps.
    fn renew(
        &mut self,
        apps: impl IntoIterator<Item = AppId>,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<(AppId, Revision)>, ApiError> {
        let mut renewed = Vec::new();
        for id in apps {
            let name = self.catalog().label(id);
            let (Some(view), Some(app)) = (self.core.app(id), self.apps.get_mut(&id)) else {
                return Err(going(&name));
            };
            let present = view.config.revision;
            let former = view.reload.map(|reload| reload.former);
            let keep: Vec<Revision> = [Some(present), former, view.previous]
                .into_iter()
                .flatten()
                .collect();
            let revision = app.revisions.renew(present, env, &keep).map_err(|gone| {
                failure(
                    format!("cannot restart {name}: {gone}"),
                    Some(&format!(
                        "nothing was changed; create it, or `rpm delete {}` and start the app from elsewhere",
                        word(&name)
                    )),
                )
            })?;
            renewed.push((id, revision));
        }
        Ok(renewed)
    }

    /// What the core must know of a revision that the app has.
    fn config_of(&self, id: AppId, revision: Revision) -> Result<AppConfig, ApiError> {
        let version = self.apps.get(&id).and_then(|app| app.revisions.get(revision));
        let version = version.ok_or_else(|| going(&self.catalog().label(id)))?;
        Ok(app::config(
            revision,
            version,
            app::cpus(),
            self.interception.applies_to(version.delivery()),
        ))
    }

    /// Workers that are started from now on are of this revision.
    pub(crate) fn configure(&mut self, app: AppId, revision: Revision) -> Result<(), ApiError> {
        let config = self.config_of(app, revision)?;
        // Its outcome says nothing that is not known: there is such an app.
        drop(self.command(Command::Configure { app, config }));
        Ok(())
    }

    /// Replaces the workers of an app by ones of this revision.
    pub(crate) fn replace(
        &mut self,
        app: AppId,
        revision: Revision,
        manner: Manner,
    ) -> Result<Accepted, ApiError> {
        if self.owns_ports(app, revision) && !self.has_slots(app) {
            self.configure(app, revision)?;
            let name = self.catalog().label(app);
            let mut accepted = self.restart_all(app, manner.then_scale);
            accepted.notes.push(format!(
                "{name} does not listen on a port, so it is restarted, not replaced without a gap"
            ));
            return Ok(accepted);
        }
        if manner.attaches
            && let Some(attached) = self.attach(app, revision, manner.then_scale)
        {
            return Ok(attached);
        }
        let mut config = self.config_of(app, revision)?;
        config.allow_port_change |= manner.moves;
        config.policy.watch_after = manner.watch_after.unwrap_or(config.policy.watch_after);
        let command = Command::Reload {
            app,
            config: Some(config),
            yields: manner.yields,
            then_scale: manner.then_scale,
        };
        Ok(self.obey(self.catalog().instances_of(app), |_| command))
    }

    /// Stops and starts all instances of an app; when they are online there are to be so many.
    pub(crate) fn restart_all(&mut self, app: AppId, then_scale: Option<u32>) -> Accepted {
        let instances = self.catalog().instances_of(app);
        self.obey(instances, |instances| match then_scale {
            Some(count) => Command::RestartAndScale { app, count },
            None => Command::Restart { instances },
        })
    }

    /// Would a process of this revision find its ports taken by the one that runs?
    fn owns_ports(&self, app: AppId, revision: Revision) -> bool {
        let wanted = self.apps.get(&app).and_then(|app| app.revisions.get(revision));
        let Some(wanted) = wanted.map(Version::delivery) else {
            return false;
        };
        let running = self.catalog().delivery(app);
        let is_denied = |it: Delivery| it.wants_interception() && !self.interception.applies_to(it);
        wanted.is_single() || (wanted.needs_interception() && running.is_some_and(is_denied))
    }

    /// Has a worker of the app a slot? Then clients reach it, and two of them can serve side by side.
    pub(crate) fn has_slots(&self, app: AppId) -> bool {
        let ours = self.workers.values().filter(|held| held.app == app);
        ours.map(|held| held.id)
            .any(|worker| self.listeners.count_of(worker) > 0)
    }

    /// Whoever asked for the reload that runs has gone: who asks for the same again gets its outcome.
    fn attach(&mut self, app: AppId, revision: Revision, then_scale: Option<u32>) -> Option<Accepted> {
        let view = self.core.app(app)?;
        view.reload
            .filter(|reload| !reload.yields && reload.then_scale == then_scale)?;
        let revisions = &self.apps.get(&app)?.revisions;
        if revisions.spec(view.config.revision) != revisions.spec(revision) {
            return None;
        }
        let instances = view.instances().collect();
        let ticket = self.tickets.abandoned_reload(app, view.config.revision)?;
        let mut accepted = Accepted {
            outcome: self.tickets.wait_for(ticket),
            instances,
            notes: Vec::new(),
            whole: None,
        };
        let name = self.catalog().label(app);
        accepted
            .notes
            .push(format!("attached to a reload of {name} that was already running"));
        Some(accepted)
    }

    /// Undoes the reloads that the daemon before has not completed.
    pub(crate) fn undo_reloads(&mut self) {
        let reloaded = |app: &AppId| self.core.app(*app).is_some_and(|view| view.reload.is_some());
        let apps: Vec<AppId> = self.apps.keys().copied().filter(reloaded).collect();
        for app in apps {
            info!(
                app = self.catalog().label(app),
                "a reload was not complete; undoing it"
            );
            drop(self.command(Command::Undo { app }));
        }
    }

    /// Workers for which the daemon before had what is gone with its keeper serve on, and are replaced by others beside them. Those that get
    /// their connections from the daemon have nothing to serve: they are restarted.
    pub(crate) fn replace_without_keeper(&mut self, without_keeper: &BTreeSet<WorkerId>) {
        let held = without_keeper
            .iter()
            .filter_map(|worker| self.workers.get(worker));
        let apps: BTreeSet<AppId> = held.map(|worker| worker.app).collect();
        for app in apps {
            warn!(
                app = self.catalog().label(app),
                "the previous daemon's keeper died, too: its workers keep serving, and a reload replaces them"
            );
            let version = self.catalog().present(app);
            let command = match version.is_some_and(|version| version.delivery().is_handed()) {
                true => Command::Restart {
                    instances: self.catalog().instances_of(app),
                },
                false => Command::Reload {
                    app,
                    config: None,
                    yields: false,
                    then_scale: None,
                },
            };
            // Nobody waits for it; if a reload fails the workers serve on.
            drop(self.command(command));
        }
    }
}

fn going(name: &str) -> ApiError {
    failure(format!("{name} is being deleted"), None)
}
