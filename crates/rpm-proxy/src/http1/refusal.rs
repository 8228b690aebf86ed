//! What a client is told instead of a worker's answer.

/// Why a request is not passed on, or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of what it is answered.
    pub status: u16,
    /// Its text.
    pub why: &'static str,
}

pub(crate) const fn bad(why: &'static str) -> Refusal {
    Refusal { status: 400, why }
}

/// `Expect` says something that nobody here knows (RFC 9110, 10.1.1).
pub(crate) const UNEXPECTED: Refusal = Refusal {
    status: 417,
    why: "an expectation that nobody knows",
};

/// An answer has come, and is none.
pub(crate) const UNREADABLE: Refusal = Refusal {
    status: 502,
    why: "the worker's answer cannot be read",
};

/// [`UNANSWERED`], and what the log is told of it.
pub(crate) const UNCONNECTED: (Refusal, &str) = (UNANSWERED, "it cannot be connected to");
pub(crate) const ENDED: (Refusal, &str) = (UNANSWERED, "it has ended the connection before");

/// The worker has not answered.
pub(crate) const UNANSWERED: Refusal = Refusal {
    status: 502,
    why: "the worker has not answered",
};

/// Nor has it in time.
pub(crate) const SLOW: Refusal = Refusal {
    status: 504,
    why: "the worker has not answered in time",
};

/// It is the client that it waits for.
pub(crate) const SLOW_CLIENT: Refusal = Refusal {
    status: 408,
    why: "the body of the request has not come in time",
};

/// More than the settings allow.
pub(crate) const TOO_LONG: Refusal = Refusal {
    status: 413,
    why: "a body that is too long",
};

/// It is served elsewhere.
pub(crate) const MOVED: Refusal = Refusal {
    status: 308,
    why: "it is served by https",
};

/// It came in clear text where TLS is spoken.
pub(crate) const NO_TLS: Refusal = bad("HTTP in clear text, and this port is for https");

/// It would be shown what the proxy adds, and cookies that no script may see.
pub(crate) const NO_TRACE: Refusal = Refusal {
    status: 501,
    why: "TRACE is not served",
};

/// And where is not known.
pub(crate) const UNDIRECTED: Refusal = bad("no Host to be redirected to");

/// The request line alone is larger than a head may be.
pub(crate) const TARGET_TOO_LONG: Refusal = Refusal {
    status: 414,
    why: "a target that is too long",
};

/// The head of the request is larger than it may be.
pub(crate) const HEAD_TOO_LARGE: Refusal = Refusal {
    status: 431,
    why: "header fields that are too large",
};

/// All fields of a message are too many.
pub(crate) const TOO_MANY: Refusal = Refusal {
    status: 431,
    why: "too many header fields",
};
