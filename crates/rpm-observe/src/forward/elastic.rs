//! The bulk API of Elasticsearch and OpenSearch. Each record has an id that is the same whenever it is sent, so what is sent twice is stored once.

use rpm_wire::forward::Destination;
use serde_json::{Value, json};

use super::delivery::Outcome;
use super::position::hash;
use super::record::{Record, rfc3339};

/// Where it is, of an address without a path.
pub(super) const PATH: &str = "/_bulk";
/// It is stored already.
const CONFLICT: u64 = 409;
/// The document is wrong, or too long, or nothing of its kind can be stored. Everything else can be put right: an index that is missing or closed, rights,
/// load.
const REFUSED: [u64; 3] = [400, 413, 422];
/// Of those, what is about the document itself. Others are also said of every document: an alias, a pipeline or a template is wrong.
const OF_DOCUMENT: [&str; 3] = [
    "mapper_parsing_exception",
    "document_parsing_exception",
    "max_bytes_length_exceeded_exception",
];
/// Of those with 400, what is never about the document: the index is closed, or none can be made because there are too many.
const NOT_NOW: [&str; 2] = ["index_closed_exception", "validation_exception"];

/// The body: two lines for each record, the second by the names of the Elastic Common Schema. Fields of a program's own would be mapped to types, and
/// the next program's refused, so a line that is JSON is in `event.original`.
pub(super) fn body(records: &[&Record], destination: &Destination, host: &str, index: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        let id = id_of(record, host);
        let action = json!({"create": {"_index": index, "_id": id}});
        let mut document = json!({
            "@timestamp": rfc3339(record.time_ns),
            "message": record.message(),
            "service": {"name": record.about.app},
            "host": {"name": host},
        });
        if let Some(id) = record.id {
            document["service"]["node"] = json!({"name": id.to_string()});
        }
        if let Some(level) = record.level {
            document["log"]["level"] = json!(level.name());
        }
        if let Some(stream) = record.stream {
            document["log"]["iostream"] = json!(stream.name());
        }
        if !destination.labels.is_empty() {
            document["labels"] = json!(destination.labels);
        }
        if let Some(parsed) = &record.parsed {
            document["event"] = json!({"original": record.text});
            for (name, id) in [("trace", &parsed.trace), ("span", &parsed.span)] {
                if let Some(id) = id {
                    document[name] = json!({"id": id});
                }
            }
        }
        for value in [action, document] {
            body.extend_from_slice(value.to_string().as_bytes());
            body.push(b'\n');
        }
    }
    body
}

/// Of the machine, the file and the place, and of the text: a record that is assembled again may be longer.
fn id_of(record: &Record, host: &str) -> String {
    let text = hash(format!("{host}\0{}", record.text).as_bytes());
    format!("{:016x}-{:x}-{text:016x}", record.key.0, record.key.1)
}

/// What became of each record.
pub(super) fn outcome(answer: &[u8], sent: usize) -> Outcome {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else {
        return later("its answer is not JSON");
    };
    if answer["errors"] == json!(false) {
        return Outcome::Taken;
    }
    let Some(items) = answer["items"].as_array().filter(|items| items.len() == sent) else {
        return later("its answer does not say what became of the records");
    };
    let (mut again, mut refused, mut unclear, mut why) = (Vec::new(), Vec::new(), Vec::new(), None);
    for (number, item) in items.iter().enumerate() {
        let item = &item["create"];
        let kind = &item["error"];
        match item["status"].as_u64() {
            Some(200..=299 | CONFLICT) => continue,
            Some(status) if !REFUSED.contains(&status) || is_one_of(kind, &NOT_NOW) => again.push(number),
            Some(_) if is_one_of(kind, &OF_DOCUMENT) => refused.push(number),
            Some(_) => unclear.push(number),
            None => again.push(number),
        }
        why.get_or_insert_with(|| {
            let reason = item["error"]["reason"].as_str().or(item["error"].as_str());
            reason.unwrap_or("no reason given").to_owned()
        });
    }
    let Some(why) = why else {
        return Outcome::Taken;
    };
    let has_taken = again.len() + refused.len() + unclear.len() < sent;
    match (has_taken, again.is_empty()) {
        _ if unclear.is_empty() => Outcome::Partly { again, refused, why },
        // Others were taken, so it is about these.
        (true, _) => {
            refused.append(&mut unclear);
            refused.sort_unstable();
            Outcome::Partly { again, refused, why }
        }
        (false, true) => Outcome::Doubtful(why),
        (false, false) => Outcome::Partly {
            again: (0..sent).collect(),
            refused: Vec::new(),
            why,
        },
    }
}

