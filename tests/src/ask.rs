//! Requests to the fixtures.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use rpm_testkit::{Port, Rpm, get, get_from, skip, wait_until};

/// Long enough for anything, on a loaded machine.
pub const BOUND: Duration = Duration::from_secs(20);
/// IPv4 loopback.
pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// IPv6 loopback.
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Asks until there were `count` different answers, then as often again, and returns all of them.
///
/// No fixed number of requests reaches every worker: on a loaded machine, one that gets no CPU for a while is rightly steered around.
///
/// # Panics
/// There are fewer within [`BOUND`].
pub fn different<T: Ord + Clone + Debug>(count: usize, mut ask: impl FnMut() -> T) -> BTreeSet<T> {
    let mut heard = BTreeSet::new();
    let more = || {
        heard.insert(ask());
        heard.clone()
    };
    let mut all = wait_until(&format!("{count} different answers"), BOUND, more, |heard| {
        heard.len() >= count
    });
    all.extend((0..2 * count).map(|_| ask()));
    all
}

/// The workers that serve the port, as `NODE_APP_INSTANCE pid`: at least `count`, each request on its own connection.
///
/// # Panics
/// A request fails, or there are fewer.
#[must_use]
pub fn workers(port: &Port, count: usize) -> BTreeSet<String> {
    different(count, || who(V4, port))
}

/// The worker that answers one request at this address.
///
/// # Panics
/// There is no response.
#[must_use]
pub fn who(ip: IpAddr, port: &Port) -> String {
    match get_from(ip, port.number(), "/") {
        Ok(answer) => answer.body.trim().to_owned(),
        Err(error) => panic!("no answer from {ip} port {port}: {error}"),
    }
}

/// True if connections to the port are refused.
#[must_use]
pub fn refused(port: &Port) -> bool {
    refused_by(V4, port)
}

/// As [`refused`], at another address.
#[must_use]
pub fn refused_by(ip: IpAddr, port: &Port) -> bool {
    matches!(get_from(ip, port.number(), "/"), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

/// The response to one request, as JSON.
///
/// # Panics
/// There is none, or it is not JSON.
#[must_use]
pub fn json(port: &Port, path: &str) -> serde_json::Value {
    let answer = get(port.number(), path).expect("an answer");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// The body of the response to `GET /` on a Unix socket.
///
/// # Errors
/// The connection is refused or broken.
pub fn unix(address: &SocketAddr) -> io::Result<String> {
    let mut stream = UnixStream::connect_addr(address)?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").ok_or(ErrorKind::InvalidData)?.1;
    Ok(body.trim().to_owned())
}

/// Everything that a process has printed so far (`out`); `id` is `None` in fork mode.
///
/// # Panics
/// It is not text.
#[must_use]
pub fn printed(rpm: &Rpm, app: &str, id: Option<u32>) -> String {
    // `logs` returns when the contents of the pipes are in the files.
    let _ = rpm.ok(["logs", "--nostream", "--lines", "0"]);
    String::from_utf8(rpm.output(app, "out", id)).expect("text")
}

/// True if this machine has IPv6; otherwise reports that the test is skipped.
#[must_use]
pub fn has_ipv6(test: &str) -> bool {
    let bound = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
    if let Err(error) = &bound {
        skip(test, &format!("no IPv6: {error}"));
    }
    bound.is_ok()
}

/// A metric, by the beginning of its line; 0 if it is missing.
#[must_use]
pub fn metric(rpm: &Rpm, name: &str) -> f64 {
    let metrics = rpm.api("GET", "/metrics", "").body;
    let line = metrics.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

/// A client that follows a stream of the control API and reads only the beginning of the response's head.
///
/// # Panics
/// The daemon does not accept, or refuses.
#[must_use]
pub fn follower(rpm: &Rpm, path: &str) -> UnixStream {
    let mut client = UnixStream::connect(rpm.home().join("rpm.sock")).expect("the daemon accepts");
    client.set_read_timeout(Some(BOUND)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nhost: rpm\r\n\r\n");
    client.write_all(request.as_bytes()).expect("it is sent");
    let mut head = [0; 12];
    client.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    client
}
