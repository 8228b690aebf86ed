//! Lines of the access log: a request has the same line over both versions of HTTP, apart from the version.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rpm_proxy::{LogSettings, Opener, Settings};

use crate::frames::*;
use crate::site::{BOUND, Site};

/// A log of its own for each test.
fn log(test: &str) -> (PathBuf, LogSettings) {
    let path = std::env::temp_dir().join(format!("rpm-{test}-{}", std::process::id()));
    let settings = LogSettings {
        path: path.clone(),
        json: true,
        every: 1,
        opener: Opener::new(None, |path| File::options().create(true).append(true).open(path)),
    };
    (path, settings)
}

/// So many lines, once they are written.
fn lines(path: &Path, count: usize) -> Vec<String> {
    let deadline = Instant::now() + BOUND;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(Instant::now() < deadline, "not {count} lines: {text}");
        std::thread::yield_now();
    }
}

/// Sends a request by HTTP/1.1.
fn by_http1(site: &Site, first_line: &str, list: &[(&str, &str)]) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    let lines: String = list
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let request = format!("{first_line} HTTP/1.1\r\n{lines}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    // Whether it ends in order is not what this is about.
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Sends a request by HTTP/2.
fn by_http2(site: &Site, list: &[(&str, &str)]) {
    let mut client = Client::connect(site, &[]);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(list)));
    client.read_until(|seen| seen.complete.contains(&1) || seen.resets.contains_key(&1));
}

/// A site with an access log.
fn logging(settings: LogSettings) -> Site {
    Site::with(Settings {
        retries: 0,
        access_log: Some(settings),
        ..Settings::default()
    })
}

/// Each of so many lines has all parts.
fn has_parts(file: &Path, count: usize, parts: &[&str]) {
    for line in lines(file, count) {
        for part in parts {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
    std::fs::remove_file(file).expect("it is there");
}

#[test]
fn a_request_has_the_same_line_over_both_versions() {
    for (method, path, outcome) in [
        ("GET", "/?a=b", "\"status\":200,\"bytes\":2,"),
        ("TRACE", "/", "\"status\":501,"),
        ("GET", "/gone", "\"status\":502,"),
    ] {
        let (file, settings) = log("same-lines");
        let site = logging(settings);
        let others = [("referer", "r"), ("user-agent", "a")];
        let host = "x.test:8080";
        by_http1(
            &site,
            &format!("{method} {path}"),
            &[&[("host", host)][..], &others].concat(),
        );
        for names_host in [":authority", "host"] {
            let first = [
                (":method", method),
                (":scheme", "http"),
                (":path", path),
                (names_host, host),
            ];
            by_http2(&site, &[&first[..], &others].concat());
        }
        has_parts(
            &file,
            3,
            &[
                "\"client\":\"127.0.0.1\"",
                &format!("\"method\":\"{method}\",\"target\":\"{path}\",\"protocol\":\"HTTP/"),
                "\"host\":\"x.test:8080\",\"referer\":\"r\",\"user_agent\":\"a\",",
                outcome,
            ],
        );
    }
}

#[test]
fn fields_are_the_same_over_both_versions() {
    let none: &[(&str, &str)] = &[];
    for (list, logged) in [
        // Node takes the first, too.
        (
            &[
                ("referer", "r"),
                ("user-agent", "a"),
                ("referer", "s"),
                ("user-agent", "b"),
            ][..],
            "\"referer\":\"r\",\"user_agent\":\"a\",",
        ),
        (
            &[("referer", ""), ("user-agent", "a"), ("referer", "s")],
            "\"referer\":\"\",\"user_agent\":\"a\",",
        ),
        (
            &[("referer", "caf\u{e9}"), ("user-agent", "\u{1f980}/1")],
            "\"referer\":\"caf\u{e9}\",\"user_agent\":\"\u{1f980}/1\",",
        ),
        (none, "\"referer\":\"\",\"user_agent\":\"\","),
    ] {
        let (file, settings) = log("same-fields");
        let site = logging(settings);
        by_http1(&site, "GET /", &[&[("host", "x")][..], list].concat());
        by_http2(&site, &[&GET[..], list].concat());
        has_parts(&file, 2, &["\"status\":200,", "\"host\":\"x\",", logged]);
    }
}

#[test]
fn the_host_is_the_one_that_the_worker_gets() {
    let (file, settings) = log("same-host");
    let site = logging(settings);
    by_http1(&site, "GET http://x/", &[("host", "other")]);
    by_http2(&site, &[&GET[..], &[("host", "x")]].concat());
    has_parts(&file, 2, &["\"status\":200,", "\"host\":\"x\","]);
}

#[test]
fn a_request_without_a_path_has_its_authority_as_target() {
    let (file, settings) = log("same-target");
    let site = logging(settings);
    by_http1(&site, "CONNECT x.test:8080", &[("host", "x.test:8080")]);
    by_http2(&site, &[(":method", "CONNECT"), (":authority", "x.test:8080")]);
    has_parts(
        &file,
        2,
        &[
            "\"method\":\"CONNECT\",\"target\":\"x.test:8080\",",
            "\"host\":\"x.test:8080\",",
            "\"status\":501,",
        ],
    );
}

#[test]
fn a_client_that_has_gone_before_there_was_a_worker_has_a_line_without_a_status() {
    let (file, settings) = log("gone");
    let site = logging(settings);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).expect("it is sent");
    assert!(lines(&file, 1)[0].contains("\"status\":200,"));
    site.front.set_upstreams(&[]);
    stream.write_all(request).expect("it is sent");
    drop(stream);
    let line = lines(&file, 2).swap_remove(1);
    assert!(line.contains("\"status\":0,\"bytes\":0,"), "{line}");
    assert!(line.contains("\"instance\":null"), "{line}");
    std::fs::remove_file(&file).expect("it is there");
}
