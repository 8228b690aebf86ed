//! What is there, and what it is called: lookups over the apps as the daemon keeps them and as the core has them. A target is a name, a
//! namespace, an id, a `/pattern/`, or `all`.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex_lite::Regex;
use rpm_core::{AppId, Core, EndsFor, InstanceId, StateView};
use rpm_wire::api::{ApiError, AppSpec, Unknown};

use crate::apps::app::{App, Apps};
use crate::apps::delivery::Delivery;
use crate::apps::revision::Version;
use crate::failure::failure;

/// Longest pattern.
const PATTERN_LIMIT: usize = 1000;

/// The apps at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Catalog<'a> {
    core: &'a Core,
    apps: &'a Apps,
}

impl<'a> Catalog<'a> {
    pub(crate) fn new(core: &'a Core, apps: &'a Apps) -> Catalog<'a> {
        Catalog { core, apps }
    }

    pub(crate) fn core(self) -> &'a Core {
        self.core
    }

    pub(crate) fn apps(self) -> &'a Apps {
        self.apps
    }

    /// What the app was described by.
    pub(crate) fn given(self, app: AppId) -> Option<&'a AppSpec> {
        let present = self.core.app(app)?.config.revision;
        self.apps.get(&app)?.revisions.given(present).map(AsRef::as_ref)
    }

    /// The instances that these targets mean, ascending and each once.
    pub(crate) fn resolve(self, targets: &[String]) -> Result<Vec<InstanceId>, ApiError> {
        let mut found = BTreeSet::new();
        for target in targets {
            found.extend(self.meant(target)?);
        }
        Ok(found.into_iter().collect())
    }

    /// A name wins over a namespace, and that over an id which looks the same. A hidden app is meant by its name and its id alone.
    pub(crate) fn meant(self, target: &str) -> Result<BTreeSet<InstanceId>, ApiError> {
        let of = |test: &dyn Fn(AppId) -> bool| -> BTreeSet<InstanceId> {
            let views = self.core.instances().filter(|view| test(view.app));
            views.map(|view| view.id).collect()
        };
        let named = |app: AppId| self.apps.get(&app).is_some_and(|app| app.name == target);
        if target == "all" {
            let all = of(&|app| !app.is_hidden());
            return if all.is_empty() {
                Err(self.unknown(target))
            } else {
                Ok(all)
            };
        }
        if self.apps.keys().any(|app| named(*app)) {
            return Ok(of(&named));
        }
        if let Some(pattern) = target.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            let regex = pattern_of(pattern)?;
            let matches = |id: AppId| {
                let app = self.apps.get(&id).filter(|_| !id.is_hidden());
                app.is_some_and(|app| regex.is_match(&app.name))
            };
            let found = of(&matches);
            return if found.is_empty() {
                Err(self.unknown(target))
            } else {
                Ok(found)
            };
        }
        let within = of(&|app: AppId| {
            let spec = self.present_spec(app).filter(|_| !app.is_hidden());
            spec.is_some_and(|spec| spec.namespace == target)
        });
        if !within.is_empty() {
            return Ok(within);
        }
        let by_id = self.core.instances().find(|view| view.id.to_string() == target);
        match by_id {
            Some(view) => Ok(BTreeSet::from([view.id])),
            None => Err(self.unknown(target)),
        }
    }

    /// The app that a name, or the id of one of its instances, means.
    pub(crate) fn resolve_app(self, target: &str) -> Result<AppId, ApiError> {
        let by_name = self
            .apps
            .iter()
            .find(|(_, app)| app.name == target)
            .map(|(id, _)| *id);
        let by_id = || {
            self.core
                .instances()
                .find(|view| view.id.to_string() == target)
                .map(|view| view.app)
        };
        by_name.or_else(by_id).ok_or_else(|| self.unknown(target))
    }

    pub(crate) fn unknown(self, target: &str) -> ApiError {
        if self.listed().next().is_none() {
            let what = if target == "all" {
                "there is no process".to_owned()
            } else {
                format!("no process or app {target:?}")
            };
            return failure(what, Some("there are no apps; `rpm start app.js` starts one"));
        }
        let specs = self.listed().filter_map(|(id, _)| self.present_spec(id));
        let namespaces: BTreeSet<String> = specs.map(|spec| spec.namespace.clone()).collect();
        let known = self.listed().map(|(_, app)| app.name.clone()).chain(namespaces);
        let names: Vec<&str> = self.listed().map(|(_, app)| app.name.as_str()).take(20).collect();
        ApiError {
            unknown: Some(Box::new(Unknown {
                target: target.to_owned(),
                known: known.collect(),
            })),
            ..failure(
                format!("no process or app {target:?}"),
                Some(&format!("there are: {}", names.join(", "))),
            )
        }
    }

    /// Is it one process that shares its ports with nobody?
    pub(crate) fn is_fork(self, app: AppId) -> bool {
        self.delivery(app).is_some_and(Delivery::is_single)
    }

    pub(crate) fn apps_of(self, instances: &[InstanceId]) -> BTreeSet<AppId> {
        let views = instances.iter().filter_map(|id| self.core.instance(*id));
        views.map(|view| view.app).collect()
    }

    /// A cluster of which something is online, and nothing that runs is left out.
    pub(crate) fn serves_whole(self, app: AppId, instances: &[InstanceId]) -> bool {
        let ours = || self.core.instances().filter(|view| view.app == app);
        let any = ours().any(|view| matches!(view.state, StateView::Online { .. }));
        let mut running = ours().filter(|view| view.state != StateView::Stopped);
        !self.is_fork(app) && any && running.all(|view| instances.contains(&view.id))
    }

    /// The revision that new workers of an app are started from.
    pub(crate) fn present(self, id: AppId) -> Option<&'a Version> {
        let revisions = &self.apps.get(&id)?.revisions;
        let present = self.core.app(id).map(|view| view.config.revision);
        present
            .and_then(|revision| revisions.get(revision))
            .or_else(|| revisions.newest())
    }

    /// Its specification.
    pub(crate) fn present_spec(self, id: AppId) -> Option<&'a Arc<AppSpec>> {
        self.present(id).map(Version::spec)
    }

    /// The app of this name that is not hidden.
    pub(crate) fn find_app(self, name: &str) -> Option<AppId> {
        self.listed().find(|(_, app)| app.name == name).map(|(id, _)| id)
    }

    /// The app of this name, also a hidden one.
    pub(crate) fn resolve_name(self, name: &str) -> Option<AppId> {
        self.find_app(name).or_else(|| self.find_hidden(name))
    }

    /// The apps that are not hidden.
    pub(crate) fn listed(self) -> impl Iterator<Item = (AppId, &'a App)> {
        let apps = self.apps.iter().map(|(id, app)| (*id, app));
        apps.filter(|(id, _)| !id.is_hidden())
    }

    /// The hidden app of this name.
    pub(crate) fn find_hidden(self, name: &str) -> Option<AppId> {
        let mut apps = self.apps.iter();
        let found = apps.find(|(id, app)| id.is_hidden() && app.name == name);
        found.map(|(id, _)| *id)
    }

    pub(crate) fn instances_of(self, app: AppId) -> Vec<InstanceId> {
        let ours = self.core.instances().filter(|view| view.app == app);
        ours.map(|view| view.id).collect()
    }

    /// The instances of an app that are not being deleted.
    pub(crate) fn staying(self, app: AppId) -> Vec<InstanceId> {
        let ours = self.core.instances().filter(|view| view.app == app);
        let staying = ours.filter(|view| view.ends_for != Some(EndsFor::Delete));
        staying.map(|view| view.id).collect()
    }

    pub(crate) fn name_of(self, id: InstanceId) -> Option<&'a str> {
        let app = self.core.instance(id)?.app;
        self.apps.get(&app).map(|app| app.name.as_str())
    }

    /// Is every instance being started at this moment?
    pub(crate) fn is_starting(self, app: AppId) -> bool {
        let mut states = self.core.instances().filter(|view| view.app == app).peekable();
        states.peek().is_some() && states.all(|view| matches!(view.state, StateView::Launching { .. }))
    }

    /// Are files watched for this app?
    pub(crate) fn is_watched(self, app: AppId) -> bool {
        let wants = self.present_spec(app).is_some_and(|spec| spec.watch.is_some());
        wants
            && self
                .apps
                .get(&app)
                .is_some_and(|app| !app.rests && !app.unwatched)
    }

    /// What goes on that a daemon which takes over would not complete: a worker that starts may have asked the daemon for something, and a reload
    /// would be undone.
    pub(crate) fn under_way(self) -> Option<String> {
        let mut apps = self.apps.iter();
        let reloading = |id: AppId| self.core.app(id).is_some_and(|view| view.reload.is_some());
        if let Some((_, app)) = apps.find(|(id, _)| reloading(**id)) {
            return Some(format!("{} is being reloaded", app.name));
        }
        let mut instances = self.core.instances();
        let launching = instances.find(|view| matches!(view.state, StateView::Launching { .. }))?;
        Some(format!("a worker of {} is starting", self.label(launching.app)))
    }

    /// The app's name for labels.
    pub(crate) fn label(self, app: AppId) -> String {
        self.apps
            .get(&app)
            .map(|app| app.name.clone())
            .unwrap_or_default()
    }

    /// How connections reach the workers of an app.
    pub(crate) fn delivery(self, app: AppId) -> Option<Delivery> {
        self.present(app).map(Version::delivery)
    }
}

