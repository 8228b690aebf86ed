//! Workers that have a process: what the daemon knows of them beside the core.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A worker that has a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The worker.
    pub id: u64,
    /// Its app.
    pub app: u32,
    /// Its instance.
    pub instance: u32,
    /// The leader of its process tree.
    pub pid: u32,
    /// With the pid it names the process.
    pub start_ticks: u64,
    /// When it was started, since 1970.
    pub started_at_ms: u64,
    /// It was asked to end.
    pub ending: bool,
    /// An agent has spoken for it.
    pub agent_seen: bool,
    /// The name that its agent uses for it.
    pub token: String,
    /// Where its output goes.
    pub logs: Logs,
    /// What the keeper has of it.
    pub tokens: Tokens,
    /// It is to be replaced: much that it needs is gone.
    #[serde(rename = "bereft")]
    pub without_keeper: bool,
    /// Its processes that have called `listen`.
    pub listeners: BTreeSet<u32>,
    /// The names of the actions that its program offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
}

/// Where a worker's output goes, and where in the files its own begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// Its output.
    pub out: PathBuf,
    /// Its errors.
    pub err: PathBuf,
    /// What takes both, besides.
    pub both: Option<PathBuf>,
    /// Where its own output begins, in bytes.
    pub out_from: u64,
    /// Where its own errors begin, in bytes.
    pub err_from: u64,
}

/// By which the keeper knows what is kept of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Its process.
    pub process: u64,
    /// The daemon's end of its channel.
    pub channel: Option<u64>,
    /// The read end of its output.
    pub out: Option<u64>,
    /// The read end of its errors.
    pub err: Option<u64>,
    /// The reports of its calls.
    pub reports: Option<u64>,
    /// The daemon's end of its standard input.
    pub stdin: Option<u64>,
}
