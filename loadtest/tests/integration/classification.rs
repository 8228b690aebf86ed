//! Each way a server can fail a request is told from the others.

use std::net::SocketAddr;
use std::time::Duration;

use rpm_loadtest::{Kind, Load, Outcome, Pace, Report, Stop};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-worker: 0 77\r\n\r\nhello";
const HELLO_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n3 42";

/// What a server does with the requests of one connection, in turn; then it closes.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer(&'static [u8]),
    /// Reset the connection (having read the request).
    Reset,
    /// End the stream (having read the request).
    End,
    /// Keep the connection and say nothing more.
    Hang,
    /// Answer after this time, as a slow application does.
    Slow(Duration),
}

async fn serve(acts: &'static [Act]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(act_out(stream, acts));
        }
    });
    address
}

async fn act_out(mut stream: TcpStream, acts: &[Act]) {
    for act in acts {
        if !read_request(&mut stream).await {
            return;
        }
        match act {
            Act::Answer(bytes) => stream.write_all(bytes).await.expect("answer"),
            Act::Reset => {
                let zero = Some(Duration::ZERO);
                socket2::SockRef::from(&stream).set_linger(zero).expect("linger");
                return;
            }
            Act::End => return,
            Act::Hang => std::future::pending().await,
            Act::Slow(delay) => {
                // tidy: sleep because a slow server is what this one plays
                tokio::time::sleep(*delay).await;
                stream.write_all(HELLO).await.expect("answer");
            }
        }
    }
}

/// One whole request; `false` at the end of the stream.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(count) if count > 0) {
            return false;
        }
    }
    true
}

async fn send(load: Load) -> Report {
    load.run(&Stop::new()).await
}

/// Send `count` requests one after the other to a server that does `acts` on each connection.
async fn outcomes(acts: &'static [Act], kind: Kind, count: u64) -> Report {
    let target = serve(acts).await;
    send(Load {
        kind,
        requests: Some(count),
        ..Load::new(target)
    })
    .await
}

fn assert_only(report: &Report, expected: &[(Outcome, u64)]) {
    for (outcome, count) in report.outcomes.counts() {
        let wanted = expected
            .iter()
            .find(|(other, _)| *other == outcome)
            .map_or(0, |(_, wanted)| *wanted);
        assert_eq!(count, wanted, "{outcome} in {report}");
    }
}

#[tokio::test]
async fn good_answers_on_new_connections() {
    let report = outcomes(&[Act::Answer(HELLO_CLOSE)], Kind::NewConnection, 20).await;
    assert_only(&report, &[(Outcome::Ok, 20)]);
    assert_eq!((report.connections, report.responders["3"]), (20, 20));
    assert_eq!(report.latency.count(), 20);
    assert!(report.throughput() > 0.0);
}

#[tokio::test]
async fn good_answers_on_one_kept_connection() {
    let report = outcomes(&[Act::Answer(HELLO); 9], Kind::KeepAlive, 9).await;
    assert_only(&report, &[(Outcome::Ok, 9)]);
    assert_eq!((report.connections, report.responders["0 77"]), (1, 9));
}

#[tokio::test]
async fn an_announced_close_is_no_failure() {
    let report = outcomes(
        &[Act::Answer(HELLO), Act::Answer(HELLO_CLOSE)],
        Kind::KeepAlive,
        8,
    )
    .await;
    assert_only(&report, &[(Outcome::Ok, 8)]);
    assert_eq!(report.connections, 4);
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let target = listener.local_addr().expect("address");
    drop(listener);
    let report = send(Load {
        requests: Some(3),
        ..Load::new(target)
    })
    .await;
    assert_only(&report, &[(Outcome::Refused, 3)]);
    assert!(
        report
            .check_clean()
            .unwrap_err()
            .to_string()
            .contains("refused 3")
    );
}

#[tokio::test]
async fn resets_and_early_ends_of_fresh_connections() {
    for acts in [&[Act::Reset], &[Act::End]] {
        let report = outcomes(acts, Kind::KeepAlive, 4).await;
        assert_only(&report, &[(Outcome::ResetFresh, 4)]);
    }
}

#[tokio::test]
async fn resets_and_early_ends_of_reused_connections() {
    for acts in [&[Act::Answer(HELLO), Act::Reset], &[Act::Answer(HELLO), Act::End]] {
        let report = outcomes(acts, Kind::KeepAlive, 6).await;
        assert_only(&report, &[(Outcome::Ok, 3), (Outcome::ResetReused, 3)]);
    }
}

