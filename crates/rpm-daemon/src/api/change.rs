//! Requests that change something, and how they are answered: at once, when the change is made, or in lines meanwhile.

use std::path::PathBuf;
use std::pin::pin;

use axum::body::Bytes;
use axum::response::{IntoResponse as _, Response};
use rpm_core::protocol::Outcome;
use rpm_wire::api::{ApiError, ChangeReply, Follow, Progress};
use rpm_wire::shell::word;
use tokio::sync::mpsc;

use super::body::Refusal;
use super::lines::{CHUNKS, line, lines_of};
use super::replies::{Failed, last_lines};
use crate::failure::failure;
use crate::inbox::{Begun, Fresh, Handle, Request, ShuttingDown};
use crate::orders::{Accepted, Change};
use crate::processes::progress::Watcher;
use crate::view::View;

pub(super) type Answer = Result<Response, Refusal>;

/// Carries out a request. Several apps are changed side by side; the answer comes when all are done, and names all that failed.
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
    let mut parts = Vec::new();
    for one in accepted {
        parts.push(conclude(handle, follow, one).await?);
    }
    Ok(combined(parts)?)
}

async fn conclude(handle: &Handle, follow: Follow, accepted: Accepted) -> Result<Part, Refusal> {
    let Accepted {
        outcome,
        instances,
        notes,
        whole,
    } = accepted;
    let outcome = outcome.await.map_err(|_| ShuttingDown)?;
    if matches!(outcome, Outcome::Failed { .. }) {
        // Its last words may still be in the pipe.
        let concerned = instances.clone();
        let logs = handle
            .look(Fresh::Stored, move |view| view.logs_of(&concerned))
            .await?;
        handle.logs.sync_files(logs.iter().map(PathBuf::as_path)).await;
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
    let reply = move |view: View<'_>| {
        let instances = match whole {
            Some(app) => view.catalog().instances_of(app),
            None => instances,
        };
        let listed = instances.iter().filter(|id| !id.is_hidden());
        let mut apps: Vec<String> = listed
            .filter_map(|id| view.catalog().name_of(*id))
            .map(str::to_owned)
            .collect();
        apps.dedup();
        Part {
            apps,
            outcome: view.outcome(&instances, notes, &outcome),
        }
    };
    let mut part = handle.look(fresh, reply).await?;
    if let Err(failed) = &mut part.outcome
        && let Some(logs) = &failed.logs
    {
        failed.error.last_lines = last_lines(&handle.logs, logs).await;
    }
    Ok(part)
}

/// What became of one part of a change.
struct Part {
    /// The names of its apps.
    apps: Vec<String>,
    outcome: Result<ChangeReply, Box<Failed>>,
}

/// So many apps are named; the others are only counted.
const MOST: usize = 6;

/// The answer to the whole change. If something failed it names every app that failed, and those that are ready.
fn combined(parts: Vec<Part>) -> Result<ChangeReply, ApiError> {
    let (mut replies, mut ready, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for Part { apps, outcome } in parts {
        match outcome {
            Ok(reply) => {
                ready.extend(apps);
                replies.push(reply);
            }
            Err(error) => failed.push(error),
        }
    }
    ready.sort_unstable();
    ready.dedup();
    ready.retain(|name| failed.iter().all(|failed| failed.app != *name));
    let mut others = match ready.len() {
        0 => String::new(),
        1 => format!("; {} is ready", ready[0]),
        count if count > MOST => format!("; {count} others are ready"),
        count => format!(
            "; {} and {} are ready",
            ready[..count - 1].join(", "),
            ready[count - 1]
        ),
    };
    let hows: Vec<String> = failed
        .iter()
        .map(|it| format!("{} ({})", it.app, it.how))
        .collect();
    match failed.into_iter().next().map(|first| *first) {
        None => Ok(joined(replies)),
        Some(Failed { mut error, .. }) if hows.len() == 1 => {
            error.error.push_str(&others);
            Err(error)
        }
        Some(Failed { app, .. }) => {
            let (count, all) = (hows.len(), hows.len() + ready.len());
            if count > MOST {
                others = format!(" and {} more{others}", count - MOST);
            }
            let named = hows[..count.min(MOST)].join(", ");
            let hint = format!("`rpm logs {}` shows the output of the first", word(&app));
            Err(failure(
                format!("{count} of {all} apps failed: {named}{others}"),
                Some(&hint),
            ))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn part(app: &str, how: Option<&str>) -> Part {
        let failed = |how: &str| {
            Box::new(Failed {
                error: failure(
                    format!("{app} (1) {how} before it was ready"),
                    Some("see its output"),
                ),
                app: app.to_owned(),
                logs: None,
                how: how.to_owned(),
            })
        };
        Part {
            apps: vec![app.to_owned()],
            outcome: how.map_or_else(|| Ok(ChangeReply::default()), |how| Err(failed(how))),
        }
    }

    #[test]
    fn every_app_that_failed_is_named() {
        let (one, crash) = (Some("exited with code 1"), "crash");
        let said = |parts: Vec<Part>| combined(parts).expect_err("a failure");
        let alone = said(vec![part(crash, one)]);
        assert_eq!(alone.error, "crash (1) exited with code 1 before it was ready");
        let first = said(vec![part("app", None), part(crash, one), part("tick", None)]);
        assert_eq!(
            first.error,
            "crash (1) exited with code 1 before it was ready; app and tick are ready"
        );
        assert_eq!(first.hint.as_deref(), Some("see its output"));
        let both = said(vec![
            part(crash, one),
            part("app", None),
            part("slow", Some("was not ready within 5 ms")),
        ]);
        assert_eq!(
            both.error,
            "2 of 3 apps failed: crash (exited with code 1), slow (was not ready within 5 ms); app is ready"
        );
        assert_eq!(
            both.hint.as_deref(),
            Some("`rpm logs crash` shows the output of the first")
        );
        let many = (0..20).map(|number| part(&format!("a{number}"), one));
        let many = said(
            many.chain((0..9).map(|number| part(&format!("b{number}"), None)))
                .collect(),
        );
        assert!(
            many.error
                .ends_with("a5 (exited with code 1) and 14 more; 9 others are ready"),
            "{}",
            many.error
        );
        assert!(combined(vec![part("app", None)]).is_ok());
    }
}
