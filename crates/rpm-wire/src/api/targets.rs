//! Requests about some processes: `POST /v1/reset`, `/v1/flush`, `/v1/signal`, `/v1/send`, `/v1/message`.

use serde::{Deserialize, Serialize};

/// `POST /v1/reset`: count restarts from 0. `POST /v1/flush`: empty the log files (no target: of all apps, and the daemon's).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetsRequest {
    /// Names, ids, namespaces, `/patterns/` or `all`.
    pub targets: Vec<String>,
}

/// `POST /v1/signal`: send a signal to the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Names, ids, namespaces, `/patterns/` or `all`.
    pub targets: Vec<String>,
    /// `SIGUSR2`, `usr2` or its number.
    pub signal: String,
}

/// `POST /v1/send`: write a line to the standard input of a process in fork mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// The id, or a name.
    pub target: String,
    /// What is written, without anything added.
    pub line: String,
}

/// `POST /v1/message`: send a message to the programs, over their channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageRequest {
    /// Name, id, namespace, `/pattern/` or `all`.
    pub target: String,
    /// What the program gets by `process.on('message')`.
    pub message: serde_json::Value,
}

/// A line of `GET /v1/messages`: what a program has passed to `process.send`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentMessage {
    /// When it came, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `pm_id`.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The message.
    pub message: serde_json::Value,
}

/// `POST /v1/trigger`: call an action that the programs offer, over their channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerRequest {
    /// Name, id, namespace, `/pattern/` or `all`.
    pub target: String,
    /// Its name.
    pub action: String,
    /// What it is given.
    #[serde(default)]
    pub params: Option<String>,
}

/// What a program has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerReply {
    /// `pm_id`.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its answer.
    pub answer: serde_json::Value,
}
