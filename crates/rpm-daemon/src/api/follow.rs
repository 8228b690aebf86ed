//! `GET /v1/logs`: the last lines of some instances, then what is added, as NDJSON.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use rpm_core::InstanceId;
use rpm_wire::api::{ApiError, LogLine, LogTarget, Stream};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::body::Refusal;
use super::lines::{CHUNKS, line, lines_of};
use crate::inbox::{Fresh, Handle, ShuttingDown};
use crate::logs::tail::Follower;
use crate::os::clock::now_ms;
use crate::view::View;
use crate::workers::outputs;

/// Most lines that can be asked for.
const LINES_LIMIT: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct Wish {
    target: Option<String>,
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
    /// Instead of the last lines, all that this daemon has written.
    #[serde(default)]
    fresh: bool,
}

/// After something was written it is looked, so much later, whose output is new.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// One file and whose lines are in it.
#[derive(Clone)]
struct Origin {
    id: u32,
    name: String,
    stream: Stream,
    path: PathBuf,
    /// Other processes write to it too.
    shared: bool,
    /// The standard stream that it stands for.
    to: Option<Stream>,
    /// Where what this daemon has written begins.
    start: u64,
}

/// A line, behind its time in milliseconds since 1970 if that is known.
type Timed = (Option<u64>, String);

/// Which lines of the past are wanted.
#[derive(Clone, Copy)]
enum Past {
    /// So many.
    Last(usize),
    /// All since this daemon began to write.
    Fresh,
}

impl Past {
    fn of(self, origin: &Origin) -> (Vec<Timed>, Follower) {
        match self {
            Past::Last(lines) => Follower::start(&origin.path, lines),
            Past::Fresh => (Vec::new(), Follower::start_at(&origin.path, origin.start)),
        }
    }
}

pub(super) async fn logs(
    State(handle): State<Handle>,
    Query(wish): Query<Wish>,
) -> Result<Response, Refusal> {
    let target = wish.target.unwrap_or_else(|| "all".to_owned());
    let origins = origins(&handle, &target).await??;
    handle.logs.sync().await;
    let past = match wish.fresh {
        true => Past::Fresh,
        false => Past::Last(wish.lines.unwrap_or(15).min(LINES_LIMIT)),
    };
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let written = wish.follow.then(|| handle.logs.written());
    let reader = written.is_some().then(|| handle.logs.reader());
    let followed = written.map(|written| Followed {
        handle,
        target,
        written,
    });
    tokio::spawn(send(origins, past, followed, sender));
    Ok(lines_of(receiver, reader))
}

/// What is followed, and by what it is known that there is more.
struct Followed {
    handle: Handle,
    target: String,
    written: watch::Receiver<u64>,
}

async fn origins(handle: &Handle, target: &str) -> Result<Result<Vec<Origin>, ApiError>, ShuttingDown> {
    let target = target.to_owned();
    handle
        .look(Fresh::Stored, move |view| view.origins(&target))
        .await
}

async fn send(origins: Vec<Origin>, past: Past, followed: Option<Followed>, sender: mpsc::Sender<Bytes>) {
    let mut followers = VecDeque::new();
    if begin(origins, past, &mut followers, &sender).await.is_err() {
        return;
    }
    let Some(mut followed) = followed else { return };
    let mut look: Option<Instant> = None;
    loop {
        let mut again = false;
        for (origin, follower) in &mut followers {
            let (lines, more) = follower.more();
            again |= more;
            if !lines.is_empty() && sender.send(encode(origin, now(lines))).await.is_err() {
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
                let others = followed.others(&followers).await;
                if begin(others, past, &mut followers, &sender).await.is_err() {
                    return;
                }
            }
            () = sender.closed() => return,
        }
    }
}

