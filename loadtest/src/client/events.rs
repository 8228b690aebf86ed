//! An event stream (server-sent events), open for as long as the server keeps it.

use std::time::Instant;

use tokio::time::timeout;

use super::connection::{Connection, Opener};
use super::failure::Failure;
use super::{Fate, Target};
use crate::response::Parser;

/// Bytes of one event at most.
const EVENT_LIMIT: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Events {
    open: Option<Stream>,
}

#[derive(Debug)]
struct Stream {
    connection: Connection,
    parser: Parser,
    opened: Instant,
    /// What the server must send next.
    next: u64,
    /// Of the body, and not yet a whole event.
    text: Vec<u8>,
}

impl Events {
    pub(super) fn new() -> Events {
        Events { open: None }
    }

    /// Waits for the next event, which counts as a request.
    pub(super) async fn turn(&mut self, opener: &mut Opener, target: &Target) -> Fate {
        let event = timeout(target.timeout, self.event(opener, target)).await;
        let result = event.unwrap_or(Err(Failure::TimedOut(target.timeout)));
        if result.is_err() {
            self.open = None;
        }
        let worker = self
            .open
            .as_ref()
            .map(|stream| stream.parser.worker().into_owned());
        Fate::of(result, worker.unwrap_or_default())
    }

    async fn event(&mut self, opener: &mut Opener, target: &Target) -> Result<(), Failure> {
        loop {
            let stream = match &mut self.open {
                Some(stream) => stream,
                None => self.open.insert(Stream::open(opener, target).await?),
            };
            if stream.event().await? {
                return Ok(());
            }
            // The server ended it in peace.
            target.leave.given(stream.opened)?;
            self.open = None;
        }
    }
}

impl Stream {
    async fn open(opener: &mut Opener, target: &Target) -> Result<Stream, Failure> {
        let opened = Instant::now();
        let mut stream = Stream {
            connection: Connection::new(opener.open(target).await?),
            parser: Parser::new(),
            opened,
            next: 0,
            text: Vec::new(),
        };
        let (path, authority) = (&target.path, &target.authority);
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n\r\n");
        let mut unsent = stream.connection.write(request.as_bytes()).await;
        while !stream.parser.has_head() {
            stream.read(unsent.take()).await?;
        }
        let status = stream.parser.status();
        if status == target.expect_status {
            Ok(stream)
        } else {
            Err(Failure::Status(status))
        }
    }

    /// `false`: the stream has ended as it should.
    async fn event(&mut self) -> Result<bool, Failure> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                return self.check(&event).map(|()| true);
            }
            if self.parser.is_done() {
                return Ok(false);
            }
            self.read(None).await?;
        }
    }

    async fn read(&mut self, unsent: Option<std::io::Error>) -> Result<(), Failure> {
        match self.connection.read_some().await {
            Ok(true) => self.connection.feed(&mut self.parser)?,
            Ok(false) => self.connection.ended(&mut self.parser, unsent)?,
            Err(error) => self.connection.ended(&mut self.parser, Some(error))?,
        }
        self.text.append(&mut self.parser.take_body());
        if self.text.len() > EVENT_LIMIT {
            return Err(Failure::Protocol("an event that does not end".to_owned()));
        }
        Ok(())
    }

    /// Events are numbered, and none may be missing.
    fn check(&mut self, event: &[u8]) -> Result<(), Failure> {
        let wanted = format!("data: {}\n\n", self.next);
        self.next += 1;
        if event == wanted.as_bytes() {
            return Ok(());
        }
        Err(Failure::Body(String::from_utf8_lossy(event).into_owned()))
    }
}
