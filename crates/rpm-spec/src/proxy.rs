//! What the proxy is to do (`balance: proxy`).
// tidy: long because it is one table

use serde_json::Value;

use crate::keys::{Key, Kind, own};
use crate::values::{Wrong, bytes, choice, list, milliseconds, networks, number, switch, text};

/// Keys of the proxy.
pub(crate) const PROXY: &[Key] = &[
    own(
        "tls_cert",
        Kind::List,
        "with `balance: proxy`: certificates in PEM: clients speak TLS; of several the one with the name that a client asks for",
    ),
    own(
        "tls_key",
        Kind::List,
        "with `balance: proxy`: their keys, in the same order",
    ),
    own(
        "redirect_http",
        Kind::Number(1),
        "with `balance: proxy`: another port, whose clients are sent to the one with TLS",
    ),
    own(
        "proxy_protocol",
        Kind::Networks,
        "with `balance: proxy`: connections from these addresses and networks begin with the PROXY protocol, version 1 or 2; `true`: all do",
    ),
    own(
        "trust_forwarded",
        Kind::Networks,
        "with `balance: proxy`: what clients from these addresses and networks say of earlier proxies (X-Forwarded-For and the like) is true; `true`: what all say",
    ),
    own(
        "allow_underscores",
        Kind::Switch,
        "with `balance: proxy`: pass on fields that look like those of the proxy where they become variables (X_Forwarded_For)",
    ),
    own(
        "protocol",
        Kind::Choice(&["http", "h2c", "tcp"]),
        "with `balance: proxy`: `h2c` speaks HTTP/2 to the workers (gRPC), `tcp` passes on connections as they are",
    ),
    own(
        "compress",
        Kind::Switch,
        "with `balance: proxy`: compress answers for clients that know gzip",
    ),
    own(
        "sticky",
        Kind::Text,
        "with `balance: proxy`: name of a cookie by which a client stays with its worker",
    ),
    own(
        "max_in_flight",
        Kind::Number(1),
        "with `balance: proxy`: requests that a worker may have at once",
    ),
    own(
        "queue_limit",
        Kind::Number(0),
        "with `balance: proxy`: requests that may wait when all workers have as many; 1024 by default",
    ),
    own(
        "queue_timeout",
        Kind::Time,
        "with `balance: proxy`: how long they may wait; 10s by default",
    ),
    own(
        "hold_timeout",
        Kind::Time,
        "with `balance: proxy`: how long a request waits while no worker serves; 10s by default",
    ),
    own(
        "retries",
        Kind::Number(0),
        "with `balance: proxy`: how often a request is tried again, at most; 2 by default",
    ),
    own(
        "connect_timeout",
        Kind::Time,
        "with `balance: proxy`: for a connection to a worker; 2s by default",
    ),
    own(
        "response_timeout",
        Kind::Time,
        "with `balance: proxy`: for the head of an answer; 60s by default",
    ),
    own(
        "request_timeout",
        Kind::Time,
        "with `balance: proxy`: for the head of an answer over all attempts and all waiting; none by default",
    ),
    own(
        "stream_timeout",
        Kind::Time,
        "with `balance: proxy`: how long a body may not move once the answer has begun; 10m by default",
    ),
    own(
        "tunnel_timeout",
        Kind::Time,
        "with `balance: proxy`: how long neither side of a WebSocket or of `protocol: tcp` may send anything; 1h by default, 0 is for ever",
    ),
    own(
        "header_timeout",
        Kind::Time,
        "with `balance: proxy`: for the head of a request; 20s by default",
    ),
    own(
        "idle_timeout",
        Kind::Time,
        "with `balance: proxy`: how long the connection of a client may be idle; 75s by default",
    ),
    own(
        "max_body",
        Kind::Memory,
        "with `balance: proxy`: longest body of a request",
    ),
    own(
        "max_connections",
        Kind::Number(1),
        "with `balance: proxy`: connections that one address may have",
    ),
    own(
        "max_streams",
        Kind::Number(1),
        "with `balance: proxy`: requests that a client may have open on a connection of HTTP/2; 256 by default",
    ),
    own(
        "slow_start",
        Kind::Time,
        "with `balance: proxy`: how long a new worker is spared, with `least-connections` and `latency`",
    ),
    own(
        "check_interval",
        Kind::Time,
        "with `balance: proxy`: between two requests of the health check to each worker that serves; without it only new workers are asked",
    ),
    own(
        "access_log",
        Kind::Text,
        "with `balance: proxy`: a file with a line for each request",
    ),
    own(
        "access_log_format",
        Kind::Choice(&["combined", "json"]),
        "with `balance: proxy`: the format of its lines; `combined` by default",
    ),
    own(
        "access_log_every",
        Kind::Number(1),
        "with `balance: proxy`: only one of so many requests has a line",
    ),
];

