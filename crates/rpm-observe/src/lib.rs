//! `rpm observe`: what runs, for those who watch it. It is a client of the control API with an HTTP port of its own, so the daemon opens no
//! port for it and does nothing while nobody asks.
//!
//! `GET /metrics` is for Prometheus: the daemon's figures, and some of them again under the names that exporters for PM2 use.

mod access;
mod alerts;
mod daemon;
mod own;
mod page;
mod pm2;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use rpm_wire::api::AppSpec;
use rpm_wire::pm2::Versions;

pub use access::{Access, AccessError, Token};
pub use alerts::{Alerts, BookError, Counts, now_ms, table};
use daemon::Daemon;
use page::Page;

/// What the format is called (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is observed, and how.
#[derive(Debug)]
pub struct Observed {
    /// The socket of the daemon, which need not run.
    pub socket: PathBuf,
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

#[cfg(test)]
mod tests;
