//! Idle connections of one thread to the upstreams. The one that was used last is used next, so that superfluous ones expire.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::Executor;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::h1::wire::Wire;
use crate::h2::upload::RequestBody;
use crate::policy::fields::MAX_FIELDS;
use crate::settings::Settings;
use crate::target::UpstreamId;
use crate::upstream::{Upstream, connect};

/// Most idle connections of a thread to one upstream.
const IDLE_LIMIT: usize = 512;
/// Idle connections are not used after this time: Node and others close theirs after 5 s.
const IDLE_LONGEST: Duration = Duration::from_secs(4);

/// How much of a response a worker that speaks HTTP/2 may send before its client takes it, in bytes. On loopback a round trip takes less than a
/// millisecond, so that this is no limit for one response.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all responses of a connection. A thread has one to each worker, so clients that do not read must not use it up: it holds the
/// windows of 4096 of them.
const CONNECTION_WINDOW: u32 = 4096 * STREAM_WINDOW;

/// Most bytes that hyper buffers of an HTTP/1 connection: its own default, or more if heads may be larger.
pub(crate) fn buffer_limit(settings: &Settings) -> usize {
    const USUAL: usize = 400 * 1024;
    USUAL.max(2 * settings.max_head)
}

/// A connection to an upstream that hyper drives.
pub(crate) enum Connection {
    /// One request at a time.
    Http1(http1::SendRequest<RequestBody>),
    /// Any number of requests at once.
    Http2(http2::SendRequest<RequestBody>),
}

impl Connection {
    /// Sends a request. The error holds the request if it was not sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Connection::Http1(sender) => sender.try_send_request(request).await,
            Connection::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

impl Connection {
    /// It cannot be sent requests any more.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Connection::Http1(sender) => sender.is_closed(),
            Connection::Http2(sender) => sender.is_closed(),
        }
    }
}

/// Runs hyper's background tasks on this thread.
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

/// A connection that can be used again.
pub(crate) trait Reusable {
    /// It can be sent a request.
    fn is_open(&self) -> bool;
}

impl Reusable for http1::SendRequest<RequestBody> {
    fn is_open(&self) -> bool {
        self.is_ready()
    }
}

impl Reusable for Wire<TcpStream> {
    fn is_open(&self) -> bool {
        // It has not ended, and no unexpected bytes have arrived.
        let read = self.io.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The pools of a thread.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    /// For HTTP/1 clients.
    pub(crate) wires: Pool<Wire<TcpStream>>,
    /// For HTTP/2 clients.
    pub(crate) connections: Pool<http1::SendRequest<RequestBody>>,
    /// To upstreams that speak HTTP/2: one each, for all requests.
    shared: RefCell<HashMap<UpstreamId, http2::SendRequest<RequestBody>>>,
    /// [`Settings::max_head`] of the connections that hyper drives. It is set when they open.
    max_head: Cell<usize>,
    /// The task that prunes the pools sleeps, because they were empty.
    unwatched: Cell<bool>,
    used: Notify,
}

impl Pools {
    /// Closes old connections and those to upstreams for which `stays` is false. Returns whether any are left; if not, [`Pools::used`] resolves
    /// when there is one again.
    pub(crate) fn prune(&self, stays: impl Fn(UpstreamId) -> bool) -> bool {
        let wires = self.wires.prune(&stays);
        let connections = self.connections.prune(&stays);
        // Requests in flight keep theirs.
        let mut shared = self.shared.borrow_mut();
        shared.retain(|upstream, sender| stays(*upstream) && !sender.is_closed());
        let some = wires || connections || !shared.is_empty();
        self.unwatched.set(!some);
        some
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, upstream: UpstreamId, wire: Wire<TcpStream>) {
        self.wires.put(upstream, wire);
        self.watch();
    }

    fn watch(&self) {
        if self.unwatched.take() {
            self.used.notify_one();
        }
    }

