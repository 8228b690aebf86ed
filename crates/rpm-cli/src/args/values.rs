//! Values with a form of their own, checked while the arguments are read.

use std::net::SocketAddr;

use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use rpm_wire::api::{Balance, Policy, StopSignal};

use super::Column;

/// The columns of [`order`], as they are completed.
pub(crate) const COLUMNS: [&str; 9] = [
    "id",
    "name",
    "namespace",
    "pid",
    "uptime",
    "restarts",
    "status",
    "cpu",
    "memory",
];

/// Parses one of some words, which help, errors and completion then name.
fn one_of<T>(words: impl IntoIterator<Item = impl Into<PossibleValue>>) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse())
}

pub(super) fn balance() -> impl TypedValueParser<Value = Balance> {
    one_of(["auto", "direct", "handoff", "proxy"])
}

pub(super) fn policy() -> impl TypedValueParser<Value = Policy> {
    one_of([
        "round-robin",
        "least-connections",
        "ip-hash",
        "weighted",
        "latency",
    ])
}

/// With or without `SIG`.
pub(super) fn stop_signal() -> impl TypedValueParser<Value = StopSignal> {
    let names = [
        ("SIGINT", "INT"),
        ("SIGTERM", "TERM"),
        ("SIGQUIT", "QUIT"),
        ("SIGHUP", "HUP"),
        ("SIGUSR1", "USR1"),
        ("SIGUSR2", "USR2"),
    ];
    one_of(names.map(|(name, short)| PossibleValue::new(name).alias(short)))
}

/// `n`, `max` (one per CPU, 0) or `-n` (that many fewer).
pub(super) fn instances(text: &str) -> Result<i32, String> {
    if text == "max" {
        return Ok(0);
    }
    let bad = |_| "expected a number, `max`, or -n for all CPUs but n".to_owned();
    text.parse().map_err(bad)
}

/// One of a list that may have blanks after its commas.
#[expect(clippy::unnecessary_wraps, reason = "a parser of a value may fail")]
pub(super) fn trimmed(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}

/// Milliseconds: `1500`, `1500ms`, `90s`, `5m` or `1h`.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    rpm_spec::time(text).map_err(|error| format!("expected {error}"))
}

/// Bytes: `300M`, `1G`.
pub(super) fn amount(text: &str) -> Result<u64, String> {
    rpm_spec::memory(text).map_err(|error| format!("expected {error}"))
}

/// An address, or a network: `10.0.0.0/8`.
pub(super) fn network(text: &str) -> Result<String, String> {
    rpm_spec::is_network(text)
        .then(|| text.to_owned())
        .ok_or_else(|| "expected an address or a network, as 10.0.0.0/8".to_owned())
}

/// `n`, `+n`, `-n` or `max`, as it is.
pub(super) fn count(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if text == "max"
        || digits
            .parse::<u32>()
            .is_ok_and(|_| digits.starts_with(|c: char| c.is_ascii_digit()))
    {
        return Ok(text.to_owned());
    }
    Err("expected n, +n, -n or max".to_owned())
}

/// A path of HTTP, as it is.
pub(super) fn health_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("expected a path that begins with / and is percent-encoded, such as /health".to_owned())
}

/// `8080`, `127.0.0.1:8080` or `[::1]:8080`, as it is.
pub(super) fn listen_address(text: &str) -> Result<String, String> {
    if text.parse::<u16>().is_ok() || text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("expected a port, or an IP address and a port such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

/// A column, and whether the largest comes first: `memory:desc`.
pub(super) fn order(text: &str) -> Result<(Column, bool), String> {
    let (name, way) = text.split_once(':').unwrap_or((text, "asc"));
    let column = match name {
        "id" | "pm_id" => Column::Id,
        "name" => Column::Name,
        "namespace" => Column::Namespace,
        "pid" => Column::Pid,
        "uptime" => Column::Uptime,
        "restarts" | "restart" => Column::Restarts,
        "status" => Column::Status,
        "cpu" => Column::Cpu,
        "memory" | "mem" => Column::Memory,
        _ => {
            return Err(
                "expected id, name, namespace, pid, uptime, restarts, status, cpu or memory".to_owned(),
            );
        }
    };
    match way {
        "asc" => Ok((column, false)),
        "desc" => Ok((column, true)),
        _ => Err("expected :asc or :desc after the column".to_owned()),
    }
}
