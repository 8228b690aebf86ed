//! The control API: JSON bodies of the HTTP requests on `$RPM_HOME/rpm.sock`. See `docs/API.md`.

mod app;
mod apply;
mod doctor;
mod observe;
mod progress;
mod proxy;
mod reload;
mod scrape;
mod signal;
mod spec;
mod targets;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use app::{AppSpec, LogSpec};
pub use apply::{ApplyMode, ApplyRequest, Change, KeyChange, Plan, PlanRequest, Saved};
pub use doctor::Finding;
pub use observe::*;
pub use progress::{Follow, Progress, Step, WorkerStage};
pub use proxy::ProxySpec;
pub use reload::{ReloadRequest, RollbackRequest};
pub use scrape::{Answered, AppFigures, Scrape, ScrapedPage};
pub use signal::{StopSignal, UnknownSignal};
pub use spec::{
    Balance, BalancePolicy, ExecMode, HealthCheck, INSTANCE_VAR, LogTarget, OF_THE_USER, UnknownBalance,
    UnknownPolicy, WatchSpec,
};
pub use targets::{
    MessageRequest, SendRequest, SentMessage, SignalRequest, TargetsRequest, TriggerReply, TriggerRequest,
};

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct ApiError {
    /// What failed and why.
    pub error: String,
    /// What the user can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The last lines the failing worker printed, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// A target that names nothing, where that is what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Box<Unknown>>,
}

/// A target that names no app, instance or namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// The target, as the request has it.
    pub target: String,
    /// The names and namespaces of all apps, among which the nearest may be what was meant.
    pub known: Vec<String>,
}

fn yes() -> bool {
    true
}

/// `POST /v1/apps`: start a new app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// What to start.
    pub app: AppSpec,
    /// Answer only when every worker is ready (or one has failed).
    #[serde(default = "yes")]
    pub wait: bool,
}

/// What to do with the instances a target names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Stop, keep in the list.
    Stop,
    /// Stop and start.
    Restart,
    /// Stop and forget.
    Delete,
}

/// `POST /v1/actions`: act on instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// What.
    pub action: Action,
    /// Names, ids or `all`.
    pub targets: Vec<String>,
    /// Restart by stopping and starting even where a reload would lose nothing; stop and delete without finishing what is
    /// being answered.
    #[serde(default)]
    pub hard: bool,
    /// Switch the watching of files off, or on again; for a stop: off.
    #[serde(default)]
    pub toggle_watch: bool,
    /// For a restart: variables that the apps get besides those they have.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Answer only when it is done.
    #[serde(default = "yes")]
    pub wait: bool,
    /// What else the answer is about.
    #[serde(default)]
    pub follow: Follow,
}

/// `POST /v1/scale`: change the number of instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleRequest {
    /// The app's name or the id of one of its instances.
    pub target: String,
    /// `n`, `+n`, `-n` or `max`.
    pub count: String,
    /// Answer only when it is done.
    #[serde(default = "yes")]
    pub wait: bool,
}

/// Answer to every request that changes processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReply {
    /// The instances concerned, as they are now (a deleted one is not among them).
    pub processes: Vec<Process>,
    /// Things worth knowing that are no failure.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The state of an instance, in PM2's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Starting, not ready.
    Launching,
    /// Ready.
    Online,
    /// Asked to end.
    Stopping,
    /// Not running, by wish or because it ended and is not to be restarted.
    Stopped,
    /// Failed, and will be tried again after a delay.
    #[serde(rename = "waiting restart")]
    WaitingRestart,
    /// Failed too often.
    Errored,
}

impl Status {
    /// The word PM2 uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Launching => "launching",
            Status::Online => "online",
            Status::Stopping => "stopping",
            Status::Stopped => "stopped",
            Status::WaitingRestart => "waiting restart",
            Status::Errored => "errored",
        }
    }
}

/// One instance: an element of `GET /v1/processes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// `pm_id`.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Files are watched for it.
    #[serde(default)]
    pub watching: bool,
    /// `NODE_APP_INSTANCE`.
    pub instance: u32,
    /// Generation of the configuration its process was started with.
    pub generation: u32,
    /// Cluster or fork.
    pub exec_mode: ExecMode,
    /// Which path the data takes: `direct`, `handoff`, `proxy` or `none`.
    pub plane: String,
    /// State.
    pub status: Status,
    /// Process id, if it runs.
    pub pid: Option<u32>,
    /// Milliseconds since the process was started, if it runs.
    pub uptime_ms: Option<u64>,
    /// When its process was last started, milliseconds since the Unix epoch; 0 if never.
    pub started_at_ms: u64,
    /// When the instance was created, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// How often a worker was replaced: after a crash, and by a restart or a reload of one that was online.
    pub restarts: u32,
    /// Consecutive failures to start.
    pub unstable_restarts: u32,
    /// Share of one CPU in percent, over the last sampling interval.
    pub cpu_percent: f64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Established TCP connections of its processes, at ports that it shares.
    pub connections: Option<u32>,
    /// Where it serves, as far as that goes through the daemon: what a process opened past it is a listener of [`AppInfo`] alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serves: Vec<Served>,
    /// How its last process ended: exit code, or 128 + signal.
    pub exit_code: Option<i32>,
    /// Other processes of the instance: the one that a reload starts, and those that were replaced and are not gone yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
    /// Where its output goes.
    pub out_log: String,
    /// Where its errors go.
    pub err_log: String,
    /// The app's configuration, where it was asked for (`?spec=true`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Box<AppSpec>>,
    /// What is rarely wanted, with the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
}

