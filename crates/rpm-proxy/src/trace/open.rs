//! Sampled requests that are served.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::context::Context;
use super::span::Span;
use super::spans::Spans;

/// The most bytes of a path that are kept: what waits for a reader is bounded.
const PATH_BYTES: usize = 512;
/// The methods that are shown by name (RFC 9110 and 5789), as the conventions of OpenTelemetry want it: what clients make up is no name.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
/// Any other.
const OTHER_METHOD: &str = "_OTHER";

/// What the proxy knows of a request when its head has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'r> {
    pub(crate) method: &'r str,
    /// The target: a path or a URL.
    pub(crate) target: &'r str,
    pub(crate) protocol: &'static str,
    pub(crate) client: IpAddr,
}

/// A sampled request while it is served. It becomes a span when it is dropped, so that there is one, however the request ends.
#[derive(Debug)]
pub(crate) struct OpenSpan {
    spans: Arc<Spans>,
    app: Arc<str>,
    context: Context,
    began: Instant,
    start_ns: u64,
    method: &'static str,
    path: Box<str>,
    protocol: &'static str,
    client: IpAddr,
    status: Cell<u16>,
    upstream: Cell<Option<u32>>,
    queue: Cell<Option<Duration>>,
    attempts: Cell<u32>,
}

impl OpenSpan {
    /// `app`: what the request is for. The span goes to `spans`.
    pub(crate) fn begin(app: &Arc<str>, spans: &Arc<Spans>, context: Context, asked: Asked<'_>) -> OpenSpan {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let method = METHODS.into_iter().find(|known| *known == asked.method);
        OpenSpan {
            spans: Arc::clone(spans),
            app: Arc::clone(app),
            context,
            began: Instant::now(),
            start_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            method: method.unwrap_or(OTHER_METHOD),
            path: path_of(asked.target).into(),
            protocol: asked.protocol,
            client: asked.client,
            status: Cell::new(0),
            upstream: Cell::new(None),
            queue: Cell::new(None),
            attempts: Cell::new(0),
        }
    }

    /// An upstream was chosen.
    pub(crate) fn chosen(&self, upstream: u32) {
        self.upstream.set(Some(upstream));
        self.attempts.set(self.attempts.get() + 1);
    }

    /// It is connected.
    pub(crate) fn connected(&self) {
        if self.queue.get().is_none() {
            self.queue.set(Some(self.began.elapsed()));
        }
    }

    /// The status of the response; 0 if there is none.
    pub(crate) fn answered(&self, status: u16) {
        self.status.set(status);
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        let status = self.status.get();
        self.spans.add(Span {
            trace: self.context.sent.trace,
            id: self.context.sent.parent,
            parent: self.context.parent,
            start_ns: self.start_ns,
            duration: self.began.elapsed(),
            method: self.method,
            path: std::mem::take(&mut self.path),
            protocol: self.protocol,
            status: (status != 0).then_some(status),
            client: self.client,
            app: Arc::clone(&self.app),
            upstream: self.upstream.get(),
            queue: self.queue.get(),
            attempts: self.attempts.get(),
        });
    }
}

/// The path of a target, without host, user and query.
fn path_of(target: &str) -> &str {
    let rest = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            &rest[end..]
        }
        _ => target,
    };
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let is_origin = path.starts_with('/') || path == "*";
    let path = if is_origin { path } else { "/" };
    let mut end = path.len().min(PATH_BYTES);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::super::context::{Drawn, SampledPart, SpanId, TraceId};
    use super::super::spans::SPANS;
    use super::*;

    fn begin(spans: &Arc<Spans>, method: &str, target: &str) -> OpenSpan {
        let drawn = Drawn {
            trace: TraceId(1),
            span: SpanId(2),
        };
        let asked = Asked {
            method,
            target,
            protocol: "1.1",
            client: [127, 0, 0, 1].into(),
        };
        let context = Context::of(std::iter::empty(), SampledPart::new(1.0), drawn);
        OpenSpan::begin(&"web".into(), spans, context, asked)
    }

    #[test]
    fn a_path_has_neither_host_nor_user_nor_query() {
        let long = format!("/{}é", "x".repeat(PATH_BYTES - 2));
        for (target, expected) in [
            ("/a/b?token=s3cret", "/a/b"),
            ("/a#b?c", "/a"),
            ("/?a", "/"),
            ("*", "*"),
            ("http://u:s3cret@a.test/x?y", "/x"),
            ("http://a.test?s3cret", "/"),
            ("HTTPS://a.test", "/"),
            ("/to?next=http://b.test/s3cret", "/to"),
            ("/to/http://b.test/x", "/to/http://b.test/x"),
            ("a.test:443", "/"),
            ("", "/"),
            (&long, &long[..PATH_BYTES - 1]),
        ] {
            assert_eq!(path_of(target), expected, "{target}");
        }
    }

    #[test]
    fn a_span_says_how_the_request_went() {
        let spans = Arc::new(Spans::new(SPANS));
        let open = begin(&spans, "GET", "/");
        open.chosen(3);
        open.chosen(4);
        open.connected();
        let queue = open.queue.get();
        open.chosen(5);
        open.connected();
        open.answered(502);
        drop(open);
        drop(begin(&spans, "BREW", "/pot"));
        let (taken, lost) = spans.take();
        let [first, second] = &Vec::from(taken)[..] else {
            panic!("one for each");
        };
        assert_eq!(lost, 0);
        assert_eq!(
            (first.upstream, first.attempts, first.status),
            (Some(5), 3, Some(502))
        );
        assert!(
            queue.is_some() && first.queue == queue,
            "the first that was connected"
        );
        assert_eq!(
            (first.trace, first.id, first.parent),
            (TraceId(1), SpanId(2), None)
        );
        assert_eq!(
            (second.method, &*second.path, second.status),
            ("_OTHER", "/pot", None)
        );
        assert_eq!((second.upstream, second.queue, second.attempts), (None, None, 0));
    }
}
