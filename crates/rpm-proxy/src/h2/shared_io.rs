//! A stream that can be taken back from hyper. hyper closes a stream that it owns, and with unread bytes the kernel would reset the connection.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::streams::Streams;

/// A handle of the stream. Only one of them uses it at a time.
#[derive(Debug)]
pub(crate) struct SharedIo<S> {
    stream: Rc<RefCell<S>>,
    /// Where it is recorded what is read, for HTTP/1.
    streams: Option<Rc<Streams>>,
    /// The stream has not taken all that was written.
    blocked: Rc<Cell<bool>>,
}

impl<S> SharedIo<S> {
    pub(crate) fn new(stream: S, streams: Option<Rc<Streams>>) -> SharedIo<S> {
        SharedIo {
            stream: Rc::new(RefCell::new(stream)),
            streams,
            blocked: Rc::default(),
        }
    }

    /// Something is still to be written.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// The stream, if this is the last handle.
    pub(crate) fn back(self) -> Option<S> {
        Rc::into_inner(self.stream).map(RefCell::into_inner)
    }
}

impl<S> Clone for SharedIo<S> {
    fn clone(&self) -> SharedIo<S> {
        SharedIo {
            stream: Rc::clone(&self.stream),
            streams: self.streams.clone(),
            blocked: Rc::clone(&self.blocked),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SharedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, buffer))?;
        if let Some(streams) = &self.streams {
            streams.arrived(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SharedIo<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_write(context, bytes);
        self.blocked.set(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(context, slices);
        self.blocked.set(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_flush(context);
        self.blocked.set(polled.is_pending());
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(context)
    }
}
