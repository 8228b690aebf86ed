//! Messages on their way: together for each receiver, again if it does not take them, and never more than can be kept.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rpm_wire::alerts::{Rule, Shape, Sink};
use rpm_wire::receivers::{Receiving, Sent};
use tokio::task::{Id, JoinSet};
use tokio::time::sleep;

use super::message::Message;
use super::now_ms;
use super::send::send;
use crate::standing::Standing;

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
    /// The receivers, in the order of the rules.
    receivers: Mutex<Vec<Receiver>>,
}

/// Somebody who is told.
#[derive(Debug)]
struct Receiver {
    sink: Sink,
    standing: Arc<Standing>,
    waiting: usize,
}

impl Counts {
    /// Who is told by these rules. What is known of those who were told before stays.
    fn set_receivers(&self, rules: &[Rule]) {
        let mut receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now: Vec<Receiver> = Vec::new();
        for sink in rules.iter().flat_map(|rule| &rule.sinks) {
            if now.iter().any(|known| known.sink == *sink) {
                continue;
            }
            let before = receivers.iter().position(|known| known.sink == *sink);
            let receiver = before.map(|at| receivers.swap_remove(at));
            now.push(receiver.unwrap_or_else(|| Receiver::new(sink)));
        }
        *receivers = now;
    }

    /// So many messages wait for each of them.
    fn set_waiting(&self, waiting: impl Fn(&Sink) -> usize) {
        let mut receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        for receiver in receivers.iter_mut() {
            receiver.waiting = waiting(&receiver.sink);
        }
    }

    fn standing(&self, sink: &Sink) -> Option<Arc<Standing>> {
        let receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        let found = receivers.iter().find(|known| known.sink == *sink);
        found.map(|receiver| Arc::clone(&receiver.standing))
    }

    /// Those who are told, and how they stand.
    pub(crate) fn receivers(&self) -> Vec<Receiving> {
        let receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = |receiver: &Receiver| Receiving {
            behind_messages: Some(receiver.waiting as u64),
            ..receiver.standing.shown(Sent::Alerts, None, receiver.waiting > 0)
        };
        receivers.iter().map(shown).collect()
    }

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

impl Receiver {
    fn new(sink: &Sink) -> Receiver {
        let standing = Standing::default();
        standing.is_at(sink.shown());
        Receiver {
            sink: sink.clone(),
            standing: Arc::new(standing),
            waiting: 0,
        }
    }
}

/// What one receiver is told, in order: a recovery must not overtake what it ends.
#[derive(Debug, Default)]
struct Lane {
    /// What it has not taken yet. It begins with what is on its way.
    waiting: VecDeque<Message>,
    /// How many of them are on their way.
    in_flight: usize,
}

/// All messages on their way. A receiver that takes nothing holds up nobody else.
#[derive(Debug)]
pub(crate) struct Outbox {
    host: Arc<str>,
    counts: Arc<Counts>,
    lanes: HashMap<Sink, Lane>,
    /// Letters on their way, and who gets them.
    underway: JoinSet<()>,
    receivers: HashMap<Id, Sink>,
}

impl Outbox {
    pub(crate) fn new(host: String, counts: Arc<Counts>) -> Outbox {
        Outbox {
            host: host.into(),
            counts,
            lanes: HashMap::new(),
            underway: JoinSet::new(),
            receivers: HashMap::new(),
        }
    }

    /// Those who are told by these rules.
    pub(crate) fn set_rules(&self, rules: &[Rule]) {
        self.counts.set_receivers(rules);
        self.show();
    }

    fn show(&self) {
        let waiting = |sink: &Sink| self.lanes.get(sink).map_or(0, |lane| lane.waiting.len());
        self.counts.set_waiting(waiting);
    }

    /// Takes what these rules say. Of rules that say the same, a receiver is told once.
    pub(crate) fn add(&mut self, rules: &[Rule], messages: &[Message]) {
        let sinks = |message: &Message| rules.get(message.rule).map_or(&[][..], |rule| &rule.sinks);
        for message in messages {
            let twins = messages.iter().filter(|other| other.is_twin_before(message));
            let told: Vec<&Sink> = twins.flat_map(sinks).collect();
            for sink in sinks(message).iter().filter(|sink| !told.contains(sink)) {
                self.put(sink, message.clone());
            }
        }
    }

    /// Takes what another process has not sent.
    pub(crate) fn resume(&mut self, waiting: Vec<(Sink, Vec<Message>)>, lost: usize) {
        self.counts.failed.fetch_add(lost as u64, Ordering::Relaxed);
        for (sink, messages) in waiting {
            messages.into_iter().for_each(|message| self.put(&sink, message));
        }
    }

    fn put(&mut self, sink: &Sink, message: Message) {
        let lane = self.lanes.entry(sink.clone()).or_default();
        lane.waiting.push_back(message);
        // What is on its way cannot be taken back.
        if lane.waiting.len() - lane.in_flight > WAITING {
            lane.waiting.remove(lane.in_flight);
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
            if let Some(standing) = self.counts.standing(sink) {
                standing.gave_up(1, "too many wait", now_ms());
            }
            eprintln!(
                "alerts: the oldest for {} was dropped: {WAITING} wait",
                sink.shown()
            );
        }
    }

    /// What no receiver has taken yet.
    pub(crate) fn waiting(&self) -> Vec<(&Sink, Vec<Message>)> {
        let lanes = self.lanes.iter().filter(|(_, lane)| !lane.waiting.is_empty());
        lanes
            .map(|(sink, lane)| (sink, lane.waiting.iter().cloned().collect()))
            .collect()
    }

