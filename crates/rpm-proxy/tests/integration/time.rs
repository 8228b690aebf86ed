//! Clients and workers that are idle or slow.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::frames::*;
use crate::site::{BOUND, Site};
use rpm_proxy::{Settings, Target, UpstreamId};

/// What is meant to end does so after this time.
const SHORT: Duration = Duration::from_millis(300);
/// And what is not, not.
const LONG: Duration = Duration::from_secs(600);

/// For what has to happen within a time-out again and again, however little CPU that gets.
const PATIENT: Duration = Duration::from_secs(5);

/// Settings by which nothing is in time.
fn usual() -> Settings {
    Settings {
        retries: 0,
        header_timeout: LONG,
        idle_timeout: LONG,
        stream_timeout: LONG,
        response_timeout: LONG,
        ..Settings::default()
    }
}

/// A site where nothing is in time but by these settings.
fn site(settings: impl FnOnce(Settings) -> Settings) -> Site {
    Site::with(settings(usual()))
}

/// Without an error, and with nothing that it was sent unanswered.
fn is_let_go(mut client: Client) {
    client.read_until(|seen| seen.ended);
    assert_eq!(client.seen.goaway, Some(0), "{:?}", client.seen);
    assert!(client.seen.resets.is_empty(), "{:?}", client.seen);
}

#[test]
fn an_idle_connection_is_ended() {
    let site = site(|usual| Settings {
        idle_timeout: SHORT,
        ..usual
    });
    let mut client = Client::connect(&site, &[]);
    client.send(&get(1));
    client.read_until(|seen| seen.complete.contains(&1));
    assert_eq!(client.seen.statuses.get(&1), Some(&OK));
    is_let_go(client);
}

#[test]
fn a_connection_that_asks_for_nothing_is_ended() {
    let settings = Settings {
        header_timeout: SHORT,
        ..usual()
    };
    let (_site, client) = Site::after(settings, |site| Client::connect(site, &[]));
    is_let_go(client);
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let site = site(|usual| Settings {
        stream_timeout: SHORT,
        ..usual
    });
    let mut client = Client::connect(&site, &[(4, 0)]);
    client.send(&get(1));
    client.read_until(|seen| seen.ended);
    assert_eq!(client.seen.statuses.get(&1), Some(&OK), "{:?}", client.seen);
    assert!(client.seen.data.is_empty(), "there was no window");
}

/// Much more of a response arrives in one read than such a client takes in the time-out.
#[test]
fn a_client_that_takes_slowly_is_not_cut() {
    let site = site(|usual| Settings {
        stream_timeout: Duration::from_secs(4),
        ..usual
    });
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n";
    let path = site
        .upstream
        .says(&[head.as_bytes(), &[b'x'; 2_000_000]].concat());
    let mut client = Client::connect(&site, &[]);
    let asked = [&GET[..2], &[(":path", path.as_str())], &GET[3..]].concat();
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(&asked)));
    const PART: u32 = 16_384;
    const ROUNDS: usize = 28;
    for _ in 0..ROUNDS {
        client.read_for(Duration::from_millis(400));
        for stream in [0, 1] {
            client.send(&frame(WINDOW_UPDATE, 0, stream, &PART.to_be_bytes()));
        }
    }
    let has_all = |seen: &Seen| {
        let taken: usize = seen.data.iter().map(|(_, length)| length).sum();
        taken == WINDOW + ROUNDS * PART as usize
    };
    client.read_until(has_all);
    assert!(has_all(&client.seen), "{:?}", client.seen);
    assert!(client.seen.resets.is_empty(), "{:?}", client.seen);
}