pub(crate) fn pattern_of(pattern: &str) -> Result<Regex, ApiError> {
    let wrong = |why: String| {
        failure(
            format!("/{pattern}/ is not a valid pattern: {why}"),
            Some("as in `rpm restart '/^web-/'`"),
        )
    };
    if pattern.is_empty() || pattern.len() > PATTERN_LIMIT {
        return Err(wrong("it is empty, or too long".to_owned()));
    }
    Regex::new(pattern).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use rpm_core::protocol::{Command, Input};
    use rpm_core::{Revision, Tick, Ticket};
    use rpm_wire::api::ExecMode;

    use super::*;
    use crate::apps::app::{App, config};

    #[test]
    fn an_app_is_what_runs_and_not_what_a_reload_that_failed_would_have_made_of_it() {
        let spec = |exec_mode| AppSpec {
            name: "web".to_owned(),
            script: "/bin/sh".to_owned(),
            exec_mode,
            ..AppSpec::default()
        };
        let id = AppId(0);
        let mut app = App::new(spec(ExecMode::Fork), 0);
        let mut core = Core::new(1);
        let first = app.revisions.newest().expect("the first");
        let command = Command::Start {
            app: id,
            config: config(Revision(1), first, 1, true),
        };
        let ticket = Ticket(1);
        core.handle(Input::Command { ticket, command }, Tick::default());
        let keep = [Revision(1)];
        app.revisions
            .put(spec(ExecMode::Cluster), &keep)
            .expect("a shell");
        let mut apps = Apps::default();
        apps.insert(id, app);
        let catalog = Catalog::new(&core, &apps);
        assert!(catalog.is_fork(id), "{:?}", catalog.delivery(id));
        assert_eq!(
            catalog.present_spec(id).map(|spec| spec.exec_mode),
            Some(ExecMode::Fork)
        );
    }
}
