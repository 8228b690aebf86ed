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

async fn send(spans: Arc<Spans>, sender: mpsc::Sender<Bytes>, _permit: SemaphorePermit<'static>) {
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
        if let Err(unsent) = pass_on(taken, lost, &sender).await {
            spans.lost(unsent);
            return;
        }
    }
}

/// Sends them. An error: nobody takes them any more, and so many were not sent.
async fn pass_on(
    mut spans: VecDeque<rpm_proxy::Span>,
    lost: u64,
    sender: &mpsc::Sender<Bytes>,
) -> Result<(), u64> {
    let mut bytes = match lost {
        0 => Vec::new(),
        lost => line(&SpanLine::Lost(Lost { lost })),
    };
    let mut unsent = lost;
    while !spans.is_empty() {
        let chunk = spans.drain(..CHUNK.min(spans.len()));
        unsent += chunk.len() as u64;
        chunk.for_each(|span| bytes.extend(line(&shown(span))));
        if sender.send(std::mem::take(&mut bytes).into()).await.is_err() {
            return Err(unsent + spans.len() as u64);
        }
        unsent = 0;
    }
    Ok(())
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
