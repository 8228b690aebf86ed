//! One table of cases for both versions of HTTP that clients speak: the same policy holds for both.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rpm_proxy::{Settings, Target, UpstreamId};

use crate::frames::*;
use crate::site::{BOUND, Site};

/// More failures in a row than eject a worker.
const FAILURES: usize = 6;
/// More bad responses in a row than eject a worker.
const BAD_RESPONSES: usize = 21;

#[derive(Clone, Copy, Debug)]
pub enum Over {
    Http1,
    Http2,
}

pub const BOTH: [Over; 2] = [Over::Http1, Over::Http2];

/// A request.
#[derive(Clone, Copy)]
pub struct Sent<'s> {
    pub method: &'s str,
    pub path: &'s str,
    pub fields: &'s [(&'s str, &'s str)],
    /// In parts of 100 bytes, without a length.
    pub body: &'s [u8],
}

pub const GET_ROOT: Sent<'_> = Sent {
    method: "GET",
    path: "/",
    fields: &[],
    body: b"",
};

/// A request for this path.
pub fn get_of(path: &str) -> Sent<'_> {
    Sent { path, ..GET_ROOT }
}

/// What comes back: the status, the head in lower case, and the body.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn ask(site: &Site, over: Over, sent: Sent<'_>) -> Got {
    match over {
        Over::Http1 => by_http1(site, sent),
        Over::Http2 => by_http2(site, sent),
    }
}

fn by_http1(site: &Site, sent: Sent<'_>) -> Got {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    let fields: String = sent
        .fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let Sent { method, path, .. } = sent;
    let upgrade = fields.contains("upgrade");
    let close = if upgrade { "" } else { "connection: close\r\n" };
    let chunked = if sent.body.is_empty() {
        ""
    } else {
        "transfer-encoding: chunked\r\n"
    };
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{close}{fields}{chunked}\r\n").into_bytes();
    for part in sent.body.chunks(100) {
        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    if !sent.body.is_empty() {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    // It may be rejected before all of it is read.
    let _ = stream.write_all(&bytes);
    let mut all = Vec::new();
    let mut part = [0; 4096];
    // The end of a response that leaves HTTP is the end of its head.
    while !(upgrade && all.ends_with(b"\r\n\r\n")) {
        match stream.read(&mut part) {
            Ok(count @ 1..) => all.extend_from_slice(&part[..count]),
            Ok(0) | Err(_) => break,
        }
    }
    let text = String::from_utf8(all).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Got {
        status: head
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

fn by_http2(site: &Site, sent: Sent<'_>) -> Got {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let asked = async {
        let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).await;
        let io = TokioIo::new(stream.expect("it listens"));
        let handshake = http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.expect("HTTP/2");
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(sent.method)
            .uri(format!("http://x{}", sent.path));
        for (name, value) in sent.fields {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(sent.body));
        let request = request.body(body).expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        let (parts, body) = response.into_parts();
        let lines = parts.headers.iter();
        let lines = lines.map(|(name, value)| format!("{name}: {}\r\n", value.to_str().expect("text")));
        let head: String = lines.collect();
        let body = body.collect().await.expect("a body").to_bytes();
        Got {
            status: parts.status.as_u16(),
            head: head.to_lowercase(),
            body: String::from_utf8(body.to_vec()).expect("text"),
        }
    };
    runtime.block_on(async { tokio::time::timeout(BOUND, asked).await.expect("in time") })
}

fn settings() -> Settings {
    Settings {
        retries: 0,
        ..Settings::default()
    }
}

pub fn ejections(site: &Site) -> u32 {
    site.front
        .figures()
        .upstreams
        .iter()
        .map(|one| one.ejections)
        .sum()
}

/// What a worker does with the requests of one connection.
#[derive(Clone, Copy)]
enum Worker {
    /// Answers all.
    Sound,
    /// Answers the first, and ends the connection when it has the second.
    Once,
    /// Ends the connection.
    Broken,
}

/// Starts a worker, which counts the requests that it gets.
fn worker(kind: Worker) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                let mut part = [0; 4096];
                let mut answered = 0;
                while let Ok(1..) = stream.read(&mut part) {
                    count.fetch_add(1, Ordering::SeqCst);
                    match kind {
                        Worker::Broken => return,
                        Worker::Once if answered > 0 => return,
                        Worker::Once | Worker::Sound => answered += 1,
                    }
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                }
            });
        }
    });
    (addr, seen)
}

pub fn serve(site: &Site, workers: &[SocketAddr]) {
    let target = |(id, addr): (u32, &SocketAddr)| Target {
        id: UpstreamId(10 + id),
        addr: (*addr).into(),
        weight: 1,
        key: id,
        reserved: false,
    };
    site.front
        .set_upstreams(&(0..).zip(workers).map(target).collect::<Vec<_>>());
}

