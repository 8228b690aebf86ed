//! The answer without an end: what runs now, what happens, and the logs of an app. One for each tab, because a browser opens six connections
//! to a server at most.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Frame;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rpm_wire::api::RESERVED_PREFIX;
use rpm_wire::events::{Event, Tone};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::door::Visitor;
use super::{Dashboard, hosts};
use crate::daemon::{Daemon, Stream, Unanswered};

/// Events of before that the page begins with.
const EVENTS: u32 = 300;
/// Lines of an app's logs that the page begins with.
const LINES: u32 = 400;
/// Pieces that wait for a browser; then the daemon waits.
const WAITING: usize = 16;
/// Until the daemon is asked again that has gone.
const PAUSE: Duration = Duration::from_secs(1);

/// A body whose pieces come from tasks.
struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// An answer of lines, and where they are put.
pub(super) fn lines(status: StatusCode) -> (mpsc::Sender<Bytes>, Response) {
    let (pieces, body) = mpsc::channel(WAITING);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (pieces, (status, kind, Body::new(Pieces(body))).into_response())
}

/// What a tab wants.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// The app whose logs it shows.
    logs: Option<String>,
    /// The last event that it has.
    after: Option<u64>,
    /// It shows other machines, too.
    #[serde(default)]
    hosts: bool,
}

