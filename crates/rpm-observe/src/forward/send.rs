//! Requests to receivers, and what their answers mean.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use hyper::{StatusCode, header};
use rpm_wire::forward::{Destination, Http, Receiver};

use super::delivery::Outcome;
use super::record::Record;
use super::secrets::Secrets;
use super::{elastic, journald, loki, now_ns, otlp, syslog};
use crate::post::{Answer, Client, Letter, Target, Unsent};

/// Time for a receiver to take a batch.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes: what Elasticsearch says of a thousand records that it does not take.
const ANSWER_BYTES: usize = 4 << 20;
/// So much of what a receiver says is shown, in characters.
const SHOWN: usize = 300;
/// So much of it is searched for secrets before it is cut, in bytes.
const SEARCHED: usize = 1 << 16;
/// Sends records to one destination.
#[derive(Debug)]
pub(super) struct Sender {
    destination: Destination,
    host: String,
    /// Of receivers that speak HTTP; an error if the address is none.
    client: Option<Result<Client, String>>,
    headers: Vec<(String, String)>,
    secrets: Secrets,
}

impl Sender {
    pub(super) fn new(destination: Destination, host: String) -> Sender {
        let (http, path) = match &destination.to {
            Receiver::Loki(http) => (Some(http), loki::PATH),
            Receiver::Otlp(http) => (Some(http), otlp::PATH),
            Receiver::Elasticsearch { http, .. } => (Some(http), elastic::PATH),
            Receiver::Syslog(_) | Receiver::Journald(_) => (None, ""),
        };
        let client = |http: &Http| {
            let target = Target::new(&http.url, path);
            target.map(Client::new).map_err(|error| error.to_string())
        };
        let headers = http.map(|http| http.headers.clone().into_iter());
        let coding = destination
            .gzip
            .then(|| (header::CONTENT_ENCODING.as_str().to_owned(), "gzip".to_owned()));
        Sender {
            secrets: http.map(Secrets::of).unwrap_or_default(),
            client: http.map(client),
            headers: headers.into_iter().flatten().chain(coding).collect(),
            host,
            destination,
        }
    }

    /// Sends them, and returns what became of them.
    pub(super) async fn send(&mut self, records: &[&Record]) -> Outcome {
        let (destination, host) = (&self.destination, self.host.as_str());
        let (body, content_type) = match &destination.to {
            Receiver::Loki(_) => (
                loki::body(records, destination, host, now_ns()),
                "application/json",
            ),
            Receiver::Otlp(_) => (otlp::body(records, destination, host), "application/json"),
            Receiver::Elasticsearch { index, .. } => {
                let body = elastic::body(records, destination, host, index);
                (body, "application/x-ndjson")
            }
            Receiver::Syslog(to) => {
                let messages = records
                    .iter()
                    .map(|record| syslog::message(record, destination, host));
                return syslog::send(to, &messages.collect::<Vec<_>>()).await;
            }
            Receiver::Journald(path) => {
                let messages = records
                    .iter()
                    .map(|record| journald::message(record, destination));
                return journald::send(path, &messages.collect::<Vec<_>>()).await;
            }
        };
        let body = match destination.gzip {
            true => gzip(&body),
            false => body,
        };
        let client = match &mut self.client {
            Some(Ok(client)) => client,
            Some(Err(error)) => return later(error.clone(), None),
            None => return later("it has no address".to_owned(), None),
        };
        let letter = Letter {
            content_type,
            headers: &self.headers,
            body: Bytes::from(body),
            answer_bytes: ANSWER_BYTES,
        };
        match client.post(letter, ANSWER_WITHIN).await {
            Ok(answer) => outcome(&destination.to, &answer, records.len(), &self.secrets),
            Err(error @ Unsent::Late(_)) => Outcome::Slow {
                taken: 0,
                why: error.to_string(),
            },
            Err(error) => later(error.to_string(), None),
        }
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut coder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let _ = coder.write_all(body);
    coder.finish().unwrap_or_default()
}

fn later(why: String, after: Option<Duration>) -> Outcome {
    Outcome::Later { why, after }
}

/// What an answer means. Only what says that the records are wrong, or too long together, is not simply tried again: a wrong address or token is put
/// right, and no line may be missing then.
fn outcome(to: &Receiver, answer: &Answer, sent: usize, secrets: &Secrets) -> Outcome {
    let said = || {
        let text = shown(&answer.body, secrets);
        match text.is_empty() {
            true => format!("it answered {}", answer.status),
            false => format!("it answered {}: {text}", answer.status),
        }
    };
    match answer.status {
        status if status.is_success() && !answer.is_whole => {
            later(format!("it answered {status} and more than is read"), None)
        }
        status if status.is_success() => match to {
            Receiver::Elasticsearch { .. } => masked(elastic::outcome(&answer.body, sent), secrets),
            Receiver::Otlp(_) => masked(otlp::outcome(&answer.body, sent), secrets),
            Receiver::Loki(_) => loki::outcome(&answer.body),
            Receiver::Syslog(_) | Receiver::Journald(_) => Outcome::Taken,
        },
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Outcome::Refused(said())
        }
        _ => later(said(), answer.retry_after),
    }
}

