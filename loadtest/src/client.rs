//! One client: sends a request, reads the answer, and says exactly what happened.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::Outcome;
use crate::response::{Malformed, Parser};
use crate::source::Sources;

/// Large enough for most answers in one read.
const BUFFER: usize = 16 * 1024;
/// How long the peer has for closing first; beyond, the client closes and keeps the TIME_WAIT.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Before the next try after a connection could not be made: a refusal costs microseconds, and a
/// client that repeats it at that speed takes the CPU from the server it waits for.
const RETRY_DELAY: Duration = Duration::from_millis(1);

/// What all clients of a load have in common.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The whole request, ready to be sent.
    pub(crate) request: Vec<u8>,
    pub(crate) expect_status: u16,
    pub(crate) timeout: Duration,
    pub(crate) keep_alive: bool,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("opening a socket: {0}")]
    Socket(#[source] io::Error),
    #[error("connecting: {0}")]
    Connect(#[source] io::Error),
    #[error("connection ended before the answer{}", cause(.error.as_ref()))]
    Ended { reused: bool, error: Option<io::Error> },
    #[error("connection ended within the answer{}", cause(.0.as_ref()))]
    Truncated(Option<io::Error>),
    #[error("no full answer within {0:?}")]
    TimedOut(Duration),
    #[error("status {0}")]
    Status(u16),
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

fn cause(error: Option<&io::Error>) -> String {
    error.map_or_else(|| " (end of stream)".to_owned(), |error| format!(": {error}"))
}

impl Failure {
    /// The class of the failure.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Failure::Socket(_) => Outcome::Unsent,
            Failure::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Outcome::Refused,
                io::ErrorKind::ConnectionReset => Outcome::ResetFresh,
                io::ErrorKind::TimedOut => Outcome::TimedOut,
                // No port, no route, no permission: nothing of it reached the server.
                _ => Outcome::Unsent,
            },
            Failure::Ended { reused: false, .. } => Outcome::ResetFresh,
            Failure::Ended { reused: true, .. } => Outcome::ResetReused,
            Failure::Truncated(_) => Outcome::Truncated,
            Failure::TimedOut(_) => Outcome::TimedOut,
            Failure::Status(_) | Failure::Malformed(_) => Outcome::WrongStatus,
        }
    }
}

/// A connection, and whether it has carried an answer.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    reused: bool,
}

/// A client with at most one connection.
#[derive(Debug)]
pub(crate) struct Client {
    sources: Sources,
    connection: Option<Connection>,
    parser: Parser,
    buffer: Box<[u8]>,
    opened: u64,
}

impl Client {
    pub(crate) fn new() -> Self {
        Client {
            sources: Sources::new(),
            connection: None,
            parser: Parser::new(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            opened: 0,
        }
    }

    /// Connections opened since the last call.
    pub(crate) fn take_opened(&mut self) -> u64 {
        std::mem::take(&mut self.opened)
    }

    /// Who gave the last answer.
    pub(crate) fn worker(&self) -> std::borrow::Cow<'_, str> {
        self.parser.worker()
    }

    /// Send one request and read its answer. Call [`Client::settle`] with the result before the next.
    pub(crate) async fn request(&mut self, target: &Target) -> Result<(), Failure> {
        let answer = timeout(target.timeout, self.exchange(target)).await;
        answer.unwrap_or(Err(Failure::TimedOut(target.timeout)))
    }

    /// Make ready for the next request, outside of the measured time.
    pub(crate) async fn settle(&mut self, target: &Target, result: &Result<(), Failure>) {
        match result {
            Ok(()) if target.keep_alive && self.parser.keep_alive() => {}
            Ok(()) => self.close().await,
            Err(Failure::Socket(_) | Failure::Connect(_)) => tokio::time::sleep(RETRY_DELAY).await,
            Err(_) => self.connection = None,
        }
    }

    async fn exchange(&mut self, target: &Target) -> Result<(), Failure> {
        let mut connection = match self.connection.take().filter(is_open) {
            Some(connection) => connection,
            None => self.connect(target).await?,
        };
        self.parser.reset();
        // A peer that has closed may have answered before that: what can be read decides.
        let sent = connection.stream.write_all(&target.request).await.err();
        self.read_answer(&mut connection, sent).await?;
        connection.reused = true;
        self.connection = Some(connection);
        let status = self.parser.status();
        if status == target.expect_status {
            Ok(())
        } else {
            Err(Failure::Status(status))
        }
    }

    async fn connect(&mut self, target: &Target) -> Result<Connection, Failure> {
        let v4 = target.address.is_ipv4();
        let socket = if v4 {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .map_err(Failure::Socket)?;
        if let Some(source) = self.sources.next_for(target.address) {
            socket.bind(source).map_err(Failure::Socket)?;
        }
        let stream = socket.connect(target.address).await.map_err(Failure::Connect)?;
        self.opened += 1;
        Ok(Connection {
            stream,
            reused: false,
        })
    }

    async fn read_answer(&mut self, from: &mut Connection, sent: Option<io::Error>) -> Result<(), Failure> {
        while !self.parser.is_done() {
            let read = from.stream.read(&mut self.buffer).await;
            match read {
                Ok(0) => return self.ended(from.reused, sent),
                Ok(count) => {
                    self.parser.feed(&self.buffer[..count])?;
                }
                Err(error) => return self.ended(from.reused, Some(error)),
            }
        }
        Ok(())
    }

    /// The stream has ended: was that the whole answer?
    fn ended(&mut self, reused: bool, error: Option<io::Error>) -> Result<(), Failure> {
        if error.is_none() {
            self.parser.finish();
        }
        if self.parser.is_done() {
            return Ok(());
        }
        if self.parser.is_untouched() {
            return Err(Failure::Ended { reused, error });
        }
        Err(Failure::Truncated(error))
    }

    /// Let the peer close first, for whoever closes first keeps the port in TIME_WAIT for a minute.
    async fn close(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let drained = async {
            while matches!(connection.stream.read(&mut self.buffer).await, Ok(count) if count > 0) {}
        };
        // A peer that does not close is its own affair: every request has its outcome by now.
        let _unclosed = timeout(CLOSE_GRACE, drained).await;
    }
}

/// Whether an idle connection may be used: a peer that closed it in peace, or sent something nobody
/// asked for, is met by a new connection, as every HTTP client does it.
fn is_open(connection: &Connection) -> bool {
    let read = connection.stream.try_read(&mut [0]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let target = Target {
            address: listener.local_addr().expect("address"),
            request: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            expect_status: 200,
            timeout: Duration::from_secs(10),
            keep_alive: true,
        };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 18];
                stream.read_exact(&mut request).await.expect("request");
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n7\n")
                    .await
                    .expect("answer");
            }
        });
        let mut client = Client::new();
        for _ in 0..3 {
            let result = client.request(&target).await;
            assert!(result.is_ok(), "{result:?}");
            assert_eq!(client.worker(), "7");
            client.settle(&target, &result).await;
            let idle = client.connection.as_ref().expect("kept");
            idle.stream.readable().await.expect("end of stream");
        }
        assert_eq!(client.take_opened(), 3);
    }
}
