//! A connection, what has come over it and is not used yet, and what is to be sent.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{BadBody, Scanner};
use crate::gzip::Gzip;
use crate::policy::trailers;

/// Read at a time. What is read is used before anything else is read on the thread, so that one buffer does for all connections, and one
/// that is idle has none.
const SCRATCH: usize = 128 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A connection that speaks HTTP/1.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    pub(crate) io: S,
    /// Has come, and is not used yet.
    pub(crate) come: BytesMut,
    /// Is to be sent.
    pub(crate) going: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(io: S) -> Wire<S> {
        Wire {
            io,
            come: BytesMut::new(),
            going: BytesMut::new(),
        }
    }

    /// Reads up to `limit` bytes to what has come; 0: the other side has ended.
    pub(crate) fn poll_fill(&mut self, limit: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        BUFFER.with_borrow_mut(|buffer| {
            let limit = limit.min(buffer.len());
            let count = ready!(read(&mut self.io, &mut buffer[..limit], context))?;
            self.come.extend_from_slice(&buffer[..count]);
            Poll::Ready(Ok(count))
        })
    }

    /// Sends what is to be sent.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.going.has_remaining() {
            let count = ready!(Pin::new(&mut self.io).poll_write(context, &self.going))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.going.advance(count);
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Sends these bytes after those that wait; what does not go at once waits, too.
    fn send(&mut self, bytes: &[u8], context: &mut Context<'_>) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            let both = [IoSlice::new(&self.going), IoSlice::new(&bytes[sent..])];
            let first = usize::from(!self.going.has_remaining());
            match Pin::new(&mut self.io).poll_write_vectored(context, &both[first..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    let waited = count.min(self.going.remaining());
                    self.going.advance(waited);
                    sent += count - waited;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.going.extend_from_slice(&bytes[sent..]);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Lets go of the memory of an idle connection.
    pub(crate) fn shrink(&mut self) {
        if self.come.is_empty() {
            self.come = BytesMut::new();
        }
        if self.going.is_empty() {
            self.going = BytesMut::new();
        }
    }
}

/// Reads once, to the buffer of the thread, and has it used there. Nothing: the other side has ended.
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
    /// As it comes.
    Same,
    /// What it holds, not how that is framed.
    Bare,
    /// What it holds, compressed, in chunks or bare.
    Gzip(Box<Gzip>, bool),
}

/// A body on its way from one connection to another.
pub(crate) struct Pump {
    scanner: Scanner,
    form: Form,
    concluded: bool,
    /// What has come of the trailers, if there are some.
    trailers: Vec<u8>,
    /// Bytes of the body that have come, with what frames its chunks.
    pub(crate) bytes: u64,
    /// Bytes of its content.
    content: u64,
}

/// Why a body does not come to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stuck {
    /// It cannot be read, or ends early.
    Source,
    /// It is framed wrongly: how.
    Framing(&'static str),
    /// It cannot be sent on.
    Sink,
    /// It is longer than allowed.
    TooLong,
}

impl Pump {
    pub(crate) fn new(scanner: Scanner, form: Form) -> Pump {
        Pump {
            scanner,
            form,
            concluded: false,
            trailers: Vec::new(),
            bytes: 0,
            content: 0,
        }
    }

    /// Passes on what comes, until the body is complete and sent. Nothing is read while the sink takes nothing.
    pub(crate) fn poll<A, B>(
        &mut self,
        from: &mut Wire<A>,
        to: &mut Wire<B>,
        limit: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        if !from.come.is_empty() && !self.scanner.is_done() {
            let come = from.come.split();
            let used = self.pass(&come, to, context)?;
            from.come = come;
            from.come.advance(used);
            self.check(limit)?;
        }
        loop {
            if self.scanner.is_done() {
                self.conclude(&mut to.going)?;
            }
            ready!(to.poll_flush(context)).map_err(|_| Stuck::Sink)?;
            if self.scanner.is_done() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_more(from, to, context))?;
            self.check(limit)?;
        }
    }

    fn check(&self, limit: u64) -> Result<(), Stuck> {
        if self.content > limit {
            Err(Stuck::TooLong)
        } else {
            Ok(())
        }
    }

    /// What comes after the last of the body.
    fn conclude(&mut self, going: &mut BytesMut) -> Result<(), Stuck> {
        if let (Form::Gzip(gzip, chunked), false) = (&mut self.form, self.concluded) {
            add(going, &gzip.finish().map_err(|_| Stuck::Source)?, *chunked);
            if *chunked {
                going.extend_from_slice(b"0\r\n\r\n");
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
                    from.come.extend_from_slice(&buffer[used..count]);
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Sends what of `bytes` belongs to the body, and says how many they are.
    pub(crate) fn pass<B: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        bytes: &[u8],
        to: &mut Wire<B>,
        context: &mut Context<'_>,
    ) -> Result<usize, Stuck> {
        let framing = |error: BadBody| Stuck::Framing(error.0);
        let going = &mut to.going;
        match &mut self.form {
            Form::Same => {}
            Form::Bare => {
                let used = self
                    .scanner
                    .scan(bytes, |data| going.extend_from_slice(data))
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
                    add(going, &gzip.take(), *chunked);
                }
                return Ok(used);
            }
        }
        let (used, same) = self.split(bytes).map_err(framing)?;
        self.bytes += used as u64;
        to.send(&bytes[..same], context).map_err(|_| Stuck::Sink)?;
        if self.scanner.is_done() && !self.trailers.is_empty() {
            let lines = trailers::lines(&std::mem::take(&mut self.trailers));
            to.send(&lines, context).map_err(|_| Stuck::Sink)?;
        }
        Ok(used)
    }

    /// How many bytes belong to the body, and how many of them are before its trailers, which are put aside.
    fn split(&mut self, bytes: &[u8]) -> Result<(usize, usize), BadBody> {
        let (mut used, mut same) = (0, 0);
        while used < bytes.len() && !self.scanner.is_done() {
            let put_aside = self.scanner.is_in_trailers();
            let from = used;
            let content = &mut self.content;
            let count = |data: &[u8]| *content += data.len() as u64;
            used += self.scanner.scan_part(&bytes[used..], count)?;
            if put_aside {
                self.trailers.extend_from_slice(&bytes[from..used]);
                continue;
            }
            // Nearly always there are none.
            if self.scanner.is_in_trailers() && bytes[used..].starts_with(b"\r\n") {
                used += self.scanner.scan_part(&bytes[used..used + 2], |_| ())?;
            }
            same = used;
        }
        Ok((used, same))
    }
}

fn add(going: &mut BytesMut, bytes: &[u8], chunked: bool) {
    if bytes.is_empty() {
        return;
    }
    if chunked {
        going.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    }
    going.extend_from_slice(bytes);
    if chunked {
        going.extend_from_slice(b"\r\n");
    }
}
