//! Accepts clients, until the front is closed.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::descriptors;
use crate::front::Front;
use crate::health::check;
use crate::pool::Pools;
use crate::serve::serve;
use crate::stage::ClosingStage;

/// Pause after an error, and while few descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause after several errors in a row.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// Time between two log lines about errors.
const ERROR_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two rounds of closing idle connections to upstreams.
const PRUNE_INTERVAL: Duration = Duration::from_secs(2);

/// Accepts clients until the front is closed, or its socket is shut.
///
/// `checks`: this thread runs the health checks.
pub(crate) async fn accept(
    listener: TcpListener,
    front: Arc<Front>,
    checks: bool,
    mut closing: watch::Receiver<ClosingStage>,
) {
    let checker = checks.then(|| tokio::task::spawn_local(check(Arc::clone(&front))));
    let pools = Rc::new(Pools::default());
    let pruner = tokio::task::spawn_local(prune(Rc::clone(&pools), Arc::clone(&front)));
    let mut parting = closing.clone();
    let (crowded_from, mut crowded) = (descriptors::crowded_from(), false);
    let mut errors = AcceptErrors::default();
    loop {
        if parting
            .wait_for(|stage| !stage.holds_new_clients())
            .await
            .is_err()
        {
            break;
        }
        if crowded {
            tokio::select! {
                _ = closing.wait_for(|stage| *stage == ClosingStage::Closed) => break,
                () = sleep(ACCEPT_PAUSE) => crowded = descriptors::is_crowded(crowded_from),
            }
            continue;
        }
        let accepted = tokio::select! {
            biased;
            accepted = accept_one(&listener) => accepted,
            // Clients that wait already are accepted before.
            _ = closing.wait_for(|stage| *stage == ClosingStage::Closed) => break,
            Ok(_) = parting.wait_for(|stage| stage.holds_new_clients()) => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                errors.count = 0;
                crowded = stream.as_raw_fd() >= crowded_from;
                if crowded {
                    warn!(
                        "few descriptors left: new clients wait until others disconnect; raise the limit of open files (ulimit -n)"
                    );
                }
                let served = serve(
                    (stream, peer),
                    Arc::clone(&front),
                    Rc::clone(&pools),
                    closing.clone(),
                );
                tokio::task::spawn_local(served);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // No descriptor is left, or the socket was shut before the order to close arrived. Clients wait in the backlog.
                errors.add(&listener, &error, Instant::now());
                tokio::select! {
                    _ = closing.wait_for(|stage| *stage == ClosingStage::Closed) => break,
                    () = sleep(errors.pause()) => {}
                }
                if errors.is_shut && !listens(&listener) {
                    break;
                }
            }
        }
    }
    pruner.abort();
    if let Some(checker) = checker {
        checker.abort();
    }
}

/// Accepts one client. `O_NONBLOCK` belongs to the open file description, which other processes may share: if one of them clears it, `accept`
/// would block this thread, and with it the clients of all apps.
async fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        rustix::io::ioctl_fionbio(listener, true)?;
        listener.poll_accept(cx)
    })
    .await
}

/// The socket listens. After a shutdown it does not.
fn listens(listener: &TcpListener) -> bool {
    rustix::net::sockopt::socket_acceptconn(listener).unwrap_or(true)
}

/// Consecutive errors of `accept`.
#[derive(Debug, Default)]
struct AcceptErrors {
    count: u32,
    /// The socket did not listen any more at the last error.
    is_shut: bool,
    logged: Option<Instant>,
    /// How many errors were not logged since.
    unlogged: u32,
}

impl AcceptErrors {
    /// Adds an error, and logs it unless the socket was shut on purpose.
    fn add(&mut self, listener: &TcpListener, error: &io::Error, now: Instant) {
        self.count += 1;
        self.is_shut = error.kind() == io::ErrorKind::InvalidInput && !listens(listener);
        if self.is_shut {
            return;
        }
        if self
            .logged
            .is_some_and(|logged| now.duration_since(logged) < ERROR_INTERVAL)
        {
            self.unlogged += 1;
            return;
        }
        let more = std::mem::take(&mut self.unlogged);
        warn!(%error, more, "cannot accept connections");
        self.logged = Some(now);
    }

    /// Pause before the next attempt: longer after each error.
    fn pause(&self) -> Duration {
        let doubled = ACCEPT_PAUSE * (1 << self.count.saturating_sub(1).min(4));
        doubled.min(LONGEST_PAUSE)
    }
}

/// Closes idle connections to upstreams that are gone, and old ones.
async fn prune(pools: Rc<Pools>, front: Arc<Front>) {
    let mut changes = front.changes();
    let mut some = true;
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep(PRUNE_INTERVAL), if some => {}
            () = pools.used(), if !some => {}
        }
        let set = front.upstreams.load_full();
        some = pools.prune(|id| set.has(id));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::net::Shutdown;
    use tokio::task::LocalSet;
    use tokio::time::timeout;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;

    #[tokio::test]
    async fn a_listener_that_others_have_made_wait_does_not_wait() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        let client = TcpStream::connect(addr).await.expect("it listens");
        rustix::io::ioctl_fionbio(&listener, false).expect("it is ours");
        let (_served, peer) = accept_one(&listener).await.expect("one has come");
        assert_eq!(peer, client.local_addr().expect("its address"));
        rustix::io::ioctl_fionbio(&listener, false).expect("it is ours");
        // If it blocked in the kernel, it would never return.
        let other = timeout(Duration::from_millis(1), accept_one(&listener)).await;
        assert!(other.is_err(), "{other:?}");
    }

    /// Counts the warnings that this thread logs.
    struct Warnings(Arc<AtomicUsize>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// Accepts from a listener while `during` runs, and until it has ended; returns how many warnings that took.
    async fn warnings(listener: TcpListener, during: impl AsyncFnOnce(watch::Sender<ClosingStage>)) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let _logged = tracing::subscriber::set_default(Warnings(Arc::clone(&count)));
        let (closing, stages) = watch::channel(ClosingStage::Open);
        let accepting = async {
            let accepting = tokio::task::spawn_local(accept(listener, Front::new(), false, stages));
            during(closing).await;
            let ended = timeout(Duration::from_secs(60), accepting).await;
            ended.expect("it ends").expect("it does not panic");
        };
        LocalSet::new().run_until(accepting).await;
        count.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_is_shut_on_purpose_is_left_without_a_word() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let shut = listener.as_fd().try_clone_to_owned().expect("a descriptor");
        let count = warnings(listener, async |closing| {
            tokio::task::yield_now().await;
            rustix::net::shutdown(&shut, Shutdown::Both).expect("it listens");
            // The order to close comes later.
            tokio::task::spawn_local(async move {
                closing.closed().await;
            });
        });
        assert_eq!(count.await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_lasts_is_logged_once_a_second() {
        // `accept` fails on a socket for datagrams as soon as it has one.
        let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a port");
        let addr = socket.local_addr().expect("its address");
        socket.send_to(b"x", addr).expect("it is sent");
        socket.set_nonblocking(true).expect("it is ours");
        let listener = std::net::TcpListener::from(OwnedFd::from(socket));
        let listener = TcpListener::from_std(listener).expect("it can be polled");
        let count = warnings(listener, async |closing| {
            // tidy: sleep because the clock is not the real one
            sleep(Duration::from_millis(9500)).await;
            closing.send_replace(ClosingStage::Closed);
        });
        let count = count.await;
        assert!((8..=10).contains(&count), "{count} lines in 9.5 s");
    }
}
