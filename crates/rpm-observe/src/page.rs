//! The page that is scraped.

use std::time::Duration;

use axum::body::Bytes;
use rpm_wire::api::{AppSpec, Process};
use rpm_wire::pm2::Versions;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::pm2;

/// A page this old is good for whoever asks: however many scrape, the daemon is asked once in this time.
const FRESH: Duration = Duration::from_millis(500);

const UP: &str = "# HELP rpm_up 1 if the daemon answers\n# TYPE rpm_up gauge\nrpm_up";

/// Makes the page, one at a time.
#[derive(Debug)]
pub(crate) struct Page {
    daemon: Daemon,
    versions: fn(&AppSpec) -> Versions,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    page: Option<(Instant, Bytes)>,
    /// What was missing in it, and was logged.
    trouble: Option<String>,
}

impl Page {
    pub(crate) fn new(daemon: Daemon, versions: fn(&AppSpec) -> Versions) -> Page {
        Page {
            daemon,
            versions,
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
        let (page, trouble) = self.made().await;
        // Once, and not at every scrape of a night.
        if let Some(trouble) = trouble.as_ref().filter(|now| last.trouble.as_ref() != Some(now)) {
            eprintln!("{trouble}");
        }
        last.trouble = trouble;
        let page = Bytes::from(page);
        last.page = Some((Instant::now(), page.clone()));
        page
    }

    /// The page, and what is missing in it.
    async fn made(&self) -> (String, Option<String>) {
        let figures = self.daemon.get("/metrics");
        let processes = self.daemon.get("/v1/processes?spec=true");
        let (figures, processes) = match tokio::try_join!(figures, processes) {
            Ok(answers) => answers,
            Err(error) => return (format!("{UP} 0\n"), Some(format!("no figures: {error}"))),
        };
        let page = format!("{UP} 1\n\n{}", String::from_utf8_lossy(&figures));
        match serde_json::from_slice::<Vec<Process>>(&processes) {
            Ok(processes) => (page + &pm2::figures(&processes, self.versions), None),
            Err(error) => {
                let trouble =
                    format!("no figures under PM2's names: the daemon is of another version: {error}");
                (page, Some(trouble))
            }
        }
    }
}
