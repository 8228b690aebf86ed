//! Clients of workers that speak HTTP/2: hyper drives the connections of all of them, also those of HTTP/1 clients.

use std::convert::Infallible;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rpm_proxy::{Settings, Target, UpstreamId};

use crate::site::{BOUND, Site};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// What a worker sends to requests for `/endless`, as far as it is taken.
struct Endless(Arc<AtomicUsize>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = Bytes::from_static(&[b'x'; 16_384]);
        self.0.fetch_add(part.len(), Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }
}

/// A worker that answers with `ok`, or without end. It counts what is taken of the latter.
fn worker() -> (SocketAddr, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("it is ours");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it can be polled");
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                let answer = move |request: Request<Incoming>| {
                    let body = match request.uri().path() {
                        "/endless" => Endless(Arc::clone(&counted)).boxed(),
                        _ => Full::new(Bytes::from_static(b"ok")).boxed(),
                    };
                    std::future::ready(Ok::<_, Infallible>(Response::new(body)))
                };
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
    });
    (addr, taken)
}

fn site(settings: Settings) -> Site {
    site_of(worker().0, settings)
}

fn site_of(worker: SocketAddr, settings: Settings) -> Site {
    site_after(worker, settings, |_| ()).0
}

/// As [`Site::after`].
fn site_after<T>(worker: SocketAddr, settings: Settings, clients: impl FnOnce(&Site) -> T) -> (Site, T) {
    let settings = Settings {
        retries: 0,
        h2c: true,
        ..settings
    };
    Site::after(settings, |site| {
        site.front.set_upstreams(&[Target {
            id: UpstreamId(2),
            addr: worker.into(),
            weight: 1,
            key: 0,
            reserved: false,
        }]);
        clients(site)
    })
}

fn connect(site: &Site) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    stream
}

/// Reads a response whose content is `ok`, and returns its head in lower case.
fn answer(client: &mut TcpStream) -> String {
    let mut come = Vec::new();
    while !come.ends_with(b"\r\n\r\nok") {
        let mut byte = [0];
        let read = client.read(&mut byte).expect("an answer");
        assert_eq!(read, 1, "it ends after {}", String::from_utf8_lossy(&come));
        come.push(byte[0]);
    }
    String::from_utf8_lossy(&come).to_lowercase()
}

/// All clients that have connected are known to the proxy, and so are its orders.
fn settle(site: &Site, clients: u32) {
    let mut reached = site.proxy.reached();
    assert!(reached.blocking_recv().is_none());
    let deadline = std::time::Instant::now() + BOUND;
    while site.front.figures().connections < clients {
        assert!(std::time::Instant::now() < deadline, "{:?}", site.front.figures());
        thread::yield_now();
    }
}

/// Nothing comes, and the connection does not end.
fn stays(client: &TcpStream, what: &str) {
    let within = Duration::from_millis(200);
    client.set_read_timeout(Some(within)).expect("a deadline");
    let read = (&mut &*client).read(&mut [0]);
    let waits = read
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(waits, "{what}: {read:?}");
    client.set_read_timeout(Some(BOUND)).expect("a deadline");
}

#[test]
fn http1_clients_are_asked_to_close_by_their_next_response_alone() {
    type Ask = fn(&Site);
    let asks: [(&str, Ask); 3] = [
        ("leave", |site| site.proxy.leave(1, true)),
        ("thin", |site| site.proxy.thin(1)),
        ("part", |site| site.proxy.part(1)),
    ];
    for (what, ask) in asks {
        let site = site(Settings::default());
        let (mut new, mut idle) = (connect(&site), connect(&site));
        idle.write_all(REQUEST).expect("it is sent");
        assert!(!answer(&mut idle).contains("connection: close"));
        settle(&site, 2);
        ask(&site);
        settle(&site, 2);
        stays(&new, what);
        stays(&idle, what);
        for client in [&mut new, &mut idle] {
            client.write_all(REQUEST).expect("it is sent");
            let head = answer(client);
            assert!(head.contains("connection: close\r\n"), "{what}: {head}");
            let end = client.read(&mut [0]);
            assert!(matches!(end, Ok(0)), "{what}: {end:?}");
        }
    }
}

#[test]
fn idle_http1_clients_are_closed_at_last() {
    let site = site(Settings::default());
    let (mut new, mut idle) = (connect(&site), connect(&site));
    idle.write_all(REQUEST).expect("it is sent");
    answer(&mut idle);
    settle(&site, 2);
    site.proxy.part(1);
    site.proxy.clear(1);
    for client in [&mut new, &mut idle] {
        let end = client.read(&mut [0]);
        assert!(matches!(end, Ok(0)), "{end:?}");
    }
}

/// All requests of a thread share one connection to a worker, and so does what is not read of their responses.
#[test]
fn clients_that_read_nothing_stop_no_other_client() {
    let (addr, taken) = worker();
    let site = site_of(addr, Settings::default());
    let mut stalled = Vec::new();
    for count in 1..=5 {
        let mut client = connect(&site);
        client
            .write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
            .expect("it is sent");
        stalled.push(client);
        settle(&site, count);
        let mut before = 0;
        while before != taken.load(Ordering::Relaxed) || before == 0 {
            before = taken.load(Ordering::Relaxed);
            stays(&connect(&site), "another client");
        }
    }
    let mut other = connect(&site);
    other.write_all(REQUEST).expect("it is sent");
    answer(&mut other);
}

/// What is meant to end does so after this time.
const SHORT: Duration = Duration::from_millis(300);
/// And what is not, not.
const LONG: Duration = Duration::from_secs(600);

/// A site with these time-outs, and a client that has sent this.
fn timed(header_timeout: Duration, idle_timeout: Duration, sent: &[u8]) -> (Site, TcpStream) {
    let settings = Settings {
        header_timeout,
        idle_timeout,
        ..Settings::default()
    };
    site_after(worker().0, settings, |site| {
        let mut client = connect(site);
        client.write_all(sent).expect("it is sent");
        client
    })
}

/// Everything that still comes.
fn rest(mut client: TcpStream) -> String {
    let mut come = String::new();
    client.read_to_string(&mut come).expect("an orderly end");
    come
}

#[test]
fn an_idle_http1_client_has_the_time_for_idle_clients() {
    let (_site, mut client) = timed(SHORT, LONG, REQUEST);
    for between in ["", "\r\n"] {
        answer(&mut client);
        // An empty line is no request that has begun (RFC 9112, 2.2).
        client.write_all(between.as_bytes()).expect("it is sent");
        (0..3).for_each(|_| stays(&client, between));
        client.write_all(REQUEST).expect("it is sent");
    }
    answer(&mut client);
    let (_site, mut client) = timed(LONG, SHORT, REQUEST);
    answer(&mut client);
    assert_eq!(rest(client), "");
}

#[test]
fn a_head_that_does_not_come_gets_408() {
    for is_first in [true, false] {
        let half = &REQUEST[..10];
        let (site, mut client) = timed(SHORT, LONG, if is_first { half } else { REQUEST });
        if !is_first {
            answer(&mut client);
            client.write_all(half).expect("it is sent");
        }
        let come = rest(client);
        assert!(come.starts_with("HTTP/1.1 408 "), "first: {is_first}: {come}");
        assert_eq!(site.front.figures().answers[3], 1);
    }
}