    /// Waits until a letter was taken or given up; `None` if none is on its way.
    pub(crate) async fn settled(&mut self) -> Option<()> {
        let ended = self.underway.join_next_with_id().await?;
        let has_panicked = ended.is_err();
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        if let Some(sink) = self.receivers.remove(&id)
            && let Some(lane) = self.lanes.get_mut(&sink)
        {
            let messages = lane.in_flight.min(lane.waiting.len());
            lane.waiting.drain(..messages);
            lane.in_flight = 0;
            if has_panicked {
                // It would do so again, and those behind it are to be told.
                let lost = messages as u64;
                self.counts.failed.fetch_add(lost, Ordering::Relaxed);
                if let Some(standing) = self.counts.standing(&sink) {
                    standing.gave_up(
                        lost,
                        "an internal error of rpm: it could not be written",
                        now_ms(),
                    );
                }
                eprintln!("alerts: {}: messages that are lost: {lost}", sink.shown());
            }
        }
        self.lanes.retain(|_, lane| !lane.waiting.is_empty());
        self.show();
        Some(())
    }

    /// Sends what may be sent now.
    pub(crate) fn turn(&mut self) {
        for (sink, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.in_flight == 0) {
            lane.in_flight = at_once(sink).min(lane.waiting.len());
            let messages = lane.waiting.iter().take(lane.in_flight).cloned().collect();
            let (to, host, counts) = (sink.clone(), Arc::clone(&self.host), Arc::clone(&self.counts));
            let letter = async move { deliver(&to, messages, &host, &counts).await };
            let id = self.underway.spawn(letter).id();
            self.receivers.insert(id, sink.clone());
        }
        self.show();
    }
}

/// How many messages one letter may have.
fn at_once(sink: &Sink) -> usize {
    match sink {
        // Each is a request of its own.
        Sink::Webhook {
            shape: Shape::Pagerduty,
            ..
        }
        | Sink::Webhook {
            template: Some(_), ..
        } => 1,
        Sink::Webhook { .. } | Sink::Mail { .. } | Sink::Exec { .. } => TOGETHER,
    }
}

async fn deliver(sink: &Sink, messages: Vec<Message>, host: &str, counts: &Counts) {
    let count = messages.len() as u64;
    // A receiver that is in no rule any more is shown nowhere.
    let standing = counts.standing(sink).unwrap_or_default();
    let mut pauses = AGAIN.iter();
    loop {
        let error = match send(sink, &messages, host).await {
            Ok(_) => {
                counts.sent.fetch_add(count, Ordering::Relaxed);
                standing.took(count, now_ms());
                return;
            }
            Err(error) => error,
        };
        let shown = sink.shown();
        let pause = pauses.next().filter(|_| error.may_pass());
        match pause {
            Some(pause) => {
                let (now, ms) = (now_ms(), u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                standing.failed(&error.to_string(), now, now.saturating_add(ms));
                eprintln!("alerts: {shown}: {error}; tried again in {} s", pause.as_secs());
                sleep(*pause).await;
            }
            None => {
                counts.failed.fetch_add(count, Ordering::Relaxed);
                standing.gave_up(count, &error.to_string(), now_ms());
                eprintln!("alerts: {shown}: {error}; messages that are lost: {count}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rpm_wire::alerts::Trigger;

    use super::super::message::State;
    use super::super::tests::rule;
    use super::*;

    fn message(rule: usize, text: &str) -> Message {
        Message {
            rule,
            key: "same".to_owned(),
            on: Trigger::Crash,
            state: State::Fired,
            app: Some("api".to_owned()),
            id: Some(0),
            text: text.to_owned(),
            count: 1,
            at_ms: 7,
        }
    }

    fn outbox() -> Outbox {
        Outbox::new("h".to_owned(), Arc::default())
    }

    #[test]
    fn of_rules_that_say_the_same_a_receiver_is_told_once() {
        let other = Sink::Exec {
            command: "other".to_owned(),
            cwd: "/".to_owned(),
        };
        let mut rules = vec![rule(Trigger::Crash), rule(Trigger::Crash)];
        rules[1].sinks.push(other.clone());
        let mut outbox = outbox();
        let messages = [
            message(0, "one"),
            message(1, "one"),
            message(0, "two"),
            message(0, "two"),
        ];
        outbox.add(&rules, &messages);
        let told = |sink: &Sink| -> Vec<String> {
            let waiting = outbox.lanes[sink].waiting.iter();
            waiting.map(|message| message.text.clone()).collect()
        };
        assert_eq!(told(&rules[0].sinks[0]), ["one", "two", "two"]);
        assert_eq!(told(&other), ["one"]);
    }

    #[tokio::test]
    async fn a_letter_that_panics_holds_up_nothing() {
        let rules = [rule(Trigger::Crash)];
        let mut outbox = outbox();
        outbox.set_rules(&rules);
        outbox.add(&rules, &[message(0, "bad"), message(0, "good")]);
        let sink = &rules[0].sinks[0];
        outbox.lanes.get_mut(sink).expect("it waits").in_flight = 1;
        let letter = outbox.underway.spawn(async { panic!("as a letter may") }).id();
        outbox.receivers.insert(letter, sink.clone());
        assert_eq!(outbox.settled().await, Some(()));
        let lane = &outbox.lanes[sink];
        assert_eq!((lane.in_flight, lane.waiting.len()), (0, 1));
        assert_eq!(lane.waiting[0].text, "good");
        assert_eq!(outbox.counts.failed.load(Ordering::Relaxed), 1);
        outbox.set_rules(&rules);
        assert_eq!(outbox.counts.receivers()[0].behind_messages, Some(1));
    }
}
