//! `GET /v1/logs`: the last lines of some instances, then what is added, as NDJSON.

use std::collections::VecDeque;
use std::path::PathBuf;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use rpm_wire::api::{ApiError, LogLine, Stream};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use super::body::Refusal;
use super::lines::{CHUNKS, line, lines_of};
use crate::logs::tail::Follower;
use crate::supervisor::{Handle, Supervisor};

/// Most lines that can be asked for.
const LINES_LIMIT: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct Wish {
    target: Option<String>,
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// One file and whose lines are in it.
struct Origin {
    id: u32,
    name: String,
    stream: Stream,
    path: PathBuf,
}

pub(super) async fn logs(
    State(handle): State<Handle>,
    Query(wish): Query<Wish>,
) -> Result<Response, Refusal> {
    let target = wish.target.unwrap_or_else(|| "all".to_owned());
    let origins = handle
        .ask(move |supervisor| supervisor.origins(&target))
        .await??;
    handle.logs.sync().await;
    let lines = wish.lines.unwrap_or(15).min(LINES_LIMIT);
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let written = wish.follow.then(|| handle.logs.written());
    tokio::spawn(send(origins, lines, written, sender));
    Ok(lines_of(receiver))
}

async fn send(
    origins: Vec<Origin>,
    lines: usize,
    written: Option<watch::Receiver<u64>>,
    sender: mpsc::Sender<Bytes>,
) {
    let mut followers = VecDeque::new();
    for origin in origins {
        let (last, follower) = Follower::start(&origin.path, lines);
        if sender.send(encode(&origin, last)).await.is_err() {
            return;
        }
        followers.push_back((origin, follower));
    }
    let Some(mut written) = written else { return };
    loop {
        let mut again = false;
        for (origin, follower) in &mut followers {
            let (lines, more) = follower.more();
            again |= more;
            if !lines.is_empty() && sender.send(encode(origin, lines)).await.is_err() {
                return;
            }
        }
        if again {
            continue;
        }
        tokio::select! {
            changed = written.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}

fn encode(origin: &Origin, lines: Vec<String>) -> Bytes {
    let mut bytes = Vec::new();
    for text in lines {
        bytes.extend(line(&LogLine {
            id: origin.id,
            name: origin.name.clone(),
            stream: origin.stream,
            line: text,
        }));
    }
    bytes.into()
}

impl Supervisor {
    fn origins(&self, target: &str) -> Result<Vec<Origin>, ApiError> {
        let everything = target == "all" && self.core.instances().next().is_none();
        let ids = if everything {
            Vec::new()
        } else {
            self.resolve(&[target.to_owned()])?
        };
        let mut origins = Vec::new();
        for process in ids.into_iter().filter_map(|id| self.process(id, false)) {
            for (stream, path) in [(Stream::Out, process.out_log), (Stream::Err, process.err_log)] {
                origins.push(Origin {
                    id: process.id,
                    name: process.name.clone(),
                    stream,
                    path: path.into(),
                });
            }
        }
        Ok(origins)
    }
}
