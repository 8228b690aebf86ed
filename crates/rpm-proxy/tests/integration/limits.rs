//! Bodies that are larger than allowed: no worker gets such a request whole.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use rpm_proxy::Settings;

use crate::frames::*;
use crate::site::{BOUND, Site, is_whole};

fn site() -> Site {
    Site::with(Settings {
        retries: 0,
        max_body: 10,
        ..Settings::default()
    })
}

/// What comes back for these bytes, until the proxy ends its side.
fn by_http1(site: &Site, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut come = String::new();
    stream.read_to_string(&mut come).expect("an orderly end");
    come
}

#[test]
fn a_length_that_is_too_large_is_rejected_before_a_worker_is_asked() {
    for more in ["expect: 100-continue\r\n\r\n", "\r\nhello world"] {
        let site = site();
        let come = by_http1(
            &site,
            &format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\n{more}"),
        );
        assert!(come.starts_with("HTTP/1.1 413 "), "{come}");
        assert_eq!(site.front.figures().upstreams[0].requests, 0, "{more}");
    }
    let site = site();
    let mut client = Client::connect(&site, &[]);
    let head = fields(&[&POST[..], &[("content-length", "11")]].concat());
    client.send(&frame(HEADERS, END_HEADERS, 1, &head));
    client.read_until(|seen| seen.complete.contains(&1));
    assert_eq!(client.seen.data, [(1, "request body too large\n".len())]);
    assert_eq!(site.front.figures().upstreams[0].requests, 0);
}

#[test]
fn a_worker_gets_no_more_of_a_body_than_is_allowed() {
    let site = site();
    let come = by_http1(
        &site,
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    );
    assert!(come.starts_with("HTTP/1.1 413 "), "{come}");
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it was asked");
    assert!(!is_whole(&seen), "{}", String::from_utf8_lossy(&seen));
    let mut client = Client::connect(&site, &[]);
    client.send(&post(1));
    client.send(&frame(DATA, END_STREAM, 1, b"hello world"));
    client.read_until(|seen| seen.complete.contains(&1));
    assert_eq!(client.seen.data, [(1, "request body too large\n".len())]);
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it was asked");
    assert!(!is_whole(&seen), "{}", String::from_utf8_lossy(&seen));
}