#[test]
fn an_answer_that_goes_on_no_more_is_reset_and_nothing_else() {
    let site = site(|usual| Settings {
        stream_timeout: SHORT,
        ..usual
    });
    let mut client = Client::connect(&site, &[]);
    let half = fields(&at(GET, "/half"));
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &half));
    client.read_until(|seen| seen.resets.contains_key(&1));
    assert_eq!(client.seen.data, [(1, 2)], "{:?}", client.seen);
    client.send(&get(3));
    client.read_until(|seen| seen.complete.contains(&3));
    assert_eq!(client.seen.statuses.get(&3), Some(&OK), "{:?}", client.seen);
}

#[test]
fn a_body_that_comes_slowly_has_the_time_it_needs() {
    let site = site(|usual| Settings {
        response_timeout: PATIENT,
        ..usual
    });
    let mut client = Client::connect(&site, &[]);
    client.send(&post(1));
    for part in 0..8 {
        client.hears_nothing(PATIENT / 7);
        client.send(&frame(DATA, if part == 7 { END_STREAM } else { 0 }, 1, b"x"));
    }
    client.read_until(|seen| seen.complete.contains(&1));
    assert_eq!(client.seen.statuses.get(&1), Some(&OK), "{:?}", client.seen);
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert_eq!(seen.matches("1\r\nx\r\n").count(), 8, "{seen}");
    // They are counted when the answer has ended, which the client may know first.
    let deadline = Instant::now() + BOUND;
    while site.front.figures().bytes != [8, 2] {
        assert!(Instant::now() < deadline, "{:?}", site.front.figures());
        thread::yield_now();
    }
}

#[test]
fn a_client_that_stalls_gets_408_and_its_worker_is_not_blamed() {
    let site = site(|usual| Settings {
        response_timeout: SHORT,
        ..usual
    });
    let mut client = Client::connect(&site, &[]);
    // More than would have a worker left out.
    let streams = [1, 3, 5, 7, 9, 11];
    for stream in streams {
        client.send(&post(stream));
        client.send(&frame(DATA, 0, stream, b"x"));
    }
    client.read_until(|seen| streams.iter().all(|stream| seen.complete.contains(stream)));
    let text = "request body timed out\n".len();
    for stream in streams {
        assert!(client.seen.data.contains(&(stream, text)), "{:?}", client.seen);
    }
    let figures = site.front.figures();
    assert_eq!(figures.upstreams[0].ejections, 0);
}

/// More than a worker is asked for after that.
const FAILURES: usize = 6;

/// A worker that reads nothing of a body is not its client's fault.
#[test]
fn a_worker_that_does_not_read_is_blamed_over_http2() {
    // A client that sends nothing for so long while more is taken would be blamed, rightly.
    let site = site(|usual| Settings {
        response_timeout: PATIENT,
        ..usual
    });
    let clients = [(); FAILURES].map(|()| {
        let mut client = Client::connect(&site, &[]);
        client.send(&frame(HEADERS, END_HEADERS, 1, &fields(&at(POST, "/deaf"))));
        client
    });
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                client.send_what_is_taken(1);
                let text = "upstream response timed out\n".len();
                assert_eq!(client.seen.data, [(1, text)], "{:?}", client.seen);
            });
        }
    });
    assert!(site.front.figures().upstreams[0].ejections > 0);
}

/// Sends a body until nothing of it is taken any more. Returns how much was sent. `before`: what other streams have sent.
fn fill(client: &mut Client, stream: u32, before: usize) -> usize {
    let initial = client.seen.initial_window.expect("it is known");
    let mut sent = 0;
    loop {
        let widened = |stream| client.seen.widened.get(&stream).copied().unwrap_or(0);
        let room = (initial + widened(stream) - sent).min(WINDOW + widened(0) - before - sent);
        if room == 0 {
            let known = (widened(stream), widened(0));
            client.hears_nothing(SHORT);
            let widened = |stream| client.seen.widened.get(&stream).copied().unwrap_or(0);
            if known == (widened(stream), widened(0)) {
                return sent;
            }
        }
        let count = room.min(16_384);
        client.send(&frame(DATA, 0, stream, &vec![b'x'; count]));
        sent += count;
    }
}