/// It is no failure of the worker either.
#[test]
fn an_idle_connection_that_the_worker_has_ended_costs_no_retry() {
    for over in BOTH {
        let site = Site::with(settings());
        let (addr, _) = worker(Worker::Once);
        serve(&site, &[addr]);
        for round in 0..2 * FAILURES {
            assert_eq!(ask(&site, over, GET_ROOT).status, 200, "{over:?}, {round}");
        }
        assert_eq!(ejections(&site), 0, "{over:?}");
        assert_eq!(site.front.figures().retries, 0, "{over:?}");
        // What may have been processed is not sent again. One of two comes over a connection that was used.
        let post = Sent {
            method: "POST",
            ..GET_ROOT
        };
        let statuses = [(); 2].map(|()| ask(&site, over, post).status);
        assert!(statuses.contains(&502), "{over:?}: {statuses:?}");
    }
}

#[test]
fn which_requests_go_to_another_worker() {
    for (method, length, body, again) in [
        ("GET", None, &b""[..], true),
        ("HEAD", None, b"", true),
        ("DELETE", None, b"", true),
        ("DELETE", Some("0"), b"", true),
        ("PUT", Some("0"), b"", true),
        ("PUT", None, b"x", false),
        ("POST", Some("0"), b"", false),
        ("PATCH", None, b"x", false),
    ] {
        for over in BOTH {
            let site = Site::with(Settings {
                retries: 1,
                ..Settings::default()
            });
            let (broken, seen) = worker(Worker::Broken);
            let (sound, _) = worker(Worker::Sound);
            serve(&site, &[broken, sound]);
            let fields: Vec<(&str, &str)> = length
                .map(|length| ("content-length", length))
                .into_iter()
                .collect();
            let sent = Sent {
                method,
                fields: &fields,
                body,
                ..GET_ROOT
            };
            // In turn every other one comes to the broken worker first.
            let statuses = [(); 2].map(|()| ask(&site, over, sent).status);
            assert_eq!(seen.load(Ordering::SeqCst), 1, "{method} {length:?} {over:?}");
            let expected = if again { 0 } else { 1 };
            let failed = statuses.iter().filter(|status| **status == 502).count();
            assert_eq!(failed, expected, "{method} {length:?} {over:?}: {statuses:?}");
        }
    }
}

/// Whatever makes it malformed.
#[test]
fn malformed_responses_count_against_the_worker() {
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        for over in BOTH {
            let site = Site::with(settings());
            let path = site.upstream.says(answer.as_bytes());
            for _ in 0..BAD_RESPONSES {
                let got = ask(&site, over, get_of(&path));
                assert_eq!(got.status, 502, "{over:?}: {answer}");
            }
            assert!(ejections(&site) > 0, "{over:?}: {answer}");
        }
    }
}

#[test]
fn a_body_that_is_too_long_is_the_clients_fault() {
    let limit = 1000;
    for over in BOTH {
        let site = Site::with(Settings {
            max_body: limit,
            ..settings()
        });
        let body = vec![b'x'; limit as usize + 1];
        let post = |path, body| Sent {
            method: "POST",
            path,
            body,
            ..GET_ROOT
        };
        // What frames the parts of a body does not count.
        assert_eq!(ask(&site, over, post("/", &body[1..])).status, 200, "{over:?}");
        for _ in 0..FAILURES {
            assert_eq!(ask(&site, over, post("/deaf", &body)).status, 413, "{over:?}");
        }
        assert_eq!(ejections(&site), 0, "{over:?}");
    }
}

#[test]
fn a_client_that_breaks_off_its_body_is_no_failure_of_the_worker() {
    for over in BOTH {
        let site = Site::with(settings());
        for round in 1..=FAILURES as u64 {
            match over {
                Over::Http1 => {
                    let mut stream =
                        TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
                    let head = b"POST /deaf HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
                    stream.write_all(head).expect("it is sent");
                    came_to_the_worker(&site, round);
                }
                Over::Http2 => {
                    let mut client = Client::connect(&site, &[]);
                    client.send(&frame(HEADERS, END_HEADERS, 1, &fields(&at(POST, "/deaf"))));
                    client.send(&frame(DATA, 0, 1, b"half"));
                    came_to_the_worker(&site, round);
                    client.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
                    until_nothing_is_in_flight(&site);
                }
            }
            until_nothing_is_in_flight(&site);
        }
        let figures = site.front.figures();
        assert_eq!(figures.upstreams[0].ejections, 0, "{over:?}");
        assert_eq!(figures.answers, [0; 5], "{over:?}: no response was sent");
    }
}

pub fn until(site: &Site, done: impl Fn(&Site) -> bool) {
    let deadline = Instant::now() + BOUND;
    while !done(site) {
        assert!(Instant::now() < deadline, "{:?}", site.front.figures());
        thread::yield_now();
    }
}

fn came_to_the_worker(site: &Site, count: u64) {
    until(site, |site| site.front.figures().upstreams[0].requests >= count);
}

