//! Restarts that nobody asks for at the moment: by the clock, by changed files, by memory.

pub(crate) mod files;
pub(crate) mod schedule;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rpm_core::protocol::Command;
use rpm_core::{AppId, InstanceId, StateView};
use rpm_wire::api::WatchSpec;
use tracing::{info, warn};

use crate::apps::reload::Manner;
use crate::supervisor::{Event, Supervisor};
use crate::upkeep::files::FileWatch;
use crate::upkeep::schedule::{Schedule, Timer};

/// The clock may be set: it is looked at as often as this at least.
const LOOK: Duration = Duration::from_secs(60);
/// After files could not be watched, for lack of a thread or a descriptor.
const WATCH_AGAIN: Duration = Duration::from_secs(5);
/// An instance that was replaced for its memory is left alone for this long.
const GRACE: Duration = Duration::from_secs(10);

/// What is done for apps without being asked.
#[derive(Default)]
pub(crate) struct Upkeep {
    /// Apps have changed since it was looked at.
    pub(crate) stale: bool,
    timers: BTreeMap<AppId, Kept>,
    watches: BTreeMap<AppId, FileWatch>,
    /// Some files are not watched that should be: it is tried again then.
    watch_again: Option<Instant>,
    /// Some app has a limit of memory.
    pub(crate) limits: bool,
    spared: Spared,
}

/// Instances that were replaced for their memory, and until when they are left alone.
#[derive(Debug, Default)]
struct Spared(BTreeMap<(AppId, InstanceId), Instant>);

impl Spared {
    fn add(&mut self, instance: (AppId, InstanceId), now: Instant) {
        self.0.retain(|_, until| *until > now);
        self.0.insert(instance, now + GRACE);
    }

    /// One of another app may have the same number, and is another instance.
    fn has(&self, instance: (AppId, InstanceId), now: Instant) -> bool {
        self.0.get(&instance).is_some_and(|until| *until > now)
    }
}

struct Kept {
    /// Text and zone.
    of: (String, Option<String>),
    timer: Timer,
}

impl Upkeep {
    /// When the clock is to be looked at.
    pub(crate) fn due(&self) -> Option<Instant> {
        let next = self.timers.values().filter_map(|kept| kept.timer.next).min();
        let next = next.map(|next| {
            let left = next.duration_since(Timestamp::now());
            let left = Duration::try_from(left).unwrap_or_default();
            Instant::now() + left.min(LOOK)
        });
        next.into_iter().chain(self.watch_again).min()
    }
}

impl Supervisor {
    /// Brings timers and watches in line with the apps.
    pub(crate) fn refresh_upkeep(&mut self) {
        if !std::mem::take(&mut self.upkeep.stale) {
            return;
        }
        let apps: Vec<AppId> = self.apps.keys().copied().collect();
        self.upkeep.timers.retain(|app, _| apps.contains(app));
        self.upkeep.watches.retain(|app, _| apps.contains(app));
        self.upkeep.limits = false;
        for app in apps {
            let Some(spec) = self.present_spec(app).cloned() else {
                continue;
            };
            self.upkeep.limits |= spec.max_memory_restart.is_some();
            let rests = self.apps.get(&app).is_some_and(|app| app.rests);
            let cron = spec.cron_restart.clone().filter(|_| !rests);
            self.keep_time(app, cron.map(|text| (text, spec.cron_timezone.clone())));
            self.keep_watch(app, spec.watch.as_ref().filter(|_| self.is_watched(app)));
        }
    }

    /// Are files watched for this app?
    pub(crate) fn is_watched(&self, app: AppId) -> bool {
        let wants = self.present_spec(app).is_some_and(|spec| spec.watch.is_some());
        wants
            && self
                .apps
                .get(&app)
                .is_some_and(|app| !app.rests && !app.unwatched)
    }

    fn keep_time(&mut self, app: AppId, wanted: Option<(String, Option<String>)>) {
        let Some(of) = wanted else {
            self.upkeep.timers.remove(&app);
            return;
        };
        if self.upkeep.timers.get(&app).is_some_and(|kept| kept.of == of) {
            return;
        }
        match Schedule::parse(&of.0, of.1.as_deref()) {
            Ok(schedule) => {
                let timer = Timer::new(schedule, Timestamp::now(), Instant::now());
                self.upkeep.timers.insert(app, Kept { of, timer });
            }
            Err(error) => warn!(app = self.label(app), error, "it is not restarted by the clock"),
        }
    }

