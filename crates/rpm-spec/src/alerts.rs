//! `observe.alerts` of a file: rules by which somebody is told what happens to the apps.

mod sinks;
mod template;

use regex_lite::RegexBuilder;
use rpm_wire::alerts::{
    LONGEST_LATENCY_MS, MAX_RULES, PATTERN_BYTES, PATTERN_COMPILED_BYTES, Rule, Trigger, Unit,
};
use serde_json::{Map, Value};

use crate::ecosystem::{shown, unknown};
use crate::nearest::nearest;
use crate::values::{bytes, milliseconds, number};

/// Crashes, and lines, in `above` are fewer than this: so many are remembered.
const MOST_COUNT: f64 = 1_000.0;
/// Percent in `above` of `cpu` are less than this: 100 for each CPU.
const MOST_PERCENT: f64 = 1_000_000.0;
/// Milliseconds in `above` are fewer than this: an hour.
const MOST_MS: f64 = 3_600_000.0;
/// Requests are looked at over this time at least, in milliseconds.
const LEAST_WINDOW_MS: u64 = 2_000;
/// The keys of a rule.
const KEYS: [&str; 15] = [
    "on",
    "app",
    "above",
    "for",
    "pattern",
    "min_requests",
    "every",
    "webhook",
    "shape",
    "key",
    "template",
    "mail",
    "smtp",
    "from",
    "exec",
];

/// Reads the value of the key, which is not null. `exec` has no directory yet.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub(crate) fn read(value: &Value) -> Result<Vec<Rule>, Vec<String>> {
    let Value::Array(list) = value else {
        return Err(vec![format!(
            "`observe.alerts` must be a list of rules, such as [{{on: \"crash\", exec: \"./page.sh\"}}], not {}",
            shown(value)
        )]);
    };
    if list.len() > MAX_RULES {
        return Err(vec![format!(
            "`observe.alerts` has {} rules; it may have {MAX_RULES}",
            list.len()
        )]);
    }
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for (number, value) in list.iter().enumerate() {
        let place = format!("observe.alerts[{number}]");
        match value {
            Value::Object(fields) => match rule(&place, fields) {
                Ok(rule) => rules.push(rule),
                Err(wrong) => problems.extend(wrong),
            },
            // It may be an address, which is a secret.
            _ => problems.push(format!(
                "`{place}` must be an object, such as {{on: \"crash\", exec: \"./page.sh\"}}"
            )),
        }
    }
    match problems.is_empty() {
        true => Ok(rules),
        false => Err(problems),
    }
}

/// A name, or a list of names, of apps. An empty list would mean all of them, and is none.
pub(crate) fn names(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let names = match value {
        Value::Array(list) => list.iter().map(one).collect::<Option<Vec<String>>>(),
        value => one(value).map(|name| vec![name]),
    };
    names.filter(|names| !names.is_empty())
}

/// The host of an address for HTTP; `None` if it is none, or has a name and a password.
pub(crate) fn web_host(url: &str) -> Option<&str> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))?;
    let host = rest.split(['/', '?', '#', ':']).next().unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let good = url.bytes().all(|byte| byte.is_ascii_graphic()) && !authority.contains('@');
    Some(host).filter(|host| !host.is_empty() && good)
}

/// What is read of a rule, and what is wrong with it.
struct Reader<'a> {
    place: &'a str,
    fields: &'a Map<String, Value>,
    problems: Vec<String>,
}

fn rule(place: &str, fields: &Map<String, Value>) -> Result<Rule, Vec<String>> {
    let mut reader = Reader {
        place,
        fields,
        problems: Vec::new(),
    };
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        reader.problems.push(format!("`{place}`: {}", unknown(key, KEYS)));
    }
    let on = reader.trigger();
    let apps = reader.apps();
    let every_ms = reader.time("every").unwrap_or(Rule::USUAL_EVERY_MS);
    let sinks = reader.sinks();
    let (above, for_ms) = on.map_or((None, 0), |on| (reader.above(on), reader.duration(on)));
    let pattern = on.and_then(|on| reader.pattern(on));
    let min_requests = on.and_then(|on| reader.min_requests(on));
    match (on, reader.problems.is_empty()) {
        (Some(on), true) => Ok(Rule {
            on,
            apps,
            above,
            for_ms,
            pattern,
            min_requests,
            every_ms,
            sinks,
        }),
        _ => Err(reader.problems),
    }
}

