//! `rpm observe`: what runs, for those who watch it. It is a client of the control API with an HTTP port of its own, so the daemon opens no
//! port for it; each second it is asked for the figures of the history.
//!
//! `GET /metrics` is for Prometheus: the daemon's figures, and some of them again under the names that exporters for PM2 use.
//! `GET /api/v1/history` has what was recorded of each app, `GET /api/v1/live` what they do now, and `GET /api/v1/receivers` who gets
//! logs, alerts, metrics and spans.

mod access;
mod alerts;
mod daemon;
mod dashboard;
mod files;
mod forward;
mod history;
mod mcp;
mod otlp;
mod own;
mod page;
mod pm2;
mod post;
mod standing;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use rpm_wire::receivers::{RECEIVERS_PATH, Receiving};
use tokio::sync::watch;

pub use access::{Access, AccessError, Channel, Token};
pub use alerts::{Alerts, BookError, Counts, Seconds, now_ms, table};
use daemon::Daemon;
use dashboard::Dashboard;
pub use dashboard::{Host, Hosts, HostsError, Keys, LINK_MS, Role, Users, UsersError};
pub use forward::{Forward, Forwarded};
pub use history::{FIGURES, FILE as HISTORY_FILE, Figure, HistoryError, Past, Series, past};
pub use mcp::{Mcp, McpError};
pub use otlp::{Export, Exported};
pub use page::Metrics;

/// What the format is called (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is observed, and how.
#[derive(Debug)]
pub struct Observed {
    /// The socket of the daemon, which need not run.
    pub socket: PathBuf,
    /// `RPM_HOME`, with the file of the history and the sessions of the dashboard, neither of which need exist.
    pub home: PathBuf,
    /// How requests come.
    pub channel: Channel,
    /// Becomes true when the process is to end.
    pub ending: watch::Receiver<bool>,
    /// Who may ask.
    pub access: Access,
    /// The page of metrics.
    pub metrics: Metrics,
}

/// Answers requests about the daemon.
pub fn router(observed: Observed) -> Router {
    let history = observed.home.join(HISTORY_FILE);
    let daemon = Arc::new(Daemon::new(observed.socket));
    let board = Dashboard::new(daemon, &observed.home, observed.channel, observed.ending);
    Router::new()
        .route("/metrics", get(metrics))
        .route(RECEIVERS_PATH, get(receivers))
        .with_state(observed.metrics)
        .merge(
            Router::new()
                .route("/api/v1/history", get(recorded))
                .with_state(history),
        )
        .merge(
            Router::new()
                .route("/api/v1/live", get(dashboard::read))
                .with_state(board.clone()),
        )
        .layer(from_fn_with_state(Arc::new(observed.access), access::guard))
        // Whoever asks for this learns nothing.
        .route("/-/healthy", get(|| async { "ok\n" }))
        .merge(dashboard::router(board))
}

async fn metrics(State(page): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT)], page.current().await)
}

async fn receivers(State(page): State<Metrics>) -> Json<Vec<Receiving>> {
    Json(page.receivers())
}

async fn recorded(State(file): State<PathBuf>, Query(asked): Query<HashMap<String, String>>) -> Response {
    match history::answer(file, asked).await {
        Ok(series) => Json(series).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// Records the history of the apps of the daemon behind `socket` into `file`, for as long as it is polled, and shows each second of it.
pub async fn record(socket: PathBuf, file: PathBuf, seconds: Seconds) {
    history::record(socket, file, seconds.0).await;
}

/// The name of this machine.
#[must_use]
pub fn host_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    host.map_or_else(|_| "this machine".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests;
