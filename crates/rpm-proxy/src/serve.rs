//! Clients' connections: accepted, and served until they end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::forward::{Context, forward};
use crate::front::Front;
use crate::headers::Client;
use crate::pool::Pool;

/// When no descriptor is left: until some client has gone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at idle connections, while there are any.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);
/// Streams that a client may have open on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// For requests under way when the front is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);
/// Longest head of a request, and of an HTTP/2 header list, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;
const HEADERS_LIMIT: u32 = 64 * 1024;

/// Accepts until `closing` says so, or is gone.
pub(crate) async fn accept(listener: TcpListener, front: Arc<Front>, mut closing: watch::Receiver<bool>) {
    let pool = Rc::new(Pool::default());
    let pruner = tokio::task::spawn_local(prune(Rc::clone(&pool), Arc::clone(&front)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let served = serve(
                    (stream, peer),
                    Arc::clone(&front),
                    Rc::clone(&pool),
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
async fn prune(pool: Rc<Pool>, front: Arc<Front>) {
    let mut changes = front.changes();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = pool.filled() => sleep(PRUNE_INTERVAL).await,
        }
        let set = front.upstreams.load_full();
        pool.prune(|id| set.has(id));
    }
}

async fn serve(
    (stream, peer): (TcpStream, SocketAddr),
    front: Arc<Front>,
    pool: Rc<Pool>,
    mut closing: watch::Receiver<bool>,
) {
    // One that has gone already is found to have.
    let _ = stream.set_nodelay(true);
    let ip = peer.ip().to_canonical();
    let Ok(address) = HeaderValue::try_from(ip.to_string()) else {
        return;
    };
    let header_timeout = front.settings.header_timeout;
    let context = Rc::new(Context {
        front,
        pool,
        client: Client {
            address,
            scheme: HeaderValue::from_static("http"),
        },
        ip,
    });
    let service = service_fn(move |request| {
        let context = Rc::clone(&context);
        async move { Ok::<_, Infallible>(forward(&context, request).await) }
    });
    let mut builder = Builder::new(Local);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEAD_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS_LIMIT)
        .keep_alive_interval(Some(header_timeout));
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = closing.changed() => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        if timeout(CLOSE_WITHIN, connection).await.is_err() {
            debug!(%peer, "a client was cut: it has not ended in time");
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
