//! Answers of many lines (NDJSON) that come as time goes on.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::logs::Reader;

/// Chunks on their way to a reader; a slow one makes their source wait.
pub(super) const CHUNKS: usize = 4;

/// A line, with its end.
pub(super) fn line(of: &impl Serialize) -> Vec<u8> {
    // What the API speaks of are structs of strings and numbers, which always serialize.
    let mut bytes = serde_json::to_vec(of).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// An answer whose lines come from there. It is what the `reader` reads, if it is one of logs.
pub(super) fn lines_of<C>(chunks: mpsc::Receiver<C>, reader: Option<Reader>) -> Response
where
    C: Into<Bytes> + Send + 'static,
{
    let body = Body::new(Chunks {
        chunks,
        _reader: reader,
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// A body made of chunks as they come.
struct Chunks<C> {
    chunks: mpsc::Receiver<C>,
    _reader: Option<Reader>,
}

impl<C: Into<Bytes>> hyper::body::Body for Chunks<C> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.chunks
            .poll_recv(context)
            .map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes.into()))))
    }
}
