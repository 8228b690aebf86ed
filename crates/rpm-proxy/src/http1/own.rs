//! What a client is told by the proxy itself.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{HEAD_READ, Session, Turn};
use super::framing::Framing;
use super::head::{Refusal, RequestHead};
use crate::access_log::Outcome;

/// For a client to take the last answer, and how much it may still send meanwhile.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// The client is to come by TLS.
    pub(super) async fn redirect(&mut self, port: u16, head: &RequestHead) -> Turn {
        let location = location(&self.upward, port);
        let Some(location) = location else {
            let why = "no Host to be redirected to";
            return self.refuse(Refusal { status: 400, why }).await;
        };
        let stays = head.keep_alive && head.is_11 && head.framing == Framing::Nothing;
        let moved = Refusal {
            status: 308,
            why: "it is served by https",
        };
        self.answer(moved, &format!("location: {location}\r\n"), stays, head.is_head)
            .await;
        if stays { Turn::Next } else { Turn::Linger }
    }

    /// The client's connection is not understood any more.
    pub(super) async fn refuse(&mut self, refusal: Refusal) -> Turn {
        self.answer(refusal, "", false, false).await;
        Turn::Linger
    }

    /// An answer of the proxy's own.
    pub(super) async fn answer(&mut self, refusal: Refusal, extra: &str, stays: bool, is_head: bool) {
        let Refusal { status, why } = refusal;
        self.peer.front.count_answer(status);
        self.outcome = Outcome {
            status,
            bytes: why.len() as u64 + 1,
            upstream: None,
        };
        let reason = StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason());
        let reason = reason.unwrap_or_default();
        let connection = if stays { "" } else { "connection: close\r\n" };
        let body = if is_head {
            String::new()
        } else {
            format!("{why}\n")
        };
        let text = format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n{extra}{connection}\r\n{body}",
            why.len() + 1,
        );
        self.client.going.extend_from_slice(text.as_bytes());
        self.deadline.set(LINGER);
        let Session { client, deadline, .. } = self;
        // Whoever does not take it in time does not get it.
        poll_fn(|context| match client.poll_flush(context) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => deadline.poll(context),
        })
        .await;
    }

    /// Ends the connection so that the client can read what it was sent: with something unread on our side the system would reset it.
    pub(super) async fn linger(&mut self) {
        self.deadline.set(LINGER);
        let Session { client, deadline, .. } = self;
        let mut left = LINGER_BYTES;
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
                client.come.clear();
                match client.poll_fill(HEAD_READ, context) {
                    Poll::Ready(Ok(count @ 1..)) if count <= left => left -= count,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return deadline.poll(context),
                }
            }
        })
        .await;
    }
}

/// Where a request would have gone by TLS: from the head that an upstream would be sent.
fn location(upward: &[u8], port: u16) -> Option<String> {
    let mut lines = std::str::from_utf8(upward).ok()?.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?;
    let host = lines
        .next()?
        .strip_prefix("host: ")
        .filter(|host| !host.is_empty())?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let path = if path == "*" { "/" } else { path };
    Some(match port {
        443 => format!("https://{name}{path}"),
        port => format!("https://{name}:{port}{path}"),
    })
}