/// `GET /dashboard/live?logs=api&after=1040`: a frame a second (`{"up":…}`), events as they happen (`{"event":…}`; `{"reset":true}` says that
/// their numbers begin again), the app's logs (`{"log":…}`, or `{"logs":"why there are none"}`), and frames of other machines
/// (`{"host":…,"url":…,"frame":…}`).
pub(super) async fn live(
    State(board): State<Arc<Dashboard>>,
    visitor: Visitor,
    Query(wanted): Query<Wanted>,
) -> Response {
    let (pieces, answer) = lines(StatusCode::OK);
    tokio::spawn(async move {
        let mut beside = JoinSet::new();
        beside.spawn(follow_events(board.clone(), pieces.clone(), wanted.after));
        if let Some(app) = wanted.logs {
            beside.spawn(follow_logs(board.clone(), pieces.clone(), app));
        }
        if wanted.hosts {
            beside.spawn(hosts::follow(board.home.clone(), pieces.clone()));
        }
        let mut ending = board.ending.clone();
        // The others end with this, and so does the answer.
        tokio::select! {
            () = frames(&board, &visitor, pieces) => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    });
    answer
}

/// `GET /api/v1/live`: frames alone, for the dashboard of another machine.
pub(crate) async fn read(State(board): State<Arc<Dashboard>>) -> Response {
    let (pieces, answer) = lines(StatusCode::OK);
    tokio::spawn(async move {
        let (mut frames, mut ending) = (board.live.look(), board.ending.clone());
        loop {
            let frame = frames.borrow_and_update().clone();
            if !frame.is_empty() && pieces.send(frame).await.is_err() {
                return;
            }
            tokio::select! {
                changed = frames.changed() => if changed.is_err() { return },
                () = pieces.closed() => return,
                _ = ending.wait_for(|ending| *ending) => return,
            }
        }
    });
    answer
}

/// Passes frames on as long as the session lasts, and leaves out those that come while the browser has not taken one.
async fn frames(board: &Arc<Dashboard>, visitor: &Visitor, pieces: mpsc::Sender<Bytes>) {
    let mut frames = board.live.look();
    while visitor.still_has(board) {
        let frame = frames.borrow_and_update().clone();
        if !frame.is_empty() && pieces.send(frame).await.is_err() {
            return;
        }
        tokio::select! {
            changed = frames.changed() => if changed.is_err() { return },
            () = pieces.closed() => return,
        }
    }
}

async fn follow_events(board: Arc<Dashboard>, pieces: mpsc::Sender<Bytes>, mut after: Option<u64>) {
    loop {
        // The daemon has gone, or is another one: its next has the events behind the last that was seen.
        let _ = events(&board.daemon, &pieces, &mut after).await;
        sleep(PAUSE).await;
    }
}

/// Passes events on until the daemon ends.
async fn events(
    daemon: &Daemon,
    pieces: &mpsc::Sender<Bytes>,
    after: &mut Option<u64>,
) -> Result<(), Unanswered> {
    let from = after.map_or_else(|| format!("lines={EVENTS}"), |seq| format!("after={seq}"));
    let mut stream = daemon.stream(&format!("/v1/events?follow=true&{from}")).await;
    if let (Some(_), Err(Unanswered::Refused(_))) = (&after, &stream) {
        // The number is of other files than those that are there.
        *after = None;
        put(pieces, &json!({ "reset": true })).await;
        stream = daemon
            .stream(&format!("/v1/events?follow=true&lines={EVENTS}"))
            .await;
    }
    let mut lines = Lines::new(stream?);
    while let Some(line) = lines.next().await? {
        // A kind that only a newer daemon knows is passed over.
        let Ok(event) = serde_json::from_slice::<Event>(&line) else {
            continue;
        };
        *after = Some(event.seq);
        put(pieces, &json!({ "event": told(&event) })).await;
    }
    Ok(())
}

/// An event as the page shows it.
fn told(event: &Event) -> Value {
    let tone = match event.what.tone() {
        Tone::Good => "good",
        Tone::Plain => "plain",
        Tone::Warning => "warning",
        Tone::Bad => "bad",
    };
    // The number of a hidden process is of no use.
    let hidden = |app: &String| app.starts_with(RESERVED_PREFIX);
    let id = event
        .subject
        .id
        .filter(|_| !event.subject.app.as_ref().is_some_and(hidden));
    json!({
        "seq": event.seq,
        "at_ms": event.at_ms,
        "app": event.subject.app,
        "id": id,
        "kind": event.what.kind(),
        "tone": tone,
        "text": event.what.sentence(),
        "lines": event.what.last_lines(),
    })
}

async fn follow_logs(board: Arc<Dashboard>, pieces: mpsc::Sender<Bytes>, app: String) {
    let target = utf8_percent_encode(&app, NON_ALPHANUMERIC);
    let mut path = format!("/v1/logs?target={target}&follow=true&lines={LINES}");
    loop {
        let why = match logs(&board.daemon, &pieces, &path).await {
            Ok(()) => "the daemon has ended".to_owned(),
            Err(error) => error.to_string(),
        };
        put(
            &pieces,
            &json!({ "logs": format!("no logs: {why}; what is written meanwhile is not shown") }),
        )
        .await;
        path = format!("/v1/logs?target={target}&follow=true&lines=0");
        sleep(PAUSE).await;
    }
}

async fn logs(daemon: &Daemon, pieces: &mpsc::Sender<Bytes>, path: &str) -> Result<(), Unanswered> {
    let mut lines = Lines::new(daemon.stream(path).await?);
    put(pieces, &json!({ "logs": null })).await;
    while let Some(line) = lines.next().await? {
        // As the daemon sends it: it is JSON already.
        let log = String::from_utf8_lossy(&line);
        let piece = format!("{{\"log\":{}}}\n", log.trim_end());
        // Nobody takes it: the tab has gone, and `live` ends this.
        let _ = pieces.send(piece.into()).await;
    }
    Ok(())
}

pub(super) async fn put(pieces: &mpsc::Sender<Bytes>, line: &Value) {
    // Nobody takes it: the tab has gone, and `live` ends this.
    let _ = pieces.send(format!("{line}\n").into()).await;
}

/// The lines of an answer, without those that are too long.
pub(super) struct Lines {
    stream: Stream,
    rest: Vec<u8>,
    /// How much of `rest` has no end of a line.
    looked: usize,
}

/// Longest line that is passed on, in bytes: the daemon shows 1 MiB of a log's line, and JSON may make six of each.
const LONGEST: usize = 8 << 20;

impl Lines {
    pub(super) fn new(stream: Stream) -> Lines {
        Lines {
            stream,
            rest: Vec::new(),
            looked: 0,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Unanswered> {
        loop {
            let end = self.rest[self.looked..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.rest.drain(..=self.looked + end).collect();
                self.looked = 0;
                return Ok(Some(line));
            }
            self.looked = self.rest.len();
            if self.rest.len() > LONGEST {
                self.rest.clear();
                self.looked = 0;
            }
            match self.stream.piece().await? {
                Some(piece) => self.rest.extend_from_slice(&piece),
                None if self.rest.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.rest))),
            }
        }
    }
}
