//! Connections that hyper drives: of HTTP/2 clients, and of all clients if the workers speak HTTP/2.
//!
//! Time-outs and limits are not layers of `tower`: they depend on the worker that was chosen and on how the bodies move, and `tower`'s
//! would need a `Clone` service and take a lock for each request.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::download::ResponseBody;
use super::forward::forward;
use super::shared_io::SharedIo;
use super::streams::Limits;
use crate::any_stream::AnyStream;
use crate::h1::connection::PREFACE;
use crate::h1::local_response;
use crate::peer::Peer;
use crate::policy::fields::MAX_FIELDS;
use crate::policy::rejection::SLOW_HEAD;
use crate::pool::{Local, buffer_limit};
use crate::prefixed::Prefixed;
use crate::settings::Settings;
use crate::stage::ClosingStage;

/// A stalled response ends by itself. Its connection is closed this much later, in case the client reads nothing, so that the response is not
/// polled.
const STREAM_FIRST: Duration = Duration::from_secs(1);
/// Time for requests in flight when the front is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// How much of a request's body may have arrived that its worker has not taken yet, in bytes. An upload gets that much in one round trip: 20 MiB/s
/// where one takes 50 ms.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all requests of a connection, which is the memory that a client can take. It is what so many stalled uploads hold before the
/// others of the connection wait, too.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// Serves a client of any version of HTTP, for workers that speak HTTP/2. HTTP/1 framing cannot be passed on to them.
pub(crate) async fn serve_any_version(
    mut stream: AnyStream,
    peer: Rc<Peer>,
    mut closing: watch::Receiver<ClosingStage>,
) {
    let settings = peer.front.settings();
    let began = Instant::now();
    let mut first = BytesMut::new();
    let is_http2 = tokio::select! {
        // What has arrived is served.
        biased;
        is_http2 = is_http2(&mut stream, &mut first) => is_http2,
        _ = closing.wait_for(|stage| stage.closes_idle()) => return local_response::close_idle(stream).await,
        () = sleep(settings.header_timeout) => return local_response::close_idle(stream).await,
    };
    let stream = Prefixed::new(first.freeze(), stream);
    match is_http2 {
        // Workers that speak HTTP/2 cannot be asked for a WebSocket.
        Ok(true) => http2(http2_builder(&settings), stream, &peer, closing, began).await,
        Ok(false) => http1(stream, &peer, closing, began).await,
        Err(error) => debug!(ip = %peer.ip, %error, "a client has gone before it said anything"),
    }
}

