//! What the proxy is to do with an app's clients: the table of its options.

use serde::{Deserialize, Deserializer};

use crate::options::{Heading, Key, Kind, options};
use crate::ratio::Ratio;

/// The networks that have all addresses.
const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// `true` or `false` is what older clients and states say.
fn networks<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        All(bool),
        Of(Vec<String>),
    }
    Ok(match Said::deserialize(from)? {
        Said::All(true) => EVERYBODY.map(str::to_owned).to_vec(),
        Said::All(false) => Vec::new(),
        Said::Of(networks) => networks,
    })
}

options! {
    /// For `balance: proxy` alone. Durations are in milliseconds, sizes in bytes, paths absolute.
    pub struct ProxySpec {}
    default {}

    /// Certificates (PEM) for TLS with clients; of several, the server name that a client asks for selects one
    own("tls_cert", Kind::Files) => tls_cert: Vec<String>;
    /// Their keys, in the same order
    own("tls_key", Kind::Files) => tls_key: Vec<String>;
    /// Port for plain HTTP that redirects clients to the one with TLS
    own("redirect_http", Kind::Number(1, 65535)).value("PORT") => redirect_http: Option<u32>;
    /// Expect the PROXY protocol (version 1 or 2) on connections from these addresses and networks; `true`: on all
    own("proxy_protocol", Kind::Networks)
        .help("Expect the PROXY protocol (version 1 or 2) on connections: on all, or on those from these addresses and networks")
        => #[serde(deserialize_with = "networks")] proxy_protocol: Vec<String>;
    /// Trust what clients from these addresses and networks say of earlier proxies (X-Forwarded-For and the like); `true`: trust all
    own("trust_forwarded", Kind::Networks)
        .help("Trust what clients say of earlier proxies (X-Forwarded-For and the like): all, or those from these addresses and networks")
        => #[serde(deserialize_with = "networks")] trust_forwarded: Vec<String>;
    /// Forward header fields that a program could mistake for the proxy's own (X_Forwarded_For)
    own("allow_underscores", Kind::Switch) => allow_underscores: bool;
    /// `h2c` speaks HTTP/2 to the workers (gRPC), `tcp` forwards connections as they are
    own("protocol", Kind::Choice(&["http", "h2c", "tcp"])) => protocol: Option<String>;
    /// Compress responses for clients that accept gzip
    own("compress", Kind::Switch) => compress: bool;
    /// Name of the cookie that keeps a client with its worker
    own("sticky", Kind::Text).value("COOKIE") => sticky: Option<String>;
    /// Maximum number of requests in flight per worker
    own("max_in_flight", Kind::POSITIVE) => max_in_flight: Option<u32>;
    /// Maximum number of requests that wait when all workers have as many
    own("queue_limit", Kind::COUNT).default("1024") => queue_limit: Option<u32>;
    /// How long they may wait
    own("queue_timeout", Kind::Time).default("10s") => queue_timeout_ms: Option<u64>;
    /// How long a request waits while no worker serves
    own("hold_timeout", Kind::Time).default("10s") => hold_timeout_ms: Option<u64>;
    /// Maximum number of retries of a request
    own("retries", Kind::COUNT).default("2") => retries: Option<u32>;
    /// Time to connect to a worker
    own("connect_timeout", Kind::Time).default("2s") => connect_timeout_ms: Option<u64>;
    /// Time until the head of the response
    own("response_timeout", Kind::Time).default("60s") => response_timeout_ms: Option<u64>;
    /// Time until the head of the response, over all attempts and all waiting
    own("request_timeout", Kind::Time).default("none") => request_timeout_ms: Option<u64>;
    /// How long a body may stall once the response has begun
    own("stream_timeout", Kind::Time).default("10m") => stream_timeout_ms: Option<u64>;
    /// How long a WebSocket or a connection of the protocol `tcp` may be silent on both sides; 0 is for ever
    own("tunnel_timeout", Kind::Time).default("1h") => tunnel_timeout_ms: Option<u64>;
    /// Time a client has for the head of a request
    own("header_timeout", Kind::Time).default("20s") => header_timeout_ms: Option<u64>;
    /// How long a client connection may be idle
    own("idle_timeout", Kind::Time).default("75s") => idle_timeout_ms: Option<u64>;
    /// Maximum size of the body of a request
    own("max_body", Kind::Memory) => max_body: Option<u64>;
    /// Maximum size of the head of a request or response, 4K to 1M
    own("max_head", Kind::Memory).default("64K") => #[serde(skip_serializing_if = "Option::is_none")] max_head: Option<u64>;
    /// Maximum number of connections per client address
    own("max_connections", Kind::POSITIVE) => max_connections: Option<u32>;
    /// Maximum number of open requests per HTTP/2 connection
    own("max_streams", Kind::POSITIVE).default("256") => max_streams: Option<u32>;
    /// How long a new worker gets less load, with the policies `least-connections` and `latency`
    own("slow_start", Kind::Time) => slow_start_ms: Option<u64>;
    /// Time between two health checks of each worker that serves; without it only new workers are checked
    own("check_interval", Kind::Time) => check_interval_ms: Option<u64>;
    /// File that gets a line for each request
    own("access_log", Kind::File) => access_log: Option<String>;
    /// Format of these lines
    own("access_log_format", Kind::Choice(&["combined", "json"])).default("combined") => access_log_format: Option<String>;
    /// Only one of this many requests gets a line
    own("access_log_every", Kind::POSITIVE) => access_log_every: Option<u32>;
    /// Part of the requests that get a span, for `observe.otlp`; with more than 0, each request carries a `traceparent` to the worker
    own("trace_ratio", Kind::Ratio).default("0") => #[serde(skip_serializing_if = "Option::is_none")] trace_ratio: Option<Ratio>;
}

const fn own(name: &'static str, kind: Kind) -> Key {
    Key::own(name, kind).below(Heading::Proxy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_may_be_a_switch() {
        let said = |text: &str| serde_json::from_str::<ProxySpec>(text).expect("a proxy");
        let all = said(r#"{"trust_forwarded": true, "proxy_protocol": false}"#);
        assert_eq!(all.trust_forwarded, EVERYBODY);
        assert!(all.proxy_protocol.is_empty());
        let some = said(r#"{"trust_forwarded": ["10.0.0.0/8"]}"#);
        assert_eq!(some.trust_forwarded, ["10.0.0.0/8"]);
        let again = serde_json::to_string(&some).expect("JSON");
        assert_eq!(said(&again), some);
    }

    /// Older daemons and clients refuse a field that they do not know: one that came later is left out while it has no value.
    #[test]
    fn what_is_not_set_is_written_as_it_always_was() {
        const FIELDS: [&str; 29] = [
            "access_log",
            "access_log_every",
            "access_log_format",
            "allow_underscores",
            "check_interval_ms",
            "compress",
            "connect_timeout_ms",
            "header_timeout_ms",
            "hold_timeout_ms",
            "idle_timeout_ms",
            "max_body",
            "max_connections",
            "max_in_flight",
            "max_streams",
            "protocol",
            "proxy_protocol",
            "queue_limit",
            "queue_timeout_ms",
            "redirect_http",
            "request_timeout_ms",
            "response_timeout_ms",
            "retries",
            "slow_start_ms",
            "sticky",
            "stream_timeout_ms",
            "tls_cert",
            "tls_key",
            "trust_forwarded",
            "tunnel_timeout_ms",
        ];
        let written = serde_json::to_value(ProxySpec::default()).expect("JSON");
        let mut fields: Vec<&str> = written
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        fields.sort_unstable();
        assert_eq!(fields, FIELDS);
    }
}
