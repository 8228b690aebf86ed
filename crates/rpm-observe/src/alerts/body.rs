//! Messages as the receivers of webhooks want them, and as people read them.

use rpm_wire::alerts::Shape;
use serde_json::{Value, json};

use super::message::{Message, State};

/// The longest text of one message in bytes: receivers refuse longer ones.
const LONGEST: usize = 1_500;
/// The most messages that are told one by one; of more, the number is told.
const MOST: usize = 20;

/// One message in words: `[host] api 2: crashed with exit code 1 (3 times)`.
pub(crate) fn line(message: &Message, host: &str) -> String {
    let whom = match (&message.app, message.id) {
        (Some(app), Some(id)) => format!("{app} {id}: "),
        (Some(app), None) => format!("{app}: "),
        (None, _) => String::new(),
    };
    let state = match message.state {
        State::Fired => "",
        State::Recovered => "recovered: ",
        State::Test => "test: ",
    };
    let count = match message.count {
        0 | 1 => String::new(),
        count => format!(" ({count} times since the last message)"),
    };
    let (first, rest) = message.text.split_once('\n').unwrap_or((&message.text, ""));
    let mut text = format!("[{host}] {state}{whom}{first}{count}");
    if !rest.is_empty() {
        text.push('\n');
        text.push_str(rest);
    }
    clipped(&text, LONGEST)
}

/// At most so many bytes, and whole characters.
pub(crate) fn clipped(text: &str, bytes: usize) -> String {
    match text.len() <= bytes {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(bytes)]),
    }
}

/// All of them in words.
pub(crate) fn lines(messages: &[Message], host: &str) -> String {
    let mut lines: Vec<String> = messages
        .iter()
        .take(MOST)
        .map(|message| line(message, host))
        .collect();
    if messages.len() > MOST {
        lines.push(format!("[{host}] and {} more", messages.len() - MOST));
    }
    lines.join("\n")
}

/// The bodies of the requests that tell these messages: one, except for PagerDuty, where each is an incident of its own.
pub(crate) fn bodies(shape: Shape, key: Option<&str>, messages: &[Message], host: &str) -> Vec<Value> {
    match shape {
        Shape::Json => vec![json!({"host": host, "text": lines(messages, host), "messages": messages})],
        // https://api.slack.com/reference/surfaces/formatting: these three are escaped.
        Shape::Slack => vec![json!({"text": slack(&lines(messages, host))})],
        // https://discord.com/developers/docs/resources/webhook: at most 2,000 characters; nobody is to be mentioned by what an app prints.
        Shape::Discord => {
            let text = clipped(&lines(messages, host), 1_900);
            vec![json!({"content": text, "allowed_mentions": {"parse": []}})]
        }
        // https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors: a message with an adaptive card.
        Shape::Teams => {
            let text = clipped(&lines(messages, host), 20_000).replace('\n', "\n\n");
            vec![json!({
                "type": "message",
                "attachments": [{
                    "contentType": "application/vnd.microsoft.card.adaptive",
                    "content": {
                        "type": "AdaptiveCard", "version": "1.4",
                        "body": [{"type": "TextBlock", "text": text, "wrap": true}],
                    },
                }],
            })]
        }
        Shape::Pagerduty => {
            let key = key.unwrap_or_default();
            messages
                .iter()
                .map(|message| incident(key, message, host))
                .collect()
        }
    }
}

/// The bodies that a template makes of these messages, one each.
///
/// # Errors
/// It is not JSON. It was when its file was read.
pub(crate) fn templated(template: &str, messages: &[Message], host: &str) -> serde_json::Result<Vec<Value>> {
    let template: Value = serde_json::from_str(template)?;
    Ok(messages
        .iter()
        .map(|message| {
            let mut body = template.clone();
            let text = line(message, host);
            fill(&mut body, &|name| {
                Some(match name {
                    "text" => &text,
                    "app" => message.app.as_deref().unwrap_or_default(),
                    "on" => message.on.name(),
                    "state" => message.state.name(),
                    "host" => host,
                    _ => return None,
                })
            });
            body
        })
        .collect())
}

