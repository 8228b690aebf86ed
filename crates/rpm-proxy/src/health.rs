//! Active health checks of upstreams.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, http::request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::front::Front;
use crate::policy::fields::MAX_FIELDS;
use crate::policy::retry::is_local;
use crate::settings::Check;
use crate::target::UpstreamId;
use crate::upstream::{Upstream, Upstreams};

/// Pause while no checks are configured.
const PAUSE: Duration = Duration::from_secs(1);
/// Most checks at once.
const AT_ONCE: usize = 16;

/// Who hears that an upstream fails its checks, with the reason, or passes them again.
#[derive(Clone)]
pub struct HealthReports(Arc<Hear>);

type Hear = dyn Fn(UpstreamId, Option<String>) + Send + Sync;

impl HealthReports {
    /// `hear` is called on a thread of the proxy, so it must not wait; without a reason, the upstream passes again.
    pub fn new(hear: impl Fn(UpstreamId, Option<String>) + Send + Sync + 'static) -> HealthReports {
        HealthReports(Arc::new(hear))
    }
}

impl fmt::Debug for HealthReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HealthReports")
    }
}

/// A front does the same, whoever hears of it.
impl PartialEq for HealthReports {
    fn eq(&self, _: &HealthReports) -> bool {
        true
    }
}

impl Eq for HealthReports {}

/// Checks all upstreams, until it is dropped.
pub(crate) async fn check(front: Arc<Front>) {
    // Consecutive results: successful checks above 0, failed ones below.
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
        let mut round = Round::new(&set, check);
        while let Some((upstream, result)) = round.next().await {
            // One that has left the front meanwhile may be ending.
            if front.upstreams.load().has(upstream.id()) {
                let row = rows.entry(upstream.id()).or_insert(0);
                record(&front, &upstream, row, (check, result));
            }
        }
        sleep(check.interval).await;
    }
}

/// The checks of all upstreams, several at once: those that do not respond must not delay the checks of others.
struct Round {
    left: std::vec::IntoIter<Arc<Upstream>>,
    check: Check,
    running: JoinSet<(Arc<Upstream>, CheckResult)>,
}

impl Round {
    fn new(set: &Upstreams, check: &Check) -> Round {
        Round {
            left: set.list.clone().into_iter(),
            check: check.clone(),
            running: JoinSet::new(),
        }
    }

    /// The next result. `None`: all have been checked.
    async fn next(&mut self) -> Option<(Arc<Upstream>, CheckResult)> {
        loop {
            while self.running.len() < AT_ONCE
                && let Some(upstream) = self.left.next()
            {
                let check = self.check.clone();
                self.running.spawn_local(async move {
                    let result = check_one(&upstream, &check).await;
                    (upstream, result)
                });
            }
            if let Ok(checked) = self.running.join_next().await? {
                return Some(checked);
            }
        }
    }
}

/// Counts a result, and sets whether the upstream is ill. `row`: consecutive results, successful checks above 0, failed ones below.
fn record(front: &Front, upstream: &Upstream, row: &mut i64, (check, result): (&Check, CheckResult)) {
    let worker = upstream.key();
    match result {
        CheckResult::Passed => {
            *row = (*row).max(0) + 1;
            if *row >= i64::from(check.good) && upstream.set_ill(false) {
                info!(worker, "worker passes its health check again");
                check.reports.0(upstream.id(), None);
            }
        }
        CheckResult::Failed(why) => {
            *row = (*row).min(0) - 1;
            if *row <= -i64::from(check.bad) && !upstream.set_ill(true) {
                warn!(
                    worker,
                    path = check.path,
                    "worker fails its health check: it gets no requests while others are healthy"
                );
                check.reports.0(upstream.id(), Some(why));
            }
        }
        CheckResult::NotMade(error) => front.log_shortage(&error),
    }
}

/// The result of a check.
enum CheckResult {
    Passed,
    /// It failed, for this reason.
    Failed(String),
    /// The proxy cannot open a connection, which says nothing about the upstream.
    NotMade(io::Error),
}

async fn check_one(upstream: &Upstream, check: &Check) -> CheckResult {
    let path = &check.path;
    let asked = async {
        let stream = upstream.addr().connect().await?;
        probe(stream, path).await.map_err(io::Error::other)
    };
    match timeout(check.timeout, asked).await {
        Ok(Ok(status)) if status == check.status => CheckResult::Passed,
        Ok(Ok(status)) => CheckResult::Failed(format!("{path} is answered with status {status}")),
        Ok(Err(error)) if is_local(&error) => CheckResult::NotMade(error),
        Ok(Err(_)) => CheckResult::Failed(format!("{path} is not answered")),
        Err(_) => CheckResult::Failed(format!(
            "{path} is not answered within {} ms",
            check.timeout.as_millis()
        )),
    }
}

/// Why a probe got no response.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The response is not HTTP, or the connection ended.
    #[error("no HTTP response ({0})")]
    Http(#[from] hyper::Error),
    /// The path is malformed.
    #[error("malformed path ({0})")]
    Request(#[from] hyper::http::Error),
}

/// Sends one `GET` over a new connection, and returns the status of the response. It has no time-out of its own.
///
/// # Errors
/// There is no response.
pub async fn probe(stream: TcpStream, path: &str) -> Result<u16, ProbeError> {
    let request = Request::get(path).header(USER_AGENT, "rpm-health-check");
    let response = ask(stream, request, async |response| response.status());
    Ok(response.await?.as_u16())
}

/// Maximum length of a page in bytes.
const PAGE_LIMIT: usize = 1 << 20;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// There is no response.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The response says so.
    #[error("status {0}")]
    Status(u16),
    /// The body is too long, or ends early.
    #[error("the page is cut short, or has more than {PAGE_LIMIT} bytes")]
    Cut,
    /// The body is no text.
    #[error("the page is not UTF-8")]
    NotText,
}

/// Requests a page of metrics over a new connection, as Prometheus does. It has no time-out of its own.
///
/// # Errors
/// There is no response with status 200 and a text of at most 1 MiB.
pub async fn page(stream: TcpStream, path: &str) -> Result<String, PageError> {
    let request = Request::get(path)
        .header(USER_AGENT, "rpm-observe")
        .header(ACCEPT, "text/plain;version=0.0.4");
    let read = async |response: Response<Incoming>| match response.status().as_u16() {
        200 => match Limited::new(response.into_body(), PAGE_LIMIT).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(_) => Err(PageError::Cut),
        },
        status => Err(PageError::Status(status)),
    };
    let body = ask(stream, request, read).await??;
    String::from_utf8(body.into()).map_err(|_| PageError::NotText)
}

/// Sends a request and reads the response, while the connection is driven.
async fn ask<T>(
    stream: TcpStream,
    request: request::Builder,
    read: impl AsyncFnOnce(Response<Incoming>) -> T,
) -> Result<T, ProbeError> {
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_FIELDS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let request = request
        .header(HOST, "localhost")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let mut answer =
        pin!(async move { Ok::<T, ProbeError>(read(sender.send_request(request).await?).await) });
    tokio::select! {
        answer = answer.as_mut() => answer,
        // The request gets the error of the connection.
        _ = connection => answer.await,
    }
}