/// What is said of the proxy. Durations are in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyOptions {
    /// Certificates in PEM: clients speak TLS; of several the one with the name that a client asks for.
    pub tls_cert: Option<Vec<String>>,
    /// Their keys, in the same order.
    pub tls_key: Option<Vec<String>>,
    /// Another port, whose clients are sent to the one with TLS.
    pub redirect_http: Option<u32>,
    /// Connections from these addresses and networks begin with the PROXY protocol, version 1 or 2.
    pub proxy_protocol: Option<Vec<String>>,
    /// What clients from these addresses and networks say of earlier proxies (X-Forwarded-For and the like) is true.
    pub trust_forwarded: Option<Vec<String>>,
    /// Pass on fields that look like those of the proxy where they become variables (`X_Forwarded_For`).
    pub allow_underscores: Option<bool>,
    /// `tcp` passes on connections as they are.
    pub protocol: Option<String>,
    /// Compress answers for clients that know gzip.
    pub compress: Option<bool>,
    /// Name of a cookie by which a client stays with its worker.
    pub sticky: Option<String>,
    /// Requests that a worker may have at once.
    pub max_in_flight: Option<u32>,
    /// Requests that may wait when all workers have as many; 1024 by default.
    pub queue_limit: Option<u32>,
    /// How long they may wait; 10s by default.
    pub queue_timeout_ms: Option<u64>,
    /// How long a request waits while no worker serves; 10s by default.
    pub hold_timeout_ms: Option<u64>,
    /// How often a request is tried again, at most; 2 by default.
    pub retries: Option<u32>,
    /// For a connection to a worker; 2s by default.
    pub connect_timeout_ms: Option<u64>,
    /// For the head of an answer; 60s by default.
    pub response_timeout_ms: Option<u64>,
    /// For the head of an answer over all attempts and all waiting.
    pub request_timeout_ms: Option<u64>,
    /// How long a body may not move once the answer has begun; 10m by default.
    pub stream_timeout_ms: Option<u64>,
    /// How long neither side of a WebSocket or of `protocol: tcp` may send anything; 1h by default, 0 is for ever.
    pub tunnel_timeout_ms: Option<u64>,
    /// For the head of a request; 20s by default.
    pub header_timeout_ms: Option<u64>,
    /// How long the connection of a client may be idle; 75s by default.
    pub idle_timeout_ms: Option<u64>,
    /// Longest body of a request.
    pub max_body: Option<u64>,
    /// Connections that one address may have.
    pub max_connections: Option<u32>,
    /// Requests that a client may have open on a connection of HTTP/2; 256 by default.
    pub max_streams: Option<u32>,
    /// How long a new worker is spared, with `least-connections` and `latency`.
    pub slow_start_ms: Option<u64>,
    /// Between two requests of the health check to each worker that serves; without it only new workers are asked.
    pub check_interval_ms: Option<u64>,
    /// A file with a line for each request.
    pub access_log: Option<String>,
    /// The format of its lines; `combined` by default.
    pub access_log_format: Option<String>,
    /// Only one of so many requests has a line.
    pub access_log_every: Option<u32>,
}

