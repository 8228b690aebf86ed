//! Malformed and ambiguous requests, through a real proxy to a real upstream. Each is rejected with the status in the table and never reaches
//! the upstream, or reaches it as the table says.
//! The MUSTs are those of RFC 9110 and RFC 9112.
// tidy: long because it is one table
#![expect(clippy::too_many_lines, reason = "tables of cases")]

use std::time::Duration;

use rpm_proxy::Settings;

use crate::client::{ask, hear, sent};
use crate::site::{BOUND, Site, is_whole};

/// A request with these lines in its head, and this after it.
fn with(lines: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n{body}").into_bytes()
}

fn line(first: &str) -> Vec<u8> {
    format!("{first}\r\nHost: x\r\n\r\n").into_bytes()
}

/// The reason, the request, and the status of the rejection.
type Case = (&'static str, Vec<u8>, u16);

/// RFC 9112, 3.
fn request_lines(cases: &mut Vec<Case>) {
    for first in [
        "GET",
        "GET ",
        "GET /",
        "GET / ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "\tGET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1 x",
        "GET / http/1.1",
        "GET / HTTP/11",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / HTTP/.1",
        "GET / HTTP/x.y",
        "GET / HTTP /1.1",
        "GET / HTTP/1.1\0",
        "GET / FTP/1.1",
        "GET / 1.1",
        "G(T / HTTP/1.1",
        "G\"T / HTTP/1.1",
        "GE\0T / HTTP/1.1",
        "GE:T / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "/ GET HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x01 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ? HTTP/1.1",
        "GET /#x HTTP/1.1",
        "GET x:80 HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http:/x HTTP/1.1",
        "GET ftp://x/ HTTP/1.1",
        "GET http://u@x/ HTTP/1.1",
        "GET http://u:p@x/ HTTP/1.1",
        "GET http://x<y/ HTTP/1.1",
        "GET http://x\\y/ HTTP/1.1",
        "GET //#x HTTP/1.1",
        "\x16\x03\x01\x02 HTTP/1.1",
        "PRI * HTTP/1.1",
    ] {
        cases.push(("the request line", line(first), 400));
    }
    for version in [
        "HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "HTTP/1.9", "HTTP/3.0", "HTTP/9.9",
    ] {
        cases.push(("an unsupported version", line(&format!("GET / {version}")), 505));
    }
    cases.push(("CONNECT is not supported", line("CONNECT x:443 HTTP/1.1"), 501));
    cases.push(("TRACE is not supported", line("TRACE / HTTP/1.1"), 501));
    // Clients do not all encode what is no ASCII; UTF-8 has one meaning, as over HTTP/2.
    for bytes in [
        &b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"GET /?\xc3 HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        cases.push(("a target that is no text", bytes.to_vec(), 400));
    }
    let long = format!("GET /{} HTTP/1.1", "a".repeat(70_000));
    cases.push(("a target that is too long", long.into_bytes(), 414));
    // The end of lines (2.2).
    for bytes in [
        &b"GET / HTTP/1.1\nHost: x\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\rHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA\rb: c\r\n\r\n",
        b"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\r\n\r\n",
        b"GET / HTTP/1.1\n\rHost: x\n\r\n\r",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        cases.push(("a line that does not end with CRLF", bytes.to_vec(), 400));
    }
}

/// RFC 9110, 5; RFC 9112, 3.2 and 5.
fn fields(cases: &mut Vec<Case>) {
    for field in [
        "A : b",
        "A\t: b",
        " A: b",
        "\tA: b",
        ": b",
        "A b: c",
        "A",
        "A\0: b",
        "A: \0",
        "A: b\0c",
        "A: \x01",
        "A: \x7f",
        "A\u{e9}: b",
        "A(: b",
        "A\": b",
        "A,: b",
        "A/: b",
        "A;: b",
        "A=: b",
        "A[: b",
        "A{: b",
        "A@: b",
        "A?: b",
        "A: b\r\n folded",
        "A: b\r\n\tfolded",
        "=: b",
        "A: b\x0bc",
        "A: b\x0c",
    ] {
        cases.push(("a field", with(&format!("{field}\r\n"), ""), 400));
    }
    cases.push(("too many fields", with(&"A: b\r\n".repeat(200), ""), 431));
    let large = format!("A: {}\r\n", "b".repeat(70_000));
    cases.push(("fields that are too large", with(&large, ""), 431));
    cases.push(("an expectation", with("Expect: something\r\n", ""), 417));
    cases.push((
        "an expectation among others",
        with("Expect: 100-continue, x\r\n", ""),
        417,
    ));
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: <x>\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\"y\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\n\r\n",
    ] {
        cases.push(("a host", head.as_bytes().to_vec(), 400));
    }
}

