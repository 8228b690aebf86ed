//! Workers that close connections instead of responding: which requests are retried, and how often.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rpm_proxy::{Front, Proxy, Settings, Target, UpstreamId};

const BOUND: Duration = Duration::from_secs(20);
const RETRIES: u32 = 2;

/// Answers every request but those for `/poison`, and with `broken` none; says how many it has had.
fn worker(broken: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut part) {
                    count.fetch_add(1, Ordering::SeqCst);
                    if broken || part[..length].starts_with(b"GET /poison") {
                        return;
                    }
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                }
            });
        }
    });
    (addr, seen)
}

fn serve(workers: &[SocketAddr]) -> (Proxy, u16) {
    serve_within(workers, None)
}

fn serve_within(workers: &[SocketAddr], request_timeout: Option<Duration>) -> (Proxy, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (proxy, front) = (Proxy::start(1).expect("a thread"), Front::new());
    let settings = Settings {
        retries: RETRIES,
        request_timeout,
        ..Settings::default()
    };
    front.set(settings).expect("nothing can fail");
    let target = |(id, addr): (u32, &SocketAddr)| Target {
        id: UpstreamId(id),
        addr: (*addr).into(),
        weight: 1,
        key: id,
        reserved: false,
    };
    let targets: Vec<Target> = (0..).zip(workers).map(target).collect();
    front.set_upstreams(&targets);
    proxy
        .open(1, vec![OwnedFd::from(listener)], &front)
        .expect("it takes orders");
    (proxy, port)
}

fn status(port: u16, first: &str, more: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    let text = format!("{first} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}");
    stream.write_all(text.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.get(9..12).unwrap_or_default().to_owned()
}

#[test]
fn what_may_be_processed_twice_goes_to_another_worker_and_nothing_else() {
    let (broken, failed) = worker(true);
    let (sound, _) = worker(false);
    let (_proxy, port) = serve(&[broken, sound]);
    // In turn every other one comes to the broken worker first.
    let gets: Vec<String> = (0..4).map(|_| status(port, "GET /", "\r\n")).collect();
    assert_eq!(gets, ["200"; 4]);
    let before = failed.load(Ordering::SeqCst);
    assert!(before > 0, "nothing came to the broken worker");
    let body = "Content-Length: 1\r\n\r\nx";
    let posts: Vec<String> = (0..2).map(|_| status(port, "POST /", body)).collect();
    assert!(
        posts.contains(&"502".to_owned()) && posts.contains(&"200".to_owned()),
        "{posts:?}"
    );
    assert_eq!(failed.load(Ordering::SeqCst), before + 1, "it was sent once");
}

#[test]
fn a_request_that_ends_workers_does_not_reach_them_all() {
    let workers: Vec<_> = (0..8).map(|_| worker(false)).collect();
    let addrs: Vec<SocketAddr> = workers.iter().map(|(addr, _)| *addr).collect();
    let (_proxy, port) = serve(&addrs);
    // Each has an idle connection.
    assert!((0..8).all(|_| status(port, "GET /", "\r\n") == "200"));
    assert_eq!(status(port, "GET /poison", "\r\n"), "502");
    let seen: usize = workers.iter().map(|(_, seen)| seen.load(Ordering::SeqCst)).sum();
    let poisoned = seen - 8;
    assert!(
        poisoned <= RETRIES as usize + 2,
        "{poisoned} workers were sent it"
    );
}

#[test]
fn a_request_has_so_much_time_whatever_is_tried_for_it() {
    // They take connections and say nothing; an attempt alone may take a minute.
    let silent: Vec<TcpListener> = (0..2)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"))
        .collect();
    let addresses: Vec<SocketAddr> = silent
        .iter()
        .map(|it| it.local_addr().expect("an address"))
        .collect();
    let within = Some(Duration::from_millis(300));
    let (_proxy, port) = serve_within(&addresses, within);
    assert_eq!(status(port, "GET /", "\r\n"), "504");
    // Nor is a worker waited for longer.
    let (_proxy, port) = serve_within(&[], within);
    assert_eq!(status(port, "GET /", "\r\n"), "503");
}
