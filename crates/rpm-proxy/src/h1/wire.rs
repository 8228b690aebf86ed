//! A connection with its input and output buffers, and bodies that pass from one to another.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{BadBody, Scanner};
use crate::gzip::Gzip;
use crate::policy::trailers;

/// Size of the read buffer. It is emptied before the thread reads again, so one buffer serves all connections, and idle ones have none.
const SCRATCH: usize = 128 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A connection that speaks HTTP/1.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    pub(crate) io: S,
    /// Input that was not processed yet.
    pub(crate) input: BytesMut,
    /// Output that was not sent yet.
    pub(crate) output: BytesMut,
    /// Bytes that were sent.
    pub(crate) sent: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(io: S) -> Wire<S> {
        Wire {
            io,
            input: BytesMut::new(),
            output: BytesMut::new(),
            sent: 0,
        }
    }

    /// Reads up to `limit` bytes into the input. 0: the other side has closed.
    pub(crate) fn poll_fill(&mut self, limit: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        BUFFER.with_borrow_mut(|buffer| {
            let limit = limit.min(buffer.len());
            let count = ready!(read(&mut self.io, &mut buffer[..limit], context))?;
            self.input.extend_from_slice(&buffer[..count]);
            Poll::Ready(Ok(count))
        })
    }

    /// Sends the output.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.output.has_remaining() {
            let count = ready!(Pin::new(&mut self.io).poll_write(context, &self.output))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
            self.sent += count as u64;
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Sends these bytes after the output. What cannot be sent at once is added to it.
    fn send(&mut self, bytes: &[u8], context: &mut Context<'_>) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            let both = [IoSlice::new(&self.output), IoSlice::new(&bytes[sent..])];
            let first = usize::from(!self.output.has_remaining());
            match Pin::new(&mut self.io).poll_write_vectored(context, &both[first..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.sent += count as u64;
                    let waited = count.min(self.output.remaining());
                    self.output.advance(waited);
                    sent += count - waited;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.output.extend_from_slice(&bytes[sent..]);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Frees the buffers of an idle connection.
    pub(crate) fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }
}

/// Reads once into the thread's buffer, and passes the bytes to `consume`. No bytes: the other side has closed.
pub(crate) fn poll_scratch<S: AsyncRead + Unpin, R>(
    io: &mut S,
    context: &mut Context<'_>,
    consume: impl FnOnce(&[u8], &mut Context<'_>) -> R,
) -> Poll<io::Result<R>> {
    BUFFER.with_borrow_mut(|buffer| {
        let count = ready!(read(io, buffer, context))?;
        Poll::Ready(Ok(consume(&buffer[..count], context)))
    })
}

fn read<S: AsyncRead + Unpin>(
    io: &mut S,
    buffer: &mut [u8],
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(io).poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// How a body is passed on.
pub(crate) enum Form {
    /// Unchanged.
    Same,
    /// Its content without chunks.
    Bare,
    /// Its content, compressed, in chunks or without.
    Gzip(Box<Gzip>, bool),
}

/// A body that passes from one connection to another.
pub(crate) struct Pump {
    scanner: Scanner,
    form: Form,
    concluded: bool,
    /// The trailers, as far as they have arrived.
    trailers: Vec<u8>,
    /// Bytes of the body that have arrived, with the framing of chunks.
    pub(crate) bytes: u64,
    /// Bytes of the content, and how many it may have.
    content: u64,
    limit: u64,
}

/// Why a body did not end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stuck {
    /// Reading failed, or the body ended early.
    Source,
    /// The framing is malformed.
    Framing(&'static str),
    /// Writing failed.
    Sink,
    /// The body is too large.
    TooLong,
}

impl Pump {
    /// `limit`: the largest content, in bytes; for a body that is passed on unchanged.
    pub(crate) fn new(scanner: Scanner, form: Form, limit: u64) -> Pump {
        Pump {
            scanner,
            form,
            concluded: false,
            trailers: Vec::new(),
            bytes: 0,
            content: 0,
            limit,
        }
    }

    /// Passes on the body until it is complete and sent. Nothing is read while the sink is full.
    pub(crate) fn poll<A, B>(
        &mut self,
        from: &mut Wire<A>,
        to: &mut Wire<B>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        if !from.input.is_empty() && !self.scanner.is_done() {
            let input = from.input.split();
            let used = self.pass(&input, to, context)?;
            from.input = input;
            from.input.advance(used);
        }
        loop {
            if self.scanner.is_done() {
                self.conclude(&mut to.output)?;
            }
            ready!(to.poll_flush(context)).map_err(|_| Stuck::Sink)?;
            if self.scanner.is_done() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_more(from, to, context))?;
        }
    }

    /// Writes what follows the body.
    fn conclude(&mut self, output: &mut BytesMut) -> Result<(), Stuck> {
        if let (Form::Gzip(gzip, chunked), false) = (&mut self.form, self.concluded) {
            add(output, &gzip.finish().map_err(|_| Stuck::Source)?, *chunked);
            if *chunked {
                output.extend_from_slice(b"0\r\n\r\n");
            }
        }
        self.concluded = true;
        Ok(())
    }

    /// Reads once, and sends what was read.
    fn poll_more<A, B>(
        &mut self,
        from: &mut Wire<A>,
        to: &mut Wire<B>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            match ready!(read(&mut from.io, buffer, context)) {
                Ok(0) if self.scanner.may_end() => {
                    self.scanner = Scanner::new(super::framing::Framing::Nothing);
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(Stuck::Source)),
                Ok(count) => {
                    let used = self.pass(&buffer[..count], to, context)?;
                    from.input.extend_from_slice(&buffer[used..count]);
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Sends the part of `bytes` that belongs to the body, and returns its length.
    pub(crate) fn pass<B: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        bytes: &[u8],
        to: &mut Wire<B>,
        context: &mut Context<'_>,
    ) -> Result<usize, Stuck> {
        let framing = |error: BadBody| Stuck::Framing(error.0);
        let output = &mut to.output;
        match &mut self.form {
            Form::Same => {}
            Form::Bare => {
                let used = self
                    .scanner
                    .scan(bytes, |data| output.extend_from_slice(data))
                    .map_err(framing)?;
                self.bytes += used as u64;
                return Ok(used);
            }
            Form::Gzip(gzip, chunked) => {
                let used = self
                    .scanner
                    .scan(bytes, |data| gzip.push(data))
                    .map_err(framing)?;
                self.bytes += used as u64;
                if !self.scanner.is_done() {
                    add(output, &gzip.take(), *chunked);
                }
                return Ok(used);
            }
        }
        let (used, same) = self.split(bytes).map_err(framing)?;
        self.bytes += used as u64;
        if self.content > self.limit {
            // Nothing of these bytes is sent: they may hold the end of the body, and then the worker would have it whole.
            return Err(Stuck::TooLong);
        }
        to.send(&bytes[..same], context).map_err(|_| Stuck::Sink)?;
        if self.scanner.is_done() && !self.trailers.is_empty() {
            let lines = trailers::lines(&std::mem::take(&mut self.trailers));
            to.send(&lines, context).map_err(|_| Stuck::Sink)?;
        }
        Ok(used)
    }

    /// Returns how many bytes belong to the body, and how many of them come before the trailers, which are collected.
    fn split(&mut self, bytes: &[u8]) -> Result<(usize, usize), BadBody> {
        let (mut used, mut same) = (0, 0);
        while used < bytes.len() && !self.scanner.is_done() {
            let in_trailers = self.scanner.is_in_trailers();
            let from = used;
            let content = &mut self.content;
            let count = |data: &[u8]| *content += data.len() as u64;
            used += self.scanner.scan_part(&bytes[used..], count)?;
            if in_trailers {
                self.trailers.extend_from_slice(&bytes[from..used]);
                continue;
            }
            // Usually there are none.
            if self.scanner.is_in_trailers() && bytes[used..].starts_with(b"\r\n") {
                used += self.scanner.scan_part(&bytes[used..used + 2], |_| ())?;
            }
            same = used;
        }
        Ok((used, same))
    }
}

fn add(output: &mut BytesMut, bytes: &[u8], chunked: bool) {
    if bytes.is_empty() {
        return;
    }
    if chunked {
        output.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    }
    output.extend_from_slice(bytes);
    if chunked {
        output.extend_from_slice(b"\r\n");
    }
}
