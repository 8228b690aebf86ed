//! Metrics and spans by OTLP over HTTP with JSON (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! [`settings`] says what is sent and where, by the ecosystem file and the variables of OpenTelemetry; [`metrics`] and [`traces`] make the bodies,
//! [`queue`] keeps spans until they are taken: none of them has a clock or the network. [`reader`] gets spans from the daemon, [`sender`] posts.

mod counts;
mod encode;
mod groups;
mod metrics;
mod queue;
mod reader;
mod sender;
mod settings;
mod traces;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use rpm_wire::forward::Http;
use rpm_wire::otlp::{OTLP_BYTES, OTLP_FILE, Otlp};
use serde_json::error::Category;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::daemon::Daemon;
use crate::files::{self, Changing};
use crate::page::Metrics;
pub use counts::Exported;
use encode::Resource;
use metrics::Converter;
use queue::Waiting;
use sender::{ANSWER_WITHIN, Patience, Sender, Verdict};
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
    /// Knows since when sums count, whatever the settings are.
    converter: Arc<Mutex<Converter>>,
    /// Gets spans from the daemon, whatever the receiver is.
    reading: JoinSet<()>,
    sending: JoinSet<()>,
    /// What is carried out.
    plan: Option<Plan>,
    /// The same, if a task of it has failed.
    broken: Option<Plan>,
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
            converter: Arc::default(),
            reading: JoinSet::new(),
            sending: JoinSet::new(),
            plan: None,
            broken: None,
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
            tokio::select! {
                _ = ticks.tick() => {}
                Some(ended) = self.sending.join_next() => {
                    self.ended(ended);
                    continue;
                }
                Some(ended) = self.reading.join_next() => {
                    self.ended(ended);
                    continue;
                }
            }
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
                None => {
                    if let Some(plan) = self.broken.take() {
                        self.begin(plan, &page).await;
                    }
                    continue;
                }
            };
            is_first = false;
            let read = text
                .map_err(|error| error.to_string())
                .and_then(|text| parsed(&text));
            match read {
                Ok(file) => self.begin(settings::plan(file.as_ref(), variable), &page).await,
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

    /// A task that runs for ever has ended, which only a bug does: at the next look all begin again.
    fn ended(&mut self, how: Result<(), JoinError>) {
        if let Err(error) = how {
            eprintln!("otlp: a task has failed and begins again: {error}");
        }
        self.broken = self.plan.clone();
    }

    /// Replaces what sends.
    async fn begin(&mut self, plan: Plan, page: &Metrics) {
        self.sending.shutdown().await;
        self.broken = None;
        self.plan = Some(plan.clone());
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
            let converter = Arc::clone(&self.converter);
            self.sending.spawn(send_metrics(
                page.clone(),
                sender,
                converter,
                resource.clone(),
                plan.interval,
            ));
        }
        match plan.traces {
            Some(to) => self.send_spans(to, resource),
            None => {
                self.reading.shutdown().await;
                self.waiting.clear();
            }
        }
    }

    fn send_spans(&mut self, to: Http, resource: Resource) {
        eprintln!("otlp: spans are sent to {}", to.shown());
        let sender = Sender::new("spans", to, Arc::clone(&self.exported.traces));
        if self.reading.is_empty() {
            let daemon = Daemon::new(self.socket.clone());
            self.reading
                .spawn(reader::read(daemon, Arc::clone(&self.waiting)));
        }
        self.sending
            .spawn(send_spans(Arc::clone(&self.waiting), sender, resource));
    }
}

/// What the file says. An error has nothing of what stands in it, which can be a secret.
fn parsed(text: &str) -> Result<Option<Otlp>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|error| {
        let what = match error.classify() {
            Category::Data => "it has something that does not belong there",
            Category::Eof => "it ends too early",
            Category::Io | Category::Syntax => "it is not JSON",
        };
        format!("{what} (line {}, column {})", error.line(), error.column())
    })
}

/// Sends spans, for ever. What is not taken is sent again; meanwhile the queue drops the oldest. What a receiver that is there does not take is given
/// up at last, so that it holds up no others.
async fn send_spans(waiting: Arc<Waiting>, mut sender: Sender, resource: Resource) {
    loop {
        let batch = waiting.batch().await;
        let body = Bytes::from(traces::body(&batch, &resource));
        let mut patience = Patience::default();
        let items = batch.len() as u64;
        while let Verdict::Later { pause, is_away } = sender.send(body.clone(), items, ANSWER_WITHIN).await {
            if patience.is_over(is_away, Instant::now()) {
                sender.drop_late(items);
                break;
            }
            sleep(pause).await;
        }
        waiting.settled();
    }
}

/// Sends the figures each interval, for ever. What is not taken until the next ones is dropped: they have the same totals, and newer ones.
async fn send_metrics(
    page: Metrics,
    mut sender: Sender,
    converter: Arc<Mutex<Converter>>,
    resource: Resource,
    every: Duration,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let text = page.current().await;
        let until = Instant::now() + every;
        let text = String::from_utf8_lossy(&text);
        let bodies = {
            let mut converter = converter.lock().unwrap_or_else(PoisonError::into_inner);
            converter.bodies(&text, &resource, now_ns())
        };
        let bodies = match bodies {
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
        let within = until.saturating_duration_since(Instant::now());
        if within.is_zero() {
            return sender.drop_late(points);
        }
        match sender.send(body.clone(), points, within.min(ANSWER_WITHIN)).await {
            Verdict::Settled => return,
            Verdict::Later { pause, .. } if Instant::now() + pause < until => sleep(pause).await,
            Verdict::Later { .. } => return sender.drop_late(points),
        }
    }
}

/// The time, in nanoseconds since 1970.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_file_is_said_without_what_stands_in_it() {
        for (text, expected) in [
            (
                r#"{"metrics":"s3cret"}"#,
                "it has something that does not belong there (line 1, column 19)",
            ),
            (
                r#"{"s3cret":1}"#,
                "it has something that does not belong there (line 1, column 9)",
            ),
            ("{s3cret", "it is not JSON (line 1, column 2)"),
            (r#"{"s3cret"#, "it ends too early (line 1, column 8)"),
        ] {
            assert_eq!(parsed(text), Err(expected.to_owned()), "{text}");
        }
        assert_eq!(parsed(" "), Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_late_is_dropped_and_not_posted() {
        let count = Arc::new(counts::Count::default());
        let to = Http {
            url: "/no/host".to_owned(),
            headers: [].into(),
        };
        let mut sender = Sender::new("metrics", to, Arc::clone(&count));
        deliver(&mut sender, Bytes::new(), 3, Instant::now()).await;
        let [dropped, failures] =
            [&count.dropped, &count.failures].map(|count| count.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!((dropped, failures), (3, 0));
    }
}
