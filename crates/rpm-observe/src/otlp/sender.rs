//! Requests to the receiver, and what its answers mean.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use rpm_wire::forward::Http;
use serde_json::Value;

use super::counts::Count;
use crate::post::{Answer, Client, Letter, Target};

/// Time for the receiver to take a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES: usize = 64 << 10;
/// Pauses after failures in a row: the first, the longest, and the longest that a receiver may ask for.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(30),
    Duration::from_secs(300),
];

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done with, and was counted.
    Settled,
    /// It may go well after this time.
    Later(Duration),
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    /// All but so many were taken.
    Taken { rejected: u64 },
    /// None of it will ever be taken.
    Refused,
    /// It may be taken later; and the time that the receiver asks for.
    Later(Option<Duration>),
}

/// Posts one signal to its receiver.
#[derive(Debug)]
pub(super) struct Sender {
    /// What is sent.
    what: &'static str,
    /// An error if the address is none.
    client: Result<Client, String>,
    headers: Vec<(String, String)>,
    /// What may be shown of the address.
    shown: String,
    count: Arc<Count>,
    failures: u32,
    dice: RandomState,
    /// What was said last; a receiver that is away is said once.
    said: Option<String>,
}

impl Sender {
    pub(super) fn new(what: &'static str, to: Http, count: Arc<Count>) -> Sender {
        let target = Target::new(&to.url, "/");
        Sender {
            what,
            client: target.map(Client::new).map_err(|error| error.to_string()),
            shown: to.shown(),
            headers: to.headers.into_iter().collect(),
            count,
            failures: 0,
            dice: RandomState::new(),
            said: None,
        }
    }

    /// Says it, unless it was said last.
    pub(super) fn complain(&mut self, why: String) {
        if self.said.as_ref() != Some(&why) {
            eprintln!("otlp: {} to {}: {why}", self.what, self.shown);
        }
        self.said = Some(why);
    }

    /// What was not taken in time is given up.
    pub(super) fn drop_late(&self, items: u64) {
        self.count.add_dropped(items);
    }

    /// Posts a body with so many items.
    pub(super) async fn send(&mut self, body: Bytes, items: u64) -> Verdict {
        let answer = match &mut self.client {
            Ok(client) => {
                let letter = Letter {
                    content_type: "application/json",
                    headers: &self.headers,
                    body,
                    answer_bytes: ANSWER_BYTES,
                };
                client
                    .post(letter, ANSWER_WITHIN)
                    .await
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(error.clone()),
        };
        let (meaning, why) = match &answer {
            // What a receiver says may repeat header fields, so that only its status is shown.
            Ok(answer) => (meaning(answer), format!("it answered {}", answer.status)),
            Err(error) => (Meaning::Later(None), error.clone()),
        };
        match meaning {
            Meaning::Taken { rejected } => {
                let rejected = rejected.min(items);
                self.count.add_sent(items - rejected);
                self.count.add_dropped(rejected);
                self.failures = 0;
                match rejected {
                    0 => self.recovered(),
                    _ => self.complain("it does not take all".to_owned()),
                }
                Verdict::Settled
            }
            Meaning::Refused => {
                self.count.add_dropped(items);
                self.failures = 0;
                self.complain(format!("{why}: what it refuses is dropped"));
                Verdict::Settled
            }
            Meaning::Later(asked) => {
                self.count.add_failure();
                let roll = (self.dice.hash_one(self.failures) >> 32) as f64 / f64::from(u32::MAX);
                let pause = pause(self.failures, asked, roll);
                self.failures = self.failures.saturating_add(1);
                self.complain(format!("{why}; it is tried again"));
                Verdict::Later(pause)
            }
        }
    }

    fn recovered(&mut self) {
        if self.said.take().is_some() {
            eprintln!("otlp: {} to {}: they are taken again", self.what, self.shown);
        }
    }
}

/// A pause after so many failures before: twice as long each time, shortened at random so that many do not come back together. What the receiver
/// asks for is the least.
fn pause(failures: u32, asked: Option<Duration>, dice: f64) -> Duration {
    let [first, longest, asked_most] = PAUSES;
    let full = first.saturating_mul(1 << failures.min(10)).min(longest);
    let pause = full.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0);
    pause.max(asked.unwrap_or_default().min(asked_most))
}

/// Only what says that the body is wrong is final: a wrong address or token is put right.
fn meaning(answer: &Answer) -> Meaning {
    match answer.status {
        status if status.is_success() => Meaning::Taken {
            rejected: rejected(&answer.body),
        },
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Meaning::Refused
        }
        _ => Meaning::Later(answer.retry_after),
    }
}

/// How many items a receiver that has taken a request has rejected (`partialSuccess`).
fn rejected(body: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    let of = |key: &str| {
        let value = &partial[key];
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    };
    of("rejectedSpans")
        .or_else(|| of("rejectedDataPoints"))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_go_well_later_is_tried_again() {
        let answer = |status: u16, body: &'static str| Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            retry_after: (status == 429).then_some(Duration::from_secs(7)),
            body: Bytes::from_static(body.as_bytes()),
        };
        for (status, body, expected) in [
            (200, "{}", Meaning::Taken { rejected: 0 }),
            (200, "", Meaning::Taken { rejected: 0 }),
            (200, r#"{"partialSuccess":{}}"#, Meaning::Taken { rejected: 0 }),
            (
                200,
                r#"{"partialSuccess":{"rejectedSpans":"3"}}"#,
                Meaning::Taken { rejected: 3 },
            ),
            (
                202,
                r#"{"partialSuccess":{"rejectedDataPoints":4}}"#,
                Meaning::Taken { rejected: 4 },
            ),
            (400, "", Meaning::Refused),
            (413, "", Meaning::Refused),
            (422, "", Meaning::Refused),
            (301, "", Meaning::Later(None)),
            (401, "", Meaning::Later(None)),
            (404, "", Meaning::Later(None)),
            (429, "", Meaning::Later(Some(Duration::from_secs(7)))),
            (503, "", Meaning::Later(None)),
        ] {
            assert_eq!(meaning(&answer(status, body)), expected, "{status} {body}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let seconds = |failures, asked: Option<u64>, dice| {
            pause(failures, asked.map(Duration::from_secs), dice).as_secs_f64()
        };
        for (failures, asked, dice, expected) in [
            (0, None, 1.0, 1.0),
            (0, None, 0.0, 0.5),
            (3, None, 1.0, 8.0),
            (u32::MAX, None, 1.0, 30.0),
            (0, Some(7), 1.0, 7.0),
            (0, Some(100_000), 1.0, 300.0),
        ] {
            assert!(
                (seconds(failures, asked, dice) - expected).abs() < 1e-9,
                "{failures} {asked:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_wrong_address_is_no_panic_and_counted() {
        let to = Http {
            url: "/no/host".to_owned(),
            headers: [].into(),
        };
        let count = Arc::new(Count::default());
        let mut sender = Sender::new("spans", to, Arc::clone(&count));
        let verdict = sender.send(Bytes::new(), 3).await;
        assert!(matches!(verdict, Verdict::Later(_)), "{verdict:?}");
        assert_eq!(count.failures.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(
            sender.said.as_deref(),
            Some("not an address: it has no host; it is tried again")
        );
    }
}
