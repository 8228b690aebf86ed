//! Which rules have something to say: events and figures in, messages out. Without clock and I/O.

use std::collections::{HashMap, VecDeque};

use rpm_wire::alerts::{Rule, Trigger};
use rpm_wire::api::{Process, Status};
use rpm_wire::events::{Event, What};
use serde::Serialize;

/// The most (rule, app, instance) that are remembered: names of apps that came and went must not add up for ever.
const MOST: usize = 20_000;
/// Events that are older are not news, but history: somebody who turns alerts on is not told of last night.
/// The daemon itself may hold back a crash for 10 minutes.
pub(crate) const NEWS_MS: u64 = 1_200_000;

/// Whether something began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It has happened, or lasts.
    Fired,
    /// It is over.
    Recovered,
    /// Somebody tries whether messages arrive.
    Test,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Message {
    /// Number of the rule in its file, from 0.
    pub rule: usize,
    /// What the rule is about.
    pub on: Trigger,
    /// Whether it began or ended.
    pub state: State,
    /// The app; none for what concerns the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// In words.
    pub text: String,
    /// How often it has happened since the last message about it, this time included.
    pub count: u32,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// What a rule watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Watched {
    rule: usize,
    app: Option<String>,
    id: Option<u32>,
}

/// What is known of it.
#[derive(Debug, Default)]
struct Standing {
    /// Since when the condition holds.
    since: Option<u64>,
    /// Somebody was told that it began, and not yet that it is over.
    told: bool,
    last_message: Option<u64>,
    /// What has happened since that message.
    held_back: Option<(u32, String)>,
    /// When it happened, within the time of the rule.
    times: VecDeque<u64>,
}

/// The rules, and what is known.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    rules: Vec<Rule>,
    standing: HashMap<Watched, Standing>,
    /// Nobody is told that something begins.
    muted: bool,
}

impl Engine {
    /// Whether nobody is told that something begins. What lasts is told afterwards, and the end of what was told is told.
    pub(crate) fn set_muted(&mut self, muted: bool) {
        self.muted = muted;
    }

    /// Takes other rules. What is known about those that stay is kept.
    pub(crate) fn set_rules(&mut self, rules: Vec<Rule>) {
        let places: Vec<Option<usize>> = self
            .rules
            .iter()
            .map(|old| rules.iter().position(|new| new == old))
            .collect();
        let known = std::mem::take(&mut self.standing);
        self.standing = known
            .into_iter()
            .filter_map(|(mut watched, standing)| {
                watched.rule = places[watched.rule]?;
                Some((watched, standing))
            })
            .collect();
        self.rules = rules;
    }

    /// The rules.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// True if the daemon has to be asked for figures.
    pub(crate) fn needs_figures(&self) -> bool {
        self.rules.iter().any(|rule| rule.on.needs_figures())
    }

    /// Something happened. Nobody is told of what began too long ago.
    pub(crate) fn event(&mut self, event: &Event, now: u64) -> Vec<Message> {
        let Some(app) = &event.subject.app else {
            return Vec::new();
        };
        let meaning = meaning(&event.what);
        let is_news = now.saturating_sub(event.at_ms) <= NEWS_MS;
        let mut messages = Vec::new();
        for number in 0..self.rules.len() {
            let rule = &self.rules[number];
            let counts = rule.on == Trigger::CrashLoop && meaning.begins == Some(Trigger::Crash);
            let begins = counts || meaning.begins == Some(rule.on);
            let ends = meaning.ends.contains(&rule.on);
            if !(ends || (begins && is_news)) || !rule.is_about(app) {
                continue;
            }
            // An instance is frozen, or errored; the rest concerns the app, which has one message for all its crashes.
            let id = match rule.on {
                Trigger::Frozen | Trigger::Errored => event.subject.id,
                _ => None,
            };
            let watched = Watched {
                rule: number,
                app: Some(app.clone()),
                id,
            };
            let told = match begins && is_news {
                false => self.is_over(watched, event.at_ms, event.what.sentence()),
                true if counts => self.happens_again(watched, event),
                true => self.happens(watched, event, now),
            };
            messages.extend(told);
        }
        messages
    }

