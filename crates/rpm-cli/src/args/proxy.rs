//! Options of the proxy, which make it what balances.

use rpm_spec::{EVERYBODY, ProxyOptions};

use super::values::{amount, duration, network};

/// What `--balance proxy` is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "With --balance proxy")]
pub(crate) struct ProxyArgs {
    /// Certificates in PEM: clients speak TLS; of several the one with the name that a client asks for
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub(crate) tls_cert: Vec<String>,
    /// Their keys, in the same order
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub(crate) tls_key: Vec<String>,
    /// Another port, whose clients are sent to the one with TLS
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub(crate) redirect_http: Option<u32>,
    /// Connections begin with the PROXY protocol, version 1 or 2: all, or those from these addresses and networks
    #[arg(long, value_name = "NETWORK", num_args = 0..=1, require_equals = true, value_delimiter = ',', value_parser = network, default_missing_values = EVERYBODY)]
    pub(crate) proxy_protocol: Vec<String>,
    /// What clients say of earlier proxies (X-Forwarded-For and the like) is true: all, or those from these addresses and networks
    #[arg(long, value_name = "NETWORK", num_args = 0..=1, require_equals = true, value_delimiter = ',', value_parser = network, default_missing_values = EVERYBODY)]
    pub(crate) trust_forwarded: Vec<String>,
    /// Pass on fields that look like those of the proxy where they become variables (X_Forwarded_For)
    #[arg(long)]
    pub(crate) allow_underscores: bool,
    /// `h2c` speaks HTTP/2 to the workers (gRPC), `tcp` passes on connections as they are
    #[arg(long, value_name = "NAME", value_parser = ["http", "h2c", "tcp"])]
    pub(crate) protocol: Option<String>,
    /// Compress answers for clients that know gzip
    #[arg(long)]
    pub(crate) compress: bool,
    /// Name of a cookie by which a client stays with its worker
    #[arg(long, value_name = "COOKIE")]
    pub(crate) sticky: Option<String>,
    /// Requests that a worker may have at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_in_flight: Option<u32>,
    /// Requests that may wait when all workers have as many; 1024 by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..))]
    pub(crate) queue_limit: Option<u32>,
    /// How long they may wait; 10s by default
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) queue_timeout: Option<u64>,
    /// How long a request waits while no worker serves; 10s by default
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) hold_timeout: Option<u64>,
    /// How often a request is tried again, at most; 2 by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..))]
    pub(crate) retries: Option<u32>,
    /// For a connection to a worker; 2s by default
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) connect_timeout: Option<u64>,
    /// For the head of an answer; 60s by default
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) response_timeout: Option<u64>,
    /// For the head of an answer over all attempts and all waiting; none by default
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) request_timeout: Option<u64>,
    /// How long a body may not move once the answer has begun; 10m by default
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) stream_timeout: Option<u64>,
    /// How long neither side of a WebSocket or of `--protocol tcp` may send anything; 1h by default, 0 is for ever
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) tunnel_timeout: Option<u64>,
    /// For the head of a request; 20s by default
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) header_timeout: Option<u64>,
    /// How long the connection of a client may be idle; 75s by default
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) idle_timeout: Option<u64>,
    /// Longest body of a request
    #[arg(long, value_name = "SIZE", value_parser = amount)]
    pub(crate) max_body: Option<u64>,
    /// Connections that one address may have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections: Option<u32>,
    /// Requests that a client may have open on a connection of HTTP/2; 256 by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_streams: Option<u32>,
    /// How long a new worker is spared, with `least-connections` and `latency`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) slow_start: Option<u64>,
    /// Between two requests of the health check to each worker that serves; without it only new workers are asked
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) check_interval: Option<u64>,
    /// A file with a line for each request
    #[arg(long, value_name = "FILE")]
    pub(crate) access_log: Option<String>,
    /// The format of its lines; `combined` by default
    #[arg(long, value_name = "NAME", value_parser = ["combined", "json"])]
    pub(crate) access_log_format: Option<String>,
    /// Only one of so many requests has a line
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) access_log_every: Option<u32>,
}

impl ProxyArgs {
    /// What they say.
    pub(crate) fn options(&self) -> ProxyOptions {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        ProxyOptions {
            tls_cert: some(&self.tls_cert),
            tls_key: some(&self.tls_key),
            redirect_http: self.redirect_http,
            proxy_protocol: some(&self.proxy_protocol),
            trust_forwarded: some(&self.trust_forwarded),
            allow_underscores: self.allow_underscores.then_some(true),
            protocol: self.protocol.clone(),
            compress: self.compress.then_some(true),
            sticky: self.sticky.clone(),
            max_in_flight: self.max_in_flight,
            queue_limit: self.queue_limit,
            queue_timeout_ms: self.queue_timeout,
            hold_timeout_ms: self.hold_timeout,
            retries: self.retries,
            connect_timeout_ms: self.connect_timeout,
            response_timeout_ms: self.response_timeout,
            request_timeout_ms: self.request_timeout,
            stream_timeout_ms: self.stream_timeout,
            tunnel_timeout_ms: self.tunnel_timeout,
            header_timeout_ms: self.header_timeout,
            idle_timeout_ms: self.idle_timeout,
            max_body: self.max_body,
            max_connections: self.max_connections,
            max_streams: self.max_streams,
            slow_start_ms: self.slow_start,
            check_interval_ms: self.check_interval,
            access_log: self.access_log.clone(),
            access_log_format: self.access_log_format.clone(),
            access_log_every: self.access_log_every,
        }
    }
}
