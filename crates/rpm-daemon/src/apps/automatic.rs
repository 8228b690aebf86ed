//! Automatic restarts and reloads: which apps want them, and what becomes of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rpm_core::AppId;
use rpm_core::protocol::Command;
use tracing::{info, warn};

use crate::apps::reload::Manner;
use crate::supervisor::Supervisor;
use crate::upkeep::{Usage, Wants};
use crate::workers::outputs::{logs_of, pid_file};

impl Supervisor {
    /// Brings timers and watches in line with the apps, if those have changed.
    pub(crate) fn refresh_upkeep(&mut self) {
        if !self.upkeep.is_outdated() {
            return;
        }
        let wants = self.apps.keys().filter_map(|app| self.wants(*app)).collect();
        self.upkeep.refresh(wants, &self.events);
    }

    fn wants(&self, app: AppId) -> Option<Wants> {
        let spec = self.catalog().present_spec(app)?;
        let rests = self.apps.get(&app).is_some_and(|app| app.rests);
        let cron = spec.cron_restart.clone().filter(|_| !rests);
        let watch = spec.watch.clone().filter(|_| self.catalog().is_watched(app));
        Some(Wants {
            app,
            label: self.catalog().label(app),
            cron: cron.map(|text| (text, spec.cron_timezone.clone())),
            written: watch
                .as_ref()
                .map(|_| self.written_by_us(app))
                .unwrap_or_default(),
            watch,
            limit: spec.max_memory_restart.is_some(),
        })
    }

    /// What the daemon writes for the app, and for itself.
    fn written_by_us(&self, app: AppId) -> Vec<PathBuf> {
        let mut ours = vec![self.home.root().to_owned()];
        let Some(spec) = self.catalog().present_spec(app) else {
            return ours;
        };
        for id in self.catalog().instances_of(app) {
            let logs = logs_of(&self.home, spec, id);
            ours.extend([Some(logs.out), Some(logs.err), logs.both].into_iter().flatten());
            ours.push(pid_file(&self.home, spec, id));
        }
        ours
    }

    /// Restarts the apps whose time has come.
    pub(crate) fn look_at_clock(&mut self) {
        for app in self.upkeep.look_at_clock() {
            // It is as new as it can be, and a time table of every second would not let it become ready, nor a command that
            // waits for that return.
            if self.catalog().is_starting(app) {
                continue;
            }
            info!(app = self.catalog().label(app), "restarted by the clock");
            self.renew_all_of(app, Manner::default());
        }
    }

    /// Files of an app have changed.
    pub(crate) fn files_changed(&mut self, app: AppId, path: &Path) {
        if self.upkeep.watches(app) {
            info!(app = self.catalog().label(app), path = %path.display(), "restarted: this file has changed");
            // A reload that runs has perhaps read what was there before: it is not waited for.
            let manner = Manner {
                yields: true,
                ..Manner::default()
            };
            self.renew_all_of(app, manner);
        }
    }

    fn renew_all_of(&mut self, app: AppId, manner: Manner) {
        let ids = self.catalog().instances_of(app);
        if let Err(error) = self.restart_gently(&ids, &BTreeMap::new(), manner) {
            warn!(
                app = self.catalog().label(app),
                error = error.error,
                "it cannot be restarted"
            );
        }
    }

    /// Replaces instances whose processes have more memory than they may.
    pub(crate) fn enforce_limits(&mut self) {
        let limited = self.core.instances().filter_map(|view| {
            let held = self.workers.get(&view.worker()?)?;
            let process = held.process().filter(|process| !process.ending)?;
            let usage = Usage {
                app: view.app,
                instance: view.id,
                used: process.usage.rss_bytes,
                limit: held.spec.max_memory_restart?,
            };
            self.upkeep.is_over(&usage).then_some(usage)
        });
        for over in limited.collect::<Vec<_>>() {
            let app = over.app;
            // Whatever is replaced already, perhaps in this very step, takes its turn.
            if self.core.app(app).is_some_and(|view| view.reload.is_some()) {
                continue;
            }
            let (used_mb, limit_mb) = (over.used >> 20, over.limit >> 20);
            info!(app = self.catalog().label(app), id = %over.instance, used_mb, limit_mb, "replaced: it exceeds its memory limit");
            self.upkeep.spare(&over);
            let instances = vec![over.instance];
            let command = match self.catalog().is_fork(app) && !self.has_slots(app) {
                true => Command::Restart { instances },
                false => Command::Replace { app, instances },
            };
            drop(self.command(command));
        }
    }
}
