//! Carries out calls: a request to the daemon, and what a client gets to see of its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rpm_wire::api::{
    Action, ActionRequest, AppInfo, ChangeReply, Follow, LogLine, Process, ReloadRequest, RollbackRequest,
    Saved, ScaleRequest, Stream,
};
use rpm_wire::events::{Event, Head, Lost};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::bounds::Tail;
use super::client::{Client, Trouble, encoded};
use super::description::Description;
use super::figures::{Figures, Wanted};
use super::processes::{Changed, Listing};
use super::progress::Reporter;
use super::records::{EventView, Events, Logs};
use super::secrets::Secrets;
use super::tools::{self, Call, Change, EventsArgs, LogsArgs, MetricsArgs};
use crate::alerts::now_ms;
use crate::daemon::Daemon;
use crate::own::Sums;

/// Lines of each log file that are looked through for those that are wanted: the most that the daemon gives.
const LOOKED_THROUGH: u32 = 10_000;

const RELOAD_AGAIN: &str =
    "call `reload` again with the same app to wait for this reload, or look at `events`";
const LOOK_AGAIN: &str = "look at `list` and `events` for how it goes on";

/// Carries out calls.
#[derive(Debug)]
pub(super) struct Executor {
    client: Client,
    /// What the apps have counted themselves, over calls.
    sums: Mutex<Sums>,
    /// Apps whose reload was not waited for to its end: the next call goes on waiting for it.
    going_on: Mutex<BTreeSet<String>>,
}

impl Executor {
    pub(super) fn new(daemon: Daemon) -> Executor {
        Executor {
            client: Client::new(daemon),
            sums: Mutex::default(),
            going_on: Mutex::default(),
        }
    }

    /// The answer to a call.
    ///
    /// # Errors
    /// What failed, in words for the model.
    pub(super) async fn answer(&self, call: Call, reporter: &mut Reporter) -> Result<Value, String> {
        let secrets = self.secrets().await.map_err(|trouble| trouble.text())?;
        let answer = self.carry_out(call, &secrets, reporter).await;
        answer.map_err(|trouble| secrets.legible_lines(&trouble.text()))
    }

    async fn secrets(&self) -> Result<Secrets, Trouble> {
        let apps: Vec<Saved> = self.client.get("/v1/dump").await?;
        Ok(Secrets::of(&apps))
    }

    async fn carry_out(
        &self,
        call: Call,
        secrets: &Secrets,
        reporter: &mut Reporter,
    ) -> Result<Value, Trouble> {
        let answer = match call {
            Call::List(args) => {
                let processes: Vec<Process> = self.client.get("/v1/processes").await?;
                let app = args.app.as_deref().filter(|app| *app != "all");
                let listing = Listing::of(processes, app);
                if let (Some(app), true) = (app, listing.is_empty()) {
                    // The daemon says that there is none, and what was meant.
                    self.app(app).await?;
                }
                serde_json::to_value(listing)?
            }
            Call::Describe(args) => serde_json::to_value(Description::of(self.app(&args.app).await?))?,
            Call::Logs(args) => serde_json::to_value(self.logs(&args, secrets).await?)?,
            Call::Events(args) => serde_json::to_value(self.events(&args, secrets).await?)?,
            Call::Metrics(args) => serde_json::to_value(self.metrics(&args, secrets).await?)?,
            Call::Change(change, within) => {
                serde_json::to_value(self.change(&change, within, secrets, reporter).await?)?
            }
        };
        Ok(answer)
    }

    async fn app(&self, app: &str) -> Result<AppInfo, Trouble> {
        self.client.get(&format!("/v1/apps/{}", encoded(app))).await
    }

    async fn logs(&self, args: &LogsArgs, secrets: &Secrets) -> Result<Logs, Trouble> {
        let filtered = args.contains.is_some() || args.since_minutes.is_some();
        let lines = if filtered { LOOKED_THROUGH } else { args.lines + 1 };
        let path = format!("/v1/logs?lines={lines}&target={}", encoded(&args.app));
        let wanted = WantedLines::of(args, now_ms());
        let mut tail = Tail::new(usize::try_from(args.lines).unwrap_or(usize::MAX));
        let each = |line: &[u8]| {
            // What a newer daemon sends beside lines is passed over.
            let Ok(mut line) = serde_json::from_slice::<LogLine>(line) else {
                return;
            };
            // Before `contains` is looked for: it must not find what is not shown.
            line.line = secrets.legible(&line.line);
            if wanted.has(&line) {
                tail.push(line);
            }
        };
        self.client.lines(&path, each).await?;
        let (lines, left_out) = tail.finish();
        Ok(Logs::of(lines, left_out))
    }

