//! Clients' connections: accepted, and served until they end.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::body::Downward;
use crate::descriptors;
use crate::forward::forward;
use crate::front::{Front, Settings};
use crate::headers::Client;
use crate::health::check;
use crate::http1::head::FIELDS;
use crate::http1::refusal::NO_TLS;
use crate::http1::{self, Left, Wire};
use crate::lent::Lent;
use crate::network;
use crate::pool::{Pools, buffer_limit};
use crate::proxy_protocol::{self, Told};
use crate::rewound::Rewound;
use crate::screen::Screen;
use crate::streams::{Limits, Streams};
use crate::tcp;
use crate::threads::Stage;
use crate::tls::Tls;
use crate::upstream::Upstream;

/// After an error, and when few descriptors are left: until some client has gone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After several errors in a row, at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// Between two lines in the log about errors.
const ERROR_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at idle connections to upstreams.
const PRUNE_INTERVAL: Duration = Duration::from_secs(2);
/// An answer that stands still is ended by itself. Only so much later its connection is: when the client takes nothing, and so nobody asks
/// the answer for more.
const STREAM_FIRST: Duration = Duration::from_secs(1);
/// For requests under way when the front is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// What is known of a client, and what its requests need.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) front: Arc<Front>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) client: Client,
    pub(crate) ip: IpAddr,
    /// Its requests, if it speaks HTTP/2.
    streams: OnceCell<Rc<Streams>>,
}

impl Peer {
    fn new(front: Arc<Front>, pools: Rc<Pools>, address: IpAddr, secure: bool) -> Option<Peer> {
        let ip = address.to_canonical();
        Some(Peer {
            front,
            pools,
            client: Client::new(ip, secure)?,
            ip,
            streams: OnceCell::new(),
        })
    }

    pub(crate) fn streams(&self) -> &Rc<Streams> {
        self.streams.get_or_init(Streams::new)
    }

    /// The cookie by which the client stays with this upstream, if it needs one. `sticky`: what its own says.
    pub(crate) fn cookie_for(&self, sticky: Option<u32>, upstream: &Upstream) -> Option<String> {
        let settings = self.front.settings();
        let name = settings
            .cookie
            .as_ref()
            .filter(|_| sticky != Some(upstream.key()))?;
        let secure = if self.client.secure { "; Secure" } else { "" };
        Some(format!(
            "{name}={}; Path=/; HttpOnly; SameSite=Lax{secure}",
            upstream.key()
        ))
    }
}

