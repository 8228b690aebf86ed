//! A WebSocket whose server sends every message back (RFC 6455).

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::connection::Opener;
use super::failure::Failure;
use super::transport::Transport;
use super::{Answered, Fate, Target};

/// Between two messages: it is to be there all the time, not to keep a CPU busy.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct WebSocket {
    open: Option<Socket>,
    /// Messages sent.
    sent: u64,
}

#[derive(Debug)]
struct Socket {
    stream: WebSocketStream<Transport>,
    opened: Instant,
    /// Who serves it.
    worker: String,
    /// It has carried an echo.
    reused: bool,
}

impl WebSocket {
    pub(super) fn new() -> WebSocket {
        WebSocket { open: None, sent: 0 }
    }

    /// Sends a message and waits until it is back.
    pub(super) async fn turn(&mut self, opener: &mut Opener, target: &Target) -> Fate {
        let echo = timeout(target.timeout, self.echo(opener, target)).await;
        let result = echo.unwrap_or(Err(Failure::TimedOut(target.timeout)));
        if result.is_err() {
            self.open = None;
        }
        let worker = self.open.as_ref().map(|socket| socket.worker.clone());
        Fate {
            result,
            worker: worker.unwrap_or_default(),
        }
    }

    pub(super) async fn settle(&mut self) {
        tokio::time::sleep(PAUSE).await;
    }

    async fn echo(&mut self, opener: &mut Opener, target: &Target) -> Result<Answered, Failure> {
        self.sent += 1;
        let text = format!("message {}", self.sent);
        let mut answered = Answered::First;
        loop {
            let socket = match &mut self.open {
                Some(socket) => socket,
                None => self.open.insert(Socket::open(opener, target).await?),
            };
            if socket.echo(&text).await? {
                return Ok(answered);
            }
            // The server took its leave, and nothing that came behind is answered.
            target.leave.given(socket.opened)?;
            self.open = None;
            answered = Answered::Again;
        }
    }
}

impl Socket {
    async fn open(opener: &mut Opener, target: &Target) -> Result<Socket, Failure> {
        let opened = Instant::now();
        let stream = opener.open(target).await?;
        let url = format!("ws://{}{}", target.authority, target.path);
        let upgraded = client_async(url, stream).await;
        let (stream, response) = upgraded.map_err(|error| failure(error, false))?;
        let worker = response.headers().get("x-worker");
        let worker = worker.and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(Socket {
            stream,
            opened,
            worker: worker.to_owned(),
            reused: false,
        })
    }

    /// `false`: the server closes, as it may (1000 or 1001).
    async fn echo(&mut self, text: &str) -> Result<bool, Failure> {
        // What cannot be sent is told by what can be read.
        let unsent = self.stream.send(Message::text(text)).await.err();
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(back))) if back.as_str() == text => {
                    self.reused = true;
                    return Ok(true);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(Some(frame))))
                    if matches!(frame.code, CloseCode::Normal | CloseCode::Away) =>
                {
                    // Answers the close; the server may be gone already.
                    let _ = self.stream.close(None).await;
                    return Ok(false);
                }
                Some(Ok(other)) => {
                    return Err(Failure::Protocol(format!("not the echo of {text:?}: {other:?}")));
                }
                Some(Err(error)) => return Err(failure(unsent.unwrap_or(error), self.reused)),
                None => {
                    let error = None;
                    let reused = self.reused;
                    return Err(Failure::Ended { reused, error });
                }
            }
        }
    }
}

fn failure(error: Error, reused: bool) -> Failure {
    match error {
        Error::Io(error) => Failure::Ended {
            reused,
            error: Some(error),
        },
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete) => {
            Failure::Ended { reused, error: None }
        }
        Error::Http(response) => Failure::Status(response.status().as_u16()),
        other => Failure::Protocol(format!("WebSocket: {other}")),
    }
}
