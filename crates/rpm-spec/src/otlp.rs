//! `observe.otlp` of a file: where metrics and spans are sent.

use rpm_wire::otlp::{INTERVALS_MS, Otlp};
use serde_json::{Map, Value};

use crate::ecosystem::{shown, unknown};
use crate::forward::Reader;
use crate::units::time;
use crate::values::switch;

/// Its keys.
const KEYS: [&str; 5] = ["url", "headers", "metrics", "traces", "interval"];
const PLACE: &str = "observe.otlp";

/// Reads the value of the key, which is not null.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub(crate) fn read(value: &Value) -> Result<Otlp, Vec<String>> {
    match value {
        Value::Object(fields) => of_object(fields),
        // It may be an address, which can be a secret.
        _ => Err(vec![format!(
            "`{PLACE}` must be an object, such as {{url: \"http://127.0.0.1:4318\"}}"
        )]),
    }
}

fn of_object(fields: &Map<String, Value>) -> Result<Otlp, Vec<String>> {
    let mut reader = Reader {
        place: PLACE,
        fields,
        problems: Vec::new(),
    };
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        reader.problems.push(format!("`{PLACE}`: {}", unknown(key, KEYS)));
    }
    let http = match reader.field("url") {
        Some(_) => reader.http(),
        None if reader.field("headers").is_some() => {
            reader.problems.push(format!(
                "`{PLACE}.headers` are sent to a receiver: name its `url` beside them"
            ));
            None
        }
        // The environment says it.
        None => None,
    };
    let [metrics, traces] = ["metrics", "traces"].map(|key| {
        let read = reader.field(key).map(switch).transpose();
        read.unwrap_or_else(|_| {
            reader.wrong(key, "true or false");
            None
        })
    });
    let interval_ms = interval(&mut reader);
    match reader.problems.is_empty() {
        true => Ok(Otlp {
            http,
            metrics,
            traces,
            interval_ms,
        }),
        false => Err(reader.problems),
    }
}

fn interval(reader: &mut Reader<'_>) -> Option<u64> {
    let value = reader.field("interval")?;
    let read = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => time(text).ok(),
        _ => None,
    };
    let read = read.filter(|ms| INTERVALS_MS.contains(ms));
    if read.is_none() {
        let found = shown(value);
        reader.problems.push(format!(
            "`{PLACE}.interval` must be a time from 500ms to 1d, such as \"60s\", not {found}"
        ));
    }
    read
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_has_a_usual_value() {
        let good = |value: Value| read(&value).expect("it is good");
        let all = good(json!({
            "url": "https://otel.test:4318", "headers": {"Authorization": "Bearer x"}, "metrics": false, "traces": "true", "interval": "10s",
        }));
        let http = all.http.expect("a receiver");
        assert_eq!(
            (http.url.as_str(), http.headers["Authorization"].as_str()),
            ("https://otel.test:4318", "Bearer x")
        );
        assert_eq!(
            (all.metrics, all.traces, all.interval_ms),
            (Some(false), Some(true), Some(10_000))
        );
        let none = good(json!({"url": null, "interval": 500}));
        assert_eq!(none.http, None);
        assert_eq!(
            (none.metrics, none.traces, none.interval_ms),
            (None, None, Some(500))
        );
    }

    #[test]
    fn everything_that_is_wrong_is_said_and_no_secret() {
        for (value, told) in [
            (json!("http://u:s3cret@a"), "`observe.otlp` must be an object"),
            (
                json!({"url": "http://u:s3cret@a"}),
                "`observe.otlp.url` must be an address",
            ),
            (
                json!({"url": "http://a", "headers": ["s3cret"]}),
                "`observe.otlp.headers` must be an object",
            ),
            (json!({"headers": {"a": "s3cret"}}), "name its `url`"),
            (json!({"metric": true}), "did you mean `metrics`?"),
            (
                json!({"traces": "perhaps"}),
                "`observe.otlp.traces` must be true or false",
            ),
            (json!({"interval": "1ms"}), "from 500ms to 1d"),
            (json!({"interval": [1]}), "from 500ms to 1d"),
        ] {
            let problems = read(&value).expect_err("it is wrong");
            let one = problems.len() == 1 && problems[0].contains(told) && !problems[0].contains("s3cret");
            assert!(one, "{value}: {problems:?}");
        }
    }
}
