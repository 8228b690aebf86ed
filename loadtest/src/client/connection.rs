//! A connection that carries requests one behind the other, and reading their answers.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::Target;
use super::failure::Failure;
use super::transport::Transport;
use crate::response::Parser;
use crate::source::Sources;

/// Large enough for most answers in one read.
const BUFFER: usize = 16 * 1024;
/// How long the peer has for closing first; beyond, the client closes and keeps the TIME_WAIT.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Where the connections of a client come from.
#[derive(Debug)]
pub(crate) struct Opener {
    sources: Sources,
    /// How many there were.
    pub(super) opened: u64,
}

impl Opener {
    pub(super) fn new() -> Opener {
        Opener {
            sources: Sources::new(),
            opened: 0,
        }
    }

    /// A connection for HTTP/1.
    pub(super) async fn open(&mut self, target: &Target) -> Result<Transport, Failure> {
        self.open_for(target, false).await
    }

    /// A connection for HTTP/2, or HTTP/1.
    pub(super) async fn open_for(&mut self, target: &Target, http2: bool) -> Result<Transport, Failure> {
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
        let Some(tls) = &target.tls else {
            return Ok(Transport::Plain(stream));
        };
        let shaken = tls.connect(stream, http2).await;
        shaken.map_err(|error| Failure::Ended {
            reused: false,
            error: Some(error),
        })
    }
}

/// A connection, and whether it has carried an answer.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: Transport,
    pub(super) reused: bool,
    buffer: Box<[u8]>,
    /// What was read and belongs to the next answer.
    surplus: std::ops::Range<usize>,
}

impl Connection {
    pub(super) fn new(stream: Transport) -> Connection {
        Connection {
            stream,
            reused: false,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            surplus: 0..0,
        }
    }

    /// Whether it may be used when idle: a peer that closed it in peace, or sent something nobody
    /// asked for, is met by a new connection, as every HTTP client does it.
    pub(super) fn if_open(mut self) -> Option<Connection> {
        self.stream.is_idle().then_some(self)
    }

    /// Reads a whole answer. `sent`: why not everything could be sent; a peer that has closed may have answered before
    /// that, so what can be read decides.
    pub(super) async fn read_answer(
        &mut self,
        parser: &mut Parser,
        sent: Option<io::Error>,
    ) -> Result<(), Failure> {
        parser.reset();
        while !parser.is_done() {
            match self.read_some().await {
                Ok(true) => self.feed(parser)?,
                Ok(false) => return self.ended(parser, sent),
                Err(error) => return self.ended(parser, Some(error)),
            }
        }
        self.reused = true;
        Ok(())
    }

    /// Gives the parser what was read and not parsed yet, up to the end of the answer.
    pub(super) fn feed(&mut self, parser: &mut Parser) -> Result<(), Failure> {
        let used = parser.feed(&self.buffer[self.surplus.clone()])?;
        self.surplus.start += used;
        Ok(())
    }

    /// Reads if nothing is left of the last time; `false`: the stream has ended.
    pub(super) async fn read_some(&mut self) -> io::Result<bool> {
        if self.surplus.is_empty() {
            let count = self.stream.read(&mut self.buffer).await?;
            self.surplus = 0..count;
        }
        Ok(!self.surplus.is_empty())
    }

    /// The stream has ended: was that the whole answer?
    pub(super) fn ended(&self, parser: &mut Parser, error: Option<io::Error>) -> Result<(), Failure> {
        if error.is_none() {
            parser.finish();
        }
        if parser.is_done() {
            return Ok(());
        }
        if parser.is_untouched() {
            let reused = self.reused;
            return Err(Failure::Ended { reused, error });
        }
        Err(Failure::Truncated(error))
    }

    /// Writes a part of a request; what fails is told by what can be read then.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Option<io::Error> {
        let written = self.stream.write_all(bytes).await;
        // TLS may keep some back.
        match written {
            Ok(()) => self.stream.flush().await.err(),
            Err(error) => Some(error),
        }
    }

    /// Let the peer close first, for whoever closes first keeps the port in TIME_WAIT for a minute.
    pub(super) async fn close(mut self) {
        let drained =
            async { while matches!(self.stream.read(&mut self.buffer).await, Ok(count) if count > 0) {} };
        // A peer that does not close is its own affair: every request has its outcome by now.
        let _unclosed = timeout(CLOSE_GRACE, drained).await;
    }
}
