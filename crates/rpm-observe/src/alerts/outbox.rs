//! Messages on their way: together for each receiver, again if it does not take them, and never more than can be kept.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpm_wire::alerts::{Rule, Sink};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::engine::Message;
use super::send::send;

/// Receivers that are told at the same time.
const AT_ONCE: usize = 16;
/// Letters that wait for their turn.
const WAITING: usize = 500;
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

/// Messages for one receiver.
#[derive(Debug)]
struct Letter {
    sink: Sink,
    messages: Vec<Message>,
}

/// All messages on their way.
#[derive(Debug)]
pub(crate) struct Outbox {
    host: Arc<str>,
    counts: Arc<Counts>,
    waiting: VecDeque<Letter>,
    underway: JoinSet<()>,
}

impl Outbox {
    pub(crate) fn new(host: String, counts: Arc<Counts>) -> Outbox {
        Outbox {
            host: host.into(),
            counts,
            waiting: VecDeque::new(),
            underway: JoinSet::new(),
        }
    }

    /// Takes what these rules say.
    pub(crate) fn add(&mut self, rules: &[Rule], messages: Vec<Message>) {
        let mut letters: Vec<Letter> = Vec::new();
        for message in messages {
            let sinks = rules.get(message.rule).map_or(&[][..], |rule| &rule.sinks);
            for sink in sinks {
                match letters.iter_mut().find(|letter| letter.sink == *sink) {
                    Some(letter) => letter.messages.push(message.clone()),
                    None => letters.push(Letter {
                        sink: sink.clone(),
                        messages: vec![message.clone()],
                    }),
                }
            }
        }
        for letter in letters {
            if self.waiting.len() >= WAITING {
                let count = letter.messages.len() as u64;
                self.counts.failed.fetch_add(count, Ordering::Relaxed);
                eprintln!(
                    "alerts: {count} for {} were dropped: {WAITING} wait already",
                    letter.sink.shown()
                );
                continue;
            }
            self.waiting.push_back(letter);
        }
    }

    /// Sends what may be sent now.
    pub(crate) fn turn(&mut self) {
        while self.underway.try_join_next().is_some() {}
        while self.underway.len() < AT_ONCE
            && let Some(letter) = self.waiting.pop_front()
        {
            self.underway
                .spawn(deliver(letter, Arc::clone(&self.host), Arc::clone(&self.counts)));
        }
    }
}

async fn deliver(letter: Letter, host: Arc<str>, counts: Arc<Counts>) {
    let count = letter.messages.len() as u64;
    let mut pauses = AGAIN.iter();
    loop {
        let sink = letter.sink.shown();
        let error = match send(&letter.sink, &letter.messages, &host).await {
            Ok(_) => {
                counts.sent.fetch_add(count, Ordering::Relaxed);
                return;
            }
            Err(error) => error,
        };
        let pause = pauses.next().filter(|_| error.may_pass());
        match pause {
            Some(pause) => {
                eprintln!("alerts: {sink}: {error}; tried again in {} s", pause.as_secs());
                sleep(*pause).await;
            }
            None => {
                counts.failed.fetch_add(count, Ordering::Relaxed);
                eprintln!("alerts: {sink}: {error}; {count} messages are lost");
                return;
            }
        }
    }
}
