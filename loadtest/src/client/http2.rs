//! Streams of HTTP/2 in clear text, with prior knowledge (RFC 9113).

use h2::client::{SendRequest, handshake};
use h2::{Error, Reason};
use http::Request;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::connection::Opener;
use super::failure::Failure;
use super::{Answered, Fate, Target};

/// Streams at the same time.
const STREAMS: usize = 4;
/// As much of a worker's name as is kept.
const NAME_LIMIT: usize = 64;

#[derive(Debug)]
pub(crate) struct Http2 {
    open: Option<Session>,
}

#[derive(Debug)]
struct Session {
    streams: SendRequest<bytes::Bytes>,
    connection: JoinHandle<()>,
    reused: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What became of a stream.
enum Ended {
    Answered {
        worker: String,
    },
    /// Not processed: above the last id of a GOAWAY (6.8), or refused (8.7).
    Unprocessed,
    Failed(Failure),
}

impl Http2 {
    pub(super) fn new() -> Http2 {
        Http2 { open: None }
    }

    /// Sends some requests at the same time. Those that were not processed are sent again on another connection.
    pub(super) async fn turn(&mut self, opener: &mut Opener, target: &Target, fates: &mut Vec<Fate>) {
        let before = fates.len();
        let talk = timeout(target.timeout, self.talk(opener, target, fates)).await;
        if let Err(failure) = talk.unwrap_or(Err(Failure::TimedOut(target.timeout))) {
            self.open = None;
            let missing = (before + STREAMS).saturating_sub(fates.len() + 1);
            fates.extend((0..missing).map(|_| Fate::of(Err(failure.of_another()), "")));
            fates.push(Fate::of(Err(failure), ""));
        }
    }

    async fn talk(
        &mut self,
        opener: &mut Opener,
        target: &Target,
        fates: &mut Vec<Fate>,
    ) -> Result<(), Failure> {
        let (mut waiting, mut answered) = (STREAMS, Answered::First);
        while waiting > 0 {
            let mut session = self.ready(opener, target).await?;
            let mut running = JoinSet::new();
            let mut unsent = 0;
            for _ in 0..waiting {
                match session.request(target).await {
                    Ok(stream) => drop(running.spawn(stream)),
                    // The connection takes its leave: this one never left.
                    Err(error) if error.is_go_away() => unsent += 1,
                    Err(error) => return Err(failure(error, session.reused)),
                }
            }
            let mut unprocessed = 0;
            while let Some(ended) = running.join_next().await {
                match ended.map_err(|error| Failure::Protocol(error.to_string()))? {
                    Ended::Answered { worker } => {
                        session.reused = true;
                        let result = Ok(answered);
                        fates.push(Fate { result, worker });
                    }
                    Ended::Unprocessed => unprocessed += 1,
                    Ended::Failed(failure) => fates.push(Fate::of(Err(failure), "")),
                }
            }
            waiting = unsent + unprocessed;
            if unprocessed > 0 {
                answered = Answered::Again;
            }
            if waiting == 0 {
                self.open = Some(session);
            }
        }
        Ok(())
    }

    /// The connection, or a new one if it takes no more streams.
    async fn ready(&mut self, opener: &mut Opener, target: &Target) -> Result<Session, Failure> {
        if let Some(mut session) = self.open.take()
            && !session.connection.is_finished()
            && let Ok(streams) = session.streams.clone().ready().await
        {
            session.streams = streams;
            return Ok(session);
        }
        let stream = opener.open_for(target, true).await?;
        let (streams, connection) = handshake(stream).await.map_err(|error| failure(error, false))?;
        // How it ends is seen by its streams.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let streams = streams.ready().await.map_err(|error| failure(error, false))?;
        Ok(Session {
            streams,
            connection,
            reused: false,
        })
    }
}

impl Session {
    async fn request(&mut self, target: &Target) -> Result<impl Future<Output = Ended> + use<>, Error> {
        let uri = format!("http://{}{}", target.authority, target.path);
        let request = Request::get(uri).body(()).map_err(|_| Reason::INTERNAL_ERROR)?;
        self.streams = self.streams.clone().ready().await?;
        let (response, _) = self.streams.send_request(request, true)?;
        let (expect, reused) = (target.expect_status, self.reused);
        Ok(async move {
            match answer(response, expect).await {
                Ok(ended) => ended,
                Err(error) if is_unprocessed(&error) => Ended::Unprocessed,
                Err(error) => Ended::Failed(failure(error, reused)),
            }
        })
    }
}

async fn answer(response: h2::client::ResponseFuture, expect: u16) -> Result<Ended, Error> {
    let response = response.await?;
    let status = response.status().as_u16();
    let worker = response.headers().get("x-worker");
    let worker = worker.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = match data {
            Ok(data) => data,
            Err(error) => {
                return Ok(Ended::Failed(Failure::Truncated(Some(std::io::Error::other(
                    error,
                )))));
            }
        };
        body.flow_control().release_capacity(data.len())?;
        text.extend_from_slice(&data[..data.len().min(NAME_LIMIT - text.len().min(NAME_LIMIT))]);
    }
    if status != expect {
        return Ok(Ended::Failed(Failure::Status(status)));
    }
    let text = String::from_utf8_lossy(&text);
    let word = || {
        text.split_ascii_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Ended::Answered {
        worker: worker.unwrap_or_else(word),
    })
}

fn is_unprocessed(error: &Error) -> bool {
    error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)
}

fn failure(error: Error, reused: bool) -> Failure {
    if error.is_io() || error.is_go_away() {
        let error = error.into_io().or_else(|| Some(std::io::Error::other("GOAWAY")));
        return Failure::Ended { reused, error };
    }
    Failure::Protocol(format!("HTTP/2: {error}"))
}
