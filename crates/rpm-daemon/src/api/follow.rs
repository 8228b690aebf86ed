//! `GET /v1/logs`: the last lines of some instances, then what is added, as NDJSON.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use rpm_core::InstanceId;
use rpm_wire::api::{ApiError, LogLine, LogTarget, Stream};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::body::Refusal;
use super::lines::{CHUNKS, line, lines_of};
use crate::failure::failure;
use crate::inbox::{Fresh, Handle, ShuttingDown};
use crate::logs::tail::Follower;
use crate::logs::{ANSWERED_WITHIN, Begin, Volume};
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

/// Delay between a write and the search for new sources.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Read of the files of one mount before it is sent, more or less, in bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Until the next try to have a thread.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

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
    start: Begin,
}

/// A line, behind its time in milliseconds since 1970 if that is known.
type Timed = (Option<u64>, String);

/// The files of one mount.
type Followers = VecDeque<(Origin, Follower)>;

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
            Past::Fresh => (Vec::new(), Follower::start_at(&origin.path, origin.start.get())),
        }
    }
}

pub(super) async fn logs(
    State(handle): State<Handle>,
    Query(wish): Query<Wish>,
) -> Result<Response, Refusal> {
    let target = wish.target.unwrap_or_else(|| "all".to_owned());
    let origins = origins(&handle, &target).await??;
    handle.logs.sync_files(paths(&origins)).await;
    let volumes: Vec<Volume> = paths(&origins).map(|path| handle.logs.volume(path)).collect();
    if let Some(first) = volumes.first()
        && !volumes.iter().any(Volume::responds)
    {
        return Err(failure(
            format!("no log can be read: {}", first.stalled()),
            Some("they can be when it responds"),
        )
        .into());
    }
    let past = match wish.fresh {
        true => Past::Fresh,
        false => Past::Last(wish.lines.unwrap_or(15).min(LINES_LIMIT)),
    };
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let written = wish.follow.then(|| handle.logs.written());
    let reader = written.is_some().then(|| handle.logs.reader());
    let sending = Sending {
        handle,
        target,
        past,
        sender,
    };
    tokio::spawn(sending.run(origins, written));
    Ok(lines_of(receiver, reader))
}

fn paths(origins: &[Origin]) -> impl Iterator<Item = &Path> {
    origins.iter().map(|origin| origin.path.as_path())
}

async fn origins(handle: &Handle, target: &str) -> Result<Result<Vec<Origin>, ApiError>, ShuttingDown> {
    let target = target.to_owned();
    handle
        .look(Fresh::Stored, move |view| view.origins(&target))
        .await
}

/// What a client is sent: from each mount by itself, for one that does not respond must not hold the others.
struct Sending {
    handle: Handle,
    target: String,
    past: Past,
    sender: mpsc::Sender<Bytes>,
}

impl Sending {
    /// Sends the past, and what comes if it is known when something is `written`.
    async fn run(self, origins: Vec<Origin>, written: Option<watch::Receiver<u64>>) {
        let mut known: BTreeSet<PathBuf> = paths(&origins).map(Path::to_owned).collect();
        self.begin(origins, written.as_ref());
        let Some(mut written) = written else { return };
        let mut look: Option<Instant> = None;
        loop {
            tokio::select! {
                changed = written.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    look.get_or_insert_with(|| Instant::now() + LOOK_AFTER);
                }
                () = due(look) => {
                    look = None;
                    let others = self.others(&mut known).await;
                    self.begin(others, Some(&written));
                }
                () = self.sender.closed() => return,
            }
        }
    }

    fn begin(&self, origins: Vec<Origin>, written: Option<&watch::Receiver<u64>>) {
        let mut parts: Vec<(Volume, Vec<Origin>)> = Vec::new();
        for origin in origins {
            let volume = self.handle.logs.volume(&origin.path);
            match parts.iter_mut().find(|(known, _)| known.is(&volume)) {
                Some((_, origins)) => origins.push(origin),
                None => parts.push((volume, vec![origin])),
            }
        }
        for (volume, origins) in parts {
            let part = Part {
                volume,
                origins,
                followers: Arc::default(),
                follows: written.is_some(),
                sender: self.sender.clone(),
            };
            tokio::spawn(part.run(self.past, written.cloned()));
        }
    }

    /// What has come since.
    async fn others(&self, known: &mut BTreeSet<PathBuf>) -> Vec<Origin> {
        // What was followed may be gone, and the daemon, too: then there is nothing more.
        let Ok(Ok(mut all)) = origins(&self.handle, &self.target).await else {
            return Vec::new();
        };
        all.retain(|new| known.insert(new.path.clone()));
        // Where they begin is known when the log threads have them.
        self.handle.logs.sync_files(paths(&all)).await;
        all
    }
}

/// What a client is sent from one mount.
struct Part {
    volume: Volume,
    origins: Vec<Origin>,
    followers: Arc<Mutex<Followers>>,
    follows: bool,
    sender: mpsc::Sender<Bytes>,
}

/// Nothing more is sent: the client has gone, or would wait in vain.
struct Ended;

