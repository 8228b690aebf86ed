//! What an app is started from.

use super::Stream;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::proxy::ProxySpec;
use super::signal::StopSignal;
use super::yes;

/// How an app's processes share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecMode {
    /// N workers behind shared ports (any `-i`).
    Cluster,
    /// One process that owns its ports.
    Fork,
}

/// Variables that name the user of a process. An app with `uid` has those of its own user, and not those of who has started it.
pub const OF_THE_USER: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

/// Where a program finds the number of its instance, if the app names no other variable.
pub const INSTANCE_VAR: &str = "NODE_APP_INSTANCE";

/// An app as the user described it, resolved by the CLI to what the daemon can execute.
/// Durations are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// Unique name.
    pub name: String,
    /// The script or program, absolute.
    pub script: String,
    /// The interpreter, absolute or to be found on `env["PATH"]`; `None` executes the script itself.
    #[serde(default)]
    pub interpreter: Option<String>,
    /// Arguments of the interpreter, before the script.
    #[serde(default)]
    pub interpreter_args: Vec<String>,
    /// Arguments of the script.
    #[serde(default)]
    pub args: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// The whole environment of the app (the caller's, plus its own).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Cluster or fork.
    pub exec_mode: ExecMode,
    /// How many instances; 0 = one per CPU the daemon may use, negative = that many fewer.
    pub instances: i32,
    /// How connections come to the workers.
    #[serde(default)]
    pub balance: Balance,
    /// How connections are spread over the workers.
    #[serde(default)]
    pub policy: Policy,
    /// What the proxy is to do, where it is what balances.
    #[serde(default)]
    pub proxy: ProxySpec,
    /// What the workers weigh, by `NODE_APP_INSTANCE`, from 1 to 100; those beyond the list begin it again. For `weighted` alone.
    #[serde(default)]
    pub weights: Vec<u32>,
    /// Addresses to open and pass by `LISTEN_FDS` (`8080`, `127.0.0.1:8080`, `[::1]:8080`).
    #[serde(default)]
    pub listen: Vec<String>,
    /// Let the workers share the ports that they open by themselves (seccomp user notification).
    #[serde(default = "yes")]
    pub intercept: bool,
    /// The only ports that they share that way; none: all but random ones.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Ready only after `process.send('ready')`.
    #[serde(default)]
    pub wait_ready: bool,
    /// Restart after an exit nobody asked for.
    #[serde(default = "yes")]
    pub autorestart: bool,
    /// From the spawn to readiness.
    #[serde(default)]
    pub listen_timeout_ms: Option<u64>,
    /// From the signal to SIGKILL.
    #[serde(default)]
    pub kill_timeout_ms: Option<u64>,
    /// What asks the program to stop.
    #[serde(default)]
    pub kill_signal: StopSignal,
    /// It goes to the whole process tree; `false`: to its leader alone.
    #[serde(default = "yes")]
    pub treekill: bool,
    /// From the spawn to readiness, for a worker of a reload.
    #[serde(default)]
    pub reload_timeout_ms: Option<u64>,
    /// How long a worker that was replaced may take to finish what it has begun.
    #[serde(default)]
    pub drain_timeout_ms: Option<u64>,
    /// How long the old workers of a reload stand by when all new ones are ready, to serve again if one of these ends.
    #[serde(default)]
    pub watch_after_ms: Option<u64>,
    /// How many new workers of a reload may be starting at once; 0: one per CPU.
    #[serde(default)]
    pub parallel: u32,
    /// How many workers more than instances a reload may have at once, those that drain included; `None`: any number.
    #[serde(default)]
    pub max_surge: Option<u32>,
    /// For how many instances an old worker may leave before its successor is started.
    #[serde(default)]
    pub max_unavailable: u32,
    /// A reload is content with workers that serve other addresses than their predecessors.
    #[serde(default)]
    pub allow_port_change: bool,
    /// What a worker that a reload starts must answer before it takes over.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// Load the agent into Node, which drains a worker politely.
    #[serde(default = "yes")]
    pub agent: bool,
    /// Consecutive young failures until `errored`.
    #[serde(default)]
    pub max_restarts: Option<u32>,
    /// Uptime from which an exit is not a failure to start.
    #[serde(default)]
    pub min_uptime_ms: Option<u64>,
    /// Fixed delay before a restart.
    #[serde(default)]
    pub restart_delay_ms: Option<u64>,
    /// First delay of an exponential back-off.
    #[serde(default)]
    pub exp_backoff_restart_delay_ms: Option<u64>,
    /// A group of apps that requests may name.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// `false`: it is put in the list, and started by a later request.
    #[serde(default = "yes")]
    pub autostart: bool,
    /// Exit codes after which it is not restarted.
    #[serde(default)]
    pub stop_exit_codes: Vec<i32>,
    /// A worker whose processes have more memory than this, in bytes, is replaced.
    #[serde(default)]
    pub max_memory_restart: Option<u64>,
    /// When to restart: a time table of cron, five fields or six with seconds.
    #[serde(default)]
    pub cron_restart: Option<String>,
    /// The time zone of that, by its IANA name; the daemon's if it is missing.
    #[serde(default)]
    pub cron_timezone: Option<String>,
    /// It is asked to stop by the message `shutdown`, where it has a channel.
    #[serde(default)]
    pub shutdown_with_message: bool,
    /// Restart when files change.
    #[serde(default)]
    pub watch: Option<WatchSpec>,
    /// The variable with the number of the instance, instead of `NODE_APP_INSTANCE`.
    #[serde(default)]
    pub instance_var: Option<String>,
    /// A variable of `env` that is one higher for each further instance.
    #[serde(default)]
    pub increment_var: Option<String>,
    /// The user that it runs as, a name or a number. Only for a daemon of root.
    #[serde(default)]
    pub uid: Option<String>,
    /// The group, likewise; that of the user if it is missing.
    #[serde(default)]
    pub gid: Option<String>,
    /// Node reads source maps.
    #[serde(default = "yes")]
    pub source_map_support: bool,
    /// Where its output goes.
    #[serde(default)]
    pub logs: LogSpec,
    /// Where the pids are written: the number of the instance is added to its name.
    #[serde(default)]
    pub pid_file: Option<String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

