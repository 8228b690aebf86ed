//! The control API's HTTP, over one connection to the daemon.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rpm_wire::api::{ApiError, Pong};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Time for responses from the daemon's memory. They take milliseconds; a machine that is starting up, or swaps, gets some patience.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);

/// Maximum length of a response or of a line of a stream, in bytes; a process with its environment takes some kilobytes.
const MAX_ANSWER: usize = 64 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The daemon rejected the request; its message.
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the connection to the daemon broke")]
    Broken(#[from] hyper::Error),
    #[error("the daemon does not answer ({} s)", ANSWER_DEADLINE.as_secs())]
    Silent,
    #[error("the daemon's response is not what this version expects")]
    Unexpected(#[from] serde_json::Error),
    #[error("the daemon's response has more than {} MB", MAX_ANSWER >> 20)]
    TooLong,
    #[error("the daemon's response was cut short")]
    Cut(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("not a request")]
    Request(#[from] hyper::http::Error),
}

/// How long to wait for the head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The daemon responds at once.
    Answer,
    /// The response comes after a change; the user may interrupt.
    Event,
}

/// A connection to a daemon that has responded.
#[derive(Debug)]
pub(crate) struct Session {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
    pong: Pong,
}

impl Session {
    /// Greets the daemon.
    pub(crate) async fn open(stream: UnixStream) -> Result<Self, RequestError> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The request in flight sees how the connection ends.
        let connection = tokio::spawn(async { drop(connection.await) });
        let pong = Pong {
            msg: String::new(),
            version: String::new(),
            pid: 0,
            started_at_ms: 0,
        };
        let mut session = Session {
            sender,
            connection,
            pong,
        };
        session.pong = session.get("/v1/ping").await?;
        Ok(session)
    }

    /// What the daemon reports about itself.
    pub(crate) fn pong(&self) -> &Pong {
        &self.pong
    }

    /// Requests something that the daemon knows.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, RequestError> {
        let response = self
            .send(Method::GET, path, Bytes::new(), Patience::Answer)
            .await?;
        Ok(serde_json::from_slice(&body(response).await?)?)
    }

    /// Requests a change.
    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body_of: &impl Serialize,
    ) -> Result<T, RequestError> {
        let bytes = serde_json::to_vec(body_of)?.into();
        let response = self.send(Method::POST, path, bytes, Patience::Event).await?;
        Ok(serde_json::from_slice(&body(response).await?)?)
    }

    /// Requests a stream of lines.
    pub(crate) async fn lines(&mut self, path: &str) -> Result<Lines, RequestError> {
        let response = self
            .send(Method::GET, path, Bytes::new(), Patience::Answer)
            .await?;
        Ok(Lines::of(response))
    }

    /// Requests a change, and a stream of its progress.
    pub(crate) async fn post_for_lines(
        &mut self,
        path: &str,
        body_of: &impl Serialize,
    ) -> Result<Lines, RequestError> {
        let bytes = serde_json::to_vec(body_of)?.into();
        let response = self.send(Method::POST, path, bytes, Patience::Event).await?;
        Ok(Lines::of(response))
    }

    /// Ends the daemon, and waits until its side of the connection is gone.
    pub(crate) async fn kill(mut self) -> Result<(), RequestError> {
        let response = self
            .send(Method::POST, "/v1/kill", Bytes::new(), Patience::Event)
            .await?;
        body(response).await?;
        timeout(ANSWER_DEADLINE, self.connection)
            .await
            .map_or(Err(RequestError::Silent), |_| Ok(()))
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        bytes: Bytes,
        patience: Patience,
    ) -> Result<Response<Incoming>, RequestError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "rpm")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))?;
        let answer = self.sender.send_request(request);
        let response = match patience {
            Patience::Answer => timeout(ANSWER_DEADLINE, answer)
                .await
                .map_err(|_| RequestError::Silent)??,
            Patience::Event => answer.await?,
        };
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(refusal(response).await?)
        }
    }
}

/// The message of an error response; a body in another format is shown as it is.
async fn refusal(response: Response<Incoming>) -> Result<RequestError, RequestError> {
    let status = response.status();
    let bytes = body(response).await?;
    let unexpected = || {
        let text = String::from_utf8_lossy(&bytes);
        let error = format!("the daemon answered {status}: {}", text.trim());
        ApiError {
            error,
            hint: None,
            last_lines: Vec::new(),
            unknown: None,
        }
    };
    Ok(serde_json::from_slice::<ApiError>(&bytes)
        .unwrap_or_else(|_| unexpected())
        .into())
}

async fn body(response: Response<Incoming>) -> Result<Bytes, RequestError> {
    match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(RequestError::TooLong),
        Err(error) => Err(RequestError::Cut(error)),
    }
}

/// The lines of a stream.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    fn of(response: Response<Incoming>) -> Lines {
        Lines {
            body: response.into_body(),
            pending: Vec::new(),
        }
    }

    /// The next whole lines, as they arrived; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, RequestError> {
        while let Some(frame) = self.body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            let Some(end) = data.iter().rposition(|&byte| byte == b'\n') else {
                self.keep(&data)?;
                continue;
            };
            let mut lines = std::mem::take(&mut self.pending);
            lines.extend_from_slice(&data[..=end]);
            self.keep(&data[end + 1..])?;
            return Ok(Some(lines));
        }
        let rest = std::mem::take(&mut self.pending);
        Ok((!rest.is_empty()).then_some(rest))
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), RequestError> {
        if self.pending.len() + bytes.len() > MAX_ANSWER {
            return Err(RequestError::TooLong);
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }
}

/// Everything but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// `text` as one segment of a path or one value of a query (RFC 3986, 2.3).
pub(crate) fn percent_encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests;
