//! Syslog (RFC 5424). It has no answers. Over TCP (octet counting, RFC 6587) each batch has a connection of its own, which is shut down for sending: a
//! server that has read everything then closes it, and one that was killed before resets it. Datagrams may get lost.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rpm_wire::forward::{Destination, Syslog};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::{sleep, timeout};

use super::delivery::Outcome;
use super::record::{Level, Record, rfc3339};
use crate::post::connect;

/// Facility `user`.
const FACILITY: u8 = 1;
/// The longest datagram over UDP, in bytes: that of IPv4.
const UDP_BYTES: usize = 65_507;
/// The longest over a Unix socket, which holds twice as much by default.
const UNIX_BYTES: usize = 100_000;
/// A datagram that is too long, of every length from this on, is an error.
const SHORTEST: usize = 512;
/// What the system says of one that is too long.
const TOO_LONG: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();
/// Time for a server to close a connection behind the last byte. Not every server does.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);
/// The least time for a reset to arrive that follows the end: the server had closed the connection before it got anything. It is twice as long as a
/// connection has taken if that is more.
const RESET_WITHIN: Duration = Duration::from_millis(100);
/// Time for everything else.
const SENT_WITHIN: Duration = Duration::from_secs(10);
/// For private elements of structured data: the number that RFC 5612 reserves.
const ENTERPRISE: &str = "rpm@32473";

/// A message.
pub(super) fn message(record: &Record, destination: &Destination, host: &str) -> String {
    let severity = match record.level {
        Some(Level::Trace | Level::Debug) => 7,
        Some(Level::Info) | None => 6,
        Some(Level::Warn) => 4,
        Some(Level::Error) => 3,
        Some(Level::Fatal) => 2,
    };
    let id = record.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    format!(
        "<{}>1 {} {} {} {id} {} {} {}",
        FACILITY * 8 + severity,
        rfc3339(record.time_ns),
        word(host, 255),
        word(&record.about.app, 48),
        record.stream.map_or("-", super::record::Stream::name),
        data(record, destination),
        record.text,
    )
}

/// A field of the header: visible ASCII, so long at most.
fn word(text: &str, most: usize) -> String {
    let visible = |letter: char| if letter.is_ascii_graphic() { letter } else { '-' };
    match text.is_empty() {
        true => "-".to_owned(),
        false => text.chars().take(most).map(visible).collect(),
    }
}

/// The structured data: labels, and the trace.
fn data(record: &Record, destination: &Destination) -> String {
    let trace = record.parsed.as_ref().and_then(|parsed| parsed.trace.as_deref());
    let own = destination
        .labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let all: Vec<String> = trace
        .map(|trace| ("trace_id", trace))
        .into_iter()
        .chain(own)
        .map(|(name, value)| format!(" {}=\"{}\"", word(name, 32), escaped(value)))
        .collect();
    match all.is_empty() {
        true => "-".to_owned(),
        false => format!("[{ENTERPRISE}{}]", all.concat()),
    }
}

fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for letter in value.chars() {
        if matches!(letter, '"' | '\\' | ']') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// Sends messages.
pub(super) async fn send(to: &Syslog, messages: &[String]) -> Outcome {
    send_within(to, messages, SENT_WITHIN).await
}

async fn send_within(to: &Syslog, messages: &[String], within: Duration) -> Outcome {
    let sent = Cell::new(0);
    let done = timeout(within, async {
        match to {
            Syslog::Udp(address) => datagrams(address, messages, &sent).await,
            Syslog::Unix(path) => local(path, messages, UNIX_BYTES, &sent).await,
            Syslog::Tcp(address) => stream(address, messages).await,
        }
    });
    Outcome::of_messages(done.await, sent.get(), messages.len(), within)
}

/// Counts in `sent`.
async fn datagrams(address: &str, messages: &[String], sent: &Cell<usize>) -> io::Result<()> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    let socket = reachable(&addresses).await?;
    let mut most = UDP_BYTES;
    for message in messages {
        while !is_sent(socket.send(cut(message, most)).await, &mut most)? {}
        sent.set(sent.get() + 1);
    }
    Ok(())
}

