//! Requests to the receiver, and what its answers mean.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use rpm_wire::forward::Http;
use serde_json::Value;

use super::counts::Count;
use tokio::time::Instant;

use crate::alerts::now_ms;
use crate::post::{Answer, Client, Letter, Target, Unsent};

/// Time for the receiver to take a request.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
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
    /// It may go well after this pause.
    Later {
        pause: Duration,
        /// The receiver takes nothing, so that it is not about this request.
        is_away: bool,
    },
}

/// How long a request is tried again that a receiver which is there does not take.
const PATIENCE: Duration = Duration::from_secs(600);

/// With one request.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// When it failed first since the receiver was away.
    since: Option<Instant>,
}

impl Patience {
    /// It has failed once more; true if it is to be given up.
    pub(super) fn is_over(&mut self, is_away: bool, now: Instant) -> bool {
        if is_away {
            self.since = None;
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= PATIENCE
    }
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
    /// The same, but nothing is taken now.
    Away(Option<Duration>),
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
        count.standing.is_at(to.shown());
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

    /// What was not taken in time is given up, and counted.
    pub(super) fn drop_late(&self, items: u64) {
        self.count.add_dropped(items);
    }

    /// Posts a body with so many items, which are to be taken within this time.
    pub(super) async fn send(&mut self, body: Bytes, items: u64, within: Duration) -> Verdict {
        let answer = match &mut self.client {
            Ok(client) => {
                let letter = Letter {
                    content_type: "application/json",
                    headers: &self.headers,
                    body,
                    answer_bytes: ANSWER_BYTES,
                };
                client.post(letter, within).await.map_err(|error| match error {
                    Unsent::Late(_) => (Meaning::Later(None), "it did not answer in time".to_owned()),
                    Unsent::Unreachable(_) => (Meaning::Away(None), error.to_string()),
                    _ => (Meaning::Later(None), error.to_string()),
                })
            }
            Err(error) => Err((Meaning::Later(None), error.clone())),
        };
        let (meaning, why) = match answer {
            // What a receiver says may repeat header fields, so that only its status is shown.
            Ok(answer) => (meaning(&answer), format!("it answered {}", answer.status)),
            Err(told) => told,
        };
        let is_away = matches!(meaning, Meaning::Away(_));
        match meaning {
            Meaning::Taken { rejected } => {
                let rejected = rejected.min(items);
                self.count.standing.took(items - rejected, now_ms());
                self.count.add_sent(items - rejected);
                self.count.add_dropped(rejected);
                self.failures = 0;
                match rejected {
                    0 => self.recovered(),
                    _ => self.gives_up(rejected, "it does not take all"),
                }
                Verdict::Settled
            }
            Meaning::Refused => {
                self.count.add_dropped(items);
                self.failures = 0;
                self.gives_up(items, &format!("{why}: what it refuses is dropped"));
                Verdict::Settled
            }
            Meaning::Later(asked) | Meaning::Away(asked) => {
                self.count.add_failure();
                let roll = (self.dice.hash_one(self.failures) >> 32) as f64 / f64::from(u32::MAX);
                let pause = pause(self.failures, asked, roll);
                self.failures = self.failures.saturating_add(1);
                let (now, ms) = (now_ms(), u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                self.count.standing.failed(&why, now, now.saturating_add(ms));
                self.complain(format!("{why}; it is tried again"));
                Verdict::Later { pause, is_away }
            }
        }
    }

    fn gives_up(&mut self, items: u64, why: &str) {
        self.count.standing.gave_up(items, why, now_ms());
        self.complain(why.to_owned());
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

/// What says that the body is wrong, or that none will ever be taken, is final: a wrong address or token is put right. With what OTLP has for it, a
/// receiver says that it is away.
fn meaning(answer: &Answer) -> Meaning {
    match answer.status {
        status if status.is_success() => Meaning::Taken {
            rejected: rejected(&answer.body),
        },
        StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::NOT_IMPLEMENTED => Meaning::Refused,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Meaning::Away(answer.retry_after),
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
            is_whole: true,
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
            (405, "", Meaning::Refused),
            (415, "", Meaning::Refused),
            (501, "", Meaning::Refused),
            (500, "", Meaning::Later(None)),
            (429, "", Meaning::Away(Some(Duration::from_secs(7)))),
            (502, "", Meaning::Away(None)),
            (503, "", Meaning::Away(None)),
            (504, "", Meaning::Away(None)),
        ] {
            assert_eq!(meaning(&answer(status, body)), expected, "{status} {body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_given_up_unless_the_receiver_is_away() {
        let begin = Instant::now();
        let mut patience = Patience::default();
        for (second, is_away, expected) in [
            (0, false, false),
            (599, false, false),
            (600, true, false),
            (5_000, true, false),
            (6_000, false, false),
            (6_599, false, false),
            (6_600, false, true),
        ] {
            let now = begin + Duration::from_secs(second);
            assert_eq!(patience.is_over(is_away, now), expected, "{second} s");
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
        let verdict = sender.send(Bytes::new(), 3, ANSWER_WITHIN).await;
        assert!(
            matches!(verdict, Verdict::Later { is_away: false, .. }),
            "{verdict:?}"
        );
        assert_eq!(count.failures.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(
            sender.said.as_deref(),
            Some("not an address: it has no host; it is tried again")
        );
    }
}