/// Streams share the window of their connection.
#[test]
fn uploads_that_stall_stop_no_other_upload_of_their_connection() {
    let site = site(|usual| usual);
    let mut client = Client::connect(&site, &[]);
    client.read_until(|seen| seen.initial_window.is_some());
    let mut sent = 0;
    for stream in [1, 3, 5] {
        let head = fields(&at(POST, "/deaf"));
        client.send(&frame(HEADERS, END_HEADERS, stream, &head));
        sent += fill(&mut client, stream, sent);
    }
    client.send(&post(7));
    let takes_more = |seen: &Seen| WINDOW + seen.widened.get(&0).copied().unwrap_or(0) > sent;
    client.read_until(takes_more);
    assert!(
        takes_more(&client.seen),
        "the connection takes no more: {:?}",
        client.seen
    );
    client.send(&frame(DATA, END_STREAM, 7, b"x"));
    client.read_until(|seen| seen.complete.contains(&7));
    assert_eq!(client.seen.statuses.get(&7), Some(&OK), "{:?}", client.seen);
}

/// A connection that is not waited for without end.
fn connect(site: &Site) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    stream.set_write_timeout(Some(BOUND)).expect("a deadline");
    stream
}

fn gets_504(stream: &mut TcpStream) {
    let mut status = [0; 12];
    stream.read_exact(&mut status).expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 504");
}