/// A socket for the first address that this machine can send to: it may have no IPv6.
async fn reachable(addresses: &[SocketAddr]) -> io::Result<UdpSocket> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for to in addresses {
        let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let connected = async {
            let socket = UdpSocket::bind(own).await?;
            socket.connect(to).await.map(|()| socket)
        };
        match connected.await {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Counts in `sent`.
async fn local(path: &str, messages: &[String], mut most: usize, sent: &Cell<usize>) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    for message in messages {
        while !is_sent(socket.send(cut(message, most)).await, &mut most)? {}
        sent.set(sent.get() + 1);
    }
    Ok(())
}

/// False if the datagram is too long for the system: it is sent again, cut to half as much.
fn is_sent(sent: io::Result<usize>, most: &mut usize) -> io::Result<bool> {
    match sent {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(TOO_LONG) && *most > SHORTEST => {
            *most /= 2;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn cut(message: &str, most: usize) -> &[u8] {
    &message.as_bytes()[..message.floor_char_boundary(most)]
}

async fn stream(address: &str, messages: &[String]) -> io::Result<()> {
    let (mut stream, took) = connect(address).await?;
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend_from_slice(format!("{} ", message.len()).as_bytes());
        bytes.extend_from_slice(message.as_bytes());
    }
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    let mut answer = [0; 256];
    let closed = timeout(CLOSED_WITHIN, async {
        while stream.read(&mut answer).await? > 0 {}
        Ok(())
    });
    // One that keeps the connection open has at least not reset it.
    closed.await.unwrap_or(Ok::<(), io::Error>(()))?;
    sleep(RESET_WITHIN.max(2 * took)).await;
    stream.take_error()?.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::record::tests::record;
    use super::super::send::tests::destination;
    use super::*;

    #[test]
    fn a_message_has_the_form_of_the_rfc() {
        let line = r#"{"level":"error","msg":"x","trace_id":"a\"b]"}"#;
        let expected = format!(
            r#"<11>1 2026-03-05T13:07:09.000000Z my-box api 3 out [rpm@32473 trace_id="a\"b\]" env="prod"] {line}"#
        );
        assert_eq!(message(&record(line), &destination("syslog"), "my box"), expected);
        let mut plain = record("plain");
        plain.id = None;
        plain.stream = None;
        let mut about = plain.about.as_ref().clone();
        about.app = format!("ä{}", "x".repeat(99));
        plain.about = Arc::new(about);
        let without = Destination {
            labels: std::collections::BTreeMap::new(),
            ..destination("syslog")
        };
        let expected = format!(
            "<14>1 2026-03-05T13:07:09.000000Z - -{} - - - plain",
            "x".repeat(47)
        );
        assert_eq!(message(&plain, &without, ""), expected);
        assert_eq!(cut("aä", 2), b"a");
    }

    #[tokio::test]
    async fn datagrams_arrive_and_a_server_that_is_away_is_tried_again() {
        let path = std::env::temp_dir().join(format!("rpm-syslog-{}", std::process::id()));
        let (udp, unix) = (
            std::net::UdpSocket::bind("127.0.0.1:0").expect("a port"),
            std::os::unix::net::UnixDatagram::bind(&path).expect("a socket"),
        );
        for receiver in [
            udp.set_read_timeout(Some(SENT_WITHIN)),
            unix.set_read_timeout(Some(SENT_WITHIN)),
        ] {
            receiver.expect("a time");
        }
        let address = udp.local_addr().expect("an address").to_string();
        let local = Syslog::Unix(path.display().to_string());
        let messages = ["<14>1 one".to_owned(), "<14>1 two".to_owned()];
        assert_eq!(send(&Syslog::Udp(address), &messages).await, Outcome::Taken);
        assert_eq!(send(&local, &messages).await, Outcome::Taken);
        for expected in messages {
            let mut buffer = [0; 100];
            let length = udp.recv(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..length], expected.as_bytes());
            let length = unix.recv(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
        // Longer than the system takes, whatever it takes.
        let long = ["x".repeat(16_000_000)];
        super::local(&path.display().to_string(), &long, usize::MAX, &Cell::new(0))
            .await
            .expect("it is cut");
        let mut buffer = vec![0; 16_000_000];
        let length = unix.recv(&mut buffer).expect("a datagram");
        assert!(length > SHORTEST && length < 16_000_000, "{length}");
        std::fs::remove_file(&path).expect("it is ours");
        let away = send(&local, &["<14>1 three".to_owned()]).await;
        assert!(matches!(away, Outcome::Later { .. }), "{away:?}");
    }

    #[tokio::test]
    async fn what_was_sent_before_the_time_was_over_is_not_sent_again() {
        let path = std::env::temp_dir().join(format!("rpm-syslog-slow-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let reader = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
        let messages: Vec<String> = (0..5_000).map(|number| format!("<14>1 {number}")).collect();
        let to = Syslog::Unix(path.display().to_string());
        // It reads nothing; as many as its queue holds are sent.
        let outcome = send_within(&to, &messages, Duration::from_millis(50)).await;
        let Outcome::Slow { taken, .. } = outcome else {
            panic!("it is not done: {outcome:?}");
        };
        reader.set_nonblocking(true).expect("a mode");
        let mut buffer = [0; 100];
        let mut arrived = 0;
        while let Ok(length) = reader.recv(&mut buffer) {
            assert_eq!(&buffer[..length], messages[arrived].as_bytes());
            arrived += 1;
        }
        assert!(taken > 0 && taken == arrived, "{taken} of {arrived}");
        std::fs::remove_file(&path).expect("it is ours");
    }

    #[tokio::test]
    async fn every_address_of_a_server_is_tried() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let good = server.local_addr().expect("an address");
        // Of the kernel's own: nobody may send there.
        let bad: SocketAddr = "255.255.255.255:9".parse().expect("an address");
        let socket = reachable(&[bad, good]).await.expect("one of them is good");
        assert_eq!(socket.peer_addr().expect("it is connected"), good);
        assert!(reachable(&[bad]).await.is_err() && reachable(&[]).await.is_err());
    }
}
