//! Requests that wait for a worker, and clients that do not wait with them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::frames::*;
use crate::site::{BOUND, Site};
use rpm_proxy::{Figures, Settings};

/// What is not meant to end by itself does not.
const LONG: Duration = Duration::from_secs(600);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

fn site() -> Site {
    Site::with(Settings {
        retries: 0,
        max_in_flight: Some(1),
        queue_timeout: LONG,
        hold_timeout: LONG,
        ..Settings::default()
    })
}

fn connect(site: &Site) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    stream
}

fn until(site: &Site, what: &str, is: impl Fn(&Figures) -> bool) {
    let deadline = Instant::now() + BOUND;
    while !is(&site.front.figures()) {
        assert!(Instant::now() < deadline, "{what}: {:?}", site.front.figures());
        thread::yield_now();
    }
}

/// A client that keeps the only place of the worker.
fn busy(site: &Site) -> TcpStream {
    let mut client = connect(site);
    client
        .write_all(b"POST /deaf HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhell")
        .expect("it is sent");
    until(site, "busy", |figures| figures.in_flight == 1);
    client
}

#[test]
fn a_client_that_has_gone_leaves_the_queue() {
    let site = site();
    let _busy = busy(&site);
    let mut by_http1 = connect(&site);
    by_http1.write_all(REQUEST).expect("it is sent");
    until(&site, "it waits", |figures| figures.queued == 1);
    drop(by_http1);
    until(&site, "HTTP/1", |figures| figures.queued == 0);
    let mut by_http2 = Client::connect(&site, &[]);
    by_http2.send(&get(1));
    until(&site, "it waits", |figures| figures.queued == 1);
    drop(by_http2);
    until(&site, "HTTP/2", |figures| figures.queued == 0);
    assert_eq!(site.front.figures().upstreams[0].requests, 1);
    assert_eq!(
        site.front.figures().unavailable,
        0,
        "it was not the worker's fault"
    );
}

#[test]
fn a_client_that_has_gone_is_not_held_while_there_is_no_worker() {
    let site = site();
    site.front.set_upstreams(&[]);
    let mut client = connect(&site);
    client.write_all(REQUEST).expect("it is sent");
    until(&site, "it has come", |figures| figures.connections == 1);
    drop(client);
    until(&site, "it is held", |figures| figures.connections == 0);
}

#[test]
fn what_a_client_sends_while_it_waits_is_not_lost() {
    let site = site();
    let busy = busy(&site);
    let mut client = connect(&site);
    client
        .write_all(b"POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
        .expect("it is sent");
    until(&site, "it waits", |figures| figures.queued == 1);
    client.write_all(b"hello").expect("it is sent");
    client.write_all(REQUEST).expect("it is sent");
    drop(busy);
    for _ in 0..2 {
        let mut come = Vec::new();
        while !come.ends_with(b"\r\n\r\nok") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("an answer");
            come.push(byte[0]);
        }
    }
    let first = site.upstream.seen.recv_timeout(BOUND).expect("the first");
    assert!(
        first.ends_with(b"\r\n\r\nhello"),
        "{}",
        String::from_utf8_lossy(&first)
    );
}