/// RFC 9112, 6.
fn framings(cases: &mut Vec<Case>) {
    for length in [
        "-1",
        "+1",
        "0x1",
        "1.0",
        "1e1",
        "1 1",
        "1,1",
        "1, 1",
        "1;1",
        "one",
        "",
        "18446744073709551616",
        "99999999999999999999999",
        "1_000",
        "\u{661}",
        "1\t1",
        "-0",
        "\"1\"",
    ] {
        cases.push((
            "a length",
            with(&format!("Content-Length: {length}\r\n"), "a"),
            400,
        ));
    }
    for lines in [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 01\r\n",
        "Content-Length: 0\r\ncontent-length: 5\r\n",
        "Content-Length: 1\r\nContent-Length: x\r\n",
    ] {
        cases.push(("two lengths", with(lines, "a"), 400));
    }
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: x\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: ,\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding: chunk\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: 'chunked'\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: chunked x\r\n",
        "Transfer-Encoding: x chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
    ] {
        cases.push(("a coding", with(lines, "0\r\n\r\n"), 400));
    }
    let unknown = with("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n");
    cases.push(("a coding that is not known", unknown, 501));
    let old = b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    cases.push(("a coding in HTTP/1.0", old.to_vec(), 400));
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\na\r\n",
        " 1\r\na\r\n",
        "1 \r\na\r\n",
        "0x1\r\na\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\n\r\n0\r\n\r\n",
        "1\ra\r\n",
        "1;\0\r\na\r\n",
        "1;a\nb\r\n",
        "1,\r\na\r\n",
        "10000000000000000\r\na\r\n",
        "1_0\r\n",
        ";\r\n",
        "0\r\n\n",
        "0\r\n: x\r\n\r\n",
        "0\r\nA: b\nC: d\r\n\r\n",
        "0\r\nA: \0\r\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\nA\r\n\r\n",
        "0\r\nA: b\r\nC\r\n\r\n",
        "0\r\nA b: c\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
    ] {
        cases.push(("a chunk", with("Transfer-Encoding: chunked\r\n", body), 400));
    }
}

