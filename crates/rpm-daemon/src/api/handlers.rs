//! The endpoints.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use rpm_wire::api::{
    ActionRequest, AppFigures, AppInfo, ApplyRequest, ChangeReply, Finding, Follow, Known, ObserveInfo,
    ObserveRequest, Plan, PlanRequest, Pong, Process, ReloadRequest, RollbackRequest, Saved, ScaleRequest,
    SendRequest, SignalRequest, StartRequest, TargetsRequest, TriggerReply, TriggerRequest, UpdateRequest,
};
use serde::Deserialize;

use super::body::{BODY_LIMIT, Body, Refusal};
use super::change::{Answer, answer};
use super::doctor::findings;
use super::update::{leave, update};
use super::{events, follow, messages, scrape, spans};
use crate::apps::plan;
use crate::failure::failure;
use crate::inbox::{Event, Fresh, Handle, Request, ShuttingDown};
use crate::orders::Change;
use crate::os::clock::now_ms;
use crate::view::View;

type Reply<T> = Result<axum::Json<T>, Refusal>;

/// Every route.
pub(super) fn router(handle: Handle) -> Router {
    STARTED.get_or_init(now_ms);
    Router::new()
        .route("/v1/ping", get(ping))
        .route("/v1/apps", post(start))
        .route("/v1/apps/{target}", get(describe))
        .route("/v1/plan", post(planned))
        .route("/v1/dump", get(dump))
        .route("/v1/observe", get(observed).post(observe))
        .route("/v1/apply", post(apply))
        .route("/v1/reset", post(reset))
        .route("/v1/signal", post(signal))
        .route("/v1/flush", post(flush))
        .route("/v1/send", post(send))
        .route("/v1/trigger", post(trigger))
        .route("/v1/message", post(messages::send))
        .route("/v1/messages", get(messages::follow))
        .route("/v1/reopen-logs", post(reopen_logs))
        .route("/v1/actions", post(act))
        .route("/v1/reload", post(reload))
        .route("/v1/rollback", post(rollback))
        .route("/v1/scale", post(scale))
        .route("/v1/processes", get(processes))
        .route("/v1/figures", get(figures))
        .route("/v1/known", get(known))
        .route("/v1/resolve", post(resolve))
        .route("/v1/doctor", get(doctor))
        .route("/v1/logs", get(follow::logs))
        .route("/v1/events", get(events::events))
        .route("/v1/update", post(update_to))
        .route("/v1/leave", post(leave_apps))
        .route("/v1/kill", post(kill))
        .route("/v1/scrape", get(scrape::scrape))
        .route("/v1/spans", get(spans::spans))
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
        started_at_ms: *STARTED.get_or_init(now_ms),
    })
}

/// For programs to answer an action.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// When the daemon began to serve.
static STARTED: OnceLock<u64> = OnceLock::new();

async fn update_to(State(handle): State<Handle>, Body(request): Body<UpdateRequest>) -> Reply<ChangeReply> {
    // It ends as it began, also without the client: nobody is left half parted from.
    let refused = tokio::spawn(async move { update(&handle, request.binary.into()).await });
    let gone = || failure("the daemon is shutting down", None);
    Err(refused.await.unwrap_or_else(|_| gone()).into())
}

/// As [`update_to`], without a binary.
async fn leave_apps(State(handle): State<Handle>) -> Reply<ChangeReply> {
    let refused = tokio::spawn(async move { leave(&handle).await });
    let gone = || failure("the daemon is shutting down", None);
    Err(refused.await.unwrap_or_else(|_| gone()).into())
}

async fn start(State(handle): State<Handle>, Body(request): Body<StartRequest>) -> Answer {
    let wait = request.wait;
    answer(handle, wait, Follow::default(), Change::Start(Box::new(request))).await
}

async fn act(State(handle): State<Handle>, Body(request): Body<ActionRequest>) -> Answer {
    let (wait, follow) = (request.wait, request.follow);
    answer(handle, wait, follow, Change::Act(request)).await
}

async fn known(State(handle): State<Handle>) -> Reply<Vec<Known>> {
    Ok(axum::Json(handle.look(Fresh::Stored, |view| view.known()).await?))
}

async fn resolve(State(handle): State<Handle>, Body(request): Body<TargetsRequest>) -> Reply<Vec<Known>> {
    let meant = move |view: View<'_>| view.meant_by(&request.targets);
    Ok(axum::Json(handle.look(Fresh::Stored, meant).await??))
}

async fn dump(State(handle): State<Handle>) -> Reply<Vec<Saved>> {
    let saved = |view: View<'_>| plan::dump(view.catalog());
    Ok(axum::Json(handle.look(Fresh::Stored, saved).await?))
}

async fn observed(State(handle): State<Handle>) -> Reply<ObserveInfo> {
    Ok(axum::Json(
        handle.look(Fresh::Usage, |view| view.observed()).await?,
    ))
}

async fn observe(State(handle): State<Handle>, Body(request): Body<ObserveRequest>) -> Answer {
    let wait = request.wait;
    answer(handle, wait, Follow::default(), Change::Observe(request)).await
}

