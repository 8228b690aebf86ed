//! Forwards one request: chooses an upstream, sends the request, and retries if that is allowed.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, SET_COOKIE,
    TRANSFER_ENCODING,
};
use hyper::http::{request, response};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::timeout;

use super::download::{ResponseBody, Silence, UpstreamBody};
use super::head;
use super::streams::Stream;
use super::upload::{Fault, RequestBody, Upload};
use super::websocket;
use crate::access_log::Line;
use crate::attempt::Attempts;
use crate::gzip::Gzip;
use crate::peer::Peer;
use crate::policy::rejection::{
    BROKEN_BODY, MOVED, NO_CONNECT, NO_WEBSOCKET, Rejection, SLOW_CLIENT, TOO_LONG, UNANSWERED, UNDIRECTED,
};
use crate::policy::request::{RequestPolicy, https_location};
use crate::policy::retry::{Unanswered, is_idempotent};
use crate::pool::Connection;
use crate::settings::Settings;
use crate::trace::context::Context;
use crate::trace::open::OpenSpan;
use crate::upstream::InFlight;

/// Why a request has no response of a worker.
enum Failure {
    /// The proxy rejects it.
    Rejected(Rejection),
    /// The client has broken it off.
    Gone,
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Failure {
        Failure::Rejected(rejection)
    }
}

/// The context of a request's trace, and its span if it is sampled.
type Trace = (Context, Option<Rc<OpenSpan>>);

/// Answers a request of a client.
pub(super) async fn forward(peer: &Peer, request: Request<Incoming>) -> Response<ResponseBody> {
    peer.front.earn_retry();
    let line = peer
        .front
        .log()
        .map(|log| Line::new(log, head::entry(&request), peer.ip));
    let settings = peer.front.settings();
    let tracing = settings.tracing.as_ref();
    let trace = tracing.map(|tracing| head::trace(&request, tracing, peer.ip));
    let span = trace.as_ref().and_then(|(_, span)| span.clone());
    let is_head = request.method() == Method::HEAD;
    let is_http2 = request.version() == Version::HTTP_2;
    let (mut response, status) = match exchange(peer, request, settings, trace).await {
        Ok(response) => {
            let status = response.status().as_u16();
            (response, status)
        }
        Err(Failure::Rejected(rejection)) => (plain(rejection, is_head), rejection.status),
        // Over HTTP/1 hyper sends it, and closes the connection.
        Err(Failure::Gone) if !is_http2 => (plain(BROKEN_BODY, is_head), BROKEN_BODY.status),
        // The stream is reset: the client does not read it, and it is not counted.
        Err(Failure::Gone) => (Response::new(ResponseBody::nothing()), 0),
    };
    if status != 0 {
        peer.front.count_answer(status);
    }
    if let Some(line) = line {
        response.body_mut().note(line, status);
    }
    if let Some(span) = span {
        span.answered(status);
        response.body_mut().hold(span);
    }
    response
}

async fn exchange(
    peer: &Peer,
    mut request: Request<Incoming>,
    settings: Arc<Settings>,
    trace: Option<Trace>,
) -> Result<Response<ResponseBody>, Failure> {
    let stream = peer.streams().open();
    let websocket = websocket::is_asked_for(&request);
    if websocket && settings.h2c {
        return Err(NO_CONNECT.into());
    }
    let client = websocket.then(|| hyper::upgrade::on(&mut request));
    let gzip = settings.compress.then(|| head::knows_gzip(request.headers()));
    let cookie = settings.cookie.as_deref();
    let sticky = cookie.and_then(|name| head::cookie(request.headers(), name));
    let has_body = !websocket && !request.body().is_end_stream();
    let (mut parts, body) = request.into_parts();
    let policy = RequestPolicy::new(&settings, &peer.client, peer.ip);
    let (context, span) = trace.unzip();
    head::to_upstream(&mut parts, policy, context.as_ref(), websocket)?;
    if let Some(port) = settings.redirect {
        return redirect(&parts, port);
    }
    if settings.h2c {
        head::to_h2c(&mut parts)?;
    } else if has_body {
        say_length(&mut parts.headers);
    }
    if websocket {
        websocket::ask(&mut parts, peer.front.ms_since_start());
    }
    let replayable = !websocket && !has_body && is_idempotent(parts.method.as_str());
    let replay = replayable.then(|| Head::of(&parts));
    let (body, upload) = match has_body {
        true => limited(body, settings.max_body, peer)?,
        false => (RequestBody::Nothing, None),
    };
    let mut attempt = Attempt {
        peer,
        request: Some(Request::from_parts(parts, body)),
        replay,
        attempts: Attempts::new(
            &peer.front,
            Arc::clone(&settings),
            (peer.ip, sticky),
            replayable,
            span.flatten(),
        ),
        upload,
        is_websocket: websocket,
        settings,
    };
    let answer = loop {
        if let Some(answer) = attempt.once().await? {
            break answer;
        }
    };
    let info = RequestInfo {
        stream,
        upload: attempt.upload,
        gzip,
        within: attempt.settings.stream_timeout,
    };
    let set = peer.cookie_for(sticky, answer.in_flight.upstream());
    let mut response = match client {
        Some(client) => switch(peer, client, answer, info),
        None => deliver(peer, answer, info),
    };
    if let Some(set) = set.and_then(|set| HeaderValue::try_from(set).ok()) {
        response.headers_mut().append(SET_COOKIE, set);
    }
    Ok(response)
}