/// What a receiver says of single records is shown as everything else.
fn masked(outcome: Outcome, secrets: &Secrets) -> Outcome {
    match outcome {
        Outcome::Partly { again, refused, why } => Outcome::Partly {
            again,
            refused,
            why: shown(why.as_bytes(), secrets),
        },
        Outcome::Doubtful(why) => Outcome::Doubtful(shown(why.as_bytes(), secrets)),
        other => other,
    }
}

/// The beginning of what a receiver says, on one line and without secrets, which it may repeat.
fn shown(body: &[u8], secrets: &Secrets) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SEARCHED)]);
    let text = secrets.hide(text.split_whitespace().collect::<Vec<_>>().join(" "));
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(SHOWN)
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use rpm_wire::forward::Syslog;

    use super::*;

    pub(in super::super) fn destination(kind: &str) -> Destination {
        let http = Http {
            url: "http://127.0.0.1:9".to_owned(),
            headers: BTreeMap::new(),
        };
        Destination {
            name: kind.to_owned(),
            to: match kind {
                "loki" => Receiver::Loki(http),
                "otlp" => Receiver::Otlp(http),
                "elasticsearch" => Receiver::Elasticsearch {
                    http,
                    index: "logs".to_owned(),
                },
                _ => Receiver::Syslog(Syslog::Udp("127.0.0.1:9".to_owned())),
            },
            apps: Vec::new(),
            labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            from_end: false,
            gzip: false,
        }
    }

    #[test]
    fn an_answer_that_was_not_read_to_its_end_says_nothing() {
        for (kind, body) in [
            ("loki", ""),
            ("otlp", "{}"),
            (
                "elasticsearch",
                r#"{"errors":false,"items":[{"create":{"status":201}}]}"#,
            ),
        ] {
            let outcome_of = |is_whole: bool| {
                let answer = Answer {
                    status: StatusCode::OK,
                    retry_after: None,
                    body: Bytes::from_static(body.as_bytes()),
                    is_whole,
                };
                outcome(&destination(kind).to, &answer, 1, &Secrets::default())
            };
            assert_eq!(outcome_of(true), Outcome::Taken, "{kind}");
            assert!(matches!(outcome_of(false), Outcome::Later { .. }), "{kind}");
        }
    }

    #[test]
    fn what_may_go_well_later_is_never_given_up() {
        let secrets = Secrets::of(&Http {
            url: "http://a.test/".to_owned(),
            headers: BTreeMap::from([("authorization".to_owned(), "Bearer s3cret".to_owned())]),
        });
        let answer = |status: u16, body: &'static str| Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            retry_after: (status == 429).then_some(Duration::from_secs(7)),
            body: Bytes::from_static(body.as_bytes()),
            is_whole: body.len() < 1_000,
        };
        let outcome_of = |status, body| outcome(&destination("loki").to, &answer(status, body), 3, &secrets);
        assert_eq!(outcome_of(204, ""), Outcome::Taken);
        let long: &'static str = "x".repeat(1_000).leak();
        for answer in ["<!doctype html>", "ok", long] {
            let outcome = outcome_of(200, answer);
            assert!(
                matches!(outcome, Outcome::Later { .. }),
                "{outcome:?}: it is not Loki"
            );
        }
        for status in [301, 401, 403, 404, 429, 500, 502, 503] {
            let expected = (status == 429).then_some(Duration::from_secs(7));
            let outcome = outcome_of(status, "");
            assert!(
                matches!(outcome, Outcome::Later { after, .. } if after == expected),
                "{status}"
            );
        }
        for status in [400, 413, 422] {
            let Outcome::Refused(why) = outcome_of(status, "entry for\n Bearer s3cret\u{1b} too old") else {
                panic!("{status} is final");
            };
            assert!(why.ends_with("entry for … too old"), "{why}");
        }
        let bulk = r#"{"errors":true,"items":[{"create":{"status":400,"error":{"reason":"token s3cret\u001b\nis\tbad"}}}]}"#;
        let otlp =
            r#"{"partialSuccess":{"rejectedLogRecords":1,"errorMessage":"token s3cret\u001b\nis\tbad"}}"#;
        for (kind, body) in [("elasticsearch", bulk), ("otlp", otlp)] {
            let Outcome::Doubtful(why) = outcome(&destination(kind).to, &answer(200, body), 1, &secrets)
            else {
                panic!("{kind} refuses one");
            };
            assert_eq!(why, "token … is bad", "{kind}");
        }
        let long = shown("x ".repeat(9_000).as_bytes(), &secrets);
        assert_eq!(long.chars().count(), SHOWN);
    }
}
