//! Rules as files have them.

use rpm_wire::alerts::{Rule, Shape, Sink, Trigger, Unit};
use serde_json::{Value, json};

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
    let rule = one(&json!({"on": "cpu", "above": "80%", "webhook": "http://localhost:1/x", "exec": "true"}));
    assert_eq!(
        (rule.above, rule.for_ms, rule.sinks.len()),
        (Some(80.0), 300_000, 2)
    );
    for trigger in Trigger::ALL {
        let above = (trigger.unit() != Unit::None).then_some(1);
        let pattern = (*trigger == Trigger::LogPattern).then_some("x");
        let rule = one(&json!({"on": trigger.name(), "above": above, "pattern": pattern, "exec": "true"}));
        assert_eq!(rule.above, above.map(f64::from), "{trigger:?}");
    }
    for (value, above, for_ms) in [
        (json!({"on": "loop-delay"}), 200.0, 60_000),
        (
            json!({"on": "latency", "above": "1.5s", "for": "10m"}),
            1_500.0,
            600_000,
        ),
        (
            json!({"on": "error-rate", "above": "0.5%", "min_requests": 3}),
            0.5,
            120_000,
        ),
        (json!({"on": "log-pattern", "pattern": "a|b"}), 0.0, 60_000),
        (json!({"on": "logs-size"}), 1_073_741_824.0, 0),
        (json!({"on": "logs-disk", "above": 80}), 80.0, 0),
    ] {
        let mut value = value;
        value["exec"] = json!("true");
        let rule = one(&value);
        assert_eq!((rule.above, rule.for_ms), (Some(above), for_ms), "{value}");
    }
    assert_eq!(
        one(&json!({"on": "certificate", "exec": "x"})).for_ms,
        14 * 86_400_000
    );
}

/// docs/OBSERVE.md has a row for each trigger, with the words of its table.
#[test]
fn the_document_has_every_trigger() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/OBSERVE.md");
    let document = std::fs::read_to_string(document).expect("the document");
    for trigger in Trigger::ALL {
        let [above, lasting] = trigger.usual().map(Option::unwrap_or_default);
        let above = match trigger.unit() {
            Unit::Bytes if above.is_empty() => "needed, such as `500M`".to_owned(),
            Unit::Percent => format!("{above} %"),
            _ => above,
        };
        let cell = |text: String| {
            if text.is_empty() {
                String::new()
            } else {
                format!("{text} ")
            }
        };
        let row = format!(
            "| `{}` | {} | {}| {}|",
            trigger.name(),
            trigger.about(),
            cell(above),
            cell(lasting)
        );
        assert!(document.contains(&row), "{row}");
    }
}

/// Each of these is refused for one reason, which says so.
fn all_refused(rows: &[(Value, &str)]) {
    for (value, told) in rows {
        let problems = read(value).expect_err("it is wrong");
        assert!(
            problems.len() == 1 && problems[0].contains(told),
            "{value}: {problems:?}"
        );
    }
}

#[test]
fn what_is_wrong_says_where_and_what_to_do() {
    all_refused(&[
        (json!({"on": "crash", "exec": "x"}), "must be a list of rules"),
        (json!(["crash"]), "`observe.alerts[0]` must be an object"),
        (json!([{"on": "crashed", "exec": "x"}]), "did you mean \"crash\"?"),
        (
            json!([{"exec": "x"}]),
            "`observe.alerts[0].on` must be one of crash, ",
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
            "`observe.alerts[0].above` must be an amount",
        ),
        (
            json!([{"on": "memory", "exec": "x", "above": "much"}]),
            "must be an amount",
        ),
        (
            json!([{"on": "cpu", "exec": "x", "for": "long"}]),
            "`observe.alerts[0].for` must be a time",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_requests_and_patterns_says_where() {
    all_refused(&[
        (
            json!([{"on": "latency", "above": "10s", "exec": "x"}]),
            "`observe.alerts[0].above` must be a time below 10s",
        ),
        (
            json!([{"on": "latency", "for": "1s", "exec": "x"}]),
            "`observe.alerts[0].for` must be 2s or more",
        ),
        (
            json!([{"on": "error-rate", "above": 100, "exec": "x"}]),
            "must be a number: percent, less than 100",
        ),
        (
            json!([{"on": "error-rate", "min_requests": 0, "exec": "x"}]),
            "`observe.alerts[0].min_requests` must be a number of requests",
        ),
        (
            json!([{"on": "cpu", "min_requests": 9, "exec": "x"}]),
            "it belongs to \"latency\" and \"error-rate\"",
        ),
        (
            json!([{"on": "log-pattern", "exec": "x"}]),
            "`observe.alerts[0].pattern` must be a regular expression, such as",
        ),
        (
            json!([{"on": "log-pattern", "pattern": "a(", "exec": "x"}]),
            "`observe.alerts[0].pattern` must be a regular expression (",
        ),
        (
            json!([{"on": "log-pattern", "pattern": "a{1000}{1000}", "exec": "x"}]),
            "`observe.alerts[0].pattern` must be a regular expression (",
        ),
        (
            json!([{"on": "crash", "pattern": "a", "exec": "x"}]),
            "it belongs to \"log-pattern\"",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_receivers_says_where() {
    all_refused(&[
        (json!([{"on": "crash"}]), "`observe.alerts[0]` tells nobody"),
        (
            json!([{"on": "crash", "exec": "x", "web_hook": 1}]),
            "did you mean `webhook`?",
        ),
        (
            json!([{"on": "crash", "webhook": "hooks.slack.com"}]),
            "must be an address that begins with http://",
        ),
        (
            json!([{"on": "crash", "webhook": "https://a/", "template": {"a": "{txt}"}}]),
            "`observe.alerts[0].template`.a: unknown {txt}; did you mean {text}?",
        ),
        (
            json!([{"on": "crash", "webhook": "https://a/", "template": {}, "shape": "slack"}]),
            "`observe.alerts[0].template` is the whole body",
        ),
        (
            json!([{"on": "crash", "exec": "x", "template": {}}]),
            "`observe.alerts[0].template` belongs to `webhook`",
        ),
        (
            json!([{"on": "crash", "mail": "a@b\r\nDATA"}]),
            "`observe.alerts[0].mail` must be an address",
        ),
        (
            json!([{"on": "crash", "mail": ["a@b", "c"]}]),
            "`observe.alerts[0].mail` must be an address",
        ),
        (
            json!([{"on": "crash", "mail": "a@b", "from": "c"}]),
            "`observe.alerts[0].from` must be an address",
        ),
        (
            json!([{"on": "crash", "mail": "a@b", "smtp": "mail.test"}]),
            "`observe.alerts[0].smtp` must be an address such as",
        ),
        (
            json!([{"on": "crash", "exec": "x", "smtp": "smtp://a"}]),
            "`observe.alerts[0].smtp` belongs to `mail`",
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
    ]);
    for secret in [
        json!({"on": "crash", "webhook": "ftp://s3cret"}),
        json!({"on": "crash", "mail": "a@b", "smtp": "smtp://s3cret@b"}),
    ] {
        let problems = read(&json!([secret])).expect_err("it is wrong");
        assert!(!problems[0].contains("s3cret"), "{problems:?}");
    }
}
