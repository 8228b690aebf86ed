//! `GET /api/v1/receivers` of `rpm observe`: who gets logs, alerts, metrics and spans, and whether they take them. `rpm observe status` shows it.

use serde::{Deserialize, Serialize};

/// The path.
pub const RECEIVERS_PATH: &str = "/api/v1/receivers";

/// What a receiver gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sent {
    /// Lines that apps write.
    Logs,
    /// Messages of alerts.
    Alerts,
    /// Data points.
    Metrics,
    /// Spans of the proxy.
    Traces,
}

impl Sent {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Sent::Logs => "logs",
            Sent::Alerts => "alerts",
            Sent::Metrics => "metrics",
            Sent::Traces => "traces",
        }
    }
}

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Going {
    /// There is nothing to send.
    Idle,
    /// It takes what there is.
    Sending,
    /// The last attempt failed; the next one is at `retry_at_ms`.
    Waiting,
    /// It refused something for good, which was given up.
    Refused,
}

impl Going {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Going::Idle => "idle",
            Going::Sending => "sending",
            Going::Waiting => "waiting",
            Going::Refused => "refused",
        }
    }
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What, without secrets.
    pub why: String,
}

/// A receiver. Times are in milliseconds since the Unix epoch; counts begin with the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiving {
    /// What it gets.
    pub what: Sent,
    /// The name of a destination of logs, and otherwise the address.
    pub name: String,
    /// The address, without what may be secret.
    pub to: String,
    /// How it goes.
    pub state: Going,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<u64>,
    /// Bytes of logs that it has not taken yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_bytes: Option<u64>,
    /// Messages of alerts that it has not taken yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_messages: Option<u64>,
    /// Lines, messages, data points or spans that it has taken.
    pub taken: u64,
    /// Those that were given up.
    pub given_up: u64,
    /// When it took something last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_taken_ms: Option<u64>,
    /// What went wrong last, since it took something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}
