//! Responses of the proxy itself over HTTP/1, and the orderly end of connections.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use hyper::StatusCode;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::connection::{Session, Turn};
use super::head::RequestHead;
use super::wire::{Wire, poll_scratch};
use crate::access_log::Outcome;
use crate::deadline::Deadline;
use crate::peer::Peer;
use crate::policy::rejection::{MOVED, Rejection, UNDIRECTED};
use crate::policy::request::https_location;

/// Time for a client to read a response of the proxy itself.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
/// Many clients read a response only after they have sent everything. The values are nginx's (`lingering_time`, `lingering_timeout`).
const ANSWERED: Patience = Patience {
    whole: Duration::from_secs(30),
    silent: Duration::from_secs(5),
    bytes: 1 << 30,
};
/// An idle client may have sent a request before it noticed that the connection ends. After a reset it could not tell whether the request was
/// processed. It closes its side as soon as it notices.
const IDLE: Patience = Patience {
    whole: Duration::from_secs(2),
    silent: Duration::from_secs(2),
    bytes: 1 << 20,
};

/// How long and how much a client may still send after the proxy has closed its side.
struct Patience {
    whole: Duration,
    silent: Duration,
    bytes: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Redirects the client to https.
    pub(super) async fn redirect(&mut self, port: u16, head: &RequestHead) -> Turn {
        let Some((host, path)) = target(&self.upstream_head) else {
            return self.reject(UNDIRECTED).await;
        };
        let location = https_location(host, path, port);
        let stays = self.stays_after(head);
        self.answer(MOVED, &format!("location: {location}\r\n"), stays, head.is_head)
            .await;
        if stays { Turn::Next } else { Turn::Linger }
    }

    /// Rejects a request after which the connection cannot be used.
    pub(super) async fn reject(&mut self, rejection: Rejection) -> Turn {
        self.answer(rejection, "", false, false).await;
        Turn::Linger
    }

    /// Sends a response of the proxy itself.
    pub(super) async fn answer(&mut self, rejection: Rejection, extra: &str, stays: bool, is_head: bool) {
        self.peer.front.count_answer(rejection.status);
        self.outcome = Outcome {
            status: rejection.status,
            bytes: if is_head {
                0
            } else {
                rejection.content().len() as u64
            },
            upstream: None,
        };
        let text = text(rejection, extra, stays, is_head);
        send(&mut self.client, &mut self.deadline, &text).await;
    }

    /// Closes the connection so that the client can still read the response.
    pub(super) async fn linger(&mut self) {
        linger(&mut self.client, ANSWERED).await;
    }

    /// Closes an idle connection.
    pub(super) async fn close_idle(&mut self) {
        linger(&mut self.client, IDLE).await;
    }
}

/// Closes an idle connection. The client may just have sent a request.
pub(crate) async fn close_idle<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    linger(&mut Wire::new(stream), IDLE).await;
}

/// Rejects a client whose connection cannot be used.
pub(crate) async fn reject<S: AsyncRead + AsyncWrite + Unpin>(stream: S, peer: &Peer, rejection: Rejection) {
    peer.front.count_answer(rejection.status);
    let mut client = Wire::new(stream);
    send(
        &mut client,
        &mut Deadline::new(),
        &text(rejection, "", false, false),
    )
    .await;
    linger(&mut client, ANSWERED).await;
}

/// A response as it is sent.
fn text(rejection: Rejection, extra: &str, stays: bool, is_head: bool) -> String {
    let Rejection { status, .. } = rejection;
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    let reason = reason.unwrap_or_default();
    // RFC 9110, 6.6.1.
    let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    let connection = if stays { "" } else { "connection: close\r\n" };
    let retry = rejection.retry_after();
    let retry = retry
        .map(|after| format!("retry-after: {after}\r\n"))
        .unwrap_or_default();
    let content = rejection.content();
    let body = if is_head { "" } else { &content };
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\ndate: {date}\r\n{retry}{extra}{connection}\r\n{body}",
        Rejection::CONTENT_TYPE,
        content.len(),
    )
}

/// Sends a response, and gives up if the client does not read it in time.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Wire<S>, deadline: &mut Deadline, text: &str) {
    client.output.extend_from_slice(text.as_bytes());
    deadline.set(TAKEN_WITHIN);
    poll_fn(|context| match client.poll_flush(context) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => deadline.poll(context),
    })
    .await;
}

/// Closes our side, and reads until the other side closes. With unread bytes the kernel would reset the connection, and the client could not
/// read the response.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Wire<S>, patience: Patience) {
    let until = Instant::now() + patience.whole;
    let mut deadline = Deadline::new();
    deadline.set(patience.silent);
    let mut left = patience.bytes;
    let mut shut = false;
    poll_fn(|context| {
        if !shut {
            match Pin::new(&mut client.io).poll_shutdown(context) {
                Poll::Ready(Ok(())) => shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return deadline.poll(context),
            }
        }
        loop {
            match poll_scratch(&mut client.io, context, |bytes, _| bytes.len() as u64) {
                Poll::Ready(Ok(count @ 1..)) if count <= left => left -= count,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return deadline.poll(context),
            }
            deadline.set(
                patience
                    .silent
                    .min(until.saturating_duration_since(Instant::now())),
            );
        }
    })
    .await;
}

/// The host and the path of a request, from its head for the upstream.
fn target(upstream_head: &[u8]) -> Option<(&str, &str)> {
    let mut lines = std::str::from_utf8(upstream_head).ok()?.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?;
    let host = lines
        .next()?
        .strip_prefix("host: ")
        .filter(|host| !host.is_empty())?;
    Some((host, path))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::*;

    /// How many seconds a client has that sends something at these intervals.
    async fn lingers(interval: Duration) -> u64 {
        let (ours, theirs): (DuplexStream, DuplexStream) = duplex(1 << 16);
        let sending = tokio::spawn(async move {
            let (mut reads, mut writes) = tokio::io::split(theirs);
            assert_eq!(
                reads.read(&mut [0]).await.expect("no error"),
                0,
                "the proxy has closed its side"
            );
            while writes.write_all(b"x").await.is_ok() {
                // tidy: sleep because the clock is not the real one
                sleep(interval).await;
            }
        });
        let began = Instant::now();
        let mut wire = Wire::new(ours);
        linger(&mut wire, ANSWERED).await;
        assert!(wire.input.is_empty(), "nothing is kept of it");
        drop(wire);
        sending.abort();
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_let_go_has_time_to_stop_sending() {
        assert_eq!(
            lingers(Duration::from_secs(3600)).await,
            ANSWERED.silent.as_secs()
        );
        assert_eq!(lingers(Duration::from_secs(4)).await, ANSWERED.whole.as_secs());
        let (ours, theirs) = duplex(64);
        drop(theirs);
        let began = Instant::now();
        linger(&mut Wire::new(ours), ANSWERED).await;
        assert!(
            began.elapsed().is_zero(),
            "a client that has gone is not waited for"
        );
    }
}
