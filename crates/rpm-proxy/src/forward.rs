//! One request that came over HTTP/2: an upstream is chosen, it is sent, and tried again where that is right.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, ETAG, HOST,
    HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SET_COOKIE, TRANSFER_ENCODING, VARY,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::timeout;

use crate::attempt::{Attempts, Unavailable};
use crate::body::{Downward, Line, Passing, Silence, Upload, Upward};
use crate::compress::{Gzip, SHORTEST, accepts, is_worth};
use crate::front::{Front, Settings};
use crate::headers::{is_replayable, named_worker, to_client, to_h2c, to_upstream};
use crate::http1::head;
use crate::http1::location;
use crate::http1::refusal::{
    ENDED, MOVED, Refusal, SLOW, SLOW_CLIENT, TOO_LONG, UNANSWERED, UNCONNECTED, UNDIRECTED, UNREADABLE,
};
use crate::network;
use crate::pool::Connection;
use crate::serve::Peer;
use crate::streams::Stream;
use crate::upstream::{InFlight, Upstream};
use crate::websocket;

/// Why a client gets an answer of the proxy's own.
enum Failure {
    /// What the client or the worker has sent is not passed on.
    Refused(Refusal),
    /// There was no upstream for it.
    Unavailable(Unavailable),
    /// The upstreams that were tried have not answered.
    Bad,
    /// It took too long.
    Slow,
    /// It was the client's body that the upstream waited for.
    SlowClient,
    /// The body of the request is longer than allowed.
    TooLong,
}

/// Answers a request.
pub(crate) async fn forward(peer: &Peer, request: Request<Incoming>) -> Response<Downward> {
    peer.front.earn_retry();
    let line = peer.front.log().map(|log| Line::new(log, peer.ip, &request));
    let mut response = match exchange(peer, request).await {
        Ok(response) => response,
        Err(failure) => failure.response(&peer.front),
    };
    let status = response.status().as_u16();
    peer.front.count_answer(status);
    if let Some(line) = line {
        response.body_mut().note(line, status);
    }
    response
}

async fn exchange(peer: &Peer, mut request: Request<Incoming>) -> Result<Response<Downward>, Failure> {
    let stream = peer.streams().open();
    let websocket = websocket::is_asked_for(&request);
    let settings = peer.front.settings();
    if request.method() == Method::CONNECT && (!websocket || settings.h2c) {
        return Err(Failure::Refused(Refusal {
            status: 501,
            why: "CONNECT is not served",
        }));
    }
    let client = websocket.then(|| hyper::upgrade::on(&mut request));
    let gzip = settings.compress.then(|| knows_gzip(request.headers()));
    let sticky = settings
        .cookie
        .as_deref()
        .and_then(|name| cookie(request.headers(), name));
    let has_body = !websocket && !request.body().is_end_stream();
    let (mut parts, body) = request.into_parts();
    rewrite(&mut parts, peer, &settings).map_err(Failure::Refused)?;
    if let Some(port) = settings.redirect {
        return redirect(&parts, port);
    }
    if settings.h2c {
        to_h2c(&mut parts).map_err(Failure::Refused)?;
    } else if has_body {
        say_length(&mut parts.headers);
    }
    if websocket {
        websocket::ask(&mut parts, peer.front.now_ms());
    }
    let replay = (!websocket && is_replayable(&parts.method, has_body)).then(|| Head::of(&parts));
    let upload = has_body.then(|| Upload::new(Rc::clone(peer.streams())));
    let body = match &upload {
        Some(upload) => Upward::client(body, settings.max_body, Rc::clone(upload)),
        None => Upward::Nothing,
    };
    let mut attempt = Attempt {
        peer,
        request: Some(Request::from_parts(parts, body)),
        replay,
        attempts: Attempts::new(&peer.front, Arc::clone(&settings), peer.ip, sticky),
        upload,
        settings,
    };
    let answer = loop {
        match attempt.once().await {
            Ok(Some(answer)) => break answer,
            Ok(None) => {}
            Err(_) if attempt.upload.as_ref().is_some_and(|upload| upload.is_over()) => {
                return Err(Failure::TooLong);
            }
            Err(failure) => return Err(failure),
        }
    };
    let kept = Kept {
        stream,
        upload: attempt.upload,
        gzip,
        within: attempt.settings.stream_timeout,
    };
    let set = peer.cookie_for(sticky, answer.in_flight.upstream());
    let mut response = match client {
        Some(client) => switch(peer, client, answer, kept),
        None => deliver(peer, answer, kept),
    }?;
    if let Some(set) = set.and_then(|set| HeaderValue::try_from(set).ok()) {
        response.headers_mut().append(SET_COOKIE, set);
    }
    Ok(response)
}

