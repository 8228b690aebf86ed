//! The history of figures: 1 s for 10 min, 10 s for 6 h, 1 min for 7 days, of each app.

mod code;
mod counted;
mod file;
mod heat;
mod row;
mod serve;
mod tiers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rpm_wire::api::AppFigures;
use tokio::sync::watch;

use crate::daemon::{Daemon, Kept};
pub(crate) use counted::{Counted, Moment, quantile};
use file::Store;
pub use file::{FILE, HistoryError};
use heat::OpenHeat;
pub use row::{FIGURES, Figure};
pub(crate) use serve::answer;
pub use tiers::Series;
use tiers::{Open, Span, query};

/// The daemon is asked for new samples of CPU, memory and connections once in so many seconds, as often as it takes them for itself.
const FRESH_EVERY: u32 = 5;

/// Whether somebody has deleted the file is looked at once in so many seconds.
const LOOK_EVERY: u32 = 10;

/// Records the history of all apps.
#[derive(Debug)]
struct Recorder {
    path: PathBuf,
    store: Option<Store>,
    apps: BTreeMap<String, (Counted, Open, OpenHeat)>,
    /// What was logged, and would be every second.
    trouble: Option<String>,
}

impl Recorder {
    fn record(&mut self, second: u32, figures: Vec<AppFigures>) -> Result<(), HistoryError> {
        let recorded = self.write(second, figures);
        if let Err(HistoryError::Io { .. }) = recorded {
            // Its disk may be another one the next time.
            self.store = None;
        }
        recorded
    }

    fn write(&mut self, second: u32, figures: Vec<AppFigures>) -> Result<(), HistoryError> {
        if second.is_multiple_of(LOOK_EVERY) {
            self.store = self.store.take().filter(Store::is_in_place);
        }
        if self.store.is_none() {
            self.store = self.opened()?;
        }
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        self.apps
            .retain(|name, _| figures.iter().any(|figures| figures.app == *name));
        let mut refused = Ok(());
        for figures in figures {
            let at = match store.block(&figures.app, second) {
                Ok(at) => at,
                Err(error @ HistoryError::Io { .. }) => return Err(error),
                Err(error) => {
                    refused = Err(error);
                    continue;
                }
            };
            let (counted, open, heat) = self.apps.entry(figures.app.clone()).or_insert_with(|| {
                let open = Open::resume(second, |place| store.row(at, place));
                let heat = OpenHeat::resume(second, |place| store.heat_row(at, place));
                (Counted::default(), open, heat)
            });
            let moment = counted.moment(f64::from(second), figures);
            store.write(at, second, &open.push(second, moment.values))?;
            if store.changes_bounds(at, &moment.bounds_ms)? {
                *heat = OpenHeat::default();
            }
            store.write_heat(at, &heat.push(second, &moment.times))?;
        }
        refused
    }

    /// The file; one that is damaged, or of another version, is renamed, for somebody to look at.
    fn opened(&self) -> Result<Option<Store>, HistoryError> {
        // The daemon makes the directory, with its own checks.
        if !self.path.parent().is_some_and(Path::is_dir) {
            return Ok(None);
        }
        match Store::open(&self.path) {
            Err(error @ HistoryError::Damaged { .. }) => {
                let aside = self.path.with_extension("before");
                let moved = std::fs::rename(&self.path, &aside);
                moved.map_err(|source| HistoryError::Io {
                    path: aside.clone(),
                    source,
                })?;
                eprintln!("{error}; it is now {}, and a new history begins", aside.display());
                Store::open(&self.path)
            }
            opened => opened,
        }
    }
}

/// The figures of all apps at one second, for whoever else wants them; at first none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    /// Seconds since the Unix epoch.
    pub(crate) at: u32,
    pub(crate) figures: Vec<AppFigures>,
}

/// Records until it is dropped, and shows each second to those who look.
pub(crate) async fn record(socket: PathBuf, path: PathBuf, seconds: watch::Sender<Arc<Second>>) {
    let mut daemon = Kept::new(Daemon::new(socket));
    let mut recorder = Recorder {
        path,
        store: None,
        apps: BTreeMap::new(),
        trouble: None,
    };
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // At the begin of each second, so that none is left out or has two samples.
        tokio::time::sleep(Duration::from_nanos(
            1_000_000_000 - u64::from(now.subsec_nanos()),
        ))
        .await;
        let second = u32::try_from(self::now()).unwrap_or(u32::MAX);
        let path = match second.is_multiple_of(FRESH_EVERY) {
            true => "/v1/figures?fresh=true",
            false => "/v1/figures",
        };
        // While there is no daemon there is a gap; `rpm_up` says it.
        let Ok(text) = daemon.get(path).await else {
            continue;
        };
        let trouble = match serde_json::from_slice::<Vec<AppFigures>>(&text) {
            Ok(figures) => {
                if seconds.receiver_count() > 0 {
                    let figures = figures.clone();
                    seconds.send_replace(Arc::new(Second { at: second, figures }));
                }
                let recorded = recorder.record(second, figures);
                recorded.err().map(|error| described(&error))
            }
            Err(error) => Some(format!("no history: the daemon is of another version: {error}")),
        };
        if let Some(trouble) = trouble
            .as_ref()
            .filter(|now| recorder.trouble.as_ref() != Some(now))
        {
            eprintln!("{trouble}");
        }
        recorder.trouble = trouble;
    }
}

/// What is recorded of an app.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// Its name.
    pub app: String,
    /// Its figures.
    pub series: Series,
}

/// What is recorded in `RPM_HOME` of all apps between two times, in seconds since the Unix epoch. Apps of which nothing was recorded then are
/// left out.
///
/// # Errors
/// The file cannot be read.
pub fn past(home: &Path, from: u64, to: u64, points: u32) -> Result<Vec<Past>, HistoryError> {
    let store = match Store::read_only(&home.join(FILE)) {
        Err(HistoryError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        store => store?,
    };
    let mut all = Vec::new();
    for app in store.apps() {
        let Some(rows) = store.rows(&app)? else { continue };
        let series = query(&rows, Span { from, to, points }, now());
        if series.values[0].iter().any(Option::is_some) {
            all.push(Past { app, series });
        }
    }
    Ok(all)
}

fn described(error: &HistoryError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