impl ProxyOptions {
    /// Takes what is said by a key; `false`: it is none of them.
    pub(crate) fn set(&mut self, key: &Key, value: &Value) -> Result<bool, Wrong> {
        match key.name {
            "tls_cert" => self.tls_cert = Some(list(value)?),
            "tls_key" => self.tls_key = Some(list(value)?),
            "redirect_http" => self.redirect_http = Some(number(value, 1)?),
            "proxy_protocol" => self.proxy_protocol = Some(networks(value)?),
            "trust_forwarded" => self.trust_forwarded = Some(networks(value)?),
            "allow_underscores" => self.allow_underscores = Some(switch(value)?),
            "protocol" => self.protocol = Some(choice(value, key.kind)?),
            "compress" => self.compress = Some(switch(value)?),
            "sticky" => self.sticky = Some(text(value)?),
            "max_in_flight" => self.max_in_flight = Some(number(value, 1)?),
            "queue_limit" => self.queue_limit = Some(number(value, 0)?),
            "queue_timeout" => self.queue_timeout_ms = Some(milliseconds(value)?),
            "hold_timeout" => self.hold_timeout_ms = Some(milliseconds(value)?),
            "retries" => self.retries = Some(number(value, 0)?),
            "connect_timeout" => self.connect_timeout_ms = Some(milliseconds(value)?),
            "response_timeout" => self.response_timeout_ms = Some(milliseconds(value)?),
            "request_timeout" => self.request_timeout_ms = Some(milliseconds(value)?),
            "stream_timeout" => self.stream_timeout_ms = Some(milliseconds(value)?),
            "tunnel_timeout" => self.tunnel_timeout_ms = Some(milliseconds(value)?),
            "header_timeout" => self.header_timeout_ms = Some(milliseconds(value)?),
            "idle_timeout" => self.idle_timeout_ms = Some(milliseconds(value)?),
            "max_body" => self.max_body = Some(bytes(value)?),
            "max_connections" => self.max_connections = Some(number(value, 1)?),
            "max_streams" => self.max_streams = Some(number(value, 1)?),
            "slow_start" => self.slow_start_ms = Some(milliseconds(value)?),
            "check_interval" => self.check_interval_ms = Some(milliseconds(value)?),
            "access_log" => self.access_log = Some(text(value)?),
            "access_log_format" => self.access_log_format = Some(choice(value, key.kind)?),
            "access_log_every" => self.access_log_every = Some(number(value, 1)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// These, and of `other` what they do not say.
    #[must_use]
    pub fn or(self, other: ProxyOptions) -> ProxyOptions {
        ProxyOptions {
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            redirect_http: self.redirect_http.or(other.redirect_http),
            proxy_protocol: self.proxy_protocol.or(other.proxy_protocol),
            trust_forwarded: self.trust_forwarded.or(other.trust_forwarded),
            allow_underscores: self.allow_underscores.or(other.allow_underscores),
            protocol: self.protocol.or(other.protocol),
            compress: self.compress.or(other.compress),
            sticky: self.sticky.or(other.sticky),
            max_in_flight: self.max_in_flight.or(other.max_in_flight),
            queue_limit: self.queue_limit.or(other.queue_limit),
            queue_timeout_ms: self.queue_timeout_ms.or(other.queue_timeout_ms),
            hold_timeout_ms: self.hold_timeout_ms.or(other.hold_timeout_ms),
            retries: self.retries.or(other.retries),
            connect_timeout_ms: self.connect_timeout_ms.or(other.connect_timeout_ms),
            response_timeout_ms: self.response_timeout_ms.or(other.response_timeout_ms),
            request_timeout_ms: self.request_timeout_ms.or(other.request_timeout_ms),
            stream_timeout_ms: self.stream_timeout_ms.or(other.stream_timeout_ms),
            tunnel_timeout_ms: self.tunnel_timeout_ms.or(other.tunnel_timeout_ms),
            header_timeout_ms: self.header_timeout_ms.or(other.header_timeout_ms),
            idle_timeout_ms: self.idle_timeout_ms.or(other.idle_timeout_ms),
            max_body: self.max_body.or(other.max_body),
            max_connections: self.max_connections.or(other.max_connections),
            max_streams: self.max_streams.or(other.max_streams),
            slow_start_ms: self.slow_start_ms.or(other.slow_start_ms),
            check_interval_ms: self.check_interval_ms.or(other.check_interval_ms),
            access_log: self.access_log.or(other.access_log),
            access_log_format: self.access_log_format.or(other.access_log_format),
            access_log_every: self.access_log_every.or(other.access_log_every),
        }
    }
}
