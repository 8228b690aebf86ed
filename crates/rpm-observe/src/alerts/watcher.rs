//! What tells: it hears events, sees figures and files, has the engine decide, and sends.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rpm_wire::alerts::{Rule, Source};
use rpm_wire::api::Process;
use rpm_wire::events::Event;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::book::Book;
use super::condition::Read;
use super::engine::Engine;
use super::follow::Follower;
use super::gauges::Gauges;
use super::kept::Kept;
use super::looker::{Looker, Seen};
use super::message::Message;
use super::now_ms;
use super::outbox::{Counts, Outbox};
use super::readings::Unread;
use crate::daemon::Daemon;
use crate::history::Second;

/// What has happened within this time is told together.
const TOGETHER: Duration = Duration::from_secs(1);
/// Between two looks at the processes.
const PROCESSES: Duration = Duration::from_secs(5);
/// How old an event may be to be told, if nothing is known of what was told before: the rules were written before this process began to
/// follow events, and what happened in between is told; what happened long ago is not.
const RECENT: Duration = Duration::from_secs(60);
/// Events that wait to be looked at.
const QUEUE: usize = 1024;
/// What was seen in files, and waits to be looked at.
const SEEN: usize = 16;

/// What tells.
#[derive(Debug)]
pub(super) struct Watcher {
    socket: PathBuf,
    daemon: Daemon,
    book: Book,
    engine: Engine,
    /// The rules of the engine, for those who look at files.
    rules: Arc<Vec<Rule>>,
    gauges: Gauges,
    /// Files that cannot be read, and the rules, by number, and apps of which nothing is known for that.
    unread: Unread,
    unknown: BTreeSet<(usize, String)>,
    outbox: Outbox,
    looker: Option<Looker>,
    seen: (mpsc::Sender<Seen>, mpsc::Receiver<Seen>),
    /// What the process before has left, until the rules are known.
    before: Option<Kept>,
    /// The last event that was looked at.
    seq: Option<u64>,
    /// What is told at the next turn.
    pending: Vec<Message>,
    /// Something is to be written down, and what was.
    dirty: bool,
    written: String,
    trouble: Option<String>,
}

impl Watcher {
    pub(super) fn new(socket: PathBuf, book: Book, host: String, counts: Arc<Counts>) -> Watcher {
        let before = book.state();
        Watcher {
            daemon: Daemon::new(socket.clone()),
            socket,
            book,
            engine: Engine::default(),
            rules: Arc::default(),
            gauges: Gauges::default(),
            unread: Unread::default(),
            unknown: BTreeSet::new(),
            outbox: Outbox::new(host, counts),
            looker: None,
            seen: mpsc::channel(SEEN),
            seq: before.seq,
            before: Some(before),
            pending: Vec::new(),
            dirty: false,
            written: String::new(),
            trouble: None,
        }
    }

