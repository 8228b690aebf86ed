//! Requests that change something, and how they are answered: at once, when the change is made, or in lines meanwhile.

use std::pin::pin;

use axum::body::Bytes;
use axum::response::{IntoResponse as _, Response};
use rpm_core::protocol::Outcome;
use rpm_wire::api::{ChangeReply, Follow, Progress};
use tokio::sync::mpsc;

use super::body::Refusal;
use super::lines::{CHUNKS, line, lines_of};
use crate::inbox::{Begun, Fresh, Handle, Request, ShuttingDown};
use crate::orders::{Accepted, Change};
use crate::processes::progress::Watcher;
use crate::view::View;

pub(super) type Answer = Result<Response, Refusal>;

/// Carries out a request. Several apps are changed side by side; the first failure is the answer.
pub(super) async fn answer(handle: Handle, wait: bool, follow: Follow, change: Change) -> Answer {
    let Begun { accepted, watcher } = handle.ask(|reply| Request::Change(change, reply)).await??;
    if !wait {
        return Ok(axum::Json(present(&handle, accepted).await?).into_response());
    }
    if follow.progress {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        tokio::spawn(tell(handle, follow, accepted, watcher, sender));
        return Ok(lines_of(receiver, None));
    }
    let reply = conclude_all(&handle, follow, accepted).await?;
    Ok(axum::Json(reply).into_response())
}

/// Nobody waits for the outcome.
async fn present(handle: &Handle, accepted: Vec<Accepted>) -> Result<ChangeReply, Refusal> {
    let mut replies = Vec::new();
    for Accepted {
        outcome,
        instances,
        notes,
        ..
    } in accepted
    {
        // That is as it was asked for: nobody has gone away.
        tokio::spawn(outcome);
        let now = move |view: View<'_>| view.brief_change(&instances, notes);
        replies.push(handle.look(Fresh::Stored, now).await?);
    }
    Ok(joined(replies))
}

/// Tells how the change goes on until it is settled or nobody listens any more.
async fn tell(
    handle: Handle,
    follow: Follow,
    accepted: Vec<Accepted>,
    mut watcher: Watcher,
    sender: mpsc::Sender<Bytes>,
) {
    let send = async |progress: Progress| sender.send(line(&progress).into()).await;
    let mut conclusion = pin!(conclude_all(&handle, follow, accepted));
    let conclusion = loop {
        tokio::select! {
            biased;
            () = sender.closed() => return,
            Some(step) = watcher.next() => drop(send(Progress::Step(step)).await),
            conclusion = &mut conclusion => break conclusion,
        }
    };
    while let Some(step) = watcher.past() {
        drop(send(Progress::Step(step)).await);
    }
    let last = match conclusion {
        Ok(reply) => Progress::Done(reply),
        Err(Refusal(_, error)) => Progress::Failed(error),
    };
    drop(send(last).await);
}

async fn conclude_all(
    handle: &Handle,
    follow: Follow,
    accepted: Vec<Accepted>,
) -> Result<ChangeReply, Refusal> {
    let mut replies = Vec::new();
    for one in accepted {
        replies.push(conclude(handle, follow, one).await?);
    }
    Ok(joined(replies))
}

async fn conclude(handle: &Handle, follow: Follow, accepted: Accepted) -> Result<ChangeReply, Refusal> {
    let Accepted {
        outcome,
        instances,
        notes,
        ..
    } = accepted;
    let outcome = outcome.await.map_err(|_| ShuttingDown)?;
    if matches!(outcome, Outcome::Failed { .. }) {
        // Its last words may still be in the pipe.
        handle.logs.sync().await;
    } else if follow.drained {
        let concerned = instances.clone();
        let gone = handle
            .ask(|reply| Request::AwaitLeavers(concerned, reply))
            .await?;
        gone.await.map_err(|_| ShuttingDown)?;
    }
    let fresh = match outcome {
        Outcome::Done { .. } => Fresh::Usage,
        Outcome::Failed { .. } => Fresh::Stored,
    };
    let reply = move |view: View<'_>| view.outcome(&instances, notes, &outcome);
    Ok(handle.look(fresh, reply).await??)
}

fn joined(replies: Vec<ChangeReply>) -> ChangeReply {
    let mut whole = ChangeReply::default();
    for reply in replies {
        whole.processes.extend(reply.processes);
        whole.notes.extend(reply.notes);
    }
    whole.processes.sort_by_key(|process| process.id);
    whole
}