/// Reads into `first` until it is known whether the client speaks HTTP/2.
async fn is_http2(stream: &mut AnyStream, first: &mut BytesMut) -> io::Result<bool> {
    while first.len() < PREFACE.len() {
        // Whoever ends in the middle of it gets what HTTP/1 has for that.
        if stream.read_buf(first).await? == 0
            || !PREFACE.starts_with(&first[..first.len().min(PREFACE.len())])
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Serves an HTTP/2 client.
pub(crate) async fn serve(
    stream: Prefixed<AnyStream>,
    peer: Rc<Peer>,
    closing: watch::Receiver<ClosingStage>,
) {
    let mut builder = http2_builder(&peer.front.settings());
    builder.enable_connect_protocol();
    http2(builder, stream, &peer, closing, Instant::now()).await;
}

fn http2_builder(settings: &Settings) -> http2::Builder<Local> {
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(read_limit(settings))
        .keep_alive_interval(Some(settings.header_timeout));
    builder
}

async fn http2(
    builder: http2::Builder<Local>,
    stream: Prefixed<AnyStream>,
    peer: &Rc<Peer>,
    closing: watch::Receiver<ClosingStage>,
    began: Instant,
) {
    let shared = SharedIo::new(stream, None);
    {
        let service = answering(peer, None);
        let connection = pin!(builder.serve_connection(TokioIo::new(shared.clone()), service));
        until_gone(connection, peer, (closing, ClosingStage::asks_to_close), began).await;
    }
    close_idle(shared).await;
}

async fn http1(
    stream: Prefixed<AnyStream>,
    peer: &Rc<Peer>,
    closing: watch::Receiver<ClosingStage>,
    began: Instant,
) {
    let settings = peer.front.settings();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Its time would include that between two requests. `until_gone` tells the two apart.
        .header_read_timeout(None)
        .max_headers(MAX_FIELDS)
        .max_buf_size(buffer_limit(&settings));
    let shared = SharedIo::new(stream, Some(Rc::clone(peer.streams())));
    let ended;
    {
        let service = answering(peer, Some(closing.clone()));
        let connection = pin!(builder.serve_connection(TokioIo::new(shared.clone()), service));
        // hyper closes an idle connection when it is asked to shut down. Before that, responses ask the client.
        ended = until_gone(connection, peer, (closing, ClosingStage::closes_idle), began).await;
    }
    match ended {
        // It takes what it is sent, so the response before is complete.
        Ended::SlowHead if !shared.is_blocked() => {
            if let Some(stream) = shared.back() {
                local_response::reject(stream, peer, SLOW_HEAD).await;
            }
        }
        Ended::SlowHead | Ended::Other => close_idle(shared).await,
    }
}

/// The largest head that hyper reads. It rejects larger ones itself, uncounted and unlogged, so it reads more than `max_head`.
fn read_limit(settings: &Settings) -> u32 {
    u32::try_from(2 * settings.max_head).unwrap_or(u32::MAX)
}

/// Closes a connection that hyper has left, so that the client can still read the last response.
async fn close_idle(shared: SharedIo<Prefixed<AnyStream>>) {
    if let Some(stream) = shared.back() {
        local_response::close_idle(stream).await;
    }
}

/// The service that answers requests. `closing`: responses ask the client to close the connection, unless the front is open; for HTTP/1.
fn answering(
    peer: &Rc<Peer>,
    closing: Option<watch::Receiver<ClosingStage>>,
) -> impl Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible, Future: 'static> + use<>
{
    let peer = Rc::clone(peer);
    service_fn(move |request| {
        let (peer, closing) = (Rc::clone(&peer), closing.clone());
        async move {
            let mut response = forward(&peer, request).await;
            if closing.is_some_and(|stage| *stage.borrow() != ClosingStage::Open) {
                // hyper closes the connection after it.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    })
}

/// How a connection that hyper drives has ended.
enum Ended {
    /// The head of a request did not come in time.
    SlowHead,
    Other,
}

/// Serves a connection until it ends. The client is asked to close it when it is idle for too long, since it `began` at first, or from the
/// stage on for which `asks` is true. The connection is cut if it stays idle, and some time after the front is closed.
async fn until_gone<C: GracefulConnection>(
    mut connection: Pin<&mut C>,
    peer: &Peer,
    (mut closing, asks): (watch::Receiver<ClosingStage>, fn(ClosingStage) -> bool),
    began: Instant,
) -> Ended {
    let settings = peer.front.settings();
    let limits = Limits {
        first: settings.header_timeout,
        idle: settings.idle_timeout,
        answer: settings.stream_timeout + STREAM_FIRST,
    };
    tokio::select! {
        // A request that has arrived is served.
        biased;
        _ = connection.as_mut() => return Ended::Other,
        _ = closing.wait_for(|stage| asks(*stage)) => {}
        () = peer.streams().rest(limits, began) => {
            if peer.streams().awaits_head() {
                return Ended::SlowHead;
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    let limits = Limits {
        first: CLOSE_WITHIN,
        idle: CLOSE_WITHIN,
        ..limits
    };
    tokio::select! {
        _ = connection.as_mut() => return Ended::Other,
        _ = closing.wait_for(|stage| *stage == ClosingStage::Closed) => {}
        () = peer.streams().rest(limits, Instant::now()) => {
            debug!("closed an idle client");
            return Ended::Other;
        }
    }
    if timeout(CLOSE_WITHIN, connection).await.is_err() {
        debug!("closed a client that did not finish in time");
    }
    Ended::Other
}
