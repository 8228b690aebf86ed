//! `GET /v1/spans`: the sampled requests of the proxy, as NDJSON. Each span is given once: there is one reader.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use rpm_proxy::Spans;
use rpm_proxy::trace::context::hex_text;
use rpm_wire::events::Lost;
use rpm_wire::spans::{self, SpanLine};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;

use super::body::Refusal;
use super::lines::{CHUNKS, line, lines_of};
use crate::failure::failure;
use crate::inbox::{Fresh, Handle};

/// Who reads.
static READER: Semaphore = Semaphore::const_new(1);
/// What comes within this time after the first is sent together: one wake-up for each span would be many.
const TOGETHER: Duration = Duration::from_millis(250);
/// Spans in one chunk.
const CHUNK: usize = 256;

pub(super) async fn spans(State(handle): State<Handle>) -> Result<Response, Refusal> {
    let Ok(permit) = READER.try_acquire() else {
        return Err(failure(
            "another client reads the spans",
            Some("each span is given to one: end the other client, or send them on from there"),
        )
        .into());
    };
    let spans = handle.look(Fresh::Stored, |view| view.fronts.spans()).await?;
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::spawn(send(spans, sender, permit));
    Ok(lines_of(receiver, None))
}

/// Spans on their way to the client. Those that nobody takes any more are lost, and counted.
struct Chunk {
    lines: Bytes,
    count: u64,
    spans: Arc<Spans>,
}

impl From<Chunk> for Bytes {
    fn from(mut chunk: Chunk) -> Bytes {
        chunk.count = 0;
        std::mem::take(&mut chunk.lines)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.spans.lost(self.count);
    }
}

async fn send(spans: Arc<Spans>, sender: mpsc::Sender<Chunk>, _permit: SemaphorePermit<'static>) {
    loop {
        let come = async {
            spans.any().await;
            // One that lasts: the crowd comes later.
            let _ = timeout(TOGETHER, spans.crowd()).await;
        };
        tokio::select! {
            () = come => {}
            () = sender.closed() => return,
        }
        let (taken, lost) = spans.take();
        if !pass_on(taken, lost, &spans, &sender).await {
            return;
        }
    }
}

/// Sends them. False: nobody takes them any more, and those that were not sent are counted.
async fn pass_on(
    mut taken: VecDeque<rpm_proxy::Span>,
    lost: u64,
    spans: &Arc<Spans>,
    sender: &mpsc::Sender<Chunk>,
) -> bool {
    let mut lines = match lost {
        0 => Vec::new(),
        lost => line(&SpanLine::Lost(Lost { lost })),
    };
    let mut count = lost;
    while !taken.is_empty() {
        let part = taken.drain(..CHUNK.min(taken.len()));
        count += part.len() as u64;
        part.for_each(|span| lines.extend(line(&shown(span))));
        let chunk = Chunk {
            lines: std::mem::take(&mut lines).into(),
            count: std::mem::take(&mut count),
            spans: Arc::clone(spans),
        };
        // One that is not sent is dropped, which counts it.
        if sender.send(chunk).await.is_err() {
            spans.lost(taken.len() as u64);
            return false;
        }
    }
    true
}

fn shown(span: rpm_proxy::Span) -> SpanLine {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    SpanLine::Span(Box::new(spans::Span {
        trace_id: hex_text(span.trace.0, 32),
        span_id: hex_text(span.id.0.into(), 16),
        parent_id: span.parent.map(|parent| hex_text(parent.0.into(), 16)),
        start_ns: span.start_ns,
        duration_ns: nanoseconds(span.duration),
        method: span.method.to_owned(),
        path: span.path.into(),
        protocol: span.protocol.to_owned(),
        status: span.status,
        client: span.client,
        app: (*span.app).to_owned(),
        worker: span.upstream,
        queue_ns: span.queue.map(nanoseconds),
        attempts: span.attempts,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_nobody_takes_is_counted_as_lost() {
        let spans = Arc::new(Spans::new(1));
        let chunk = |count| Chunk {
            lines: Bytes::from_static(b"{}"),
            count,
            spans: Arc::clone(&spans),
        };
        let (sender, receiver) = mpsc::channel(2);
        assert!(sender.try_send(chunk(3)).is_ok() && sender.try_send(chunk(4)).is_ok());
        drop(receiver);
        assert_eq!(spans.take().1, 7);
        assert_eq!(Bytes::from(chunk(5)), "{}");
        assert_eq!(spans.take().1, 0, "it was taken");
    }
}