/// Accepts until `closing` says so, or is gone.
///
/// `checks`: this thread is the one that asks the upstreams how they are.
pub(crate) async fn accept(
    listener: TcpListener,
    front: Arc<Front>,
    checks: bool,
    mut closing: watch::Receiver<Stage>,
) {
    let checker = checks.then(|| tokio::task::spawn_local(check(Arc::clone(&front))));
    let pools = Rc::new(Pools::default());
    let pruner = tokio::task::spawn_local(prune(Rc::clone(&pools), Arc::clone(&front)));
    let mut parting = closing.clone();
    let (crowded_from, mut crowded) = (descriptors::crowded_from(), false);
    let mut errors = AcceptErrors::default();
    loop {
        if parting.wait_for(|stage| !stage.keeps_waiting()).await.is_err() {
            break;
        }
        if crowded {
            tokio::select! {
                _ = closing.wait_for(|stage| *stage == Stage::Closed) => break,
                () = sleep(ACCEPT_PAUSE) => crowded = descriptors::is_crowded(crowded_from),
            }
            continue;
        }
        let accepted = tokio::select! {
            biased;
            accepted = accept_one(&listener) => accepted,
            // Whoever waits is accepted before.
            _ = closing.wait_for(|stage| *stage == Stage::Closed) => break,
            Ok(_) = parting.wait_for(|stage| stage.keeps_waiting()) => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                errors.count = 0;
                crowded = stream.as_raw_fd() >= crowded_from;
                if crowded {
                    warn!(
                        "few descriptors are left: clients wait until others have gone; raise the limit of open files (ulimit -n)"
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
                // No descriptor is left, or the socket was shut before the order to close has come. Clients wait in the backlog.
                errors.add(&listener, &error, Instant::now());
                tokio::select! {
                    _ = closing.wait_for(|stage| *stage == Stage::Closed) => break,
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

/// Waits for a client. Whether `accept` waits belongs to the open file, which others may have too: one that had it wait would stop this thread,
/// and with it the clients of all apps.
async fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        rustix::io::ioctl_fionbio(listener, true)?;
        listener.poll_accept(cx)
    })
    .await
}

/// The socket listens. One that was shut does not.
fn listens(listener: &TcpListener) -> bool {
    rustix::net::sockopt::socket_acceptconn(listener).unwrap_or(true)
}

/// Errors of `accept` in a row.
#[derive(Debug, Default)]
struct AcceptErrors {
    count: u32,
    /// The last one: the socket did not listen any more.
    is_shut: bool,
    logged: Option<Instant>,
    /// How many were not logged since.
    unlogged: u32,
}

impl AcceptErrors {
    /// One more. A socket that was shut on purpose is not worth a line.
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
        warn!(%error, more, "cannot accept");
        self.logged = Some(now);
    }

    /// How long to wait before the next attempt: longer after each error.
    fn pause(&self) -> Duration {
        let doubled = ACCEPT_PAUSE * (1 << self.count.saturating_sub(1).min(4));
        doubled.min(LONGEST_PAUSE)
    }
}

/// Ends idle connections to upstreams that have left at once, and others when they are old.
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

async fn serve(
    (stream, address): (TcpStream, SocketAddr),
    front: Arc<Front>,
    pools: Rc<Pools>,
    closing: watch::Receiver<Stage>,
) {
    // One that has gone already is found to have.
    let _ = stream.set_nodelay(true);
    match network::any(&front.settings().proxy_protocol, address.ip()) {
        false => admit(stream, address.ip(), front, pools, closing).await,
        true => Box::pin(announced((stream, address), front, pools, closing)).await,
    }
}

/// The same of a client of a load balancer before us.
async fn announced(
    (stream, address): (TcpStream, SocketAddr),
    front: Arc<Front>,
    pools: Rc<Pools>,
    closing: watch::Receiver<Stage>,
) {
    match timeout(front.settings().header_timeout, told(stream)).await {
        Ok(Ok((stream, ip))) => admit(stream, ip.unwrap_or(address.ip()), front, pools, closing).await,
        Ok(Err(error)) => debug!(%address, %error, "a client does not speak the PROXY protocol"),
        Err(_) => debug!(%address, "a client has not spoken the PROXY protocol in time"),
    }
}

/// Reads what a load balancer before us says of the client.
async fn told(mut stream: TcpStream) -> io::Result<(Rewound<TcpStream>, Option<IpAddr>)> {
    let mut come = BytesMut::new();
    loop {
        match proxy_protocol::read(&come) {
            Told::Partial => {}
            Told::Complete(length, ip) => {
                come.advance(length);
                return Ok((Rewound::new(come.freeze(), stream), ip));
            }
            Told::Bad => return Err(io::ErrorKind::InvalidData.into()),
        }
        if stream.read_buf(&mut come).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Lets a client in, and speaks TLS with it if that is wanted.
async fn admit<S>(stream: S, ip: IpAddr, front: Arc<Front>, pools: Rc<Pools>, closing: watch::Receiver<Stage>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let ip = ip.to_canonical();
    let settings = front.settings();
    let Some(admission) = front.admit(ip, settings.max_connections) else {
        return;
    };
    let tls = front.tls();
    let Some(peer) = Peer::new(front, pools, ip, tls.is_some()).map(Rc::new) else {
        return;
    };
    match tls {
        None => speak(stream, peer, settings.tcp, closing).await,
        Some(tls) => Box::pin(secured(stream, tls, peer, closing)).await,
    }
    drop(admission);
}

/// Speaks TLS with a client, and within it what the two agree on.
async fn secured<S>(stream: S, tls: Arc<Tls>, peer: Rc<Peer>, closing: watch::Receiver<Stage>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (settings, ip) = (peer.front.settings(), peer.ip);
    let accepting = tls.acceptor().accept(Screen::new(stream)).into_fallible();
    match timeout(settings.header_timeout, accepting).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") && !settings.tcp => {
            http2(Wire::new(stream), peer, closing).await;
        }
        Ok(Ok(stream)) => speak(stream, peer, settings.tcp, closing).await,
        Ok(Err((error, screen))) => {
            debug!(%ip, %error, "no TLS with a client");
            if let Some(stream) = screen.into_plain().filter(|_| !settings.tcp) {
                http1::refuse(stream, &peer, NO_TLS).await;
            }
        }
        Err(_) => debug!(%ip, "no TLS with a client in time"),
    }
}

/// Speaks what the client speaks.
///
/// HTTP/1 without TLS is what most clients speak: all else is in boxes, so that their tasks have no room for it.
async fn speak<S>(stream: S, peer: Rc<Peer>, tcp: bool, closing: watch::Receiver<Stage>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    if tcp {
        return Box::pin(tcp::serve(stream, &peer)).await;
    }
    if peer.front.settings().h2c {
        return Box::pin(either(stream, peer, closing)).await;
    }
    match http1::serve(stream, &peer, closing.clone()).await {
        Left::Ended => {}
        Left::Http2(wire) => Box::pin(http2(wire, peer, closing)).await,
    }
}

/// Serves a client of any version of HTTP before workers that speak HTTP/2: what is passed on has no framing of HTTP/1 any more.
async fn either<S>(stream: S, peer: Rc<Peer>, closing: watch::Receiver<Stage>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = peer.front.settings();
    let mut builder = auto::Builder::new(Local);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_headers(FIELDS)
        .max_buf_size(buffer_limit(&settings));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(read_limit(&settings))
        .keep_alive_interval(Some(settings.header_timeout));
    let lent = Lent::new(stream);
    {
        let connection = pin!(builder.serve_connection(TokioIo::new(lent.clone()), answering(&peer)));
        until_gone(connection, &peer, closing).await;
    }
    part(lent).await;
}

/// Serves a client that speaks HTTP/2.
async fn http2<S>(wire: Wire<S>, peer: Rc<Peer>, closing: watch::Receiver<Stage>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = peer.front.settings();
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .enable_connect_protocol()
        .max_header_list_size(read_limit(&settings))
        .keep_alive_interval(Some(settings.header_timeout));
    let lent = Lent::new(Rewound::new(wire.come.freeze(), wire.io));
    {
        let connection = pin!(builder.serve_connection(TokioIo::new(lent.clone()), answering(&peer)));
        until_gone(connection, &peer, closing).await;
    }
    part(lent).await;
}

/// The largest head that hyper reads. One that is larger it refuses itself: nobody counts or logs that. So it reads more than may be passed on.
fn read_limit(settings: &Settings) -> u32 {
    u32::try_from(2 * settings.max_head).unwrap_or(u32::MAX)
}

/// Ends a connection that hyper has left so that the client can read what it was sent.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(lent: Lent<S>) {
    if let Some(stream) = lent.back() {
        http1::part(stream).await;
    }
}

/// Answers requests that hyper has read.
fn answering(
    peer: &Rc<Peer>,
) -> impl Service<Request<Incoming>, Response = Response<Downward>, Error = Infallible, Future: 'static> + use<>
{
    let peer = Rc::clone(peer);
    service_fn(move |request| {
        let peer = Rc::clone(&peer);
        async move { Ok::<_, Infallible>(forward(&peer, request).await) }
    })
}

/// Serves a connection that hyper drives until it ends. It is asked to when it is at rest for too long or its listener is left, and cut
/// when it stays at rest, and some time after the listener is closed.
async fn until_gone<C: GracefulConnection>(
    mut connection: Pin<&mut C>,
    peer: &Peer,
    mut closing: watch::Receiver<Stage>,
) {
    let settings = peer.front.settings();
    let limits = Limits {
        first: settings.header_timeout,
        idle: settings.idle_timeout,
        answer: settings.stream_timeout + STREAM_FIRST,
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.wait_for(|stage| stage.tells()) => {}
        () = peer.streams().rest(limits, Instant::now()) => {}
    }
    connection.as_mut().graceful_shutdown();
    let limits = Limits {
        first: CLOSE_WITHIN,
        idle: CLOSE_WITHIN,
        ..limits
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.wait_for(|stage| *stage == Stage::Closed) => {}
        () = peer.streams().rest(limits, Instant::now()) => return debug!("a client was cut: it is at rest"),
    }
    if timeout(CLOSE_WITHIN, connection).await.is_err() {
        debug!("a client was cut: it has not ended in time");
    }
}

/// Runs what a connection needs to run beside it on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl<F> Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::net::Shutdown;
    use tokio::task::LocalSet;
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
        // Were it to wait in the kernel it would never come back.
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
    async fn warnings(listener: TcpListener, during: impl AsyncFnOnce(watch::Sender<Stage>)) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let _logged = tracing::subscriber::set_default(Warnings(Arc::clone(&count)));
        let (closing, stages) = watch::channel(Stage::Open);
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
            closing.send_replace(Stage::Closed);
        });
        let count = count.await;
        assert!((8..=10).contains(&count), "{count} lines in 9.5 s");
    }
}
