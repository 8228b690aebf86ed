//! The push API of Loki (<https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs>), in the form that all its versions take.

use std::collections::BTreeMap;

use rpm_wire::forward::Destination;
use serde::Serialize;

use super::record::Record;

/// Records that are older, by what they say themselves, have the time at which they were written: Loki takes nothing that is older than a week.
const OLDEST_NS: u64 = 6 * 24 * 3600 * 1_000_000_000;
/// Where it is, of an address without a path.
pub(super) const PATH: &str = "/loki/api/v1/push";

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
    for (record, id) in records.iter().zip(&ids) {
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
        let time_ns = match record.time_ns < now_ns.saturating_sub(OLDEST_NS) {
            true => record.written_ns.max(record.time_ns),
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
    fn what_is_too_old_has_the_time_of_its_write() {
        let day = 24 * 3600 * 1_000_000_000;
        for (age, expected) in [(5 * day, NOW_NS - 5 * day), (7 * day, NOW_NS)] {
            let old = record(&format!(r#"{{"time":{},"msg":"x"}}"#, NOW_NS - age));
            let text = body(&[&old], &destination("loki"), "box", NOW_NS);
            let value: Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(value["streams"][0]["values"][0][0], expected.to_string());
        }
    }
}
