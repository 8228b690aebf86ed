//! A proxy with one thread, and an upstream that reports what it was sent.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rpm_proxy::{Front, Proxy, Settings, Target, UpstreamId};

pub const BOUND: Duration = Duration::from_secs(20);
/// What is not meant to end by itself does not.
const LONG: Duration = Duration::from_secs(600);

/// Reports what it was sent. It answers one request per connection, when the request is complete: `/half` with half a response, `/gone` not at
/// all. For `/deaf` it reads only the head.
pub struct Upstream {
    addr: SocketAddr,
    pub seen: Receiver<Vec<u8>>,
    says: Says,
}

/// What is answered to requests for `/says/0`, `/says/1`…
type Says = Arc<Mutex<Vec<Vec<u8>>>>;

/// What one of these requests is answered.
fn said(says: &Says, request: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(request);
    let number = text
        .split(' ')
        .nth(1)?
        .strip_prefix("/says/")?
        .parse::<usize>()
        .ok()?;
    says.lock().expect("no thread has panicked").get(number).cloned()
}

impl Upstream {
    fn start() -> Upstream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (sender, seen) = channel();
        let says = Says::default();
        let known = Arc::clone(&says);
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                let known = Arc::clone(&known);
                thread::spawn(move || {
                    let mut all = Vec::new();
                    let mut part = [0; 4096];
                    while !is_whole(&all) {
                        if all.starts_with(b"POST /deaf ") && all.windows(4).any(|four| four == b"\r\n\r\n") {
                            // It stays open.
                            return std::mem::forget(stream);
                        }
                        match stream.read(&mut part) {
                            Ok(count @ 1..) => all.extend_from_slice(&part[..count]),
                            Ok(0) | Err(_) => break,
                        }
                    }
                    let half = all.starts_with(b"GET /half ");
                    let gone = all.starts_with(b"GET /gone ");
                    let said = said(&known, &all);
                    let _ = sender.send(all);
                    if gone {
                        return;
                    }
                    if let Some(said) = said {
                        let _ = stream.write_all(&said);
                        if said.starts_with(b"HTTP/1.1 101 ") {
                            // What it speaks now is silence.
                            std::mem::forget(stream);
                        }
                        return;
                    }
                    if half {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok");
                        // Until the proxy gives it up.
                        let _ = stream.read(&mut part);
                        return;
                    }
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
                });
            }
        });
        Upstream { addr, seen, says }
    }

    /// Where it listens, as logs name it.
    pub fn address(&self) -> String {
        self.addr.to_string()
    }

    /// A path for which this is answered, as it is; then the connection ends, but for one that has left HTTP.
    pub fn says(&self, answer: &[u8]) -> String {
        let mut says = self.says.lock().expect("no thread has panicked");
        says.push(answer.to_vec());
        format!("/says/{}", says.len() - 1)
    }
}

/// Has a request come whole, as the proxy writes them?
pub fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return bytes.ends_with(b"0\r\n\r\n") || bytes.ends_with(b"x: y\r\n\r\n");
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    bytes.len() >= end + 4 + length.map_or(0, |length| length.parse().expect("a number"))
}

pub struct Site {
    pub proxy: Proxy,
    pub port: u16,
    pub upstream: Upstream,
    pub front: Arc<Front>,
}

impl Site {
    pub fn start() -> Site {
        Site::with(Settings {
            retries: 0,
            header_timeout: LONG,
            ..Settings::default()
        })
    }

    pub fn with(settings: Settings) -> Site {
        Site::after(settings, |_| ()).0
    }

    /// A site whose first clients have connected, and sent what `clients` sends, before it accepts any of them. A short time-out that begins
    /// when a client is accepted does not run while the thread of the test waits for a CPU.
    pub fn after<T>(settings: Settings, clients: impl FnOnce(&Site) -> T) -> (Site, T) {
        let upstream = Upstream::start();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let proxy = Proxy::start(1).expect("a thread");
        let front = Front::new();
        front.set(settings).expect("nothing can fail");
        front.set_upstreams(&[Target {
            id: UpstreamId(1),
            addr: upstream.addr.into(),
            weight: 1,
            key: 0,
            reserved: false,
        }]);
        let site = Site {
            proxy,
            port,
            upstream,
            front,
        };
        let come = clients(&site);
        site.proxy
            .open(1, vec![OwnedFd::from(listener)], &site.front)
            .expect("it takes orders");
        (site, come)
    }
}
