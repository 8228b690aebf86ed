//! `GET /v1/logs`: the last lines of some instances, then what is added, as NDJSON.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use rpm_wire::api::{ApiError, LogLine, Stream};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

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

/// After something was written it is looked, so much later, whose output is new.
const LOOK_AFTER: Duration = Duration::from_millis(500);

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
    let origins = origins(&handle, &target).await??;
    handle.logs.sync().await;
    let lines = wish.lines.unwrap_or(15).min(LINES_LIMIT);
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let written = wish.follow.then(|| handle.logs.written());
    let reader = written.is_some().then(|| handle.logs.reader());
    let followed = written.map(|written| Followed {
        handle,
        target,
        written,
    });
    tokio::spawn(send(origins, lines, followed, sender));
    Ok(lines_of(receiver, reader))
}

/// What is followed, and by what it is known that there is more.
struct Followed {
    handle: Handle,
    target: String,
    written: watch::Receiver<u64>,
}

async fn origins(
    handle: &Handle,
    target: &str,
) -> Result<Result<Vec<Origin>, ApiError>, crate::supervisor::ShuttingDown> {
    let target = target.to_owned();
    handle.ask(move |supervisor| supervisor.origins(&target)).await
}

async fn send(origins: Vec<Origin>, lines: usize, followed: Option<Followed>, sender: mpsc::Sender<Bytes>) {
    let mut followers = VecDeque::new();
    for origin in origins {
        let (last, follower) = Follower::start(&origin.path, lines);
        if sender.send(encode(&origin, last)).await.is_err() {
            return;
        }
        followers.push_back((origin, follower));
    }
    let Some(mut followed) = followed else { return };
    let mut look: Option<Instant> = None;
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
            changed = followed.written.changed() => {
                if changed.is_err() {
                    // The log thread has ended, after its last pass: these are the last lines.
                    return finish(&mut followers, &sender).await;
                }
                look.get_or_insert_with(|| Instant::now() + LOOK_AFTER);
            }
            () = due(look) => {
                look = None;
                for origin in followed.others(&followers).await {
                    let (last, follower) = Follower::start(&origin.path, lines);
                    if sender.send(encode(&origin, last)).await.is_err() {
                        return;
                    }
                    followers.push_back((origin, follower));
                }
            }
            () = sender.closed() => return,
        }
    }
}

/// Sends what is left.
async fn finish(followers: &mut VecDeque<(Origin, Follower)>, sender: &mpsc::Sender<Bytes>) {
    for (origin, follower) in followers {
        loop {
            let (lines, more) = follower.more();
            if !lines.is_empty() && sender.send(encode(origin, lines)).await.is_err() {
                return;
            }
            if !more {
                break;
            }
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Followed {
    /// What has come since.
    async fn others(&self, known: &VecDeque<(Origin, Follower)>) -> Vec<Origin> {
        // What was followed may be gone, and the daemon, too: then there is nothing more.
        let Ok(Ok(mut all)) = origins(&self.handle, &self.target).await else {
            return Vec::new();
        };
        all.retain(|new| {
            known
                .iter()
                .all(|(old, _)| (old.id, &old.path) != (new.id, &new.path))
        });
        all
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
