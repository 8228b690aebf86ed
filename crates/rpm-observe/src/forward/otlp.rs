//! OTLP over HTTP with JSON (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>): the mapping of protobuf, with ids in hexadecimal.

use std::collections::BTreeMap;

use rpm_wire::forward::Destination;
use serde_json::{Map, Value, json};

use super::delivery::Outcome;
use super::record::{Level, Record, Stream};

/// Where it is, of an address without a path.
pub(super) const PATH: &str = "/v1/logs";
/// The most attributes of a record; receivers have bounds of their own.
const ATTRIBUTES: usize = 128;

/// The body: records by the resource that they are of, which is an app or one of its instances.
pub(super) fn body(records: &[&Record], destination: &Destination, host: &str) -> Vec<u8> {
    let mut resources: BTreeMap<(&str, Option<u32>), Vec<Value>> = BTreeMap::new();
    for record in records {
        let records = resources.entry((&record.about.app, record.id)).or_default();
        records.push(record_of(record));
    }
    let resources = resources.into_iter().map(|((app, id), records)| {
        let id = id.map(|id| attribute("service.instance.id", &json!(id.to_string())));
        let fixed = [
            attribute("service.name", &json!(app)),
            attribute("host.name", &json!(host)),
        ];
        let own = destination.labels.iter().map(|(name, value)| attribute(name, &json!(value)));
        let attributes: Vec<Value> = fixed.into_iter().chain(id).chain(own).collect();
        json!({
            "resource": {"attributes": attributes},
            "scopeLogs": [{"scope": {"name": "rpm", "version": env!("CARGO_PKG_VERSION")}, "logRecords": records}],
        })
    });
    let body = json!({"resourceLogs": resources.collect::<Vec<_>>()});
    // A value is always JSON.
    serde_json::to_vec(&body).unwrap_or_default()
}

fn record_of(record: &Record) -> Value {
    let time = record.time_ns.to_string();
    let stream = record.stream.map(|stream| match stream {
        Stream::Out => "stdout",
        Stream::Err => "stderr",
    });
    let mut attributes: Vec<Value> = stream
        .map(|stream| attribute("log.iostream", &json!(stream)))
        .into_iter()
        .collect();
    let mut value = json!({
        "timeUnixNano": time,
        "observedTimeUnixNano": record.written_ns.to_string(),
        "body": {"stringValue": record.message()},
    });
    if let Some(level) = record.level {
        value["severityNumber"] = json!(severity(level));
        value["severityText"] = json!(level.name());
    }
    if record.is_plain_in_otlp() {
        value["body"] = json!({"stringValue": record.text});
    } else if let Some(parsed) = &record.parsed {
        for (key, field, id, digits) in [
            ("traceId", "trace_id", &parsed.trace, 32),
            ("spanId", "span_id", &parsed.span, 16),
        ] {
            match id {
                Some(id) if is_id(id, digits) => value[key] = json!(id.to_ascii_lowercase()),
                Some(id) => attributes.push(attribute(field, &json!(id))),
                None => {}
            }
        }
        let fields = parsed.fields.iter().filter(|(_, value)| !value.is_null());
        attributes.extend(
            fields
                .take(ATTRIBUTES)
                .map(|(name, value)| attribute(name, value)),
        );
    }
    value["attributes"] = Value::Array(attributes);
    value
}

/// Ids that are something else are refused by receivers.
fn is_id(id: &str, digits: usize) -> bool {
    id.len() == digits
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.bytes().any(|byte| byte != b'0')
}

fn severity(level: Level) -> u8 {
    match level {
        Level::Trace => 1,
        Level::Debug => 5,
        Level::Info => 9,
        Level::Warn => 13,
        Level::Error => 17,
        Level::Fatal => 21,
    }
}

fn attribute(key: &str, value: &Value) -> Value {
    json!({"key": key, "value": any_value(value)})
}

/// `AnyValue`: integers are text, as protobuf's JSON has those of 64 bits.
fn any_value(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => json!({"intValue": whole.to_string()}),
            None => json!({"doubleValue": number.as_f64()}),
        },
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(list) => {
            let values: Vec<Value> = list.iter().map(any_value).collect();
            json!({"arrayValue": {"values": values}})
        }
        Value::Object(fields) => {
            let values: Vec<Value> = fields.iter().map(|(key, value)| attribute(key, value)).collect();
            json!({"kvlistValue": {"values": values}})
        }
    }
}

