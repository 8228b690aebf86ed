//! Workers that respond before they have read the whole request, and clients that send all of it before they read.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rpm_proxy::{Front, Proxy, Settings, Target, UpstreamId};

use crate::site::BOUND;

const PART: usize = 100_000;
const PARTS: usize = 10;
/// More than all buffers between a client and a worker take.
const MUCH: usize = 20_000_000;

/// What a worker does when it has the head of a request.
#[derive(Clone, Copy, Debug)]
enum Worker {
    /// Answers, and reads on.
    ReadsOn,
    /// Says that it ends the connection, answers, and reads on all the same before it does.
    ReadsOnAndCloses,
    /// Answers, and ends the connection with the body unread, which resets it.
    Resets,
    /// Answers, says that it ends the connection, and does so as it should.
    Closes,
    /// Answers, and reads nothing any more.
    Sleeps,
}

/// What a worker reports.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Connection,
    /// A request has come whole: its target, and how long its body was.
    Whole(String, usize),
}

/// Reads a head, and what came with it.
fn head(stream: &mut TcpStream, come: &mut Vec<u8>) -> Option<String> {
    let mut part = [0; 65_536];
    loop {
        if let Some(end) = come.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&come[..end]).into_owned();
            come.drain(..end + 4);
            return Some(head);
        }
        match stream.read(&mut part) {
            Ok(count @ 1..) => come.extend_from_slice(&part[..count]),
            Ok(0) | Err(_) => return None,
        }
    }
}

/// Reads a body to its end, and says how long it was. Of chunks none may hold what looks like the last one.
fn body(stream: &mut TcpStream, come: &mut Vec<u8>, head: &str) -> Option<usize> {
    let head = head.to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let chunked = head.contains("transfer-encoding: chunked");
    let mut part = [0; 65_536];
    loop {
        if chunked {
            if come.ends_with(b"\r\n0\r\n\r\n") {
                let count = come.iter().filter(|byte| **byte == b'x').count();
                come.clear();
                return Some(count);
            }
        } else {
            let length = length.map_or(0, |length| length.parse().expect("a number"));
            if come.len() >= length {
                come.drain(..length);
                return Some(length);
            }
        }
        match stream.read(&mut part) {
            Ok(count @ 1..) => come.extend_from_slice(&part[..count]),
            Ok(0) | Err(_) => return None,
        }
    }
}

fn work(mut stream: TcpStream, kind: Worker, events: &Sender<Event>) {
    let _ = events.send(Event::Connection);
    let mut come = Vec::new();
    while let Some(head) = head(&mut stream, &mut come) {
        let close = match kind {
            Worker::ReadsOnAndCloses | Worker::Closes => "connection: close\r\n",
            Worker::ReadsOn | Worker::Resets | Worker::Sleeps => "",
        };
        let answer = format!("HTTP/1.1 413 Too Much\r\ncontent-length: 2\r\n{close}\r\nno");
        let _ = stream.write_all(answer.as_bytes());
        match kind {
            Worker::ReadsOn | Worker::ReadsOnAndCloses => {}
            Worker::Resets | Worker::Closes => return,
            Worker::Sleeps => return std::mem::forget(stream),
        }
        let Some(length) = body(&mut stream, &mut come, &head) else {
            return;
        };
        let target = head.split(' ').nth(1).expect("a target").to_owned();
        let _ = events.send(Event::Whole(target, length));
        if matches!(kind, Worker::ReadsOnAndCloses) {
            return;
        }
    }
}

struct Place {
    _proxy: Proxy,
    port: u16,
    events: Receiver<Event>,
}

impl Place {
    fn of(kind: Worker, settings: Settings) -> Place {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (sender, events) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                thread::spawn(move || work(stream, kind, &sender));
            }
        });
        Place::before(&[addr], events, settings)
    }

    fn before(workers: &[SocketAddr], events: Receiver<Event>, settings: Settings) -> Place {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (proxy, front) = (Proxy::start(1).expect("a thread"), Front::new());
        front.set(settings).expect("nothing can fail");
        let target = |(id, addr): (u32, &SocketAddr)| Target {
            id: UpstreamId(id),
            addr: (*addr).into(),
            weight: 1,
            key: id,
            reserved: false,
        };
        front.set_upstreams(&(0..).zip(workers).map(target).collect::<Vec<_>>());
        let front: &Arc<Front> = &front;
        proxy
            .open(1, vec![OwnedFd::from(listener)], front)
            .expect("it takes orders");
        Place {
            _proxy: proxy,
            port,
            events,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("it listens");
        stream.set_read_timeout(Some(BOUND)).expect("a deadline");
        stream.set_write_timeout(Some(BOUND)).expect("a deadline");
        stream
    }

    fn next_event(&self) -> Event {
        self.events.recv_timeout(BOUND).expect("the worker reports it")
    }
}

fn usual() -> Settings {
    Settings {
        retries: 0,
        ..Settings::default()
    }
}

/// Reads an answer whose body is `no`, and gives back its head.
fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\nno") {
        let text = || String::from_utf8_lossy(&answer).into_owned();
        match stream.read(&mut byte) {
            Ok(1..) => answer.push(byte[0]),
            Ok(0) => panic!("it ends after {:?}", text()),
            Err(error) => panic!("{error} after {:?}", text()),
        }
    }
    String::from_utf8(answer).expect("text")
}

