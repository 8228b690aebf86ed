//! Alerts: rules, and somebody who is told when one of them has something to say.
//!
//! The engine decides and has neither clock nor I/O, and so do the [`gauges`] of what apps answer. The rest is thin: [`follow`](follow::Follower)
//! gets events from the daemon, [`looker`] looks at files, [`book`] has the files of our own, [`send`] tells. [`watcher`] has them all.

mod body;
mod book;
mod certificate;
mod condition;
mod disk_use;
mod engine;
mod follow;
mod gauges;
mod kept;
mod letter;
mod looker;
mod message;
mod outbox;
mod readings;
mod send;
mod smtp;
#[cfg(test)]
mod tests;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rpm_wire::alerts::{Rule, Sink, Trigger};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::history::Second;
use book::Book;
pub use book::BookError;
use condition::span;
use message::{Message, State};
pub use outbox::Counts;
use watcher::Watcher;

/// Between two attempts to be the one that tells.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// Where the figures of each second are shown.
#[derive(Clone, Debug)]
pub struct Seconds(pub(crate) watch::Sender<Arc<Second>>);

/// Tells what happens, by the rules in the daemon's directory.
#[derive(Debug)]
pub struct Alerts {
    socket: PathBuf,
    book: Book,
    host: String,
    counts: Arc<Counts>,
    seconds: Seconds,
}

impl Alerts {
    /// For the daemon with this socket, whose directory has the rules.
    #[must_use]
    pub fn new(socket: PathBuf, home: PathBuf) -> Alerts {
        Alerts {
            socket,
            book: Book::new(home),
            host: crate::host_name(),
            counts: Arc::default(),
            seconds: Seconds(watch::Sender::new(Arc::default())),
        }
    }

    /// Where it looks for figures, which [`record`](crate::record) shows there.
    #[must_use]
    pub fn seconds(&self) -> Seconds {
        self.seconds.clone()
    }

    /// How many messages were sent, for the metrics.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// The rules.
    ///
    /// # Errors
    /// The file cannot be read, or is not one.
    pub fn rules(&self) -> Result<Vec<Rule>, BookError> {
        self.book.rules()
    }

    /// Of these rules those, by number, that can say nothing of an app, and why, as the process that tells has found.
    #[must_use]
    pub fn blind(&self, rules: &[Rule]) -> Vec<(usize, String)> {
        let blind = self.book.state().blind(rules).into_iter();
        blind
            .filter_map(|(number, app)| Some((number, why_blind(rules.get(number)?.on, &app))))
            .collect()
    }

    /// Until when nothing is sent, in milliseconds since the Unix epoch, if that is to come.
    #[must_use]
    pub fn muted_until(&self) -> Option<u64> {
        self.book.muted_until().filter(|until| *until > now_ms())
    }

    /// Sends nothing for so long; zero ends that.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn mute(&self, lasting: Duration) -> Result<(), BookError> {
        let ms = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX);
        self.book.mute((ms > 0).then(|| now_ms().saturating_add(ms)))
    }

    /// Sends a test message of a rule to each of its receivers. Returns them, as they may be shown, with what they said.
    pub async fn test(&self, number: usize, rule: &Rule) -> Vec<(String, Result<String, String>)> {
        let message = Message {
            rule: number,
            key: kept::key(rule),
            on: rule.on,
            state: State::Test,
            app: rule.apps.first().cloned(),
            id: None,
            text: format!("this is how a message about {:?} arrives", rule.on.name()),
            count: 1,
            at_ms: now_ms(),
        };
        let mut answers = Vec::new();
        for sink in &rule.sinks {
            let sent = send::send(sink, std::slice::from_ref(&message), &self.host).await;
            answers.push((sink.shown(), sent.map_err(|error| error.to_string())));
        }
        answers
    }

    /// Waits until no other process tells.
    async fn turn(&self) -> std::fs::File {
        let mut trouble = None;
        loop {
            match self.book.turn() {
                Ok(Some(turn)) => return turn,
                Ok(None) => {}
                Err(error) => {
                    let now = error.to_string();
                    // Once, and not every second of a night.
                    if trouble.as_ref() != Some(&now) {
                        eprintln!("alerts: nobody is told: {now}");
                    }
                    trouble = Some(now);
                }
            }
            sleep(TURN_EVERY).await;
        }
    }

    /// Tells what happens, for ever. Of several processes, such as one in the foreground and that of the daemon, one does, and the next when it
    /// has ended.
    pub async fn run(self) {
        let _turn = self.turn().await;
        let seconds = self.seconds.0.subscribe();
        Watcher::new(self.socket, self.book, self.host, self.counts)
            .run(seconds)
            .await;
    }
}

/// Why a rule says nothing of an app.
fn why_blind(on: Trigger, app: &str) -> String {
    match on {
        Trigger::LoopDelay => format!(
            "{app} has no figures of an event loop: it is not Node, does not listen, or was started with --no-agent"
        ),
        Trigger::Certificate => format!(
            "a certificate of {app} cannot be read: its file is missing, not a certificate, or not readable"
        ),
        Trigger::LogsDisk => format!("the disk with the logs of {app} does not say how full it is"),
        _ => format!(
            "nobody counts the requests of {app}: it is not behind the proxy (--balance proxy), and not Node that listens, with its agent"
        ),
    }
}

/// The rules in words, one per line of a table: what, whose, and who is told.
#[must_use]
pub fn table(rules: &[Rule]) -> Vec<[String; 5]> {
    let row = |(number, rule): (usize, &Rule)| {
        let apps = match rule.apps.is_empty() {
            true if rule.on == Trigger::DaemonDown => "-".to_owned(),
            true => "all".to_owned(),
            false => rule.apps.join(", "),
        };
        let sinks: Vec<String> = rule.sinks.iter().map(Sink::shown).collect();
        [
            number.to_string(),
            rule.on.name().to_owned(),
            apps,
            bound(rule),
            sinks.join(", "),
        ]
    };
    rules.iter().enumerate().map(row).collect()
}

fn bound(rule: &Rule) -> String {
    use rpm_wire::alerts::Unit;
    let above = rule.above.map(|above| match rule.on.unit() {
        Unit::Bytes => format!("above {:.0} MiB", above / f64::from(1 << 20)),
        Unit::Percent => format!("above {above} %"),
        Unit::Milliseconds => format!("above {above:.0} ms"),
        Unit::Count | Unit::None => format!("above {above}"),
    });
    let lasting = (rule.for_ms > 0).then(|| format!("for {}", span(rule.for_ms)));
    let pattern = rule.pattern.as_ref().map(|pattern| format!("/{pattern}/"));
    let parts: Vec<String> = pattern.into_iter().chain(above).chain(lasting).collect();
    match parts.is_empty() {
        true => "-".to_owned(),
        false => parts.join(" "),
    }
}

/// The time, in milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
