//! Idle connections of one thread to the upstreams. The one that was used last is used next, so that those too many grow old.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::body::Upward;
use crate::upstream::UpstreamId;

/// Idle connections that a thread keeps to one upstream.
const IDLE_LIMIT: usize = 512;
/// Node ends connections that were idle for 5 s, and so do others: one that is nearly as old is not used any more.
const IDLE_LONGEST: Duration = Duration::from_secs(4);

/// A connection to an upstream.
pub(crate) type Connection = http1::SendRequest<Upward>;

#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<UpstreamId, Vec<Idle>>>,
    filled: Notify,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// An idle connection that can be used at once.
    pub(crate) fn take(&self, upstream: UpstreamId) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&upstream)?;
        while let Some(last) = list.pop() {
            if last.since.elapsed() < IDLE_LONGEST && last.connection.is_ready() {
                return Some(last.connection);
            }
        }
        None
    }

    pub(crate) fn put(&self, upstream: UpstreamId, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            self.filled.notify_one();
        }
        let list = idle.entry(upstream).or_default();
        if list.len() < IDLE_LIMIT {
            list.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Ends what is too old or closed, and all connections to upstreams for which `stays` is false.
    pub(crate) fn prune(&self, stays: impl Fn(UpstreamId) -> bool) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|upstream, list| {
            list.retain(|one| one.since.elapsed() < IDLE_LONGEST && !one.connection.is_closed());
            !list.is_empty() && stays(*upstream)
        });
        if !idle.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Resolves when there are idle connections.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// All connections to this upstream are ended.
    pub(crate) fn forget(&self, upstream: UpstreamId) {
        self.idle.borrow_mut().remove(&upstream);
    }
}

/// A new connection.
///
/// # Errors
/// It is refused, or takes too long.
pub(crate) async fn connect(addr: SocketAddr, within: Duration) -> io::Result<Connection> {
    let stream = timeout(within, TcpStream::connect(addr))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // It ends when the sender is dropped, or the upstream closes it; how, is told to whoever waits for an answer.
    tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
    Ok(sender)
}
