//! Settings of a front.

use std::ops::RangeInclusive;
use std::time::Duration;

use rpm_tls::Certificate;

use crate::access_log::LogSettings;
use crate::balance::UpstreamPolicy;
use crate::health::HealthReports;
use crate::network::Network;
use crate::trace::Tracing;

/// Bounds of [`Settings::max_head`]: usual requests fit, and a connection cannot take much memory.
pub const HEAD_SIZES: RangeInclusive<usize> = 4 * 1024..=1024 * 1024;

/// Settings of a front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How an upstream is chosen.
    pub policy: UpstreamPolicy,
    /// Time to connect to an upstream.
    pub connect_timeout: Duration,
    /// Time to the head of a response.
    pub response_timeout: Duration,
    /// Time to the head of a response, over all attempts and all waiting.
    pub request_timeout: Option<Duration>,
    /// Time for the head of a request.
    pub header_timeout: Duration,
    /// How long a request waits while there is no upstream.
    pub hold_timeout: Duration,
    /// Most retries of a request.
    pub retries: u32,
    /// Clients whose forwarding headers are trusted.
    pub trust_forwarded: Vec<Network>,
    /// Pass on fields whose names differ from those of the proxy by underscores alone.
    pub allow_underscores: bool,
    /// How long a client's connection may be idle.
    pub idle_timeout: Duration,
    /// How long both bodies may stall once the response has begun.
    pub stream_timeout: Duration,
    /// How long a tunnel may be silent; `ZERO`: for ever.
    pub tunnel_timeout: Duration,
    /// Largest body of a request, in bytes.
    pub max_body: u64,
    /// Largest head of a request or response, in bytes; one of [`HEAD_SIZES`].
    pub max_head: usize,
    /// Most requests in flight of an upstream.
    pub max_in_flight: Option<u32>,
    /// Most requests that wait when all upstreams are busy.
    pub queue_limit: u32,
    /// How long they may wait.
    pub queue_timeout: Duration,
    /// The name of the cookie by which a client stays with its worker.
    pub cookie: Option<String>,
    /// How long a new upstream gets fewer requests, with policies that compare load.
    pub slow_start: Duration,
    /// Active health checks.
    pub check: Option<Check>,
    /// Most connections of one client address.
    pub max_connections: Option<u32>,
    /// Most open requests of an HTTP/2 connection.
    pub max_streams: u32,
    /// Connections from these networks begin with the PROXY protocol.
    pub proxy_protocol: Vec<Network>,
    /// Pass on connections as they are, without HTTP.
    pub tcp: bool,
    /// Speak HTTP/2 to workers, in clear text with prior knowledge.
    pub h2c: bool,
    /// Compress responses for clients that accept gzip.
    pub compress: bool,
    /// Certificates, if clients speak TLS. The first is for clients that name no host.
    pub certificates: Vec<Certificate>,
    /// Redirect every request to `https` at this port.
    pub redirect: Option<u16>,
    /// The access log.
    pub access_log: Option<LogSettings>,
    /// Traces: each request has a trace context, and sampled ones have spans.
    pub tracing: Option<Tracing>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: UpstreamPolicy::default(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            request_timeout: None,
            header_timeout: Duration::from_secs(20),
            hold_timeout: Duration::from_secs(10),
            retries: 2,
            trust_forwarded: Vec::new(),
            allow_underscores: false,
            idle_timeout: Duration::from_secs(75),
            stream_timeout: Duration::from_secs(600),
            tunnel_timeout: Duration::from_secs(3600),
            max_body: u64::MAX,
            max_head: 64 * 1024,
            max_in_flight: None,
            queue_limit: 1024,
            queue_timeout: Duration::from_secs(10),
            cookie: None,
            slow_start: Duration::ZERO,
            check: None,
            max_connections: None,
            max_streams: 256,
            proxy_protocol: Vec::new(),
            tcp: false,
            h2c: false,
            compress: false,
            certificates: Vec::new(),
            redirect: None,
            access_log: None,
            tracing: None,
        }
    }
}

/// Active health checks of upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Path and query.
    pub path: String,
    /// The status of a healthy response.
    pub status: u16,
    /// Time between two checks of an upstream.
    pub interval: Duration,
    /// Time for a response.
    pub timeout: Duration,
    /// Successful checks in a row after which an upstream is healthy again.
    pub good: u32,
    /// Failed checks in a row after which it is unhealthy.
    pub bad: u32,
    /// Who hears of either.
    pub reports: HealthReports,
}

/// The size is not within [`HEAD_SIZES`].
#[derive(Debug, thiserror::Error)]
#[error("max_head must be between {} and {} bytes, not {size}", HEAD_SIZES.start(), HEAD_SIZES.end())]
pub struct BadHeadSize {
    size: u64,
}

/// Checks a size for [`Settings::max_head`].
///
/// # Errors
/// It is not within [`HEAD_SIZES`].
pub fn head_size(size: u64) -> Result<usize, BadHeadSize> {
    let fits = usize::try_from(size)
        .ok()
        .filter(|size| HEAD_SIZES.contains(size));
    fits.ok_or(BadHeadSize { size })
}
