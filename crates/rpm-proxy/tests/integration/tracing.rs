//! Traces: what a worker is sent, and which spans there are, over both versions of HTTP.

use std::sync::Arc;

use rpm_proxy::trace::context::{SampledPart, TraceParent};
use rpm_proxy::{SPANS, Settings, Span, Spans, Tracing};

use crate::answers::{by_http1_with, by_http2_with};
use crate::frames::*;
use crate::site::{BOUND, Site};

const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
const STATE: &str = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7";

type Fields<'f> = &'f [(&'f str, &'f str)];
/// Sends a request, by a version of HTTP.
type Over = fn(&Site, &str, Fields<'_>);

const BOTH: [(&str, Over); 2] = [("1.1", by_http1), ("2", by_http2)];

fn by_http1(site: &Site, path: &str, fields: Fields<'_>) {
    let _ = by_http1_with(site, path, fields);
}

fn by_http2(site: &Site, path: &str, fields: Fields<'_>) {
    let _ = by_http2_with(site, path, fields);
}

fn site(ratio: f64) -> (Site, Arc<Spans>) {
    let spans = Arc::new(Spans::new(SPANS));
    let tracing = Tracing {
        part: SampledPart::new(ratio),
        app: "web".into(),
        spans: Arc::clone(&spans),
    };
    let settings = Settings {
        retries: 1,
        tracing: Some(tracing),
        ..Settings::default()
    };
    (Site::with(settings), spans)
}

/// The values of a field that the worker was sent.
fn sent(site: &Site, name: &str) -> Vec<String> {
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
    let text = String::from_utf8_lossy(&seen).into_owned();
    let (head, _) = text.split_once("\r\n\r\n").expect("a head");
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let of_name = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    of_name.map(|(_, value)| value.to_owned()).collect()
}

/// The spans of so many requests, which come when the responses have ended.
fn spans_of(spans: &Spans, count: usize) -> Vec<Span> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut come = Vec::new();
    while come.len() < count {
        let any = async { tokio::time::timeout(BOUND, spans.any()).await };
        runtime.block_on(any).expect("a span");
        let (taken, lost) = spans.take();
        assert_eq!(lost, 0);
        come.extend(taken);
    }
    assert_eq!(come.len(), count, "{come:?}");
    come
}

fn only(spans: &Spans) -> Span {
    spans_of(spans, 1).remove(0)
}

/// What is to become of a request with these fields.
#[derive(Clone, Copy, Debug)]
struct Case {
    fields: Fields<'static>,
    ratio: f64,
    continued: bool,
    sampled: bool,
}

const fn case(fields: Fields<'static>, ratio: f64, continued: bool, sampled: bool) -> Case {
    Case {
        fields,
        ratio,
        continued,
        sampled,
    }
}

/// Next to nothing, so that nothing new is sampled.
const TINY: f64 = 1e-15;
const WITH_STATE: (&str, &str) = ("tracestate", STATE);
const CASES: [Case; 6] = [
    case(&[], 1.0, false, true),
    case(&[], TINY, false, false),
    case(&[("traceparent", GOOD), WITH_STATE], TINY, true, true),
    case(&[("Traceparent", UNSAMPLED), WITH_STATE], 1.0, true, false),
    case(&[("traceparent", "00-nonsense"), WITH_STATE], 1.0, false, true),
    case(
        &[("traceparent", GOOD), ("traceparent", GOOD), WITH_STATE],
        1.0,
        false,
        true,
    ),
];

#[test]
fn a_trace_is_continued_or_begun_and_the_worker_knows() {
    for case in CASES {
        for (protocol, over) in BOTH {
            let (site, spans) = site(case.ratio);
            over(&site, "/a?token=s3cret", case.fields);
            let values = sent(&site, "traceparent");
            let [value] = &values[..] else {
                panic!("{protocol} {case:?}: {values:?}");
            };
            let parent = TraceParent::parse(value.as_bytes()).expect("it is valid");
            let is_of_client = value.contains("4bf92f3577b34da6a3ce929d0e0e4736");
            let seen = (parent.is_sampled(), is_of_client);
            assert_eq!(
                seen,
                (case.sampled, case.continued),
                "{protocol} {case:?}: {value}"
            );
            assert!(
                !value.contains("00f067aa0ba902b7"),
                "the parent is the proxy's span"
            );
            // The state belongs to the trace that it came with.
            over(&site, "/", case.fields);
            let state = if case.continued { vec![STATE] } else { vec![] };
            assert_eq!(sent(&site, "tracestate"), state, "{protocol} {case:?}");
            if case.sampled {
                let both = spans_of(&spans, 2);
                let first = both.iter().find(|span| span.id == parent.parent);
                check(first.expect("its span"), case, protocol, parent);
            } else {
                // The second response has ended before this.
                assert_eq!(spans.take().0.len(), 0, "{protocol} {case:?}");
            }
        }
    }
}

/// The span of a good request for `/a`, whose worker got this parent.
fn check(span: &Span, case: Case, protocol: &str, parent: TraceParent) {
    assert_eq!(span.trace, parent.trace, "{protocol} {case:?}");
    let of_client = case.continued.then_some(0x00f0_67aa_0ba9_02b7);
    assert_eq!(span.parent.map(|id| id.0), of_client, "{protocol} {case:?}");
    let said = (span.method, &*span.path, span.protocol, span.status);
    assert_eq!(said, ("GET", "/a", protocol, Some(200)));
    let given = (span.upstream, span.attempts, &*span.app, span.client);
    assert_eq!(given, (Some(0), 1, "web", [127, 0, 0, 1].into()));
    assert!(span.queue.is_some_and(|queue| queue <= span.duration), "{span:?}");
}

#[test]
fn without_tracing_the_clients_fields_pass_as_they_are() {
    for (protocol, over) in BOTH {
        let site = Site::with(Settings::default());
        for (name, value) in [("traceparent", "00-nonsense"), ("tracestate", STATE)] {
            over(
                &site,
                "/",
                &[("traceparent", "00-nonsense"), ("tracestate", STATE)],
            );
            assert_eq!(sent(&site, name), [value], "{protocol}");
        }
    }
}

#[test]
fn a_request_has_one_span_however_it_ends() {
    for (protocol, over) in BOTH {
        let (site_of_one, spans) = site(1.0);
        over(&site_of_one, "/gone", &[]);
        let span = only(&spans);
        assert_eq!(
            (span.status, span.attempts, span.upstream),
            (Some(502), 2, Some(0)),
            "{protocol}"
        );
        let (site, spans) = site(1.0);
        over(&site, "/", &[("expect", "wonders")]);
        let span = only(&spans);
        assert_eq!(
            (span.status, span.attempts, span.upstream),
            (Some(417), 0, None),
            "{protocol}"
        );
        assert_eq!(span.queue, None, "{protocol}");
    }
    // A client that breaks off its request has no status.
    let (site, spans) = site(1.0);
    let mut client = Client::connect(&site, &[]);
    client.send(&frame(HEADERS, END_HEADERS, 1, &fields(&at(POST, "/deaf"))));
    client.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    let span = only(&spans);
    assert_eq!((span.method, &*span.path, span.status), ("POST", "/deaf", None));
}
