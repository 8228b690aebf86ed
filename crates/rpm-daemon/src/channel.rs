//! The daemon's end of a worker's IPC channel: one task per worker that reads, decodes and writes.
//!
//! The end of the channel is not the end of the worker (`process.disconnect()` is legal): the task ends
//! quietly, and only the pidfd tells of death.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rpm_core::WorkerId;
use rpm_keeper::Kept;
use rpm_sys::scm;
use rpm_wire::channel::{Decoder, FromWorker, Malformed};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::supervisor::Event;
use crate::watched::watched;

/// Messages that wait for a worker which does not read; more are refused.
pub(crate) const OUTGOING_LIMIT: usize = 1024;
/// Read at most this much before other events have their turn.
const READ_BYTES: usize = 16 * 1024;

/// A message to a worker, newline included, with at most one descriptor.
pub(crate) struct Outgoing {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
}

/// What came from a worker: messages, in order. Descriptors that it sent are closed.
pub(crate) type Incoming = Vec<Result<FromWorker, Malformed>>;

/// Runs a worker's channel until either side closes it.
pub(crate) async fn run(
    worker: WorkerId,
    socket: Kept<OwnedFd>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let socket = watched(socket, Interest::READABLE | Interest::WRITABLE)?;
    let mut decoder = Decoder::new();
    let mut waiting: VecDeque<Outgoing> = VecDeque::new();
    loop {
        let interest = if waiting.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        tokio::select! {
            message = outgoing.recv() => match message {
                Some(message) => waiting.push_back(message),
                None => return Ok(()),
            },
            ready = socket.ready(interest) => {
                let mut ready = ready?;
                if ready.ready().is_readable() {
                    match ready.try_io(|socket| read(socket.get_ref(), &mut decoder)) {
                        Ok(Ok(Some(messages))) if messages.is_empty() => {}
                        Ok(Ok(Some(messages))) => drop(events.send(Event::Messages(worker, messages)).await),
                        Ok(Ok(None)) => return Ok(()),
                        Ok(Err(error)) => return Err(error),
                        Err(_would_block) => {}
                    }
                }
                if ready.ready().is_writable() {
                    ready.clear_ready_matching(tokio::io::Ready::WRITABLE);
                }
            }
        }
        flush(&socket, &mut waiting)?;
    }
}

/// Reads once; `None` at the end of the channel.
fn read(socket: &Kept<OwnedFd>, decoder: &mut Decoder) -> io::Result<Option<Incoming>> {
    let mut buffer = [0; READ_BYTES];
    // Whatever a worker sends along is of no use to us, and closed here.
    let mut fds = Vec::new();
    let count = scm::recv(socket.as_fd(), &mut buffer, &mut fds)?;
    if count == 0 {
        return Ok(None);
    }
    decoder.feed(&buffer[..count]);
    Ok(Some(std::iter::from_fn(|| decoder.next()).collect()))
}

fn flush(socket: &AsyncFd<Kept<OwnedFd>>, waiting: &mut VecDeque<Outgoing>) -> io::Result<()> {
    while let Some(message) = waiting.front_mut() {
        let fd = message.fd.as_ref().map(|fd| fd.as_fd());
        match scm::send(socket.get_ref().as_fd(), &message.bytes, fd) {
            Ok(count) if count == message.bytes.len() => drop(waiting.pop_front()),
            Ok(count) => {
                // The descriptor went with the first byte.
                message.fd = None;
                message.bytes.drain(..count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