impl AppSpec {
    /// What instance `number` has in the variable that rises; `None`: there is no such variable.
    #[must_use]
    pub fn incremented(&self, number: u32) -> Option<(String, String)> {
        let name = self.increment_var.as_ref()?;
        let first = self
            .env
            .get(name)
            .and_then(|text| text.trim().parse::<i64>().ok());
        let value = first.unwrap_or(0).saturating_add(i64::from(number));
        Some((name.clone(), value.to_string()))
    }
}

impl Default for AppSpec {
    /// One process of nothing, with the defaults of everything else.
    fn default() -> AppSpec {
        AppSpec {
            name: String::new(),
            script: String::new(),
            interpreter: None,
            interpreter_args: Vec::new(),
            args: Vec::new(),
            cwd: "/".to_owned(),
            env: BTreeMap::new(),
            exec_mode: ExecMode::Fork,
            instances: 1,
            balance: Balance::default(),
            policy: Policy::default(),
            proxy: ProxySpec::default(),
            weights: Vec::new(),
            listen: Vec::new(),
            intercept: true,
            ports: Vec::new(),
            wait_ready: false,
            autorestart: true,
            listen_timeout_ms: None,
            kill_timeout_ms: None,
            kill_signal: StopSignal::default(),
            treekill: true,
            reload_timeout_ms: None,
            drain_timeout_ms: None,
            watch_after_ms: None,
            parallel: 0,
            max_surge: None,
            max_unavailable: 0,
            allow_port_change: false,
            health_check: None,
            agent: true,
            max_restarts: None,
            min_uptime_ms: None,
            restart_delay_ms: None,
            exp_backoff_restart_delay_ms: None,
            namespace: default_namespace(),
            autostart: true,
            stop_exit_codes: Vec::new(),
            max_memory_restart: None,
            cron_restart: None,
            cron_timezone: None,
            shutdown_with_message: false,
            watch: None,
            instance_var: None,
            increment_var: None,
            uid: None,
            gid: None,
            source_map_support: true,
            logs: LogSpec::default(),
            pid_file: None,
        }
    }
}

/// What is watched for changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchSpec {
    /// Files and directories, absolute; directories with all that is in them.
    pub paths: Vec<String>,
    /// Changes of these do not matter: names, paths or patterns with `*`, or `regex:` and an
    /// expression that is found in the path. What begins with a dot, and `node_modules`, is never watched
    /// below a watched directory.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// At least so long from the first change to the restart, which waits until changes cease (5 seconds at most).
    #[serde(default)]
    pub delay_ms: u64,
}

