//! Automatic restarts and reloads: which apps want them, and what becomes of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rpm_core::AppId;
use rpm_core::memory::{Circumstances, Remedy, Sample};
use rpm_core::protocol::Command;
use rpm_wire::events::What;
use tracing::{info, warn};

use crate::apps::catalog::Catalog;
use crate::events::subject::Of;
use crate::home::Home;
use crate::orders::Orders;
use crate::orders::reload::Manner;
use crate::upkeep::Wants;
use crate::workers::outputs::{logs_of, pid_file};

/// What each app wants done without being asked.
pub(crate) fn wants(catalog: Catalog<'_>, home: &Home) -> Vec<Wants> {
    let apps = catalog.apps().keys();
    apps.filter_map(|app| wants_of(catalog, home, *app)).collect()
}

fn wants_of(catalog: Catalog<'_>, home: &Home, app: AppId) -> Option<Wants> {
    let spec = catalog.present_spec(app)?;
    let rests = catalog.apps().get(&app).is_some_and(|app| app.rests);
    let cron = spec.cron_restart.clone().filter(|_| !rests);
    let watch = spec.watch.clone().filter(|_| catalog.is_watched(app));
    Some(Wants {
        app,
        label: catalog.label(app),
        cron: cron.map(|text| (text, spec.cron_timezone.clone())),
        written: watch
            .as_ref()
            .map(|_| written_by_us(catalog, home, app))
            .unwrap_or_default(),
        watch,
        limit: spec.max_memory_restart.is_some(),
    })
}

/// What the daemon writes for the app, and for itself.
fn written_by_us(catalog: Catalog<'_>, home: &Home, app: AppId) -> Vec<PathBuf> {
    let mut ours = vec![home.root().to_owned()];
    let Some(spec) = catalog.present_spec(app) else {
        return ours;
    };
    for id in catalog.instances_of(app) {
        let logs = logs_of(home, spec, id);
        ours.extend([Some(logs.out), Some(logs.err), logs.both].into_iter().flatten());
        ours.push(pid_file(home, spec, id));
    }
    ours
}

impl Orders<'_> {
    /// Restarts the apps whose time has come.
    pub(crate) fn look_at_clock(&mut self) {
        for app in self.upkeep.look_at_clock() {
            // It is as new as it can be, and a time table of every second would not let it become ready, nor a command that
            // waits for that return.
            if self.catalog().is_starting(app) {
                continue;
            }
            info!(app = self.catalog().label(app), "restarted by the clock");
            self.report(Of::App(app, None), What::Cron {});
            self.renew_all_of(app, Manner::default());
        }
    }

    /// Files of an app have changed.
    pub(crate) fn files_changed(&mut self, app: AppId, path: &Path) {
        if self.upkeep.watches(app) {
            info!(app = self.catalog().label(app), path = %path.display(), "restarted: this file has changed");
            let what = What::Watch {
                path: path.display().to_string(),
            };
            self.report(Of::App(app, None), what);
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
        let samples = self.core.instances().filter_map(|view| {
            let held = self.workers.get(&view.worker()?)?;
            let process = held.process().filter(|process| !process.ending)?;
            let sample = Sample {
                app: view.app,
                instance: view.id,
                used: process.usage.rss_bytes,
                limit: held.spec.max_memory_restart?,
            };
            sample.is_over().then_some(sample)
        });
        for over in samples.collect::<Vec<_>>() {
            let (app, instances) = (over.app, vec![over.instance]);
            let circumstances = Circumstances {
                // Perhaps since this very step.
                reloads: self.core.app(app).is_some_and(|view| view.reload.is_some()),
                shares: !self.catalog().is_fork(app) || self.has_slots(app),
            };
            let command = match self.upkeep.judge_memory(&over, circumstances, self.now) {
                Remedy::Leave => continue,
                Remedy::Restart => Command::Restart { instances },
                Remedy::Replace => Command::Replace { app, instances },
            };
            let (used_mb, limit_mb) = (over.used >> 20, over.limit >> 20);
            info!(app = self.catalog().label(app), id = %over.instance, used_mb, limit_mb, "replaced: it exceeds its memory limit");
            let what = What::MemoryLimit {
                used_bytes: over.used,
                limit_bytes: over.limit,
            };
            self.report(Of::Instance(app, over.instance), what);
            drop(self.command(command));
        }
    }
}
