//! Detects plain HTTP on a connection that should speak TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Notes whether the first byte is a letter, as in an HTTP method. If so, it discards the TLS alert of rustls, so that an HTTP response can be
/// sent instead.
#[derive(Debug)]
pub(crate) struct PlaintextGuard<S> {
    stream: S,
    /// `None`: no byte has arrived.
    is_plain: Option<bool>,
}

impl<S> PlaintextGuard<S> {
    pub(crate) fn new(stream: S) -> PlaintextGuard<S> {
        PlaintextGuard {
            stream,
            is_plain: None,
        }
    }

    /// The stream, if the client speaks plain HTTP.
    pub(crate) fn into_plain(self) -> Option<S> {
        (self.is_plain == Some(true)).then_some(self.stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlaintextGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.is_plain.is_none() {
            // A TLS record begins with its type, which is not a letter.
            self.is_plain = buffer.filled().get(before).map(u8::is_ascii_alphabetic);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlaintextGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_plain == Some(true) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_plain == Some(true) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
