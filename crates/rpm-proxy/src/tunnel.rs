//! Tunnels: copies bytes in both directions, for WebSockets, other upgrades, and `--protocol tcp`.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::{Instant, sleep_until};

/// Keepalive: a silent client is probed after this time,
const ASK_AFTER: Duration = Duration::from_secs(60);
/// again after this interval,
const ASK_EVERY: Duration = Duration::from_secs(15);
/// and so often. After two minutes its connection is closed.
const ASK_TIMES: u32 = 4;

/// Enables keepalive on a listener. Its connections inherit that.
///
/// # Errors
/// It is not a TCP socket.
pub(crate) fn keep_alive(listener: impl AsFd) -> io::Result<()> {
    let listener = listener.as_fd();
    sockopt::set_tcp_keepidle(listener, ASK_AFTER)?;
    sockopt::set_tcp_keepintvl(listener, ASK_EVERY)?;
    sockopt::set_tcp_keepcnt(listener, ASK_TIMES)?;
    Ok(sockopt::set_socket_keepalive(listener, true)?)
}

/// Copies bytes in both directions until one side ends, or both are silent for `within` (`ZERO`: for ever). Returns how many bytes came from
/// the client and from the worker.
pub(crate) async fn join<A, B>(client: &mut A, worker: &mut B, within: Duration) -> (u64, u64)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Cell::new(Instant::now());
    let of_worker = Cell::new(State::Open);
    let mut client = Watched::new(client, Side::Client, &moved, &of_worker);
    let mut worker = Watched::new(worker, Side::Worker, &moved, &of_worker);
    tokio::select! {
        // Both sides see an error themselves.
        _ = copy_bidirectional(&mut client, &mut worker) => {}
        () = silence(&moved, within), if !within.is_zero() => {}
    }
    (client.bytes, worker.bytes)
}

/// Ends when both sides were silent for `within`.
async fn silence(moved: &Cell<Instant>, within: Duration) {
    loop {
        let due = moved.get() + within;
        if due <= Instant::now() {
            return;
        }
        sleep_until(due).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Worker,
}

/// The worker's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// It has failed, and what it has said is not read to its end yet.
    Broken,
    /// Nothing more comes from it.
    Ended,
}

/// One side of a tunnel, which records when it moves.
///
/// A worker that says goodbye and exits resets its connection if the client has just sent something. What it said is still to be read then,
/// but `copy_bidirectional` ends at the first error, and a close frame of a WebSocket would be lost. So an error of the worker's side is not one
/// at once: what goes there is dropped, what comes from there is read to its end, and once the client has it the tunnel ends.
struct Watched<'w, S> {
    stream: &'w mut S,
    side: Side,
    moved: &'w Cell<Instant>,
    of_worker: &'w Cell<State>,
    /// Bytes that were read.
    bytes: u64,
}

