//! Kinds of clients that send more than one request at a time, or live long.

use std::net::SocketAddr;
use std::time::Duration;

use rpm_loadtest::{Kind, Load, Outcome, Report, Stop};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const HELLO_CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";

/// Gives these answers on each connection, in turn, and closes it.
async fn serve(answers: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(act_out(BufReader::new(stream), answers));
        }
    });
    address
}

async fn act_out(mut stream: BufReader<TcpStream>, answers: &[&str]) {
    for answer in answers {
        if read_request(&mut stream).await.is_none() {
            return;
        }
        stream.write_all(answer.as_bytes()).await.expect("answer");
    }
    // What else was sent is read, so that the end is an end and no reset.
    stream.shutdown().await.expect("shutdown");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

/// One request with its body; `None` at the end.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<()> {
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        chunked |= line.starts_with("transfer-encoding:");
        if line == "\r\n" {
            break;
        }
    }
    if chunked {
        let mut line = String::new();
        while line != "0\r\n" {
            line.clear();
            stream.read_line(&mut line).await.ok()?;
        }
        length = 2;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok().map(drop)
}

async fn outcomes(answers: &'static [&'static str], kind: Kind, count: u64) -> Report {
    let load = Load {
        kind,
        requests: Some(count),
        ..Load::new(serve(answers).await)
    };
    load.run(&Stop::new()).await
}

fn assert_only(report: &Report, expected: &[(Outcome, u64)]) {
    let counts: Vec<_> = report.outcomes.counts().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, expected, "{report}");
}

#[tokio::test]
async fn pipelined_behind_a_close_is_sent_again() {
    let report = outcomes(&[HELLO, HELLO_CLOSE], Kind::Pipelined, 2).await;
    assert_only(&report, &[(Outcome::Ok, 4), (Outcome::Resent, 4)]);
    assert_eq!(report.connections, 4);
}

#[tokio::test]
async fn pipelined_and_never_answered_is_lost() {
    let report = outcomes(&[HELLO], Kind::Pipelined, 1).await;
    assert_only(&report, &[(Outcome::Ok, 1), (Outcome::ResetReused, 3)]);
}

#[tokio::test]
async fn what_was_uploaded_must_have_arrived() {
    const WHOLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n16384 bytes\n";
    const PART: &str = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n16383 bytes\n";
    for kind in [Kind::Post, Kind::SlowUpload] {
        let report = outcomes(&[WHOLE, WHOLE], kind, 2).await;
        assert_only(&report, &[(Outcome::Ok, 2)]);
        let report = outcomes(&[PART], kind, 1).await;
        assert_only(&report, &[(Outcome::WrongStatus, 1)]);
    }
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
    9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n";

#[tokio::test]
async fn a_stream_that_ends_without_a_reason_ended_early() {
    let report = outcomes(&[EVENTS], Kind::EventStream, 3).await;
    assert_only(&report, &[(Outcome::Ok, 2), (Outcome::ClosedEarly, 1)]);
}

#[tokio::test]
async fn a_stream_may_end_when_it_was_held_long_enough() {
    for (holds, clean) in [(Duration::ZERO, true), (Duration::from_secs(60), false)] {
        let load = Load {
            kind: Kind::EventStream,
            requests: Some(3),
            holds,
            ..Load::new(serve(&[EVENTS]).await)
        };
        let running = load.start(&Stop::new());
        // The client has not connected yet: it runs when this task waits.
        tokio::task::yield_now().await;
        running.mark();
        let report = running.finish().await;
        assert_eq!(report.check_clean().is_ok(), clean, "{report}");
    }
}

/// As one that comes to a worker that leaves, in the middle of a reload; one that comes later has the new workers.
#[tokio::test]
async fn what_is_opened_after_a_mark_may_end_until_the_mark_ends() {
    for (ends, clean) in [(false, true), (true, false)] {
        let load = Load {
            kind: Kind::EventStream,
            requests: Some(3),
            ..Load::new(serve(&[EVENTS]).await)
        };
        let running = load.start(&Stop::new());
        running.mark();
        if ends {
            running.mark_end();
        }
        // The client connects now: it runs when this task waits.
        let report = running.finish().await;
        assert_eq!(report.check_clean().is_ok(), clean, "{report}");
    }
}

#[tokio::test]
async fn a_missing_event_and_a_cut_stream_are_failures() {
    const GAP: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
    assert_only(
        &outcomes(&[GAP], Kind::EventStream, 1).await,
        &[(Outcome::WrongStatus, 1)],
    );
    const CUT: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 0\n\n\r\n";
    let report = outcomes(&[CUT], Kind::EventStream, 2).await;
    assert_only(&report, &[(Outcome::Ok, 1), (Outcome::Truncated, 1)]);
}

#[tokio::test]
async fn other_protocols_are_told_from_answers() {
    for kind in [Kind::WebSocket, Kind::Http2] {
        let load = Load {
            kind,
            requests: Some(1),
            timeout: Duration::from_millis(200),
            ..Load::new(serve(&[HELLO]).await)
        };
        let report = load.run(&Stop::new()).await;
        assert_eq!(report.outcomes.ok(), 0, "{kind:?}: {report}");
        assert!(report.outcomes.failures() > 0, "{kind:?}: {report}");
    }
}
