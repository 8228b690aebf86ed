//! What the next process has to know of this one: which event was the last, what was told, and what no receiver has taken yet. Rules and receivers
//! are named by hashes, so that no address stands in the file.

use std::collections::{BTreeSet, HashMap};

use ring::digest::{SHA256, digest};
use rpm_wire::alerts::{Rule, Sink};
use serde::{Deserialize, Serialize};

use super::engine::{Engine, NEWS_MS, Standing, Watched};
use super::message::Message;

/// The most conditions and happenings that are kept.
const STANDING: usize = 1_000;
/// The most messages that are kept, of all receivers together: the newest.
const MESSAGES: usize = 500;
/// The longest text of a message that is kept, in bytes.
const TEXT: usize = 4_096;

/// What is kept.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The last event that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(default)]
    standing: Vec<KeptStanding>,
    #[serde(default)]
    pub waiting: Vec<KeptLane>,
    #[serde(default)]
    blind: Vec<Blind>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct KeptStanding {
    rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    #[serde(flatten)]
    standing: Standing,
}

/// What a receiver has not taken yet, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptLane {
    sink: String,
    messages: Vec<Message>,
}

/// A rule that says nothing of an app, because the app has no such figures.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Blind {
    rule: String,
    app: String,
}

/// The same for what is the same, and nothing that could be read back.
fn name(what: &impl Serialize) -> String {
    let text = serde_json::to_vec(what).unwrap_or_default();
    let hash = digest(&SHA256, &text);
    hash.as_ref()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The same for rules that say the same, whoever is told.
pub(super) fn key(rule: &Rule) -> String {
    let sinks = Vec::new();
    name(&Rule {
        sinks,
        ..rule.clone()
    })
}

impl Kept {
    /// What is so now.
    pub(crate) fn of(
        seq: Option<u64>,
        engine: &Engine,
        waiting: Vec<(&Sink, Vec<Message>)>,
        blind: &BTreeSet<(usize, String)>,
        now: u64,
    ) -> Kept {
        let names: Vec<String> = engine.rules().iter().map(name).collect();
        let mut standing: Vec<(&Watched, &Standing)> = engine.standing(now).collect();
        // What was told has an end, which somebody waits for.
        standing.sort_by_key(|(watched, standing)| {
            let newest = standing.last_message.unwrap_or_default();
            (
                !standing.told,
                u64::MAX - newest,
                watched.rule,
                &watched.app,
                watched.id,
            )
        });
        let standing = standing
            .into_iter()
            .take(STANDING)
            .map(|(watched, standing)| KeptStanding {
                rule: names[watched.rule].clone(),
                app: watched.app.clone(),
                id: watched.id,
                standing: standing.clone(),
            });
        let blind = blind.iter().map(|(rule, app)| Blind {
            rule: names.get(*rule).cloned().unwrap_or_default(),
            app: app.clone(),
        });
        Kept {
            seq,
            standing: standing.collect(),
            waiting: lanes(waiting),
            blind: blind.collect(),
        }
    }

    /// Gives the engine, whose rules are in force, what is known of them.
    pub(crate) fn resume(&self, engine: &mut Engine) {
        let numbers = numbers(engine.rules());
        for kept in &self.standing {
            if let Some(rule) = numbers.get(&kept.rule) {
                let watched = Watched {
                    rule: *rule,
                    app: kept.app.clone(),
                    id: kept.id,
                };
                engine.resume(watched, kept.standing.clone());
            }
        }
    }

    /// What the receivers of these rules have not taken yet and is no history by now, and how much was given up.
    pub(crate) fn messages(self, rules: &[Rule], now: u64) -> (Vec<(Sink, Vec<Message>)>, usize) {
        let sinks = rules.iter().flat_map(|rule| &rule.sinks);
        let sinks: HashMap<String, &Sink> = sinks.map(|sink| (name(sink), sink)).collect();
        let (mut found, mut lost) = (Vec::new(), 0);
        for lane in self.waiting {
            let count = lane.messages.len();
            let is_news = |message: &Message| now.saturating_sub(message.at_ms) <= NEWS_MS;
            let news: Vec<Message> = match sinks.contains_key(&lane.sink) {
                true => lane.messages.into_iter().filter(is_news).collect(),
                false => Vec::new(),
            };
            lost += count - news.len();
            if let Some(sink) = sinks.get(&lane.sink).filter(|_| !news.is_empty()) {
                found.push(((*sink).clone(), news));
            }
        }
        (found, lost)
    }

    /// Rules by number, and apps that have no such figures.
    pub(crate) fn blind(&self, rules: &[Rule]) -> Vec<(usize, String)> {
        let numbers = numbers(rules);
        let blind = self.blind.iter();
        blind
            .filter_map(|blind| Some((*numbers.get(&blind.rule)?, blind.app.clone())))
            .collect()
    }
}

fn numbers(rules: &[Rule]) -> HashMap<String, usize> {
    let numbered = rules.iter().enumerate();
    numbered
        .rev()
        .map(|(number, rule)| (name(rule), number))
        .collect()
}

/// The newest messages.
fn lanes(waiting: Vec<(&Sink, Vec<Message>)>) -> Vec<KeptLane> {
    let mut lanes: Vec<KeptLane> = waiting
        .into_iter()
        .map(|(sink, messages)| KeptLane {
            sink: name(sink),
            messages,
        })
        .collect();
    lanes.sort_by(|one, other| one.sink.cmp(&other.sink));
    let mut all: usize = lanes.iter().map(|lane| lane.messages.len()).sum();
    while all > MESSAGES {
        // Of the one that has most.
        if let Some(longest) = lanes.iter_mut().max_by_key(|lane| lane.messages.len()) {
            longest.messages.remove(0);
        }
        all -= 1;
    }
    for message in lanes.iter_mut().flat_map(|lane| &mut lane.messages) {
        if message.text.len() > TEXT {
            message.text.truncate(message.text.floor_char_boundary(TEXT));
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use rpm_wire::alerts::Trigger;
    use serde_json::json;

    use super::super::message::State;
    use super::super::tests::{NOW, crash, engine, event, rule, told};
    use super::*;

    fn message(at_ms: u64) -> Message {
        Message {
            rule: 0,
            key: "k0".to_owned(),
            on: Trigger::Crash,
            state: State::Fired,
            app: Some("api".to_owned()),
            id: None,
            text: "crashed".to_owned(),
            count: 1,
            at_ms,
        }
    }

    /// What another process knows that begins with what this one has left.
    fn next(before: &Engine, rules: Vec<Rule>) -> Engine {
        let kept = Kept::of(Some(7), before, Vec::new(), &BTreeSet::new(), NOW);
        let text = serde_json::to_string(&kept).expect("JSON");
        let read: Kept = serde_json::from_str(&text).expect("what was written");
        assert_eq!(read, kept);
        let mut next = engine(rules);
        read.resume(&mut next);
        next
    }

    #[test]
    fn what_was_told_is_known_to_the_next_process() {
        let rules = vec![
            rule(Trigger::Frozen),
            rule(Trigger::Crash),
            rule(Trigger::CrashLoop),
        ];
        let mut first = engine(rules.clone());
        let frozen = event(NOW, "frozen", &json!({"queued": 1}));
        assert_eq!(first.event(&frozen, NOW).len(), 1);
        for _ in 0..3 {
            first.event(&crash(NOW), NOW);
        }
        // The rules of the next one are others, in another order.
        let mut second = next(
            &first,
            vec![
                rule(Trigger::Errored),
                rules[2].clone(),
                rules[1].clone(),
                rules[0].clone(),
            ],
        );
        assert_eq!(told(&second.event(&frozen, NOW + 1)), [], "it was told");
        let fourth = second.event(&crash(NOW + 2), NOW + 2);
        assert_eq!(
            told(&fourth),
            [(State::Fired, 1)],
            "four crashes within the time are a loop"
        );
        assert_eq!(fourth[0].rule, 1, "and each of them was told lately");
        let end = event(NOW + 3, "recovered", &json!({"after_ms": 1}));
        let mut third = next(&second, rules);
        // A crash is an end of what was frozen; that was told by the second one.
        assert_eq!(told(&third.event(&end, NOW + 3)), []);
        assert_eq!(
            told(&third.tick(NOW + 60_000)),
            [(State::Fired, 3)],
            "what was held back"
        );
    }

    #[test]
    fn an_end_is_told_by_the_next_process() {
        let rules = vec![rule(Trigger::Errored)];
        let mut first = engine(rules.clone());
        let errored = event(NOW, "errored", &json!({"failures": 16}));
        assert_eq!(first.event(&errored, NOW).len(), 1);
        let ready = event(NOW + 1, "ready", &json!({}));
        assert_eq!(
            told(&next(&first, rules).event(&ready, NOW + 1)),
            [(State::Recovered, 1)]
        );
        let mut stranger = next(&first, vec![rule(Trigger::Frozen)]);
        assert_eq!(told(&stranger.event(&ready, NOW + 1)), [], "the rule is gone");
    }

    #[test]
    fn messages_that_wait_are_kept_while_they_are_news() {
        let secret = Sink::Exec {
            command: "s3cret".to_owned(),
            cwd: "/".to_owned(),
        };
        let rules = vec![Rule {
            sinks: vec![secret.clone()],
            ..rule(Trigger::Crash)
        }];
        let waiting = vec![message(NOW - NEWS_MS - 1), message(NOW - NEWS_MS), message(NOW)];
        let kept = || {
            let engine = engine(rules.clone());
            let blind = BTreeSet::from([(0, "web".to_owned())]);
            let kept = Kept::of(None, &engine, vec![(&secret, waiting.clone())], &blind, NOW);
            let text = serde_json::to_string(&kept).expect("JSON");
            assert!(!text.contains("s3cret"), "{text}");
            kept
        };
        assert_eq!(
            kept().messages(&rules, NOW),
            (vec![(secret.clone(), waiting[1..].to_vec())], 1)
        );
        assert_eq!(
            kept().messages(&[rule(Trigger::Crash)], NOW),
            (Vec::new(), 3),
            "its receiver is gone"
        );
        assert_eq!(kept().blind(&rules), [(0, "web".to_owned())]);
        assert_eq!(kept().blind(&[]), []);
    }

    #[test]
    fn there_are_bounds() {
        let (one, other) = (
            rule(Trigger::Crash).sinks.remove(0),
            Sink::Exec {
                command: "other".to_owned(),
                cwd: String::new(),
            },
        );
        let long = Message {
            text: "ö".repeat(TEXT),
            ..message(NOW)
        };
        let many: Vec<Message> = (0..600).map(message).collect();
        let lanes = lanes(vec![(&one, many), (&other, vec![long])]);
        let all: Vec<&Message> = lanes.iter().flat_map(|lane| &lane.messages).collect();
        assert_eq!(all.len(), MESSAGES);
        assert!(
            all.iter().any(|message| message.at_ms == 599) && all.iter().all(|message| message.at_ms >= 101)
        );
        assert!(all.iter().all(|message| message.text.len() <= TEXT));
        let mut engine = engine([Rule {
            every_ms: 1,
            ..rule(Trigger::Frozen)
        }]);
        for app in 0..STANDING + 5 {
            let mut frozen = event(NOW, "frozen", &json!({"queued": 1}));
            frozen.subject.app = Some(format!("app{app}"));
            assert_eq!(engine.event(&frozen, NOW).len(), 1);
        }
        let kept = Kept::of(None, &engine, Vec::new(), &BTreeSet::new(), NOW);
        assert_eq!(kept.standing.len(), STANDING);
    }
}