/// Makes the head of a client's request that of a worker's.
fn rewrite(parts: &mut Parts, peer: &Peer, settings: &Settings) -> Result<(), Refusal> {
    let trusted = network::any(&settings.trust_forwarded, peer.ip);
    let passing = head::Passing {
        client: &peer.client,
        trusted,
        underscores: settings.allow_underscores,
        compress: settings.compress,
        cookie: settings.cookie.as_deref(),
        max_head: settings.max_head,
    };
    to_upstream(parts, passing)
}

/// A body that has no length is one in chunks: for some methods hyper would send none otherwise.
fn say_length(headers: &mut HeaderMap) {
    if !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The client is to come by TLS.
fn redirect(parts: &Parts, port: u16) -> Result<Response<Downward>, Failure> {
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let location = host.and_then(|host| HeaderValue::try_from(location(host, path, port)).ok());
    let location = location.ok_or(Failure::Refused(UNDIRECTED))?;
    let mut response = plain(MOVED);
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// A WebSocket, if the worker wants it.
fn switch(peer: &Peer, client: OnUpgrade, answer: Answer, kept: Kept) -> Result<Response<Downward>, Failure> {
    if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let until_it_ends = (answer.in_flight, kept.stream);
        let limits = (Arc::clone(&peer.front), peer.front.settings().tunnel_timeout);
        return Ok(websocket::join(client, answer.response, until_it_ends, limits));
    }
    deliver(peer, answer, Kept { gzip: None, ..kept })
}

/// Which worker the cookie names.
fn cookie(headers: &HeaderMap, name: &str) -> Option<u32> {
    let lines = headers.get_all(COOKIE).into_iter();
    named_worker(lines.filter_map(|line| line.to_str().ok()), name)
}

/// What is needed of a request to send it again.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn of(parts: &Parts) -> Head {
        Head {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
        }
    }

    fn request(&self) -> Request<Upward> {
        let mut request = Request::new(Upward::Nothing);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// An upstream's answer, and what it came over.
struct Answer {
    response: Response<Incoming>,
    connection: Connection,
    in_flight: InFlight,
}

/// What is known of a request when it has its answer.
struct Kept {
    stream: Stream,
    upload: Option<Rc<Upload>>,
    /// Answers are compressed, for clients that know gzip: whether it does.
    gzip: Option<bool>,
    /// How long neither body may move.
    within: Duration,
}

/// A request on its way to an answer.
struct Attempt<'c> {
    peer: &'c Peer,
    /// `None`: it was sent, and nobody knows what became of it.
    request: Option<Request<Upward>>,
    /// It may be sent again then.
    replay: Option<Head>,
    attempts: Attempts<'c>,
    /// What has come of its body, if it has one.
    upload: Option<Rc<Upload>>,
    settings: Arc<Settings>,
}

impl Attempt<'_> {
    /// Sends it once; `None`: it may be sent again.
    async fn once(&mut self) -> Result<Option<Answer>, Failure> {
        let front = &self.peer.front;
        let in_flight = self.attempts.upstream().await.map_err(Failure::Unavailable)?;
        let upstream = Arc::clone(in_flight.upstream());
        let pools = &self.peer.pools;
        let (mut connection, reused) = match pools.take(upstream.id(), &self.settings) {
            Some(connection) => (connection, true),
            None => {
                let wanted = (
                    upstream.addr(),
                    self.attempts.within(self.settings.connect_timeout),
                );
                match pools.connect(upstream.id(), wanted, &self.settings).await {
                    Ok(connection) => (connection, false),
                    Err(_) => return self.failed(&upstream, UNCONNECTED.1),
                }
            }
        };
        let request = self
            .request
            .take()
            .or_else(|| self.replay.as_ref().map(Head::request));
        let request = request.ok_or(Failure::Bad)?;
        let began = Instant::now();
        let sent = self.in_time(connection.send(request)).await;
        let after = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match sent {
            Some(Ok(response)) => {
                upstream.answered(response.status().as_u16(), after, front.now_ms());
                front.count_time(after);
                Ok(Some(Answer {
                    response,
                    connection,
                    in_flight,
                }))
            }
            Some(Err(mut error)) => {
                self.request = error.take_message();
                if self.request.is_none() && error.error().is_parse() {
                    // It has answered: it was not silent, and another would say the same.
                    upstream.answered(UNREADABLE.status, after, front.now_ms());
                    upstream.blame(UNREADABLE.status, UNREADABLE.why, front.now_ms());
                    return Err(Failure::Refused(UNREADABLE));
                }
                if self.request.is_some() && reused {
                    // The worker had ended it meanwhile, and the others that were idle, too.
                    pools.forget(upstream.id());
                    return Ok(None);
                }
                self.failed(&upstream, ENDED.1)
            }
            None if self.upload.as_ref().is_some_and(|upload| upload.is_awaited()) => {
                Err(Failure::SlowClient)
            }
            None => {
                upstream.failed(front.now_ms());
                upstream.blame(SLOW.status, SLOW.why, front.now_ms());
                Err(Failure::Slow)
            }
        }
    }

    /// Waits for what is sent to be answered. What comes of the request's body puts the time for that off.
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

    /// The upstream has not answered: may another be asked?
    fn failed(&mut self, upstream: &Upstream, why: &str) -> Result<Option<Answer>, Failure> {
        let again = self.request.is_some() || self.replay.is_some();
        if again && self.attempts.again(upstream) {
            return Ok(None);
        }
        if !again {
            upstream.failed(self.peer.front.now_ms());
        }
        upstream.blame(UNANSWERED.status, why, self.peer.front.now_ms());
        Err(Failure::Bad)
    }
}