    async fn events(&self, args: &EventsArgs, secrets: &Secrets) -> Result<Events, Trouble> {
        let most = usize::try_from(args.lines).unwrap_or(usize::MAX);
        let mut path = format!("/v1/events?lines={}", args.lines + 1);
        if let Some(app) = &args.app {
            path.push_str(&format!("&target={}", encoded(app)));
        }
        if let Some(after) = args.after {
            path.push_str(&format!("&after={after}"));
        }
        if let Some(minutes) = args.since_minutes {
            path.push_str(&format!("&since_ms={}", since(minutes, now_ms())));
        }
        let (mut events, mut lost) = (Vec::new(), 0);
        let each = |line: &[u8]| {
            if let Ok(event) = serde_json::from_slice::<Event>(line) {
                events.push(EventView::of(&event, secrets));
            } else if let Ok(head) = serde_json::from_slice::<Head>(line) {
                events.push(EventView::unknown(head));
            } else if let Ok(gap) = serde_json::from_slice::<Lost>(line) {
                lost += gap.lost;
            }
        };
        self.client.lines(&path, each).await?;
        let over = events.len().saturating_sub(most);
        let onward = args.after.is_some();
        match onward {
            true => events.truncate(most),
            false => drop(events.drain(..over)),
        }
        Ok(Events::of(events, over, lost, onward))
    }

    async fn metrics(&self, args: &MetricsArgs, secrets: &Secrets) -> Result<Figures, Trouble> {
        // An unknown app is an error, and an id means an app.
        let app = match &args.app {
            Some(app) => Some(self.app(app).await?.spec.name),
            None => None,
        };
        let mut page = self.client.page().await?;
        let scraped = self.client.scrape().await;
        let mut sums = self.sums.lock().await;
        let trouble = match scraped {
            Ok(scrape) => sums.add(&scrape),
            Err(trouble) => {
                sums.forget_present();
                vec![format!("no metrics of the apps' own: {}", trouble.text())]
            }
        };
        sums.render(&mut page);
        // Labels and their help are the apps' words.
        let page = secrets.masked(page);
        let trouble = trouble.iter().map(|text| secrets.legible(text)).collect();
        let wanted = Wanted {
            app: app.as_deref(),
            name: args.name.as_deref(),
        };
        Ok(Figures::of(&page, &wanted, trouble)?)
    }

    /// Makes a change, and waits for its outcome for so long. It goes on afterwards.
    async fn change(
        &self,
        change: &Change,
        within: Duration,
        secrets: &Secrets,
        reporter: &mut Reporter,
    ) -> Result<Changed, Trouble> {
        match timeout(within, self.changed(change, reporter)).await {
            Ok(reply) => Ok(Changed::done(reply?, secrets)),
            Err(_) => Ok(Changed::in_progress(match change {
                Change::Reload { app } => {
                    self.going_on.lock().await.insert(app.clone());
                    RELOAD_AGAIN
                }
                Change::Restart { .. } | Change::Scale { .. } | Change::Rollback { .. } => LOOK_AGAIN,
            })),
        }
    }

    async fn changed(&self, change: &Change, reporter: &mut Reporter) -> Result<ChangeReply, Trouble> {
        let follow = Follow {
            drained: false,
            progress: true,
        };
        match change {
            Change::Reload { app } => {
                let request = ReloadRequest {
                    targets: vec![app.clone()],
                    env: BTreeMap::new(),
                    watch_after_ms: None,
                    attach: self.going_on.lock().await.remove(app),
                    wait: true,
                    follow,
                };
                self.client.follow("/v1/reload", &request, reporter).await
            }
            Change::Restart { app, hard } => {
                let request = ActionRequest {
                    action: Action::Restart,
                    targets: vec![app.clone()],
                    hard: *hard,
                    toggle_watch: false,
                    env: BTreeMap::new(),
                    wait: true,
                    follow,
                };
                self.client.follow("/v1/actions", &request, reporter).await
            }
            Change::Scale { app, count } => {
                let request = ScaleRequest {
                    target: app.clone(),
                    count: count.clone(),
                    wait: true,
                };
                self.client.change("/v1/scale", &request).await
            }
            Change::Rollback { app } => {
                let request = RollbackRequest {
                    target: app.clone(),
                    wait: true,
                    follow,
                };
                self.client.follow("/v1/rollback", &request, reporter).await
            }
        }
    }
}

/// Which lines of the logs are wanted.
struct WantedLines {
    stream: Option<Stream>,
    /// In lower case.
    contains: Option<String>,
    since_ms: Option<u64>,
}

impl WantedLines {
    fn of(args: &LogsArgs, now_ms: u64) -> WantedLines {
        WantedLines {
            stream: args.stream.map(|stream| match stream {
                tools::Stream::Out => Stream::Out,
                tools::Stream::Err => Stream::Err,
            }),
            contains: args.contains.as_ref().map(|text| text.to_lowercase()),
            since_ms: args.since_minutes.map(|minutes| since(minutes, now_ms)),
        }
    }

    fn has(&self, line: &LogLine) -> bool {
        self.stream.is_none_or(|stream| stream == line.stream)
            && (self.since_ms).is_none_or(|since| line.time_ms.is_some_and(|written| written >= since))
            && (self.contains.as_ref()).is_none_or(|text| line.line.to_lowercase().contains(text))
    }
}

/// The time so many minutes before, milliseconds since 1970.
fn since(minutes: u32, now_ms: u64) -> u64 {
    now_ms.saturating_sub(u64::from(minutes) * 60_000)
}
