//! Single requests. Loads are in [`crate::Traffic`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Long enough for any response that comes at all.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, with chunked coding decoded.
    pub body: String,
}

/// Sends `GET path` to 127.0.0.1 on a new connection.
///
/// # Errors
/// The connection is refused, reset or times out, or the response is not HTTP.
pub fn get(port: u16, path: &str) -> io::Result<Answer> {
    get_from(IpAddr::V4(Ipv4Addr::LOCALHOST), port, path)
}

/// As [`get`], to another address of this machine.
///
/// # Errors
/// As [`get`].
pub fn get_from(ip: IpAddr, port: u16, path: &str) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, "GET", path, b"")
}

/// Sends a request to a Unix socket.
pub(crate) fn unix(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, method, path, body)
}

fn exchange(
    mut stream: impl io::Read + io::Write,
    method: &str,
    path: &str,
    body: &[u8],
) -> io::Result<Answer> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )?;
    // A server may close before it has read everything. Its response counts.
    let sent = stream.write_all(body);
    let mut bytes = Vec::new();
    let read = io::Read::read_to_end(&mut stream, &mut bytes);
    parse(&bytes).ok_or_else(|| {
        sent.and(read.map(|_| ()))
            .err()
            .unwrap_or_else(|| io::ErrorKind::InvalidData.into())
    })
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_owned() };
    Some(Answer { status, body })
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size + 2..)?;
    }
}