/// Sends the past of files that are followed from now on: the lines of a process in the order of their times.
async fn begin(
    origins: Vec<Origin>,
    past: Past,
    followers: &mut VecDeque<(Origin, Follower)>,
    sender: &mpsc::Sender<Bytes>,
) -> Result<(), mpsc::error::SendError<Bytes>> {
    for streams in origins.chunk_by(|one, other| one.id == other.id) {
        let mut lines = Vec::new();
        for origin in streams {
            let (last, follower) = past.of(origin);
            lines.extend(last.into_iter().map(|line| (line.0, encode(origin, vec![line]))));
            followers.push_back((origin.clone(), follower));
        }
        // Those of which no time is known are the oldest, and stay as they are.
        lines.sort_by_key(|(time, _)| *time);
        let lines: Vec<Bytes> = lines.into_iter().map(|(_, line)| line).collect();
        sender.send(lines.concat().into()).await?;
    }
    Ok(())
}

/// What has just been written.
fn now(lines: Vec<String>) -> Vec<Timed> {
    let now = Some(now_ms());
    lines.into_iter().map(|line| (now, line)).collect()
}

/// Sends what is left.
async fn finish(followers: &mut VecDeque<(Origin, Follower)>, sender: &mpsc::Sender<Bytes>) {
    for (origin, follower) in followers {
        loop {
            let (lines, more) = follower.more();
            if !lines.is_empty() && sender.send(encode(origin, now(lines))).await.is_err() {
                return;
            }
            if !more {
                break;
            }
        }
        let rest = follower.rest();
        if !rest.is_empty() && sender.send(encode(origin, now(rest))).await.is_err() {
            return;
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
        all.retain(|new| known.iter().all(|(old, _)| old.path != new.path));
        all
    }
}

fn encode(origin: &Origin, lines: Vec<Timed>) -> Bytes {
    let mut bytes = Vec::new();
    for (time_ms, text) in lines {
        bytes.extend(line(&LogLine {
            id: origin.id,
            name: origin.name.clone(),
            stream: origin.stream,
            line: text,
            shared: origin.shared,
            time_ms,
            to: origin.to,
        }));
    }
    bytes.into()
}

impl View<'_> {
    fn origins(&self, target: &str) -> Result<Vec<Origin>, ApiError> {
        let everything = target == "all" && self.catalog().listed().next().is_none();
        let ids = if everything {
            Vec::new()
        } else {
            let targets: Vec<String> = target.split('\n').map(str::to_owned).collect();
            self.catalog().resolve(&targets)?
        };
        let mut origins: Vec<Origin> = Vec::new();
        for origin in ids.into_iter().filter_map(|id| self.origins_of(id)).flatten() {
            match origins.iter_mut().find(|known| known.path == origin.path) {
                Some(known) => known.shared |= known.id != origin.id,
                None => origins.push(origin),
            }
        }
        Ok(origins)
    }

    fn origins_of(&self, id: InstanceId) -> Option<[Origin; 2]> {
        let view = self.core.instance(id)?;
        let worker = view.worker().and_then(|worker| self.workers.get(&worker));
        let spec = worker
            .map(|worker| &worker.spec)
            .or_else(|| self.catalog().present_spec(view.app))?;
        let paths = outputs::logs_of(self.home, spec, id);
        let same_app = self.core.instances().filter(|other| other.app == view.app);
        let shared = !outputs::is_numbered(spec) && same_app.count() > 1;
        let both = spec.logs.both.as_ref().and_then(LogTarget::standard_stream);
        let origin = |stream, target: &LogTarget, path: PathBuf, length: u64| Origin {
            id: id.0,
            name: spec.name.clone(),
            stream,
            start: self.log_starts.get(&path).copied().unwrap_or(length),
            path,
            shared,
            to: target.standard_stream().or(both),
        };
        // Nobody knows where the daemon began in a file that it has not noted.
        let (out_from, err_from) = worker.map_or((paths.out_from, paths.err_from), |worker| {
            (worker.logs.out_from, worker.logs.err_from)
        });
        Some([
            origin(Stream::Out, &spec.logs.out, paths.out, out_from),
            origin(Stream::Err, &spec.logs.err, paths.err, err_from),
        ])
    }
}
