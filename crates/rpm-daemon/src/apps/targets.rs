//! What a target means: a name, a namespace, an id, a `/pattern/`, or `all`; and requests that need no more than that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use regex_lite::Regex;
use rpm_core::protocol::{Command, Outcome};
use rpm_core::{AppId, InstanceId};
use rpm_sys::pidfd::signal_by_name;
use rpm_sys::tree::Tree;
use rpm_wire::api::{ApiError, ChangeReply, Known, Unknown};
use tokio::sync::oneshot;

use crate::apps::app::Plane;
use crate::apps::commands::{Accepted, failure};
use crate::supervisor::Supervisor;
use crate::workers::behalf::Behalf;

/// Longest pattern.
const PATTERN_LIMIT: usize = 1000;

impl Supervisor {
    /// The instances that these targets mean, ascending and each once.
    pub(crate) fn resolve(&self, targets: &[String]) -> Result<Vec<InstanceId>, ApiError> {
        let mut found = BTreeSet::new();
        for target in targets {
            found.extend(self.meant(target)?);
        }
        Ok(found.into_iter().collect())
    }

    /// The processes that these targets mean.
    pub(crate) fn meant_by(&self, targets: &[String]) -> Result<Vec<Known>, ApiError> {
        let instances = self.resolve(targets)?;
        let is_meant = |known: &Known| instances.iter().any(|id| id.0 == known.id);
        Ok(self.known().into_iter().filter(is_meant).collect())
    }

    /// A name wins over a namespace, and that over an id which looks the same.
    fn meant(&self, target: &str) -> Result<BTreeSet<InstanceId>, ApiError> {
        let of = |test: &dyn Fn(AppId) -> bool| -> BTreeSet<InstanceId> {
            let views = self.core.instances().filter(|view| test(view.app));
            views.map(|view| view.id).collect()
        };
        let named = |app: AppId| self.apps.get(&app).is_some_and(|app| app.name == target);
        if target == "all" {
            let all = of(&|_| true);
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
            let matches = |app: AppId| self.apps.get(&app).is_some_and(|app| regex.is_match(&app.name));
            let found = of(&matches);
            return if found.is_empty() {
                Err(self.unknown(target))
            } else {
                Ok(found)
            };
        }
        let within = of(&|app: AppId| {
            self.present_spec(app)
                .is_some_and(|spec| spec.namespace == target)
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
    pub(crate) fn resolve_app(&self, target: &str) -> Result<AppId, ApiError> {
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

    fn unknown(&self, target: &str) -> ApiError {
        if self.apps.is_empty() {
            let what = if target == "all" {
                "there is no process".to_owned()
            } else {
                format!("no process or app {target:?}")
            };
            return failure(what, Some("there are no apps; `rpm start app.js` starts one"));
        }
        let specs = self.apps.keys().filter_map(|id| self.present_spec(*id));
        let namespaces: BTreeSet<String> = specs.map(|spec| spec.namespace.clone()).collect();
        let known = self.apps.values().map(|app| app.name.clone()).chain(namespaces);
        let names: Vec<&str> = self.apps.values().map(|app| app.name.as_str()).take(20).collect();
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

    /// Counts restarts from 0.
    pub(crate) fn reset(&mut self, targets: &[String]) -> Result<ChangeReply, ApiError> {
        let instances = self.resolve(targets)?;
        let command = Command::Reset {
            instances: instances.clone(),
        };
        drop(self.command(command));
        Ok(self.change(&instances, Vec::new()))
    }

    /// Sends a signal to the programs themselves.
    pub(crate) fn signal(&mut self, targets: &[String], name: &str) -> Result<ChangeReply, ApiError> {
        let signal = signal_by_name(name).ok_or_else(|| {
            failure(
                format!("{name:?} is not a signal"),
                Some("give its name, as SIGUSR2 or usr2, or its number"),
            )
        })?;
        let instances = self.resolve(targets)?;
        let mut notes = Vec::new();
        for id in &instances {
            let worker = self.core.instance(*id).and_then(|view| view.worker());
            let held = worker.and_then(|worker| self.workers.get(&worker));
            let Some((held, process)) = held.and_then(|held| Some((held, held.process()?))) else {
                notes.push(format!("{id} does not run"));
                continue;
            };
            let program = held.program_pid().unwrap_or(process.pid);
            let sent = match program == process.pid {
                true => process.pidfd.send_signal(signal),
                false => Tree::snapshot(program).and_then(|tree| tree.signal(signal)),
            };
            if let Err(error) = sent {
                notes.push(format!("{id}: {error}"));
            }
        }
        Ok(self.change(&instances, notes))
    }

    /// The log files that these targets mean; none: all, and that of the daemon.
    pub(crate) fn log_files(&self, targets: &[String]) -> Result<Vec<(PathBuf, Behalf)>, ApiError> {
        let all = targets.is_empty();
        let instances = match all {
            true => self.core.instances().map(|view| view.id).collect(),
            false => self.resolve(targets)?,
        };
        let mut files: BTreeMap<PathBuf, Behalf> = BTreeMap::new();
        for id in instances {
            let app = self.core.instance(id).map(|view| view.app);
            if let Some(spec) = app.and_then(|app| self.present_spec(app)) {
                let logs = crate::workers::outputs::logs_of(&self.home, spec, id);
                let behalf = Behalf::of(spec);
                let paths = [Some(logs.out), Some(logs.err), logs.both].into_iter().flatten();
                files.extend(paths.map(|path| (path, behalf.clone())));
            }
        }
        if all {
            files.insert(self.home.daemon_log(), Behalf::default());
        }
        Ok(files.into_iter().collect())
    }

    /// An outcome that is known already.
    pub(crate) fn settled(&self, instances: Vec<InstanceId>, notes: Vec<String>) -> Accepted {
        let (sender, outcome) = oneshot::channel();
        let done = Outcome::Done {
            instances: instances.clone(),
            silent: Vec::new(),
        };
        // The other end is in the same hand.
        let _ = sender.send(done);
        Accepted {
            outcome,
            instances,
            notes,
        }
    }

    /// Is it one process that shares its ports with nobody?
    pub(crate) fn is_fork(&self, app: AppId) -> bool {
        self.plane(app) == Some(Plane::Fork)
    }
}

fn pattern_of(pattern: &str) -> Result<Regex, ApiError> {
    let wrong = |why: String| {
        failure(
            format!("/{pattern}/ is no pattern: {why}"),
            Some("as in `rpm restart '/^web-/'`"),
        )
    };
    if pattern.is_empty() || pattern.len() > PATTERN_LIMIT {
        return Err(wrong("it is empty, or too long".to_owned()));
    }
    Regex::new(pattern).map_err(|error| wrong(error.to_string()))
}