/// What is rarely wanted of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Where its output and its errors go, besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub both_log: Option<String>,
    /// Where its pid is written.
    pub pid_file: String,
    /// With `exp_backoff_restart_delay_ms`: how long its last restart was put off, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_delay_ms: Option<u64>,
    /// What its program has said of itself since this daemon runs.
    #[serde(default)]
    pub offer: Offer,
}

/// What a program offers by its channel, as `@pm2/io` says it (`axm:action`, `axm:monitor`, `axm:option:configuration`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its actions: objects with an `action_name`.
    #[serde(default)]
    pub actions: Vec<Value>,
    /// Its figures, by name.
    #[serde(default)]
    pub monitor: Map<String, Value>,
    /// Its settings, by name.
    #[serde(default)]
    pub options: Map<String, Value>,
}

impl Eq for Process {}

/// An address at which a process serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// As [`ListenerInfo::address`] has it.
    pub address: String,
    /// Where clients on this machine find it, if it speaks HTTP; TCP alone has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A process in a word: an element of `GET /v1/known`, which takes no figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// `pm_id`.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its script.
    pub script: String,
    /// State.
    pub status: Status,
    /// The actions that its program offers, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
}

/// A process of an instance beside its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Its process id.
    pub pid: u32,
    /// Generation of the configuration it was started with.
    pub generation: u32,
    /// How far it is.
    pub phase: Phase,
    /// Connections it still serves, where they are known.
    pub connections: Option<u32>,
    /// Milliseconds until the phase ends at the latest; `None`: nobody can tell.
    pub left_ms: Option<u64>,
}

/// How far a process is that comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A reload has started it, and it is not proved ready.
    Launching,
    /// Replaced by one that is ready; it would serve again if the reload were undone.
    Standby,
    /// Finishes what it has begun.
    Draining,
    /// Told to end.
    Stopping,
}

impl Phase {
    /// The word shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Launching => "launching",
            Phase::Standby => "standby",
            Phase::Draining => "draining",
            Phase::Stopping => "stopping",
        }
    }
}

/// One slot of a listener, in `describe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// Whose.
    pub instance: u32,
    /// New connections may go there.
    pub eligible: bool,
    /// Connections waiting to be accepted.
    pub queued: u32,
    /// Its backlog.
    pub backlog: u32,
    /// Connections steered to it so far; unknown on the classic BPF path.
    pub steered: Option<u64>,
    /// Connections that its worker has open, and those that wait; known with `least-connections`.
    #[serde(default)]
    pub connections: Option<u64>,
    /// Connections moved out of its queue so far.
    pub rescued: u64,
    /// What the proxy knows of it, where that balances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxied: Option<ProxiedInfo>,
}

/// What the proxy knows of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxiedInfo {
    /// Requests that it was sent.
    pub requests: u64,
    /// Requests without a complete answer.
    pub in_flight: u32,
    /// Moving average of the time to the head of an answer, in µs.
    pub latency_us: u64,
    /// How often it was left out.
    pub ejections: u32,
    /// Its circuit: does it get requests?
    pub circuit: Circuit,
}

/// Does a worker get requests of the proxy?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Circuit {
    /// Yes.
    Closed,
    /// Not for a while: it has failed several in a row.
    Open,
    /// Not as long as it fails its health checks.
    Ill,
}

/// One public address of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerInfo {
    /// `tcp [::]:3000`, `udp 0.0.0.0:53`, `unix /run/x.sock`.
    pub address: String,
    /// `ebpf`, `cbpf`, `handoff`, `proxy`, `shared` (one socket for all workers) or `own` (a listener of the worker's own).
    pub steering: String,
    /// Why that.
    pub reason: String,
    /// Its slots; empty where there are none.
    pub slots: Vec<SlotInfo>,
}

/// `GET /v1/apps/{target}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppInfo {
    /// Configuration.
    pub spec: AppSpec,
    /// Which path the data takes: `direct`, `handoff`, `proxy` or `none`.
    pub plane: String,
    /// Why that plane.
    pub plane_reason: String,
    /// Generation new workers are started with.
    pub generation: u32,
    /// Its instances.
    pub processes: Vec<Process>,
    /// Its listeners.
    pub listeners: Vec<ListenerInfo>,
}

/// `GET /v1/ping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Always `pong`.
    pub msg: String,
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it began to serve, milliseconds since the Unix epoch: another binary that takes over keeps the pid.
    #[serde(default)]
    pub started_at_ms: u64,
}

/// `POST /v1/update`: another binary takes over. The connection ends without an answer when it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    /// The binary, absolute.
    pub binary: String,
}

/// Which of a worker's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line of `GET /v1/logs` (NDJSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Whose.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// From which stream.
    pub stream: Stream,
    /// The line, without its end; bytes that are not UTF-8 are replaced.
    pub line: String,
    /// The file is that of several processes, and does not say whose the line is: `id` is one of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// When it was written, in milliseconds since 1970; `None`: that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// The standard stream that the app names in the place of a file: `runtime` prints the line there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Stream>,
}
