//! How many bytes a record takes in a request: receivers, and proxies before them, have bounds.

use rpm_wire::forward::Receiver;
use serde_json::Value;

use super::batch::BATCH_BYTES;
use super::record::Record;

/// What stands around a record, about: times, names, level, ids.
const AROUND: usize = 250;
/// What stands around the name and the value of an attribute of OTLP, and around values of each type.
const ATTRIBUTE: usize = 20;
const TEXT: usize = 20;
const LIST: usize = 32;

impl Record {
    /// About how many bytes it takes in a request to this receiver.
    pub(super) fn size(&self, to: &Receiver) -> usize {
        let text = escaped(&self.text);
        let body = match (to, &self.parsed) {
            (Receiver::Otlp(_), _) if self.is_plain_in_otlp() => text,
            (Receiver::Otlp(_), _) => self.otlp_size(),
            // The line as it is, and its message.
            (Receiver::Elasticsearch { .. }, Some(_)) => text + escaped(self.message()),
            (Receiver::Syslog(_) | Receiver::Journald(_), _) => self.text.len(),
            (Receiver::Loki(_) | Receiver::Elasticsearch { .. }, _) => text,
        };
        body + AROUND
    }

    /// True if it would be too long with the fields of its line as attributes, which can be many times as long as the line.
    pub(super) fn is_plain_in_otlp(&self) -> bool {
        self.otlp_size() > BATCH_BYTES
    }

    /// With the fields of its line as attributes.
    fn otlp_size(&self) -> usize {
        let fields = self.parsed.iter().flat_map(|parsed| &parsed.fields);
        let fields = fields.map(|(name, value)| ATTRIBUTE + escaped(name) + any_size(value));
        escaped(self.message()) + fields.sum::<usize>()
    }
}

/// As a text in JSON.
fn escaped(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

/// As an `AnyValue` of OTLP.
fn any_size(value: &Value) -> usize {
    match value {
        Value::Null => 3,
        Value::Bool(_) | Value::Number(_) => TEXT + 20,
        Value::String(text) => TEXT + escaped(text),
        Value::Array(list) => LIST + list.iter().map(any_size).sum::<usize>(),
        Value::Object(fields) => {
            let fields = fields.iter();
            LIST + fields
                .map(|(name, value)| ATTRIBUTE + escaped(name) + any_size(value))
                .sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::record::tests::{NOW_NS, record};
    use super::super::send::tests::destination;
    use super::super::{elastic, loki, otlp};

    #[test]
    fn no_request_is_much_longer_than_its_records_say() {
        let numbers =
            json!({"msg": "x", "list": vec![1; 30_000], "more": {"a": {"b": [true, null, 1.5, "t"]}}});
        let message = json!({"msg": "y".repeat(60_000)});
        for line in [
            "plain".repeat(10_000),
            "\u{1}\"\n".repeat(20_000),
            numbers.to_string(),
            message.to_string(),
            json!({"level": "info", "a": 1, "b": "c"}).to_string(),
        ] {
            let record = record(&line);
            let records = [&record, &record, &record];
            for (kind, written) in [
                ("loki", loki::body(&records, &destination("loki"), "box", NOW_NS)),
                ("otlp", otlp::body(&records, &destination("otlp"), "box")),
                (
                    "elasticsearch",
                    elastic::body(&records, &destination("elasticsearch"), "box", "logs"),
                ),
            ] {
                let size = 3 * record.size(&destination(kind).to);
                let written = written.len();
                assert!(written <= size + 1_000, "{kind}: {written} of {size}");
                assert!(size <= 3 * written, "{kind}: {written} of {size}");
            }
        }
    }
}
