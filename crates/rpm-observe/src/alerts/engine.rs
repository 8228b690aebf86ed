//! Which rules have something to say: events and figures in, messages out. Without clock and I/O.

use std::collections::{HashMap, HashSet, VecDeque};

use rpm_wire::alerts::{Rule, Source, Trigger};
use rpm_wire::api::Process;
use rpm_wire::events::{Event, What};
use serde::{Deserialize, Serialize};

use super::condition::{Read, Reading, condition, span};
use super::kept::key;
use super::message::{Message, State, meaning};

/// The most (rule, app, instance) that are remembered: names of apps that came and went must not add up for ever.
const MOST: usize = 20_000;
/// Events that are older are not news, but history: somebody who turns alerts on is not told of last night.
/// The daemon itself may hold back a crash for 10 minutes.
pub(crate) const NEWS_MS: u64 = 1_200_000;

/// What a rule watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Watched {
    pub rule: usize,
    pub app: Option<String>,
    pub id: Option<u32>,
}

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Since when the condition holds. Another process begins again: it has not seen that it lasted.
    #[serde(skip)]
    since: Option<u64>,
    /// Somebody was told that it began, and not yet that it is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<u64>,
    /// What has happened since that message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_back: Option<(u32, String)>,
    /// When it happened, within the time of the rule.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    times: VecDeque<u64>,
}

/// What an app has written that matches a rule's pattern.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// Number of the rule.
    pub rule: usize,
    pub app: String,
    /// Lines that match.
    pub count: u32,
    /// The first of them.
    pub line: String,
}

