//! The endpoints.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use rpm_core::protocol::Outcome;
use rpm_wire::api::{
    ActionRequest, ApiError, AppInfo, ChangeReply, Pong, Process, ReloadRequest, RollbackRequest,
    ScaleRequest, StartRequest,
};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::body::{BODY_LIMIT, Body, Refusal};
use super::follow;
use crate::commands::{Accepted, failure};
use crate::supervisor::{Event, Handle, ShuttingDown, Supervisor};

type Reply<T> = Result<axum::Json<T>, Refusal>;

/// Every route.
pub(super) fn router(handle: Handle) -> Router {
    Router::new()
        .route("/v1/ping", get(ping))
        .route("/v1/apps", post(start))
        .route("/v1/apps/{target}", get(describe))
        .route("/v1/actions", post(act))
        .route("/v1/reload", post(reload))
        .route("/v1/rollback", post(rollback))
        .route("/v1/scale", post(scale))
        .route("/v1/processes", get(processes))
        .route("/v1/logs", get(follow::logs))
        .route("/v1/kill", post(kill))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(handle)
}

async fn unknown() -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        failure("there is no such endpoint", Some("see docs/API.md")),
    )
}

async fn ping() -> axum::Json<Pong> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    axum::Json(Pong {
        msg: "pong".to_owned(),
        version,
        pid: std::process::id(),
    })
}

async fn start(State(handle): State<Handle>, Body(request): Body<StartRequest>) -> Reply<ChangeReply> {
    let wait = request.wait;
    change(&handle, wait, move |supervisor| supervisor.start(request)).await
}

async fn act(State(handle): State<Handle>, Body(request): Body<ActionRequest>) -> Reply<ChangeReply> {
    let wait = request.wait;
    let accepted = handle.ask(move |supervisor| supervisor.act(&request)).await??;
    conclude_all(&handle, wait, accepted).await
}

async fn scale(State(handle): State<Handle>, Body(request): Body<ScaleRequest>) -> Reply<ChangeReply> {
    let wait = request.wait;
    change(&handle, wait, move |supervisor| supervisor.scale(&request)).await
}

/// Reloads several apps side by side; the first failure is the answer.
async fn reload(State(handle): State<Handle>, Body(request): Body<ReloadRequest>) -> Reply<ChangeReply> {
    let wait = request.wait;
    let accepted = handle
        .ask(move |supervisor| supervisor.reload(&request))
        .await??;
    conclude_all(&handle, wait, accepted).await
}

async fn rollback(State(handle): State<Handle>, Body(request): Body<RollbackRequest>) -> Reply<ChangeReply> {
    let wait = request.wait;
    change(&handle, wait, move |supervisor| supervisor.rollback(&request)).await
}

async fn conclude_all(handle: &Handle, wait: bool, accepted: Vec<Accepted>) -> Reply<ChangeReply> {
    let mut whole = ChangeReply::default();
    for one in accepted {
        let reply = conclude(handle, wait, one).await?;
        whole.processes.extend(reply.processes);
        whole.notes.extend(reply.notes);
    }
    whole.processes.sort_by_key(|process| process.id);
    Ok(axum::Json(whole))
}

/// Carries out a request and answers when it is settled, or at once.
async fn change(
    handle: &Handle,
    wait: bool,
    request: impl FnOnce(&mut Supervisor) -> Result<Accepted, ApiError> + Send + 'static,
) -> Reply<ChangeReply> {
    let accepted = handle.ask(request).await??;
    conclude(handle, wait, accepted).await.map(axum::Json)
}

async fn conclude(handle: &Handle, wait: bool, accepted: Accepted) -> Result<ChangeReply, Refusal> {
    let Accepted {
        outcome,
        instances,
        notes,
    } = accepted;
    if !wait {
        return Ok(handle
            .ask(move |supervisor| supervisor.change(&instances, notes))
            .await?);
    }
    let outcome = settled(outcome).await?;
    if matches!(outcome, Outcome::Failed { .. }) {
        // Its last words may still be in the pipe.
        handle.logs.sync().await;
    }
    Ok(handle
        .ask(move |supervisor| supervisor.reply(&instances, notes, &outcome))
        .await??)
}

async fn settled(outcome: oneshot::Receiver<Outcome>) -> Result<Outcome, ShuttingDown> {
    outcome.await.map_err(|_| ShuttingDown)
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    spec: bool,
}

async fn processes(State(handle): State<Handle>, Query(listing): Query<Listing>) -> Reply<Vec<Process>> {
    Ok(axum::Json(
        handle
            .ask(move |supervisor| supervisor.processes(listing.spec))
            .await?,
    ))
}

async fn describe(State(handle): State<Handle>, Path(target): Path<String>) -> Reply<AppInfo> {
    Ok(axum::Json(
        handle
            .ask(move |supervisor| supervisor.describe(&target))
            .await??,
    ))
}

async fn metrics(State(handle): State<Handle>) -> Result<impl IntoResponse, Refusal> {
    let text = handle.ask(Supervisor::metrics).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

/// Stops everything, answers, and only then does the daemon exit.
async fn kill(State(handle): State<Handle>) -> Reply<ChangeReply> {
    let everything = rpm_core::protocol::Command::Shutdown;
    let outcome = handle
        .ask(move |supervisor| supervisor.command(everything))
        .await?;
    settled(outcome).await?;
    tokio::spawn(async move { handle.events.send(Event::Terminate).await });
    Ok(axum::Json(ChangeReply::default()))
}
