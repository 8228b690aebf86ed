//! The push API of Loki (<https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs>), in the form that all its versions take.

use std::collections::BTreeMap;

use rpm_wire::forward::Destination;
use serde::Serialize;

use super::delivery::Outcome;
use super::record::Record;

/// Loki takes nothing that is older than a week. Records that are older than this by what they say themselves have the time at which they were written,
/// and those that were written before it have the oldest time that is taken.
const OLDEST_NS: u64 = 6 * 24 * 3600 * 1_000_000_000;
/// Where it is, of an address without a path.
pub(super) const PATH: &str = "/loki/api/v1/push";

/// What a receiver has done that answers with success: Loki says nothing then.
pub(super) fn outcome(answer: &[u8]) -> Outcome {
    match answer.trim_ascii().is_empty() {
        true => Outcome::Taken,
        false => Outcome::Later {
            why: "what answers is not Loki: it answered with success and a text".to_owned(),
            after: None,
        },
    }
}

#[derive(Serialize)]
struct Push<'r> {
    streams: Vec<Stream<'r>>,
}

#[derive(Serialize)]
struct Stream<'r> {
    stream: BTreeMap<&'r str, &'r str>,
    /// Each a time in nanoseconds and a line.
    values: Vec<(String, &'r str)>,
}

/// The body. Labels are few and have few values: the app, the instance, the stream, the level, the machine, and what the user says. What a line that is
/// JSON says besides is found by `| json`.
pub(super) fn body(records: &[&Record], destination: &Destination, host: &str, now_ns: u64) -> Vec<u8> {
    let own: Vec<(String, &str)> = destination
        .labels
        .iter()
        .map(|(name, value)| (name.replace('.', "_"), value.as_str()))
        .collect();
    let ids: Vec<String> = records
        .iter()
        .map(|record| record.id.map_or_else(String::new, |id| id.to_string()))
        .collect();
    let mut streams: BTreeMap<BTreeMap<&str, &str>, Vec<(String, &str)>> = BTreeMap::new();
    let oldest_ns = now_ns.saturating_sub(OLDEST_NS);
    for (number, (record, id)) in records.iter().zip(&ids).enumerate() {
        let known = [
            ("app", record.about.app.as_str()),
            ("host", host),
            ("id", id.as_str()),
            ("stream", record.stream.map_or("", super::record::Stream::name)),
            ("level", record.level.map_or("", super::record::Level::name)),
        ];
        let known = known.into_iter().filter(|(_, value)| !value.is_empty());
        let own = own.iter().map(|(name, value)| (name.as_str(), *value));
        let values = streams.entry(known.chain(own).collect()).or_default();
        let time_ns = match record.time_ns < oldest_ns {
            // A nanosecond between them: what has the same time, labels and text is stored once.
            true => record.written_ns.max(oldest_ns.saturating_add(number as u64)),
            false => record.time_ns,
        };
        values.push((time_ns.to_string(), record.text.as_str()));
    }
    let streams = streams
        .into_iter()
        .map(|(stream, values)| Stream { stream, values });
    let push = Push {
        streams: streams.collect(),
    };
    // Text and numbers are always JSON.
    serde_json::to_vec(&push).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::record::tests::{NOW_NS, record};
    use super::super::send::tests::destination;
    use super::*;

    #[test]
    fn records_of_the_same_labels_are_one_stream() {
        let (plain, error) = (record("one"), record(r#"{"level":"error","msg":"x"}"#));
        let text = body(&[&plain, &error, &plain], &destination("loki"), "box", NOW_NS);
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        let now = NOW_NS.to_string();
        let expected = json!({"streams": [
            {"stream": {"app": "api", "env": "prod", "host": "box", "id": "3", "stream": "out"}, "values": [[now, "one"], [now, "one"]]},
            {"stream": {"app": "api", "env": "prod", "host": "box", "id": "3", "stream": "out", "level": "error"},
             "values": [[now, "{\"level\":\"error\",\"msg\":\"x\"}"]]},
        ]});
        let sorted = |value: &Value| {
            let mut streams = value["streams"].as_array().expect("a list").clone();
            streams.sort_by_key(ToString::to_string);
            streams
        };
        assert_eq!(sorted(&value), sorted(&expected));
    }

    #[test]
    fn nothing_is_older_than_loki_takes() {
        let day = 24 * 3600 * 1_000_000_000;
        let says = |age: u64| record(&format!(r#"{{"time":{},"msg":"x"}}"#, NOW_NS - age));
        let written = |age: u64, mut record: Record| {
            if record.time_ns == record.written_ns {
                record.time_ns = NOW_NS - age;
            }
            record.written_ns = NOW_NS - age;
            record
        };
        let plain = || record("x");
        let records = [
            says(5 * day),
            says(7 * day),
            written(2 * day, says(7 * day)),
            written(5 * day, plain()),
            written(30 * day, plain()),
            written(30 * day, plain()),
            written(9 * day, says(30 * day)),
        ];
        let text = body(&records.each_ref(), &destination("loki"), "box", NOW_NS);
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        let values = value["streams"][0]["values"].as_array().expect("a list");
        let times: Vec<u64> = values
            .iter()
            .map(|value| {
                value[0]
                    .as_str()
                    .and_then(|time| time.parse().ok())
                    .expect("a time")
            })
            .collect();
        let oldest = NOW_NS - 6 * day;
        let expected = [
            NOW_NS - 5 * day,
            NOW_NS,
            NOW_NS - 2 * day,
            NOW_NS - 5 * day,
            oldest + 4,
            oldest + 5,
            oldest + 6,
        ];
        assert_eq!(times, expected);
    }
}