fn until_nothing_is_in_flight(site: &Site) {
    until(site, |site| site.front.figures().upstreams[0].in_flight == 0);
}

#[test]
fn fields_of_one_connection_pass_in_neither_direction() {
    for over in BOTH {
        let site = Site::with(settings());
        let path = site.upstream.says(
            b"HTTP/1.1 200 OK\r\nte: trailers\r\nhttp2-settings: A\r\nkeep-alive: 5\r\nproxy-connection: x\r\nupgrade: h2c\r\nx-own: 1\r\nconnection: x-own, upgrade\r\ncontent-length: 2\r\n\r\nok",
        );
        let got = ask(
            &site,
            over,
            Sent {
                path: &path,
                fields: &[("http2-settings", "A"), ("te", "trailers"), ("x-passed", "1")],
                ..GET_ROOT
            },
        );
        assert_eq!((got.status, got.body.as_str()), (200, "ok"), "{over:?}");
        for name in [
            "te:",
            "http2-settings:",
            "keep-alive:",
            "proxy-connection:",
            "upgrade:",
            "x-own:",
        ] {
            let has = got.head.lines().any(|line| line.starts_with(name));
            assert!(!has, "{over:?}: {name} in {}", got.head);
        }
        let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
        let seen = String::from_utf8_lossy(&seen).to_lowercase();
        assert!(!seen.contains("http2-settings"), "{over:?}: {seen}");
        for line in ["te: trailers\r\n", "connection: te\r\n", "x-passed: 1\r\n"] {
            assert!(seen.contains(line), "{over:?}: {line:?} not in {seen}");
        }
    }
}

/// Bodies, fields and statuses of the proxy's own responses.
#[test]
fn rejections_are_the_same() {
    let site = Site::with(Settings {
        hold_timeout: Duration::from_millis(1),
        ..settings()
    });
    site.front.set_upstreams(&[]);
    for (method, path, fields, status, retry) in [
        ("GET", "/", &[][..], 503, true),
        ("HEAD", "/", &[], 503, true),
        ("TRACE", "/", &[], 501, false),
        ("GET", "/", &[("expect", "x")], 417, false),
    ] {
        let [one, two] = BOTH.map(|over| {
            let sent = Sent {
                method,
                path,
                fields,
                body: b"",
            };
            ask(&site, over, sent)
        });
        assert_eq!((one.status, two.status), (status, status), "{method}");
        assert_eq!(one.body, two.body, "{method}");
        assert_eq!(one.body.is_empty(), method == "HEAD", "{method}: {one:?}");
        for got in [&one, &two] {
            let has = |line: &str| got.head.contains(line);
            assert!(has("content-type: text/plain; charset=utf-8"), "{got:?}");
            assert!(has("date: ") && has("content-length: "), "{got:?}");
            assert_eq!(has("retry-after: 1"), retry, "{got:?}");
        }
    }
    // A response to HEAD has no frame of data.
    let mut client = Client::connect(&site, &[]);
    let head = fields(&[(":method", "HEAD"), GET[1], GET[2], GET[3]]);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head));
    client.read_until(|seen| seen.complete.contains(&1));
    assert!(
        client.seen.data.iter().all(|(_, length)| *length == 0),
        "{:?}",
        client.seen
    );
}

const SWITCHES: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";

/// By the cookie it comes back to the same worker, and the worker has answered.
#[test]
fn a_websocket_has_its_cookie_and_its_response_counts() {
    for over in BOTH {
        let site = Site::with(Settings {
            cookie: Some("w".to_owned()),
            ..settings()
        });
        let path = site.upstream.says(SWITCHES);
        let cookie = match over {
            Over::Http1 => {
                let got = ask(
                    &site,
                    over,
                    Sent {
                        path: &path,
                        fields: &[("connection", "upgrade"), ("upgrade", "websocket")],
                        ..GET_ROOT
                    },
                );
                assert_eq!(got.status, 101);
                got.head.contains("set-cookie: w=0;")
            }
            Over::Http2 => {
                let mut client = Client::connect(&site, &[]);
                let asked = fields(&[
                    (":method", "CONNECT"),
                    (":protocol", "websocket"),
                    (":scheme", "http"),
                    (":path", &path),
                    (":authority", "x"),
                ]);
                client.send(&frame(HEADERS, END_HEADERS, 1, &asked));
                client.read_until(|seen| seen.statuses.contains_key(&1));
                assert_eq!(client.seen.statuses.get(&1), Some(&OK), "{:?}", client.seen);
                true
            }
        };
        assert!(cookie, "{over:?}");
        let figures = site.front.figures();
        assert_eq!(figures.times.iter().sum::<u64>(), 1, "{over:?}: {figures:?}");
        assert!(figures.upstreams[0].latency_us > 0, "{over:?}: {figures:?}");
    }
}