/// The body of a request, and its progress.
///
/// # Errors
/// Its length is known and larger than `max` bytes.
fn limited(body: Incoming, max: u64, peer: &Peer) -> Result<(RequestBody, Option<Rc<Upload>>), Rejection> {
    if body.size_hint().lower() > max {
        return Err(TOO_LONG);
    }
    let upload = Upload::new(Rc::clone(peer.streams()));
    Ok((RequestBody::client(body, max, Rc::clone(&upload)), Some(upload)))
}

/// Marks a body without a length as chunked. For some methods hyper would not send it otherwise.
fn say_length(headers: &mut HeaderMap) {
    if !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Redirects the client to https.
fn redirect(parts: &request::Parts, port: u16) -> Result<Response<ResponseBody>, Failure> {
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let location = host.and_then(|host| HeaderValue::try_from(https_location(host, path, port)).ok());
    let location = location.ok_or(UNDIRECTED)?;
    let mut response = plain(MOVED, parts.method == Method::HEAD);
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// Starts a WebSocket, if the worker has agreed.
fn switch(peer: &Peer, client: OnUpgrade, answer: Answer, info: RequestInfo) -> Response<ResponseBody> {
    if answer.parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let until_it_ends = (answer.in_flight, info.stream);
        let limits = (Arc::clone(&peer.front), peer.front.settings().tunnel_timeout);
        let response = Response::from_parts(answer.parts, answer.body);
        return websocket::join(client, response, until_it_ends, limits);
    }
    deliver(peer, answer, RequestInfo { gzip: None, ..info })
}

/// A request without a body, to be sent again.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn of(parts: &request::Parts) -> Head {
        Head {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
        }
    }

    fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Nothing);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// The response of an upstream, and its connection.
struct Answer {
    /// The head for the client.
    parts: response::Parts,
    body: Incoming,
    connection: Connection,
    /// The upstream closes the connection after it.
    closes: bool,
    in_flight: InFlight,
}

/// What the response needs to know about its request.
struct RequestInfo {
    stream: Stream,
    upload: Option<Rc<Upload>>,
    /// Whether the client accepts gzip, if responses are compressed.
    gzip: Option<bool>,
    /// How long both bodies may stall.
    within: Duration,
}

/// A request that is being sent.
struct Attempt<'c> {
    peer: &'c Peer,
    /// `None`: it was sent, and it is unknown whether it was processed.
    request: Option<Request<RequestBody>>,
    /// For another attempt after that, if the request may be processed twice.
    replay: Option<Head>,
    attempts: Attempts<'c>,
    /// The progress of its body, if it has one.
    upload: Option<Rc<Upload>>,
    is_websocket: bool,
    settings: Arc<Settings>,
}

