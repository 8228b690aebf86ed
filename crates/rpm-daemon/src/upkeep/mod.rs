//! Automatic restarts: by the clock, by changed files, by memory.

pub(crate) mod files;
pub(crate) mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rpm_core::memory::{Circumstances, MemoryLimits, Remedy, Sample};
use rpm_core::{AppId, Tick};
use rpm_wire::api::WatchSpec;
use tokio::sync::mpsc;
use tracing::warn;

use crate::upkeep::files::FileWatch;
use crate::upkeep::schedule::{Schedule, Timer};

/// The clock may be set: it is looked at as often as this at least.
const LOOK: Duration = Duration::from_secs(60);
/// After files could not be watched, for lack of a thread or a descriptor.
const WATCH_AGAIN: Duration = Duration::from_secs(5);

/// What is done for apps without being asked.
#[derive(Default)]
pub(crate) struct Upkeep {
    /// Apps have changed since it was looked at.
    stale: bool,
    timers: BTreeMap<AppId, Kept>,
    watches: BTreeMap<AppId, FileWatch>,
    /// Some files are not watched that should be: it is tried again then.
    watch_again: Option<Instant>,
    /// Some app has a limit of memory.
    limits: bool,
    memory: MemoryLimits,
}

struct Kept {
    /// Text and zone.
    of: (String, Option<String>),
    timer: Timer,
}

/// What an app wants done without being asked.
pub(crate) struct Wants {
    /// Which.
    pub(crate) app: AppId,
    /// What it is called in the log.
    pub(crate) label: String,
    /// Its time table and the zone of that.
    pub(crate) cron: Option<(String, Option<String>)>,
    /// The files that are watched.
    pub(crate) watch: Option<WatchSpec>,
    /// What the daemon writes itself: changes of these files are not the user's.
    pub(crate) written: Vec<PathBuf>,
    /// It has a limit of memory.
    pub(crate) limit: bool,
}

/// Files that are watched for an app have changed.
pub(crate) struct FilesChanged {
    pub(crate) app: AppId,
    /// One of them.
    pub(crate) path: PathBuf,
}

impl Upkeep {
    /// Apps have changed: [`Upkeep::refresh`] is needed.
    pub(crate) fn outdate(&mut self) {
        self.stale = true;
    }

    /// Whether apps have changed since this was asked the last time.
    pub(crate) fn is_outdated(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    /// Whether any app has a limit of memory.
    pub(crate) fn has_limits(&self) -> bool {
        self.limits
    }

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

    /// Brings timers and watches in line with the apps, which are all of them.
    pub(crate) fn refresh<E: From<FilesChanged> + Send + 'static>(
        &mut self,
        apps: Vec<Wants>,
        events: &mpsc::Sender<E>,
    ) {
        let there: BTreeSet<AppId> = apps.iter().map(|wants| wants.app).collect();
        self.timers.retain(|app, _| there.contains(app));
        self.watches.retain(|app, _| there.contains(app));
        self.limits = apps.iter().any(|wants| wants.limit);
        for mut wants in apps {
            self.keep_time(&mut wants);
            self.keep_watch(wants, events);
        }
    }

    fn keep_time(&mut self, wants: &mut Wants) {
        let Some(of) = wants.cron.take() else {
            self.timers.remove(&wants.app);
            return;
        };
        if self.timers.get(&wants.app).is_some_and(|kept| kept.of == of) {
            return;
        }
        match Schedule::parse(&of.0, of.1.as_deref()) {
            Ok(schedule) => {
                let timer = Timer::new(schedule, Timestamp::now(), Instant::now());
                self.timers.insert(wants.app, Kept { of, timer });
            }
            Err(error) => warn!(
                app = wants.label,
                error, "cron_restart is not valid; the app is not restarted by it"
            ),
        }
    }

    fn keep_watch<E: From<FilesChanged> + Send + 'static>(&mut self, wants: Wants, events: &mpsc::Sender<E>) {
        let app = wants.app;
        let Some(spec) = &wants.watch else {
            self.watches.remove(&app);
            return;
        };
        if let Some(watch) = self.watches.get(&app).filter(|watch| watch.is_of(spec)) {
            // A new instance has log files of its own: as changes of the app they would restart it again and again.
            return watch.leave_out(wants.written);
        }
        let events = events.clone();
        let changed = move |path: &Path| {
            let path = path.to_owned();
            events.blocking_send(FilesChanged { app, path }.into()).is_ok()
        };
        match FileWatch::start(spec, wants.written, changed) {
            Ok(watch) => drop(self.watches.insert(app, watch)),
            Err(error) => {
                warn!(app = wants.label, %error, "cannot watch its files yet; trying again (fs.inotify.max_user_instances may be too low)");
                self.watch_again = Some(Instant::now() + WATCH_AGAIN);
            }
        }
    }

    /// The apps whose time has come.
    pub(crate) fn look_at_clock(&mut self) -> Vec<AppId> {
        let (now, steady) = (Timestamp::now(), Instant::now());
        if self.watch_again.is_some_and(|at| at <= steady) {
            self.watch_again = None;
            self.stale = true;
        }
        let mut due = Vec::new();
        for (app, kept) in &mut self.timers {
            if kept.timer.handle_look(now, steady) {
                due.push(*app);
            }
        }
        due
    }

    /// Are files of the app watched?
    pub(crate) fn watches(&self, app: AppId) -> bool {
        self.watches.contains_key(&app)
    }

    /// What is done for an instance because of its memory.
    pub(crate) fn judge_memory(
        &mut self,
        sample: &Sample,
        circumstances: Circumstances,
        now: Tick,
    ) -> Remedy {
        self.memory.handle_sample(sample, circumstances, now)
    }
}
