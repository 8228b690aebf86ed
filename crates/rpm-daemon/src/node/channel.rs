//! The daemon's end of a worker's IPC channel: one task per worker that reads, decodes and writes.
//!
//! The end of the channel is not the end of the worker (`process.disconnect()` is legal): the task ends
//! quietly, and only the pidfd tells of death. A worker that has died may have said something before, so what
//! is left in its channel is read before anyone learns of its death.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rpm_core::WorkerId;
use rpm_keeper::Kept;
use rpm_sys::scm;
use rpm_wire::channel::{Decoder, FromWorker, Malformed};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::os::threads;
use crate::os::watched::watched;
use crate::workers::worker::Outgoing;

/// Read at most this much before other events have their turn.
const READ_BYTES: usize = 16 * 1024;
/// Messages that are passed on before other events have their turn, by their [`cost`].
const BATCH: usize = 256;
/// Messages, and bytes of them, that wait to be written to a worker beyond which nothing is read of it.
const UNREAD_LIMIT: (usize, usize) = (64, 64 * 1024);
/// Reads of what a worker left in its channel when it ended: its receive buffer is smaller. What it started may still write there.
const LAST_READS: usize = 64;
/// What a worker may say in this time; when it has said as much it is read again at its end.
const WINDOW: Duration = Duration::from_millis(20);
/// 100,000 small messages a second, which are acknowledgements of 50,000 connections, or 12 MB…
const ALLOWANCE: usize = 2000;
/// …so many bytes count as a message…
const BYTES: usize = 128;
/// …and what the daemon has to do something about as so many.
const REQUEST: usize = 128;

/// What came from a worker: messages, in order.
pub(crate) struct Incoming {
    pub(crate) messages: Vec<Result<FromWorker, Malformed>>,
    /// Dropped when they were dealt with: no more are passed on before.
    pub(crate) done: oneshot::Sender<()>,
}

/// What happened on a channel.
pub(crate) enum ChannelEvent {
    /// A worker sent messages.
    Messages(WorkerId, Incoming),
    /// The channel of a worker has ended: no message of it is to come.
    Ended(WorkerId),
}

/// What a worker has said in the present window.
struct Pace {
    ends: Instant,
    said: usize,
}

impl Pace {
    /// When to read again, if the worker has said as much as it may.
    fn after(&mut self, said: usize, now: Instant) -> Option<Instant> {
        if self.ends <= now {
            (self.ends, self.said) = (now + WINDOW, 0);
        }
        self.said += said;
        (self.said >= ALLOWANCE).then_some(self.ends)
    }
}

fn cost(message: &Result<FromWorker, Malformed>) -> usize {
    match message {
        Ok(
            FromWorker::QueryServer(_)
            | FromWorker::Listening { .. }
            | FromWorker::Close { .. }
            | FromWorker::ExitedAfterDisconnect { .. }
            | FromWorker::Handle { .. }
            | FromWorker::Ready,
        ) => REQUEST,
        Ok(
            FromWorker::Online
            | FromWorker::Ack { .. }
            | FromWorker::HandleAck
            | FromWorker::HandleNack
            | FromWorker::Internal { .. }
            | FromWorker::Message(_),
        )
        | Err(_) => 1,
    }
}

/// Runs a worker's channel until either side closes it, or the worker has `died`.
pub(crate) async fn run<E: From<ChannelEvent>>(
    worker: WorkerId,
    socket: Kept<OwnedFd>,
    outgoing: mpsc::Receiver<Outgoing>,
    died: oneshot::Receiver<()>,
    events: &mpsc::Sender<E>,
) -> io::Result<()> {
    let socket = watched(socket, Interest::READABLE | Interest::WRITABLE)?;
    let ended = converse(worker, &socket, outgoing, died, events).await;
    // The worker may have sent descriptors that were not read.
    threads::close(socket.into_inner()).await;
    ended
}

