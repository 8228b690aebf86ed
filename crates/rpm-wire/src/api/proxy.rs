//! What the proxy is to do with an app's clients.

use serde::{Deserialize, Deserializer, Serialize};

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

/// For `balance: proxy` alone. What is missing is as it is by default. Durations are in milliseconds, sizes in bytes, paths absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxySpec {
    /// Certificates in PEM: clients speak TLS; of several the one with the name that a client asks for.
    pub tls_cert: Vec<String>,
    /// Their keys, in the same order.
    pub tls_key: Vec<String>,
    /// Another port, whose clients are sent to the one with TLS.
    pub redirect_http: Option<u32>,
    /// Connections from these addresses and networks begin with the PROXY protocol, version 1 or 2; `true` is all.
    #[serde(deserialize_with = "networks")]
    pub proxy_protocol: Vec<String>,
    /// What clients say of earlier proxies (X-Forwarded-For and the like) is true if they come from here; `true` is all.
    #[serde(deserialize_with = "networks")]
    pub trust_forwarded: Vec<String>,
    /// Pass on fields that look like those of the proxy where they become variables (`X_Forwarded_For`).
    pub allow_underscores: bool,
    /// `h2c` speaks HTTP/2 to the workers, `tcp` passes on connections as they are.
    pub protocol: Option<String>,
    /// Compress answers for clients that know gzip.
    pub compress: bool,
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
    /// For the head of an answer over all attempts and all waiting; none by default.
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
}