#[test]
fn malformed_requests_are_rejected_and_never_reach_an_upstream() {
    let site = Site::start();
    let mut cases = Vec::new();
    request_lines(&mut cases);
    fields(&mut cases);
    framings(&mut cases);
    assert!(cases.len() >= 150, "{}", cases.len());
    let mut wrong = Vec::new();
    for (why, bytes, expected) in &cases {
        let statuses = ask(&site, bytes);
        if statuses != [*expected] {
            let text: String = String::from_utf8_lossy(bytes).chars().take(120).collect();
            wrong.push(format!("{why}: {statuses:?}, not {expected}: {text:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    // The beginning of a body may have been passed on; nothing must have been taken for whole.
    let seen = site.upstream.seen.try_iter().filter(|seen| is_whole(seen));
    let whole: Vec<String> = seen
        .map(|seen| String::from_utf8_lossy(&seen).into_owned())
        .collect();
    assert!(whole.is_empty(), "{whole:#?}");
}

/// A head that never comes to its end.
#[test]
fn half_a_head_is_rejected_and_never_reaches_an_upstream() {
    let half = b"GET / HTTP/1.1\r\nHost: x\r\n";
    let settings = Settings {
        retries: 0,
        header_timeout: Duration::from_millis(300),
        ..Settings::default()
    };
    let (site, stream) = Site::after(settings, |site| sent(site, half));
    assert_eq!(hear(&stream, half), [408]);
    assert!(site.upstream.seen.try_recv().is_err(), "nothing reached it");
}

#[test]
fn what_is_well_formed_reaches_the_upstream_as_one_request() {
    let site = Site::start();
    for (bytes, expected) in [
        (
            "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\n",
        ),
        // RFC 9112, 3.2: HTTP/1.1 has a Host, be it empty.
        (
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: \r\nx-forwarded-for",
        ),
        (
            "GET /a?b=c%20d HTTP/1.1\r\nHost: x:80\r\n\r\n",
            "GET /a?b=c%20d HTTP/1.1\r\nhost: x:80\r\n",
        ),
        (
            "GET http://y:8080/p?q HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /p?q HTTP/1.1\r\nhost: y:8080\r\n",
        ),
        (
            "GET HTTP://y HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: y\r\n",
        ),
        (
            "GET https://y?q HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /?q HTTP/1.1\r\nhost: y\r\n",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nhost: x\r\n",
        ),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\nhost: \r\n"),
        (
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: [::1]:80\r\n",
        ),
        (
            "GET /\u{e9}?\u{e9} HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /\u{e9}?\u{e9} HTTP/1.1\r\nhost: x\r\n",
        ),
        ("PURGE / HTTP/1.1\r\nHost: x\r\n\r\n", "PURGE / HTTP/1.1\r\n"),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nA:b\r\nA: c \r\nB:\r\n\r\n",
            "host: x\r\nA: b\r\nA: c\r\nB: \r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, A\r\nA: b\r\n\r\n",
            "host: x\r\nx-forwarded-for: 127.0.0.1\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: x\r\n\r\n",
            "host: x\r\nx-forwarded-for",
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n",
            "te: trailers\r\nconnection: te\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n",
            "host: x\r\nx-forwarded",
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\n\r\n",
            "host: x\r\nx-forwarded-for: 127.0.0.1\r\n",
        ),
        // Where fields become variables these are ours.
        (
            "GET / HTTP/1.1\r\nHost: x\r\nX_Forwarded_For: 9.9.9.9\r\nx_forwarded-proto: 9.9.9.9\r\nX-Forwarded_Host: 9.9.9.9\r\nCONTENT_LENGTH: 9.9.9.9\r\nTransfer_Encoding: 9.9.9.9\r\n\r\n",
            "host: x\r\nx-forwarded-for: 127.0.0.1\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nX_Own: a\r\n\r\n",
            "host: x\r\nX_Own: a\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            "content-length: 3\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "host: x\r\ncontent-length: 3\r\nx-forwarded-for",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 003\r\n\r\nabc",
            "content-length: 003\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
            "content-length: 3\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: CHUNKED\r\n\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
            "transfer-encoding: chunked\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nHost: 9.9.9.9\r\nContent-Length: 3\r\nauthorization: 9.9.9.9\r\nCookie: 9.9.9.9\r\nX-Forwarded-For: 9.9.9.9\r\nX_Forwarded_Proto: 9.9.9.9\r\nTransfer-Encoding: h2c\r\nx: y\r\n\r\n",
            "\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nHost: 9.9.9.9\r\n\r\n",
            "\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n",
        ),
    ] {
        assert_eq!(ask(&site, bytes.as_bytes()), [200], "{bytes:?}");
        let seen = site
            .upstream
            .seen
            .recv_timeout(BOUND)
            .expect("it reached the upstream");
        let seen = String::from_utf8_lossy(&seen).into_owned();
        assert!(seen.contains(expected), "{bytes:?} became\n{seen}");
        assert_eq!(seen.matches(" HTTP/1.1\r\n").count(), 1, "{seen}");
        let spoofed = ["9.9.9.9", "h2c", "HTTP2", "Keep-Alive", "Proxy-Connection"];
        assert!(!spoofed.iter().any(|word| seen.contains(word)), "{seen}");
    }
}

#[test]
fn what_follows_a_refusal_is_not_read_as_a_request() {
    let site = Site::start();
    for bytes in [
        &b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        assert_eq!(ask(&site, bytes), [400]);
    }
    assert!(
        site.upstream.seen.try_recv().is_err(),
        "nothing reached the upstream"
    );
}