async fn converse<E: From<ChannelEvent>>(
    worker: WorkerId,
    socket: &AsyncFd<Kept<OwnedFd>>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    mut died: oneshot::Receiver<()>,
    events: &mpsc::Sender<E>,
) -> io::Result<()> {
    let mut decoder = Decoder::new();
    let mut waiting: VecDeque<Outgoing> = VecDeque::new();
    let mut pace = Pace {
        ends: Instant::now(),
        said: 0,
    };
    // Nothing is read before: the worker has said as much as it may.
    let mut rests: Option<Instant> = None;
    loop {
        // A worker that asks and does not read the answers is not read either: it would have the daemon keep them.
        let unread = is_full(&waiting);
        let mut interest = Interest::WRITABLE;
        if !unread && rests.is_none() {
            interest = Interest::READABLE;
            if !waiting.is_empty() {
                interest |= Interest::WRITABLE;
            }
        }
        tokio::select! {
            _ = &mut died => return last_words(worker, socket, &mut pace, &mut decoder, events).await,
            message = outgoing.recv(), if !unread => match message {
                Some(message) => waiting.push_back(message),
                None => return Ok(()),
            },
            () = sleep_until(rests.unwrap_or_else(Instant::now)), if rests.is_some() => rests = None,
            ready = socket.ready(interest), if interest.is_readable() || !waiting.is_empty() => {
                let mut ready = ready?;
                if interest.is_readable() && ready.ready().is_readable() {
                    match ready.try_io(|socket| read(socket.get_ref(), &mut decoder)) {
                        Ok(Ok(Some(read))) => {
                            rests = pass_on(worker, read, &mut pace, &mut decoder, events).await;
                        }
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
        if let Err(error) = flush(socket, &mut waiting) {
            // It takes nothing any more, but what it said before is still here.
            last_words(worker, socket, &mut pace, &mut decoder, events).await?;
            return match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
                _ => Err(error),
            };
        }
    }
}

/// Passes on what a worker that has died has said before, however much it has said already. It decides what becomes of its connections:
/// one that it acknowledged is lost with it, and any other goes to another worker.
async fn last_words<E: From<ChannelEvent>>(
    worker: WorkerId,
    socket: &AsyncFd<Kept<OwnedFd>>,
    pace: &mut Pace,
    decoder: &mut Decoder,
    events: &mpsc::Sender<E>,
) -> io::Result<()> {
    for _ in 0..LAST_READS {
        match read(socket.get_ref(), decoder) {
            Ok(Some(read)) => drop(pass_on(worker, read, pace, decoder, events).await),
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// As much waits to be written as may.
fn is_full(waiting: &VecDeque<Outgoing>) -> bool {
    let bytes: usize = waiting.iter().map(|message| message.bytes.len()).sum();
    waiting.len() >= UNREAD_LIMIT.0 || bytes >= UNREAD_LIMIT.1
}

/// Passes on what was read, in parts, each when the one before was dealt with. When to read again, if not at once.
async fn pass_on<E: From<ChannelEvent>>(
    worker: WorkerId,
    Read { bytes, fds }: Read,
    pace: &mut Pace,
    decoder: &mut Decoder,
    events: &mpsc::Sender<E>,
) -> Option<Instant> {
    if !fds.is_empty() {
        // They are of no use to us.
        threads::close(fds).await;
    }
    let mut rests = pace.after(bytes / BYTES, Instant::now());
    loop {
        let (mut messages, mut said) = (Vec::new(), 0);
        while said < BATCH
            && let Some(message) = decoder.next()
        {
            said += cost(&message);
            messages.push(message);
        }
        if messages.is_empty() {
            return rests;
        }
        rests = pace.after(said, Instant::now()).or(rests);
        let (done, dealt) = oneshot::channel();
        let _ = events
            .send(ChannelEvent::Messages(worker, Incoming { messages, done }).into())
            .await;
        let _ = dealt.await;
    }
}

/// What was read at once.
struct Read {
    bytes: usize,
    /// Descriptors that came with it.
    fds: Vec<OwnedFd>,
}

/// Reads once; `None` at the end of the channel.
fn read(socket: &Kept<OwnedFd>, decoder: &mut Decoder) -> io::Result<Option<Read>> {
    let mut buffer = [0; READ_BYTES];
    let mut fds = Vec::new();
    let count = scm::recv(socket.as_fd(), &mut buffer, &mut fds)?;
    decoder.feed(&buffer[..count]);
    Ok((count > 0).then_some(Read { bytes: count, fds }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_said_enough_is_read_again_at_the_end_of_its_window() {
        let now = Instant::now();
        let mut pace = Pace { ends: now, said: 0 };
        assert_eq!(pace.after(ALLOWANCE - 1, now), None);
        let end = now + WINDOW;
        assert_eq!(pace.after(1, now), Some(end));
        assert_eq!(pace.after(ALLOWANCE - 1, end), None, "a new window");
        assert_eq!(pace.after(READ_BYTES / BYTES, end), Some(end + WINDOW));
        assert_eq!(
            (cost(&Ok(FromWorker::HandleAck)), cost(&Ok(FromWorker::Ready))),
            (1, REQUEST)
        );
    }

    #[test]
    fn what_a_worker_does_not_read_is_bounded() {
        let message = |bytes| Outgoing {
            bytes: vec![0; bytes],
            fd: None,
        };
        let small: VecDeque<Outgoing> = (0..UNREAD_LIMIT.0 - 1).map(|_| message(10)).collect();
        assert!(!is_full(&small));
        assert!(is_full(&small.into_iter().chain([message(10)]).collect()));
        assert!(is_full(&VecDeque::from([message(UNREAD_LIMIT.1)])));
    }

    #[tokio::test]
    async fn what_a_worker_said_before_it_died_is_passed_on() {
        // More than it may say in one window.
        const SAID: usize = ALLOWANCE + 1000;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = rpm_keeper::Keeper::none().keep(ours.into(), rpm_keeper::NOBODY);
        let said = b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n".repeat(SAID);
        // Something that it started has its end of the channel, and stays.
        let mut worker = theirs.try_clone().unwrap();
        io::Write::write_all(&mut worker, &said).unwrap();
        drop(worker);
        let (died, death) = oneshot::channel();
        died.send(()).unwrap();
        let (events, mut inbox) = mpsc::channel(8);
        let (_outgoing, outgoing) = mpsc::channel(8);
        let run = tokio::spawn(async move { run(WorkerId(1), socket, outgoing, death, &events).await });
        let mut heard = 0;
        while let Some(ChannelEvent::Messages(_, incoming)) = inbox.recv().await {
            heard += incoming.messages.len();
        }
        run.await.unwrap().unwrap();
        assert_eq!(heard, SAID);
        drop(theirs);
    }

    #[tokio::test]
    async fn nor_is_it_lost_when_something_is_sent_to_it_at_that_moment() {
        const SAID: usize = 1000;
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = rpm_keeper::Keeper::none().keep(ours.into(), rpm_keeper::NOBODY);
        io::Write::write_all(&mut theirs, &b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n".repeat(SAID)).unwrap();
        drop(theirs);
        let (_died, death) = oneshot::channel();
        let (events, mut inbox) = mpsc::channel(8);
        let (outgoing, queue) = mpsc::channel(8);
        let bytes = b"{}\n".to_vec();
        outgoing.send(Outgoing { bytes, fd: None }).await.unwrap();
        let run = tokio::spawn(async move { run(WorkerId(1), socket, queue, death, &events).await });
        let mut heard = 0;
        while let Some(ChannelEvent::Messages(_, incoming)) = inbox.recv().await {
            heard += incoming.messages.len();
        }
        run.await.unwrap().unwrap();
        assert_eq!(heard, SAID);
    }
}