/// A request of so many bytes in parts: its head, and each part.
fn request(chunked: bool, target: &str) -> (String, Vec<u8>, &'static [u8]) {
    let framing = if chunked {
        "transfer-encoding: chunked".to_owned()
    } else {
        format!("content-length: {}", PART * PARTS)
    };
    let head = format!("POST {target} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n");
    let data = vec![b'x'; PART];
    if chunked {
        let part = [format!("{PART:x}\r\n").as_bytes(), &data, b"\r\n"].concat();
        (head, part, b"0\r\n\r\n")
    } else {
        (head, data, b"")
    }
}

#[test]
fn what_is_left_of_a_body_goes_to_a_worker_that_has_answered_and_both_connections_stay() {
    for chunked in [false, true] {
        let place = Place::of(Worker::ReadsOn, usual());
        let mut stream = place.connect();
        for target in ["/first", "/second"] {
            let (head, part, end) = request(chunked, target);
            stream.write_all(head.as_bytes()).expect("it is read");
            stream.write_all(&part).expect("it is read");
            // From here on the answer is there.
            let answer = answer(&mut stream);
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
            assert!(!answer.contains("connection: close"), "{answer}");
            for _ in 1..PARTS {
                stream.write_all(&part).expect("it is read");
            }
            stream.write_all(end).expect("it is read");
            if target == "/first" {
                assert_eq!(place.next_event(), Event::Connection);
            }
            let whole = Event::Whole(target.to_owned(), PART * PARTS);
            assert_eq!(place.next_event(), whole, "chunked: {chunked}");
        }
    }
}

#[test]
fn a_worker_that_is_to_close_may_read_on_before() {
    let place = Place::of(Worker::ReadsOnAndCloses, usual());
    let mut stream = place.connect();
    let (head, part, _) = request(false, "/");
    stream.write_all(head.as_bytes()).expect("it is read");
    let answer = answer(&mut stream);
    assert!(answer.contains("connection: close"), "{answer}");
    for _ in 0..PARTS {
        stream.write_all(&part).expect("it is read");
    }
    assert_eq!(place.next_event(), Event::Connection);
    assert_eq!(place.next_event(), Event::Whole("/".to_owned(), PART * PARTS));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an orderly end");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

/// Sends much, and only then reads what has come.
fn send_and_then_read(place: &Place) -> String {
    let mut stream = place.connect();
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {MUCH}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the head is read");
    for _ in 0..MUCH / PART {
        stream.write_all(&[b'x'; PART]).expect("all of the body is read");
    }
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part).expect("no reset");
        answer.extend_from_slice(&part[..count]);
        if count == 0 || answer.ends_with(b"\r\n\r\nno") {
            return String::from_utf8(answer).expect("text");
        }
    }
}

#[test]
fn a_client_that_sends_all_before_it_reads_has_the_answer() {
    let brief = Settings {
        response_timeout: Duration::from_millis(300),
        ..usual()
    };
    for (kind, settings) in [
        (Worker::ReadsOn, usual()),
        (Worker::ReadsOnAndCloses, usual()),
        (Worker::Resets, usual()),
        (Worker::Closes, usual()),
        // It is given up when it has read nothing for so long.
        (Worker::Sleeps, brief),
    ] {
        let answer = send_and_then_read(&Place::of(kind, settings));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{kind:?}: {answer}");
        assert!(answer.ends_with("\r\n\r\nno"), "{kind:?}: {answer}");
    }
}

#[test]
fn a_client_that_sends_all_before_it_reads_has_the_proxys_own_answer_too() {
    let limited = Settings {
        max_body: 1_000_000,
        ..usual()
    };
    let answer = send_and_then_read(&Place::of(Worker::Sleeps, limited));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let alone = Settings {
        hold_timeout: Duration::from_millis(1),
        ..usual()
    };
    let answer = send_and_then_read(&Place::before(&[], channel().1, alone));
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

/// What a worker has not read is never taken for another request.
#[test]
fn what_is_left_of_a_body_is_no_request() {
    for kind in [Worker::Resets, Worker::Closes, Worker::ReadsOn] {
        let place = Place::of(kind, usual());
        let mut stream = place.connect();
        let hidden = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n";
        let head = format!(
            "POST /shown HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            hidden.len()
        );
        stream.write_all(head.as_bytes()).expect("it is read");
        answer(&mut stream);
        // By now it may have been let go.
        let _ = stream.write_all(hidden);
        let _ = stream.write_all(b"GET /hidden HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".as_slice());
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let mut other = place.connect();
        other
            .write_all(b"GET /last HTTP/1.1\r\nhost: x\r\n\r\n")
            .expect("it is read");
        answer(&mut other);
        drop(other);
        drop(stream);
        let is_hidden = |event: &Event| matches!(event, Event::Whole(target, _) if target == "/hidden");
        // Where all of the body was read there is one after it, which the worker may report after the client has its answer.
        let expected = usize::from(matches!(kind, Worker::ReadsOn));
        let mut events: Vec<Event> = Vec::new();
        while expected > 0 && !events.iter().any(is_hidden) {
            events.push(place.next_event());
        }
        events.extend(place.events.try_iter());
        let hidden = events.iter().filter(|event| is_hidden(event)).count();
        assert_eq!(hidden, expected, "{kind:?}: {events:?}");
    }
}