impl Reader<'_> {
    fn field(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&mut self, key: &str, expected: &str) {
        let found = self.fields.get(key).map_or_else(|| "nothing".to_owned(), shown);
        let place = self.place;
        self.problems
            .push(format!("`{place}.{key}` must be {expected}, not {found}"));
    }

    fn trigger(&mut self) -> Option<Trigger> {
        let names = || Trigger::ALL.iter().map(|trigger| trigger.name());
        let name = self.field("on").and_then(Value::as_str).unwrap_or_default();
        let found = Trigger::ALL.iter().find(|trigger| trigger.name() == name);
        if found.is_none() {
            let expected = match nearest(name, names()) {
                Some(near) => format!("what the rule is about (did you mean {near:?}?)"),
                None => format!("one of {}", names().collect::<Vec<_>>().join(", ")),
            };
            self.wrong("on", &expected);
        }
        found.copied()
    }

    fn apps(&mut self) -> Vec<String> {
        let Some(value) = self.field("app") else {
            return Vec::new();
        };
        names(value).unwrap_or_else(|| {
            self.wrong("app", "the name of an app, or a list of names");
            Vec::new()
        })
    }

    fn time(&mut self, key: &str) -> Option<u64> {
        let read = milliseconds(self.field(key)?);
        if read.is_err() {
            self.wrong(key, "a time, such as \"30s\" or \"5m\"");
        }
        read.ok()
    }

    fn duration(&mut self, on: Trigger) -> u64 {
        let usual = on.usual_for_ms();
        if usual.is_none() && self.field("for").is_some() {
            self.needless(
                "for",
                &format!(
                    "{:?} happens at once, or is so at the moment; leave it out",
                    on.name()
                ),
            );
        }
        let time = self.time("for").or(usual).unwrap_or_default();
        if on.counts_requests() && time < LEAST_WINDOW_MS {
            self.wrong("for", "2s or more, over which requests are counted");
        }
        time
    }

    /// A key that the rule has and cannot have.
    fn needless(&mut self, key: &str, why: &str) {
        let text = format!("`{}.{key}`: {why}", self.place);
        self.problems.push(text);
    }

    fn above(&mut self, on: Trigger) -> Option<f64> {
        let expected = match on.unit() {
            Unit::None => {
                if self.field("above").is_some() {
                    self.needless("above", &format!("{:?} has no bound; leave it out", on.name()));
                }
                return None;
            }
            Unit::Bytes => "an amount, such as \"500M\"",
            Unit::Percent if on == Trigger::Cpu => "a number: percent of one CPU, such as 90",
            Unit::Percent => "a number: percent, less than 100",
            Unit::Count => "a number",
            Unit::Milliseconds if on == Trigger::Latency => "a time below 10s, such as \"500ms\"",
            Unit::Milliseconds => "a time, such as \"200ms\"",
        };
        let Some(value) = self.field("above") else {
            if on.usual_above().is_none() {
                self.wrong("above", expected);
            }
            return on.usual_above();
        };
        let number = || {
            let text = value.as_str().map(|text| text.trim_end_matches('%').trim());
            text.map_or_else(|| value.as_f64(), |text| text.parse().ok())
        };
        let (read, most) = match on.unit() {
            Unit::Bytes => (bytes(value).ok().map(|bytes| bytes as f64), f64::MAX),
            Unit::Milliseconds if on == Trigger::Latency => {
                (milliseconds(value).ok().map(|ms| ms as f64), LONGEST_LATENCY_MS)
            }
            Unit::Milliseconds => (milliseconds(value).ok().map(|ms| ms as f64), MOST_MS),
            Unit::Percent if on == Trigger::Cpu => (number(), MOST_PERCENT),
            Unit::Percent => (number(), 100.0),
            Unit::Count | Unit::None => (number(), MOST_COUNT),
        };
        let read = read.filter(|read| (0.0..most).contains(read));
        if read.is_none() {
            self.wrong("above", expected);
        }
        read
    }

    fn pattern(&mut self, on: Trigger) -> Option<String> {
        let Some(value) = self.field("pattern") else {
            if on == Trigger::LogPattern {
                self.wrong("pattern", "a regular expression, such as \"OutOfMemory|FATAL\"");
            }
            return None;
        };
        if on != Trigger::LogPattern {
            self.needless("pattern", "it belongs to \"log-pattern\"");
            return None;
        }
        let text = value
            .as_str()
            .filter(|text| (1..=PATTERN_BYTES).contains(&text.len()));
        let Some(text) = text.map(str::to_owned) else {
            self.wrong(
                "pattern",
                "a regular expression of at most 1,000 bytes, as a string",
            );
            return None;
        };
        let built = RegexBuilder::new(&text)
            .size_limit(PATTERN_COMPILED_BYTES)
            .build();
        if let Err(error) = built {
            self.wrong("pattern", &format!("a regular expression ({error})"));
        }
        Some(text)
    }

    fn min_requests(&mut self, on: Trigger) -> Option<u32> {
        let value = self.field("min_requests")?;
        if !on.counts_requests() {
            self.needless("min_requests", "it belongs to \"latency\" and \"error-rate\"");
            return None;
        }
        let read = number(value, 1).ok();
        if read.is_none() {
            self.wrong("min_requests", "a number of requests, such as 20");
        }
        read
    }
}

#[cfg(test)]
mod tests;
