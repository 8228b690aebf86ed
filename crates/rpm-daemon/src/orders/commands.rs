//! Requests that change something: names become ids, and the core is told.

use std::collections::BTreeMap;

use rpm_core::protocol::{AppConfig, Command};
use rpm_core::{AppId, InstanceId};
use rpm_wire::api::{Action, ActionRequest, ApiError, AppSpec, ScaleRequest, StartRequest};
use rpm_wire::shell::word;

use crate::apps::app::{self, App};
use crate::apps::revision::Version;
use crate::failure::failure;
use crate::orders::check::check;
use crate::orders::reload::Manner;
use crate::orders::{Accepted, Orders};
use crate::os::clock::now_ms;

/// Most instances of one app: enough for two generations in one group of slots.
pub(crate) const INSTANCE_LIMIT: u32 = 1000;

impl Orders<'_> {
    pub(crate) fn start(&mut self, request: StartRequest) -> Result<Accepted, ApiError> {
        let spec = request.app;
        check(&spec)?;
        if self.catalog().find_app(&spec.name).is_some() {
            return Err(failure(
                format!("an app named {:?} exists already", spec.name),
                Some(&format!(
                    "`rpm restart {name}` restarts it, `rpm delete {name}` removes it; --name gives the new one another name",
                    name = word(&spec.name)
                )),
            ));
        }
        let rests = !spec.autostart;
        self.add(spec, rests)
    }

    /// The number of a new app.
    pub(crate) fn new_number(&mut self) -> u32 {
        let number = *self.next_app;
        *self.next_app += 1;
        number
    }

    /// Starts an app of which it was checked that it can be; `rests`: it is only put in the list.
    pub(crate) fn add(&mut self, spec: AppSpec, rests: bool) -> Result<Accepted, ApiError> {
        let id = AppId(self.new_number());
        self.add_as(id, spec, rests)
    }

    /// The same, with the id that the app gets.
    pub(crate) fn add_as(&mut self, id: AppId, spec: AppSpec, rests: bool) -> Result<Accepted, ApiError> {
        self.interception.probe();
        let mut app = App::new(spec, now_ms());
        app.rests = rests;
        let version = app.revisions.newest();
        let version = version.ok_or_else(|| failure("the app has no revision", None))?;
        if let Some(why) = self.interception.unfronted(version) {
            return Err(failure(
                why,
                Some(
                    "remove the cause, pass the listener with --listen, or leave out --balance proxy; otherwise clients would reach the app without TLS and limits",
                ),
            ));
        }
        let config = app::config(
            app.revisions.last(),
            version,
            app::cpus(),
            self.interception.applies_to(version.delivery()),
        );
        let wanted = config.instances;
        let note = self.alone(version, wanted);
        let config = AppConfig {
            instances: if note.is_some() { 1 } else { wanted },
            stopped: rests,
            ..config
        };
        self.apps.insert(id, app);
        self.apps_have_changed();
        let outcome = self.command(Command::Start { app: id, config });
        let instances = self
            .core
            .instances()
            .filter(|view| view.app == id)
            .map(|view| view.id)
            .collect();
        Ok(Accepted {
            outcome,
            instances,
            notes: note.into_iter().collect(),
            whole: None,
        })
    }

    /// Why several workers of an app would stand in each other's way, if they would.
    fn alone(&self, version: &Version, count: u32) -> Option<String> {
        let denied = self.interception.denied()?;
        let delivery = version.delivery();
        let alone = delivery.needs_interception() && delivery.wants_interception() && count > 1;
        alone.then(|| {
            format!(
                "{} is started as one instance, not {count}: only Node programs, and programs given --listen, can share a port \
                 here ({denied}); if it binds with SO_REUSEPORT by itself use --no-intercept",
                version.spec().name
            )
        })
    }

    pub(crate) fn act(&mut self, request: &ActionRequest) -> Result<Vec<Accepted>, ApiError> {
        let instances = self.catalog().resolve(&request.targets)?;
        let hard = request.hard;
        if !passable(&request.env) {
            return Err(failure(
                "a variable has no name or contains a NUL byte",
                Some("correct `env`"),
            ));
        }
        let of_these = instances.clone();
        let accepted = match request.action {
            Action::Restart if !request.hard => {
                self.restart_gently(&instances, &request.env, Manner::default())?
            }
            Action::Restart => self.restart(&instances, &request.env)?,
            Action::Stop => vec![self.obey(instances, |instances| Command::Stop { instances, hard })],
            Action::Delete => vec![self.obey(instances, |instances| Command::Delete { instances, hard })],
        };
        self.note_wish(&of_these, request);
        Ok(accepted)
    }

    pub(crate) fn obey(
        &mut self,
        instances: Vec<InstanceId>,
        command: impl FnOnce(Vec<InstanceId>) -> Command,
    ) -> Accepted {
        Accepted {
            outcome: self.command(command(instances.clone())),
            instances,
            notes: Vec::new(),
            whole: None,
        }
    }

    pub(crate) fn scale(&mut self, request: &ScaleRequest) -> Result<Accepted, ApiError> {
        let app = self.catalog().resolve_app(&request.target)?;
        if app.is_hidden() {
            let name = self.catalog().label(app);
            return Err(failure(
                format!("{name} has one process, and cannot be scaled"),
                None,
            ));
        }
        let now = u32::try_from(self.catalog().staying(app).len()).unwrap_or(u32::MAX);
        let count = wanted_count(&request.count, now, &request.target)?;
        if count > INSTANCE_LIMIT {
            return Err(too_many(count));
        }
        let outcome = self.command(Command::Scale { app, count });
        let instances = self
            .core
            .instances()
            .filter(|view| view.app == app)
            .map(|view| view.id)
            .collect();
        Ok(Accepted {
            outcome,
            instances,
            notes: Vec::new(),
            whole: None,
        })
    }

    /// Counts restarts from 0: of which instances.
    pub(crate) fn reset(&mut self, targets: &[String]) -> Result<Vec<InstanceId>, ApiError> {
        let instances = self.catalog().resolve(targets)?;
        let command = Command::Reset {
            instances: instances.clone(),
        };
        drop(self.command(command));
        Ok(instances)
    }

    /// What a user has stopped is left alone, until it is started.
    fn note_wish(&mut self, instances: &[InstanceId], request: &ActionRequest) {
        for id in self.catalog().apps_of(instances) {
            let mut ours = self.core.instances().filter(|view| view.app == id);
            let whole = ours.all(|view| instances.contains(&view.id));
            let Some(app) = self.apps.get_mut(&id) else {
                continue;
            };
            match request.action {
                Action::Stop => {
                    app.rests |= whole;
                    app.unwatched |= request.toggle_watch;
                }
                Action::Restart => {
                    app.rests = false;
                    app.unwatched ^= request.toggle_watch;
                }
                Action::Delete => {}
            }
        }
        self.upkeep.outdate();
    }
}

