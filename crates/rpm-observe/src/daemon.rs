//! Questions to the daemon, each over a connection of its own: it may be another daemon the next time. What is asked every second keeps its
//! connection, because each one costs the daemon two wake-ups.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time for an answer. The daemon has it in memory; one that is being replaced is silent for a moment.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Time for the pages of all workers, of which the daemon waits two seconds for each.
const PAGES_DEADLINE: Duration = Duration::from_secs(8);
/// Maximum length of an answer in bytes: a process takes some kilobytes.
const MAX_ANSWER: usize = 64 << 20;

/// The daemon behind a socket.
#[derive(Debug)]
pub(crate) struct Daemon {
    socket: PathBuf,
}

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("the daemon does not run")]
    Gone(#[from] std::io::Error),
    #[error("the connection to the daemon broke")]
    Broken(#[from] hyper::Error),
    #[error("the daemon's answer was cut short or is too long")]
    Cut(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the daemon answered {0}")]
    Refused(StatusCode),
    #[error("the daemon does not answer ({0} s)")]
    Silent(u64),
    #[error("not a request")]
    Request(#[from] hyper::http::Error),
}

impl Daemon {
    pub(crate) fn new(socket: PathBuf) -> Daemon {
        Daemon { socket }
    }

    /// The body of the answer to `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, Unanswered> {
        self.get_within(ANSWER_DEADLINE, path).await
    }

    /// The pages of metrics of all workers, as JSON.
    pub(crate) async fn pages(&self) -> Result<Bytes, Unanswered> {
        self.get_within(PAGES_DEADLINE, "/v1/scrape").await
    }

    async fn get_within(&self, within: Duration, path: &str) -> Result<Bytes, Unanswered> {
        let answer = timeout(within, self.ask(path)).await;
        answer.map_err(|_| Unanswered::Silent(within.as_secs()))?
    }

    async fn ask(&self, path: &str) -> Result<Bytes, Unanswered> {
        self.begin(path).await?.whole().await
    }

    /// The answer to `GET path`, piece by piece as the daemon sends it, without an end if need be.
    pub(crate) async fn stream(&self, path: &str) -> Result<Stream, Unanswered> {
        let begun = timeout(ANSWER_DEADLINE, self.begin(path)).await;
        begun.map_err(|_| Unanswered::Silent(ANSWER_DEADLINE.as_secs()))?
    }

    async fn begin(&self, path: &str) -> Result<Stream, Unanswered> {
        let (status, stream) = self.request(Method::GET, path, Bytes::new()).await?;
        match status.is_success() {
            true => Ok(stream),
            false => Err(Unanswered::Refused(status)),
        }
    }

    /// The status of the answer to a request with this body, which is JSON, and the answer piece by piece. It takes as long as it takes.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Stream), Unanswered> {
        let Connection { mut sender, driver } = self.connect().await?;
        let response = sender.send_request(request(method, path, body)?).await?;
        let status = response.status();
        let stream = Stream {
            body: response.into_body(),
            _driver: driver,
        };
        Ok((status, stream))
    }

    async fn connect(&self) -> Result<Connection, Unanswered> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Connection { sender, driver })
    }
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "rpm")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
}

async fn whole(body: Incoming) -> Result<Bytes, Unanswered> {
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    body.map(|body| body.to_bytes()).map_err(Unanswered::Cut)
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Carries the connection, and ends with this.
    driver: JoinSet<Result<(), hyper::Error>>,
}

/// Questions one after the other, over a connection that is kept as long as it lasts.
#[derive(Debug)]
pub(crate) struct Kept {
    daemon: Daemon,
    open: Option<Connection>,
}

impl Kept {
    pub(crate) fn new(daemon: Daemon) -> Kept {
        Kept { daemon, open: None }
    }

    /// The body of the answer to `GET path`.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Bytes, Unanswered> {
        let answer = timeout(ANSWER_DEADLINE, self.ask(path)).await;
        answer.map_err(|_| Unanswered::Silent(ANSWER_DEADLINE.as_secs()))?
    }

    async fn ask(&mut self, path: &str) -> Result<Bytes, Unanswered> {
        if let Some(open) = self.open.take()
            && !open.sender.is_closed()
            && let Ok(answer) = self.ask_over(open, path).await
        {
            return Ok(answer);
        }
        // The daemon may be another one by now.
        let open = self.daemon.connect().await?;
        self.ask_over(open, path).await
    }

    /// A connection whose answer did not come to its end is not kept.
    async fn ask_over(&mut self, mut open: Connection, path: &str) -> Result<Bytes, Unanswered> {
        open.sender.ready().await?;
        let question = request(Method::GET, path, Bytes::new())?;
        let response = open.sender.send_request(question).await?;
        let status = response.status();
        let body = whole(response.into_body()).await?;
        self.open = Some(open);
        match status.is_success() {
            true => Ok(body),
            false => Err(Unanswered::Refused(status)),
        }
    }
}

/// An answer that comes in pieces.
#[derive(Debug)]
pub(crate) struct Stream {
    body: Incoming,
    /// Carries the connection, and ends with this.
    _driver: JoinSet<Result<(), hyper::Error>>,
}

impl Stream {
    /// An answer, and what carries its connection.
    pub(crate) fn of(body: Incoming, driver: JoinSet<Result<(), hyper::Error>>) -> Stream {
        Stream {
            body,
            _driver: driver,
        }
    }

    /// All of it.
    pub(crate) async fn whole(self) -> Result<Bytes, Unanswered> {
        whole(self.body).await
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Unanswered> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// Takes a connection, and answers so many questions over it.
    async fn answer(listener: &UnixListener, questions: usize, with: &str) {
        let (mut client, _) = listener.accept().await.expect("a client");
        let mut buffer = [0; 1024];
        for _ in 0..questions {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let count = client.read(&mut buffer).await.expect("a question");
                assert!(count > 0, "it is closed");
                asked.extend_from_slice(&buffer[..count]);
            }
            client.write_all(with.as_bytes()).await.expect("it is read");
        }
    }

    #[tokio::test]
    async fn questions_share_a_connection_as_long_as_it_lasts() {
        let socket = std::env::temp_dir().join(format!("rpm-kept-{}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mut daemon = Kept::new(Daemon::new(Path::new(&socket).to_owned()));
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        // The third question finds the connection closed, and is put over another one, which is cut. Then there is a third.
        let served = async {
            answer(&listener, 2, whole).await;
            answer(&listener, 1, &whole[..whole.len() - 1]).await;
            answer(&listener, 1, whole).await;
            // Its end is seen by the client before the listener's.
            listener.accept().await.map(drop)
        };
        let asked = async {
            for _ in 0..2 {
                assert_eq!(daemon.get("/").await.expect("an answer"), "ok");
            }
            assert!(matches!(daemon.get("/").await, Err(Unanswered::Cut(_))));
            assert_eq!(daemon.get("/").await.expect("an answer"), "ok");
        };
        tokio::select! {
            () = asked => {}
            more = served => panic!("a connection too many: {more:?}"),
        }
        std::fs::remove_file(&socket).expect("it is ours");
    }
}
