//! Responses that begin and do not end: the worker is named, unless the client is the cause.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rpm_proxy::{Figures, Settings};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::frames::*;
use crate::site::{BOUND, Site};

const SHORT: Duration = Duration::from_millis(300);
/// For workers and clients that only have to go on, however little CPU they get.
const PATIENT: Duration = Duration::from_secs(5);
const BROKE_OFF: &str = "response broke off";
const STALLED: &str = "response stalled";
/// A response that breaks off after so many bytes. They fit into no buffers together.
const MUCH: usize = 20_000_000;

/// What this program has logged as warnings.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        WARNINGS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What was logged about the worker at this port.
fn logged(port: &str) -> Vec<String> {
    let all = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter(|line| line.contains(port)).cloned().collect()
}

fn site(stream_timeout: Duration) -> Site {
    // Another test may have set it.
    let _ = tracing::subscriber::set_global_default(Log);
    Site::with(Settings {
        retries: 0,
        stream_timeout,
        ..Settings::default()
    })
}

fn until(site: &Site, what: &str, is: impl Fn(&Figures) -> bool) {
    let deadline = Instant::now() + BOUND;
    while !is(&site.front.figures()) {
        assert!(Instant::now() < deadline, "{what}: {:?}", site.front.figures());
        thread::yield_now();
    }
}

fn by_http1(site: &Site, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    stream
}

fn by_http2(site: &Site, path: &str) -> Client {
    let mut client = Client::connect(site, &[]);
    let head = [&GET[..2], &[(":path", path)], &GET[3..]].concat();
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(&head)));
    client
}

#[test]
fn a_worker_that_does_not_finish_a_response_is_named() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok";
    for (says, why, within) in [(Some(&half[..]), BROKE_OFF, PATIENT), (None, STALLED, SHORT)] {
        for is_http2 in [false, true] {
            let site = site(within);
            let path = says.map_or("/half".to_owned(), |says| site.upstream.says(says));
            if is_http2 {
                let mut client = by_http2(&site, &path);
                client.read_until(|seen| seen.resets.contains_key(&1));
                assert!(!client.seen.complete.contains(&1), "{:?}", client.seen);
            } else {
                let _ = by_http1(&site, &path).read_to_end(&mut Vec::new());
            }
            until(&site, why, |figures| figures.broken == 1);
            let logged = logged(&site.upstream.address());
            assert_eq!(logged.len(), 1, "{logged:?}");
            for part in ["status=200", why] {
                assert!(logged[0].contains(part), "HTTP/2: {is_http2}: {logged:?}");
            }
        }
    }
}

#[test]
fn a_response_that_its_client_does_not_take_is_not_the_workers_fault() {
    let much = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n{}",
        "x".repeat(MUCH)
    );
    for stays in [false, true] {
        for is_http2 in [false, true] {
            // What the client has room for comes without such a pause.
            let site = site(PATIENT);
            let path = site.upstream.says(much.as_bytes());
            let begun = |figures: &Figures| figures.answers[1] == 1;
            let held = if is_http2 {
                let client = by_http2(&site, &path);
                until(&site, "it begins", begun);
                Some(client.stream).filter(|_| stays)
            } else {
                let client = by_http1(&site, &path);
                until(&site, "it begins", begun);
                Some(client).filter(|_| stays)
            };
            until(&site, "it is given up", |figures| {
                figures.in_flight == 0 && figures.connections == 0
            });
            drop(held);
            let figures = site.front.figures();
            assert_eq!(figures.broken, 0, "HTTP/2: {is_http2}, stays: {stays}");
            let logged = logged(&site.upstream.address());
            assert!(logged.is_empty(), "HTTP/2: {is_http2}: {logged:?}");
        }
    }
}