/// Can these variables be given to a program?
pub(crate) fn passable(env: &BTreeMap<String, String>) -> bool {
    let name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    env.iter().all(|(key, value)| name(key) && !value.contains('\0'))
}

/// `n`, `+n`, `-n` or `max`, seen from the present number of instances of `target`.
fn wanted_count(text: &str, now: u32, target: &str) -> Result<u32, ApiError> {
    let wrong = || {
        failure(
            format!("{text:?} is not a number of instances"),
            Some("give n, +n, -n or max"),
        )
    };
    let number = |digits: &str| digits.parse::<u32>().map_err(|_| wrong());
    let count = match (text, text.split_at_checked(1)) {
        ("max", _) => app::cpus(),
        (_, Some(("+", more))) => now.saturating_add(number(more)?),
        (_, Some(("-", fewer))) => now.saturating_sub(number(fewer)?).max(1),
        _ => number(text)?,
    };
    if count == 0 {
        return Err(failure(
            "an app has at least one instance",
            Some(&format!(
                "`rpm stop {target}` or `rpm delete {target}` ends it",
                target = word(target)
            )),
        ));
    }
    Ok(count)
}

pub(crate) fn too_many(count: u32) -> ApiError {
    failure(
        format!("{count} instances are too many"),
        Some(&format!(
            "the most is {INSTANCE_LIMIT}; `-i max` starts one per CPU"
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_absolute_relative_or_max() {
        let cases = [
            ("3", 2, Some(3)),
            ("+2", 2, Some(4)),
            ("-1", 2, Some(1)),
            ("-9", 2, Some(1)),
            ("0", 2, None),
        ];
        for (text, now, expected) in cases {
            assert_eq!(wanted_count(text, now, "web").ok(), expected, "{text} from {now}");
        }
        assert_eq!(wanted_count("max", 1, "web").ok(), Some(app::cpus()));
        for wrong in ["", "x", "+", "--1", "1.5"] {
            assert!(wanted_count(wrong, 2, "web").is_err(), "{wrong:?}");
        }
    }
}