/// True if the error, or what has caused it, is one of these.
fn is_one_of(error: &Value, kinds: &[&str]) -> bool {
    [error, &error["caused_by"]]
        .iter()
        .any(|error| error["type"].as_str().is_some_and(|kind| kinds.contains(&kind)))
}

fn later(why: &str) -> Outcome {
    Outcome::Later {
        why: why.to_owned(),
        after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::super::send::tests::destination;
    use super::*;

    #[test]
    fn each_record_is_an_action_and_a_document() {
        let record = record(r#"{"level":"error","msg":"boom","trace_id":"t","n":1}"#);
        let text = body(&[&record, &record], &destination("elasticsearch"), "box", "logs");
        let lines: Vec<Value> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect();
        assert!(lines.len() == 4 && text.ends_with(b"\n"));
        assert_eq!(
            lines[0],
            json!({"create": {"_index": "logs", "_id": id_of(&record, "box")}})
        );
        let expected = json!({
            "@timestamp": "2026-03-05T13:07:09.000000Z", "message": "boom", "service": {"name": "api", "node": {"name": "3"}}, "host": {"name": "box"},
            "log": {"level": "error", "iostream": "out"}, "labels": {"env": "prod"}, "trace": {"id": "t"}, "event": {"original": record.text},
        });
        assert_eq!(lines[1], expected);
    }

    #[test]
    fn an_id_is_of_one_record_of_one_machine() {
        let known = id_of(&record("one"), "box");
        assert_eq!(id_of(&record("one"), "box"), known);
        let mut elsewhere = record("one");
        elsewhere.key.1 += 1;
        for (other, host) in [
            (record("one"), "other"),
            (record("one\n    at f"), "box"),
            (elsewhere, "box"),
        ] {
            assert_ne!(id_of(&other, host), known, "{host}: {}", other.text);
        }
    }

    #[test]
    fn the_answer_says_what_became_of_each() {
        let items = |statuses: &[u64]| {
            let item = |status: &u64| json!({"create": {"status": status, "error": {"reason": format!("r{status}")}}});
            json!({"errors": true, "items": statuses.iter().map(item).collect::<Vec<_>>()}).to_string()
        };
        let partly = |again: &[usize], refused: &[usize], why: &str| Outcome::Partly {
            again: again.to_vec(),
            refused: refused.to_vec(),
            why: why.to_owned(),
        };
        let error = json!({"type": "index_closed_exception", "reason": "it is closed"});
        let good = json!({"create": {"status": 201}});
        let closed =
            json!({"errors": true, "items": [{"create": {"status": 400, "error": error}}, good, good]});
        let closed = closed.to_string();
        let wrong = |error: &Value| json!({"create": {"status": 400, "error": error}});
        let parsing = wrong(&json!({"type": "document_parsing_exception", "reason": "not a date"}));
        let immense = json!({"type": "illegal_argument_exception", "reason": "immense term",
            "caused_by": {"type": "max_bytes_length_exceeded_exception"}});
        let of_documents = json!({"errors": true, "items": [parsing, wrong(&immense), parsing]}).to_string();
        for (answer, expected) in [
            (r#"{"errors":false}"#.to_owned(), Outcome::Taken),
            (items(&[201, 409, 201]), Outcome::Taken),
            (items(&[201, 429, 503]), partly(&[1, 2], &[], "r429")),
            (items(&[400, 201, 429]), partly(&[2], &[0], "r400")),
            (items(&[413, 422, 201]), partly(&[], &[0, 1], "r413")),
            (items(&[401, 403, 404]), partly(&[0, 1, 2], &[], "r401")),
            (closed, partly(&[0], &[], "it is closed")),
            // Nothing was taken: it may be the pipeline.
            (items(&[400, 400, 400]), Outcome::Doubtful("r400".to_owned())),
            (items(&[400, 429, 400]), partly(&[0, 1, 2], &[], "r400")),
            (of_documents, partly(&[], &[0, 1, 2], "not a date")),
        ] {
            assert_eq!(outcome(answer.as_bytes(), 3), expected, "{answer}");
        }
        for answer in ["", "[]", r#"{"errors":true,"items":[]}"#] {
            assert!(
                matches!(outcome(answer.as_bytes(), 3), Outcome::Later { .. }),
                "{answer}"
            );
        }
    }
}