/// The rules, and what is known.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    rules: Vec<Rule>,
    /// By which messages name them.
    keys: Vec<String>,
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
        self.keys = rules.iter().map(key).collect();
        self.rules = rules;
    }

    /// The rules.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// True if a rule is about what is seen in one of these.
    pub(crate) fn needs(&self, sources: &[Source]) -> bool {
        self.rules.iter().any(|rule| sources.contains(&rule.on.source()))
    }

    /// What is known, as far as the next process has to know it: what was told, and what was counted.
    pub(super) fn standing(&self, now: u64) -> impl Iterator<Item = (&Watched, &Standing)> {
        let is_kept = move |(watched, standing): &(&Watched, &Standing)| {
            let every = self.rules[watched.rule].every_ms;
            let is_lately = standing
                .last_message
                .is_some_and(|last| !has_rested(last, now, every));
            standing.told || is_lately || standing.held_back.is_some() || !standing.times.is_empty()
        };
        self.standing.iter().filter(is_kept)
    }

    /// Takes over what another process has known of a rule.
    pub(super) fn resume(&mut self, watched: Watched, standing: Standing) {
        if watched.rule < self.rules.len() && self.standing.len() < MOST {
            self.standing.entry(watched).or_insert(standing);
        }
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
        let more = match &event.what {
            What::Crashed { repeats, .. } => 1 + *repeats,
            _ => 1,
        };
        let for_ms = self.rules[watched.rule].for_ms;
        let count = self.too_many(&watched, more, event.at_ms)?;
        let text = format!("{count} crashes within {}", span(for_ms));
        self.tell(watched, text, 1, event.at_ms, event.at_ms)
    }

    /// Counts what has happened within the time of the rule; gives the number, and begins again, if it is more than the rule allows.
    fn too_many(&mut self, watched: &Watched, more: u32, at: u64) -> Option<usize> {
        let rule = &self.rules[watched.rule];
        let (for_ms, above) = (rule.for_ms, rule.above.unwrap_or_default());
        let standing = self.known(watched)?;
        let oldest = at.saturating_sub(for_ms);
        standing.times.retain(|time| (oldest..=at).contains(time));
        for _ in 0..more.min(1_000) {
            standing.times.push_back(at);
        }
        while standing.times.len() > 1_000 {
            standing.times.pop_front();
        }
        let count = standing.times.len();
        if (count as f64) <= above {
            return None;
        }
        standing.times.clear();
        Some(count)
    }

    /// Lines of an app that match the pattern of a rule.
    pub(crate) fn found(&mut self, found: Found, now: u64) -> Option<Message> {
        let rule = self.rules.get(found.rule)?;
        let (above, for_ms) = (rule.above.unwrap_or_default(), rule.for_ms);
        let watched = Watched {
            rule: found.rule,
            app: Some(found.app),
            id: None,
        };
        // Without a number each of them counts.
        if above < 1.0 {
            return self.tell(watched, found.line, found.count, now, now);
        }
        let count = self.too_many(&watched, found.count, now)?;
        let text = format!("{count} lines within {}, such as: {}", span(for_ms), found.line);
        self.tell(watched, text, 1, now, now)
    }

    /// What is known now of all conditions about apps that are seen in this source.
    pub(crate) fn readings(&mut self, source: Source, readings: &[Read], now: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        for Read { rule, app, reading } in readings {
            let Some(found) = self.rules.get(*rule).filter(|rule| rule.on.source() == source) else {
                continue;
            };
            // What is seen over the time of the rule need not last besides.
            let for_ms = if found.on == Trigger::LoopDelay {
                found.for_ms
            } else {
                0
            };
            let watched = Watched {
                rule: *rule,
                app: Some(app.clone()),
                id: None,
            };
            let message = match reading {
                Reading::Unknown => None,
                Reading::Lost => self.level(
                    watched,
                    false,
                    "nothing is known of it any more".to_owned(),
                    0,
                    now,
                ),
                Reading::Known { holds, text } => self.level(watched, *holds, text.clone(), for_ms, now),
            };
            messages.extend(message);
        }
        let there: HashSet<(usize, Option<&str>)> = readings
            .iter()
            .map(|read| (read.rule, Some(read.app.as_str())))
            .collect();
        let rules = &self.rules;
        let is_gone = |watched: &Watched| {
            rules[watched.rule].on.source() == source
                && !there.contains(&(watched.rule, watched.app.as_deref()))
        };
        let gone: Vec<Watched> = self
            .standing
            .keys()
            .filter(|watched| is_gone(watched))
            .cloned()
            .collect();
        for watched in gone {
            messages.extend(self.is_over(watched.clone(), now, "is not there any more".to_owned()));
            self.standing.remove(&watched);
        }
        messages
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
        messages.extend(self.gone(processes, now));
        messages
    }

    /// True if somebody was told of something that only an event, or that it is gone, ends.
    pub(crate) fn awaits_end(&self) -> bool {
        let is_event = |watched: &Watched| self.rules[watched.rule].on.source() == Source::Events;
        self.standing
            .iter()
            .any(|(watched, standing)| standing.told && is_event(watched))
    }

    /// An app or an instance that is not there any more is neither too large nor unhealthy, and whoever was told that it is waits for the end.
    fn gone(&mut self, processes: &[Process], now: u64) -> Vec<Message> {
        let there = |watched: &Watched| {
            let same = |process: &Process| {
                Some(&process.name) == watched.app.as_ref() && watched.id.is_none_or(|id| id == process.id)
            };
            processes.iter().any(same)
        };
        let is_ours = |watched: &Watched, standing: &Standing| match self.rules[watched.rule].on.source() {
            Source::Processes => true,
            Source::Events => standing.told,
            Source::Daemon | Source::Figures | Source::Lines | Source::Files => false,
        };
        let gone = self
            .standing
            .iter()
            .filter(|(watched, standing)| is_ours(watched, standing) && !there(watched));
        let gone: Vec<Watched> = gone.map(|(watched, _)| watched.clone()).collect();
        let mut messages = Vec::new();
        for watched in gone {
            messages.extend(self.is_over(watched.clone(), now, "is not there any more".to_owned()));
            if self.rules[watched.rule].on.is_level() {
                self.standing.remove(&watched);
            }
        }
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
        // A clock that was set back must not make it wait for the time to come again.
        let since = standing.since.map_or(now, |since| since.min(now));
        standing.since = Some(since);
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
                standing.told = self.rules[watched.rule].on.has_end();
                self.message(watched, State::Fired, text, count, now)
            })
            .collect()
    }

    /// A message, unless there was one a short time ago: then it is counted.
    fn tell(&mut self, watched: Watched, text: String, times: u32, at: u64, now: u64) -> Option<Message> {
        let every = self.rules[watched.rule].every_ms;
        let on = self.rules[watched.rule].on;
        if self.muted {
            return None;
        }
        let standing = self.known(&watched)?;
        if standing
            .last_message
            .is_some_and(|last| !has_rested(last, now, every))
        {
            // A level that comes and goes is not counted: it holds when its time has come, or it does not.
            if !on.is_level() {
                let count = standing.held_back.take().map_or(0, |(count, _)| count);
                standing.held_back = Some((count.saturating_add(times), text));
            }
            return None;
        }
        standing.last_message = Some(now);
        standing.told = on.has_end();
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
            key: self.keys[watched.rule].clone(),
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

/// True if a message at `last` is so long ago that there may be another. A clock that was set back hides nothing.
fn has_rested(last: u64, now: u64, every: u64) -> bool {
    now.checked_sub(last).is_none_or(|passed| passed >= every)
}
