//! The dashboard: a page for a browser, on this machine or by TLS, and what it asks for.
//!
//! The page is static and says nothing; everything it shows needs a session (`door.rs`). It is written without a framework, and the policy of
//! its answers forbids the browser whatever is not of this server.

mod act;
mod attempts;
mod door;
mod hosts;
mod keys;
mod live;
mod streams;
mod users;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use crate::access::Channel;
use crate::daemon::Daemon;
use crate::history;
use crate::host_name;
use attempts::Attempts;
use door::{Refused, Tries, Visitor};
pub use hosts::{Host, Hosts, HostsError};
pub use keys::{Keys, LINK_MS, Role};
use live::Live;
pub(crate) use streams::read;
pub use users::{Users, UsersError};

/// Maximum length of a request's body.
const BODY: usize = 64 << 10;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Dashboard {
    daemon: Arc<Daemon>,
    keys: Keys,
    live: Arc<Live>,
    tries: Mutex<Tries>,
    attempts: Mutex<Attempts>,
    /// The turn of whoever has a password checked.
    verifying: Arc<Semaphore>,
    home: PathBuf,
    /// True when the process is to end: answers without an end would keep it.
    ending: watch::Receiver<bool>,
    channel: Channel,
}

impl Dashboard {
    fn tries(&self) -> MutexGuard<'_, Tries> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($path:literal is $kind:literal from $file:literal,)*) => {
        [$(Asset { path: $path, kind: $kind, text: include_str!(concat!("../../assets/", $file)) },)*]
    };
}

/// All files of the page.
const ASSETS: &[Asset] = &assets! {
    "/" is "text/html; charset=utf-8" from "index.html",
    "/dashboard/style.css" is "text/css; charset=utf-8" from "style.css",
    "/dashboard/icon.svg" is "image/svg+xml" from "icon.svg",
    "/dashboard/main.js" is "text/javascript; charset=utf-8" from "main.js",
    "/dashboard/welcome.js" is "text/javascript; charset=utf-8" from "welcome.js",
    "/dashboard/server.js" is "text/javascript; charset=utf-8" from "server.js",
    "/dashboard/dom.js" is "text/javascript; charset=utf-8" from "dom.js",
    "/dashboard/chart.js" is "text/javascript; charset=utf-8" from "chart.js",
    "/dashboard/overview.js" is "text/javascript; charset=utf-8" from "overview.js",
    "/dashboard/app.js" is "text/javascript; charset=utf-8" from "app.js",
    "/dashboard/hosts.js" is "text/javascript; charset=utf-8" from "hosts.js",
    "/dashboard/logs.js" is "text/javascript; charset=utf-8" from "logs.js",
    "/dashboard/actions.js" is "text/javascript; charset=utf-8" from "actions.js",
};

/// What a browser may do with answers of ours: nothing that is not of this server, no frame, no guess at types, no address told to others.
const POLICY: [(header::HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Another version may be served the next time.
    (header::CACHE_CONTROL, "no-store"),
];

impl Dashboard {
    /// The dashboard of a daemon, whose `RPM_HOME` this is.
    pub(crate) fn new(
        daemon: Arc<Daemon>,
        home: &Path,
        channel: Channel,
        ending: watch::Receiver<bool>,
    ) -> Arc<Dashboard> {
        Arc::new(Dashboard {
            live: Live::new(daemon.clone()),
            daemon,
            keys: Keys::new(home),
            tries: Mutex::default(),
            attempts: Mutex::default(),
            verifying: Arc::new(Semaphore::new(1)),
            home: home.to_owned(),
            ending,
            channel,
        })
    }
}

/// Answers what the page asks for.
pub(crate) fn router(board: Arc<Dashboard>) -> Router {
    let mut router = Router::new()
        .route("/dashboard/login", post(door::login).get(door::ways))
        .route("/dashboard/password", post(door::enter))
        .route("/dashboard/logout", post(door::logout))
        .route("/dashboard/session", get(session))
        .route("/dashboard/live", get(streams::live))
        .route("/dashboard/history", get(recorded))
        .route("/dashboard/actions", post(act::act))
        .layer(DefaultBodyLimit::max(BODY));
    for asset in ASSETS {
        router = router.route(asset.path, get(async || served(asset)));
    }
    router
        .layer(from_fn_with_state(board.clone(), door::guard))
        .layer(map_response(with_policy))
        .with_state(board)
}

fn served(asset: &Asset) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, asset.kind)], asset.text).into_response()
}

async fn with_policy(mut response: Response) -> Response {
    for (name, value) in POLICY {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `GET /dashboard/history`: as `GET /api/v1/history`, and `null` where nothing is recorded of the app.
async fn recorded(
    State(board): State<Arc<Dashboard>>,
    _: Visitor,
    Query(asked): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refused> {
    match history::answer(board.home.join(history::FILE), asked).await {
        Ok(series) => Ok(Json(series)),
        Err((StatusCode::NOT_FOUND, _)) => Ok(Json(Value::Null)),
        Err((status, why)) => Err(Refused::new(status, why)),
    }
}

/// `GET /dashboard/session`: who is asking.
async fn session(visitor: Visitor) -> Json<Value> {
    let host = host_name();
    Json(json!({ "role": visitor.role, "host": host, "version": env!("CARGO_PKG_VERSION") }))
}

#[cfg(test)]
mod tests;
