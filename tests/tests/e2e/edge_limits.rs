//! The limits that the proxy holds its clients to: of sizes, of times, and of their number.

use std::time::{Duration, Instant};

use rpm_e2e::ask::{BOUND, metric};
use rpm_e2e::raw::Connection;
use rpm_testkit::{Port, Rpm, wait_for, wait_until};

use crate::edge::edge;

#[test]
fn what_is_too_long_is_rejected_and_who_is_idle_is_hung_up_on() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    edge("1", &port)
        .args(["--max-body", "1K", "--max-head", "8K", "--idle-timeout", "1s"])
        .start(&rpm);
    let post = |length: usize, framing: &str, body: &str| {
        let mut connection = Connection::open(&port);
        connection.send(&format!(
            "POST /{length} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{body}"
        ));
        let answer = connection.answer();
        assert_eq!(answer.head.contains("connection: close"), answer.status != 200);
        answer.status
    };
    let long = "x".repeat(1025);
    assert_eq!(post(1024, "Content-Length: 1024", &long[1..]), 200);
    assert_eq!(post(1025, "Content-Length: 1025", &long), 413);
    let chunked = format!("401\r\n{long}\r\n0\r\n\r\n");
    assert_eq!(post(1025, "Transfer-Encoding: chunked", &chunked), 413);
    let with_cookie = |length: usize| {
        let mut connection = Connection::open(&port);
        connection.send(&format!(
            "GET / HTTP/1.1\r\nHost: x\r\nCookie: a={}\r\n\r\n",
            "x".repeat(length)
        ));
        connection.answer().status
    };
    assert_eq!((with_cookie(7000), with_cookie(9000)), (200, 431));
    let mut idle = Connection::open(&port);
    assert_eq!(idle.get("/").status, 200);
    assert!(idle.has_ended());
}

/// Nothing here waits for the worker: however slow it is, it is the client who is late.
#[test]
fn who_does_not_finish_a_request_is_told_so() {
    /// `--header-timeout`.
    const HEAD_WITHIN: Duration = Duration::from_secs(1);
    let (rpm, port) = (Rpm::new(), Port::reserve());
    edge("1", &port)
        .args([
            "--header-timeout",
            "1s",
            "--response-timeout",
            "1s",
            "--request-timeout",
            "20s",
        ])
        .start(&rpm);
    // Whoever has sent nothing within the time is hung up on without a word, so it counts only if this process was fast enough.
    let begin = |request: &str| {
        wait_for("a client that has begun in time", BOUND, || {
            let opened = Instant::now();
            let mut connection = Connection::open(&port);
            connection.send(request);
            (opened.elapsed() < HEAD_WITHIN).then_some(connection)
        })
    };
    // An incomplete head from a client that sends nothing more.
    let mut slow = begin("GET / HTTP/1.1\r\nHost:");
    assert_eq!(slow.answer().status, 408);
    // An incomplete body, which is not the worker's fault.
    let mut half = begin("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!(half.answer().status, 408);
}

/// As many connections as the address may have; one that closes makes room.
#[test]
fn an_address_has_so_many_connections() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    // Those that say nothing have to stay until all of this is over.
    edge("1", &port)
        .args(["--max-connections", "3", "--header-timeout", "5m"])
        .start(&rpm);
    let connected = || metric(&rpm, "rpm_proxy_connections");
    let mut three: Vec<Connection> = (0..3).map(|_| Connection::open(&port)).collect();
    wait_until("three are let in", BOUND, connected, |count| *count > 2.0);
    assert!(Connection::open(&port).has_ended(), "a fourth is not let in");
    drop(three.pop());
    wait_until("one has left", BOUND, connected, |count| *count < 3.0);
    assert_eq!(Connection::open(&port).get("/").status, 200);
    assert!(metric(&rpm, "rpm_proxy_turned_away_total") > 0.0);
}