    /// For ever.
    pub(super) async fn run(mut self, mut seconds: watch::Receiver<Arc<Second>>) {
        let (events, mut heard) = mpsc::channel(QUEUE);
        let (wanted, is_wanted) = watch::channel(None);
        let daemon = Daemon::new(self.socket.clone());
        let follower = Follower::new(daemon, self.seq, events, is_wanted);
        // Ends with this.
        let mut tasks = JoinSet::new();
        tasks.spawn(follower.run());
        let (mut together, mut processes) = (interval(TOGETHER), interval(PROCESSES));
        together.set_missed_tick_behavior(MissedTickBehavior::Delay);
        processes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = heard.recv() => self.event(&event),
                Some(seen) = self.seen.1.recv() => self.seen(seen),
                Ok(()) = seconds.changed() => {
                    let second = Arc::clone(&seconds.borrow_and_update());
                    self.second(&second);
                }
                Some(()) = self.outbox.settled() => {
                    self.dirty = true;
                    self.keep();
                }
                _ = together.tick() => {
                    self.look_at_rules();
                    wanted.send_if_modified(|wanted| {
                        let is_wanted = !self.engine.rules().is_empty();
                        let changes = wanted.is_some() != is_wanted;
                        if changes {
                            *wanted = is_wanted.then(|| self.in_force_since(now_ms()));
                        }
                        changes
                    });
                    self.tell();
                }
                _ = processes.tick() => self.processes().await,
            }
        }
    }

    fn look_at_rules(&mut self) {
        match self.book.changed_rules() {
            Some(Ok(rules)) => {
                // What is to be told has the numbers of the rules before.
                self.tell();
                eprintln!("alerts: {} rules", rules.len());
                if rules.is_empty() {
                    // What happens while nobody wants to know is no news.
                    self.seq = None;
                }
                self.outbox.set_rules(&rules);
                self.rules = Arc::new(rules.clone());
                self.engine.set_rules(rules);
                self.unread.clear();
                self.unknown.clear();
                self.resume();
                self.dirty = true;
            }
            Some(Err(error)) => eprintln!("alerts: the rules stay as they were: {error}"),
            None => {}
        }
    }

    /// From when on what happens is told, in milliseconds since the Unix epoch.
    fn in_force_since(&self, now_ms: u64) -> u64 {
        let recent = now_ms.saturating_sub(u64::try_from(RECENT.as_millis()).unwrap_or(u64::MAX));
        self.book.rules_written_ms().max(recent)
    }

    /// Goes on where the process before has ended.
    fn resume(&mut self) {
        let Some(before) = self.before.take() else { return };
        before.resume(&mut self.engine);
        let (waiting, lost) = before.messages(self.engine.rules(), now_ms());
        if lost > 0 {
            eprintln!(
                "alerts: messages of before that are too old, or whose receiver is not in the rules: {lost}"
            );
        }
        self.outbox.resume(waiting, lost);
    }

    fn event(&mut self, event: &Event) {
        self.seq = Some(event.seq);
        self.dirty = true;
        self.look_at_mute();
        let messages = self.engine.event(event, now_ms());
        self.pending.extend(messages);
    }

    /// The figures of all apps, which were recorded.
    fn second(&mut self, second: &Second) {
        let now = u64::from(second.at) * 1000;
        let blind = self.gauges.blind().clone();
        let readings = self.gauges.readings(&self.rules, &second.figures, now);
        self.look_at_mute();
        let messages = self.engine.readings(Source::Figures, &readings, now);
        self.dirty |= blind != *self.gauges.blind();
        self.pending.extend(messages);
    }

    /// What was seen in files, by the rules of then.
    fn seen(&mut self, seen: Seen) {
        let now = now_ms();
        self.look_at_mute();
        let number = |before: usize| {
            self.rules
                .iter()
                .position(|rule| Some(rule) == seen.rules.get(before))
        };
        for mut found in seen.lines {
            let Some(rule) = number(found.rule) else { continue };
            found.rule = rule;
            let message = self.engine.found(found, now);
            self.pending.extend(message);
            self.dirty = true;
        }
        // Readings are of all apps, and come again.
        if let Some(readings) = seen.readings.filter(|_| Arc::ptr_eq(&seen.rules, &self.rules)) {
            let messages = self.engine.readings(Source::Files, &readings, now);
            self.pending.extend(messages);
            self.note_unread(&readings, now);
        }
    }

    /// What cannot be read is said once.
    fn note_unread(&mut self, readings: &[Read], now: u64) {
        let unknown = self.unread.note(readings, now);
        for (number, app) in unknown.difference(&self.unknown) {
            let on = self.rules.get(*number).map_or("", |rule| rule.on.name());
            eprintln!("alerts: rule {number} ({on}): the files of {app} have not been readable for minutes");
        }
        self.dirty |= unknown != self.unknown;
        self.unknown = unknown;
    }

    /// Asks the daemon about processes, if a rule needs that.
    async fn processes(&mut self) {
        let is_looked_at = self.engine.needs(&[Source::Lines, Source::Files]);
        let is_measured = self.engine.needs(&[Source::Figures]);
        let is_needed = self.engine.needs(&[Source::Processes, Source::Daemon]) || self.engine.awaits_end();
        if !is_looked_at && !is_measured && !is_needed {
            self.looker = None;
            return;
        }
        let path = format!("/v1/processes?spec={is_looked_at}&measure={is_measured}");
        let answer = self.daemon.get(&path).await;
        let processes = answer.map_err(|error| error.to_string()).and_then(|text| {
            serde_json::from_slice::<Vec<Process>>(&text).map_err(|error| error.to_string())
        });
        let now = now_ms();
        self.look_at_mute();
        let messages = self.engine.daemon(processes.is_ok(), now);
        self.pending.extend(messages);
        if let Ok(processes) = processes {
            let messages = self.engine.figures(&processes, now);
            self.pending.extend(messages);
            self.look(processes, is_looked_at);
        }
    }

    /// Has files looked at.
    fn look(&mut self, processes: Vec<Process>, is_wanted: bool) {
        if !is_wanted {
            self.looker = None;
            return;
        }
        if self.looker.is_none() {
            match Looker::start(self.seen.0.clone()) {
                Ok(looker) => self.looker = Some(looker),
                Err(error) => self.complain(format!("cannot start a thread to look at logs: {error}")),
            }
        }
        if let Some(looker) = &self.looker {
            looker.set(&self.rules, processes);
        }
    }

    /// Each time anew: whoever has muted it expects silence at once.
    fn look_at_mute(&mut self) {
        let muted = self.book.muted_until().is_some_and(|until| until > now_ms());
        self.engine.set_muted(muted);
    }

    /// Sends what has come together. It is written down before: what is lost with this process is sent by the next.
    fn tell(&mut self) {
        self.look_at_mute();
        let held_back = self.engine.tick(now_ms());
        self.pending.extend(held_back);
        self.keep();
        self.outbox.turn();
    }

    /// Writes down what is so, with all messages: what counts as told is in the file too, whoever asks for it to be written.
    fn keep(&mut self) {
        let messages = std::mem::take(&mut self.pending);
        self.dirty |= !messages.is_empty();
        self.outbox.add(self.engine.rules(), &messages);
        // As long as nothing is known of the rules, what the process before has left is still to be used.
        if self.before.is_some() || !std::mem::take(&mut self.dirty) {
            return;
        }
        let kept = Kept::of(
            self.seq,
            &self.engine,
            self.outbox.waiting(),
            &(self.gauges.blind() | &self.unknown),
            now_ms(),
        );
        let text = serde_json::to_string(&kept).unwrap_or_default();
        if text == self.written {
            return;
        }
        match self.book.write_state(&text) {
            Ok(()) => self.written = text,
            Err(error) => self.complain(error.to_string()),
        }
    }

    /// Once, and not every second of a night.
    fn complain(&mut self, what: String) {
        if self.trouble.as_ref() != Some(&what) {
            eprintln!("alerts: {what}");
        }
        self.trouble = Some(what);
    }
}

#[cfg(test)]
mod tests {
    use rpm_wire::alerts::Trigger;
    use serde_json::json;

    use super::super::tests::{event, rule};
    use super::*;

    #[tokio::test]
    async fn what_counts_as_told_is_written_with_its_message() {
        let home = std::env::temp_dir().join(format!("rpm-watcher-{}", std::process::id()));
        std::fs::create_dir_all(&home).expect("a directory");
        let book = || Book::new(home.clone());
        let mut watcher = Watcher::new(home.join("none"), book(), "h".to_owned(), Arc::default());
        let rules = vec![rule(Trigger::Frozen)];
        watcher.engine.set_rules(rules.clone());
        watcher.before = None;
        watcher.event(&event(now_ms(), "frozen", &json!({"queued": 1})));
        // A letter has settled before the turn of this message.
        watcher.keep();
        let left = book().state();
        assert_eq!(left.seq, Some(1));
        let (waiting, lost) = left.messages(&rules, now_ms());
        assert_eq!((waiting.len(), lost), (1, 0), "{waiting:?}");
        std::fs::remove_dir_all(&home).expect("it is ours");
    }
}
