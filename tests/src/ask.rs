//! Questions to the fixtures.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use rpm_testkit::{Port, get, get_from, skip};

/// Long enough for anything that happens at all on a loaded machine.
pub const BOUND: Duration = Duration::from_secs(20);
/// IPv4 loopback.
pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// IPv6 loopback.
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The bodies of the answers to `count` requests, each on a connection of its own.
///
/// # Panics
/// One of them fails.
#[must_use]
pub fn answers(port: &Port, count: usize) -> BTreeSet<String> {
    answers_from(V4, port.number(), count)
}

/// The same from another address.
///
/// # Panics
/// One of them fails.
#[must_use]
pub fn answers_from(ip: IpAddr, port: u16, count: usize) -> BTreeSet<String> {
    let one = |_| match get_from(ip, port, "/") {
        Ok(answer) => answer.body.trim().to_owned(),
        Err(error) => panic!("no answer from {ip} port {port}: {error}"),
    };
    (0..count).map(one).collect()
}

/// Whether connections to the port are refused.
#[must_use]
pub fn refused(port: &Port) -> bool {
    refused_by(V4, port)
}

/// The same at another address.
#[must_use]
pub fn refused_by(ip: IpAddr, port: &Port) -> bool {
    matches!(get_from(ip, port.number(), "/"), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

/// The answer to one request as JSON.
///
/// # Panics
/// There is none, or it is no JSON.
#[must_use]
pub fn json(port: &Port, path: &str) -> serde_json::Value {
    let answer = get(port.number(), path).expect("an answer");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// The body of the answer to `GET /` on a Unix socket.
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

/// Whether this machine has IPv6; says that the test is skipped where it has not.
#[must_use]
pub fn has_ipv6(test: &str) -> bool {
    let bound = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
    if let Err(error) = &bound {
        skip(test, &format!("no IPv6: {error}"));
    }
    bound.is_ok()
}