impl<'w, S> Watched<'w, S> {
    fn new(
        stream: &'w mut S,
        side: Side,
        moved: &'w Cell<Instant>,
        of_worker: &'w Cell<State>,
    ) -> Watched<'w, S> {
        Watched {
            stream,
            side,
            moved,
            of_worker,
            bytes: 0,
        }
    }

    /// The same without the error of a worker that may still have said something, instead of which there is this.
    fn forgiven<T>(&self, result: io::Result<T>, instead: T) -> io::Result<T> {
        match (result, self.side, self.of_worker.get()) {
            (Err(_), Side::Worker, State::Open | State::Broken) => {
                self.of_worker.set(State::Broken);
                Ok(instead)
            }
            (result, ..) => result,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut *self.stream).poll_read(context, buffer));
        self.forgiven(read, ())?;
        let count = buffer.filled().len() - before;
        self.bytes += count as u64;
        match (self.side, self.of_worker.get()) {
            // What goes to a worker that has failed moves nothing.
            (Side::Client, State::Broken) => {}
            _ => self.moved.set(Instant::now()),
        }
        if self.side == Side::Worker && count == 0 && self.of_worker.get() == State::Open {
            // From now on an error of its side is one: nobody waits for what it says.
            self.of_worker.set(State::Ended);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.stream).poll_write(context, bytes));
        if written.is_ok() {
            self.moved.set(Instant::now());
        }
        Poll::Ready(self.forgiven(written, bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut *self.stream).poll_flush(context));
        Poll::Ready(self.forgiven(flushed, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.side == Side::Client && self.of_worker.get() == State::Broken {
            // The client has what there was, and must not take it for all that there would have been.
            ready!(Pin::new(&mut *self.stream).poll_flush(context))?;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let shut = ready!(Pin::new(&mut *self.stream).poll_shutdown(context));
        Poll::Ready(self.forgiven(shut, ()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Two ends of a tunnel that may be silent for a minute, and how long it lasts while `using` uses them.
    async fn lasts(
        within: Duration,
        using: impl AsyncFnOnce(tokio::io::DuplexStream, tokio::io::DuplexStream),
    ) -> (u64, (u64, u64)) {
        let (client, mut inner) = duplex(64);
        let (worker, mut outer) = duplex(64);
        let began = Instant::now();
        let joined = async {
            let bytes = join(&mut inner, &mut outer, within).await;
            drop((inner, outer));
            (began.elapsed().as_secs(), bytes)
        };
        let (joined, ()) = tokio::join!(joined, using(client, worker));
        joined
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_every_byte_puts_that_off() {
        let lasted = lasts(Duration::from_secs(60), async |mut client, mut worker| {
            for _ in 0..5 {
                // tidy: sleep because the clock is not the real one
                tokio::time::sleep(Duration::from_secs(50)).await;
                client.write_all(b"ab").await.expect("it is open");
                let mut two = [0; 2];
                worker.read_exact(&mut two).await.expect("it comes through");
            }
            assert_eq!(worker.read(&mut [0]).await.expect("an end"), 0);
        });
        assert_eq!(lasted.await, (5 * 50 + 60, (10, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_for_ever() {
        let lasted = lasts(Duration::ZERO, async |client, worker| {
            // tidy: sleep because the clock is not the real one
            tokio::time::sleep(Duration::from_secs(100_000)).await;
            drop((client, worker));
        });
        assert_eq!(lasted.await.0, 100_000);
    }

    /// Both sides of a connection.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (near.expect("it listens"), far.expect("it connects").0)
    }

    #[tokio::test]
    async fn the_last_words_of_a_worker_reach_a_client_that_talks() {
        let (mut worker, mut far) = connected().await;
        // It leaves without having read everything, so that its connection is reset.
        worker.write_all(b"first").await.expect("it is open");
        far.readable().await.expect("it comes");
        far.write_all(b"goodbye").await.expect("it is open");
        drop(far);
        worker.readable().await.expect("the words are here");
        while worker.take_error().expect("a socket").is_none() {
            tokio::task::yield_now().await;
        }
        let (mut client, mut inner) = duplex(64);
        client.write_all(b"second").await.expect("there is room");
        let bytes = join(&mut inner, &mut worker, Duration::ZERO).await;
        drop(inner);
        let mut said = String::new();
        client.read_to_string(&mut said).await.expect("an end");
        assert_eq!((said.as_str(), bytes), ("goodbye", (6, 7)));
    }

    /// It would take what a client that only sends has to say, and lose it.
    #[tokio::test]
    async fn a_tunnel_ends_when_a_worker_that_has_said_all_is_gone() {
        let (mut worker, mut far) = connected().await;
        let (mut client, mut inner) = duplex(64);
        let joined = async {
            join(&mut inner, &mut worker, Duration::ZERO).await;
            drop(inner);
        };
        let sending = async {
            far.shutdown().await.expect("it is open");
            assert_eq!(
                client.read(&mut [0]).await.expect("an end"),
                0,
                "the client sees it"
            );
            drop(far);
            // Until the reset has come, and a write fails.
            while client.write_all(b"more").await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(joined, sending) })
            .await
            .expect("it ends");
    }
}
