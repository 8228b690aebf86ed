//! Alerts: rules, and somebody who is told when one of them has something to say.
//!
//! The engine decides and has neither clock nor I/O. The rest is thin: [`follow`](follow::Follower) gets events from the daemon, [`book`] has
//! the files, [`send`] tells.

mod body;
mod book;
mod engine;
mod follow;
mod outbox;
mod send;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rpm_wire::alerts::{Rule, Sink, Trigger};
use rpm_wire::api::Process;
use rpm_wire::events::Event;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::daemon::Daemon;
use book::Book;
pub use book::BookError;
use engine::{Engine, Message, State};
use follow::Follower;
pub use outbox::Counts;
use outbox::Outbox;

/// What has happened within this time is told together.
const TOGETHER: Duration = Duration::from_secs(1);
/// Between two looks at the figures.
const FIGURES: Duration = Duration::from_secs(5);
/// Events that wait to be looked at.
const QUEUE: usize = 1024;

/// Tells what happens, by the rules in the daemon's directory.
#[derive(Debug)]
pub struct Alerts {
    socket: PathBuf,
    book: Book,
    host: String,
    counts: Arc<Counts>,
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
        }
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
            sleep(TOGETHER).await;
        }
    }

    /// Tells what happens, for ever. Of several processes, such as one in the foreground and that of the daemon, one does, and the next when it
    /// has ended.
    pub async fn run(self) {
        let _turn = self.turn().await;
        let (events, mut heard) = mpsc::channel(QUEUE);
        let (wanted, is_wanted) = watch::channel(false);
        let follower = Follower::new(
            Daemon::new(self.socket.clone()),
            self.book.last_seq(),
            events,
            is_wanted,
        );
        // Ends with this.
        let mut tasks = JoinSet::new();
        tasks.spawn(follower.run());
        let mut watcher = Watcher {
            daemon: Daemon::new(self.socket),
            book: self.book,
            engine: Engine::default(),
            outbox: Outbox::new(self.host, self.counts),
            seen: None,
            pending: Vec::new(),
        };
        let (mut together, mut figures) = (interval(TOGETHER), interval(FIGURES));
        together.set_missed_tick_behavior(MissedTickBehavior::Delay);
        figures.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = heard.recv() => watcher.event(&event),
                _ = together.tick() => {
                    watcher.look_at_rules();
                    wanted.send_if_modified(|wanted| {
                        let now = !watcher.engine.rules().is_empty();
                        std::mem::replace(wanted, now) != now
                    });
                    watcher.tell();
                }
                _ = figures.tick() => watcher.figures().await,
            }
        }
    }
}

/// What `run` has.
#[derive(Debug)]
struct Watcher {
    daemon: Daemon,
    book: Book,
    engine: Engine,
    outbox: Outbox,
    /// The last event that was looked at.
    seen: Option<u64>,
    /// What is told at the next turn.
    pending: Vec<Message>,
}

impl Watcher {
    fn look_at_rules(&mut self) {
        match self.book.changed_rules() {
            Some(Ok(rules)) => {
                // What is to be told has the numbers of the rules before.
                self.tell();
                eprintln!("alerts: {} rules", rules.len());
                self.engine.set_rules(rules);
            }
            Some(Err(error)) => eprintln!("alerts: the rules stay as they were: {error}"),
            None => {}
        }
    }

    fn event(&mut self, event: &Event) {
        self.seen = Some(event.seq);
        self.look_at_mute();
        self.pending.extend(self.engine.event(event, now_ms()));
    }

    async fn figures(&mut self) {
        if !self.engine.needs_figures() {
            return;
        }
        let answer = self.daemon.get("/v1/processes").await;
        let processes = answer.map_err(|error| error.to_string()).and_then(|text| {
            serde_json::from_slice::<Vec<Process>>(&text).map_err(|error| error.to_string())
        });
        let now = now_ms();
        self.look_at_mute();
        self.pending.extend(self.engine.daemon(processes.is_ok(), now));
        if let Ok(processes) = processes {
            self.pending.extend(self.engine.figures(&processes, now));
        }
    }

    /// Each time anew: whoever has muted it expects silence at once.
    fn look_at_mute(&mut self) {
        let muted = self.book.muted_until().is_some_and(|until| until > now_ms());
        self.engine.set_muted(muted);
    }

    /// Sends what has come together.
    fn tell(&mut self) {
        let now = now_ms();
        self.look_at_mute();
        self.pending.extend(self.engine.tick(now));
        let messages = std::mem::take(&mut self.pending);
        self.outbox.add(self.engine.rules(), &messages);
        self.outbox.turn();
        if let Some(seen) = self.seen.take() {
            self.book.note_seq(seen);
        }
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
        Unit::Count | Unit::None => format!("above {above}"),
    });
    let lasting = (rule.for_ms > 0).then(|| format!("for {}", engine::span(rule.for_ms)));
    let parts: Vec<String> = above.into_iter().chain(lasting).collect();
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
