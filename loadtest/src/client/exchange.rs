//! One request at a time: on a connection of its own or on a kept one, without a body or with one.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::timeout;

use super::connection::{Connection, Opener};
use super::failure::Failure;
use super::{Fate, Habit, Target};
use crate::response::Parser;

/// Bytes of the body of a POST.
const BODY: usize = 16 * 1024;
/// Pieces that a slow upload is sent in, and the pause before each.
const PIECES: usize = 8;
const PIECE_PAUSE: Duration = Duration::from_millis(50);

/// What the requests are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// GET, a connection each.
    Fresh,
    /// GET on a kept connection.
    Kept,
    /// POST with a length on a kept connection.
    Post,
    /// POST in chunks that come slowly, on a kept connection.
    SlowUpload,
}

/// One request at a time.
#[derive(Debug)]
pub(crate) struct Exchange {
    shape: Shape,
    connection: Option<Connection>,
    parser: Parser,
    body: Vec<u8>,
    /// The peer was told, or has said, that this was the last request.
    last: Option<Connection>,
}

impl Exchange {
    pub(crate) fn new(shape: Shape) -> Exchange {
        let body = match shape {
            Shape::Fresh | Shape::Kept => Vec::new(),
            // Printable, so that a server's log shows what it is.
            Shape::Post | Shape::SlowUpload => (b'a'..=b'z').cycle().take(BODY).collect(),
        };
        Exchange {
            shape,
            connection: None,
            parser: Parser::new(),
            body,
            last: None,
        }
    }

    async fn exchange(&mut self, opener: &mut Opener, target: &Target) -> Result<(), Failure> {
        let mut connection = match self.connection.take().and_then(Connection::if_open) {
            Some(connection) => connection,
            None => Connection::new(opener.open(target).await?),
        };
        let unsent = self.send(&mut connection, target).await;
        connection.read_answer(&mut self.parser, unsent).await?;
        if self.parser.keep_alive() && self.shape != Shape::Fresh {
            self.connection = Some(connection);
        } else {
            self.last = Some(connection);
        }
        let status = self.parser.status();
        if status != target.expect_status {
            return Err(Failure::Status(status));
        }
        self.check_body()
    }

    async fn send(&self, to: &mut Connection, target: &Target) -> Option<std::io::Error> {
        let mut request = head(self.shape, target);
        match self.shape {
            Shape::Fresh | Shape::Kept | Shape::Post => {
                request.extend_from_slice(&self.body);
                to.write(&request).await
            }
            Shape::SlowUpload => {
                let mut unsent = to.write(&request).await;
                for piece in self.body.chunks(BODY / PIECES) {
                    tokio::time::sleep(PIECE_PAUSE).await;
                    if unsent.is_none() {
                        unsent = to.write(&chunk(piece)).await;
                    }
                }
                match unsent {
                    None => to.write(b"0\r\n\r\n").await,
                    unsent => unsent,
                }
            }
        }
    }

    /// A server that was sent a body says how long it was.
    fn check_body(&self) -> Result<(), Failure> {
        let said = String::from_utf8_lossy(self.parser.body());
        let right = self.body.is_empty() || said.split_ascii_whitespace().next() == Some(&BODY.to_string());
        if right {
            Ok(())
        } else {
            Err(Failure::Body(said.into_owned()))
        }
    }
}

impl Habit for Exchange {
    async fn turn(&mut self, opener: &mut Opener, target: &Target, fates: &mut Vec<Fate>) {
        let exchanged = timeout(target.timeout, self.exchange(opener, target)).await;
        let result = exchanged.unwrap_or(Err(Failure::TimedOut(target.timeout)));
        fates.push(Fate::of(result, self.parser.worker()));
    }

    async fn settle(&mut self) {
        if let Some(connection) = self.last.take() {
            connection.close().await;
        }
    }
}

fn head(shape: Shape, target: &Target) -> Vec<u8> {
    let (path, authority) = (&target.path, &target.authority);
    let method = match shape {
        Shape::Fresh | Shape::Kept => "GET",
        Shape::Post | Shape::SlowUpload => "POST",
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n");
    let connection = if shape == Shape::Fresh {
        "close"
    } else {
        "keep-alive"
    };
    // Writing to a String cannot fail.
    let _ = write!(head, "Connection: {connection}\r\n");
    match shape {
        Shape::Fresh | Shape::Kept => {}
        Shape::Post => drop(write!(head, "Content-Length: {BODY}\r\n")),
        Shape::SlowUpload => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn chunk(piece: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
}