/// Where an app's output goes, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSpec {
    /// Standard output.
    #[serde(default)]
    pub out: LogTarget,
    /// Standard error.
    #[serde(default)]
    pub err: LogTarget,
    /// Both, besides; `usual` is `<name>.log`.
    #[serde(default)]
    pub both: Option<LogTarget>,
    /// All instances write to the same files.
    #[serde(default)]
    pub merge: bool,
    /// The time before each line: `YYYY-MM-DD HH:mm:ss.SSS Z`.
    #[serde(default)]
    pub date_format: Option<String>,
    /// Each line as a JSON object.
    #[serde(default)]
    pub json: bool,
    /// A file that has grown to so many bytes is put aside: `<file>.1`, and what was that becomes `<file>.2`.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// So many files that were put aside are kept; 10 by default.
    #[serde(default)]
    pub keep: Option<u32>,
}

/// Where a stream goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogTarget {
    /// `$RPM_HOME/logs/<name>-out.log`, `-error.log`.
    #[default]
    Usual,
    /// Nowhere.
    Nowhere,
    /// This file, absolute; the number of the instance is added unless they are merged. Names of the standard streams are those of
    /// `runtime`; the lines are kept as usual.
    File(String),
}

impl LogTarget {
    /// The standard stream that a path names.
    #[must_use]
    pub fn standard(path: &str) -> Option<Stream> {
        match path {
            "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => Some(Stream::Out),
            "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => Some(Stream::Err),
            _ => None,
        }
    }

    /// The standard stream that this is.
    #[must_use]
    pub fn standard_stream(&self) -> Option<Stream> {
        match self {
            LogTarget::File(path) => LogTarget::standard(path),
            LogTarget::Usual | LogTarget::Nowhere => None,
        }
    }
}

/// How connections come to the workers of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// As well as this system can: `direct`.
    #[default]
    Auto,
    /// The kernel delivers them; nothing is on the way.
    Direct,
    /// The daemon accepts them and hands each to a Node worker.
    Handoff,
    /// The daemon's proxy speaks HTTP with the clients, and passes on each request.
    Proxy,
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Balance::Auto => "auto",
            Balance::Direct => "direct",
            Balance::Handoff => "handoff",
            Balance::Proxy => "proxy",
        })
    }
}

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(text: &str) -> Result<Balance, UnknownBalance> {
        let all = [Balance::Auto, Balance::Direct, Balance::Handoff, Balance::Proxy];
        let named = all.into_iter().find(|balance| balance.to_string() == text);
        named.ok_or(UnknownBalance)
    }
}

/// There is no way of balancing of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, direct, handoff or proxy")]
pub struct UnknownBalance;

/// How connections are spread over the workers of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the worker that has the fewest open.
    LeastConnections,
    /// The same client to the same worker while it lives: by the address.
    IpHash,
    /// In turn, and to each worker in proportion to its weight.
    Weighted,
    /// To the better of two workers that are drawn, by the time they take and what they have to do. For the proxy alone.
    Latency,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::RoundRobin => "round-robin",
            Policy::LeastConnections => "least-connections",
            Policy::IpHash => "ip-hash",
            Policy::Weighted => "weighted",
            Policy::Latency => "latency",
        })
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Policy, UnknownPolicy> {
        let all = [
            Policy::RoundRobin,
            Policy::LeastConnections,
            Policy::IpHash,
            Policy::Weighted,
            Policy::Latency,
        ];
        let named = all.into_iter().find(|policy| policy.to_string() == text);
        named.ok_or(UnknownPolicy)
    }
}

/// There is no policy of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected round-robin, least-connections, ip-hash, weighted or latency")]
pub struct UnknownPolicy;

/// A request by which a worker shows its health: plain HTTP, on the first address that it listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Path and query.
    pub path: String,
    /// The status of a good answer.
    #[serde(default = "ok_status")]
    pub status: u16,
    /// Between two requests.
    #[serde(default = "health_interval")]
    pub interval_ms: u64,
    /// For an answer.
    #[serde(default = "health_timeout")]
    pub timeout_ms: u64,
    /// So many good answers in a row.
    #[serde(default = "one")]
    pub threshold: u32,
}

impl HealthCheck {
    /// With everything but the path as it is by default: status 200, every 250 ms, 2 s for an answer, one good answer.
    #[must_use]
    pub fn of(path: String) -> HealthCheck {
        HealthCheck {
            path,
            status: ok_status(),
            interval_ms: health_interval(),
            timeout_ms: health_timeout(),
            threshold: one(),
        }
    }
}

fn ok_status() -> u16 {
    200
}

fn health_interval() -> u64 {
    250
}

fn health_timeout() -> u64 {
    2000
}

fn one() -> u32 {
    1
}
