//! `rpm observe`: what runs, for those who watch it. It is a client of the control API with an HTTP port of its own, so the daemon opens no
//! port for it; each second it is asked for the figures of the history.
//!
//! `GET /metrics` is for Prometheus: the daemon's figures, and some of them again under the names that exporters for PM2 use.
//! `GET /api/v1/history` has what was recorded of each app.

mod access;
mod alerts;
mod daemon;
mod history;
mod own;
mod page;
mod pm2;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use rpm_wire::api::AppSpec;
use rpm_wire::pm2::Versions;

pub use access::{Access, AccessError, Token};
pub use alerts::{Alerts, BookError, Counts, now_ms, table};
use daemon::Daemon;
pub use history::FILE as HISTORY_FILE;
use page::Page;

/// What the format is called (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is observed, and how.
#[derive(Debug)]
pub struct Observed {
    /// The socket of the daemon, which need not run.
    pub socket: PathBuf,
    /// The file of the history, which need not exist.
    pub history: PathBuf,
    /// Who may ask.
    pub access: Access,
    /// The versions of an app's package and of its Node.
    pub versions: fn(&AppSpec) -> Versions,
    /// What became of alerts.
    pub counts: Arc<Counts>,
}

/// Answers requests about the daemon.
pub fn router(observed: Observed) -> Router {
    let page = Page::new(Daemon::new(observed.socket), observed.versions, observed.counts);
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(Arc::new(page))
        .merge(
            Router::new()
                .route("/api/v1/history", get(past))
                .with_state(Arc::new(observed.history)),
        )
        .layer(from_fn_with_state(Arc::new(observed.access), access::guard))
        // Whoever asks for these learns nothing.
        .route("/", get(|| async { Html(WELCOME) }))
        .route("/-/healthy", get(|| async { "ok\n" }))
}

const WELCOME: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>rpm</title>\
                       <p>rpm observe: <a href=metrics>metrics</a> for Prometheus</p></html>\n";

async fn metrics(State(page): State<Arc<Page>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT)], page.current().await)
}

async fn past(State(file): State<Arc<PathBuf>>, Query(asked): Query<HashMap<String, String>>) -> Response {
    match history::answer(&file, &asked) {
        Ok(series) => Json(series).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// Records the history of the apps of the daemon behind `socket` into `file`, for as long as it is polled.
pub async fn record(socket: PathBuf, file: PathBuf) {
    history::record(socket, file).await;
}

#[cfg(test)]
mod tests;
