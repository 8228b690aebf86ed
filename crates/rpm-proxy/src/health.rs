//! Upstreams that are asked, again and again, whether they are well.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::front::Front;
use crate::policy::fields::MAX_FIELDS;
use crate::settings::Check;
use crate::upstream::{Upstream, UpstreamId};

/// While there is nothing to be asked.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks all, until it is dropped.
pub(crate) async fn check(front: Arc<Front>) {
    // Answers in a row: good ones, or bad ones below 0.
    let mut rows: HashMap<UpstreamId, i64> = HashMap::new();
    let mut changes = front.changes();
    loop {
        let settings = front.settings();
        let Some(check) = &settings.check else {
            for upstream in &front.upstreams.load().list {
                upstream.set_ill(false);
            }
            if changes.changed().await.is_err() {
                return;
            }
            sleep(PAUSE).await;
            continue;
        };
        let set = front.upstreams.load_full();
        rows.retain(|id, _| set.has(*id));
        for upstream in &set.list {
            let well = matches!(timeout(check.timeout, ask(upstream, check)).await, Ok(Some(status)) if status == check.status);
            let row = rows.entry(upstream.id()).or_insert(0);
            *row = if well {
                (*row).max(0) + 1
            } else {
                (*row).min(0) - 1
            };
            let worker = upstream.key();
            if *row >= i64::from(check.good) && upstream.set_ill(false) {
                info!(worker, "a worker passes its health check again");
            } else if *row <= -i64::from(check.bad) && !upstream.set_ill(true) {
                warn!(
                    worker,
                    path = check.path,
                    "a worker fails its health check: it gets no requests as long as others are well"
                );
            }
        }
        sleep(check.interval).await;
    }
}

/// The status of its answer.
async fn ask(upstream: &Upstream, check: &Check) -> Option<u16> {
    let stream = upstream.addr().connect().await.ok()?;
    probe(stream, &check.path).await.ok()
}

/// A probe without a response.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Not HTTP, or the connection ended.
    #[error("no answer of HTTP ({0})")]
    Http(#[from] hyper::Error),
    /// The path cannot be requested.
    #[error("a request cannot be made of its path ({0})")]
    Request(#[from] hyper::http::Error),
}

/// Sends one `GET` over a new connection, and returns the status of the response. It has no time-out of its own.
///
/// # Errors
/// There is no response.
pub async fn probe(stream: TcpStream, path: &str) -> Result<u16, ProbeError> {
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_FIELDS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(HOST, "localhost")
        .header(USER_AGENT, "rpm-health-check")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = response.as_mut() => response,
        // How the connection has ended is seen by the request.
        _ = connection => response.await,
    };
    Ok(response?.status().as_u16())
}