    /// Something that is over as soon as it has happened, or until another event ends it.
    fn happens(&mut self, watched: Watched, event: &Event, now: u64) -> Option<Message> {
        let mut text = event.what.sentence();
        for line in event.what.last_lines() {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        let again = match event.what {
            What::Crashed { repeats, .. } | What::Frozen { repeats, .. } => repeats,
            _ => 0,
        };
        self.tell(watched, text, 1 + again, event.at_ms, now)
    }

    /// A crash, for a rule about many of them.
    fn happens_again(&mut self, watched: Watched, event: &Event) -> Option<Message> {
        let rule = &self.rules[watched.rule];
        let (for_ms, above) = (rule.for_ms, rule.above.unwrap_or_default());
        let standing = self.known(&watched)?;
        let oldest = event.at_ms.saturating_sub(for_ms);
        standing.times.retain(|at| *at >= oldest);
        let more = match &event.what {
            What::Crashed { repeats, .. } => 1 + *repeats,
            _ => 1,
        };
        for _ in 0..more.min(1_000) {
            standing.times.push_back(event.at_ms);
        }
        while standing.times.len() > 1_000 {
            standing.times.pop_front();
        }
        let count = standing.times.len();
        if (count as f64) <= above {
            return None;
        }
        standing.times.clear();
        let text = format!("{count} crashes within {}", span(for_ms));
        self.tell(watched, text, 1, event.at_ms, event.at_ms)
    }

    /// The figures of all processes, now.
    pub(crate) fn figures(&mut self, processes: &[Process], now: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        for number in 0..self.rules.len() {
            let rule = self.rules[number].clone();
            for process in processes.iter().filter(|process| rule.is_about(&process.name)) {
                let Some((holds, text)) = condition(&rule, process) else {
                    continue;
                };
                let watched = Watched {
                    rule: number,
                    app: Some(process.name.clone()),
                    id: Some(process.id),
                };
                messages.extend(self.level(watched, holds, text, rule.for_ms, now));
            }
        }
        // An instance that is not there any more is not too large.
        let there = |watched: &Watched| {
            let same = |process: &Process| {
                Some(process.id) == watched.id && Some(&process.name) == watched.app.as_ref()
            };
            processes.iter().any(same)
        };
        let rules = &self.rules;
        let is_level = |watched: &Watched| watched.id.is_some() && rules[watched.rule].on.needs_figures();
        self.standing
            .retain(|watched, _| !is_level(watched) || there(watched));
        messages
    }

    /// Whether the daemon answers, now.
    pub(crate) fn daemon(&mut self, answers: bool, now: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        for number in 0..self.rules.len() {
            let rule = &self.rules[number];
            if rule.on != Trigger::DaemonDown {
                continue;
            }
            let for_ms = rule.for_ms;
            let watched = Watched {
                rule: number,
                app: None,
                id: None,
            };
            let text = match answers {
                true => "the daemon answers again".to_owned(),
                false => format!("the daemon has not answered for {}", span(for_ms)),
            };
            messages.extend(self.level(watched, !answers, text, for_ms, now));
        }
        messages
    }

    /// A condition that holds or does not.
    fn level(
        &mut self,
        watched: Watched,
        holds: bool,
        text: String,
        for_ms: u64,
        now: u64,
    ) -> Option<Message> {
        if !holds {
            if let Some(standing) = self.standing.get_mut(&watched) {
                standing.since = None;
            }
            return self.is_over(watched, now, text);
        }
        let standing = self.known(&watched)?;
        let since = *standing.since.get_or_insert(now);
        match !standing.told && now.saturating_sub(since) >= for_ms {
            true => self.tell(watched, text, 1, now, now),
            false => None,
        }
    }

    /// What was held back is told when its time has come.
    pub(crate) fn tick(&mut self, now: u64) -> Vec<Message> {
        if self.muted {
            return Vec::new();
        }
        let due: Vec<Watched> = self
            .standing
            .iter()
            .filter(|(watched, standing)| {
                let every = self.rules[watched.rule].every_ms;
                let rested = standing
                    .last_message
                    .is_none_or(|last| has_rested(last, now, every));
                standing.held_back.is_some() && rested
            })
            .map(|(watched, _)| watched.clone())
            .collect();
        due.into_iter()
            .filter_map(|watched| {
                let standing = self.standing.get_mut(&watched)?;
                let (count, text) = standing.held_back.take()?;
                standing.last_message = Some(now);
                standing.told = true;
                self.message(watched, State::Fired, text, count, now)
            })
            .collect()
    }

    /// A message, unless there was one a short time ago: then it is counted.
    fn tell(&mut self, watched: Watched, text: String, times: u32, at: u64, now: u64) -> Option<Message> {
        let every = self.rules[watched.rule].every_ms;
        let lasts = self.rules[watched.rule].on.needs_figures();
        if self.muted {
            return None;
        }
        let standing = self.known(&watched)?;
        if standing
            .last_message
            .is_some_and(|last| !has_rested(last, now, every))
        {
            // A level that comes and goes is not counted: it holds when its time has come, or it does not.
            if !lasts {
                let count = standing.held_back.take().map_or(0, |(count, _)| count);
                standing.held_back = Some((count.saturating_add(times), text));
            }
            return None;
        }
        standing.last_message = Some(now);
        standing.told = true;
        self.message(watched, State::Fired, text, times, at)
    }

    fn is_over(&mut self, watched: Watched, at: u64, text: String) -> Option<Message> {
        let standing = self.standing.get_mut(&watched)?;
        standing.held_back = None;
        match std::mem::take(&mut standing.told) {
            true => self.message(watched, State::Recovered, text, 1, at),
            false => None,
        }
    }

    fn message(
        &self,
        watched: Watched,
        state: State,
        text: String,
        count: u32,
        at_ms: u64,
    ) -> Option<Message> {
        Some(Message {
            rule: watched.rule,
            on: self.rules[watched.rule].on,
            state,
            app: watched.app,
            id: watched.id,
            text,
            count,
            at_ms,
        })
    }

    /// What is known; `None` if too much is.
    fn known(&mut self, watched: &Watched) -> Option<&mut Standing> {
        if self.standing.len() >= MOST && !self.standing.contains_key(watched) {
            self.standing.retain(|_, standing| standing.told);
            if self.standing.len() >= MOST {
                return None;
            }
        }
        Some(self.standing.entry(watched.clone()).or_default())
    }
}

/// What an event means for rules.
struct Meaning {
    begins: Option<Trigger>,
    ends: &'static [Trigger],
}

fn meaning(what: &What) -> Meaning {
    let (begins, ends): (Option<Trigger>, &'static [Trigger]) = match what {
        What::Crashed { .. } => (Some(Trigger::Crash), &[Trigger::Frozen]),
        What::Errored { .. } => (Some(Trigger::Errored), &[]),
        What::Ready { .. } => (None, &[Trigger::Errored]),
        What::Stopped { .. } | What::Exited { .. } => (None, &[Trigger::Frozen]),
        What::Deleted {} => (None, &[Trigger::Errored, Trigger::Frozen]),
        What::Frozen { .. } => (Some(Trigger::Frozen), &[]),
        What::Recovered { .. } => (None, &[Trigger::Frozen]),
        What::ReloadUndone { .. } => (Some(Trigger::ReloadFailed), &[Trigger::Unhealthy]),
        // It brought the old workers back after a reload that has failed.
        What::ReloadDone { returned: true } => (None, &[Trigger::Unhealthy]),
        What::ReloadDone { .. } => (None, &[Trigger::ReloadFailed, Trigger::Unhealthy]),
        What::Unhealthy { .. } => (Some(Trigger::Unhealthy), &[]),
        What::Healthy { .. } => (None, &[Trigger::Unhealthy]),
        What::MemoryLimit { .. } => (Some(Trigger::MemoryLimit), &[]),
        _ => (None, &[]),
    };
    Meaning { begins, ends }
}

/// True if a message at `last` is so long ago that there may be another. A clock that was set back hides nothing.
fn has_rested(last: u64, now: u64, every: u64) -> bool {
    now.checked_sub(last).is_none_or(|passed| passed >= every)
}

/// Whether the condition of a rule holds for a process, in words; `None` if the rule is not about figures of processes.
fn condition(rule: &Rule, process: &Process) -> Option<(bool, String)> {
    let above = rule.above.unwrap_or_default();
    let lasting = span(rule.for_ms);
    Some(match rule.on {
        Trigger::Memory => {
            let holds = process.memory_bytes as f64 > above;
            let (used, bound) = (mebibytes(process.memory_bytes as f64), mebibytes(above));
            let text = match holds {
                true => format!("uses {used} of memory, more than {bound} for {lasting}"),
                false => format!("uses {used} of memory"),
            };
            (holds, text)
        }
        Trigger::Cpu => {
            let holds = process.cpu_percent > above;
            let used = process.cpu_percent;
            let text = match holds {
                true => format!("uses {used:.0} % of a CPU, more than {above:.0} % for {lasting}"),
                false => format!("uses {used:.0} % of a CPU"),
            };
            (holds, text)
        }
        Trigger::Down => {
            let holds = !matches!(
                process.status,
                Status::Online | Status::Stopped | Status::Stopping
            );
            let status = process.status.as_str();
            let text = match holds {
                true => format!("is {status}, not online for {lasting}"),
                false => format!("is {status}"),
            };
            (holds, text)
        }
        _ => return None,
    })
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / f64::from(1 << 20))
}

/// A time in words, as rules have it.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        _ if ms >= 3_600_000 && ms.is_multiple_of(3_600_000) => format!("{} h", ms / 3_600_000),
        _ if ms >= 60_000 && ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        _ => format!("{ms} ms"),
    }
}
