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
    let (mut client, mut worker) = (Watched::new(client, &moved), Watched::new(worker, &moved));
    tokio::select! {
        // An error ends the tunnel like an end does; both sides see it themselves.
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

/// One side of a tunnel, which records when it moves.
struct Watched<'w, S> {
    stream: &'w mut S,
    moved: &'w Cell<Instant>,
    /// Bytes that were read.
    bytes: u64,
}

impl<'w, S> Watched<'w, S> {
    fn new(stream: &'w mut S, moved: &'w Cell<Instant>) -> Watched<'w, S> {
        Watched {
            stream,
            moved,
            bytes: 0,
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
        ready!(Pin::new(&mut *self.stream).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        self.bytes += count as u64;
        self.moved.set(Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut *self.stream).poll_write(context, bytes))?;
        self.moved.set(Instant::now());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

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
}