/// What a receiver says that has taken the request. It does not say which records it has rejected, and wants none of them again.
pub(super) fn outcome(answer: &[u8], sent: usize) -> Outcome {
    if answer.trim_ascii().is_empty() {
        return Outcome::Taken;
    }
    let Ok(answer) = serde_json::from_slice::<Map<String, Value>>(answer) else {
        return Outcome::Later {
            why: "what answers is not an OTLP receiver: its answer is not a JSON object".to_owned(),
            after: None,
        };
    };
    let answer = Value::Object(answer);
    let partial = &answer["partialSuccess"];
    let rejected = &partial["rejectedLogRecords"];
    let rejected = rejected
        .as_u64()
        .or_else(|| rejected.as_str()?.parse().ok())
        .unwrap_or(0);
    if rejected == 0 {
        return Outcome::Taken;
    }
    let rejected = usize::try_from(rejected).unwrap_or(sent).min(sent);
    let why = partial["errorMessage"].as_str().unwrap_or("no reason given");
    if rejected == sent {
        return Outcome::Doubtful(why.to_owned());
    }
    Outcome::Partly {
        again: Vec::new(),
        refused: (sent - rejected..sent).collect(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::BATCH_BYTES;
    use super::super::record::tests::{NOW_NS, record};
    use super::super::send::tests::destination;
    use super::*;

    #[test]
    fn a_record_has_what_its_line_says() {
        let line = json!({"level": 40, "msg": "slow", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "x",
            "ms": 12, "ratio": 0.5, "ok": true, "tags": ["a"], "user": {"id": 7}, "none": null});
        let (plain, object) = (record("plain"), record(&line.to_string()));
        let text = body(&[&plain, &object], &destination("otlp"), "box");
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        let resource = &value["resourceLogs"][0];
        let attributes = json!([
            {"key": "service.name", "value": {"stringValue": "api"}},
            {"key": "host.name", "value": {"stringValue": "box"}},
            {"key": "service.instance.id", "value": {"stringValue": "3"}},
            {"key": "env", "value": {"stringValue": "prod"}},
        ]);
        assert_eq!(resource["resource"]["attributes"], attributes);
        let records = resource["scopeLogs"][0]["logRecords"].as_array().expect("a list");
        let now = NOW_NS.to_string();
        let expected = json!({"timeUnixNano": now, "observedTimeUnixNano": now, "body": {"stringValue": "plain"},
            "attributes": [{"key": "log.iostream", "value": {"stringValue": "stdout"}}]});
        assert_eq!(records[0], expected);
        let second = &records[1];
        assert_eq!(second["body"]["stringValue"], "slow");
        assert_eq!(
            (&second["severityNumber"], &second["severityText"]),
            (&json!(13), &json!("warn"))
        );
        assert_eq!(second["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(second.get("spanId"), None);
        let attributes = second["attributes"].as_array().expect("a list");
        for expected in [
            json!({"key": "span_id", "value": {"stringValue": "x"}}),
            json!({"key": "ms", "value": {"intValue": "12"}}),
            json!({"key": "ratio", "value": {"doubleValue": 0.5}}),
            json!({"key": "ok", "value": {"boolValue": true}}),
            json!({"key": "tags", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}}),
            json!({"key": "user", "value": {"kvlistValue": {"values": [{"key": "id", "value": {"intValue": "7"}}]}}}),
        ] {
            assert!(attributes.contains(&expected), "{expected}: {attributes:?}");
        }
        assert_eq!(attributes.len(), 7);
    }

    #[test]
    fn rejected_records_are_counted_and_not_sent_again() {
        for (answer, rejected) in [
            ("{}", 0),
            ("", 0),
            (r#"{"partialSuccess":{}}"#, 0),
            (
                r#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"old"}}"#,
                2,
            ),
            (r#"{"partialSuccess":{"rejectedLogRecords":99}}"#, 3),
        ] {
            let refused = match outcome(answer.as_bytes(), 3) {
                Outcome::Partly { again, refused, .. } if again.is_empty() => refused.len(),
                Outcome::Doubtful(_) => 3,
                other => {
                    assert_eq!(other, Outcome::Taken, "{answer}");
                    0
                }
            };
            assert_eq!(refused, rejected, "{answer}");
        }
        for answer in ["<!doctype html><p>Hello", "ok", "[]", "null"] {
            let outcome = outcome(answer.as_bytes(), 3);
            assert!(matches!(outcome, Outcome::Later { .. }), "{answer}: {outcome:?}");
        }
    }

    #[test]
    fn a_record_that_would_be_too_long_is_sent_as_its_line() {
        let line = json!({"msg": "x", "list": vec![1; 60_000]}).to_string();
        let text = body(&[&record(&line)], &destination("otlp"), "box");
        assert!(text.len() < BATCH_BYTES, "{}", text.len());
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        let sent = &value["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(sent["body"]["stringValue"], line);
        assert_eq!(sent["attributes"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_record_is_observed_when_it_is_written() {
        let claimed = NOW_NS - 3_000_000_000;
        let line = json!({"time": claimed, "msg": "x"}).to_string();
        let sent = record_of(&record(&line));
        assert_eq!(sent["timeUnixNano"], claimed.to_string());
        assert_eq!(sent["observedTimeUnixNano"], NOW_NS.to_string());
    }
}
