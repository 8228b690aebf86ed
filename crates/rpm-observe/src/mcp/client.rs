//! The daemon, as the tools ask it: each request within its time, and each failure in words that say what to do.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rpm_wire::api::{ApiError, ChangeReply, Progress, Scrape};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::progress::Reporter;
use crate::daemon::{Daemon, Stream, Unanswered};
use crate::own::Malformed;

/// Time for what the daemon knows. Metrics of apps that do not answer take a few seconds.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Longest line of a stream, in bytes. What a worker prints in one line is cut long before.
const LINE_LIMIT: usize = 8 << 20;

/// Everything but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The daemon refused the request, or the change has failed; in its words.
    #[error(transparent)]
    Refused(#[from] ApiError),
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    #[error("the daemon does not answer ({} s)", READ_DEADLINE.as_secs())]
    Late,
    #[error("the daemon's answer is not what this version expects; `rpm update` makes it the same version")]
    Unexpected(#[from] serde_json::Error),
    #[error("the daemon's answer has a line of more than {} MB", LINE_LIMIT >> 20)]
    TooLong,
    #[error("the daemon's figures cannot be read: {0}")]
    Figures(#[from] Malformed),
    #[error(
        "the connection to the daemon ended before the outcome; the change may go on, and `events` tells"
    )]
    Interrupted,
}

impl Trouble {
    /// For the model: what failed and why, what to do, and what the worker that failed has printed.
    pub(super) fn text(&self) -> String {
        match self {
            Trouble::Refused(refusal) => refused(refusal),
            Trouble::Unanswered(Unanswered::Gone(error)) if !is_refused(error) => {
                format!("cannot connect to the daemon: {error}")
            }
            Trouble::Unanswered(Unanswered::Gone(_)) => {
                "the daemon does not run: apps that it has started may serve still, but are not restarted\n\
                 hint: `rpm list` starts it, and it takes over what runs; `rpm resurrect` starts the apps that were saved, \
                 `rpm start app.js` starts one. This server goes on, and finds the daemon then"
                    .to_owned()
            }
            other => other.to_string(),
        }
    }
}

impl Trouble {
    /// The daemon may have got a request to change something before its connection broke.
    fn after_the_request(self) -> Trouble {
        match self {
            Trouble::Unanswered(Unanswered::Broken(_) | Unanswered::Cut(_)) => Trouble::Interrupted,
            other => other,
        }
    }
}

/// Whether nobody listens at the socket.
fn is_refused(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
    )
}

fn refused(refusal: &ApiError) -> String {
    let mut text = refusal.error.clone();
    if let Some(hint) = &refusal.hint {
        text.push_str("\nhint: ");
        text.push_str(hint);
    }
    if !refusal.last_lines.is_empty() {
        text.push_str("\nits last lines:");
    }
    for line in &refusal.last_lines {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    text
}

/// Asks the daemon.
#[derive(Debug)]
pub(super) struct Client {
    daemon: Daemon,
}

impl Client {
    pub(super) fn new(daemon: Daemon) -> Client {
        Client { daemon }
    }

    /// What the daemon knows.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        let body = self.read(path).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// The page of figures.
    pub(super) async fn page(&self) -> Result<String, Trouble> {
        let body = self.read("/metrics").await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The metrics that apps have themselves.
    pub(super) async fn scrape(&self) -> Result<Scrape, Trouble> {
        self.get("/v1/scrape").await
    }

    /// Hands over each line of an answer.
    pub(super) async fn lines(&self, path: &str, mut each: impl FnMut(&[u8])) -> Result<(), Trouble> {
        let reading = async {
            let mut lines = self.open(Method::GET, path, Bytes::new()).await?;
            while let Some(line) = lines.next().await? {
                each(&line);
            }
            Ok(())
        };
        timeout(READ_DEADLINE, reading).await.map_err(|_| Trouble::Late)?
    }

    /// Has a change made, and tells how it goes on. The caller bounds the time.
    pub(super) async fn follow(
        &self,
        path: &str,
        request: &(impl Serialize + Sync),
        reporter: &mut Reporter,
    ) -> Result<ChangeReply, Trouble> {
        let body = serde_json::to_vec(request)?.into();
        let opened = self.open(Method::POST, path, body).await;
        let mut lines = opened.map_err(Trouble::after_the_request)?;
        while let Some(line) = lines.next().await.map_err(Trouble::after_the_request)? {
            match serde_json::from_slice(&line)? {
                Progress::Step(step) => reporter.step(&step).await,
                Progress::Done(reply) => return Ok(reply),
                Progress::Failed(error) => return Err(error.into()),
            }
        }
        Err(Trouble::Interrupted)
    }

    /// Has a change made whose progress is not told. The caller bounds the time.
    pub(super) async fn change(
        &self,
        path: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<ChangeReply, Trouble> {
        let body = serde_json::to_vec(request)?.into();
        let changing = async {
            let (status, stream) = self.daemon.request(Method::POST, path, body).await?;
            answer(status, stream).await
        };
        let answer = changing.await.map_err(Trouble::after_the_request)?;
        Ok(serde_json::from_slice(&answer)?)
    }

    async fn read(&self, path: &str) -> Result<Bytes, Trouble> {
        let reading = async {
            let (status, stream) = self.daemon.request(Method::GET, path, Bytes::new()).await?;
            answer(status, stream).await
        };
        timeout(READ_DEADLINE, reading).await.map_err(|_| Trouble::Late)?
    }

    async fn open(&self, method: Method, path: &str, body: Bytes) -> Result<Lines, Trouble> {
        let (status, stream) = self.daemon.request(method, path, body).await?;
        match status.is_success() {
            true => Ok(Lines {
                stream,
                pending: Vec::new(),
            }),
            false => Err(refusal(status, stream).await),
        }
    }
}

async fn answer(status: StatusCode, stream: Stream) -> Result<Bytes, Trouble> {
    match status.is_success() {
        true => Ok(stream.whole().await?),
        false => Err(refusal(status, stream).await),
    }
}

/// What the daemon says of a request that it refuses.
async fn refusal(status: StatusCode, stream: Stream) -> Trouble {
    match stream.whole().await {
        Ok(body) => match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => error.into(),
            Err(_) => Unanswered::Refused(status).into(),
        },
        Err(error) => error.into(),
    }
}

/// An answer that consists of lines.
#[derive(Debug)]
struct Lines {
    stream: Stream,
    pending: Vec<u8>,
}

impl Lines {
    /// The next line without its end; `None` at the end of the answer. A line without an end was cut.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.pending.len() > LINE_LIMIT {
                return Err(Trouble::TooLong);
            }
            match self.stream.piece().await? {
                Some(piece) => self.pending.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }
}

/// `text` as one segment of a path or one value of a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}
