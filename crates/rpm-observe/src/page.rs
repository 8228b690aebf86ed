//! The page that is scraped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use rpm_wire::api::{AppSpec, Process, Scrape};
use rpm_wire::pm2::Versions;
use rpm_wire::receivers::Receiving;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::alerts::Counts;
use crate::daemon::Daemon;
use crate::forward::Forwarded;
use crate::otlp::Exported;
use crate::own::Sums;
use crate::pm2;

/// A page this old is good for whoever asks: however many scrape, the daemon is asked once in this time.
const FRESH: Duration = Duration::from_millis(500);

const UP: &str = "# HELP rpm_up 1 if the daemon answers\n# TYPE rpm_up gauge\nrpm_up";

/// Figures of this process itself.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// What became of alerts.
    pub counts: Arc<Counts>,
    /// What became of logs.
    pub forwarded: Arc<Forwarded>,
    /// What became of metrics and spans.
    pub exported: Arc<Exported>,
}

/// The page, for all who want it.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Page>);

impl Metrics {
    /// Figures of the daemon behind this socket, and what became of alerts, logs, metrics and spans. `versions`: those of an app's package and of
    /// its Node.
    #[must_use]
    pub fn new(
        socket: PathBuf,
        versions: fn(&AppSpec) -> Versions,
        counts: Arc<Counts>,
        forwarded: Arc<Forwarded>,
        exported: Arc<Exported>,
    ) -> Metrics {
        let own = Own {
            counts,
            forwarded,
            exported,
        };
        Metrics(Arc::new(Page::new(Daemon::new(socket), versions, own)))
    }

    pub(crate) async fn current(&self) -> Bytes {
        self.0.current().await
    }

    /// Who gets logs, alerts, metrics and spans, and how they stand.
    pub(crate) fn receivers(&self) -> Vec<Receiving> {
        let own = &self.0.own;
        let all = [
            own.forwarded.receivers(),
            own.counts.receivers(),
            own.exported.receivers(),
        ];
        all.concat()
    }
}

/// Makes the page, one at a time.
#[derive(Debug)]
pub(crate) struct Page {
    daemon: Daemon,
    versions: fn(&AppSpec) -> Versions,
    own: Own,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    page: Option<(Instant, Bytes)>,
    /// What was missing in it, and was logged.
    trouble: Option<String>,
    /// What the apps have counted themselves.
    sums: Sums,
}

impl Page {
    pub(crate) fn new(daemon: Daemon, versions: fn(&AppSpec) -> Versions, own: Own) -> Page {
        Page {
            daemon,
            versions,
            own,
            last: Mutex::default(),
        }
    }

    /// The present figures. A daemon that does not answer is a figure, too: alerts can be made of it.
    pub(crate) async fn current(&self) -> Bytes {
        let mut last = self.last.lock().await;
        if let Some((at, page)) = &last.page
            && at.elapsed() < FRESH
        {
            return page.clone();
        }
        let (page, trouble) = self.made(&mut last.sums).await;
        // Once, and not at every scrape of a night.
        if let Some(trouble) = trouble.as_ref().filter(|now| last.trouble.as_ref() != Some(now)) {
            eprintln!("{trouble}");
        }
        last.trouble = trouble;
        let page = Bytes::from(
            self.own.counts.page() + &self.own.forwarded.page() + &self.own.exported.page() + &page,
        );
        last.page = Some((Instant::now(), page.clone()));
        page
    }

    /// The page, and what is missing in it.
    async fn made(&self, sums: &mut Sums) -> (String, Option<String>) {
        let figures = self.daemon.get("/metrics");
        let processes = self.daemon.get("/v1/processes?spec=true");
        let (figures, processes) = match tokio::try_join!(figures, processes) {
            Ok(answers) => answers,
            Err(error) => return (format!("{UP} 0\n"), Some(format!("no figures: {error}"))),
        };
        let page = format!("{UP} 1\n\n{}", String::from_utf8_lossy(&figures));
        match serde_json::from_slice::<Vec<Process>>(&processes) {
            Ok(processes) => {
                let trouble = self.add_own(&processes, sums).await;
                let mut page = page + &pm2::figures(&processes, self.versions);
                sums.render(&mut page);
                (page, trouble)
            }
            Err(error) => {
                let trouble =
                    format!("no figures under PM2's names: the daemon is of another version: {error}");
                (page, Some(trouble))
            }
        }
    }

    /// Adds the apps' own metrics, if any of them has some. Returns what is missing in them.
    async fn add_own(&self, processes: &[Process], sums: &mut Sums) -> Option<String> {
        let has_some = |process: &Process| {
            let spec = process.spec.as_deref();
            spec.is_some_and(AppSpec::has_metrics)
        };
        let scrape = match processes.iter().any(has_some) {
            true => self.daemon.pages().await.map_err(|error| error.to_string()),
            false => Ok(Bytes::from_static(br#"{"apps":[],"pages":[]}"#)),
        };
        let scrape = scrape
            .and_then(|text| serde_json::from_slice::<Scrape>(&text).map_err(|error| error.to_string()));
        match scrape {
            Ok(scrape) => {
                let troubles = sums.add(&scrape);
                (!troubles.is_empty()).then(|| troubles.join("\n"))
            }
            Err(error) => {
                sums.forget_present();
                Some(format!("no metrics of the apps' own: {error}"))
            }
        }
    }
}