    /// An open connection to the upstream.
    pub(crate) fn take(&self, upstream: UpstreamId, settings: &Settings) -> Option<Connection> {
        if self.max_head.replace(settings.max_head) != settings.max_head {
            self.connections.clear();
            self.shared.borrow_mut().clear();
        }
        if !settings.h2c {
            return self.connections.take(upstream).map(Connection::Http1);
        }
        let shared = self.shared.borrow();
        let sender = shared.get(&upstream).filter(|sender| !sender.is_closed())?;
        Some(Connection::Http2(sender.clone()))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// It is refused, or takes too long.
    pub(crate) async fn connect(
        &self,
        upstream: &Upstream,
        within: Duration,
        settings: &Settings,
    ) -> io::Result<Connection> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let io = TokioIo::new(connect(upstream, within).await?);
        // The task ends when the sender is dropped or the upstream closes the connection. The request gets the error.
        if settings.h2c {
            let mut builder = http2::Builder::new(Local);
            builder
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(u32::try_from(settings.max_head).unwrap_or(u32::MAX));
            let shaken = timeout(within, builder.handshake(io)).await.map_err(late)?;
            let (sender, connection) = shaken.map_err(io::Error::other)?;
            tokio::task::spawn_local(async move { drop(connection.await) });
            self.shared.borrow_mut().insert(upstream.id(), sender.clone());
            self.watch();
            return Ok(Connection::Http2(sender));
        }
        // The same limits as for HTTP/1 clients.
        let mut builder = http1::Builder::new();
        builder
            .max_headers(MAX_FIELDS)
            .max_header_size(settings.max_head)
            .max_buf_size(buffer_limit(settings));
        let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
        Ok(Connection::Http1(sender))
    }

    /// Keeps a connection for the next request. One of HTTP/2 is shared already.
    pub(crate) fn put(&self, upstream: UpstreamId, connection: Connection) {
        match connection {
            Connection::Http1(sender) => {
                self.connections.put(upstream, sender);
                self.watch();
            }
            Connection::Http2(_) => {}
        }
    }

    /// Drops all connections to the upstream that hyper drives.
    pub(crate) fn forget(&self, upstream: UpstreamId) {
        self.connections.forget(upstream);
        self.shared.borrow_mut().remove(&upstream);
    }

    /// Resolves when the pools are not empty any more.
    pub(crate) async fn used(&self) {
        self.used.notified().await;
    }
}

/// Idle connections of one type.
pub(crate) struct Pool<C> {
    idle: RefCell<HashMap<UpstreamId, Vec<Idle<C>>>>,
}

struct Idle<C> {
    connection: C,
    since: Instant,
}

impl<C> Default for Pool<C> {
    fn default() -> Pool<C> {
        Pool {
            idle: RefCell::default(),
        }
    }
}

impl<C> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("upstreams", &self.idle.borrow().len())
            .finish()
    }
}

impl<C: Reusable> Pool<C> {
    /// An idle connection that can be used at once.
    pub(crate) fn take(&self, upstream: UpstreamId) -> Option<C> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&upstream)?;
        while let Some(last) = list.pop() {
            if last.since.elapsed() < IDLE_LONGEST && last.connection.is_open() {
                return Some(last.connection);
            }
        }
        None
    }

    fn put(&self, upstream: UpstreamId, connection: C) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(upstream).or_default();
        if list.len() < IDLE_LIMIT {
            list.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    fn prune(&self, stays: impl Fn(UpstreamId) -> bool) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|upstream, list| {
            list.retain(|one| one.since.elapsed() < IDLE_LONGEST && one.connection.is_open());
            !list.is_empty() && stays(*upstream)
        });
        !idle.is_empty()
    }

    fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes all connections to the upstream.
    pub(crate) fn forget(&self, upstream: UpstreamId) {
        self.idle.borrow_mut().remove(&upstream);
    }
}
