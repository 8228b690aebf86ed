//! Spans: what the proxy says of a request that was served.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::context::{SpanId, TraceId};

/// A request that was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: TraceId,
    /// This span.
    pub id: SpanId,
    /// The client's span.
    pub parent: Option<SpanId>,
    /// When the head of the request had come, in nanoseconds since 1970.
    pub start_ns: u64,
    /// The time to the end of the response.
    pub duration: Duration,
    /// The method, or `_OTHER`.
    pub method: &'static str,
    /// The path without the query.
    pub path: Box<str>,
    /// The version of HTTP that the client spoke.
    pub protocol: &'static str,
    /// The status of the response; `None`: the client had gone before.
    pub status: Option<u16>,
    /// The client.
    pub client: IpAddr,
    /// What the request was for.
    pub app: Arc<str>,
    /// The key of the upstream that was chosen last.
    pub upstream: Option<u32>,
    /// The time until an upstream was chosen and connected.
    pub queue: Option<Duration>,
    /// How often an upstream was chosen.
    pub attempts: u32,
}
