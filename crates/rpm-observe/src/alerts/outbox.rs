//! Messages on their way: together for each receiver, again if it does not take them, and never more than can be kept.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpm_wire::alerts::{Rule, Shape, Sink};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::engine::Message;
use super::send::send;

/// Messages that wait for one receiver.
const WAITING: usize = 500;
/// Messages in one letter.
const TOGETHER: usize = 100;
/// After how long it is tried again.
const AGAIN: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(300),
];

/// What became of messages.
#[derive(Debug, Default)]
pub struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    /// As the beginning of a page of metrics.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        for (name, what, value) in [
            (
                "rpm_alerts_sent_total",
                "Messages of alerts that were taken",
                &self.sent,
            ),
            (
                "rpm_alerts_failed_total",
                "Messages of alerts that nobody took",
                &self.failed,
            ),
        ] {
            let value = value.load(Ordering::Relaxed);
            // Writing to a string does not fail.
            let _ = write!(
                page,
                "# HELP {name} {what}\n# TYPE {name} counter\n{name} {value}\n\n"
            );
        }
        page
    }
}

/// What one receiver is told, in order: a recovery must not overtake what it ends.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Message>,
    /// A letter is on its way.
    busy: bool,
}

/// All messages on their way. A receiver that takes nothing holds up nobody else.
#[derive(Debug)]
pub(crate) struct Outbox {
    host: Arc<str>,
    counts: Arc<Counts>,
    lanes: HashMap<Sink, Lane>,
    /// Letters on their way; each ends with its receiver.
    underway: JoinSet<Sink>,
}

impl Outbox {
    pub(crate) fn new(host: String, counts: Arc<Counts>) -> Outbox {
        Outbox {
            host: host.into(),
            counts,
            lanes: HashMap::new(),
            underway: JoinSet::new(),
        }
    }

    /// Takes what these rules say.
    pub(crate) fn add(&mut self, rules: &[Rule], messages: &[Message]) {
        for message in messages {
            let sinks = rules.get(message.rule).map_or(&[][..], |rule| &rule.sinks);
            for sink in sinks {
                let lane = self.lanes.entry(sink.clone()).or_default();
                lane.waiting.push_back(message.clone());
                if lane.waiting.len() > WAITING {
                    lane.waiting.pop_front();
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    eprintln!(
                        "alerts: the oldest for {} was dropped: {WAITING} wait",
                        sink.shown()
                    );
                }
            }
        }
    }

    /// Sends what may be sent now.
    pub(crate) fn turn(&mut self) {
        while let Some(ended) = self.underway.try_join_next() {
            if let Ok(sink) = ended
                && let Some(lane) = self.lanes.get_mut(&sink)
            {
                lane.busy = false;
            }
        }
        self.lanes.retain(|_, lane| lane.busy || !lane.waiting.is_empty());
        for (sink, lane) in self.lanes.iter_mut().filter(|(_, lane)| !lane.busy) {
            lane.busy = true;
            let most = at_once(sink).min(lane.waiting.len());
            let messages = lane.waiting.drain(..most).collect();
            let (sink, host, counts) = (sink.clone(), Arc::clone(&self.host), Arc::clone(&self.counts));
            self.underway.spawn(async move {
                deliver(&sink, messages, &host, &counts).await;
                sink
            });
        }
    }
}

/// How many messages one letter may have.
fn at_once(sink: &Sink) -> usize {
    match sink {
        // Each is an incident, and a request, of its own.
        Sink::Webhook {
            shape: Shape::Pagerduty,
            ..
        } => 1,
        Sink::Webhook { .. } | Sink::Exec { .. } => TOGETHER,
    }
}

async fn deliver(sink: &Sink, messages: Vec<Message>, host: &str, counts: &Counts) {
    let count = messages.len() as u64;
    let mut pauses = AGAIN.iter();
    loop {
        let error = match send(sink, &messages, host).await {
            Ok(_) => {
                counts.sent.fetch_add(count, Ordering::Relaxed);
                return;
            }
            Err(error) => error,
        };
        let shown = sink.shown();
        let pause = pauses.next().filter(|_| error.may_pass());
        match pause {
            Some(pause) => {
                eprintln!("alerts: {shown}: {error}; tried again in {} s", pause.as_secs());
                sleep(*pause).await;
            }
            None => {
                counts.failed.fetch_add(count, Ordering::Relaxed);
                eprintln!("alerts: {shown}: {error}; messages that are lost: {count}");
                return;
            }
        }
    }
}