#[test]
fn a_worker_that_does_not_read_is_blamed_over_http1() {
    // As over HTTP/2, the clients have the time to send.
    let site = site(|usual| Settings {
        response_timeout: PATIENT,
        ..usual
    });
    let clients = [(); FAILURES].map(|()| connect(&site));
    thread::scope(|scope| {
        for mut stream in clients {
            let mut body = stream.try_clone().expect("a descriptor");
            scope.spawn(move || {
                let head = b"POST /deaf HTTP/1.1\r\nhost: x\r\ncontent-length: 67108864\r\n\r\n";
                body.write_all(head).expect("it is read");
                // The proxy ends it in the middle.
                while body.write_all(&[b'x'; 65_536]).is_ok() {}
            });
            scope.spawn(move || {
                gets_504(&mut stream);
                // The proxy may have ended it before.
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    assert!(site.front.figures().upstreams[0].ejections > 0);
}

#[test]
fn a_worker_that_says_nothing_to_a_client_that_expects_it_to_is_blamed() {
    let site = site(|usual| Settings {
        response_timeout: SHORT,
        ..usual
    });
    for _ in 0..FAILURES {
        let mut stream = connect(&site);
        let head = b"POST /deaf HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
        stream.write_all(head).expect("it is read");
        gets_504(&mut stream);
    }
    assert!(site.front.figures().upstreams[0].ejections > 0);
}

/// Requests that wait for a worker are rejected at once when the front ends.
#[test]
fn a_front_that_has_ended_keeps_no_request_waiting() {
    let site = site(|usual| Settings {
        hold_timeout: LONG,
        retries: 2,
        ..usual
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    site.front
        .set_upstreams(&[target(listener.local_addr().expect("an address"))]);
    // A worker has taken one of them, and goes with it.
    let mut taken = connect(&site);
    taken
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is sent");
    let (mut worker, _) = listener.accept().expect("it comes through");
    let mut come = Vec::new();
    while !come.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        worker.read_exact(&mut byte).expect("it comes through");
        come.push(byte[0]);
    }
    // Otherwise the request could be sent to this worker again, and so often that it is rejected for that.
    site.front.set_upstreams(&[]);
    drop((worker, listener));
    let mut waiting = connect(&site);
    waiting
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is sent");
    let mut over2 = Client::connect(&site, &[]);
    over2.send(&get(1));
    over2.hears_nothing(SHORT);
    site.front.end();
    for stream in [&mut taken, &mut waiting] {
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 503");
    }
    over2.read_until(|seen| seen.complete.contains(&1));
    assert_eq!(
        over2.seen.data,
        [(1, "no worker available\n".len())],
        "{:?}",
        over2.seen
    );
}

/// Another worker than the one that the site begins with.
fn target(addr: SocketAddr) -> Target {
    Target {
        id: UpstreamId(2),
        addr: addr.into(),
        weight: 1,
        key: 0,
        reserved: false,
    }
}

/// A worker that ends each connection after its answer, on its side; it says when the proxy has ended it, too.
fn half_closing() -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (sender, ended) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut part = [0; 4096];
            let _ = stream.read(&mut part);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            let _ = stream.shutdown(Shutdown::Write);
            while stream.read(&mut part).is_ok_and(|count| count > 0) {}
            let _ = sender.send(());
        }
    });
    (addr, ended)
}

/// Even if the client stays connected and no other one connects.
#[test]
fn what_workers_have_ended_is_ended_here_too() {
    let site = site(|usual| usual);
    let (addr, ended) = half_closing();
    site.front.set_upstreams(&[target(addr)]);
    let mut client = connect(&site);
    for request in 0..3 {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .expect("it is sent");
        let mut come = Vec::new();
        while !come.ends_with(b"\r\n\r\nok") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("an answer");
            come.push(byte[0]);
        }
        let is_ended = ended.recv_timeout(BOUND);
        assert!(
            is_ended.is_ok(),
            "after request {request} the connection was kept"
        );
    }
}

/// Reads until the proxy ends the connection.
fn until_its_end(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("it is ended");
    String::from_utf8_lossy(&all).into_owned()
}

const SWITCHES: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";

#[test]
fn a_tunnel_that_is_silent_is_ended() {
    let tunnels = |usual: Settings| Settings {
        tunnel_timeout: SHORT,
        ..usual
    };
    let site = site(tunnels);
    let path = site.upstream.says(SWITCHES);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    let upgrade =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    stream.write_all(upgrade.as_bytes()).expect("it is sent");
    let said = until_its_end(&mut stream);
    assert!(said.starts_with("HTTP/1.1 101 "), "{said}");

    let mut client = Client::connect(&site, &[]);
    let asked = fields(&[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "x"),
    ]);
    client.send(&frame(HEADERS, END_HEADERS, 1, &asked));
    client.read_until(|seen| seen.complete.contains(&1) || seen.resets.contains_key(&1));
    assert_eq!(client.seen.statuses.get(&1), Some(&OK), "{:?}", client.seen);

    let settings = Settings {
        tcp: true,
        ..tunnels(usual())
    };
    let (_site, mut stream) = Site::after(settings, |site| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
        // The worker says nothing to that, and stays.
        stream
            .write_all(b"POST /deaf HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
            .expect("it is sent");
        stream
    });
    assert_eq!(until_its_end(&mut stream), "");
}

/// Is the kernel to ask the client of this port whether it is there? Of a line of `/proc/net/tcp` the second and third words are addresses,
/// and the sixth begins with the timer that runs: 2 is that one.
fn is_asked(server: u16, client: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("it can be read");
    let ends = |word: &str, port: u16| word.ends_with(&format!(":{port:04X}"));
    let mut own = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = own.find(|words| words.len() > 5 && ends(words[1], server) && ends(words[2], client));
    own.is_some_and(|words| words[5].starts_with("02:"))
}

#[test]
fn clients_that_vanish_are_asked_for() {
    let site = site(|usual| usual);
    let mut client = Client::connect(&site, &[]);
    client.send(&get(1));
    client.read_until(|seen| seen.complete.contains(&1));
    let port = client.stream.local_addr().expect("an address").port();
    // While something is unacknowledged another timer runs.
    let deadline = Instant::now() + BOUND;
    while !is_asked(site.port, port) {
        assert!(Instant::now() < deadline, "no keepalive for {port}");
        thread::yield_now();
    }
}
