//! The responses of the proxy itself: which status and which text for which fault.

/// Why the proxy answers a request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status of the response.
    pub status: u16,
    /// Its text.
    pub why: &'static str,
}

impl Rejection {
    /// The type of the response's content.
    pub(crate) const CONTENT_TYPE: &'static str = "text/plain; charset=utf-8";

    const fn new(status: u16, why: &'static str) -> Rejection {
        Rejection { status, why }
    }

    /// The content of the response: a line of text.
    pub(crate) fn content(self) -> String {
        format!("{}\n", self.why)
    }

    /// `Retry-After`: the client may try again after so many seconds.
    pub(crate) fn retry_after(self) -> Option<&'static str> {
        (self.status == 503).then_some("1")
    }
}

/// The request is malformed.
pub(crate) const fn bad(why: &'static str) -> Rejection {
    Rejection::new(400, why)
}

/// The Host is malformed.
pub(crate) const NO_HOST: Rejection = bad("invalid Host header");
/// The request could be redirected, but it does not say which host it is for.
pub(crate) const UNDIRECTED: Rejection = bad("missing Host header: cannot redirect");
/// The body of a request over HTTP/1 is malformed, or ends too early.
pub(crate) const BROKEN_BODY: Rejection = bad("malformed or incomplete request body");
/// It came in clear text where TLS is spoken.
pub(crate) const NO_TLS: Rejection = bad("plain HTTP request sent to an https port");
/// The target is `*`.
pub(crate) const ONLY_OPTIONS: Rejection = bad("request target * is for OPTIONS only");

/// The client did not send the head of its request in time.
pub(crate) const SLOW_HEAD: Rejection = Rejection::new(408, "request head timed out");
/// The client did not send the body of its request in time.
pub(crate) const SLOW_CLIENT: Rejection = Rejection::new(408, "request body timed out");
/// The body is larger than the settings allow.
pub(crate) const TOO_LONG: Rejection = Rejection::new(413, "request body too large");
/// The request line alone is larger than a head may be.
pub(crate) const TARGET_TOO_LONG: Rejection = Rejection::new(414, "request target too long");
/// `Expect` has a value other than `100-continue` (RFC 9110, 10.1.1).
pub(crate) const UNEXPECTED: Rejection = Rejection::new(417, "unsupported Expect header");
/// The head of the request is larger than it may be.
pub(crate) const HEAD_TOO_LARGE: Rejection = Rejection::new(431, "request header fields too large");
/// The request has too many fields.
pub(crate) const TOO_MANY: Rejection = Rejection::new(431, "too many header fields");

/// Tunnels are not for workers.
pub(crate) const NO_CONNECT: Rejection = Rejection::new(501, "CONNECT is not supported");
/// The response would show what the proxy adds, and cookies that no script may see.
pub(crate) const NO_TRACE: Rejection = Rejection::new(501, "TRACE is not supported");
/// The request has a transfer coding besides `chunked`.
pub(crate) const UNKNOWN_CODING: Rejection = Rejection::new(501, "unsupported transfer coding");
/// The request has another version of HTTP.
pub(crate) const UNKNOWN_VERSION: Rejection = Rejection::new(505, "HTTP version not supported");

/// The worker's response is malformed.
pub(crate) const UNREADABLE: Rejection = Rejection::new(502, "malformed upstream response");
/// The worker ended the connection, or does not accept any.
pub(crate) const UNANSWERED: Rejection = Rejection::new(502, "no response from upstream");
/// The worker has answered a request for a WebSocket as if it were another one.
pub(crate) const NO_WEBSOCKET: Rejection = Rejection::new(502, "upstream did not open the WebSocket");
/// The proxy has no descriptor, port or memory left for a connection, or the system forbids it.
pub(crate) const NO_CONNECTION: Rejection = Rejection::new(503, "the proxy cannot open a connection");
/// No worker could be given the request in time.
pub(crate) const NO_WORKER: Rejection = Rejection::new(503, "no worker available");
/// All workers have as many requests as they may have, and too many requests wait, or too long.
pub(crate) const ALL_BUSY: Rejection = Rejection::new(503, "all workers are busy");
/// The worker did not respond in time.
pub(crate) const SLOW: Rejection = Rejection::new(504, "upstream response timed out");

/// The client is to use https.
pub(crate) const MOVED: Rejection = Rejection::new(308, "moved to https");
