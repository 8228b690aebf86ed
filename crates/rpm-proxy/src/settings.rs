//! How a front passes on requests.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::access_log::LogSettings;
use crate::balance::Policy;
use crate::network::Network;
use crate::tls::Certificate;

/// What [`Settings::max_head`] may be: heads of usual requests fit, and a connection cannot occupy much memory by one.
pub const HEAD_SIZES: RangeInclusive<usize> = 4 * 1024..=1024 * 1024;

/// How requests are passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which upstream a request goes to.
    pub policy: Policy,
    /// For a connection to an upstream.
    pub connect_timeout: Duration,
    /// For the head of an answer.
    pub response_timeout: Duration,
    /// For the head of an answer, over all attempts and all waiting.
    pub request_timeout: Option<Duration>,
    /// For the head of a request.
    pub header_timeout: Duration,
    /// How long a request waits for an upstream where there is none.
    pub hold_timeout: Duration,
    /// How often a request is tried again, at most.
    pub retries: u32,
    /// What these clients say of earlier proxies is true.
    pub trust_forwarded: Vec<Network>,
    /// Fields of clients are passed on whose names differ from those of the proxy by underscores alone.
    pub allow_underscores: bool,
    /// How long a client's connection may be idle.
    pub idle_timeout: Duration,
    /// How long a body may not move, in either direction, once the answer has begun.
    pub stream_timeout: Duration,
    /// How long neither side of a connection that has left HTTP may send anything; `ZERO`: for ever.
    pub tunnel_timeout: Duration,
    /// Longest body of a request, in bytes.
    pub max_body: u64,
    /// Largest head of a request or response, in bytes; one of [`HEAD_SIZES`].
    pub max_head: usize,
    /// Requests that an upstream may have at once.
    pub max_in_flight: Option<u32>,
    /// Requests that may wait when all have as many.
    pub queue_limit: u32,
    /// How long they may wait.
    pub queue_timeout: Duration,
    /// The name of a cookie by which a client stays with its worker.
    pub cookie: Option<String>,
    /// How long a new upstream is spared, where the policy looks at what they have.
    pub slow_start: Duration,
    /// Whether upstreams are asked how they are.
    pub check: Option<Check>,
    /// Connections that one address may have.
    pub max_connections: Option<u32>,
    /// Requests that a client may have open on a connection of HTTP/2.
    pub max_streams: u32,
    /// Connections from here begin with the PROXY protocol.
    pub proxy_protocol: Vec<Network>,
    /// Connections are passed on as they are.
    pub tcp: bool,
    /// Workers are spoken to in HTTP/2, in clear text and with prior knowledge.
    pub h2c: bool,
    /// Answers are compressed for clients that know gzip.
    pub compress: bool,
    /// Clients speak TLS: the certificates, of which the first is for those that name none.
    pub certificates: Vec<Certificate>,
    /// Every client is sent to `https` at this port.
    pub redirect: Option<u16>,
    /// A line for each request.
    pub access_log: Option<LogSettings>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: Policy::default(),
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
        }
    }
}

/// How they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Path and query.
    pub path: String,
    /// The status of a good answer.
    pub status: u16,
    /// Between two requests to the same one.
    pub interval: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Good answers in a row after which it is well again.
    pub good: u32,
    /// Bad ones after which it is not.
    pub bad: u32,
}

/// A size outside of [`HEAD_SIZES`].
#[derive(Debug, thiserror::Error)]
#[error("max_head must be between {} and {} bytes, not {size}", HEAD_SIZES.start(), HEAD_SIZES.end())]
pub struct BadHeadSize {
    size: u64,
}

/// Converts a size that a user has given to one for [`Settings::max_head`].
///
/// # Errors
/// It is not one of [`HEAD_SIZES`].
pub fn head_size(size: u64) -> Result<usize, BadHeadSize> {
    let fits = usize::try_from(size)
        .ok()
        .filter(|size| HEAD_SIZES.contains(size));
    fits.ok_or(BadHeadSize { size })
}