/// The answer as the client gets it.
fn deliver(peer: &Peer, answer: Answer, kept: Kept) -> Result<Response<Downward>, Failure> {
    let Answer {
        response,
        connection,
        in_flight,
    } = answer;
    let Kept {
        mut stream,
        upload,
        gzip,
        within,
    } = kept;
    stream.answered();
    let (mut parts, body) = response.into_parts();
    let has_body = !body.is_end_stream();
    let closes = to_client(&mut parts.headers, parts.status, has_body).map_err(Failure::Refused)?;
    parts.version = Version::HTTP_11;
    let gzip = gzip.filter(|_| has_body && may_be_compressed(&parts));
    if gzip.is_some() {
        let by = HeaderValue::from_static("accept-encoding");
        parts.headers.append(VARY, by);
    }
    let gzip = gzip == Some(true);
    if gzip {
        parts.headers.remove(CONTENT_LENGTH);
        parts
            .headers
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        weaken(&mut parts.headers);
    }
    let passing = Passing {
        gzip: gzip.then(Gzip::new),
        line: None,
        bytes: 0,
        body,
        ended: false,
        in_flight,
        connection: (!closes).then_some(connection),
        pools: Rc::clone(&peer.pools),
        front: Arc::clone(&peer.front),
        upload,
        stream,
        silence: Silence::new(within),
    };
    Ok(Response::from_parts(parts, Downward::Upstream(Box::new(passing))))
}

fn knows_gzip(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(ACCEPT_ENCODING).iter();
    lines.any(|line| line.to_str().is_ok_and(accepts))
}

/// Is it of a kind that is worth it, and nobody has forbidden it?
fn may_be_compressed(parts: &hyper::http::response::Parts) -> bool {
    let of = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let short = of(CONTENT_LENGTH)
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: u64| length < SHORTEST);
    let forbidden = of(CACHE_CONTROL).is_some_and(|value| value.contains("no-transform"));
    let free = !short && !forbidden && parts.status != StatusCode::PARTIAL_CONTENT;
    free && of(CONTENT_ENCODING).is_none() && of(CONTENT_TYPE).is_some_and(is_worth)
}

/// The same for readers, no more the same bytes.
fn weaken(headers: &mut HeaderMap) {
    let weak = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    let weak = weak.and_then(|tag| HeaderValue::try_from([b"W/", tag.as_bytes()].concat()).ok());
    if let Some(weak) = weak {
        headers.insert(ETAG, weak);
    }
}

impl Failure {
    fn response(self, front: &Front) -> Response<Downward> {
        let refusal = match self {
            Failure::Refused(refusal) => refusal,
            Failure::Unavailable(why) => {
                front.count_unavailable();
                let why = why.text();
                Refusal { status: 503, why }
            }
            Failure::TooLong => TOO_LONG,
            Failure::Bad => UNANSWERED,
            Failure::SlowClient => SLOW_CLIENT,
            Failure::Slow => SLOW,
        };
        plain(refusal)
    }
}

/// An answer of the proxy's own.
fn plain(Refusal { status, why }: Refusal) -> Response<Downward> {
    let text = Full::new(Bytes::from(format!("{why}\n")));
    let mut response = Response::new(Downward::Own(text, None));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if status == 503 {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
