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

fn by_http1(site: &Site, method: &str, path: &str) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x.test:8080\r\nreferer: r\r\nuser-agent: a\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it is sent");
    // Whether it ends in order is not what this is about.
    let _ = stream.read_to_end(&mut Vec::new());
}

fn by_http2(site: &Site, method: &str, path: &str, names_host: &str) {
    let mut client = Client::connect(site, &[]);
    let request = fields(&[
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (names_host, "x.test:8080"),
        ("referer", "r"),
        ("user-agent", "a"),
    ]);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &request));
    client.read_until(|seen| seen.complete.contains(&1) || seen.resets.contains_key(&1));
}

#[test]
fn a_request_has_the_same_line_over_both_versions() {
    for (method, path, outcome) in [
        ("GET", "/?a=b", "\"status\":200,\"bytes\":2,"),
        ("TRACE", "/", "\"status\":501,"),
        ("GET", "/gone", "\"status\":502,"),
    ] {
        let (file, settings) = log("same-lines");
        let site = Site::with(Settings {
            retries: 0,
            access_log: Some(settings),
            ..Settings::default()
        });
        by_http1(&site, method, path);
        by_http2(&site, method, path, ":authority");
        by_http2(&site, method, path, "host");
        for line in lines(&file, 3) {
            for part in [
                "\"client\":\"127.0.0.1\"",
                &format!("\"method\":\"{method}\",\"target\":\"{path}\",\"protocol\":\"HTTP/"),
                "\"host\":\"x.test:8080\",\"referer\":\"r\",\"user_agent\":\"a\",",
                outcome,
            ] {
                assert!(line.contains(part), "{part} is not in {line}");
            }
        }
        std::fs::remove_file(&file).expect("it is there");
    }
}