impl Part {
    /// It ends with the client, with the log threads, or when all is sent that was wanted.
    async fn run(self, past: Past, written: Option<watch::Receiver<u64>>) {
        let _: Result<(), Ended> = async {
            if !self.volume.responds() {
                self.stalled().await?;
            }
            for streams in self.origins.chunk_by(|one, other| one.id == other.id) {
                let streams = streams.to_vec();
                let lines = self
                    .read(move |followers| begin(&streams, past, followers))
                    .await?;
                self.send(lines).await?;
            }
            match written {
                Some(written) => self.follow(written).await,
                None => Ok(()),
            }
        }
        .await;
    }

    async fn follow(&self, mut written: watch::Receiver<u64>) -> Result<(), Ended> {
        loop {
            let is_end = written.has_changed().is_err();
            let (lines, again) = self.read(more).await?;
            self.send(lines).await?;
            if again {
                continue;
            }
            if is_end {
                // The log threads have ended, each after a last pass: these are the last lines.
                let rest = self.read(rest).await?;
                return self.send(rest).await;
            }
            tokio::select! {
                // An error: they have ended, and may have written before.
                _ = written.changed() => {}
                () = self.sender.closed() => return Err(Ended),
            }
        }
    }

    /// Reads on a thread that may hang. The client learns that it does, and waits on if it follows.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&mut Followers) -> T + Clone + Send + 'static,
    ) -> Result<T, Ended> {
        loop {
            let (followers, read) = (Arc::clone(&self.followers), read.clone());
            let locked = move || read(&mut followers.lock().unwrap_or_else(PoisonError::into_inner));
            let mut reading = pin!(self.volume.read(locked));
            let done = match timeout(ANSWERED_WITHIN, &mut reading).await {
                Ok(done) => done,
                Err(_) => {
                    self.stalled().await?;
                    tokio::select! {
                        done = reading => done,
                        () = self.sender.closed() => return Err(Ended),
                    }
                }
            };
            match done {
                Ok(done) => return Ok(done),
                // No thread can be had now.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN_AFTER).await,
                Err(_) => return Err(Ended),
            }
        }
    }

    /// Has a line for each process whose log cannot be read now.
    async fn stalled(&self) -> Result<(), Ended> {
        let said = format!("[rpm: this log cannot be read: {}]", self.volume.stalled());
        let mut lines = Vec::new();
        for of_one in self.origins.chunk_by(|one, other| one.id == other.id) {
            lines.extend(encode(&of_one[0], now(vec![said.clone()])));
        }
        self.send(lines.into()).await?;
        match self.follows {
            true => Ok(()),
            false => Err(Ended),
        }
    }

    async fn send(&self, lines: Bytes) -> Result<(), Ended> {
        match lines.is_empty() {
            true => Ok(()),
            false => self.sender.send(lines).await.map_err(|_| Ended),
        }
    }
}

/// The past of the files of one process, which are followed from now on: their lines in the order of their times.
fn begin(streams: &[Origin], past: Past, followers: &mut Followers) -> Bytes {
    let mut lines = Vec::new();
    for origin in streams {
        let (last, follower) = past.of(origin);
        lines.extend(last.into_iter().map(|line| (line.0, encode(origin, vec![line]))));
        followers.push_back((origin.clone(), follower));
    }
    // Those of which no time is known are the oldest, and stay as they are.
    lines.sort_by_key(|(time, _)| *time);
    let lines: Vec<Bytes> = lines.into_iter().map(|(_, line)| line).collect();
    lines.concat().into()
}

/// What was added since, up to a bound; `true` if there may be more.
fn more(followers: &mut Followers) -> (Bytes, bool) {
    let (mut all, mut again) = (Vec::new(), false);
    for _ in 0..followers.len() {
        if all.len() > CHUNK_BYTES {
            return (all.into(), true);
        }
        let Some((origin, mut follower)) = followers.pop_front() else {
            break;
        };
        let (lines, more) = follower.more();
        again |= more;
        all.extend(encode(&origin, now(lines)));
        // The next time it is the turn of the others first.
        followers.push_back((origin, follower));
    }
    (all.into(), again)
}

/// What has no end, when there is nothing more to come.
fn rest(followers: &mut Followers) -> Bytes {
    let mut all = Vec::new();
    for (origin, follower) in followers {
        all.extend(encode(origin, now(follower.rest())));
    }
    all.into()
}

/// What has just been written.
fn now(lines: Vec<String>) -> Vec<Timed> {
    let now = Some(now_ms());
    lines.into_iter().map(|line| (now, line)).collect()
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
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
        let origin = |stream, target: &LogTarget, path: PathBuf, begin: Begin| Origin {
            id: id.0,
            name: spec.name.clone(),
            stream,
            start: self.log_starts.get(&path).cloned().unwrap_or(begin),
            path,
            shared,
            to: target.standard_stream().or(both),
        };
        // Where the daemon began in a file that it has not noted is unknown.
        let (out_from, err_from) = worker.map_or((paths.out_from, paths.err_from), |worker| {
            (worker.logs.out_from.clone(), worker.logs.err_from.clone())
        });
        Some([
            origin(Stream::Out, &spec.logs.out, paths.out, out_from),
            origin(Stream::Err, &spec.logs.err, paths.err, err_from),
        ])
    }
}
