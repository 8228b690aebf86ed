//! Idle connections that the proxy closes. A client may send a request at that moment. It must not see a reset: it could not tell whether the
//! request was processed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::frames::{Client, get};
use crate::site::{BOUND, Site};
use rpm_proxy::Settings;

/// What is meant to end does so after this time.
const SHORT: Duration = Duration::from_millis(300);
/// The same for a client that has to do something in this time, however little CPU it gets.
const PATIENT: Duration = Duration::from_secs(5);
/// And what is not, not.
const LONG: Duration = Duration::from_secs(600);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cause {
    Idle,
    NoRequest,
    Closed,
    Update,
}

const CAUSES: [Cause; 4] = [Cause::Idle, Cause::NoRequest, Cause::Closed, Cause::Update];

impl Cause {
    fn settings(self, time: Duration) -> Settings {
        let within = |cause| if self == cause { time } else { LONG };
        Settings {
            idle_timeout: within(Cause::Idle),
            header_timeout: within(Cause::NoRequest),
            ..Settings::default()
        }
    }

    fn site(self) -> Site {
        Site::with(self.settings(SHORT))
    }

    fn begin(self, site: &Site) {
        match self {
            Cause::Idle | Cause::NoRequest => {}
            Cause::Closed => site.proxy.close(1),
            Cause::Update => {
                site.proxy.part(1);
                site.proxy.clear(1);
            }
        }
    }
}

/// The proxy has ended its side. What the client has sent before it knew does no harm, and when the client ends its side, too, all is over.
fn is_let_go(site: &Site, mut client: &TcpStream, request: &[u8]) -> Result<(), String> {
    let of = |error: std::io::Error| error.to_string();
    client.write_all(request).map_err(of)?;
    if let Some(error) = client.take_error().map_err(of)? {
        return Err(of(error));
    }
    let more = client.read(&mut [0]);
    if !matches!(more, Ok(0)) {
        return Err(format!("{more:?}"));
    }
    client.shutdown(Shutdown::Write).map_err(of)?;
    let deadline = Instant::now() + BOUND;
    while site.front.figures().connections > 0 {
        assert!(Instant::now() < deadline, "{:?}", site.front.figures());
        std::thread::yield_now();
    }
    Ok(())
}

/// A client has two seconds to end its side. An attempt that takes so long on a busy machine proves nothing, and is made again.
fn in_time(cause: Cause, attempt: fn(Cause) -> Result<(), String>) {
    for _ in 0..10 {
        let begun = Instant::now();
        let outcome = attempt(cause);
        if outcome.is_ok() {
            return;
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(2), "{cause:?}: {outcome:?}");
    }
    panic!("{cause:?}: ten attempts took too long");
}

#[test]
fn an_idle_client_of_http1_is_not_reset() {
    let attempt = |cause: Cause| {
        let site = cause.site();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
        client.set_read_timeout(Some(BOUND)).expect("a deadline");
        if cause != Cause::NoRequest {
            again(&mut client, "ok");
        }
        cause.begin(&site);
        let end = client.read(&mut [0]);
        assert!(matches!(end, Ok(0)), "{cause:?}: {end:?}");
        is_let_go(&site, &client, REQUEST)
    };
    for cause in CAUSES {
        in_time(cause, attempt);
    }
}

#[test]
fn an_idle_client_of_http2_is_not_reset() {
    let attempt = |cause: Cause| {
        let (site, mut client) = Site::after(cause.settings(SHORT), |site| Client::connect(site, &[]));
        if cause != Cause::NoRequest {
            client.send(&get(1));
            client.read_until(|seen| seen.complete.contains(&1));
        }
        cause.begin(&site);
        client.read_until(|seen| seen.ended);
        assert_eq!(client.seen.goaway, Some(0), "{cause:?}: {:?}", client.seen);
        is_let_go(&site, &client.stream, &get(3))
    };
    for cause in CAUSES {
        in_time(cause, attempt);
    }
}

/// A site with these settings, its first client, and what that gets for its first request.
fn answered(settings: Settings, end: &str) -> (Site, TcpStream, String) {
    let (site, mut client) = Site::after(settings, |site| {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
        client.set_read_timeout(Some(BOUND)).expect("a deadline");
        client.write_all(REQUEST).expect("it is sent");
        client
    });
    let head = response(&mut client, end);
    (site, client, head)
}

/// What a client gets for another request.
fn again(client: &mut TcpStream, end: &str) -> String {
    client.write_all(REQUEST).expect("it is sent");
    response(client, end)
}

fn response(client: &mut TcpStream, end: &str) -> String {
    let mut come = Vec::new();
    while !come.ends_with(end.as_bytes()) {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("an answer");
        come.push(byte[0]);
    }
    String::from_utf8_lossy(&come).into_owned()
}

/// Clients of a port for redirects are asked to close as others are.
#[test]
fn a_client_that_is_redirected_is_asked_to_close() {
    let settings = Settings {
        redirect: Some(443),
        ..Settings::default()
    };
    let end = "moved to https\n";
    let (site, mut client, head) = answered(settings, end);
    assert!(!head.contains("connection: close"), "{head}");
    site.proxy.thin(1);
    assert!(site.proxy.reached().blocking_recv().is_none());
    let head = again(&mut client, end);
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert!(matches!(client.read(&mut [0]), Ok(0)), "it ends");
}

/// An empty line before a request is ignored (RFC 9112, 2.2). It is no request that has begun, either.
#[test]
fn a_client_that_sends_an_empty_line_is_idle() {
    for cause in [Cause::Idle, Cause::Closed, Cause::Update] {
        let (site, mut client, _) = answered(cause.settings(PATIENT), "ok");
        client.write_all(b"\r\n").expect("it is sent");
        again(&mut client, "ok");
        client.write_all(b"\r\n\r\n").expect("it is sent");
        cause.begin(&site);
        let end = client.read(&mut [0]);
        assert!(matches!(end, Ok(0)), "{cause:?}: {end:?}");
    }
}

/// Nor are they ignored without end.
#[test]
fn a_client_that_sends_empty_lines_alone_is_cut() {
    let (site, mut client, _) = answered(Cause::NoRequest.settings(SHORT), "ok");
    let deadline = Instant::now() + BOUND;
    while client.write_all(&[b'\r', b'\n'].repeat(1000)).is_ok() {
        assert!(Instant::now() < deadline, "{:?}", site.front.figures());
    }
}

/// Whoever stays all the same is not waited for.
#[test]
fn an_idle_client_that_does_not_go_is_left() {
    let site = Cause::Idle.site();
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    client.set_read_timeout(Some(BOUND)).expect("a deadline");
    client.write_all(REQUEST).expect("it is sent");
    let mut come = Vec::new();
    client.read_to_end(&mut come).expect("it is not reset");
    let deadline = Instant::now() + BOUND;
    let error = loop {
        match client.write(&[b'G'; 4096]) {
            Ok(_) => assert!(Instant::now() < deadline, "it is kept"),
            Err(error) => break error,
        }
        std::thread::yield_now();
    };
    assert!(
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{error}"
    );
}