impl Attempt<'_> {
    /// Sends it once. `None`: try again.
    async fn once(&mut self) -> Result<Option<Answer>, Failure> {
        let in_flight = self.attempts.upstream().await?;
        let upstream = Arc::clone(in_flight.upstream());
        let pools = &self.peer.pools;
        let (mut connection, reused) = match pools.take(upstream.id(), &self.settings) {
            Some(connection) => (connection, true),
            None => {
                let within = self.attempts.within(self.settings.connect_timeout);
                match pools.connect(&upstream, within, &self.settings).await {
                    Ok(connection) => (connection, false),
                    Err(error) => {
                        self.attempts.unconnected(&upstream, &error)?;
                        return Ok(None);
                    }
                }
            }
        };
        self.attempts.connected();
        let request = self
            .request
            .take()
            .or_else(|| self.replay.as_ref().map(Head::request));
        let request = request.ok_or(UNANSWERED)?;
        let began = Instant::now();
        match self.in_time(connection.send(request)).await {
            Some(Ok(response)) => self.answer(response, (connection, in_flight), began).map(Some),
            Some(Err(mut error)) => {
                self.request = error.take_message();
                match self.upload.as_ref().and_then(|upload| upload.fault()) {
                    Some(Fault::TooLong) => return Err(TOO_LONG.into()),
                    Some(Fault::BrokenOff) => return Err(Failure::Gone),
                    None => {}
                }
                if self.request.is_none() && error.error().is_parse() {
                    // A malformed response.
                    return Err(self.attempts.bad_answer(&upstream, began.elapsed()).into());
                }
                let unsent = self.request.is_some();
                // An HTTP/2 connection may stay open without this request.
                let reused = reused && (unsent || connection.is_closed());
                if reused {
                    // The other idle connections are closed as well.
                    pools.forget(upstream.id());
                }
                let failed = Unanswered {
                    unsent,
                    body_taken: false,
                    reused,
                };
                self.attempts.unanswered(&upstream, failed)?;
                Ok(None)
            }
            None if self.upload.as_ref().is_some_and(|upload| upload.is_awaited()) => Err(SLOW_CLIENT.into()),
            None => Err(self.attempts.late(&upstream).into()),
        }
    }

    /// Checks the response of a worker, and rewrites its head for the client.
    fn answer(
        &self,
        response: Response<Incoming>,
        (connection, in_flight): (Connection, InFlight),
        began: Instant,
    ) -> Result<Answer, Failure> {
        let (mut parts, body) = response.into_parts();
        let (upstream, after) = (in_flight.upstream(), began.elapsed());
        let status = parts.status.as_u16();
        let switches = self.is_websocket && parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let closes = match head::to_client(&mut parts.headers, parts.status, !body.is_end_stream()) {
            _ if switches => true,
            Ok(closes) => closes,
            Err(_) => return Err(self.attempts.bad_answer(upstream, after).into()),
        };
        self.attempts.answered(upstream, status, after);
        if self.is_websocket && parts.status.is_success() {
            // For the client the tunnel would be open (RFC 8441, 5). Nothing is wrong with the worker: it may ignore `Upgrade`.
            return Err(NO_WEBSOCKET.into());
        }
        Ok(Answer {
            parts,
            body,
            connection,
            closes,
            in_flight,
        })
    }

    /// Waits for the response. The time for it starts again with every part of the request's body.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        let longest = self.settings.response_timeout;
        let mut within = longest;
        loop {
            if let Ok(answer) = timeout(self.attempts.within(within), answer.as_mut()).await {
                return Some(answer);
            }
            let moved = self.upload.as_ref()?.moved();
            within = (moved + longest).saturating_duration_since(tokio::time::Instant::now());
            if self.attempts.within(within).is_zero() {
                return None;
            }
        }
    }
}

/// The response for the client.
fn deliver(peer: &Peer, answer: Answer, info: RequestInfo) -> Response<ResponseBody> {
    let Answer {
        mut parts,
        body,
        connection,
        closes,
        in_flight,
    } = answer;
    let RequestInfo {
        mut stream,
        upload,
        gzip,
        within,
    } = info;
    stream.answered();
    parts.version = Version::HTTP_11;
    let gzip = gzip.filter(|_| !body.is_end_stream());
    let gzip = gzip.is_some_and(|known| head::compress(&mut parts, known));
    let passing = UpstreamBody {
        status: parts.status.as_u16(),
        gzip: gzip.then(Gzip::new),
        line: None,
        span: None,
        bytes: 0,
        body,
        rest: Bytes::new(),
        ended: false,
        in_flight,
        connection: (!closes).then_some(connection),
        pools: Rc::clone(&peer.pools),
        front: Arc::clone(&peer.front),
        upload,
        stream,
        silence: Silence::new(within),
    };
    Response::from_parts(parts, ResponseBody::Upstream(Box::new(passing)))
}

/// A response of the proxy itself. To HEAD it has a length, but no content.
fn plain(rejection: Rejection, is_head: bool) -> Response<ResponseBody> {
    let content = rejection.content();
    let length = HeaderValue::from(content.len());
    let body = if is_head {
        Bytes::new()
    } else {
        Bytes::from(content)
    };
    let mut response = Response::new(ResponseBody::local(Full::new(body)));
    *response.status_mut() = StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(Rejection::CONTENT_TYPE));
    headers.insert(CONTENT_LENGTH, length);
    if let Some(after) = rejection.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
    }
    response
}