#[tokio::test]
async fn answers_cut_short() {
    const HEAD: &[u8] = b"HTTP/1.1 200 O";
    const BODY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
    const CHUNK: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for acts in [&[Act::Answer(HEAD)], &[Act::Answer(BODY)], &[Act::Answer(CHUNK)]] {
        let report = outcomes(acts, Kind::NewConnection, 2).await;
        assert_only(&report, &[(Outcome::Truncated, 2)]);
    }
}

#[tokio::test]
async fn a_body_that_lasts_until_the_end_is_whole() {
    const OPEN_END: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n5 abc";
    let report = outcomes(&[Act::Answer(OPEN_END)], Kind::KeepAlive, 2).await;
    assert_only(&report, &[(Outcome::Ok, 2)]);
    assert_eq!(report.responders["5"], 2);
}

#[tokio::test]
async fn a_server_that_hangs() {
    let target = serve(&[Act::Hang]).await;
    let timeout = Duration::from_millis(30);
    let report = send(Load {
        requests: Some(2),
        timeout,
        ..Load::new(target)
    })
    .await;
    assert_only(&report, &[(Outcome::TimedOut, 2)]);
}

#[tokio::test]
async fn wrong_statuses_and_other_protocols() {
    const FAILED: &[u8] = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n";
    const SSH: &[u8] = b"SSH-2.0-OpenSSH\r\n\r\n";
    for acts in [&[Act::Answer(FAILED)], &[Act::Answer(SSH)]] {
        let report = outcomes(acts, Kind::NewConnection, 2).await;
        assert_only(&report, &[(Outcome::WrongStatus, 2)]);
    }
    let target = serve(&[Act::Answer(FAILED)]).await;
    let report = send(Load {
        requests: Some(1),
        expect_status: 500,
        ..Load::new(target)
    })
    .await;
    assert_only(&report, &[(Outcome::Ok, 1)]);
}

#[tokio::test]
async fn no_way_out_of_this_machine_is_not_the_servers_failure() {
    // Class E is unroutable everywhere.
    let target = SocketAddr::from(([255, 255, 255, 255], 9));
    let report = send(Load {
        requests: Some(1),
        ..Load::new(target)
    })
    .await;
    assert_only(&report, &[(Outcome::Unsent, 1)]);
}

#[tokio::test]
async fn an_open_loop_charges_a_stall_to_every_request_it_delays() {
    // The second request stalls for 500 ms, in which 50 more are due. A machine that does something else for a moment stalls others for less
    // than half of that.
    const ACTS: [Act; 60] = {
        let mut acts = [Act::Answer(HELLO); 60];
        acts[1] = Act::Slow(Duration::from_millis(500));
        acts
    };
    for (pace, delayed) in [(Pace::Open { per_second: 100.0 }, 20..=58), (Pace::Closed, 1..=1)] {
        let target = serve(&ACTS).await;
        let load = Load {
            kind: Kind::KeepAlive,
            requests: Some(58),
            pace,
            ..Load::new(target)
        };
        let report = send(load).await;
        assert_only(&report, &[(Outcome::Ok, 58)]);
        let slow = report.latency.slower_than(Duration::from_millis(250));
        assert!(
            delayed.contains(&slow),
            "{pace:?}: {slow} slow requests in {report}"
        );
    }
}

#[tokio::test]
async fn a_stop_ends_a_load_and_leaves_no_request_without_outcome() {
    let target = serve(&[Act::Answer(HELLO); 1_000]).await;
    let stop = Stop::new();
    let running = Load {
        clients: 8,
        kind: Kind::KeepAlive,
        ..Load::new(target)
    }
    .start(&stop);
    while running.so_far().outcomes.ok() < 100 {
        tokio::task::yield_now().await;
    }
    stop.stop();
    let report = running.finish().await;
    assert!(report.check_clean().is_ok(), "{report}");
    assert_eq!(report.responders.values().sum::<u64>(), report.outcomes.ok());
}

#[tokio::test]
async fn a_load_ends_when_its_time_is_over() {
    let target = serve(&[Act::Answer(HELLO_CLOSE)]).await;
    let lasting = Some(Duration::from_millis(50));
    let report = send(Load {
        clients: 4,
        lasting,
        ..Load::new(target)
    })
    .await;
    report.check_clean().expect("every request answered");
    assert!(report.elapsed >= Duration::from_millis(25), "{report}");
}
