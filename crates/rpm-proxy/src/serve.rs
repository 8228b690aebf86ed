//! Clients' connections: accepted, and served until they end.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::forward::forward;
use crate::front::Front;
use crate::headers::Client;
use crate::http1::head::RequestHead;
use crate::http1::{self, Left, Wire};
use crate::pool::Pools;
use crate::rewound::Rewound;
use crate::upstream::Upstream;

/// When no descriptor is left: until some client has gone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at idle connections to upstreams.
const PRUNE_INTERVAL: Duration = Duration::from_secs(2);
/// Streams that a client may have open on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// For requests under way when the front is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);
/// Longest header list of HTTP/2, in bytes.
const HEADERS_LIMIT: u32 = 64 * 1024;

/// What is known of a client, and what its requests need.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) front: Arc<Front>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) client: Client,
    pub(crate) ip: IpAddr,
}

impl Peer {
    fn new(front: Arc<Front>, pools: Rc<Pools>, address: IpAddr, secure: bool) -> Option<Peer> {
        let ip = address.to_canonical();
        Some(Peer {
            front,
            pools,
            client: Client::new(ip, secure)?,
            ip,
        })
    }

    /// The line of an answer's head by which the client stays with this upstream, if it needs one.
    pub(crate) fn cookie_for(&self, request: &RequestHead, upstream: &Upstream) -> Vec<u8> {
        let mut line = String::new();
        if let Some(name) = &self.front.settings.cookie
            && request.sticky != Some(upstream.key())
        {
            let secure = if self.client.secure { "; Secure" } else { "" };
            // Writing to a string cannot fail.
            let _ = write!(
                line,
                "set-cookie: {name}={}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n",
                upstream.key()
            );
        }
        line.into_bytes()
    }
}

/// Accepts until `closing` says so, or is gone.
pub(crate) async fn accept(listener: TcpListener, front: Arc<Front>, mut closing: watch::Receiver<bool>) {
    let pools = Rc::new(Pools::default());
    let pruner = tokio::task::spawn_local(prune(Rc::clone(&pools), Arc::clone(&front)));
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            // Whoever waits is accepted before.
            _ = closing.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                pools.use_them();
                let served = serve(
                    (stream, peer),
                    Arc::clone(&front),
                    Rc::clone(&pools),
                    closing.clone(),
                );
                tokio::task::spawn_local(served);
            }
            Err(error) => {
                // The client's own, or no descriptor is left: it waits in the backlog.
                if !matches!(error.kind(), std::io::ErrorKind::ConnectionAborted) {
                    warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    pruner.abort();
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
    closing: watch::Receiver<bool>,
) {
    // One that has gone already is found to have.
    let _ = stream.set_nodelay(true);
    if let Some(peer) = Peer::new(front, pools, address.ip(), false) {
        speak(stream, Rc::new(peer), closing).await;
    }
}

/// Speaks what the client speaks.
async fn speak<S>(stream: S, peer: Rc<Peer>, closing: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    match http1::serve(stream, &peer, closing.clone()).await {
        Left::Ended => {}
        Left::Http2(wire) => http2(wire, peer, closing).await,
    }
}

/// Serves a client that speaks HTTP/2.
async fn http2<S>(wire: Wire<S>, peer: Rc<Peer>, mut closing: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let header_timeout = peer.front.settings.header_timeout;
    let service = service_fn(move |request| {
        let peer = Rc::clone(&peer);
        async move { Ok::<_, Infallible>(forward(&peer, request).await) }
    });
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS_LIMIT)
        .keep_alive_interval(Some(header_timeout));
    let io = TokioIo::new(Rewound::new(wire.come.freeze(), wire.io));
    let mut connection = pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = closing.changed() => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        if timeout(CLOSE_WITHIN, connection).await.is_err() {
            debug!("a client was cut: it has not ended in time");
        }
    }
}

/// Runs what a connection needs to run beside it on this thread.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F> Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}

impl Client {
    /// Of this address.
    pub(crate) fn new(ip: IpAddr, secure: bool) -> Option<Client> {
        let scheme = if secure { "https" } else { "http" };
        let node = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        Some(Client {
            address: HeaderValue::try_from(ip.to_string()).ok()?,
            scheme: HeaderValue::from_static(scheme),
            forwarded: HeaderValue::try_from(format!("for={node};proto={scheme}")).ok()?,
            secure,
        })
    }
}