    fn keep_watch(&mut self, app: AppId, wanted: Option<&WatchSpec>) {
        let Some(spec) = wanted else {
            self.upkeep.watches.remove(&app);
            return;
        };
        if self
            .upkeep
            .watches
            .get(&app)
            .is_some_and(|watch| watch.is_of(spec))
        {
            return;
        }
        let mut ours = vec![self.home.root().to_owned()];
        let instances: Vec<InstanceId> = self
            .core
            .instances()
            .filter(|view| view.app == app)
            .map(|view| view.id)
            .collect();
        for id in instances {
            let Some(spec) = self.present_spec(app) else {
                continue;
            };
            let logs = crate::workers::outputs::logs_of(&self.home, spec, id);
            ours.extend([Some(logs.out), Some(logs.err), logs.both].into_iter().flatten());
            ours.push(crate::workers::outputs::pid_file(&self.home, spec, id));
        }
        let events = self.events.clone();
        let changed = move |path: &std::path::Path| {
            let event = Event::FilesChanged(app, path.to_owned());
            events.blocking_send(event).is_ok()
        };
        match FileWatch::start(spec, ours, changed) {
            Ok(watch) => drop(self.upkeep.watches.insert(app, watch)),
            Err(error) => {
                warn!(app = self.label(app), %error, "its files are not watched yet");
                self.upkeep.watch_again = Some(Instant::now() + WATCH_AGAIN);
            }
        }
    }

    /// Restarts the apps whose time has come.
    pub(crate) fn look_at_clock(&mut self) {
        let (now, steady) = (Timestamp::now(), Instant::now());
        if self.upkeep.watch_again.is_some_and(|at| at <= steady) {
            self.upkeep.watch_again = None;
            self.upkeep.stale = true;
        }
        let mut due = Vec::new();
        for (app, kept) in &mut self.upkeep.timers {
            if kept.timer.handle_look(now, steady) {
                due.push(*app);
            }
        }
        for app in due {
            // It is as new as it can be, and a time table of every second would not let it become ready, nor a command that
            // waits for that return.
            if self.is_starting(app) {
                continue;
            }
            info!(app = self.label(app), "restarted by the clock");
            self.renew_all_of(app, Manner::default());
        }
    }

    /// Is every instance being started at this moment?
    fn is_starting(&self, app: AppId) -> bool {
        let mut states = self.core.instances().filter(|view| view.app == app).peekable();
        states.peek().is_some() && states.all(|view| matches!(view.state, StateView::Launching { .. }))
    }

    /// Files of an app have changed.
    pub(crate) fn files_changed(&mut self, app: AppId, path: &std::path::Path) {
        if self.upkeep.watches.contains_key(&app) {
            info!(app = self.label(app), path = %path.display(), "restarted: this file has changed");
            // A reload that runs has perhaps read what was there before: it is not waited for.
            let manner = Manner {
                yields: true,
                ..Manner::default()
            };
            self.renew_all_of(app, manner);
        }
    }

    fn renew_all_of(&mut self, app: AppId, manner: Manner) {
        let ids: Vec<InstanceId> = self
            .core
            .instances()
            .filter(|view| view.app == app)
            .map(|view| view.id)
            .collect();
        if let Err(error) = self.restart_gently(&ids, &BTreeMap::new(), manner) {
            warn!(
                app = self.label(app),
                error = error.error,
                "it cannot be restarted"
            );
        }
    }

    /// Replaces instances whose processes have more memory than they may.
    pub(crate) fn enforce_limits(&mut self) {
        let now = Instant::now();
        let mut over = Vec::new();
        for view in self.core.instances() {
            let worker = view.worker().and_then(|worker| self.workers.get(&worker));
            let Some((held, process)) = worker.and_then(|held| Some((held, held.process()?))) else {
                continue;
            };
            let Some(limit) = held.spec.max_memory_restart else {
                continue;
            };
            let used = process.usage.rss_bytes;
            if used > limit && !process.ending && !self.upkeep.spared.has((view.app, view.id), now) {
                over.push((view.app, view.id, used, limit));
            }
        }
        for (app, id, used, limit) in over {
            if self.core.app(app).is_some_and(|view| view.reload.is_some()) {
                continue;
            }
            let (used_mb, limit_mb) = (used >> 20, limit >> 20);
            info!(app = self.label(app), %id, used_mb, limit_mb, "replaced: it has more memory than it may");
            self.upkeep.spared.add((app, id), now);
            let instances = vec![id];
            let command = match self.is_fork(app) && !self.has_slots(app) {
                true => Command::Restart { instances },
                false => Command::Replace { app, instances },
            };
            drop(self.command(command));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_spared_and_no_later_one_of_its_number() {
        let now = Instant::now();
        let (first, second) = ((AppId(1), InstanceId(0)), (AppId(2), InstanceId(0)));
        let mut spared = Spared::default();
        spared.add(first, now);
        assert!(spared.has(first, now + GRACE / 2));
        assert!(!spared.has(first, now + GRACE));
        assert!(!spared.has(second, now), "of another app");
        spared.add(second, now + GRACE);
        assert_eq!(spared.0.len(), 1, "those whose time is over are forgotten");
    }
}
