//! Upstreams that are asked, again and again, whether they are well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::front::Front;
use crate::upstream::{Upstream, UpstreamId};

/// How they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Path and query.
    pub path: String,
    /// The status of a good answer.
    pub status: u16,
    /// Between two requests to the same one.
    pub interval: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Good answers in a row after which it is well again.
    pub good: u32,
    /// Bad ones after which it is not.
    pub bad: u32,
}

/// While there is nothing to be asked.
const PAUSE: Duration = Duration::from_secs(1);
/// As much of an answer as its status needs.
const ANSWER: usize = 64;

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
    let mut stream = upstream.addr().connect().await.ok()?;
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: localhost\r\nuser-agent: rpm-health-check\r\nconnection: close\r\n\r\n",
        check.path
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = [0; ANSWER];
    let mut length = 0;
    while length < "HTTP/1.1 200".len() {
        match stream.read(&mut answer[length..]).await.ok()? {
            0 => return None,
            count => length += count,
        }
    }
    let text = std::str::from_utf8(answer.get(..12)?).ok()?;
    let status = text
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| text.strip_prefix("HTTP/1.0 "))?;
    status.parse().ok()
}
