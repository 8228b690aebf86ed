//! `GET /v1/events`: what has happened, then what happens, as NDJSON.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use rpm_wire::api::ApiError;
use rpm_wire::events::{Lost, Picked, Which};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::{Duration, sleep, timeout};

use super::body::Refusal;
use super::lines::{CHUNKS, line, lines_of};
use crate::events::history::History;
use crate::events::wanted::Wanted;
use crate::failure::failure;
use crate::inbox::{Fresh, Handle};
use crate::os::threads;
use crate::view::View;

/// Most events of the past that can be asked for by their number from the end, and the number if nothing is said.
const LINES_LIMIT: usize = 10_000;
const USUAL_LINES: usize = 100;
/// Events that are read together.
const CHUNK: usize = 200;
/// Those who follow at a time.
static FOLLOWERS: Semaphore = Semaphore::const_new(FOLLOWERS_LIMIT);
const FOLLOWERS_LIMIT: usize = 32;
/// For what has just happened to be written, with the last lines of those who have ended.
const WRITTEN_WITHIN: Duration = Duration::from_secs(3);
/// Before a thread that could not be made is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
pub(super) struct Wish {
    target: Option<String>,
    lines: Option<usize>,
    after: Option<u64>,
    since_ms: Option<u64>,
    #[serde(default)]
    follow: bool,
}

/// What is sent, and to whom.
struct Stream {
    history: History,
    wanted: Arc<Wanted>,
    sender: mpsc::Sender<Bytes>,
}

pub(super) async fn events(
    State(handle): State<Handle>,
    Query(wish): Query<Wish>,
) -> Result<Response, Refusal> {
    let permit = match wish.follow {
        true => Some(FOLLOWERS.try_acquire().map_err(|_| too_many())?),
        false => None,
    };
    let (target, since_ms) = (wish.target.clone(), wish.since_ms.unwrap_or(0));
    let begin = move |view: View<'_>| {
        let wanted = Wanted::of(view.catalog(), target.as_deref(), since_ms)?;
        let journal = view.journal;
        Ok::<_, ApiError>((wanted, journal.history(), journal.written(), journal.synced()))
    };
    let (wanted, history, written, synced) = handle.look(Fresh::Stored, begin).await??;
    // A disk that blocks keeps nobody from what is written.
    let _ = timeout(WRITTEN_WITHIN, synced).await;
    let last = *written.borrow();
    if let Some(after) = wish.after.filter(|after| *after > last) {
        return Err(failure(
            format!("there is no event {after} yet: the last one is {last}"),
            Some("the files were removed, perhaps: leave `after` out to begin anew"),
        )
        .into());
    }
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let mut stream = Stream {
        history,
        wanted: Arc::new(wanted),
        sender,
    };
    stream.check_target().await?;
    let reader = wish.follow.then(|| handle.logs.reader());
    tokio::spawn(stream.send(wish, written, permit));
    Ok(lines_of(receiver, reader))
}

fn too_many() -> ApiError {
    failure(
        format!("{FOLLOWERS_LIMIT} clients follow the events already"),
        Some("end one of them"),
    )
}

impl Stream {
    /// What is called so may be gone, and have events still; where nothing ever was, the name is wrong.
    async fn check_target(&mut self) -> Result<(), Refusal> {
        let Some(unknown) = self.wanted.unknown.clone() else {
            return Ok(());
        };
        let (mut history, wanted) = (self.history.clone(), Arc::clone(&self.wanted));
        let look = move || history.read(Which::First(1), &|head| wanted.is_meant(head));
        match threads::run(look).await {
            Ok(Picked { lines, .. }) if lines.is_empty() => Err(unknown.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn send(
        mut self,
        wish: Wish,
        mut written: watch::Receiver<u64>,
        _permit: Option<SemaphorePermit<'static>>,
    ) {
        let past = match (wish.after, wish.lines) {
            (Some(after), lines) => {
                self.history = self.history.after(after);
                lines.map(|lines| Which::First(lines.min(LINES_LIMIT)))
            }
            (None, lines) => {
                let usual = if wish.since_ms.is_some() {
                    LINES_LIMIT
                } else {
                    USUAL_LINES
                };
                Some(Which::Last(lines.unwrap_or(usual).min(LINES_LIMIT)))
            }
        };
        if let Some(which) = past
            && (self.pass_on(which).await.is_err() || !wish.follow)
        {
            return;
        }
        loop {
            // The thread that writes has ended: these are the last ones.
            let is_end = written.has_changed().is_err();
            let last = *written.borrow_and_update();
            while self.history.seq < last {
                let before = self.history.seq;
                if self.pass_on(Which::First(CHUNK)).await.is_err() {
                    return;
                }
                if self.history.seq == before {
                    // Somebody has removed the file.
                    break;
                }
            }
            if is_end || !wish.follow {
                return;
            }
            tokio::select! {
                // An error: it has ended, and may have written before.
                _ = written.changed() => {}
                () = self.sender.closed() => return,
            }
        }
    }

    /// Reads some, and sends them. An error: nobody takes them any more.
    async fn pass_on(&mut self, which: Which) -> Result<(), mpsc::error::SendError<Bytes>> {
        let Picked { lines, lost, .. } = self.read(which).await;
        let mut bytes = Vec::new();
        if lost > 0 {
            bytes.extend(line(&Lost { lost }));
        }
        for line in lines {
            bytes.extend(line);
            bytes.push(b'\n');
        }
        match bytes.is_empty() {
            true => Ok(()),
            false => self.sender.send(bytes.into()).await,
        }
    }

    /// On a thread of its own: the disk may be slow.
    async fn read(&mut self, which: Which) -> Picked {
        loop {
            let (mut history, wanted) = (self.history.clone(), Arc::clone(&self.wanted));
            let look = move || {
                let picked = history.read(which, &|head| wanted.fits(head));
                (picked, history)
            };
            match threads::run(look).await {
                Ok((picked, history)) => {
                    self.history = history;
                    return picked;
                }
                Err(_) => sleep(AGAIN_AFTER).await,
            }
        }
    }
}
