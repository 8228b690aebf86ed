//! `observe.alerts` of a file: rules by which somebody is told what happens to the apps.

use rpm_wire::alerts::{MAX_RULES, Rule, Shape, Sink, Trigger, Unit};
use serde_json::{Map, Value};

use crate::ecosystem::{shown, unknown};
use crate::nearest::nearest;
use crate::values::{bytes, milliseconds};

/// Crashes in `above` are fewer than this: so many are remembered.
const MOST_CRASHES: f64 = 1_000.0;
/// Percent in `above` are less than this: 100 for each CPU.
const MOST_PERCENT: f64 = 1_000_000.0;
/// The keys of a rule.
const KEYS: [&str; 9] = [
    "on", "app", "above", "for", "every", "webhook", "shape", "key", "exec",
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
    match (on, reader.problems.is_empty()) {
        (Some(on), true) => Ok(Rule {
            on,
            apps,
            above,
            for_ms,
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
            let text = format!(
                "`{}.for`: {:?} happens at once; leave it out",
                self.place,
                on.name()
            );
            self.problems.push(text);
        }
        self.time("for").or(usual).unwrap_or_default()
    }

    fn above(&mut self, on: Trigger) -> Option<f64> {
        let expected = match on.unit() {
            Unit::None => {
                if self.field("above").is_some() {
                    let text = format!(
                        "`{}.above`: {:?} has no bound; leave it out",
                        self.place,
                        on.name()
                    );
                    self.problems.push(text);
                }
                return None;
            }
            Unit::Bytes => "an amount of memory, such as \"500M\"",
            Unit::Percent => "a number: percent of one CPU, such as 90",
            Unit::Count => "a number",
        };
        let Some(value) = self.field("above") else {
            if on.usual_above().is_none() {
                self.wrong("above", expected);
            }
            return on.usual_above();
        };
        let read = match on.unit() {
            Unit::Bytes => bytes(value).ok().map(|bytes| bytes as f64),
            _ => {
                let text = value.as_str().map(|text| text.trim_end_matches('%').trim());
                let number = text.map_or_else(|| value.as_f64(), |text| text.parse().ok());
                let most = match on.unit() {
                    Unit::Percent => MOST_PERCENT,
                    _ => MOST_CRASHES,
                };
                number.filter(|number| (0.0..most).contains(number))
            }
        };
        if read.is_none() {
            self.wrong("above", expected);
        }
        read
    }

    fn sinks(&mut self) -> Vec<Sink> {
        let mut sinks = Vec::new();
        if let Some(value) = self.field("exec") {
            match value.as_str().filter(|line| !line.trim().is_empty()) {
                Some(line) => sinks.push(Sink::Exec {
                    command: line.to_owned(),
                    cwd: String::new(),
                }),
                None => self.wrong("exec", "a line for the shell"),
            }
        }
        match self.field("webhook").cloned() {
            Some(value) => sinks.extend(self.webhook(&value)),
            None => {
                for key in ["shape", "key"] {
                    if self.field(key).is_some() {
                        let text = format!("`{}.{key}` belongs to `webhook`, which is missing", self.place);
                        self.problems.push(text);
                    }
                }
            }
        }
        if sinks.is_empty() && self.field("webhook").is_none() && self.field("exec").is_none() {
            let text = format!("`{}` tells nobody: give it `webhook` or `exec`", self.place);
            self.problems.push(text);
        }
        sinks
    }

    fn webhook(&mut self, value: &Value) -> Option<Sink> {
        let url = value.as_str().unwrap_or_default();
        let Some(host) = web_host(url) else {
            // What was found may be a secret.
            let text = format!(
                "`{}.webhook` must be an address that begins with http:// or https://, without a name and a password",
                self.place
            );
            self.problems.push(text);
            return None;
        };
        let shape = match self
            .field("shape")
            .map(|value| value.as_str().unwrap_or_default())
        {
            None => Shape::of_host(host),
            Some(name) => match Shape::ALL.iter().find(|(known, _)| *known == name) {
                Some((_, shape)) => *shape,
                None => {
                    self.wrong(
                        "shape",
                        &format!("one of {}", Shape::ALL.map(|(name, _)| name).join(", ")),
                    );
                    return None;
                }
            },
        };
        let key = self.field("key").and_then(Value::as_str).map(str::to_owned);
        if (shape == Shape::Pagerduty) != key.as_ref().is_some_and(|key| !key.is_empty()) {
            let text = format!(
                "`{}.key` is the integration key of PagerDuty: the shape \"pagerduty\" needs it, and no other has it",
                self.place
            );
            self.problems.push(text);
            return None;
        }
        Some(Sink::Webhook {
            url: url.to_owned(),
            shape,
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(value: &Value) -> Rule {
        let rules = read(&json!([value])).expect("a rule");
        rules.into_iter().next().expect("one")
    }

    #[test]
    fn what_is_left_out_has_a_usual_value() {
        let rule = one(&json!({"on": "crash", "exec": "./page.sh"}));
        assert_eq!((rule.on, rule.above, rule.for_ms), (Trigger::Crash, None, 0));
        assert_eq!(rule.every_ms, Rule::USUAL_EVERY_MS);
        assert!(rule.apps.is_empty() && rule.is_about("api"));
        let rule = one(
            &json!({"on": "memory", "above": "500M", "for": "1m", "app": ["api", "web"],
                              "every": "1h", "webhook": "https://hooks.slack.com/services/x"}),
        );
        assert_eq!(
            (rule.above, rule.for_ms, rule.every_ms),
            (Some(524_288_000.0), 60_000, 3_600_000)
        );
        assert!(rule.is_about("web") && !rule.is_about("other"));
        assert!(
            matches!(
                rule.sinks[..],
                [Sink::Webhook {
                    shape: Shape::Slack,
                    ..
                }]
            ),
            "{rule:?}"
        );
        let rule =
            one(&json!({"on": "cpu", "above": "80%", "webhook": "http://localhost:1/x", "exec": "true"}));
        assert_eq!(
            (rule.above, rule.for_ms, rule.sinks.len()),
            (Some(80.0), 300_000, 2)
        );
        for trigger in Trigger::ALL {
            let above = (trigger.unit() != Unit::None).then_some(1);
            let rule = one(&json!({"on": trigger.name(), "above": above, "exec": "true"}));
            assert_eq!(rule.above, above.map(f64::from), "{trigger:?}");
        }
    }

    /// docs/OBSERVE.md has a row for each trigger, with the words of its table.
    #[test]
    fn the_document_has_every_trigger() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/OBSERVE.md");
        let document = std::fs::read_to_string(document).expect("the document");
        for trigger in Trigger::ALL {
            let row = format!("| `{}` | {} |", trigger.name(), trigger.about());
            assert!(document.contains(&row), "{row}");
        }
    }

    #[test]
    fn what_is_wrong_says_where_and_what_to_do() {
        for (value, told) in [
            (json!({"on": "crash", "exec": "x"}), "must be a list of rules"),
            (json!(["crash"]), "`observe.alerts[0]` must be an object"),
            (json!([{"on": "crashed", "exec": "x"}]), "did you mean \"crash\"?"),
            (
                json!([{"exec": "x"}]),
                "`observe.alerts[0].on` must be one of crash, ",
            ),
            (json!([{"on": "crash"}]), "`observe.alerts[0]` tells nobody"),
            (
                json!([{"on": "crash", "exec": "x", "web_hook": 1}]),
                "did you mean `webhook`?",
            ),
            (
                json!([{"on": "crash", "exec": "x", "app": []}]),
                "`observe.alerts[0].app` must be the name of an app",
            ),
            (
                json!([{"on": "crash", "exec": "x", "for": "1m"}]),
                "`observe.alerts[0].for`: \"crash\" happens at once",
            ),
            (
                json!([{"on": "crash", "exec": "x", "above": 1}]),
                "`observe.alerts[0].above`: \"crash\" has no bound",
            ),
            (
                json!([{"on": "memory", "exec": "x"}]),
                "`observe.alerts[0].above` must be an amount of memory",
            ),
            (
                json!([{"on": "memory", "exec": "x", "above": "much"}]),
                "must be an amount of memory",
            ),
            (
                json!([{"on": "cpu", "exec": "x", "for": "long"}]),
                "`observe.alerts[0].for` must be a time",
            ),
            (
                json!([{"on": "crash", "webhook": "hooks.slack.com"}]),
                "must be an address that begins with http://",
            ),
            (
                json!([{"on": "crash", "webhook": "https://a/", "shape": "irc"}]),
                "must be one of json, slack",
            ),
            (
                json!([{"on": "crash", "exec": "x", "key": "k"}]),
                "belongs to `webhook`",
            ),
            (
                json!([{"on": "crash", "webhook": "https://events.pagerduty.com/v2/enqueue"}]),
                "integration key",
            ),
        ] {
            let problems = read(&value).expect_err("it is wrong");
            assert!(
                problems.len() == 1 && problems[0].contains(told),
                "{value}: {problems:?}"
            );
        }
        let secret = read(&json!([{"on": "crash", "webhook": "ftp://s3cret"}])).expect_err("it is wrong");
        assert!(!secret[0].contains("s3cret"), "{secret:?}");
    }
}
