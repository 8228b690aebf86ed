//! Odd responses of workers, over both versions of HTTP: they are passed on or rejected, and the request is never sent again.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rpm_proxy::Settings;

use crate::frames::*;
use crate::site::{BOUND, Site};

/// What a client has.
#[derive(Debug, PartialEq, Eq)]
pub enum Has {
    Answer(u16, String),
    /// No answer, or one that breaks off.
    Broken,
}

fn ok(body: &str) -> Has {
    Has::Answer(200, body.to_owned())
}

fn bad_gateway() -> Has {
    Has::Answer(502, "malformed upstream response\n".to_owned())
}

/// Everything that comes back to these bytes.
fn raw(site: &Site, bytes: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    stream.write_all(bytes.as_bytes()).expect("it is sent");
    let mut all = Vec::new();
    // A connection that is cut has said what it has.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

fn by_http1(site: &Site, path: &str) -> (Has, String) {
    by_http1_with(site, path, &[])
}

/// The same of a request with these fields.
pub fn by_http1_with(site: &Site, path: &str, fields: &[(&str, &str)]) -> (Has, String) {
    let lines: String = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let all = raw(
        site,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"),
    );
    let Some((head, body)) = all.split_once("\r\n\r\n") else {
        return (Has::Broken, all);
    };
    let chunked = head.contains("transfer-encoding: chunked");
    let body = match body
        .strip_suffix("\r\n0\r\n\r\n")
        .and_then(|it| it.split_once("\r\n"))
    {
        Some((_, content)) if chunked => content.to_owned(),
        _ if chunked => return (Has::Broken, head.to_owned()),
        _ => body.to_owned(),
    };
    let status = head[9..12].parse().expect("a status");
    (Has::Answer(status, body), head.to_owned())
}

fn by_http2(site: &Site, path: &str) -> (Has, HeaderMap) {
    by_http2_with(site, path, &[])
}

/// The same of a request with these fields.
pub fn by_http2_with(site: &Site, path: &str, fields: &[(&str, &str)]) -> (Has, HeaderMap) {
    let (has, head, _) = whole_by_http2(site, path, fields);
    (has, head)
}

/// What comes after the body.
fn trailers_by_http2(site: &Site, path: &str) -> HeaderMap {
    whole_by_http2(site, path, &[("te", "trailers")]).2
}

fn whole_by_http2(site: &Site, path: &str, fields: &[(&str, &str)]) -> (Has, HeaderMap, HeaderMap) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let asked = async {
        let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).await;
        let io = TokioIo::new(stream.expect("it listens"));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_header_list_size(1 << 20);
        let (mut sender, connection) = builder.handshake(io).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut request = Request::get(format!("http://x{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let Ok(response) = sender.send_request(request).await else {
            return (Has::Broken, HeaderMap::new(), HeaderMap::new());
        };
        let (parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else {
            return (Has::Broken, parts.headers, HeaderMap::new());
        };
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        (Has::Answer(parts.status.as_u16(), body), parts.headers, trailers)
    };
    runtime.block_on(async { tokio::time::timeout(BOUND, asked).await.expect("in time") })
}

/// So many fields, one of which is the length.
fn with_fields(count: usize) -> Vec<u8> {
    let fields: String = (1..count).map(|number| format!("x-{number}: y\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\nok").into_bytes()
}

/// What it is, what the worker says, and what a client has of it by HTTP/1.1 and by HTTP/2.
type Case = (&'static str, Vec<u8>, Has, Has);

fn both(what: &'static str, answer: &str, has: fn() -> Has) -> Case {
    (what, answer.as_bytes().to_vec(), has(), has())
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn cases() -> Vec<Case> {
    let mut cases = vec![
        both(
            "a length beside chunks",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            || ok("ok"),
        ),
        both(
            "the same length twice",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
            || ok("ok"),
        ),
        both(
            "nothing, with a length",
            "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n",
            || Has::Answer(204, String::new()),
        ),
        both(
            "an unexpected 101",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            bad_gateway,
        ),
        both(
            "a coding that is not known",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            bad_gateway,
        ),
        both(
            "identity as a coding",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\ncontent-length: 2\r\n\r\nok",
            bad_gateway,
        ),
        both(
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
            bad_gateway,
        ),
        both(
            "a status below 100",
            "HTTP/1.1 000 x\r\ncontent-length: 2\r\n\r\nok",
            bad_gateway,
        ),
        both(
            "another status below 100",
            "HTTP/1.1 099 x\r\ncontent-length: 2\r\n\r\nok",
            bad_gateway,
        ),
        both("no HTTP", "SSH-2.0-OpenSSH_9.6\r\n\r\n", bad_gateway),
        both(
            "a malformed field",
            "HTTP/1.1 200 OK\r\na b: c\r\ncontent-length: 2\r\n\r\nok",
            bad_gateway,
        ),
    ];
    for (what, count, has) in [
        ("many fields", 110, ok("ok")),
        ("as many fields as may be", 128, ok("ok")),
    ] {
        let Has::Answer(status, body) = &has else { continue };
        let same = Has::Answer(*status, body.clone());
        cases.push((what, with_fields(count), has, same));
    }
    cases.push(("too many fields", with_fields(129), bad_gateway(), bad_gateway()));
    let long = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: {}\r\n\r\nok",
        "y".repeat(70_000)
    );
    cases.push((
        "a head that is too long",
        long.into_bytes(),
        bad_gateway(),
        bad_gateway(),
    ));
    // The head of the answer has not gone yet by HTTP/1.1.
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\nok\r\n0\r\n\r\n";
    cases.push((
        "a chunk without a size",
        chunks.into(),
        bad_gateway(),
        Has::Broken,
    ));
    cases
}

#[test]
fn odd_responses_are_the_same_over_both_versions_and_no_failure() {
    let site = Site::with(Settings::default());
    for (what, answer, by_1, by_2) in cases() {
        let path = site.upstream.says(&answer);
        assert_eq!(by_http1(&site, &path).0, by_1, "{what}, HTTP/1.1");
        assert_eq!(by_http2(&site, &path).0, by_2, "{what}, HTTP/2");
        let asked = site.upstream.seen.try_iter().count();
        assert_eq!(asked, 2, "{what}: each was to be sent once");
        assert_eq!(site.front.figures().upstreams[0].ejections, 0, "{what}");
    }
}

#[test]
fn what_has_no_body_has_no_length() {
    let site = Site::with(Settings::default());
    let path = site
        .upstream
        .says(b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n");
    let (_, head) = by_http1(&site, &path);
    assert!(!head.contains("content-length"), "{head}");
    let (_, fields) = by_http2(&site, &path);
    assert!(!fields.contains_key("content-length"), "{fields:?}");
}

/// RFC 9110, 6.5.1.
#[test]
fn trailers_have_nothing_that_only_a_head_may_say() {
    let site = Site::with(Settings::default());
    let path = site.upstream.says(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nset-cookie: a=b\r\nX-Sum: 1\r\nContent-Length: 7\r\nlocation: /\r\n\r\n",
    );
    let all = raw(
        &site,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close\r\n\r\n"),
    );
    assert!(all.ends_with("2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"), "{all}");
    let trailers = trailers_by_http2(&site, &path);
    let names: Vec<&str> = trailers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-sum"]);
}

/// RFC 9110, 15.2.
#[test]
fn a_client_of_http_1_0_has_no_interim_answers() {
    let site = Site::with(Settings::default());
    let path = site.upstream.says(
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let old = raw(&site, &format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n"));
    assert!(
        old.starts_with("HTTP/1.1 200 ") && old.ends_with("\r\n\r\nok"),
        "{old}"
    );
    let new = raw(
        &site,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    );
    assert!(new.starts_with("HTTP/1.1 103 "), "{new}");
}

#[test]
fn unsupported_requests_are_rejected_as_over_http1() {
    let site = Site::with(Settings::default());
    let path = site
        .upstream
        .says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let status = |fields: &[(&str, &str)]| match by_http2_with(&site, &path, fields).0 {
        Has::Answer(status, _) => status,
        Has::Broken => 0,
    };
    assert_eq!(status(&[("expect", "x")]), 417);
    let names: Vec<String> = (0..130).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
    assert_eq!(status(&many), 431);
    assert_eq!(status(&many[..120]), 200);
    // What browsers do with a long cookie.
    assert_eq!(status(&[("cookie", "a=1"); 150]), 200);
}

/// Any status from 200 to 299 would tell the client that its tunnel is open (RFC 8441, 5).
#[test]
fn a_websocket_that_a_worker_does_not_open_is_not_open_over_http2() {
    let refused = "upstream did not open the WebSocket\n".len();
    for (answer, status, length) in [
        ("200 OK\r\ncontent-length: 2\r\n\r\nok", None, refused),
        ("204 No Content\r\n\r\n", None, refused),
        ("404 Not Found\r\ncontent-length: 2\r\n\r\nno", Some(0x8d), 2),
    ] {
        let site = Site::with(Settings::default());
        let path = site.upstream.says(format!("HTTP/1.1 {answer}").as_bytes());
        // More than would eject a worker that fails: one that has no WebSockets is not broken.
        for _ in 0..21 {
            let mut client = Client::connect(&site, &[]);
            let asked = fields(&[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", &path),
                (":authority", "x"),
            ]);
            client.send(&frame(HEADERS, END_HEADERS, 1, &asked));
            client.read_until(|seen| seen.complete.contains(&1));
            let seen = &client.seen;
            assert_eq!(seen.data, [(1, length)], "{answer}: {seen:?}");
            let expected = status.unwrap_or(seen.statuses[&1]);
            assert_eq!(seen.statuses[&1], expected, "{answer}: {seen:?}");
        }
        let figures = site.front.figures();
        let class = if status.is_some() { 4 } else { 5 };
        assert_eq!(figures.answers[class - 1], 21, "{answer}: {figures:?}");
        assert_eq!(figures.upstreams[0].ejections, 0, "{answer}: {figures:?}");
    }
}
