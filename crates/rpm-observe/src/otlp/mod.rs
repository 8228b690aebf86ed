//! Metrics and spans by OTLP over HTTP with JSON (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! [`settings`] says what is sent and where, by the ecosystem file and the variables of OpenTelemetry; [`metrics`] and [`traces`] make the bodies,
//! [`queue`] keeps spans until they are taken: none of them has a clock or the network. [`reader`] gets spans from the daemon, [`sender`] posts.

mod counts;
mod encode;
mod metrics;
mod queue;
mod reader;
mod sender;
mod settings;
mod traces;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use rpm_wire::forward::Http;
use rpm_wire::otlp::{OTLP_BYTES, OTLP_FILE, Otlp};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::daemon::Daemon;
use crate::files::{self, Changing};
use crate::page::Metrics;
pub use counts::Exported;
use encode::Resource;
use metrics::Converter;
use queue::Waiting;
use sender::{Sender, Verdict};
use settings::Plan;

/// The file that the process which exports has locked.
const LOCK_FILE: &str = "otlp.lock";
/// Between two looks at the settings.
const LOOK: Duration = Duration::from_secs(1);

/// Exports metrics and spans.
#[derive(Debug)]
pub struct Export {
    socket: PathBuf,
    home: PathBuf,
    host: String,
    settings: Changing,
    exported: Arc<Exported>,
    waiting: Arc<Waiting>,
    tasks: JoinSet<()>,
    trouble: Option<String>,
}

impl Export {
    /// For the daemon with this socket, whose directory has the settings.
    #[must_use]
    pub fn new(socket: PathBuf, home: PathBuf) -> Export {
        let exported = Arc::<Exported>::default();
        Export {
            socket,
            host: crate::host_name(),
            settings: Changing::new(home.join(OTLP_FILE), OTLP_BYTES),
            home,
            waiting: Arc::new(Waiting::new(Arc::clone(&exported.traces))),
            exported,
            tasks: JoinSet::new(),
            trouble: None,
        }
    }

    /// What became of metrics and spans, for the metrics.
    #[must_use]
    pub fn exported(&self) -> Arc<Exported> {
        Arc::clone(&self.exported)
    }

    /// Exports, for ever. Of several processes one does, and the next when it has ended. What the file does not say, `variable` does.
    pub async fn run(mut self, page: Metrics, variable: fn(&str) -> Option<String>) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lock = self.home.join(LOCK_FILE);
        let mut turn = None;
        let mut is_first = true;
        loop {
            ticks.tick().await;
            if turn.is_none() {
                match files::turn(&lock) {
                    Ok(now) => turn = now,
                    Err(error) => self.complain(format!("cannot lock {}: {error}", lock.display())),
                }
                if turn.is_none() {
                    continue;
                }
            }
            let text = match self.settings.changed() {
                Some(text) => text,
                None if is_first => Ok(String::new()),
                None => continue,
            };
            is_first = false;
            let read = text
                .map_err(|error| error.to_string())
                .and_then(|text| match text.trim() {
                    "" => Ok(None),
                    text => serde_json::from_str::<Otlp>(text)
                        .map(Some)
                        .map_err(|error| error.to_string()),
                });
            match read {
                Ok(file) => self.begin(settings::plan(file.as_ref(), variable), &page),
                Err(error) => {
                    let path = self.settings.path().display();
                    let what = format!(
                        "it stays as it was: cannot read {path}: {error}; start the ecosystem file again, which writes it"
                    );
                    self.complain(what);
                }
            }
        }
    }

    /// Once, and not every second of a night.
    fn complain(&mut self, what: String) {
        if self.trouble.as_ref() != Some(&what) {
            eprintln!("otlp: {what}");
        }
        self.trouble = Some(what);
    }

    /// Replaces what runs.
    fn begin(&mut self, plan: Plan, page: &Metrics) {
        self.tasks.abort_all();
        for trouble in &plan.troubles {
            eprintln!("otlp: {trouble}");
        }
        let resource = Resource {
            host: self.host.clone(),
            ..plan.resource
        };
        self.exported.metrics.set_used(plan.metrics.is_some());
        self.exported.traces.set_used(plan.traces.is_some());
        if let Some(to) = plan.metrics {
            eprintln!("otlp: metrics are sent to {}", to.shown());
            let sender = Sender::new("metrics", to, Arc::clone(&self.exported.metrics));
            self.tasks.spawn(send_metrics(
                page.clone(),
                sender,
                resource.clone(),
                plan.interval,
            ));
        }
        match plan.traces {
            Some(to) => self.send_spans(to, resource),
            None => self.waiting.clear(),
        }
    }

    fn send_spans(&mut self, to: Http, resource: Resource) {
        eprintln!("otlp: spans are sent to {}", to.shown());
        let sender = Sender::new("spans", to, Arc::clone(&self.exported.traces));
        let daemon = Daemon::new(self.socket.clone());
        self.tasks.spawn(reader::read(daemon, Arc::clone(&self.waiting)));
        self.tasks
            .spawn(send_spans(Arc::clone(&self.waiting), sender, resource));
    }
}

/// Sends spans, for ever. What is not taken is sent again; meanwhile the queue drops the oldest.
async fn send_spans(waiting: Arc<Waiting>, mut sender: Sender, resource: Resource) {
    loop {
        let batch = waiting.batch().await;
        let body = Bytes::from(traces::body(&batch, &resource));
        loop {
            match sender.send(body.clone(), batch.len() as u64).await {
                Verdict::Settled => break,
                Verdict::Later(pause) => sleep(pause).await,
            }
        }
        waiting.settled();
    }
}

/// Sends the figures each interval, for ever. What is not taken until the next ones is dropped: they have the same totals, and newer ones.
async fn send_metrics(page: Metrics, mut sender: Sender, resource: Resource, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut converter = Converter::new(resource);
    loop {
        ticks.tick().await;
        let until = Instant::now() + every;
        let text = page.current().await;
        let bodies = match converter.bodies(&String::from_utf8_lossy(&text), now_ns()) {
            Ok(bodies) => bodies,
            Err(error) => {
                sender.complain(format!("the page of metrics cannot be read: {error}"));
                continue;
            }
        };
        for (body, points) in bodies {
            deliver(&mut sender, Bytes::from(body), points, until).await;
        }
    }
}

async fn deliver(sender: &mut Sender, body: Bytes, points: u64, until: Instant) {
    loop {
        match sender.send(body.clone(), points).await {
            Verdict::Settled => return,
            Verdict::Later(pause) if Instant::now() + pause < until => sleep(pause).await,
            Verdict::Later(_) => return sender.drop_late(points),
        }
    }
}

/// The time, in nanoseconds since 1970.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