/// Fills in words in braces. What is filled in is not looked at again.
fn fill<'v>(value: &mut Value, of: &dyn Fn(&str) -> Option<&'v str>) {
    match value {
        Value::String(text) => {
            let (mut filled, mut rest) = (String::new(), text.as_str());
            while let Some((before, behind)) = rest.split_once('{') {
                filled.push_str(before);
                let named = behind.split_once('}');
                match named.and_then(|(name, behind)| Some((of(name)?, behind))) {
                    Some((value, behind)) => {
                        filled.push_str(value);
                        rest = behind;
                    }
                    None => {
                        filled.push('{');
                        rest = behind;
                    }
                }
            }
            filled.push_str(rest);
            *text = filled;
        }
        Value::Array(list) => list.iter_mut().for_each(|value| fill(value, of)),
        Value::Object(fields) => fields.values_mut().for_each(|value| fill(value, of)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// <https://developer.pagerduty.com/docs/events-api-v2/trigger-events/>
fn incident(key: &str, message: &Message, host: &str) -> Value {
    let app = message.app.as_deref().unwrap_or("rpm");
    let id = message.id.map_or_else(String::new, |id| format!(" {id}"));
    let action = match message.state {
        State::Fired | State::Test => "trigger",
        State::Recovered => "resolve",
    };
    let test = if message.state == State::Test { " test" } else { "" };
    let text = line(message, host);
    let summary = clipped(text.lines().next().unwrap_or_default(), 1_000);
    json!({
        "routing_key": key,
        "event_action": action,
        // Two rules about the same must not resolve each other, and a test no incident.
        "dedup_key": format!("rpm {host} {} {} {app}{id}{test}", message.key, message.on.name()),
        "payload": {
            "summary": summary,
            "source": host,
            "severity": if message.state == State::Test { "info" } else { "error" },
            "component": app,
            "custom_details": message,
        },
    })
}

fn slack(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use rpm_wire::alerts::Trigger;

    use super::*;

    fn message(state: State, text: &str, count: u32) -> Message {
        Message {
            rule: 0,
            key: "k0".to_owned(),
            on: Trigger::Crash,
            state,
            app: Some("api".to_owned()),
            id: Some(2),
            text: text.to_owned(),
            count,
            at_ms: 1,
        }
    }

    #[test]
    fn messages_in_words() {
        for (message, expected) in [
            (message(State::Fired, "crashed", 1), "[h] api 2: crashed"),
            (
                message(State::Fired, "crashed\n  | Error", 3),
                "[h] api 2: crashed (3 times since the last message)\n  | Error",
            ),
            (
                message(State::Recovered, "ready", 1),
                "[h] recovered: api 2: ready",
            ),
        ] {
            assert_eq!(line(&message, "h"), expected);
        }
        let long = line(&message(State::Fired, &"ö".repeat(5_000), 1), "h");
        assert!(long.len() < LONGEST + 8 && long.ends_with('…'), "{}", long.len());
        let many = vec![message(State::Fired, "crashed", 1); 25];
        assert!(lines(&many, "h").ends_with("[h] and 5 more"));
    }

    #[test]
    fn each_receiver_gets_its_form() {
        let messages = [
            message(State::Fired, "<!channel> & co", 1),
            // Other rules have come before it meanwhile.
            Message {
                rule: 3,
                ..message(State::Recovered, "ready", 1)
            },
        ];
        let body = |shape| bodies(shape, Some("k"), &messages, "h");
        assert_eq!(body(Shape::Json)[0]["messages"][1]["state"], "recovered");
        assert!(
            body(Shape::Slack)[0]["text"]
                .as_str()
                .expect("text")
                .contains("&lt;!channel&gt; &amp; co")
        );
        assert_eq!(body(Shape::Discord)[0]["allowed_mentions"]["parse"], json!([]));
        let card = &body(Shape::Teams)[0]["attachments"][0]["content"]["body"][0]["text"];
        assert!(card.as_str().expect("text").contains("recovered: api 2: ready"));
        let incidents = body(Shape::Pagerduty);
        assert_eq!(incidents.len(), 2);
        assert_eq!(incidents[0]["event_action"], "trigger");
        assert_eq!(incidents[1]["event_action"], "resolve");
        assert_eq!(incidents[0]["dedup_key"], incidents[1]["dedup_key"]);
        assert_eq!(incidents[0]["routing_key"], "k");
    }

    #[test]
    fn a_template_is_filled_in() {
        let template = r#"{"a": ["{text}", "{app}-{on} {{state}} {host"], "{app}": 1}"#;
        let messages = [
            message(State::Fired, "said \"{host}\"\n\\", 1),
            message(State::Recovered, "ready", 1),
        ];
        let bodies = templated(template, &messages, "h").expect("JSON");
        let expected =
            json!({"a": ["[h] api 2: said \"{host}\"\n\\", "api-crash {fired} {host"], "{app}": 1});
        assert_eq!(bodies, [expected, bodies[1].clone()]);
        assert_eq!(bodies[1]["a"][1], "api-crash {recovered} {host");
    }
}
