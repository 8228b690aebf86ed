//! What the options of an app are made of: modes, policies, targets of logs, health checks.

use super::Stream;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
pub enum BalancePolicy {
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

impl fmt::Display for BalancePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BalancePolicy::RoundRobin => "round-robin",
            BalancePolicy::LeastConnections => "least-connections",
            BalancePolicy::IpHash => "ip-hash",
            BalancePolicy::Weighted => "weighted",
            BalancePolicy::Latency => "latency",
        })
    }
}

impl FromStr for BalancePolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<BalancePolicy, UnknownPolicy> {
        let all = [
            BalancePolicy::RoundRobin,
            BalancePolicy::LeastConnections,
            BalancePolicy::IpHash,
            BalancePolicy::Weighted,
            BalancePolicy::Latency,
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