async fn planned(State(handle): State<Handle>, Body(request): Body<PlanRequest>) -> Reply<Vec<Plan>> {
    let changes = move |view: View<'_>| plan::plan(view.catalog(), &request.apps);
    Ok(axum::Json(handle.look(Fresh::Stored, changes).await?))
}

async fn apply(State(handle): State<Handle>, Body(request): Body<ApplyRequest>) -> Answer {
    let (wait, follow) = (request.wait, request.follow);
    answer(handle, wait, follow, Change::Apply(request)).await
}

async fn reset(State(handle): State<Handle>, Body(request): Body<TargetsRequest>) -> Reply<ChangeReply> {
    let reset = |reply| Request::Reset(request, reply);
    Ok(axum::Json(handle.ask(reset).await??))
}

async fn signal(State(handle): State<Handle>, Body(request): Body<SignalRequest>) -> Reply<ChangeReply> {
    let send = |reply| Request::Signal(request, reply);
    Ok(axum::Json(handle.ask(send).await??))
}

async fn flush(State(handle): State<Handle>, Body(request): Body<TargetsRequest>) -> Reply<Vec<String>> {
    let files = handle
        .look(Fresh::Stored, move |view| view.log_files(&request.targets))
        .await??;
    let names = files.iter().map(|(path, _)| path.display().to_string()).collect();
    if let Err(stalled) = handle.logs.flush(files).await {
        let why = format!("logs are not emptied yet: {stalled}");
        return Err(failure(why, Some("they will be when it responds; all others are empty")).into());
    }
    Ok(axum::Json(names))
}

async fn send(State(handle): State<Handle>, Body(request): Body<SendRequest>) -> Reply<ChangeReply> {
    handle.ask(|reply| Request::SendLine(request, reply)).await??;
    Ok(axum::Json(ChangeReply::default()))
}

async fn trigger(
    State(handle): State<Handle>,
    Body(request): Body<TriggerRequest>,
) -> Reply<Vec<TriggerReply>> {
    let mut answers = handle.ask(|reply| Request::Trigger(request, reply)).await??;
    let mut replies = Vec::new();
    let deadline = tokio::time::Instant::now() + ANSWERED_WITHIN;
    // It ends when all have answered.
    while let Ok(Some(reply)) = tokio::time::timeout_at(deadline, answers.recv()).await {
        replies.push(reply);
    }
    Ok(axum::Json(replies))
}

async fn reopen_logs(State(handle): State<Handle>) -> Reply<ChangeReply> {
    handle.logs.reopen();
    Ok(axum::Json(ChangeReply::default()))
}

async fn scale(State(handle): State<Handle>, Body(request): Body<ScaleRequest>) -> Answer {
    let wait = request.wait;
    answer(handle, wait, Follow::default(), Change::Scale(request)).await
}

async fn reload(State(handle): State<Handle>, Body(request): Body<ReloadRequest>) -> Answer {
    let (wait, follow) = (request.wait, request.follow);
    answer(handle, wait, follow, Change::Reload(request)).await
}

async fn rollback(State(handle): State<Handle>, Body(request): Body<RollbackRequest>) -> Answer {
    let (wait, follow) = (request.wait, request.follow);
    answer(handle, wait, follow, Change::Rollback(request)).await
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    spec: bool,
    #[serde(default)]
    hidden: bool,
    #[serde(default)]
    measure: bool,
}

async fn processes(State(handle): State<Handle>, Query(listing): Query<Listing>) -> Reply<Vec<Process>> {
    let all = move |view: View<'_>| {
        if listing.measure {
            view.measure();
        }
        view.processes(listing.spec, listing.hidden)
    };
    Ok(axum::Json(handle.look(Fresh::All, all).await?))
}

#[derive(Deserialize)]
struct Sampled {
    #[serde(default)]
    fresh: bool,
}

async fn figures(State(handle): State<Handle>, Query(sampled): Query<Sampled>) -> Reply<Vec<AppFigures>> {
    let fresh = match sampled.fresh {
        true => Fresh::All,
        false => Fresh::Stored,
    };
    Ok(axum::Json(handle.look(fresh, |view| view.figures()).await?))
}

async fn doctor(State(handle): State<Handle>) -> Reply<Vec<Finding>> {
    let denied = handle.ask(Request::ProbeInterception).await?;
    Ok(axum::Json(findings(denied.as_deref())))
}

async fn describe(State(handle): State<Handle>, Path(target): Path<String>) -> Reply<AppInfo> {
    let app = move |view: View<'_>| view.describe(&target);
    Ok(axum::Json(handle.look(Fresh::All, app).await??))
}

async fn metrics(State(handle): State<Handle>) -> Result<impl IntoResponse, Refusal> {
    let text = handle.look(Fresh::All, |view| view.metrics()).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

/// Stops everything, answers, and only then does the daemon exit.
async fn kill(State(handle): State<Handle>) -> Reply<ChangeReply> {
    let outcome = handle.ask(Request::Shutdown).await?;
    outcome.await.map_err(|_| ShuttingDown)?;
    tokio::spawn(async move { handle.events.send(Event::Terminate).await });
    Ok(axum::Json(ChangeReply::default()))
}
